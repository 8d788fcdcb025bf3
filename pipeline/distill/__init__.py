"""Students, trained from shards alone: what they learn from, what they minimise, the student that comes out."""

from ..classifier import Student, StudentCard
from .few_shot import FewShot, few_shot_of, finish
from .params import DistillParams, merge
from .student import card_of, proxy_of
from .train import train, write_history

__all__ = [
    "DistillParams",
    "FewShot",
    "Student",
    "StudentCard",
    "card_of",
    "few_shot_of",
    "finish",
    "merge",
    "proxy_of",
    "train",
    "write_history",
]
