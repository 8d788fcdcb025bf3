import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.rng import numpy_stream, stream

SEEDS = st.integers(0, 2**31 - 1)


def draw(rng: torch.Generator) -> list[float]:
    return torch.rand(4, generator=rng).tolist()


@given(SEEDS, st.text(max_size=8), st.integers(0, 2**20))
def test_the_same_three_values_give_the_same_numbers(seed: int, purpose: str, index: int) -> None:
    assert draw(stream(seed, purpose, index)) == draw(stream(seed, purpose, index))


@pytest.mark.parametrize("other", [(1, "a", 0), (0, "b", 0), (0, "a", 1)])
def test_each_of_the_three_values_matters(other: tuple[int, str, int]) -> None:
    assert draw(stream(0, "a", 0)) != draw(stream(*other))


@given(SEEDS, st.text(max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_no_two_indices_of_one_purpose_share_a_stream(seed: int, purpose: str, first: int, second: int) -> None:
    seeds = {stream(seed, purpose, index).initial_seed() % 2**32 for index in {first, second}}
    assert len(seeds) == len({first, second})


def test_seed_and_purpose_cannot_be_confused() -> None:
    assert draw(stream(1, "1x")) != draw(stream(11, "x"))


def test_a_numpy_stream_follows_its_torch_stream_and_uses_128_bits_of_it() -> None:
    first, second = (numpy_stream(stream(3, "dirichlet")) for _ in range(2))
    assert np.array_equal(first.random(5), second.random(5))
    rng = stream(3, "dirichlet")
    before, after = numpy_stream(rng).random(5), numpy_stream(rng).random(5)
    assert not np.array_equal(before, after)


def test_the_global_random_state_is_left_alone() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 - the point of the test
    draw(stream(0, "x"))
    numpy_stream(stream(0, "y")).random()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
