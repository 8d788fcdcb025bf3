"""Every random number comes from a stream that was handed in; this is where streams come from."""

import hashlib
import json

import numpy as np
import torch

__all__ = ["numpy_stream", "stream"]

_WORD = 2**32  # torch's CPU Mersenne Twister keeps only the low 32 bits of a seed


def stream(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Random numbers on the CPU that depend on (seed, purpose, index) alone.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, such as ``"zskd/train"``; two purposes never share a stream by intent.
        index: a shard's or an epoch's number, 0 <= index < 2**32. Within one (seed, purpose) no two indices
            share a stream: the index is added to the hash instead of being hashed, since torch keeps
            32 bits of a seed and hashed indices would collide by the birthday bound.
    """
    digest = hashlib.sha256(json.dumps([seed, purpose]).encode()).digest()
    base = int.from_bytes(digest[:4], "little")
    return torch.Generator().manual_seed((base + index) % _WORD)


def numpy_stream(rng: torch.Generator) -> np.random.Generator:
    """A numpy stream seeded by the next 128 bits of `rng`, for distributions that torch draws less well."""
    words = torch.randint(0, _WORD, (4,), generator=rng, dtype=torch.int64)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words.tolist())))


generator, numpy_generator = stream, numpy_stream  # shim
