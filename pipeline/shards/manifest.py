"""manifest.json: what a dataset is, and the sha256 of every file of it. Any edit of it is an error."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationError, model_validator

from ..classifier import Card, Sha256
from ..core.errors import ShardError
from ..core.files import canonical_json, sha256_bytes
from ..core.images import MAX_CHANNELS, MAX_CLASSES, MAX_SIZE
from ..core.params import Block
from .layout import COLOUR_TYPES, Encoding, Split, archive_bytes, key_of, member_bytes, shard_name
from .opening import read_whole

__all__ = ["FORMAT_VERSION", "LIMITS", "MANIFEST", "AttachmentEntry", "Count", "Encoding", "Entries", "FieldSpec",
           "Limits", "Manifest", "ShardEntry", "ShardRun", "Shards", "Split", "Totals", "fields_of",
           "first_problem", "fits", "key_of", "manifest_bytes", "parse_manifest", "read_manifest", "shard_bytes",
           "shard_name"]  # fmt: skip

FORMAT_VERSION = 3
MANIFEST = "manifest.json"

_DIGEST = "digest"


@dataclass(frozen=True)
class Limits:
    """Caps that no dataset passes, whatever its manifest says; they bound memory before anything is allocated."""

    manifest_bytes: int = 128 << 20  # of which a million shards take 79 MB
    manifest_values: int = 1_300_000  # of every kind: 1 for a shard, 2 for a class
    shards: int = 1_000_000
    shard_samples: int = 100_000
    shard_bytes: int = 2 << 30
    attachments: int = 1000
    attachment_bytes: int = 512 << 20
    classes: int = MAX_CLASSES
    channels: int = MAX_CHANNELS
    size: int = MAX_SIZE  # pixels, height and width


LIMITS = Limits()
_SPLITS: tuple[Split, ...] = ("train", "holdout")


def _lists(value: Any) -> Any:
    """Tuples to lists, as JSON has them, so that a manifest equals itself after a round trip."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in cast(dict[Any, Any], value).items()}
    return [_lists(item) for item in cast(list[Any], value)] if isinstance(value, (list, tuple)) else value


Plain = Annotated[dict[str, JsonValue], BeforeValidator(_lists)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class FieldSpec(Block):
    """What one member of every sample decodes to."""

    dtype: Literal["uint8", "float16", "float32", "int64"]
    shape: tuple[int, ...]  # without the sample axis; () is a single number


class ShardEntry(NamedTuple):
    """One shard file, as a reader looks for it."""

    split: Split
    number: int  # within its split, from 0
    samples: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """Of the file."""
        return shard_name(self.split, self.number)


class ShardRun(Block):
    """Shards that follow each other and have equally many samples. Their names and lengths follow from that."""

    samples: Annotated[int, Field(ge=1, le=LIMITS.shard_samples)]  # of each
    sha256: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=LIMITS.shards)]  # of each file


class Shards(Block):
    """The shard files of each split, numbered from 0."""

    train: Annotated[tuple[ShardRun, ...], Field(min_length=1)]
    holdout: tuple[ShardRun, ...]

    @classmethod
    def of(cls, files: Iterable[tuple[Split, int, str]]) -> "Shards":
        """From split, number of samples and sha256 of each file, those of a split in their order."""
        listed = list(files)
        runs = {
            split: tuple(
                ShardRun(samples=samples, sha256=tuple(file[2] for file in run))
                for samples, run in groupby((file for file in listed if file[0] == split), key=lambda file: file[1])
            )
            for split in _SPLITS
        }
        return cls(**runs)

    def runs(self, split: Split) -> tuple[ShardRun, ...]:
        """Those of one split."""
        return self.train if split == "train" else self.holdout


class AttachmentEntry(Block):
    """One file that the method's fit left beside the shards."""

    name: Annotated[str, Field(pattern=r"\A[a-z0-9-]{1,100}\.(safetensors|csv)\z")]
    kind: Literal["generator", "proxy", "history"]
    facts: Plain  # of a generator its block and the iterations done, of a proxy its "arch"
    bytes: Annotated[int, Field(ge=0, le=LIMITS.attachment_bytes)]
    sha256: Sha256


def _by_name(entries: tuple[AttachmentEntry, ...]) -> tuple[AttachmentEntry, ...]:
    names = [entry.name for entry in entries]
    if names != sorted(set(names)):
        raise ValueError("attachments must be in the order of their names, each once")
    return entries


