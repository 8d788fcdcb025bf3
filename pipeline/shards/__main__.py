"""Look after datasets: `python -m pipeline.shards {verify,inspect,preview,prune}`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import ShardError, run_or_exit
from pipeline.core.files import sha256_bytes, write_atomic
from pipeline.core.progress import track
from pipeline.shards.limits import LIMITS
from pipeline.shards.opening import read_whole
from pipeline.shards.preview import preview
from pipeline.shards.reader import Dataset
from pipeline.shards.schema import MANIFEST, read_manifest
from pipeline.shards.summary import summary
from pipeline.shards.work import prune, work_root

__all__ = ["main"]


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
    shards, others = len(dataset.manifest.shards), len(dataset.manifest.attachments)
    beside = f", {others} file{'s' * (others > 1)} beside them" if others else ""
    sys.stdout.write(f"{folder}: whole: {samples:,} samples in {shards} shards{beside}\nsha256 {found}\n")


def _inspect(arguments: argparse.Namespace) -> None:
    sys.stdout.write(summary(Dataset.open(arguments.folder)))


def _preview(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    out: Path = arguments.out or Path(f"{folder.resolve().name}.png")
    write_atomic(out, preview(folder, read_manifest(folder)))
    sys.stdout.write(f"{out}\n")


def _prune(arguments: argparse.Namespace) -> None:
    deleted = prune(work_root(), arguments.keep)
    sys.stdout.write("".join(f"deleted {folder}\n" for folder in deleted) or "nothing to delete\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.shards", description="Look after sharded datasets.")
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


if __name__ == "__main__":
    run_or_exit(main)
