import numpy as np
import pytest
import torch

from pipeline.core.errors import ParamsError
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.losses import Seen
from pipeline.losses.interpolation import Term, beta_shares, mix
from pipeline.losses.logits import l1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha):
    shares = beta_shares(alpha, (40000,), stream(0, "test")).double().numpy()
    assert shares.dtype == np.float64
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03), "of Beta(alpha, alpha)"


def test_shares_come_from_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (beta_shares(1.0, (8,), stream(seed, "test")) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32


def interpolated(labels: str, images: torch.Tensor, target: torch.Tensor) -> tuple[list[torch.Tensor], float]:
    """The images that the student is asked about, and the term with weight 3."""
    asked: list[torch.Tensor] = []
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(18, 5))
    net.requires_grad_(False)

    def student(seen: torch.Tensor) -> torch.Tensor:
        asked.append(seen)
        return torch.zeros(len(seen), 5)

    term = build(Term, {"weight": 3.0, "alpha": 1.0, "labels": labels}, "term").bind(net, net, (2, 3, 3), stream(0, ""))
    seen = Seen(images, torch.zeros(4, 5), target, student, net if labels == "teacher" else None, lambda: stream(7, ""))
    loss = float(term(seen, l1))
    return [*asked, net(asked[0])], loss


def test_images_and_interpolated_labels_are_mixed_with_the_same_neighbour_in_the_same_shares():
    rng = stream(0, "test")
    images, target = (torch.rand(*shape, generator=rng) for shape in ((4, 2, 3, 3), (4, 5)))
    (mixed, _), loss = interpolated("interpolated", images, target)
    lam = beta_shares(1.0, (4,), stream(7, ""))
    labels = torch.stack([own * target[i] + (1 - own) * target[i - 1] for i, own in enumerate(lam.tolist())])
    for index, own in enumerate(lam.tolist()):
        torch.testing.assert_close(mixed[index], own * images[index] + (1 - own) * images[index - 1])
    assert loss == pytest.approx(3 * float(labels.abs().mean()), rel=1e-5)


def test_a_teacher_labels_the_mixed_images_themselves():
    rng = stream(0, "test")
    images, target = (torch.rand(*shape, generator=rng) for shape in ((4, 2, 3, 3), (4, 5)))
    (mixed, answer), loss = interpolated("teacher", images, target)
    assert loss == pytest.approx(3 * float(answer.abs().mean()), rel=1e-5)
    assert not torch.equal(mixed, images)


def test_mixed_images_keep_their_memory_layout():
    images = torch.rand(4, 3, 8, 8, generator=stream(0, "test")).contiguous(memory_format=torch.channels_last)
    assert mix(images, torch.rand(4)).stride() == images.stride()


@pytest.mark.parametrize(("key", "value"), [("weight", 0), ("alpha", 0.0), ("labels", "stored")])
def test_impossible_settings_are_named(key, value):
    block = {"weight": 1.0, "alpha": 1.0, "labels": "interpolated", key: value}
    with pytest.raises(ParamsError, match=rf"distill\.terms\.interpolation\.{key}: "):
        build(Term, block, "distill.terms.interpolation")
