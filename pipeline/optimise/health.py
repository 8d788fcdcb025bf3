"""Whether a generator in training is well: numbers of each epoch, and when to give up."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import MethodError

__all__ = ["Epoch", "Tally", "require_finite", "require_health", "summary"]

Epoch = dict[str, float]

_PATIENCE = 3  # epochs in a row that look collapsed; a young generator may look so for one or two
_ONE_CLASS = 0.01  # of log K, the entropy of the class histogram
_FLAT = 1e-3  # [0, 1] units: spread between stored images under which they are all the same picture


class Tally:
    """Sums over the iterations of an epoch, kept on the device: reading one would make the host wait."""

    def __init__(self, classes: int, device: torch.device) -> None:
        """Nothing seen yet."""
        self._sums: dict[str, Tensor] = {}
        self._histogram = torch.zeros(classes, dtype=torch.int64, device=device)
        self._iterations, self._classes = 0, classes

    @torch.no_grad()
    def add(self, scores: dict[str, Tensor], raw: Tensor, teacher: Tensor, proxy: Tensor | None) -> None:
        """Count an iteration.

        Args:
            scores: named scalars, to be averaged; the losses among them.
            raw: [N, C, H, W] as the generator put them out: neither clamped nor augmented, which would make one and
                the same picture look like many.
            teacher: [N, K] logits of what it was shown of them.
            proxy: likewise, or None where there is no proxy.
        """
        beliefs, choice, raw = teacher.float().softmax(1), teacher.argmax(1), raw.float()
        found = {
            **scores,
            "confidence": beliefs.amax(1).mean(),
            "spread": raw.clamp(0, 1).std(0).mean(),  # between images as they would be stored
            "raw_spread": raw.std(0).mean(),
            "outside": ((raw < 0) | (raw > 1)).float().mean(),  # fraction of the pixels beyond [0, 1]
        }
        if proxy is not None:
            found["disagreement"] = (proxy.argmax(1) != choice).float().mean()
            found["proxy_confidence"] = proxy.float().softmax(1).amax(1).mean()
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double()
        self._histogram += torch.bincount(choice, minlength=self._classes)
        self._iterations += 1

    def epoch(self) -> Epoch:
        """Means over the iterations, and the entropy in nats of all the classes that the teacher saw."""
        means = {name: float(value) / self._iterations for name, value in self._sums.items()}
        shares = self._histogram.double() / self._histogram.sum()
        entropy = float(torch.special.entr(shares).sum())
        return means | {"class_entropy": entropy, "rarest_class": float(shares.min())}


def require_health(history: Sequence[Epoch], method: str, classes: int) -> None:
    """Stop a training that has collapsed, before a useless dataset is written.

    Args:
        history: the epochs so far, as `Tally.epoch` gave them.
        method: its name, for the message.
        classes: K.

    Raises:
        MethodError: a value of the last epoch is not finite; or for three epochs in a row the teacher saw one class
            only, or all images were the same.
    """
    last, where = history[-1], f"methods.{method}: epoch {len(history)}"
    broken = [name for name, value in last.items() if not math.isfinite(value)]
    if broken:
        raise MethodError(f"{where}: {broken[0]} is {last[broken[0]]}; lower the learning rates or clip the gradients")
    recent = history[-_PATIENCE:]
    if len(recent) < _PATIENCE:
        return
    if all(epoch["spread"] < _FLAT for epoch in recent):
        raise MethodError(
            f"{where}: the generator collapsed: all its images are the same for {_PATIENCE} epochs (spread "
            f"{last['spread']:.1g}, {last['outside']:.0%} of the pixels beyond [0, 1]); lower its learning rate, or "
            "try another seed"
        )
    if all(epoch["class_entropy"] < _ONE_CLASS * math.log(classes) for epoch in recent):
        raise MethodError(
            f"{where}: the generator collapsed: the teacher sees one class in all its images for {_PATIENCE} epochs; "
            "lower its learning rate, use larger batches, or try another seed"
        )


def require_finite(nets: Mapping[str, nn.Module], method: str, epoch: int) -> None:
    """Stop a training whose last step broke a network, which no loss has seen yet.

    Args:
        nets: everything that learns, by name.
        method: its name, for the message.
        epoch: epochs done.

    Raises:
        MethodError: a weight or a running statistic is not finite.
    """
    for name, net in nets.items():
        if not bool(torch.stack([torch.isfinite(value).all() for value in net.state_dict().values()]).all()):
            raise MethodError(
                f"methods.{method}: epoch {epoch}: weights of the {name} are not finite; lower its learning rate or "
                "clip its gradients"
            )


def summary(epoch: Epoch, classes: int) -> str:
    """The epoch in one line, for a person who waits."""
    parts = [
        f"teacher sure {epoch['confidence']:.2f}",
        f"classes {epoch['class_entropy']:.2f} of {math.log(classes):.2f} nats",
    ]
    if "disagreement" in epoch:
        parts.append(f"proxy disagrees {epoch['disagreement']:.2f}")
    losses = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in epoch.items() if name.endswith("loss")]
    return ", ".join([*parts, *losses])
