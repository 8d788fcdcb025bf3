import pytest
import torch

from pipeline.core.rng import generator
from pipeline.synthesis.start import Start


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_starts_have_the_stated_level_and_spread(distribution) -> None:
    start = Start(distribution=distribution, level=0.4, spread=0.1, resolution=64)
    images = start.draw((50, 1, 16, 16), generator(0, "t"))
    expected = 0.1 / 3**0.5 if distribution == "uniform" else 0.1
    assert images.mean().item() == pytest.approx(0.4, abs=0.005)
    assert images.std().item() == pytest.approx(expected, rel=0.03)


def test_a_coarse_start_is_smooth_and_stays_in_range() -> None:
    def roughness(resolution: int) -> float:
        images = Start(distribution="normal", level=0.5, spread=1, resolution=resolution).draw((20, 1, 32, 32), rng())
        assert images.min() >= 0
        assert images.max() <= 1
        return (images[..., 1:] - images[..., :-1]).abs().mean().item()

    def rng() -> torch.Generator:
        return generator(0, "t")

    assert roughness(4) < roughness(8) < roughness(32) / 2
