"""preview.png: the first pictures of every class, decoded from the shards that readers get."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.errors import ShardError
from pipeline.core.files import sha256_bytes
from pipeline.core.images import to_uint8
from pipeline.shards.decode import decode_cls, decode_npy, decode_png
from pipeline.shards.opening import read_whole
from pipeline.shards.schema import Manifest, ShardEntry
from pipeline.shards.sheet import contact_sheet, png_bytes
from pipeline.shards.tar import RawSample, samples

__all__ = ["preview"]

_PER_CLASS = 10
_MOST_CLASSES = 50  # of a dataset with more, evenly chosen ones that have training images are shown
_MOST_SHARDS = 8  # that are looked through for rare classes


def preview(folder: Path, manifest: Manifest) -> bytes:
    """The contact sheet of a dataset, as PNG; a function of its shards alone.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    classes = manifest.teacher.classes
    shown = _shown(manifest.class_histogram)
    found: dict[int, list[Tensor]] = {number: [] for number in shown}
    for entry in manifest.entries("train")[:_MOST_SHARDS]:
        if all(len(pictures) == _PER_CLASS for pictures in found.values()):
            break
        _collect(folder, entry, manifest, found)
    placed = [(row, picture) for row, pictures in enumerate(found.values()) for picture in pictures]
    none = torch.empty((0, manifest.teacher.channels, manifest.teacher.size, manifest.teacher.size), dtype=torch.uint8)
    sheet = contact_sheet(
        torch.stack([picture for _, picture in placed]) if placed else none,
        torch.tensor([row for row, _ in placed]),
        [classes[number] for number in shown],
        _PER_CLASS,
    )
    return png_bytes(sheet)


def _shown(histogram: tuple[int, ...]) -> list[int]:
    """The classes of the sheet's rows: noise may fall into a few of a thousand, and those are to be seen."""
    if len(histogram) <= _MOST_CLASSES:
        return list(range(len(histogram)))
    there = [number for number, count in enumerate(histogram) if count]
    rows = min(len(there), _MOST_CLASSES)
    return [there[row * len(there) // rows] for row in range(rows)]


def _collect(folder: Path, entry: ShardEntry, manifest: Manifest, found: dict[int, list[Tensor]]) -> None:
    """Add a shard's pictures to the rows that are not full; only those are decoded."""
    where = str(folder / entry.name)
    content = bytes(read_whole(folder, entry.name, entry.bytes, exactly=entry.bytes))
    if sha256_bytes(content) != entry.sha256:
        raise ShardError(f"{where}: sha256 differs from the manifest's; fetch or make the dataset again")
    for sample in samples(content, where, manifest.fields, entry.samples):
        cls = decode_cls(sample.payloads["cls"], len(manifest.teacher.classes), f"{where}: {sample.key}.cls")
        if cls in found and len(found[cls]) < _PER_CLASS:
            found[cls].append(_picture(sample, manifest, where))


def _picture(sample: RawSample, manifest: Manifest, where: str) -> Tensor:
    teacher = manifest.teacher
    member = f"{where}: {sample.key}.{manifest.encoding}"
    payload = sample.payloads[manifest.encoding]
    if manifest.encoding == "png":
        return torch.from_numpy(decode_png(payload, teacher.channels, teacher.size, member).copy())
    shape = (teacher.channels, teacher.size, teacher.size)
    return to_uint8(torch.from_numpy(decode_npy(payload, "float16", shape, member).copy()))
