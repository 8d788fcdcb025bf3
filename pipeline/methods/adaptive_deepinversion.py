"""Adaptive DeepInversion: DeepInversion that competes with a proxy student, Yin et al. (CVPR 2020), section 3.3."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PositiveInt
from safetensors.torch import save
from torch import Tensor

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.files import crash_point
from pipeline.core.images import to_uint8
from pipeline.core.rng import generator
from pipeline.methods import Attachment, Batch, Source, deepinversion
from pipeline.methods.deepinversion import Inversion, Rival
from pipeline.synthesis.proxy import ProxyParams, new_proxy, train_proxy
from pipeline.teacher.model import Teacher

__all__ = ["Method"]


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

    attaches: ClassVar[bool] = True

    rival: Rival
    rounds: PositiveInt
    images: PositiveInt  # that each round adds to what the proxy learns from
    proxy: ProxyParams

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:
        """Train the proxy, round by round; an interrupted fit goes on after its last group of images or epoch.

        Raises:
            TeacherError: the teacher has no BatchNorm layers.
            ParamsError: the proxy's architecture does not exist or does not fit.
            TrainingError: the proxy's loss is not finite.
        """
        seed = int(torch.randint(2**31, (), generator=rng))
        rounds = _Rounds(self, teacher, compute, generator(seed, "proxy/weights"))
        state = checkpoint.load() or {"proxies": []}
        rounds.proxies += state["proxies"]
        fit = _Fit(self, rounds, seed, checkpoint)
        while len(rounds.proxies) < self.rounds:
            fit.round(len(rounds.proxies))
            checkpoint.save({"proxies": rounds.proxies})
        for part in checkpoint.path.parent.glob(f"{checkpoint.path.stem}-round*"):
            part.unlink(missing_ok=True)
        return rounds


class _Rounds:
    """The source: DeepInversion without a rival, and against the proxy of each round."""

    def __init__(self, method: Method, teacher: Teacher, compute: Compute, rng: torch.Generator) -> None:
        info = teacher.info
        self.teacher, self.compute, self._arch = teacher, compute, method.proxy.arch
        self.proxy = new_proxy(method.proxy.arch, len(info.classes), teacher.normalise, info.size, rng)
        compute.place(self.proxy)
        self.proxies: list[Mapping[str, Tensor]] = []  # what each round left of the proxy's weights
        self._alone = Inversion(method, teacher, compute)
        self._against = Inversion(method, teacher, compute, (method.rival, self.proxy[1]))

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        return self.compete(index % (len(self.proxies) + 1), count, rng, index)

    def attachments(self) -> list[Attachment]:
        """The proxy's weights after each round, without the normalisation."""
        digits = max(2, len(str(len(self.proxies))))  # so that the last round is the last name
        return [
            Attachment(
                f"proxy-{number:0{digits}d}.safetensors",
                "proxy",
                {"arch": self._arch, "round": number},
                save({name: value.contiguous() for name, value in weights.items()}),
            )
            for number, weights in enumerate(self.proxies, start=1)
        ]

    def compete(self, turn: int, count: int, rng: torch.Generator, index: int) -> Batch:
        """Images against the proxy as round `turn` left it; turn 0: against none."""
        if turn == 0:
            return self._alone.draw(count, rng, index)
        self.load(self.proxies[turn - 1])
        return self._against.draw(count, rng, index)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights into the proxy and freeze it."""
        self.proxy[1].load_state_dict(weights)
        self.proxy[1].eval().requires_grad_(requires_grad=False)


class _Fit:
    """One round after the other."""

    def __init__(self, method: Method, rounds: _Rounds, seed: int, checkpoint: Checkpoint) -> None:
        self._method, self._rounds, self._seed, self._checkpoint = method, rounds, seed, checkpoint

    def round(self, number: int) -> None:
        """Make the round's images, train the proxy on all images so far, keep its weights."""
        method, rounds = self._method, self._rounds
        images = torch.cat([self._images(earlier) for earlier in range(number + 1)])
        net = rounds.proxy[1]
        if number:
            rounds.load(rounds.proxies[-1])
        net.requires_grad_(requires_grad=True)
        state = self._part(f"round{number}")
        seed = int(torch.randint(2**31, (), generator=generator(self._seed, "proxy/round", number)))
        train_proxy(rounds.proxy, images, rounds.teacher, method.proxy, seed, state, rounds.compute)
        rounds.proxies.append({name: value.detach().cpu().clone() for name, value in net.state_dict().items()})
        rounds.load(rounds.proxies[-1])
        crash_point("proxy:round")

    def _images(self, number: int) -> Tensor:
        """The images of one round, uint8, made in pieces that are kept on disk."""
        method = self._method
        size = method.group * method.groups
        return torch.cat([
            self._piece(number, piece, min(size, method.images - first))
            for piece, first in enumerate(range(0, method.images, size))
        ])  # fmt: skip

    def _piece(self, number: int, piece: int, count: int) -> Tensor:
        kept = self._part(f"round{number}-{piece}")
        state = kept.load()
        if state is None:
            rng = generator(self._seed, f"proxy/images/{number}", piece)
            state = {"images": to_uint8(self._rounds.compete(number, count, rng, piece).images)}
            kept.save(state)
            crash_point("proxy:images")
        return state["images"]

    def _part(self, name: str) -> Checkpoint:
        """A file beside the fit's own."""
        path = self._checkpoint.path
        return Checkpoint(path.with_name(f"{path.stem}-{name}{path.suffix}"))
