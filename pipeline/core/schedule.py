"""Schedules of a learning rate, as pure functions of the step."""

import math

__all__ = ["cosine", "warming"]


def warming(step: int, warmup: float) -> float | None:
    """(step + 1) / warmup while a linear warm-up over so many steps lasts, then None."""
    return (step + 1) / warmup if step + 1 < warmup else None


def cosine(step: int, steps: int, warmup: float = 0) -> float:
    """(1 + cos(pi t)) / 2, t the fraction of the steps after the warm-up that is done; from 1 to 0.

    Loshchilov & Hutter (2017), equation 5, one cycle.
    """
    done = max(0.0, step - warmup) / max(1.0, steps - warmup)
    return (1 + math.cos(math.pi * done)) / 2
