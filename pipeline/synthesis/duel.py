"""What the adversarial methods share: a generator and a proxy student on two sides of a frozen teacher."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.core.device import Compute
from pipeline.core.params import Block
from pipeline.core.rng import generator
from pipeline.synthesis.generating import GenerationParams, Latents, Side, new_generator, paint
from pipeline.synthesis.proxy import new_proxy
from pipeline.training import Updates
from pipeline.transfer import Attention, Boundary, FeatureTerms

if TYPE_CHECKING:
    from pipeline.teacher.model import Teacher

__all__ = ["Duel", "Opponent"]


class Opponent(Block):
    """The proxy student: a network that is trained beside the generator and kept with the dataset, for comparison."""

    arch: str  # as in `nets.build`
    updates: Updates


class Duel:
    """Both sides, and the teacher between them. The proxy stays in training mode, as published."""

    def __init__(
        self,
        params: GenerationParams,
        opponent: Opponent,
        proxy_steps: int,
        teacher: "Teacher",
        seed: int,
        compute: Compute,
        attention: Attention | None = None,
        boundary: Boundary | None = None,
    ) -> None:
        """Make both networks, and the terms between the blocks of proxy and teacher.

        Args:
            params: of the generator.
            opponent: of the proxy.
            proxy_steps: the length of its schedule.
            teacher: on its device.
            seed: of the initial weights.
            compute: where, in which precision.
            attention: a term of the proxy's loss, or None.
            boundary: another.

        Raises:
            ParamsError: the proxy's architecture, or a named block, does not exist or does not fit.
        """
        info = teacher.info
        proxy = new_proxy(
            opponent.arch, len(info.classes), teacher.normalise, info.size, generator(seed, "proxy/weights")
        )
        net, shape = proxy[1], (info.channels, info.size, info.size)
        self.has_terms = attention is not None or boundary is not None
        rng = generator(seed, "proxy/connectors")
        self.terms = FeatureTerms(net, teacher.net, shape, attention, boundary, rng)
        for part in (net, self.terms):  # not the normalisation, which is the teacher's
            compute.place(part.train())
        self.teacher, self.student, self.compute = teacher, proxy, compute
        self.proxy = (opponent.arch, net)
        self._params = params
        self.sides = {
            "generator": Side(
                new_generator(params, teacher, generator(seed, "generator/weights"), compute),
                params.updates,
                params.steps,
            ),
            "proxy": Side(nn.ModuleList([proxy, self.terms]), opponent.updates, proxy_steps),
        }

    def images(self, latents: Latents) -> Tensor:
        """The generator's images as both networks see them."""
        return paint(self._params, self.sides["generator"].net, latents)

    def fresh(self, latents: Latents) -> Tensor:
        """Images for the proxy alone, without a way back to the generator."""
        with torch.no_grad():
            return self.images(latents)

    def labels(self, images: Tensor) -> Tensor:
        """The teacher's logits, without a way back."""
        with torch.no_grad():
            return self.teacher(images)
