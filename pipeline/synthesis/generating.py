"""The training of a generator against a frozen teacher: epochs, resuming, health, snapshots along the way."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from pipeline.augment import DRAWS, Augment, view
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, WorkError
from pipeline.core.files import crash_point
from pipeline.core.params import Block
from pipeline.core.progress import say, track
from pipeline.core.rng import generator
from pipeline.nets.generators import Generator, GeneratorParams, build_generator
from pipeline.synthesis.health import Epoch, Tally, require_finite, require_health, summary
from pipeline.synthesis.snapshots import Snapshots
from pipeline.training import Optimiser, Updates, rate, seeded

if TYPE_CHECKING:
    from pipeline.teacher.model import Teacher

__all__ = ["Game", "GenerationParams", "Latents", "Play", "Side", "latents_of", "new_generator", "paint"]

Weights = Mapping[str, Tensor]
_LINES = 20  # that a training says about itself


class SnapshotParams(Block):
    """Which states of the generator the dataset is drawn from."""

    states: PositiveInt  # evenly spaced in training and equally often used; 1: the final generator alone
    since: Annotated[float, Field(ge=0, lt=1)]  # fraction of the training before which none is taken


class GenerationParams(Block):
    """What all generator methods have in common: their parameters, what they declare, and `fit`."""

    data_free: ClassVar[bool] = True
    soft_targets: ClassVar[bool] = False
    batch_norm: ClassVar[bool] = False
    attaches: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ()

    generator: GeneratorParams
    views: Augment  # a random view of each image in training; the image itself is stored
    clamp: bool  # whether teacher and proxy see images clamped to [0, 1] in training, as they will be stored
    updates: Updates  # of the generator
    batch: Annotated[int, Field(ge=2)]  # images of an iteration
    epochs: PositiveInt  # the unit of the history, of resuming and of snapshots
    iterations: PositiveInt  # of an epoch
    snapshots: SnapshotParams
    statistics: Literal["train", "eval"]  # of the generator's BatchNorm layers when it is sampled: the batch's, running

    @property
    def steps(self) -> int:
        """Iterations of the whole training."""
        return self.epochs * self.iterations

    def game(self, teacher: "Teacher", seed: int, compute: Compute) -> "Game":
        """Fresh networks and the method's rules.

        Args:
            teacher: on its device.
            seed: of initial weights and noise.
            compute: where, in which precision.
        """
        raise NotImplementedError

    def fit(self, teacher: "Teacher", rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Snapshots:
        """Train the generator, and its proxy student if there is one; a killed fit goes on after its last epoch.

        Raises:
            TeacherError: the teacher lacks something that the method looks at.
            ParamsError: a network or a named block does not exist or does not fit, or there are more snapshots than
                epochs to take them after.
            MethodError: the training collapsed, see `health.require_health`.
            WorkError: the disk is full, or what a killed run left is damaged.
        """
        seed = int(torch.randint(2**31, (), generator=rng))
        game = self.game(teacher, seed, compute)
        with game.watching():
            return _train(self, game, teacher, checkpoint, compute, seed)


class Side:
    """One network that learns, with its optimiser and its schedule."""

    def __init__(self, net: nn.Module, updates: Updates, steps: int) -> None:
        """The network must be on its device; `steps` is the length of its schedule."""
        self.net = net
        self._updates, self._steps = updates, steps
        self._optimiser = Optimiser(updates, net.parameters())

    def learn(self, loss: Tensor, step: int) -> None:
        """One step down this loss. Gradients reach this network's parameters and no other's."""
        gradients = torch.autograd.grad(loss, self._optimiser.parameters, allow_unused=True)
        for parameter, gradient in zip(self._optimiser.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.clip(self._updates.clip_norm)
        self._optimiser.step(rate(self._updates, step, self._steps))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"net": self.net.state_dict(), "optimiser": self._optimiser.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.net.load_state_dict(state["net"])
        self._optimiser.load(state["optimiser"])


class Play(NamedTuple):
    """What one iteration leaves to be looked at."""

    scores: dict[str, Tensor]  # named scalars, losses end in "_loss"
    images: Tensor  # [N, C, H, W] of the generator's step
    teacher: Tensor  # [N, K] logits of them
    proxy: Tensor | None


class Game(ABC):
    """A method's rules."""

    def __init__(self, sides: Mapping[str, Side], proxy: tuple[str, nn.Module] | None) -> None:
        """Take the players.

        Args:
            sides: everything that learns, the generator under "generator".
            proxy: architecture and network, without normalisation, of the proxy student if there is one.
        """
        self.sides, self.proxy = sides, proxy

    @abstractmethod
    def play(self, step: int) -> Play:
        """One iteration, a function of the sides' states and the step's number; inside `watching` alone."""

    def watching(self) -> AbstractContextManager[None]:
        """While the block lasts, the rules see what they need of the networks' passes."""
        return nullcontext()


