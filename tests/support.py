"""What many tests need: a small machine, small networks, small blocks."""

import io
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.core.device import Compute
from pipeline.core.files import canonical_json, sha256_bytes
from pipeline.shards.decode import ShardShape
from pipeline.shards.encode import encode_shard
from pipeline.shards.manifest import (
    FORMAT_VERSION,
    Encoding,
    Manifest,
    ShardEntry,
    Split,
    TeacherCard,
    Totals,
    fields_of,
    manifest_bytes,
    shard_name,
)
from pipeline.shards.publish import finish
from pipeline.shards.reader import Dataset, Samples, Tally

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")


# --- datasets: honest ones, and ones that were tampered with and sealed again


@dataclass(frozen=True)
class Data:
    """What a made-up dataset looks like."""

    encoding: Encoding = "npy"
    channels: int = 1
    size: int = 4
    classes: int = 10
    targets: bool = False
    train: tuple[int, ...] = (3, 2)  # samples per shard
    holdout: tuple[int, ...] = (2,)
    seed: int = 0

    @property
    def fields(self) -> dict:
        return fields_of(self.encoding, self.channels, self.size, self.classes, self.targets)


def draw_samples(data: Data, count: int, seed: int) -> Samples:
    """Random samples as a writer would hand them over."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(count, data.channels, data.size, data.size, generator=rng)
    stored = images.mul(255).round().to(torch.uint8) if data.encoding == "png" else images.half()
    logits = torch.randn(count, data.classes, generator=rng)
    targets = torch.rand(count, data.classes, generator=rng).softmax(1)
    return Samples(stored, logits, targets.argmax(1), targets if data.targets else None)


def encode_samples(samples: Samples, encoding: Encoding, split: Split = "train", index: int = 0) -> bytes:
    return encode_shard(samples.images, samples.logits, samples.targets, samples.cls, encoding, split, index)


def shape_of(data: Data, samples: int, split: Split = "train", index: int = 0) -> ShardShape:
    return ShardShape(split, index, samples, data.fields)


def write_dataset(folder: Path, data: Data) -> dict[Split, list[Samples]]:
    """Write a whole dataset; returns what went into it."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[Split, list[Samples]] = {"train": [], "holdout": []}
    entries: list[ShardEntry] = []
    tally = Tally(data.classes)
    for split, counts in (("train", data.train), ("holdout", data.holdout)):
        for index, count in enumerate(counts):
            samples = draw_samples(data, count, data.seed * 1000 + len(entries))
            content = encode_samples(samples, data.encoding, split, index)
            (folder / shard_name(split, index)).write_bytes(content)
            entries.append(entry_of(content, split, index, count))
            made[split].append(samples)
            if split == "train":
                tally.add(samples.logits, samples.cls)
    manifest = manifest_of(data, entries, tally)
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return made


def publish_dataset(folder: Path, data: Data) -> Manifest:
    """Write a whole dataset with card and contact sheet."""
    write_dataset(folder, data)
    return finish(folder, Dataset.open(folder).manifest)


def entry_of(content: bytes, split: Split, index: int, count: int) -> ShardEntry:
    return ShardEntry(
        name=shard_name(split, index),
        split=split,
        samples=count,
        bytes=len(content),
        sha256=sha256_bytes(content),
    )


def manifest_of(data: Data, entries: list[ShardEntry], tally: Tally) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        method="noise",
        method_params={"beta": [1.0, 0.1], "steps": 3},
        data_free=True,
        steered=True,
        teacher=TeacherCard(
            arch="lenet5",
            sha256="0" * 64,
            classes=tuple(f"class {number}" for number in range(data.classes)),
            channels=data.channels,
            size=data.size,
            mean=(0.5,) * data.channels,
            std=(0.25,) * data.channels,
        ),
        seed=7,
        encoding=data.encoding,
        fields=data.fields,
        shards=tuple(entries),
        attachments=(),
        samples=Totals(train=sum(data.train), holdout=sum(data.holdout)),
        class_histogram=tuple(tally.histogram),
        teacher_agreement=tally.agreement,
    )


def forge(folder: Path, content: bytes, data: Data, samples: int = 1) -> Path:
    """A dataset of one shard with this content, under a manifest that fits it: what a hostile sender would make."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train-00000.tar").write_bytes(content)
    tally = Tally(data.classes)
    tally.histogram[0] = tally.agreed = samples
    one = replace(data, train=(samples,), holdout=())
    manifest = manifest_of(one, [entry_of(content, "train", 0, samples)], tally)
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return folder


def header(name: bytes, size: int | bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000", **fields: bytes) -> bytes:
    """A tar header with the right checksum and anything else the caller wants; `fields` are at64=b"..." and so on."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = magic
    for place, value in fields.items():
        start = int(place.removeprefix("at"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, payload: bytes) -> bytes:
    return header(name.encode(), len(payload)) + padded(payload)


def padded(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % 512)


def archive(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return body + bytes(1024 + -(len(body) + 1024) % 10240)


def numpy_file(array: np.ndarray) -> bytes:
    """An array as numpy itself writes it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0))
    return stream.getvalue()


def raw_numpy_file(header: bytes, payload: bytes, version: bytes = b"\x01\x00") -> bytes:
    """An npy file with any header."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + payload


def parts(
    data: Data, key: str = "t00000-00000", order: str = "cls logits.npy npy", **payloads: bytes
) -> dict[str, bytes]:
    """The payloads of one good sample by full member name, some replaced; `logits` stands for logits.npy."""
    samples = draw_samples(data, 1, seed=0)
    logits = np.zeros(data.classes, np.float32)
    logits[0] = 1
    good = {
        "cls": b"0",
        "logits.npy": numpy_file(logits),
        "npy": numpy_file(samples.images[0].numpy()),
    }
    replaced = {name.replace("logits", "logits.npy"): payload for name, payload in payloads.items()}
    return {f"{key}.{name}": (good | replaced)[name] for name in order.split()}


def equal(left: Samples, right: Samples) -> bool:
    def bits(tensor: Tensor | None) -> tuple:
        return () if tensor is None else (tensor.dtype, tensor.shape, tensor.numpy().tobytes())

    return all(bits(one) == bits(other) for one, other in zip(left, right, strict=True))


def together(many: list[Samples]) -> Samples:
    kept = [[part[place] for part in many] for place in range(4)]
    return Samples(*(None if parts[0] is None else torch.cat(parts) for parts in kept))


def resealed(content: dict) -> bytes:
    """A manifest that somebody edited who also sets the digest right."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return canonical_json(rest | {"digest": sha256_bytes(canonical_json(rest))})
