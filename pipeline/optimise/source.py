"""What every synthesis method follows: a block that is fitted to a teacher, and the source that this gives."""

import functools  # shim
import inspect  # shim
import json  # shim
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import JsonValue
from torch import Tensor

from .. import nets
from ..classifier import Teacher
from ..core.checkpoint import Checkpoint
from ..core.device import Compute
from ..core.errors import ParamsError, PipelineError
from ..core.params import Block
from ..losses import Logits
from ..nets.probe import needs_batches
from .oldkeys import renamed  # shim

__all__ = [
    "Attachment",
    "BaseMethod",
    "Batch",
    "Fitted",
    "Needs",
    "Numbered",
    "Run",
    "Source",
    "arch_problems",
    "draw",
    "loss_problems",
]


class Batch(NamedTuple):
    """What a source draws."""

    images: Tensor  # [N, C, H, W] float32 in [0, 1], not normalised
    targets: Tensor | None  # [N, K] float32, rows sum to 1: what each image was steered towards; None: it was not


class Attachment(NamedTuple):
    """A file that a fit leaves beside its dataset."""

    name: str  # file name, such as ``generator-03.safetensors``
    kind: Literal["generator", "proxy", "history"]
    facts: Mapping[str, JsonValue]  # for the manifest: a generator's block and iterations done; a proxy's "arch"
    content: bytes


class Source(Protocol):
    """What a fitted method draws from. Pure: the same arguments give the same batch, and shards are independent."""

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        """Make the images of one shard.

        Args:
            count: how many; the same for every shard of a dataset.
            rng: the shard's own random numbers.
        """
        ...


@runtime_checkable
class Numbered(Protocol):
    """A source whose shards differ by their number: a finite stock that is handed out, or kinds that take turns."""

    def draw_numbered(self, count: int, rng: torch.Generator, number: int) -> Batch:
        """As `Source.draw`, for shard 0, 1, 2 ... of training, or -1, -2 ... held out."""
        ...


def draw(source: Source | Numbered, count: int, rng: torch.Generator, number: int) -> Batch:
    """The images of one shard, from either kind of source."""
    if isinstance(source, Numbered):
        return source.draw_numbered(count, rng, number)
    if len(inspect.signature(source.draw).parameters) == 3:  # shim
        return source.draw(count, rng, number)  # type: ignore[call-arg] # pyright: ignore
    return source.draw(count, rng)


@runtime_checkable
class Fitted(Protocol):
    """A source whose fit trained something that is worth keeping."""

    def attachments(self) -> Sequence[Attachment]:
        """What the fit leaves, in an order of its own (rounds, say); equal fits give equal bytes."""
        ...


class Run(NamedTuple):
    """What a fit is given."""

    teacher: Teacher  # frozen, on its device
    rng: torch.Generator  # the fit's own random numbers
    checkpoint: Checkpoint  # where a long fit keeps its state, and finds it again
    compute: Compute  # where and how to run


class Needs(NamedTuple):
    """What a method cannot do without. Known before anything runs, so that a user can be told."""

    head: bool = False  # a teacher that ends in a linear layer
    batch_norm: bool = False  # a teacher with BatchNorm layers that keep running statistics
    proxy: bool = False  # a proxy student, declared under `proxy` in the method's block
    real: bool = False  # real images: the `data` block becomes the method's field `data`; it is not data-free


class BaseMethod(Block):
    """A method: its fields are its params block, its file's name is its name."""

    @classmethod
    def model_validate_json(cls, json_data: Any, **settings: Any) -> Any:  # shim
        """With old keys."""
        return super().model_validate_json(json.dumps(renamed(json.loads(json_data))), **settings)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: D105 - shim
        cls.data_free, cls.batch_norm = not cls.needs.real, cls.needs.batch_norm
        cls.attaches = cls.needs.proxy or "snapshots" in cls.model_fields
        cls.reads = ("data",) if cls.needs.real else ()
        if "fit" in cls.__dict__:
            fit = cls.__dict__["fit"]

            @functools.wraps(fit)
            def either(self: Any, run: Any, *rest: Any) -> Any:
                return fit(self, Run(run, *rest) if rest else run)

            cls.fit = either

    data_free: ClassVar[bool] = True  # shim
    batch_norm: ClassVar[bool] = False  # shim
    attaches: ClassVar[bool] = False  # shim
    reads: ClassVar[tuple[str, ...]] = ()  # shim

    needs: ClassVar[Needs] = Needs()
    steered: ClassVar[bool] = True  # whether its batches have targets; else images are filed under the teacher's choice
    soft_targets: ClassVar[bool] = False  # whether what images were steered towards is worth storing beside them

    def check(self, channels: int, size: int, classes: int) -> list[str]:  # noqa: ARG002
        """What is wrong with the block for teachers of images [C, size, size] and so many classes: lines with keys."""
        return []

    def fit(self, run: Run) -> Source | Numbered:
        """Prepare a source for this teacher; a long fit resumes from its checkpoint.

        Raises:
            ParamsError: as `check` finds.
            TeacherError: the teacher lacks what the method needs.
        """
        raise NotImplementedError

    @property
    def key(self) -> str:
        """Where the block stands in params.yaml."""
        return f"methods.{type(self).__module__.rpartition('.')[2]}"

    def require(self, run: Run) -> None:
        """Raise what `check` finds.

        Raises:
            ParamsError: a line for each problem.
        """
        card = run.teacher.card
        problems = self.check(card.channels, card.size, len(card.classes))
        if problems:
            raise ParamsError("\n".join(problems))


def arch_problems(arch: str, channels: int, size: int, classes: int, batch: int, key: str) -> list[str]:
    """Whether a network can be built, and trained on batches of this size; `key` is that of the block with `arch`.

    No code of a user's runs, so that nothing is said about a network that lives in a file of theirs.
    """
    try:
        nets.module_of(arch)
        if arch.startswith("python:"):
            return []
        net = nets.build(arch, classes, channels, size)
    except PipelineError as error:
        return [f"{key}.arch: {error}"]
    if batch == 1 and needs_batches(net, torch.zeros(1, channels, size, size)):
        return [f"{key}.batch: 1: BatchNorm in {arch} needs at least 2 images"]
    return []


def loss_problems(loss: Logits, key: str) -> list[str]:
    """Whether a proxy can learn from the teacher's logits by this loss; `key` is that of the block with `loss`."""
    return [f"{key}.loss: cross_entropy takes true classes, of which a proxy sees none; use kl or l1"] * (
        loss.name == "cross_entropy"
    )
