from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError
from pipeline.core.params import build

PLAIN = {"device": "cpu", "precision": "float32", "channels_last": False, "compile": "never"}


def compute(**changes: Any) -> Compute:
    return build(Compute, PLAIN | changes, "compute")


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device_is_the_one_asked_for(
    monkeypatch: pytest.MonkeyPatch, device: str, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert compute(device=device).torch_device().type == expected


def test_cuda_without_a_gpu_is_an_error_that_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match=r"compute\.device: 'cuda'.*use auto or cpu"):
        compute(device="cuda").torch_device()


def test_bfloat16_is_used_inside_the_block_only() -> None:
    layer, images = nn.Linear(4, 4), torch.ones(1, 4)
    with compute(precision="bfloat16").autocast():
        assert layer(images).dtype == torch.bfloat16
    assert layer(images).dtype == torch.float32
    with compute().autocast():
        assert layer(images).dtype == torch.float32


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_network_is_laid_out_as_asked(channels_last: bool) -> None:
    net = compute(channels_last=channels_last).place(nn.Conv2d(3, 4, 3))
    assert net.weight.is_contiguous(memory_format=torch.channels_last) == channels_last  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("setting", "flops", "expected"),
    [("never", 1e15, False), ("auto", 1e6, False), ("auto", 1e12, True), ("always", 0, True)],
)
def test_a_function_is_compiled_where_asked_or_where_it_pays(setting: str, flops: float, expected: bool) -> None:
    function = compute(compile=setting).compiled(torch.sin, calls=10, flops=flops)
    assert (function is not torch.sin) == expected


def test_an_unknown_way_to_compile_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"compute\.compile: 'sometimes'"):
        compute(compile="sometimes")
