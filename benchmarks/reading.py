"""How fast datasets are written, and read with every check, per second of one core: `python -m benchmarks.reading`."""

import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.classifier import Card
from pipeline.core.files import sha256_bytes
from pipeline.shards.encode import encode_shard
from pipeline.shards.manifest import (
    FORMAT_VERSION,
    Encoding,
    Manifest,
    Shards,
    Split,
    Totals,
    fields_of,
    manifest_bytes,
    shard_name,
)
from pipeline.shards.reader import Dataset

_CLASSES = 10


def write_dataset(folder: Path, encoding: Encoding, shards: int, samples: int, size: int) -> float:
    """Write random images, [3, size, size] with 10 classes; returns the CPU seconds that encoding and hashing took."""
    rng = torch.Generator().manual_seed(0)
    entries: list[tuple[Split, int, str]] = []
    histogram, agreed = torch.zeros(_CLASSES, dtype=torch.int64), 0
    seconds = 0.0
    for index in range(shards):
        images = torch.rand(samples, 3, size, size, generator=rng)
        stored = images.mul(255).round().to(torch.uint8) if encoding == "png" else images.half()
        logits = torch.randn(samples, _CLASSES, generator=rng)
        cls = torch.randint(_CLASSES, (samples,), generator=rng)
        histogram += cls.bincount(minlength=_CLASSES)
        agreed += int((logits.argmax(1) == cls).sum())
        start = time.process_time()
        content = encode_shard(stored, logits, None, cls, encoding, "train", index)
        name = shard_name("train", index)
        (folder / name).write_bytes(content)
        sha256 = sha256_bytes(content)
        seconds += time.process_time() - start
        entries.append(("train", samples, sha256))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        method="noise",
        method_params={},
        steered=True,
        data_free=True,
        teacher=Card(
            arch="none",
            sha256="0" * 64,
            classes=tuple(str(number) for number in range(_CLASSES)),
            channels=3,
            size=size,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        ),
        seed=0,
        encoding=encoding,
        fields=fields_of(encoding, 3, size, _CLASSES, soft_targets=False),
        shards=Shards.of(entries),
        attachments=(),
        samples=Totals(train=shards * samples, holdout=0),
        class_histogram=tuple(histogram.tolist()),
        teacher_agreement=agreed / (shards * samples),
    )
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return seconds


def measure(encoding: Encoding, shards: int = 8, samples: int = 1000, size: int = 32, rounds: int = 5) -> str:
    """One line: images written and read per CPU second, best of `rounds`, and bytes per image."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_dataset(folder, encoding, shards, samples, size)
        times: list[float] = []
        for _ in range(rounds):
            start = time.process_time()
            Dataset.open(folder).load("train")
            times.append(time.process_time() - start)
        stored = sum(file.stat().st_size for file in folder.glob("*.tar"))
    count = shards * samples
    return (
        f"{encoding}  {size}x{size}  read {count / min(times):10,.0f} img/s  "
        f"write {count / written:8,.0f} img/s  {stored / count:8,.0f} bytes/img\n"
    )


def main() -> None:
    """Measure both encodings on one thread."""
    torch.set_num_threads(1)
    for encoding in ("npy", "png"):
        sys.stdout.write(measure(encoding))


if __name__ == "__main__":
    main()
