import pytest
import torch

from pipeline.core.rng import generator
from pipeline.synthesis.start import Start
from pipeline.synthesis.views import Views

IMAGES = torch.rand(5, 2, 9, 9, generator=torch.Generator().manual_seed(0))


def test_views_that_are_off_are_the_images_and_draw_nothing() -> None:
    rng = generator(0, "test")
    before = rng.get_state()
    assert Views(rotation=0, scale=(1, 1), translation=0)(IMAGES, rng) is IMAGES
    assert torch.equal(rng.get_state(), before)


def test_views_of_constant_images_are_the_images() -> None:
    flat = torch.full((3, 1, 8, 8), 0.7)
    torch.testing.assert_close(Views(rotation=90, scale=(0.5, 2), translation=0.3)(flat, generator(0, "t")), flat)


def test_each_image_gets_its_own_view() -> None:
    same = IMAGES[:1].repeat(4, 1, 1, 1)
    seen = Views(rotation=30, scale=(0.8, 1.2), translation=0.1)(same, generator(0, "t"))
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 4


def test_a_zoom_of_one_half_shows_the_centre_of_a_ramp_at_twice_its_slope() -> None:
    ramp = torch.linspace(0, 1, 9).expand(1, 1, 9, 9)
    seen = Views(rotation=0, scale=(0.5, 0.5), translation=0)(ramp, generator(0, "t"))
    torch.testing.assert_close(seen[0, 0, 4, 3:6], ramp[0, 0, 4, [2, 4, 6]])


def test_views_pass_gradients_to_the_pixels() -> None:
    pixels = IMAGES.double().requires_grad_()
    views = Views(rotation=20, scale=(0.9, 1.1), translation=0.1)
    assert torch.autograd.gradcheck(lambda x: views(x, generator(0, "t")), pixels[:1, :1, :5, :5])


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
