"""Adaptive DeepInversion: DeepInversion that competes with a proxy student, Yin et al. (CVPR 2020), section 3.3."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from safetensors.torch import save
from torch import Tensor, nn

from .. import nets
from ..core.files import crash_point
from ..core.images import to_uint8
from ..core.params import Block
from ..core.rng import stream
from ..losses import Logits, Loss, Seen, Terms
from ..optimise.network import Minibatch, Pool, Recipe, fit
from ..optimise.source import Attachment, Batch, Needs, Numbered, Run, arch_problems, loss_problems
from . import deepinversion
from .deepinversion import Inversion, Rival

__all__ = ["Method"]


class Competition(Block):
    """How much the images should puzzle the proxy."""

    weight: PositiveFloat  # alpha_c, the weight of 1 - JS
    temperature: PositiveFloat  # tau, of the predictions that are compared


class Proxy(Recipe):
    """The proxy student, and how it learns from images of which the teacher labels every augmentation."""

    arch: str  # as in `nets.build`
    loss: Logits
    terms: Terms = Terms()  # beside it, as for a student; what is absent is off


class Method(deepinversion.Method):
    """DeepInversion with a further term, weight * (1 - JS(teacher, proxy)), which asks for images they disagree on.

    In the paper the student is trained while images are made, on all images so far, and each new batch competes with
    it. Here that happens ahead of time, with a proxy student of its own: round 1 makes `images` images
    without competition and trains the proxy on them, every further round makes as many that compete with the proxy as
    it is by then, and trains it on all of them. What each round left of the proxy is kept. Of the dataset's shards one
    in rounds + 1 does not compete, as in the paper's growing set, and each of the others competes with the proxy of
    its round.

    Published settings: weight 10 for CIFAR-10 and 0.2 for ImageNet, temperature 3 (the released code).
    Departures: see `jensen_shannon`. The released code competes with a ResNet-18 that was trained on ImageNet, which
    is no student; the paper's is.
    """

    needs: ClassVar[Needs] = Needs(batch_norm=True, proxy=True)

    competition: Competition
    rounds: PositiveInt
    images: PositiveInt  # that each round adds to what the proxy learns from
    proxy: Proxy

    def check(self, channels: int, size: int, classes: int) -> list[str]:
        """As in `BaseMethod`: DeepInversion's, and the proxy."""
        proxy, key = self.proxy, f"{self.key}.proxy"
        problems = arch_problems(proxy.arch, channels, size, classes, proxy.batch, key)
        return [*super().check(channels, size, classes), *problems, *loss_problems(proxy.loss, key)]

    def fit(self, run: Run) -> Numbered:
        """Train the proxy, round by round; an interrupted fit goes on after its last group of images or epoch.

        Raises:
            TeacherError: the teacher has no BatchNorm layers.
            ParamsError: as `check` finds, or a named block does not exist or does not fit.
            TrainingError: the proxy's loss is not finite.
        """
        self.require(run)
        seed = int(torch.randint(2**31, (), generator=run.rng))
        rounds = _Rounds(self, run, seed)
        state = run.checkpoint.load() or {"proxies": []}
        rounds.proxies += state["proxies"]
        while len(rounds.proxies) < self.rounds:
            rounds.train(len(rounds.proxies))
            run.checkpoint.save({"proxies": rounds.proxies})
        for part in run.checkpoint.path.parent.glob(f"{run.checkpoint.path.stem}-round*"):
            part.unlink(missing_ok=True)
        return rounds


