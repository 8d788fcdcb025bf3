"""A network with its normalisation and its card: teacher, student and proxy student are roles of this one class.

A classifier's folder holds `model.safetensors`, a user's Python file as `net.py` where the architecture is one, and,
written last, `card.json`, which carries a digest of itself and of `net.py`. The card names the sha256 of the weights,
so that a flipped bit anywhere in the folder is an error. Files may come from anybody: what a header or a card claims
is compared with the size of the file before anything of that size is read or built.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from pydantic import AfterValidator, Field, ValidationError, model_validator
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from . import nets
from .core.errors import ParamsError, PipelineError, TeacherError, TrainingError
from .core.files import canonical_json, sha256_bytes, write_atomic
from .core.images import MAX_CLASSES, Channels, Side
from .core.params import Block, build
from .nets.weights import DamagedError, Shapes, fill, fitting, load_into, read, read_safetensors, reported

__all__ = [
    "CARD",
    "CODE",
    "WEIGHTS",
    "Built",
    "Card",
    "Classifier",
    "LastStep",
    "Normalise",
    "Sha256",
    "Student",
    "StudentCard",
    "Teacher",
    "TeacherCard",
    "Text",
    "build_network",
    "load_into",
    "read_safetensors",
]

WEIGHTS, CODE, CARD = "model.safetensors", "net.py", "card.json"

_MAX_CARD = 16 << 20  # bytes
_PYTHON = "python:"


# -- cards -----------------------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters only")
    return text


Text = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class Card(Block):
    """What every classifier says of itself, and what a dataset's manifest says of the one that labelled it."""

    error: ClassVar[type[PipelineError]] = TeacherError  # of a folder that does not load
    cure: ClassVar[str] = "fetch or make it again"

    arch: Text  # as in `nets.build`; `python:net.py:CALLABLE` is relative to the classifier's folder
    classes: Annotated[tuple[Text, ...], Field(min_length=2, max_length=MAX_CLASSES)]
    channels: Channels
    size: Side
    mean: tuple[float, ...]  # per channel, in [0, 1] units
    std: tuple[Annotated[float, Field(gt=0)], ...]
    sha256: Annotated[str, Field(pattern=r"\A([0-9a-f]{64})?\z")]  # of the weights' file; empty before it is saved

    @model_validator(mode="after")
    def _one_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("mean and std need one number per channel")
        return self

    def plain(self) -> "Card":
        """The fields that every card has, as a manifest keeps them."""
        return Card(**{name: getattr(self, name) for name in Card.model_fields})

    def metadata(self, code: bytes | None) -> dict[str, str] | None:  # noqa: ARG002 - others need it
        """What the header of the weights' file says beside the weights."""
        return None


class TeacherCard(Card):
    """A teacher's card.

    The header of its weights' file also holds architecture, normalisation and the code's hash, so that `sha256` names
    everything that decides what the teacher computes.
    """

    error: ClassVar[type[PipelineError]] = TeacherError
    cure: ClassVar[str] = "run `dvc repro teacher`"

    batch_norm: bool
    accuracy: Annotated[float, Field(ge=0, le=1)] | None  # top-1 on the real test set; None when there is no real data
    source: str  # where the weights came from, in words

    def metadata(self, code: bytes | None) -> dict[str, str]:
        """One string: safetensors keeps several in random order."""
        fields = self.model_dump(include={"arch", "channels", "size", "mean", "std"})
        return {"teacher": canonical_json(fields | {"code": None if code is None else sha256_bytes(code)}).decode()}


class LastStep(Block):
    """How a student was finished on a few real images."""

    start: str  # sha256 of the weights it had before
    dataset: str  # sha256 of the manifest.json of the dataset they were drawn from
    per_class: int
    labels: str  # of this step


class StudentCard(Card):
    """A student's card, and a proxy student's."""

    error: ClassVar[type[PipelineError]] = TrainingError
    cure: ClassVar[str] = "run `dvc repro -f distill`"

    cell: str  # its name in the grid; empty outside of it
    method: str  # that made the dataset
    data_free: bool  # whether it never saw a real image, nor what it learned from
    labels: str  # what it learned from the shards
    seed: int
    dataset: str  # sha256 of the dataset's manifest.json
    teacher: str  # sha256 of the teacher's weights
    few_shot: LastStep | None  # None where there was no such step


C = TypeVar("C", bound=Card)


# -- the classifier --------------------------------------------------------------------------------------------------


class Normalise(nn.Module):
    """Per-channel (x - mean) / std on [N, C, H, W] images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Mean and std are in [0, 1] units, one per channel."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape, normalised."""
        return (images - self.mean) / self.std


class Built(NamedTuple):
    """A network, and how to build it again."""

    net: nn.Module
    arch: str  # with a user's file: `python:net.py:CALLABLE`
    code: bytes | None  # that file's content


