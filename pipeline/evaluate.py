# shim
from .measure.evaluate import EvaluateParams as EvaluateParams
from .measure.evaluate import Evaluation as Evaluation
from .measure.evaluate import evaluate as evaluate
