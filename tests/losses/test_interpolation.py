import numpy as np
import pytest
import torch

from pipeline.core.errors import ParamsError
from pipeline.core.params import build
from pipeline.core.rng import generator
from pipeline.transfer import Interpolation, virtual, virtual_shares


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha):
    shares = virtual_shares(alpha, 40000, generator(0, "test")).double().numpy()
    assert shares.dtype == np.float64
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03), "of Beta(alpha, alpha)"


def test_shares_come_from_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (virtual_shares(1.0, 8, generator(seed, "test")) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32


def test_images_and_interpolated_labels_are_mixed_with_the_same_neighbour_in_the_same_shares():
    rng = generator(0, "test")
    images, labels, share = (torch.rand(*shape, generator=rng) for shape in ((4, 2, 3, 3), (4, 5), (4,)))
    mixed, label = virtual(images, labels, share, None)
    for index, own in enumerate(share.tolist()):
        for found, values in ((mixed, images), (label, labels)):
            torch.testing.assert_close(found[index], own * values[index] + (1 - own) * values[index - 1])


def test_a_teacher_labels_the_mixed_images_themselves_without_a_graph():
    rng = generator(0, "test")
    images, labels, share = (torch.rand(*shape, generator=rng) for shape in ((4, 2, 3, 3), (4, 5), (4,)))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(18, 5))
    mixed, label = virtual(images, labels, share, net)
    torch.testing.assert_close(label, net(mixed).detach())
    assert not label.requires_grad
    assert not torch.equal(mixed, images)


def test_virtual_images_keep_their_memory_layout():
    images = torch.rand(4, 3, 8, 8, generator=generator(0, "test")).contiguous(memory_format=torch.channels_last)
    mixed, _ = virtual(images, torch.rand(4, 5), torch.rand(4), None)
    assert mixed.stride() == images.stride()


@pytest.mark.parametrize(("key", "value"), [("weight", 0), ("alpha", 0.0), ("labels", "stored")])
def test_impossible_settings_are_named(key, value):
    block = {"weight": 1.0, "alpha": 1.0, "labels": "interpolated", key: value}
    with pytest.raises(ParamsError, match=rf"distill\.interpolation\.{key}: "):
        build(Interpolation, block, "distill.interpolation")
