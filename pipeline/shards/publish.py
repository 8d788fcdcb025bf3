"""From a work directory to a dataset that readers may see: built aside, complete, then renamed into place."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import ValidationError

from ..classifier import TeacherCard
from ..core.errors import WorkError
from ..core.files import crash_point, sha256_bytes, sha256_file, sync_folder, write_atomic
from .card import card
from .make import ShardMaker, ShardPlan
from .manifest import (
    FORMAT_VERSION,
    LIMITS,
    MANIFEST,
    AttachmentEntry,
    Manifest,
    Shards,
    Totals,
    fields_of,
    first_problem,
    manifest_bytes,
)
from .preview import preview
from .reader import Dataset
from .work import ShardDirectory, ShardRecord

__all__ = ["describe", "finish", "publish"]


def describe(
    plans: Sequence[ShardPlan],
    records: Sequence[ShardRecord],
    maker: ShardMaker,
    *,
    params: dict[str, Any],
    data_free: bool,
    teacher: TeacherCard,
    attachments: tuple[AttachmentEntry, ...],
    steered: bool,
) -> Manifest:
    """The manifest of a dataset whose shards are all made.

    Args:
        plans: its shards.
        records: as `produce` returned them for these plans.
        maker: of the shards; it knows the method's name, the seed and how samples are stored.
        params: the method's validated parameters, without the count.
        data_free: whether no real image was used.
        teacher: who labelled the samples.
        attachments: what the fit left beside the shards, as `Attachments.entries` gives it.
        steered: whether images were steered towards a label or carry a true one; False where the teacher's own first
            choice is the label.

    Raises:
        WorkError: shards are missing, or no reader would take such a dataset.
    """
    if len(records) != len(plans):
        raise WorkError(f"{maker.method}: {len(records)} of {len(plans)} shards are made; make the rest first")
    made = list(zip(plans, records, strict=True))
    train = [record for plan, record in made if plan.split == "train"]
    samples = sum(record.samples for record in train)
    classes = len(teacher.classes)
    try:
        return Manifest(
            format_version=FORMAT_VERSION,
            method=maker.method,
            method_params=params,
            data_free=data_free,
            steered=steered,
            teacher=teacher.plain(),
            seed=maker.seed,
            encoding=maker.encoding,
            fields=fields_of(maker.encoding, teacher.channels, teacher.size, classes, maker.soft_targets),
            shards=Shards.of((plan.split, record.samples, record.sha256) for plan, record in made),
            attachments=attachments,
            samples=Totals(train=samples, holdout=sum(record.samples for record in records) - samples),
            class_histogram=tuple(sum(record.histogram[k] for record in train) for k in range(classes)),
            teacher_agreement=sum(record.agree for record in train) / samples,
        )
    except ValidationError as error:
        raise WorkError(f"{maker.method}: the manifest cannot say: {first_problem(error)}") from None


def publish(work: ShardDirectory, manifest: Manifest, out: Path) -> Manifest:
    """Put the dataset that `manifest` describes at `out`.

    The shards and attachments are linked (copied where the file system cannot link) into a hidden folder beside
    `out`, with the contact sheet, the card and, last, the manifest; then the folder is renamed. A killed publish
    leaves only the hidden folder, which the next one removes; two at a time have a folder each.

    Args:
        work: entered, and holding every shard and attachment.
        manifest: as `describe` gives it.
        out: a path with nothing there, or an empty folder. A folder that holds this very dataset is left alone.

    Returns:
        The manifest as it was written: with the sha256 of the card and the contact sheet.

    Raises:
        WorkError: something else is at `out`, or the disk is full; `out` is as it was.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _aside(out) as aside:
            crash_point("publish:begun")
            for entry in manifest.every_entry:
                _link_or_copy(work.path / entry.name, aside / entry.name)
                crash_point("publish:linked")
            for entry in manifest.attachments:
                _link_or_copy(work.attachments.path(entry.name), aside / entry.name)
            manifest = finish(aside, manifest)
            crash_point("publish:manifest")
            _put(aside, out)
            crash_point("publish:renamed")
    except OSError as error:
        raise WorkError(
            f"cannot publish {out}: {error.strerror or error}; free some space or choose another folder, then run "
            "the same command again"
        ) from error
    return manifest


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write the card, the contact sheet and, last, the manifest with their hashes into a folder of shards.

    Returns:
        The manifest as it was written.

    Raises:
        WorkError: the manifest is larger than readers take, or the disk is full.
    """
    files = {"preview.png": preview(Dataset(folder, manifest)), "README.md": card(manifest).encode()}
    for name, content in files.items():
        write_atomic(folder / name, content)
    sums = {name: sha256_bytes(content) for name, content in files.items()}
    manifest = Manifest.model_validate(manifest.model_dump() | {"files": sums})
    content = manifest_bytes(manifest)
    if len(content) > LIMITS.manifest_bytes:
        raise WorkError(f"{manifest.method}: the manifest takes {len(content)} bytes, more than readers take: "
                        f"{LIMITS.manifest_bytes}; make larger shards (shards.size)")  # fmt: skip
    write_atomic(folder / MANIFEST, content)
    return manifest


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A hidden folder of our own beside `out`, locked as long as we live; those of killed publishers are removed."""
    prefix = f".{out.name}.publishing-"
    for folder in out.parent.glob(f"{prefix}*"):
        descriptor = _locked(folder)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
    while True:
        aside = out.with_name(f"{prefix}{token_hex(4)}")
        aside.mkdir()
        descriptor = _locked(aside, wait=True)  # for another publisher that takes it for a dead one's just now
        if aside.is_dir():
            break
        if descriptor is not None:
            os.close(descriptor)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _locked(folder: Path, *, wait: bool = False) -> int | None:
    """Lock a folder; None when a living process holds it, or it is gone. The system frees it on kill -9."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _put(aside: Path, out: Path) -> None:
    """Rename a finished folder into place: atomic, and the system refuses where anything but an empty folder is."""
    try:
        os.replace(aside, out)  # noqa: PTH105 - the commit
    except OSError:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            raise
        if _same(aside, out):
            return
        what = f"{out}: another dataset or something else is there; move or delete it, then run this again"
        raise WorkError(what) from None
    sync_folder(out.parent)


def _same(left: Path, right: Path) -> bool:
    names = {path.name for path in left.iterdir()}
    if not right.is_dir() or {path.name for path in right.iterdir()} != names:
        return False
    return all((right / name).is_file() and sha256_file(left / name) == sha256_file(right / name) for name in names)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        write_atomic(target, source.read_bytes())