def new_generator(params: GenerationParams, teacher: "Teacher", rng: torch.Generator, compute: Compute) -> Generator:
    """A fresh generator for this teacher's images, on the device, in training mode.

    Raises:
        ParamsError: the images' size is no multiple of 4.
    """
    info = teacher.info
    net = build_generator(params.generator, info.mean, info.std, info.size, rng)
    compute.place(net)
    return net


class Latents(NamedTuple):
    """All that is random about a batch."""

    noise: Tensor  # [N, D], z ~ N(0, I)
    views: Tensor  # [N, DRAWS] in [0, 1), see `augment.view`


def latents_of(params: GenerationParams, seed: int, step: int, batches: int, device: torch.device) -> list[Latents]:
    """The random numbers of an iteration's batches: a function of (seed, step)."""
    rng = generator(seed, "generator/latents", step)
    noise = torch.randn(batches, params.batch, params.generator.latent_dim, generator=rng).to(device)
    views = torch.rand(batches, params.batch, DRAWS, generator=rng).to(device)
    return [Latents(*pair) for pair in zip(noise, views, strict=True)]


def paint(params: GenerationParams, net: nn.Module, latents: Latents) -> Tensor:
    """A generator's images [N, C, H, W] as the other networks see them in training: clamped or not, in random views."""
    images = net(latents.noise)
    return view(images.clamp(0, 1) if params.clamp else images, params.views, latents.views)


def _train(
    params: GenerationParams, game: Game, teacher: "Teacher", checkpoint: Checkpoint, compute: Compute, seed: int
) -> Snapshots:
    """Train to the end, or go on where a killed run stopped, with the same result on the same machine."""
    method = type(params).__module__.rpartition(".")[2]  # the file's name is the method's
    run = _Run(method, params, game, checkpoint)
    classes = len(teacher.info.classes)
    history = run.resume()
    lines = max(1, params.epochs // _LINES)
    for epoch in track(range(len(history), params.epochs), f"{method}: training the generator", unit="epoch"):
        tally = Tally(classes, compute.torch_device())
        with seeded(seed, "generator/layers", epoch):
            for step in range(epoch * params.iterations, (epoch + 1) * params.iterations):
                tally.add(*game.play(step))
        history.append({"epoch": epoch + 1, **tally.epoch()})
        require_health(history, method, classes)
        require_finite({name: side.net for name, side in game.sides.items()}, method, epoch + 1)
        run.save(history)
        crash_point("generator:epoch")
        if (epoch + 1) % lines == 0 or epoch + 1 == params.epochs:
            say(f"{method}: epoch {epoch + 1} of {params.epochs}: {summary(history[-1], classes)}")
    return run.finish(teacher, compute, history)


@dataclass(frozen=True)
class _Run:
    """What is on the disk."""

    method: str
    params: GenerationParams
    game: Game
    checkpoint: Checkpoint

    def resume(self) -> list[Epoch]:
        """The history so far; the sides are put into the state they had."""
        self.taken()  # whether so many snapshots can be taken
        state = self.checkpoint.load()
        if state is None:
            return []
        for name, side in self.game.sides.items():
            side.load(state["sides"][name])
        return state["history"]

    def save(self, history: list[Epoch]) -> None:
        """Keep the state after an epoch; the snapshot first, since the state says that it is there."""
        if len(history) in self.taken():
            self._snapshot(len(history)).save(self.game.sides["generator"].net.state_dict())
        crash_point("generator:snapshot")
        sides = {name: side.state() for name, side in self.game.sides.items()}
        self.checkpoint.save({"sides": sides, "history": history})

    def taken(self) -> tuple[int, ...]:
        """The epochs after which a snapshot is taken; the last one is always among them.

        Raises:
            ParamsError: there are too few epochs.
        """
        epochs, wanted = self.params.epochs, self.params.snapshots
        first = int(wanted.since * epochs)
        if wanted.states > epochs - first:
            raise ParamsError(
                f"methods.{self.method}.snapshots.states: {wanted.states}: "
                f"only {epochs - first} of {epochs} epochs come "
                f"after {wanted.since} of the training; take fewer, or make the epochs shorter and more"
            )
        return tuple(first + (epochs - first) * place // wanted.states for place in range(1, wanted.states + 1))

    def finish(self, teacher: "Teacher", compute: Compute, history: list[Epoch]) -> Snapshots:
        """The source.

        Raises:
            WorkError: a snapshot is damaged or gone.
        """
        net = self.game.sides["generator"].net
        assert isinstance(net, Generator)
        states = {epoch: self._taken_state(epoch) for epoch in self.taken()}
        params, proxy = self.params, self.game.proxy
        return Snapshots(net, params.batch, params.statistics, teacher, compute, states, history, proxy)

    def _taken_state(self, epoch: int) -> Weights:
        kept = self._snapshot(epoch)
        state = kept.load()
        if state is None:
            raise WorkError(f"{kept.path}: gone; delete {self.checkpoint.path} too, to train the generator anew")
        return state

    def _snapshot(self, epoch: int) -> Checkpoint:
        path = self.checkpoint.path
        return Checkpoint(path.with_name(f"{path.stem}-generator-{epoch:04d}{path.suffix}"))
