"""Numbers of an epoch against numpy, and what counts as a collapse."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

from pipeline.core.errors import MethodError
from pipeline.optimise.health import Tally, require_finite, require_health, summary


def batches(count: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images beyond [0, 1], a teacher's logits of five classes, a proxy's."""
    rng = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(7, 2, 3, 3, generator=rng),
            2 * torch.randn(7, 5, generator=rng),
            2 * torch.randn(7, 5, generator=rng),
        )
        for _ in range(count)
    ]


def test_an_epochs_numbers_against_numpy() -> None:
    seen = batches()
    tally = Tally(5, torch.device("cpu"))
    for place, (images, teacher, proxy) in enumerate(seen):
        tally.add({"loss": torch.tensor(place + 0.5)}, images, teacher, proxy)
    found = tally.epoch()

    images, teacher, proxy = (np.stack([batch[part].double().numpy() for batch in seen]) for part in range(3))
    choice = teacher.argmax(2)
    shares = np.bincount(choice.ravel(), minlength=5) / choice.size
    assert found == pytest.approx({
        "loss": 1.5,
        "confidence": softmax(teacher, axis=2).max(2).mean(),
        "spread": images.clip(0, 1).std(1, ddof=1).mean(),
        "raw_spread": images.std(1, ddof=1).mean(),
        "outside": ((images < 0) | (images > 1)).mean(),
        "disagreement": (proxy.argmax(2) != choice).mean(),
        "proxy_confidence": softmax(proxy, axis=2).max(2).mean(),
        "class_entropy": -sum(share * math.log(share) for share in shares if share),
        "rarest_class": shares.min(),
    }, rel=1e-5)  # fmt: skip


def test_classes_are_counted_over_the_epoch_not_within_a_batch() -> None:
    tally = Tally(3, torch.device("cpu"))
    for label in range(3):  # each batch of one class
        tally.add({}, torch.rand(4, 1, 2, 2), torch.eye(3)[[label] * 4], None)
    found = tally.epoch()
    assert found["class_entropy"] == pytest.approx(math.log(3))
    assert found["rarest_class"] == pytest.approx(1 / 3)
    assert "disagreement" not in found


WELL = {"epoch": 1.0, "loss": 0.1, "spread": 0.2, "outside": 0.25, "class_entropy": 2.0}
ONE_CLASS = {**WELL, "class_entropy": 0.0}
NEARLY = {**WELL, "class_entropy": 0.1}
FLAT = {**WELL, "spread": 1e-5}


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ([ONE_CLASS] * 3, "epoch 5: the generator collapsed: the teacher sees one class in all its images"),
        ([FLAT] * 3, "epoch 5: the generator collapsed: all its images are the same"),
        ([{**WELL, "loss": math.nan}], "epoch 3: loss is nan; lower the learning rates or clip"),
        ([{**WELL, "confidence": math.inf}], "epoch 3: confidence is inf"),
    ],
)
def test_a_collapse_stops_the_training_and_says_when_and_why(last: list[Any], reason: str) -> None:
    with pytest.raises(MethodError, match=rf"methods.zskt: {reason}"):
        require_health([WELL, WELL, *last], "zskt", 10)


@pytest.mark.parametrize(
    "last",
    [
        [ONE_CLASS] * 2, [FLAT] * 2, [ONE_CLASS, ONE_CLASS, NEARLY], [FLAT, FLAT, WELL], [NEARLY] * 3,
        [ONE_CLASS, WELL, ONE_CLASS, ONE_CLASS], [FLAT, ONE_CLASS, FLAT],
    ],
)  # fmt: skip
def test_a_transient_does_not(last: list[Any]) -> None:
    for length in range(len(last) + 1):
        require_health([WELL, *last[:length]], "zskt", 10)


@pytest.mark.parametrize("broken", ["weight", "running_var"])
def test_a_network_that_is_not_finite_stops_the_training(broken: str) -> None:
    nets = {"generator": nn.Linear(2, 2), "proxy": nn.BatchNorm1d(3)}
    require_finite(nets, "dfad", 4)
    getattr(nets["proxy"], broken).data[1] = math.nan
    with pytest.raises(MethodError, match=r"methods.dfad: epoch 4: weights of the proxy are not finite; lower its"):
        require_finite(nets, "dfad", 4)


def test_a_line_says_what_a_person_wants_to_know() -> None:
    epoch = {"confidence": 0.834, "class_entropy": 2.2, "disagreement": 0.25, "generator_loss": -1.2345, "spread": 0.1}
    expected = "teacher sure 0.83, classes 2.20 of 2.30 nats, proxy disagrees 0.25, generator loss -1.23"
    assert summary(epoch, 10) == expected
    del epoch["disagreement"]
    assert "proxy" not in summary(epoch, 10)
