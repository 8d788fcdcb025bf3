"""The training of a generator against a frozen teacher: what its methods share, and its epochs.

A method has a step; here is everything around it: the generator, the proxy student, the random numbers of each
iteration, epochs that resume, health, and snapshots along the way.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from .. import nets
from ..core.checkpoint import Checkpoint
from ..core.errors import WorkError
from ..core.files import crash_point
from ..core.params import Block
from ..core.progress import say, track
from ..core.rng import stream
from ..losses import Logits, Loss, Seen, Terms
from ..nets.generators import Generator, GeneratorParams, build_generator
from .augment import DRAWS, Augment, augment_with
from .health import Epoch, Tally, require_finite, require_health, summary
from .learner import Learner, Optimizer
from .network import seeded
from .snapshots import Snapshots
from .source import BaseMethod, Needs, Run, arch_problems, loss_problems

__all__ = [
    "GeneratorMethod",
    "Latents",
    "Outputs",
    "Proxy",
    "ProxyMethod",
    "ProxyStep",
    "ProxyStudent",
    "SnapshotParams",
    "Step",
]

_LINES = 20  # that a training says about itself
_MULTIPLE = 4  # of which a generator makes images, in pixels a side


class SnapshotParams(Block):
    """Which states of the generator the dataset is drawn from."""

    states: PositiveInt  # evenly spaced in training and equally often used; 1: the final generator alone
    since: Annotated[float, Field(ge=0, lt=1)]  # fraction of the training before which none is taken

    def after(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which a snapshot is taken, of so many; the last one is always among them."""
        first = int(self.since * epochs)
        return tuple(first + (epochs - first) * place // self.states for place in range(1, self.states + 1))


class Proxy(Block):
    """The proxy student: a network that learns beside the generator and is kept with the dataset, for comparison."""

    arch: str  # as in `nets.build`
    optimizer: Optimizer
    loss: Logits  # of its logits and the teacher's; what the generator climbs
    terms: Terms = Terms()  # beside it, as for a student; what is absent is off


class GeneratorMethod(BaseMethod):
    """What all generator methods have in common. A method adds its fields, and `start`."""

    steered: ClassVar[bool] = False

    generator: GeneratorParams
    augment: Augment | None  # of each image in training; the image itself is stored
    clamp: bool  # whether teacher and proxy see images clamped to [0, 1] in training, as they will be stored
    optimizer: Optimizer  # of the generator
    batch: Annotated[int, Field(ge=2)]  # images of an iteration
    epochs: PositiveInt  # the unit of the history, of resuming and of snapshots
    iterations: PositiveInt  # of an epoch
    snapshots: SnapshotParams
    bn_mode: Literal["train", "eval"]  # of the generator's BatchNorm layers when it is sampled: the batch's, running

    @property
    def steps(self) -> int:
        """Iterations of the whole training."""
        return self.epochs * self.iterations

    def check(self, channels: int, size: int, classes: int) -> list[str]:  # noqa: ARG002
        """As in `BaseMethod`: the images' size, the number of snapshots."""
        problems: list[str] = []
        if size % _MULTIPLE:
            problems.append(f"{self.key}.generator: images of {size} pixels; expected a multiple of {_MULTIPLE}")
        left = self.epochs - int(self.snapshots.since * self.epochs)
        if self.snapshots.states > left:
            problems.append(
                f"{self.key}.snapshots.states: {self.snapshots.states}: only {left} of {self.epochs} epochs come after "
                f"{self.snapshots.since} of the training; take fewer, or make the epochs shorter and more"
            )
        return problems

    def start(self, run: Run, seed: int) -> "Step":
        """Fresh networks and the method's step.

        Args:
            run: what the fit was given.
            seed: of initial weights and of everything that is random in an iteration.
        """
        raise NotImplementedError

    def fit(self, run: Run) -> Snapshots:
        """Train the generator, and its proxy student if there is one; a killed fit goes on after its last epoch.

        Raises:
            TeacherError: the teacher lacks something that the method looks at.
            ParamsError: as `check` finds, or a named block does not exist or does not fit.
            MethodError: the training collapsed, see `health.require_health`.
            WorkError: the disk is full, or what a killed run left is damaged.
        """
        self.require(run)
        seed = int(torch.randint(2**31, (), generator=run.rng))
        step = self.start(run, seed)
        with step.hooks():
            return _train(self, step, run, seed)


class ProxyMethod(GeneratorMethod):
    """What generator methods with a proxy student have in common, besides."""

    needs: ClassVar[Needs] = Needs(proxy=True)

    proxy: Proxy
    student_steps: PositiveInt  # of the proxy, for each of the generator

    def check(self, channels: int, size: int, classes: int) -> list[str]:
        """As in `GeneratorMethod`, and the proxy."""
        key = f"{self.key}.proxy"
        problems = arch_problems(self.proxy.arch, channels, size, classes, self.batch, key)
        return [*super().check(channels, size, classes), *problems, *loss_problems(self.proxy.loss, key)]


class Latents(NamedTuple):
    """All that is random about a batch."""

    noise: Tensor  # [N, D], z ~ N(0, I)
    augment: Tensor  # [N, DRAWS] in [0, 1), see `augment.augment_with`


class Outputs(NamedTuple):
    """What one iteration leaves to be looked at."""

    scores: dict[str, Tensor]  # named scalars, losses end in "_loss"
    raw: Tensor  # [N, C, H, W] of the generator's step, before clamping and augmentation
    teacher: Tensor  # [N, K] logits of what it was shown of them
    proxy: Tensor | None


class ProxyStudent:
    """The proxy in training: in training mode throughout, as published; with what it minimises."""

    def __init__(self, params: Proxy, run: Run, steps: int, seed: int) -> None:
        """Make the network, and what its terms add to it.

        Args:
            params: the block.
            run: with the teacher, whose normalisation it shares.
            steps: of its training.
            seed: of the initial weights, and of its loss's random numbers.

        Raises:
            ParamsError: the architecture, or a named block, does not exist or does not fit.
            TeacherError: a network has no block of a name that is given.
        """
        teacher, card = run.teacher, run.teacher.card
        self.arch, self._teacher, self._seed = params.arch, teacher, seed
        rng = stream(seed, "proxy/weights")
        self.bare = nets.build(params.arch, len(card.classes), card.channels, card.size, rng=rng)
        shape, rng = (card.channels, card.size, card.size), stream(seed, "proxy/connectors")
        self.loss = Loss(params.loss, params.terms, self.bare, teacher.net, shape, rng)
        for part in (self.bare, self.loss):  # not the normalisation, which is the teacher's
            run.compute.place(part.train())
        self.net = nn.Sequential(teacher.normalise, self.bare)
        self.learner = Learner(nn.ModuleList([self.net, self.loss]), params.optimizer, steps)

    def loss_on(self, images: Tensor, teacher: Tensor, number: int) -> Tensor:
        """The loss of step `number` on images [N, C, H, W] that the teacher labelled [N, K]; inside `loss.hooks`."""
        return self.loss(self._seen(images, self.net(images), teacher, number))["loss"]

    def terms_on(self, images: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """The sum of the terms on blocks, of both networks' last pass, with its way to what made the images."""
        terms = self.loss.beside(self._seen(images, student, teacher, 0), reach_teacher=True)
        return sum(terms.values(), torch.zeros((), device=images.device))

    def ask(self, images: Tensor) -> Tensor:
        """The teacher's logits, without a way back."""
        with torch.no_grad():
            return self._teacher(images)

    def _seen(self, images: Tensor, student: Tensor, teacher: Tensor, number: int) -> Seen:
        def rng() -> torch.Generator:
            return stream(self._seed, "proxy/interpolation", number)

        return Seen(images=images, student=student, target=teacher, forward=self.net, ask=self.ask, rng=rng)


class Step(ABC):
    """A method's iteration, called with its number, and the networks that learn from it."""

    def __init__(self, method: GeneratorMethod, run: Run, seed: int) -> None:
        """Make the generator."""
        card = run.teacher.card
        self.teacher, self.compute, self.seed = run.teacher, run.compute, seed
        self._params = method
        net = build_generator(method.generator, card.mean, card.std, card.size, stream(seed, "generator/weights"))
        run.compute.place(net)
        self.generator = Learner(net, method.optimizer, method.steps)

    @abstractmethod
    def __call__(self, number: int) -> Outputs:
        """One iteration, a function of the learners' states and its number; inside `hooks` alone."""

    def hooks(self) -> AbstractContextManager[None]:
        """While the block lasts, the losses see what they need of the networks' passes."""
        return nullcontext()

    @property
    def learners(self) -> dict[str, Learner]:
        """Everything that learns, by name."""
        return {"generator": self.generator}

    def latents(self, number: int, batches: int) -> list[Latents]:
        """The random numbers of an iteration's batches: a function of (seed, number)."""
        params, device = self._params, self.compute.torch_device()
        rng = stream(self.seed, "generator/latents", number)
        noise = torch.randn(batches, params.batch, params.generator.latent_dim, generator=rng).to(device)
        numbers = torch.rand(batches, params.batch, DRAWS, generator=rng).to(device)
        return [Latents(*pair) for pair in zip(noise, numbers, strict=True)]

    def images(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """The generator's images [N, C, H, W], raw, and as the other networks see them: clamped or not, augmented."""
        raw: Tensor = self.generator.net(latents.noise)
        return raw, augment_with(raw.clamp(0, 1) if self._params.clamp else raw, self._params.augment, latents.augment)

    def labelled(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Images for the proxy alone and the teacher's logits of them, without a way back."""
        with torch.no_grad():
            images = self.images(latents)[1]
            return images, self.teacher(images)


class ProxyStep(Step):
    """The iteration of a method with a proxy student."""

    def __init__(self, method: ProxyMethod, run: Run, seed: int) -> None:
        """Make both networks.

        Raises:
            TeacherError, ParamsError: as `ProxyStudent`.
        """
        super().__init__(method, run, seed)
        self.proxy = ProxyStudent(method.proxy, run, method.steps * method.student_steps, seed)

    def hooks(self) -> AbstractContextManager[None]:
        """While the block lasts, the proxy's loss sees what it needs of both networks' passes."""
        return self.proxy.loss.hooks()

    @property
    def learners(self) -> dict[str, Learner]:
        """Both."""
        return {"generator": self.generator, "proxy": self.proxy.learner}


def _train(params: GeneratorMethod, step: Step, run: Run, seed: int) -> Snapshots:
    """Train to the end, or go on where a killed run stopped, with the same result on the same machine."""
    name, classes = params.key.removeprefix("methods."), len(run.teacher.card.classes)
    states = _States(params, step, run.checkpoint)
    history = states.resume()
    lines = max(1, params.epochs // _LINES)
    for epoch in track(range(len(history), params.epochs), f"{name}: training the generator", unit="epoch"):
        tally = Tally(classes, run.compute.torch_device())
        with seeded(seed, "generator/layers", epoch):
            for number in range(epoch * params.iterations, (epoch + 1) * params.iterations):
                tally.add(*step(number))
        history.append({"epoch": epoch + 1, **tally.epoch()})
        require_health(history, name, classes)
        require_finite({part: learner.net for part, learner in step.learners.items()}, name, epoch + 1)
        states.save(history)
        crash_point("generator:epoch")
        if (epoch + 1) % lines == 0 or epoch + 1 == params.epochs:
            say(f"{name}: epoch {epoch + 1} of {params.epochs}: {summary(history[-1], classes)}")
    net = step.generator.net
    assert isinstance(net, Generator)
    kept = (step.proxy.arch, step.proxy.bare) if isinstance(step, ProxyStep) else None
    return Snapshots(net, params.batch, params.bn_mode, run.teacher, run.compute, states.snapshots(), history, kept)


@dataclass(frozen=True)
class _States:
    """What is on the disk."""

    params: GeneratorMethod
    step: Step
    checkpoint: Checkpoint

    def resume(self) -> list[Epoch]:
        """The history so far; the learners are put into the state they had."""
        state = self.checkpoint.load()
        if state is None:
            return []
        for name, learner in self.step.learners.items():
            learner.load(state["learners"][name])
        return state["history"]

    def save(self, history: list[Epoch]) -> None:
        """Keep the state after an epoch; the snapshot first, since the state says that it is there."""
        if len(history) in self.params.snapshots.after(self.params.epochs):
            self._snapshot(len(history)).save(self.step.generator.net.state_dict())
        crash_point("generator:snapshot")
        learners = {name: learner.state() for name, learner in self.step.learners.items()}
        self.checkpoint.save({"learners": learners, "history": history})

    def snapshots(self) -> dict[int, Mapping[str, Tensor]]:
        """The generator's states, by epoch.

        Raises:
            WorkError: one is damaged or gone.
        """
        found: dict[int, Mapping[str, Tensor]] = {}
        for epoch in self.params.snapshots.after(self.params.epochs):
            kept = self._snapshot(epoch)
            state = kept.load()
            if state is None:
                raise WorkError(f"{kept.path}: gone; delete {self.checkpoint.path} too, to train the generator anew")
            found[epoch] = state
        return found

    def _snapshot(self, epoch: int) -> Checkpoint:
        return self.checkpoint.part(f"generator-{epoch:04d}")
