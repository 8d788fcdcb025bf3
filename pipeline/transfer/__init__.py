"""What a student is asked to match, in its logits and inside. One implementation for students and proxy students."""

from pipeline.transfer.features import Attention, Boundary, FeatureTerms
from pipeline.transfer.interpolation import Interpolation, virtual, virtual_shares
from pipeline.transfer.losses import (
    activation_boundary,
    agreement,
    attention,
    cross_entropy,
    distillation,
    kl,
    l1,
    mix,
)

__all__ = [
    "Attention",
    "Boundary",
    "FeatureTerms",
    "Interpolation",
    "activation_boundary",
    "agreement",
    "attention",
    "cross_entropy",
    "distillation",
    "kl",
    "l1",
    "mix",
    "virtual",
    "virtual_shares",
]