def build_network(
    arch: str,
    classes: int,
    channels: int,
    size: int,
    trust: tuple[str, ...],
    *,
    folder: Path = Path(),
    rng: torch.Generator | None = None,
) -> Built:
    """Build an architecture; the code of a `python:PATH:CALLABLE` is read once, and only those bytes may run.

    Args:
        arch: as in `nets.build`.
        classes: number of logits.
        channels: of the images.
        size: height and width of the images, in pixels.
        trust: sha256 of user files whose code may run.
        folder: what a user file's relative path starts from.
        rng: where initial weights are drawn from, when they matter.

    Raises:
        ParamsError: no such architecture, or one that does not fit these dimensions.
        TeacherError: the user's file is missing, its sha256 is not in `trust`, or it makes no such network.
    """
    if not arch.startswith(_PYTHON):
        return Built(nets.build(arch, classes, channels, size, trust=trust, rng=rng), arch, None)
    path, attribute = _user_file(arch, folder)
    if not path.is_file():
        raise TeacherError(
            f"{path}: no such Python file; expected the architecture as python:PATH:CALLABLE, not {arch}"
        )
    code = path.read_bytes()
    # Narrowed to this content: should the file change before the builder reads it, the builder refuses it.
    consent = tuple(digest for digest in trust if digest.lower() == sha256_bytes(code))
    net = nets.build(f"{_PYTHON}{path}:{attribute}", classes, channels, size, trust=consent, rng=rng)
    return Built(net, f"{_PYTHON}{CODE}:{attribute}", code)


class Classifier(nn.Module, Generic[C]):
    """[N, C, H, W] images in [0, 1] to [N, K] raw logits."""

    def __init__(self, net: nn.Module, card: C, code: bytes | None = None) -> None:
        """Take over a network.

        Args:
            net: takes normalised images.
            card: what is known about it.
            code: the user's Python file that `card.arch` refers to, if it does.
        """
        super().__init__()
        self.net = net
        self.normalise = Normalise(card.mean, card.std)
        self.card = card
        self.code = code
        self._frozen = False

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to [N, K] raw logits."""
        return self.net(self.normalise(images))

    @property
    def head(self) -> nn.Linear:
        """The final linear layer, weights [K, d].

        Raises:
            TeacherError: the network does not end in one.
        """
        return nets.final_linear(self.net)

    def freeze(self) -> Self:
        """Evaluation mode for good, and no parameter that requires a gradient: what labels must not move."""
        self.requires_grad_(requires_grad=False)
        self.eval()
        self._frozen = True
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless frozen.

        Raises:
            TeacherError: it is frozen.
        """
        if mode and self._frozen:
            raise TeacherError("a teacher is frozen; train a copy of its `net` instead")
        return super().train(mode)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, a user's code as `net.py` and, last, `card.json`; `card.sha256` is set.

        Raises:
            WorkError: the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.code is None:
            (folder / CODE).unlink(missing_ok=True)
        else:
            write_atomic(folder / CODE, self.code)
        # Clones: tied parameters share memory, which safetensors refuses.
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.net.state_dict().items()}
        weights = save(tensors, metadata=self.card.metadata(self.code))
        write_atomic(folder / WEIGHTS, weights)
        self.card = self.card.model_copy(update={"sha256": sha256_bytes(weights)})
        write_atomic(folder / CARD, _card_bytes(self.card, self.code))

    @classmethod
    def load(cls, folder: Path, kind: type[C], trust: tuple[str, ...] = (), *, frozen: bool = True) -> "Classifier[C]":
        """Read a folder back, on the CPU, in evaluation mode.

        Args:
            folder: as `save` wrote it; it may be damaged or hostile.
            kind: of the card.
            trust: sha256 of user Python files whose code may run, for architectures that live in one.
            frozen: whether to `freeze` it.

        Raises:
            TeacherError, TrainingError: files of a teacher, of a student, that are missing, damaged or edited.
            ParamsError: the architecture is not known here.
            TeacherError: the architecture is in a user's file that is not trusted.
        """
        with reported(kind.error, kind.cure):
            card, code = _read_card(folder, kind)
        built = _verified(card, folder / WEIGHTS, trust, str(folder / WEIGHTS), folder, kind.cure)
        if built.code != code:  # replaced since the card was compared with it
            raise kind.error(f"{folder / CODE}: changed while it was read; {kind.cure}")
        found = Classifier(built.net, card, built.code)
        return found.freeze() if frozen else found.eval()

    @classmethod
    def from_weights(
        cls, card: C, content: bytes, trust: tuple[str, ...], where: str, cure: str = "make the dataset again"
    ) -> "Classifier[C]":
        """The classifier that `card` describes, with weights that came from elsewhere, such as with a dataset.

        Args:
            card: its architecture, what it takes and gives, and the sha256 of `content`.
            content: of a safetensors file; it may be damaged or hostile.
            trust: sha256 of user Python files whose code may run.
            where: names the file in messages.
            cure: what to do when the weights are no good.

        Returns:
            On the CPU, in evaluation mode, not frozen.

        Raises:
            TeacherError, TrainingError: as the card's kind says: the weights are no safetensors, do not fit the
                architecture, or are not finite.
            ParamsError: the architecture is not known here.
            TeacherError: the architecture is in a user's file that is not trusted.
        """
        built = _verified(card, content, trust, where, Path(), cure)
        return Classifier(built.net, card, built.code).eval()


