import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.core.images import to_unit
from pipeline.optimise.network import Pool, order

CPU = torch.device("cpu")


def pool(count: int = 10) -> Pool:
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 2, 2).contiguous()
    return Pool(images, {"label": torch.arange(count)}, CPU)


def visited(count: int, batch: int, steps: int, epochs: range, seed: int = 0) -> list[int]:
    return [int(i) for e in epochs for _, rows in pool(count).batches(batch, steps, seed, e) for i in rows["label"]]


def test_every_sample_is_visited_once_per_pass_whatever_the_epochs_are():
    walk = visited(10, batch=4, steps=5, epochs=range(4))
    assert len(walk) == 80
    passes = [walk[start : start + 10] for start in range(0, 80, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 8, "each pass has its own order"


def test_an_epoch_is_a_pure_function_of_seed_and_number():
    assert visited(10, 4, 5, range(2, 3)) == visited(10, 4, 5, range(4))[40:60]
    assert visited(10, 4, 5, range(1), seed=1) != visited(10, 4, 5, range(1), seed=0)


@pytest.mark.parametrize(("start", "length"), [(0, 7), (3, 7), (6, 1), (7, 7), (5, 23), (700, 1)])
def test_any_part_of_the_walk_is_that_part_of_the_walk(start, length):
    assert torch.equal(order(7, start, length, 3), order(7, 0, 800, 3)[start : start + length])


def test_first_places_are_evenly_spread():
    firsts = torch.stack([order(5, index * 5, 1, 0) for index in range(4000)]).flatten()
    counts = torch.bincount(firsts, minlength=5).double()
    assert float(((counts - 800) ** 2 / 800).sum()) < 33, "chi-square with 4 degrees of freedom, p < 1e-6"


def test_rows_stay_with_their_images_and_batches_are_full_floats():
    for images, rows in pool(10).batches(7, 3, 0, 0):
        assert images.shape == (7, 1, 2, 2)
        assert images.dtype == torch.float32
        assert torch.equal(images[:, 0, 0, 0], rows["label"] / 255)


def test_half_precision_images_are_taken_as_they_are():
    stored = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(to_unit(stored), stored.float())


def test_rows_of_another_length_are_named():
    with pytest.raises(TrainingError, match="10 images and 9 rows of label"):
        Pool(torch.zeros(10, 1, 2, 2), {"label": torch.zeros(9)}, CPU)


def test_an_empty_set_is_refused():
    with pytest.raises(TrainingError, match="no image"):
        Pool(torch.zeros(0, 1, 2, 2), {}, CPU)
