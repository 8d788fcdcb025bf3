# shim
from .measure.belief import BeliefMatch as BeliefMatch
from .measure.belief import BeliefParams as BeliefParams
from .measure.belief import match_beliefs as match_beliefs
from .measure.belief import write_beliefs as write_beliefs
