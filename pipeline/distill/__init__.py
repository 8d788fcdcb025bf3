"""Students, trained from shards alone: the recipe, the loop's inputs, the student that comes out."""

from pipeline.distill.few_shot import FewShot, few_shot_of, finish
from pipeline.distill.history import write_history
from pipeline.distill.params import DistillParams, merge
from pipeline.distill.proxy import proxy_of
from pipeline.distill.student import Student, StudentInfo
from pipeline.distill.train import train

__all__ = [
    "DistillParams",
    "FewShot",
    "Student",
    "StudentInfo",
    "few_shot_of",
    "finish",
    "merge",
    "proxy_of",
    "train",
    "write_history",
]
