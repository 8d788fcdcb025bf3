"""BatchNorm statistics: how a batch of images differs, at each normalisation layer, from the data of the training."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..nets import BatchNorm, batch_norms

__all__ = ["BatchNormStatistics", "moments"]


class BatchNormStatistics:
    """While it is open, every pass through a network adds up how far its BatchNorm inputs are from what they were.

    R = sum over layers l of |mean_l(x) - running_mean_l|_2 + |var_l(x) - running_var_l|_2, Yin et al., "Dreaming to
    Distill" (CVPR 2020), equation 4: Euclidean norms over channels, not squared; mean and (biased) variance over the
    images of a group and over pixels. The released ImageNet script multiplies the first layer's term by 10, which the
    paper does not mention; `first` is that factor.

    A context manager: the hooks are there only inside the block and are gone when it ends, however it ends. The
    released scripts register theirs anew for every batch and never remove them. One object may be opened many times.
    """

    def __init__(self, net: nn.Module, group: int, first: float) -> None:
        """Look at a network; nothing is changed on it.

        Args:
            net: in evaluation mode, so that its running statistics stay as they are.
            group: images that share statistics; a batch holds a whole number of groups, one after the other.
            first: factor on the term of the layer that runs first.
        """
        self.group = group
        self._first = first
        self.layers = batch_norms(net)
        self._terms: list[Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> "BatchNormStatistics":
        """Start to look."""
        self._handles = [layer.register_forward_pre_hook(self._look) for layer in self.layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove every hook and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._terms = [], []

    def take(self) -> Tensor:
        """R of the pass since the last call, [groups] float32, with its graph; it is forgotten here."""
        first, *rest = self._terms
        self._terms = []
        return torch.stack([self._first * first, *rest]).sum(0)

    def _look(self, layer: BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        groups = len(inputs[0]) // self.group
        mean, variance = moments(inputs[0], layer.running_mean, groups)
        norm = torch.linalg.vector_norm
        self._terms.append(norm(mean, dim=1) + norm(variance - layer.running_var, dim=1))


def moments(maps: Tensor, shift: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean less `shift`, and biased variance, per group and channel.

    Both come from one pass over the maps, in float32 or better: the sums of d and d^2, where d = x - shift. With the
    layer's running mean as `shift`, d is small and E[d^2] - E[d]^2 loses no digits.

    Args:
        maps: [N, C, ...], any float type.
        shift: [C].
        groups: the batch holds so many groups of N / groups consecutive images.

    Returns:
        Two tensors [groups, C].
    """
    if torch.compiler.is_compiling():  # the compiler fuses the passes, and writes the gradient itself
        return _moments(maps, shift, groups)[:2]
    return _Moments.apply(maps, shift, groups)  # pyright: ignore[reportReturnType]


def _moments(maps: Tensor, shift: Tensor, groups: int) -> tuple[Tensor, Tensor, int]:
    count = maps.numel() // (maps.shape[1] * groups)
    wide = maps if maps.dtype == torch.float64 else maps.float()
    deviation = (wide.flatten(2) if maps.dim() > 2 else wide.unsqueeze(2)) - shift[:, None]
    mean = deviation.sum(2).unflatten(0, (groups, -1)).sum(1) / count
    square = (deviation * deviation).sum(2).unflatten(0, (groups, -1)).sum(1) / count
    return mean, square - mean * mean, count


class _Moments(torch.autograd.Function):
    """`_moments` with the gradient in one pass: per channel it is affine in the maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, shift: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        mean, variance, ctx.count = _moments(maps, shift, groups)
        ctx.save_for_backward(maps, shift, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        maps, shift, mean = ctx.saved_tensors
        to_mean, to_variance = gradients
        slope = to_variance * (2 / ctx.count)
        offset = to_mean / ctx.count - slope * (mean + shift)
        shape = (*maps.shape[:2], *[1] * (maps.dim() - 2))
        slope, offset = (_spread(value, len(maps)).view(shape) for value in (slope, offset))
        # In float32 until the end: the two terms cancel where a channel's mean is large beside its spread.
        return (maps * slope).add_(offset).to(maps.dtype), None, None


def _spread(values: Tensor, count: int) -> Tensor:
    """[groups, C] to [count, C]: each group's row for all its images."""
    return values.repeat_interleave(count // len(values), 0)
