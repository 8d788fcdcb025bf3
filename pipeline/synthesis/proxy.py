"""A proxy student: a throw-away network that methods which need a student to work against train for themselves."""

from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from pipeline import nets, transfer
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.images import Normalise
from pipeline.core.params import Block
from pipeline.training import Pool, Recipe, View, fit

__all__ = ["ProxyParams", "new_proxy", "train_proxy"]


class ProxyParams(Block):
    """A proxy and how it learns from synthetic images that the teacher labels live."""

    arch: str  # as in `nets.build`
    temperature: PositiveFloat  # tau in tau^2 KL(teacher / tau || proxy / tau)
    recipe: Recipe


def new_proxy(arch: str, classes: int, normalise: Normalise, size: int, rng: torch.Generator) -> nn.Sequential:
    """A fresh proxy, [N, C, H, W] images in [0, 1] to [N, K] logits: the teacher's normalisation, then the network.

    Raises:
        ParamsError: no such architecture, or one that does not fit these dimensions.
    """
    net = nets.build(arch, classes, normalise.mean.shape[1], size, rng=rng)
    return nn.Sequential(normalise, net)


def train_proxy(
    proxy: nn.Module,
    images: Tensor,
    teacher: Callable[[Tensor], Tensor],
    params: ProxyParams,
    seed: int,
    checkpoint: Checkpoint,
    compute: Compute,
) -> None:
    """Train a proxy in place on uint8 images [N, C, H, W], of which the teacher labels every view.

    Raises:
        TrainingError: the loss is not finite.
    """

    def objective(logits: Tensor, view: View) -> dict[str, Tensor]:
        with torch.no_grad():
            label = teacher(view.images)
        return transfer.distillation(logits, label, params.temperature)

    pool = Pool(images, {}, compute.torch_device())
    fit(proxy, pool, objective, params.recipe, compute, seed, checkpoint, what=f"training the proxy {params.arch}")
