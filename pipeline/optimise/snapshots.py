"""A trained generator as a source: states along its training, equally often used."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..classifier import Teacher
from ..core.device import Compute
from ..core.files import csv_bytes
from ..core.images import from_uint8, to_uint8
from ..nets.generators import Generator, GeneratorCard, generator_bytes
from .health import Epoch
from .pixels import balanced
from .source import Attachment, Batch

__all__ = ["Snapshots"]


class Snapshots:
    """Draws images from a generator as it was after several epochs.

    Images leave through the teacher's own normalisation, clamped to [0, 1] and rounded to 256 levels. They are steered
    towards no class: each is filed under the one that the teacher sees in what is stored.
    """

    def __init__(
        self,
        net: Generator,
        batch: int,
        bn_mode: Literal["train", "eval"],
        teacher: Teacher,
        compute: Compute,
        states: Mapping[int, Mapping[str, Tensor]],
        history: Sequence[Epoch],
        proxy: tuple[str, nn.Module] | None,
    ) -> None:
        """Take over a trained generator.

        Args:
            net: on the device.
            batch: images per forward pass, as in training, where the batch's statistics depend on it.
            bn_mode: of the BatchNorm layers' statistics: ``train``, the batch's own, or ``eval``, the running ones.
            teacher: whose images these are, for the generators' cards.
            compute: the device; sampling is in float32.
            states: the generator's weights by epoch.
            history: of the training.
            proxy: architecture and network, without normalisation, of the student beside the generator.
        """
        self.epochs = tuple(states)
        self.history, self.proxy = history, proxy
        self._states = [dict(state) for state in states.values()]
        self._net = net.requires_grad_(requires_grad=False).train(bn_mode == "train")
        self._batch, self._teacher, self._compute = batch, teacher, compute

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        """As in `Source`: each state makes an equal share of every shard; what does not divide, random ones make."""
        turns = balanced(count, len(self._states), rng)
        turns = turns[torch.randperm(count, generator=rng)]
        card = self._teacher.card
        images = torch.empty(count, card.channels, card.size, card.size)
        for turn in range(len(self._states)):
            places = (turns == turn).nonzero().flatten()
            images[places] = self._images(turn, len(places), rng)
        return Batch(from_uint8(to_uint8(images)), None)

    def attachments(self) -> list[Attachment]:
        """The generators, the proxy if there is one, the history."""
        net, teacher = self._net, self._teacher.card
        mode: Literal["train", "eval"] = "train" if net.training else "eval"
        card = GeneratorCard(generator=net.params, mean=teacher.mean, std=teacher.std, size=teacher.size, bn_mode=mode)
        params = net.params.model_dump(mode="json")
        found = [
            Attachment(
                f"generator-{epoch:04d}.safetensors",
                "generator",
                {**params, "epoch": epoch},
                generator_bytes(state, card),
            )
            for epoch, state in zip(self.epochs, self._states, strict=True)
        ]
        if self.proxy is not None:
            arch, student = self.proxy
            found.append(Attachment("proxy.safetensors", "proxy", {"arch": arch}, _stored(student.state_dict())))
        return [*found, Attachment("fit.csv", "history", {"epochs": len(self.history)}, csv_bytes(self.history))]

    @torch.no_grad()
    def _images(self, turn: int, count: int, rng: torch.Generator) -> Tensor:
        """[count, C, H, W] of one state, clamped; whole batches are made, for their statistics' sake."""
        self._net.load_state_dict(self._states[turn])
        noise = torch.randn(-(-count // self._batch) * self._batch, self._net.params.latent_dim, generator=rng)
        if not self._net.training:  # images do not depend on their neighbours
            noise = noise[:count]
        device = self._compute.torch_device()
        made = [self._net(part.to(device)).cpu() for part in noise.split(self._batch)]
        return torch.cat(made)[:count].clamp(0, 1) if made else torch.empty(0)


def _stored(state: Mapping[str, Tensor]) -> bytes:
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return save(tensors)
