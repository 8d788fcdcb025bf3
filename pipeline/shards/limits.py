"""Hard caps on what a dataset may ask of its reader. A manifest's own numbers are checked against them first."""

from dataclasses import dataclass

__all__ = ["LIMITS", "Limits"]


@dataclass(frozen=True)
class Limits:
    """Caps that no dataset passes, whatever its manifest says; they bound memory before anything is allocated."""

    manifest_bytes: int = 16 << 20
    json_depth: int = 32
    json_nodes: int = 700_000  # values of every kind in the manifest
    json_number: int = 32  # characters of one number
    shards: int = 100_000
    shard_samples: int = 100_000
    shard_bytes: int = 2 << 30
    decoded_bytes: int = 2 << 30  # one shard's samples as arrays
    attachments: int = 1000
    attachment_bytes: int = 512 << 20
    classes: int = 100_000
    channels: int = 64
    size: int = 8192  # pixels, height and width


LIMITS = Limits()