Entries = Annotated[tuple[AttachmentEntry, ...], Field(max_length=LIMITS.attachments), AfterValidator(_by_name)]


class Totals(Block):
    """Samples per split."""

    train: Annotated[int, Field(ge=1, le=2**53)]
    holdout: Count


class Manifest(Block):
    """The whole description of a dataset: no time, no host, nothing that differs between two equal runs."""

    format_version: int
    method: Annotated[str, Field(pattern=r"\A[a-z][a-z0-9_]{0,63}\z")]
    method_params: Plain  # the method's validated block
    data_free: bool
    steered: bool  # whether images were steered to a label or carry a true one; else it is the teacher's first choice
    teacher: Card  # which network labelled the samples, and how a consumer must normalise for it
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    encoding: Encoding
    fields: dict[str, FieldSpec]  # as `fields_of` gives them
    shards: Shards
    attachments: Entries
    files: dict[Literal["README.md", "preview.png"], Sha256] = Field(default_factory=dict)  # for people
    samples: Totals
    class_histogram: tuple[Count, ...]  # train samples per class, by stored `cls`
    teacher_agreement: Annotated[float, Field(ge=0, le=1)]  # train: share with argmax(logits) == cls

    @property
    def soft_targets(self) -> bool:
        """Whether each sample carries the distribution it was steered towards."""
        return "target.npy" in self.fields

    def entries(self, split: Split) -> tuple[ShardEntry, ...]:
        """The shards of a split, in their order."""
        return self._entries[split]

    @cached_property
    def every_entry(self) -> tuple[ShardEntry, ...]:
        """The shards of both splits."""
        return (*self.entries("train"), *self.entries("holdout"))

    @cached_property
    def _entries(self) -> dict[Split, tuple[ShardEntry, ...]]:
        found: dict[Split, tuple[ShardEntry, ...]] = {}
        for split in _SPLITS:
            files = (
                (run.samples, shard_bytes(run.samples, self.fields), sha256)
                for run in self.shards.runs(split)
                for sha256 in run.sha256
            )
            found[split] = tuple(ShardEntry(split, index, *file) for index, file in enumerate(files))
        return found

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for check in _CHECKS:
            problem = check(self)
            if problem:
                raise ValueError(problem)
        return self


def fields_of(encoding: Encoding, channels: int, size: int, classes: int, soft_targets: bool) -> dict[str, FieldSpec]:
    """The members of every sample, by extension, with what they decode to."""
    image = FieldSpec(dtype="uint8" if encoding == "png" else "float16", shape=(channels, size, size))
    row = FieldSpec(dtype="float32", shape=(classes,))
    fields = {"cls": FieldSpec(dtype="int64", shape=()), "logits.npy": row, encoding: image}
    return fields | ({"target.npy": row} if soft_targets else {})


def shard_bytes(samples: int, fields: dict[str, FieldSpec]) -> int:
    """The exact length of a shard."""
    return archive_bytes(samples, (member_bytes(name, spec.dtype, spec.shape) for name, spec in fields.items()))


