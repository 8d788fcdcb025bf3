import pytest

from pipeline.core import errors
from pipeline.core.errors import ParamsError, PipelineError, run_or_exit


def test_every_error_belongs_to_one_family() -> None:
    for name in errors.__all__:
        thing = getattr(errors, name)
        if isinstance(thing, type):
            assert issubclass(thing, PipelineError)


def test_an_error_is_printed_without_a_traceback_and_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise ParamsError("seed: -1: too small")

    with pytest.raises(SystemExit) as ended:
        run_or_exit(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: seed: -1: too small\n"


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_or_exit(main)
    assert ended.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_or_exit(main)


def test_a_command_that_succeeds_returns() -> None:
    called: list[int] = []
    run_or_exit(lambda: called.append(1))
    assert called == [1]
