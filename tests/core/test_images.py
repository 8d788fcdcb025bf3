import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.classifier import Normalise
from pipeline.core.images import from_uint8, to_uint8, to_unit


def test_every_byte_survives_the_way_to_floats_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = from_uint8(values)
    assert floats.dtype == torch.float32
    assert (float(floats.min()), float(floats.max())) == (0.0, 1.0)
    assert torch.equal(to_uint8(floats), values)


@given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=20))
def test_floats_are_clamped_and_rounded_half_to_even_never_truncated(values: list[float]) -> None:
    expected = np.rint(np.clip(np.array(values, dtype=np.float32), 0, 1) * np.float32(255)).astype(np.uint8)
    assert to_uint8(torch.tensor(values, dtype=torch.float32)).tolist() == expected.tolist()


def test_almost_one_is_white_where_truncation_would_give_254() -> None:
    assert int(to_uint8(torch.tensor(0.9999))) == 255


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(torch.tensor([0.5, value]))


def test_rounding_keeps_half_precision_images_within_half_a_step() -> None:
    images = torch.linspace(0, 1, 1000).half()
    assert float((from_uint8(to_uint8(images)) - images.float()).abs().max()) <= 0.5 / 255 + 1e-6


def test_stored_images_become_unit_floats_whatever_they_are_stored_as() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_unit(images).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit(torch.tensor([0.25]).half()).tolist() == [0.25]
    assert to_unit(images).dtype == to_unit(images.half()).dtype == torch.float32


def test_normalisation_is_per_channel() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = (images.numpy() - np.array(mean).reshape(1, 3, 1, 1)) / np.array(std).reshape(1, 3, 1, 1)
    assert np.allclose(Normalise(mean, std)(images).numpy(), expected, atol=1e-6)


def test_normalisation_constants_are_no_weights() -> None:
    assert not Normalise((0.5,), (0.5,)).state_dict()
