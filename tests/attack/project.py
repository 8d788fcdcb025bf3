"""A tiny project to be attacked, and its stages as children of a process that has torch loaded already.

A stage then takes a fraction of a second, and a kill falls into its work instead of into the imports.
"""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from pipeline.core.errors import run_or_exit
from pipeline.core.params import read_params
from pipeline.shards import __main__ as shards
from stages import check, code, distill, evaluate, report, synthesize, teacher

__all__ = ["JOBS", "Job", "Outcome", "bytes_of", "make", "params", "run", "states"]

ROOT = Path(__file__).resolve().parents[2]
MAINS: dict[str, Callable[[], None]] = {
    "check": check.main, "code": code.main, "teacher": teacher.main, "synthesize": synthesize.main,
    "distill": distill.main, "evaluate": evaluate.main, "report": report.main, "shards": shards.main,
}  # fmt: skip
SECONDS = 120  # that no stage of the tiny project takes
MEMORY = 6 << 30  # of address space, a third of which torch takes without doing anything


class Job(NamedTuple):
    """A stage's command, and what it writes below data/."""

    command: tuple[str, ...]
    outputs: tuple[str, ...]


def _dataset(name: str) -> Job:
    return Job(("synthesize", name), (f"synthetic/{name}",))


def _student(row: str) -> Job:
    return Job(("distill", row, "small", "0"), (f"students/{row}-small-0", f"history/{row}-small-0.csv"))


JOBS = {
    "teacher": Job(("teacher",), ("teacher",)),
    **{
        f"synthesize {name}": _dataset(name)
        for name in ("noise", "zskd", "dafl", "zskt", "adaptive_deepinversion", "real")
    },
    **{f"distill {row}": _student(row) for row in ("zskt", "real_labels", "zskt_few_shot")},
    "evaluate": Job(("evaluate", "zskt", "small", "0"), ("metrics/zskt-small-0.json", "belief/zskt-small-0.csv")),
    "evaluate --proxy": Job(("evaluate", "--proxy", "zskt"), ("metrics/zskt-proxy.json", "belief/zskt-proxy.csv")),
    "report": Job(("report",), ("report",)),
}


class Outcome(NamedTuple):
    """How a command ended."""

    status: int  # negative: the signal
    said: str  # on both streams
    seconds: float


def params() -> dict[str, Any]:
    """The default parameters, cut down to what takes a moment, with every kind of state there is."""
    found = read_params(ROOT / "presets" / "digits.yaml")
    short = {"epochs": 3, "steps_per_epoch": 2, "batch": 8}
    for block in (found["teacher"]["recipe"], found["distill"]):
        block.update(short)
    found["distill"]["terms"] = {"attention": {"weight": 10.0, "blocks": "auto"}}
    found["few_shot"] |= {"per_class": 1, "epochs": 2, "steps_per_epoch": 2}
    found["shards"] |= {"size": 20, "holdout": 20}
    found["evaluate"]["belief"] |= {"images": 2, "steps": 2}
    small = {"count": 60, "steps": 2, "batch": 20, "group": 20, "epochs": 3, "iterations": 2, "student_steps": 1,
             "images": 20}  # fmt: skip
    for block in found["methods"].values():
        block |= {key: value for key, value in small.items() if key in block}
        if "phases" in block:
            block["phases"] = [{"pool": 1, "steps": 2, "jitter": 1}]
        if "snapshots" in block:
            block["snapshots"] = {"states": 2, "since": 0.0}
    found["methods"]["real"]["count"] = 200
    found["methods"]["adaptive_deepinversion"]["proxy"] |= {"epochs": 2, "steps_per_epoch": 2}
    found["students"] = {"small": {"arch": "lenet5_half"}}
    found["matrix"] = {
        "methods": ["noise", "zskd", "dafl", "zskt", "adaptive_deepinversion", "real"],
        "references": ["real"],
        "few_shot": ["zskt"],
        "students": ["small"],
        "seeds": [0],
        "proxies": ["zskt"],
    }
    return found


def make(folder: Path, given: dict[str, Any]) -> None:
    """Lay out the project: parameters and code, by which stages fingerprint themselves."""
    folder.mkdir(parents=True)
    YAML(typ="safe", pure=True).dump(given, folder / "params.yaml")
    for name in ("pipeline", "stages"):
        (folder / name).symlink_to(ROOT / name)


def run(
    folder: Path,
    *command: str,
    before: Callable[[], None] | None = None,
    fault: str | None = None,
    kill_after: float | None = None,
    memory: int = MEMORY,
) -> Outcome:
    """Run a stage's command in a child, in `folder`.

    Args:
        folder: the project.
        command: the stage and its arguments.
        before: called in the child before the stage: what it patches stays in there.
        fault: a point at which the child dies as in a power cut, such as ``write:replaced:3``.
        kill_after: seconds after which the child is killed.
        memory: bytes of address space at most.
    """
    said = folder / ".said"
    start = time.monotonic()
    child = os.fork()
    if not child:
        _stage(folder, command, said, before, fault, memory)
    limit = SECONDS if kill_after is None else kill_after
    status = None
    while status is None:
        found, ended = os.waitpid(child, os.WNOHANG)
        status = ended if found else None
        if status is None and time.monotonic() - start > limit:
            os.kill(child, signal.SIGKILL)
            limit = float("inf")
        time.sleep(0.005 if status is None else 0)
    text = said.read_text(errors="replace") if said.exists() else ""
    return Outcome(os.waitstatus_to_exitcode(status), text, time.monotonic() - start)


def _stage(
    folder: Path,
    command: tuple[str, ...],
    said: Path,
    before: Callable[[], None] | None,
    fault: str | None,
    memory: int,
) -> None:
    status = 70
    try:
        os.chdir(folder)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ |= {"PHOTOGRAM_WORKERS": "1"} | ({} if fault is None else {"PHOTOGRAM_FAULT": fault})
        os.environ.pop("PHOTOGRAM_WORK_DIR", None)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = list(command)
        if before is not None:
            before()
        run_or_exit(MAINS[command[0]])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - what a user would see of it
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def bytes_of(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Every file of some outputs below data/."""
    found: dict[str, bytes] = {}
    for name in names:
        place = folder / "data" / name
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return found


def states(whole: Path, job: Job, into: Path) -> list[Path]:
    """The project as kills at different writes of one job leave it; its outputs are not there yet."""
    blank = copy(whole, into / "blank", without=job.outputs)
    shutil.rmtree(blank / ".work", ignore_errors=True)
    found: list[Path] = []
    for passage in (2, 3, 5, 8, 13, 21, 34):
        place = copy(blank, into / f"write-{passage}")
        if run(place, *job.command, fault=f"write:replaced:{passage}").status != 137:
            break
        if any(path.is_file() for path in (place / ".work").rglob("*")):
            found.append(place)
    return found


def copy(source: Path, target: Path, without: tuple[str, ...] = ()) -> Path:
    """A copy of a project; its code stays linked."""
    shutil.copytree(source, target, symlinks=True)
    for name in without:
        place = target / "data" / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    return target
