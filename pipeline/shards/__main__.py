"""Look after datasets: `python -m pipeline.shards {verify,inspect,preview,prune}`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..core.errors import ShardError, run_or_exit
from ..core.files import sha256_bytes, write_atomic
from ..core.progress import track
from ..core.work import prune, work_root
from .manifest import LIMITS, MANIFEST, Manifest, Split
from .opening import read_whole
from .preview import preview
from .reader import Dataset

__all__ = ["main", "summary"]

_BAR = 40  # characters of the fullest class
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def main() -> None:
    """Parse the command line and run one command.

    Raises:
        PipelineError: what the command found wrong.
    """
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], None] = arguments.command
    command(arguments)


def _verify(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    found = sha256_bytes(bytes(read_whole(folder, MANIFEST, LIMITS.manifest_bytes)))
    if arguments.expect not in {None, found}:
        raise ShardError(f"{folder / MANIFEST}: sha256 is {found}, expected {arguments.expect}: another dataset")
    dataset = Dataset.open(folder)
    samples = 0
    for split in ("train", "holdout"):
        shards = track(
            dataset.shards(split), f"verify {split}", total=len(dataset.manifest.entries(split)), unit="shard"
        )
        samples += sum(len(shard.cls) for shard in shards)
    for entry in dataset.manifest.attachments:
        dataset.attachment(entry)
    shards, others = len(dataset.manifest.every_entry), len(dataset.manifest.attachments)
    beside = f", {others} file{'s' * (others > 1)} beside them" if others else ""
    changed = dataset.changed()
    if "preview.png" in changed:
        raise ShardError(f"{folder / 'preview.png'}: missing or damaged: not as it was published")
    sys.stdout.write(f"{folder}: whole: {samples:,} samples in {shards} shards{beside}\nsha256 {found}\n")
    if changed:
        sys.stdout.write("README.md is not as it was published: edited (a licence?) or gone\n")


def _inspect(arguments: argparse.Namespace) -> None:
    sys.stdout.write(summary(Dataset.open(arguments.folder)))


def _preview(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    out: Path = arguments.out or Path(f"{folder.resolve().name}.png")
    write_atomic(out, preview(Dataset.open(folder)))
    sys.stdout.write(f"{out}\n")


def _prune(arguments: argparse.Namespace) -> None:
    deleted = prune(work_root(), arguments.keep)
    sys.stdout.write("".join(f"deleted {folder}\n" for folder in deleted) or "nothing to delete\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description="Look after sharded datasets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    verify = commands.add_parser("verify", help="read every byte of a dataset and check it against its manifest")
    verify.add_argument("--expect", metavar="SHA256", help="of manifest.json, as the sender of the dataset told you")
    inspect = commands.add_parser("inspect", help="say what is in a dataset")
    sheet = commands.add_parser("preview", help="draw a contact sheet: the first pictures of every class")
    sheet.add_argument("--out", type=Path, metavar="FILE", help="where to; default: the folder's name with .png, here")
    for command, function in ((verify, _verify), (inspect, _inspect), (sheet, _preview)):
        command.add_argument("folder", type=Path, metavar="DIR", help="a folder with a manifest.json")
        command.set_defaults(command=function)

    pruning = commands.add_parser(
        "prune", help="delete old work directories: shards that wait for a rerun or for growth"
    )
    pruning.add_argument("--keep", type=int, required=True, metavar="N", help="of each dataset, the N used last")
    pruning.set_defaults(command=_prune)
    return parser


def summary(dataset: Dataset) -> str:
    """A page of text about an open dataset; every training shard is read, and verified, for the mean confidence.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    manifest = dataset.manifest
    teacher = manifest.teacher
    rows = {
        "method": f"{manifest.method}, {'data-free' if manifest.data_free else 'NOT data-free: real images'}",
        "parameters": json.dumps(manifest.method_params, sort_keys=True),
        "seed": str(manifest.seed),
        "teacher": f"{teacher.arch}, {len(teacher.classes)} classes, sha256 {teacher.sha256}",
        "input": f"{teacher.channels}x{teacher.size}x{teacher.size}, mean {teacher.mean}, std {teacher.std}",
        "fields": ", ".join(f".{name} {field.dtype}{list(field.shape)}" for name, field in manifest.fields.items()),
        "train": _split(manifest, "train"),
        "holdout": _split(manifest, "holdout"),
        "beside": ", ".join(f"{entry.name} ({_size(entry.bytes)})" for entry in manifest.attachments) or "nothing",
        "agreement": f"{manifest.teacher_agreement:.2%} of the labels are the teacher's first choice"
        + ("" if manifest.steered else ": labelled by the teacher"),
        "confidence": f"{_confidence(dataset):.4f}, the teacher's mean probability of its first choice",
    }
    return "\n".join([f"{name:<11} {text}" for name, text in rows.items()] + ["", *_bars(manifest), ""])


def _split(manifest: Manifest, split: Split) -> str:
    entries = manifest.entries(split)
    samples = sum(entry.samples for entry in entries)
    return f"{samples:,} samples in {len(entries):,} shards, {_size(sum(entry.bytes for entry in entries))}"


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.4g} {_UNITS[unit]}"


def _confidence(dataset: Dataset) -> float:
    total = sum(float(shard.logits.softmax(dim=1).amax(dim=1).double().sum()) for shard in dataset.shards("train"))
    return total / dataset.manifest.samples.train


def _bars(manifest: Manifest) -> list[str]:
    """The class histogram; the fullest class has a full bar, a class with any sample at least one mark."""
    counts = manifest.class_histogram
    width = max(len(name) for name in manifest.teacher.classes)
    most = max(counts)
    return [
        f"{name:<{width}}  {'#' * -(-count * _BAR // most):<{_BAR}} {count:,}"
        for name, count in zip(manifest.teacher.classes, counts, strict=True)
    ]


if __name__ == "__main__":
    run_or_exit(main)
