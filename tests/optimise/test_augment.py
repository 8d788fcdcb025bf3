import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ParamsError
from pipeline.core.params import build
from pipeline.optimise.augment import DRAWS, Augment, augment, augment_with


@pytest.fixture
def views() -> Callable[..., Augment]:
    return lambda **changes: build(Augment, {"fill": "zeros", **changes}, "augment")


def images(count: int = 6, channels: int = 2, height: int = 9, width: int = 9) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.1


def draws(count: int, **columns: float) -> Tensor:
    """The numbers that mean: no flip, centred, no turn, except where a column is given."""
    names = ("flip", "crop_y", "crop_x", "angle", "shear", "scale", "shift_y", "shift_x", "cutout_y", "cutout_x")
    neutral = dict.fromkeys(names, 0.5) | {"flip": 0.9}
    return torch.tensor([[{**neutral, **columns}[name] for name in names]] * count)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_everything_off_gives_the_very_images(views):
    batch = images()
    assert augment(batch, views(), rng()) is batch
    assert augment(batch, None, rng()) is batch


def test_the_same_numbers_are_drawn_whatever_is_asked_for(views):
    after = []
    for block in (None, views(), views(rotate=20.0, cutout=2)):
        numbers = rng()
        augment(images(), block, numbers)
        after.append(numbers.get_state())
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])


@pytest.mark.parametrize("block", [{"rotate": 5}, {"shear": 1}, {"translate": 0.1}, {"scale": [0.5, 1]}])
def test_what_brings_in_pixels_from_outside_must_say_which(block):
    with pytest.raises(ParamsError, match="fill: missing"):
        build(Augment, block, "augment")


def test_a_range_of_scales_begins_with_the_smaller(views):
    with pytest.raises(ParamsError, match="smaller factor first"):
        views(scale=[2.0, 1.0])


def test_a_flip_is_an_exact_mirror_of_about_half_the_images(views):
    batch = images(400)
    seen = augment(batch, views(flip=True), rng())
    mirrored = torch.tensor([torch.equal(one, other.flip(2)) for one, other in zip(seen, batch, strict=True)])
    same = torch.tensor([torch.equal(one, other) for one, other in zip(seen, batch, strict=True)])
    assert bool((mirrored ^ same).all())
    assert abs(int(mirrored.sum()) - 200) < 60, "six standard deviations"


def test_a_crop_is_a_slice_of_the_zero_padded_image_at_the_drawn_offset(views):
    batch, padding = images(300, height=7, width=9), 2
    uniforms = torch.rand(300, DRAWS, generator=rng())
    seen = augment_with(batch, views(crop=padding), uniforms)
    padded = torch.zeros(300, 2, 11, 13)
    padded[:, :, 2:9, 2:11] = batch
    offsets = (uniforms[:, 1:3] * 5).floor().long()
    assert set(map(tuple, offsets.tolist())) == {(top, left) for top in range(5) for left in range(5)}
    for one, whole, (top, left) in zip(seen, padded, offsets.tolist(), strict=True):
        assert torch.equal(one, whole[:, top : top + 7, left : left + 9])


def test_the_largest_uniform_number_stays_inside(views):
    almost = torch.full((2, DRAWS), math.nextafter(1.0, 0.0), dtype=torch.float32)  # rounds to 1.0
    assert augment_with(images(2), views(crop=2, cutout=3), almost).shape == (2, 2, 9, 9)


@pytest.mark.parametrize("size", [8, 9])
def test_a_turn_by_90_degrees_is_rot90(views, size):
    batch = images(3, height=size, width=size)
    seen = augment_with(batch, views(rotate=90.0), draws(3, angle=1.0))
    torch.testing.assert_close(seen, torch.rot90(batch, 1, (2, 3)), atol=1e-5, rtol=0)