class _Rounds:
    """The source: DeepInversion without a rival, and against the proxy of each round."""

    def __init__(self, method: Method, run: Run, seed: int) -> None:
        self.method, self.run, self.seed = method, run, seed
        card, rng = run.teacher.card, stream(seed, "proxy/weights")
        self.bare = nets.build(method.proxy.arch, len(card.classes), card.channels, card.size, rng=rng)
        self.proxy = nn.Sequential(run.teacher.normalise, self.bare)
        run.compute.place(self.proxy)
        self.proxies: list[Mapping[str, Tensor]] = []  # what each round left of the proxy's weights
        self._alone = Inversion(method, run)
        competition = method.competition
        self._against = Inversion(method, run, Rival(self.bare, competition.weight, competition.temperature))

    def draw_numbered(self, count: int, rng: torch.Generator, number: int) -> Batch:
        """As in `Numbered`: shards take turns between all rounds and none."""
        return self.compete(number % (len(self.proxies) + 1), count, rng)

    def attachments(self) -> list[Attachment]:
        """The proxy's weights after each round, without the normalisation."""
        digits = max(2, len(str(len(self.proxies))))  # so that the last round is the last name
        return [
            Attachment(
                f"proxy-{number:0{digits}d}.safetensors",
                "proxy",
                {"arch": self.method.proxy.arch, "round": number},
                save({name: value.contiguous() for name, value in weights.items()}),
            )
            for number, weights in enumerate(self.proxies, start=1)
        ]

    def compete(self, turn: int, count: int, rng: torch.Generator) -> Batch:
        """Images against the proxy as round `turn` left it; turn 0: against none."""
        if turn == 0:
            return self._alone.draw(count, rng)
        self.load(self.proxies[turn - 1])
        return self._against.draw(count, rng)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights into the proxy and freeze it."""
        self.bare.load_state_dict(weights)
        self.bare.eval().requires_grad_(requires_grad=False)

    def train(self, number: int) -> None:
        """Make the round's images, train the proxy on all images so far, keep its weights."""
        run, params, net = self.run, self.method.proxy, self.bare
        images = torch.cat([self._images(earlier) for earlier in range(number + 1)])
        if number:
            self.load(self.proxies[-1])
        net.requires_grad_(requires_grad=True)
        seed = int(torch.randint(2**31, (), generator=stream(self.seed, "proxy/round", number)))
        objective = _Objective(params, self.proxy, run, seed)
        pool = Pool(images, {}, run.compute.torch_device())
        state, what = run.checkpoint.part(f"round{number}"), f"training the proxy {params.arch}"
        with objective.loss.hooks():
            fit(self.proxy, pool, objective, params, run.compute, seed, state, what=what)
        self.proxies.append({name: value.detach().cpu().clone() for name, value in net.state_dict().items()})
        self.load(self.proxies[-1])
        crash_point("proxy:round")

    def _images(self, number: int) -> Tensor:
        """The images of one round, uint8, made in pieces that are kept on disk."""
        method = self.method
        size = method.group * method.groups
        return torch.cat([
            self._piece(number, piece, min(size, method.images - first))
            for piece, first in enumerate(range(0, method.images, size))
        ])  # fmt: skip

    def _piece(self, number: int, piece: int, count: int) -> Tensor:
        kept = self.run.checkpoint.part(f"round{number}-{piece}")
        state = kept.load()
        if state is None:
            rng = stream(self.seed, f"proxy/images/{number}", piece)
            state = {"images": to_uint8(self.compete(number, count, rng).images)}
            kept.save(state)
            crash_point("proxy:images")
        return state["images"]


class _Objective(nn.Module):
    """What the proxy minimises. Its parameters are those of the terms, and learn along."""

    def __init__(self, params: Proxy, proxy: nn.Sequential, run: Run, seed: int) -> None:
        super().__init__()
        card, rng = run.teacher.card, stream(seed, "proxy/connectors")
        shape = (card.channels, card.size, card.size)
        self.loss = Loss(params.loss, params.terms, proxy[1], run.teacher.net, shape, rng)
        # In a tuple, so that the networks are no part of this module.
        self._nets, self._seed = (proxy, run.teacher), seed

    def forward(self, logits: Tensor, batch: Minibatch) -> dict[str, Tensor]:
        """The loss, and where there are terms each summand."""

        def draws() -> torch.Generator:
            return stream(self._seed, "proxy/interpolation", batch.step)

        target = self._ask(batch.images)
        return self.loss(Seen(batch.images, logits, target, forward=self._nets[0], ask=self._ask, rng=draws))

    def _ask(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._nets[1](images)
