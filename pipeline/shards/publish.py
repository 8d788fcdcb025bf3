"""From a work directory to a dataset that readers may see: built aside, complete, then renamed into place."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import WorkError
from pipeline.core.files import crash_point, sha256_file, sync_folder, write_atomic
from pipeline.shards.card import card
from pipeline.shards.plan import ShardPlan
from pipeline.shards.preview import preview
from pipeline.shards.produce import ShardMaker
from pipeline.shards.schema import (
    FORMAT_VERSION,
    MANIFEST,
    AttachmentEntry,
    Manifest,
    ShardEntry,
    TeacherCard,
    Totals,
    fields_of,
    manifest_bytes,
)
from pipeline.shards.work import ShardRecord, WorkDirectory
from pipeline.teacher.model import TeacherInfo

__all__ = ["describe", "publish"]


def describe(
    plans: Sequence[ShardPlan],
    records: Sequence[ShardRecord],
    maker: ShardMaker,
    *,
    params: dict[str, Any],
    data_free: bool,
    teacher: TeacherInfo,
    attachments: tuple[AttachmentEntry, ...],
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

    Raises:
        WorkError: shards are missing.
    """
    if len(records) != len(plans):
        raise WorkError(f"{maker.method}: {len(records)} of {len(plans)} shards are made; make the rest first")
    train = [record for plan, record in zip(plans, records, strict=True) if plan.split == "train"]
    samples = sum(record.samples for record in train)
    classes = len(teacher.classes)
    return Manifest(
        format_version=FORMAT_VERSION,
        method=maker.method,
        method_params=params,
        data_free=data_free,
        teacher=_card(teacher),
        seed=maker.seed,
        encoding=maker.encoding,
        fields=fields_of(maker.encoding, teacher.channels, teacher.size, classes, maker.soft_targets),
        shards=tuple(map(_entry, plans, records)),
        attachments=attachments,
        samples=Totals(train=samples, holdout=sum(record.samples for record in records) - samples),
        class_histogram=tuple(sum(record.histogram[k] for record in train) for k in range(classes)),
        teacher_agreement=sum(record.agree for record in train) / samples,
    )


def publish(work: WorkDirectory, manifest: Manifest, out: Path) -> None:
    """Put the dataset that `manifest` describes at `out`.

    The shards and attachments are linked (copied where the file system cannot link) into a hidden folder beside
    `out`, with the card, the contact sheet and, last, the manifest; then the folder is renamed. A killed publish
    leaves only the hidden folder, which the next one replaces.

    Args:
        work: entered, and holding every shard and attachment.
        manifest: as `describe` gives it.
        out: a path with nothing there, or an empty folder. A folder that holds this very dataset is left alone.

    Raises:
        WorkError: something else is at `out`, or the disk is full; `out` is as it was.
    """
    aside = out.with_name(f".{out.name}.publishing")
    try:
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
        crash_point("publish:begun")
        for entry in manifest.shards:
            _link_or_copy(work.path / entry.name, aside / entry.name)
            crash_point("publish:linked")
        for entry in manifest.attachments:
            _link_or_copy(work.attachments.path(entry.name), aside / entry.name)
        write_atomic(aside / "preview.png", preview(aside, manifest))
        write_atomic(aside / "README.md", card(manifest).encode())
        write_atomic(aside / MANIFEST, manifest_bytes(manifest))
        crash_point("publish:manifest")
        _put(aside, out)
        crash_point("publish:renamed")
    except OSError as error:
        raise WorkError(
            f"cannot publish {out}: {error.strerror or error}; free some space, then run the same command again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(aside: Path, out: Path) -> None:
    """Rename a finished folder into place; a rename onto an empty folder is atomic too."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if _same(aside, out):
            return
        raise WorkError(f"{out}: another dataset or something else is there; move or delete it, then run this again")
    os.replace(aside, out)  # noqa: PTH105 - the commit
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


def _card(teacher: TeacherInfo) -> TeacherCard:
    return TeacherCard(
        arch=teacher.arch,
        sha256=teacher.sha256,
        classes=teacher.classes,
        channels=teacher.channels,
        size=teacher.size,
        mean=teacher.mean,
        std=teacher.std,
    )


def _entry(plan: ShardPlan, record: ShardRecord) -> ShardEntry:
    return ShardEntry(
        name=plan.name, split=plan.split, samples=record.samples, bytes=record.bytes, sha256=record.sha256
    )
