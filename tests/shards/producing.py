"""Moved to `tests.support`."""  # shim

from tests.support import *  # noqa: F403 # shim
from tests.support import NoiseSource as Noise  # noqa: F401 # shim
from tests.support import linear_teacher as teacher  # noqa: F401 # shim
from tests.support import make_noise as make  # noqa: F401 # shim
from tests.support import noise_key as key  # noqa: F401 # shim
from tests.support import noise_workshop as workshop  # noqa: F401 # shim
