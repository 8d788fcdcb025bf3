import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.core import errors
from pipeline.core.errors import ParamsError, PipelineError, run_or_exit
from tests.support import ROOT


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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "data/x"), "error: data/x: Permission denied; check who owns it"),
        (OSError(28, "No space left on device", "a", None, "b"), "error: a, b: No space left on device; free some"),
        (MemoryError(), "error: not enough memory; free some"),
        (RuntimeError("could not create a primitive"), "error: not enough memory (could not create a primitive); free"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore"),
            "you tried); free",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "error: not enough memory (CUDA out of memory. Tried"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_a_cure(
    capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_or_exit(main)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


COMPILING = """
import torch
from pipeline.core.errors import run_or_exit
def main():
    print(torch.compile(lambda x: (x.sin() * 2).sum())(torch.ones(3)).item() > 0)
run_or_exit(main)
"""


@pytest.mark.slow
def test_a_compilers_cache_that_a_kill_has_damaged_is_one_line_that_says_which(tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", COMPILING]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert run().stdout == "True\n"
    objects = list(tmp_path.rglob("*.so"))
    for path in objects:
        path.write_bytes(path.read_bytes()[:100])
    assert objects
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"delete {tmp_path / 'cache'}, or set compute.compile: never" in line
    assert "Traceback" not in done.stderr


INTERRUPTED = "interrupted; run the same command again to go on\n"
COMMAND = """
import os, signal, sys, time
from pipeline.core.errors import quiet_interrupt, run_or_exit
quiet_interrupt()
when = sys.argv[1]
def press():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
if when == "importing":
    press()
def main():
    try:
        press() if when == "working" else None
    finally:
        print("closed", flush=True)
run_or_exit(main)
press()
"""


@pytest.mark.parametrize(("when", "printed"), [("importing", ""), ("working", "closed\n"), ("leaving", "closed\n")])
def test_an_interrupt_is_one_line_from_the_first_import_to_the_end(when: str, printed: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, when], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, printed, INTERRUPTED)


def test_a_stage_is_quiet_before_its_imports_and_an_import_of_it_changes_nothing() -> None:
    program = "import signal, sys; sys.argv[0] = sys.argv[1]; import stages; print(signal.getsignal(signal.SIGINT))"
    for argument, handler in (("-m", "_leave"), ("x.py", "default_int_handler")):
        command = [sys.executable, "-c", program, argument]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert handler in found


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    for mistake in (ZeroDivisionError, RuntimeError("shape mismatch")):

        def main(mistake: type[Exception] | Exception = mistake) -> None:
            raise mistake

        with pytest.raises((ZeroDivisionError, RuntimeError)):
            run_or_exit(main)


def test_a_command_that_succeeds_returns() -> None:
    called: list[int] = []
    run_or_exit(lambda: called.append(1))
    assert called == [1]