def test_a_shift_moves_the_image_by_that_fraction_and_fills_with_black_or_with_the_border(views):
    batch = images(2, height=10, width=10)
    seen = augment_with(batch, views(translate=0.2), draws(2, shift_y=1.0, shift_x=0.0))
    expected = torch.zeros_like(batch)
    expected[:, :, 2:, :8] = batch[:, :, :8, 2:]
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)
    bordered = augment_with(batch, views(translate=0.2, fill="border"), draws(2, shift_y=1.0, shift_x=0.0))
    torch.testing.assert_close(bordered[:, :, 0, 0], batch[:, :, 0, 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(bordered[:, :, 2:, :8], expected[:, :, 2:, :8], atol=1e-5, rtol=0)


def test_a_scale_of_two_shows_the_middle_twice_as_large(views):
    ramp = torch.linspace(0, 1, 12).expand(1, 1, 12, 12).contiguous()
    seen = augment_with(ramp, views(scale=[1.0, 2.0]), draws(1, scale=1.0))
    slope = (seen[0, 0, 5, 1:] - seen[0, 0, 5, :-1]).mean()
    assert float(slope) == pytest.approx(0.5 / 11, rel=1e-4)
    assert float(seen.mean()) == pytest.approx(0.5, abs=1e-6)


def test_shear_slants_columns_and_keeps_rows(views):
    spot = torch.zeros(1, 1, 15, 15)
    spot[:, :, :, 7] = 1
    seen = augment_with(spot, views(shear=45.0), draws(1, shear=1.0))[0, 0]
    for row in range(3, 12):
        assert int(seen[row].argmax()) == 7 + (row - 7), "x' = x + y tan(45 degrees), y downwards from the centre"


def test_turns_keep_the_shape_of_things_in_wide_images(views):
    """A round blob stays round: the map is linear in pixels, not in half sides."""
    y, x = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(41.0) - 20, indexing="ij")
    blob = torch.exp(-(x**2 + y**2) / 20)[None, None]
    seen = augment_with(blob, views(rotate=60.0), draws(1, angle=1.0))
    assert float((seen - blob).abs().max()) < 0.02


def test_crop_and_flip_come_before_the_affine_map_also_when_all_are_made_at_once(views):
    batch = images(4, height=8, width=8)
    uniforms = draws(4, flip=0.1, crop_y=0.0, crop_x=0.7, angle=1.0)
    together = augment_with(batch, views(crop=2, flip=True, rotate=90.0), uniforms)
    apart = augment_with(augment_with(batch, views(crop=2, flip=True), uniforms), views(rotate=90.0), uniforms)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_cutout_blackens_a_square_of_exactly_that_area_anywhere(views):
    seen = augment(images(500), views(cutout=3), rng())
    black = (seen == 0).all(1)
    assert black.sum((1, 2)).unique().tolist() == [9]
    corners = {tuple(square.nonzero()[0].tolist()) for square in black}
    assert corners == {(top, left) for top in range(7) for left in range(7)}


def test_a_cutout_larger_than_the_image_leaves_nothing(views):
    assert float(augment(images(), views(cutout=20), rng()).abs().sum()) == 0


def test_views_are_drawn_per_image_and_by_the_generator_alone(views):
    block = views(crop=1, flip=True, rotate=20.0, translate=0.1, scale=[0.8, 1.2], shear=5.0, cutout=2)
    batch = images(1).expand(8, -1, -1, -1).contiguous()
    state = torch.get_rng_state()
    first, again, other = (augment(batch, block, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({one.numpy().tobytes() for one in first}) == 8
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_s_view_does_not_depend_on_its_neighbours(views):
    block = views(crop=1, flip=True, rotate=20.0, shear=5.0, cutout=2)
    batch, uniforms = images(5), torch.rand(5, DRAWS, generator=rng())
    alone = torch.cat([augment_with(batch[i : i + 1], block, uniforms[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(augment_with(batch, block, uniforms), alone, atol=1e-6, rtol=0)


def test_views_stay_within_the_range_of_pixels(views):
    seen = augment(images(50), views(rotate=45.0, scale=[0.5, 2.0], crop=3), rng())
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1.0 + 1e-6


def test_views_pass_gradients_to_the_pixels() -> None:
    """Methods optimise images through their views."""
    block = Augment(flip=True, rotate=20, translate=0.1, scale=(0.9, 1.1), shear=10, fill="border")
    pixels = images(2, 1, 5, 5).double().requires_grad_()
    numbers = torch.rand(2, DRAWS, generator=rng(), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: augment_with(x, block, numbers), pixels)
