import numpy as np
import torch

from pipeline.core.rng import generator
from pipeline.synthesis.jitter import roll

IMAGES = torch.arange(2 * 3 * 7 * 6).view(2, 3, 7, 6).float()  # every pixel is unlike every other


def test_one_offset_in_range_moves_the_whole_batch_and_every_offset_comes() -> None:
    rng, seen = generator(0, "t"), []
    for _ in range(400):
        found = roll(IMAGES, 2, rng).numpy()
        down, right = (int(place[0]) for place in np.where(found[0, 0] == 0))
        down, right = (down + 3) % 7 - 3, (right + 3) % 6 - 3
        np.testing.assert_array_equal(found, np.roll(IMAGES.numpy(), (down, right), axis=(2, 3)))
        seen.append((down, right))
    assert set(seen) == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_no_jitter_is_the_identity() -> None:
    assert torch.equal(roll(IMAGES, 0, generator(0, "t")), IMAGES)


def test_offsets_depend_on_the_generator_alone() -> None:
    first, again = (roll(IMAGES, 3, generator(5, "t")) for _ in range(2))
    assert torch.equal(first, again)
