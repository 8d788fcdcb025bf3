"""Moved."""  # shim

from ..losses.logits import softened_cross_entropy as softened_cross_entropy
