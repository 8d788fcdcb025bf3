from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.device import Compute, compiled, worth_while
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


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "calls", "flops", "expected"),
    [
        (CPU, 2000, 1e9, True),  # two thousand billion operations
        (CPU, 1999, 1e9, False),
        (CPU, 1, 2e12, True),
        (CPU, 10**6, 0, False),
        (GPU, 500, 0, True),
        (GPU, 499, 1e15, False),
    ],
)
def test_work_decides_on_a_cpu_and_calls_on_a_gpu(device: torch.device, calls: int, flops: float, expected: bool):
    assert worth_while(device, calls, flops) == expected


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Put another compiler behind `torch.compile`, whose own tracing stays as it is."""
    real = torch.compile

    def put(compiler: Any) -> None:
        monkeypatch.setattr(torch, "compile", lambda function, **_: real(function, backend=compiler))

    torch.compiler.reset()
    yield put
    torch.compiler.reset()


def without_a_compiler(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no C++ compiler found\nand much more")


def double(x: Tensor) -> Tensor:
    return x + x


def test_auto_goes_on_without_a_compiler_and_says_so_once(backend, capsys: pytest.CaptureFixture[str]) -> None:
    backend(without_a_compiler)
    function = compiled(double, CPU, required=False, graph=False)
    assert torch.equal(function(torch.ones(3)), torch.full((3,), 2.0))
    assert torch.equal(function(torch.ones(4)), torch.full((4,), 2.0))
    warning = capsys.readouterr().err
    assert warning.count("warning: compiling failed") == 1
    assert "no C++ compiler found" in warning
    assert "much more" not in warning


def test_always_without_a_compiler_is_an_error_that_says_what_to_do(backend) -> None:
    backend(without_a_compiler)
    function = compiled(double, CPU, required=True, graph=False)
    with pytest.raises(ParamsError, match=r"compute\.compile: 'always'.*no C\+\+ compiler found.*use never"):
        function(torch.ones(3))


@pytest.mark.slow
def test_a_machine_without_a_cpp_compiler_is_served_too(capsys: pytest.CaptureFixture[str]) -> None:
    from torch._inductor import config

    torch.compiler.reset()
    with config.patch({"cpp.cxx": ("/nonexistent/g++",), "fx_graph_cache": False}):
        function = compiled(double, CPU, required=False, graph=False)
        assert torch.equal(function(torch.ones(3)), torch.full((3,), 2.0))
        assert "No working C++ compiler" in capsys.readouterr().err
        with pytest.raises(ParamsError, match=r"No working C\+\+ compiler.*use never"):
            compiled(double, CPU, required=True, graph=False)(torch.ones(3))
    torch.compiler.reset()


@pytest.mark.parametrize("required", [False, True])
def test_an_error_of_the_function_is_not_taken_for_one_of_the_compiler(backend, capsys, required: bool) -> None:
    backend("eager")

    def failing(x: Tensor) -> Tensor:
        raise ArithmeticError("of its own")

    with pytest.raises(ArithmeticError, match="of its own"):
        compiled(failing, CPU, required=required, graph=False)(torch.ones(3))
    assert "compiling failed" not in capsys.readouterr().err


def test_a_compiler_that_fails_after_it_worked_is_not_hidden(backend) -> None:
    """Half of the images would be made with other arithmetic."""
    worked: list[int] = []

    def failing_later(graph: Any, inputs: Any) -> Any:
        if worked:
            raise RuntimeError("out of memory")
        worked.append(1)
        return graph

    backend(failing_later)
    function = compiled(double, CPU, required=False, graph=False)
    assert torch.equal(function(torch.ones(3)), torch.full((3,), 2.0))
    with pytest.raises(Exception, match="out of memory"):
        function(torch.ones(4))


def test_a_compiled_function_takes_names_and_gives_gradients(backend) -> None:
    backend("aot_eager")
    x = torch.arange(3.0, requires_grad=True)
    function = compiled(lambda x, factor: (factor * x**2).sum(), CPU, required=True, graph=False)
    (gradient,) = torch.autograd.grad(function(x, factor=torch.tensor(3.0)), x)
    torch.testing.assert_close(gradient, 6 * x.detach())