def fits(
    samples: int,
    channels: int,
    size: int,
    classes: int,
    encoding: Encoding,
    soft_targets: bool,
    shards: int = 1,
    limits: Limits = LIMITS,
) -> str | None:
    """Why a reader would refuse a dataset of such shards; None when it would not. Ask before anything is made.

    Args:
        samples: of one shard.
        channels: of an image.
        size: its height and width in pixels.
        classes: how many.
        encoding: how images are stored.
        soft_targets: whether each sample carries the distribution it was steered towards.
        shards: of the whole dataset.
        limits: the reader's caps.
    """
    asked = ((samples, limits.shard_samples, "samples in a shard"), (channels, limits.channels, "channels"),
             (size, limits.size, "pixels of height and width"), (classes, limits.classes, "classes"),
             (shards, limits.shards, "shards"))  # fmt: skip
    for number, most, what in asked:
        if number > most:
            return f"{number} {what}; at most {most} are read"
    if encoding == "png" and channels not in COLOUR_TYPES:
        return f"png cannot hold {channels} channels; the encoding must be npy"
    length = shard_bytes(samples, fields_of(encoding, channels, size, classes, soft_targets))
    if length > limits.shard_bytes:
        return f"{samples} samples in a shard take {length} bytes; at most {limits.shard_bytes} are read"
    return None


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one file content that stands for this manifest; its `digest` is the sha256 of everything else."""
    content = manifest.model_dump()
    return canonical_json(content | {_DIGEST: sha256_bytes(canonical_json(content))})


def read_manifest(folder: Path, limits: Limits = LIMITS) -> Manifest:
    """Read and verify a dataset's manifest.

    Raises:
        ShardError: missing, damaged, edited or hostile; the message names the file.
    """
    return parse_manifest(bytes(read_whole(folder, MANIFEST, limits.manifest_bytes)), str(folder / MANIFEST), limits)


def parse_manifest(content: bytes, name: str, limits: Limits = LIMITS) -> Manifest:
    """Verify a manifest's bytes: every field in order, the digest right, and no byte otherwise.

    What one JSON text can say in several ways (keys twice, other spaces, other notations of a number) is refused by
    comparing with the bytes that stand for what was understood.

    Raises:
        ShardError: anything else; the message starts with `name`.
    """
    # Before each value stands one of these; counted first, since small text can make large objects.
    if len(content) > limits.manifest_bytes or sum(map(content.count, (b",", b"[", b"{"))) > limits.manifest_values:
        most = f"{limits.manifest_bytes} bytes, {limits.manifest_values} values"
        raise ShardError(f"{name}: {len(content)} bytes; more than a manifest has: {most}")
    try:
        manifest = _understood(content, name)
        expected = manifest_bytes(manifest)
    except RecursionError:
        raise ShardError(f"{name}: nested too deep") from None
    except ValidationError as error:
        raise ShardError(f"{name}: {first_problem(error)}") from None
    except ValueError as error:  # not JSON, not UTF-8, NaN, a number of thousands of digits
        raise ShardError(f"{name}: not JSON as a manifest has it: {' '.join(str(error).split())[:200]}") from None
    if expected != content:
        raise ShardError(f"{name}: edited or damaged (its digest does not fit the content); fetch it again")
    return manifest


def _understood(content: bytes, name: str) -> Manifest:
    tree: Any = json.loads(content.decode("utf-8"))
    if not isinstance(tree, dict):
        raise ValueError(f"expected an object, found {type(tree).__name__}")
    fields = cast(dict[str, Any], tree)
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        cure = "make the dataset again (`dvc repro`), or read it with the release that wrote it"
        raise ShardError(f"{name}: format_version {str(version)[:20]!r}, this program reads {FORMAT_VERSION}; {cure}")
    fields.pop(_DIGEST, None)
    return Manifest.model_validate_json(canonical_json(fields))  # strict models take lists for tuples from JSON only


def first_problem(error: ValidationError) -> str:
    """The first thing that a model refused, on one short line."""
    item = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, item["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return " ".join(f"{where[:120]!r}: {item['msg'][:200]}{more}".split())


def _version(manifest: Manifest) -> str | None:
    return None if manifest.format_version == FORMAT_VERSION else f"format_version must be {FORMAT_VERSION}"


def _image(manifest: Manifest) -> str | None:
    teacher, runs = manifest.teacher, [*manifest.shards.train, *manifest.shards.holdout]
    asked = (teacher.channels, teacher.size, len(teacher.classes), manifest.encoding, manifest.soft_targets)
    return fits(max(run.samples for run in runs), *asked, sum(len(run.sha256) for run in runs))


def _fields(manifest: Manifest) -> str | None:
    teacher = manifest.teacher
    expected = fields_of(manifest.encoding, teacher.channels, teacher.size, len(teacher.classes), manifest.soft_targets)
    return None if manifest.fields == expected else "fields are not those of the encoding and the teacher"


def _shards(manifest: Manifest) -> str | None:
    for split in _SPLITS:
        runs, total = manifest.shards.runs(split), getattr(manifest.samples, split)
        if any(first.samples == second.samples for first, second in pairwise(runs)):
            return f"shards.{split} has a run of shards in two pieces"
        if (held := sum(run.samples * len(run.sha256) for run in runs)) != total:
            return f"samples.{split} is {total}, its shards hold {held}"
    return None


def _histogram(manifest: Manifest) -> str | None:
    counts = manifest.class_histogram
    if len(counts) != len(manifest.teacher.classes) or sum(counts) != manifest.samples.train:
        return "class_histogram needs one count per class, summing to samples.train"
    return None


_CHECKS: tuple[Callable[[Manifest], str | None], ...] = (_version, _image, _fields, _shards, _histogram)