Teacher = Classifier[TeacherCard]
Student = Classifier[StudentCard]


def _verified(card: Card, source: Path | bytes, trust: tuple[str, ...], where: str, folder: Path, cure: str) -> Built:
    """The card's network with the weights of a file, each compared with the other before it is believed."""
    filled = f"{where} as {card.arch}"
    drafts: list[Built] = []

    def check(offered: Shapes, metadata: Mapping[str, str]) -> None:
        elements = sum(prod(shape) for shape in offered.values())
        drafts.append(_draft(card, trust, folder, elements, filled))
        fitting(drafts[0].net, filled)(offered, metadata)

    with reported(card.error, cure):
        weights, metadata = read(source, where, check, card.sha256)
    built = drafts[0]
    if any(parameter.is_meta for parameter in built.net.parameters()):
        built = _built(card, trust, folder)
    expected = card.metadata(built.code)
    if expected is not None and metadata != expected:
        raise card.error(f"{folder}: {CARD}, {CODE} and {WEIGHTS} are not of one run; {cure}")
    with reported(card.error, cure):
        fill(built.net, weights, filled)
    return built


def _draft(card: Card, trust: tuple[str, ...], folder: Path, elements: int, where: str) -> Built:
    """The card's network, if it has not far more elements than there are; of ours, the shapes alone."""
    if card.arch.startswith(_PYTHON):  # trusted code, which may do what it likes
        return _built(card, trust, folder)
    shapes_alone = nullcontext() if ":" in card.arch else torch.device("meta")
    with _no_more_than(4 * elements + 100_000, where), shapes_alone:
        return _built(card, trust, folder)


def _built(card: Card, trust: tuple[str, ...], folder: Path) -> Built:
    return build_network(card.arch, len(card.classes), card.channels, card.size, trust, folder=folder)


@contextmanager
def _no_more_than(elements: int, where: str) -> Iterator[None]:
    """While networks are built here, stop at the first parameter that makes them larger than this."""
    seen = 0

    def count(_module: nn.Module, _name: str, parameter: nn.Parameter) -> None:
        nonlocal seen
        seen += parameter.numel()
        if seen > elements:
            raise DamagedError(f"{where}: the weights do not fit: the architecture is far larger than the file")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


# -- files -----------------------------------------------------------------------------------------------------------


def _user_file(arch: str, folder: Path) -> tuple[Path, str]:
    """Path and callable of a `python:PATH:CALLABLE`."""
    name, _, attribute = arch.removeprefix(_PYTHON).rpartition(":")
    return folder / Path(name).expanduser(), attribute


def _card_bytes(card: Card, code: bytes | None) -> bytes:
    """The one content of `card.json` for this card: a digest covers every field, and the code beside it."""
    fields = card.model_dump()
    sealed = fields | {"code": None if code is None else sha256_bytes(code)}
    return canonical_json(fields | {"digest": sha256_bytes(canonical_json(sealed))})


def _read_card(folder: Path, kind: type[C]) -> tuple[C, bytes | None]:
    path = folder / CARD
    if not path.is_file():
        raise DamagedError(f"{path}: no {kind.__name__.removesuffix('Card').lower()} there")
    if path.stat().st_size > _MAX_CARD:
        raise DamagedError(f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_CARD}")
    content = path.read_bytes()
    try:
        tree: Any = json.loads(content)
        fields = {name: value for name, value in tree.items() if name != "digest"}
        card = build(kind, fields, str(path))
        user, _ = _user_file(card.arch, folder)
        code = user.read_bytes() if card.arch.startswith(_PYTHON) and user.is_file() else None
        expected = _card_bytes(card, code)
    except (ValueError, AttributeError, RecursionError, OSError, ValidationError, ParamsError) as error:
        raise DamagedError(f"{path}: damaged ({' '.join(str(error).split())[:500]})") from error
    if content != expected:
        with_code = f"{CARD} and {CODE} are not of one run, or " if card.arch.startswith(_PYTHON) else ""
        raise DamagedError(f"{path}: {with_code}edited or damaged (its digest does not fit the content)")
    return card, code
