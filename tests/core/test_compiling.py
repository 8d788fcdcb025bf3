from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.compiling import compiled, worth_while
from pipeline.core.errors import ParamsError

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
def backend(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[Any], None]]:
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
