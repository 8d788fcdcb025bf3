"""The kinds of attack. A trial is a number: its seed decides everything, so that each can be made again by itself."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

from tests.attack.damage import damage
from tests.attack.project import JOBS, ROOT, Job, Outcome, bytes_of, copy, make, params, run, states

__all__ = ["KINDS", "Bench"]

STATEFUL = tuple(name for name in JOBS if name.startswith(("teacher", "synthesize", "distill")))
CONSUMERS = ("distill zskt", "distill zskt_few_shot", "evaluate", "evaluate --proxy", "report")
MOST = 12  # kills of one `dvc repro`, which then runs to its end
LONGEST = 700  # letters of an error, paths of temporary folders with them


class Bench:
    """Projects to start from; each is made when it is asked for, and copied for every trial."""

    def __init__(self, root: Path) -> None:
        self.root, self._states, self._trial = root, dict[str, list[Path]](), 0

    @cached_property
    def whole(self) -> Path:
        """Everything has run undisturbed."""
        return self.complete("whole", params())

    @cached_property
    def larger(self) -> Path:
        """The same with more images in every dataset."""
        given = params()
        for block in given["methods"].values():
            block["count"] += 20
        return self.complete("larger", given)

    def complete(self, name: str, given: dict) -> Path:
        folder = self.root / name
        make(folder, given)
        must(run(folder, "code"))
        for job in JOBS.values():
            must(run(folder, *job.command))
            if job.command[0] == "distill":
                must(run(folder, "evaluate", *job.command[1:]))
        return folder

    def states(self, name: str) -> list[Path]:
        """What kills of a job leave."""
        if name not in self._states:
            self._states[name] = states(self.whole, JOBS[name], self.root / "states" / name.replace(" ", "-"))
        return self._states[name]

    def copy(self, source: Path, without: tuple[str, ...] = ()) -> Path:
        """A folder for one trial; that of the last one is removed."""
        shutil.rmtree(self.root / "trial", ignore_errors=True)
        return copy(source, self.root / "trial", without)


def must(outcome: Outcome) -> None:
    if outcome.status:
        raise SystemExit(f"an undisturbed run ended with {outcome.status}:\n{outcome.said}")


def refusal(outcome: Outcome) -> str | None:
    """The error when a command ended with one, as it must look like; None when it did not."""
    lines = [line for line in outcome.said.splitlines() if line.startswith("error: ")]
    if outcome.status != 2 or len(lines) != 1 or "Traceback" in outcome.said or len(lines[0]) > LONGEST:
        return None
    return lines[0]


def judged(folder: Path, job: Job, wanted: dict[str, bytes], outcome: Outcome) -> str:
    """The verdict on a command; a refusal's cure is tried: what it names is deleted, and the command run again."""
    if outcome.status == 0:
        return "same" if bytes_of(folder, job.outputs) == wanted else "BAD: other bytes, exit 0"
    line = refusal(outcome)
    if line is None:
        return f"BAD: status {outcome.status}: {outcome.said[-500:]!r}"
    for _ in range(3):
        named = [Path(text.rstrip(":,;")) for text in re.findall(r"\S*\.work/\S+", line)]
        for path in (folder / path for path in named):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        outcome = run(folder, *job.command)
        if outcome.status == 0:
            same = bytes_of(folder, job.outputs) == wanted
            return f"refused: {line[7:150]}" if same else f"BAD: other bytes after the cure of: {line}"
        line = refusal(outcome) or line
    return f"BAD: the cure does not cure: {line}"


def work(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Damage the work directory between a kill and the next run."""
    rng = random.Random(seed)
    name = STATEFUL[number % len(STATEFUL)]
    state = rng.choice(bench.states(name))
    folder = bench.copy(state)
    files = sorted(path for path in (folder / ".work").rglob("*") if path.is_file())
    done = damage(files, rng)
    job = JOBS[name]
    wanted = bytes_of(bench.whole, job.outputs)
    return f"{name}: {state.name}: {done}", judged(folder, job, wanted, run(folder, *job.command))


def growth(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Damage the work directory of a finished dataset, then ask for more images."""
    rng = random.Random(seed)
    names = tuple(name for name in STATEFUL if name.startswith("synthesize"))
    name = names[number % len(names)]
    job = JOBS[name]
    folder = bench.copy(bench.whole, job.outputs)
    shutil.copyfile(bench.larger / "params.yaml", folder / "params.yaml")
    place = folder / ".work" / "synthetic" / name.split()[1]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    done = damage(files, rng)
    return f"{name}: {done}", judged(folder, job, bytes_of(bench.larger, job.outputs), run(folder, *job.command))


def outputs(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Damage what a stage has written; every stage that uses it says so, or makes what it always makes."""
    rng = random.Random(seed)
    folder = bench.copy(bench.whole)
    below = ("teacher", "synthetic/zskt", "students/zskt-small-0", "metrics")
    place = folder / "data" / below[number % len(below)]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    done = f"{place.relative_to(folder)}: {damage(files, rng, lost=place.name != 'metrics')}"
    verdicts = [(name, _consumed(bench, folder, JOBS[name], files)) for name in CONSUMERS]
    for name, verdict in verdicts:
        if verdict.startswith("BAD"):
            return done, f"{verdict} ({name})"
    refused = ", ".join(name for name, verdict in verdicts if verdict == "refused")
    return done, f"refused by: {refused}" if refused else "same"


def _consumed(bench: Bench, folder: Path, job: Job, damaged: list[Path]) -> str:
    """The verdict on one stage whose inputs are damaged. Afterwards its outputs are what they should be."""
    wanted = bytes_of(bench.whole, job.outputs)
    if any(folder / name in damaged for name in wanted):
        return "same"  # its own output was damaged
    for name in job.outputs:
        place = folder / "data" / name
        shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
    outcome = run(folder, *job.command)
    for name, content in bytes_of(bench.whole, ("provenance",)).items():
        (folder / name).write_bytes(content)  # seconds differ from run to run, and stand in the report
    if outcome.status == 0:
        return "same" if bytes_of(folder, job.outputs) == wanted else "BAD: other bytes, exit 0"
    for name, content in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return "refused" if refusal(outcome) else f"BAD: status {outcome.status}: {outcome.said[-500:]!r}"


def kills(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Kill a stage again and again at random moments, until it ends by itself."""
    rng = random.Random(seed)
    name = STATEFUL[number % len(STATEFUL)]
    job = JOBS[name]
    folder = bench.copy(bench.whole, job.outputs)
    shutil.rmtree(folder / ".work")
    kills = 0
    while kills < 4 and run(folder, *job.command, kill_after=rng.uniform(0.02, 1.0)).status == -signal.SIGKILL:
        kills += 1
    outcome = run(folder, *job.command)
    return f"{name}: {kills} kills", judged(folder, job, bytes_of(bench.whole, job.outputs), outcome)


def clock(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Set the clock back between a kill and the next run, and let files come from the future."""
    rng = random.Random(seed)
    name = STATEFUL[number % len(STATEFUL)]
    job = JOBS[name]
    folder = bench.copy(rng.choice(bench.states(name)))
    years = rng.choice([-30, -1, 1, 10]) * 365 * 86400
    for path in folder.glob(".work/**/*"):
        os.utime(path, (time.time() + rng.choice([years, -years]), time.time() + years))
    now = time.time
    back = partial(setattr, time, "time", lambda: max(0.0, now() - abs(years)))
    wanted = bytes_of(bench.whole, job.outputs)
    return f"{name}: {years} s", judged(folder, job, wanted, run(folder, *job.command, before=back))


def _full(after: int, slow: float) -> None:
    """From now on writes fail once so many bytes are written, and each takes a while to reach the disk."""
    from pipeline.core import files

    left, real = after, os.fsync

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def fsync(self, descriptor: int) -> None:
            nonlocal left
            time.sleep(slow)
            left -= os.fstat(descriptor).st_size
            if left < 0:
                raise OSError(28, "No space left on device")
            real(descriptor)

    files.os = Full()  # type: ignore[assignment]


def disk(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Fill the disk up in the middle of a stage, on a slow one; then there is room again."""
    rng = random.Random(seed)
    name = STATEFUL[number % len(STATEFUL)]
    job = JOBS[name]
    folder = bench.copy(bench.whole, job.outputs)
    shutil.rmtree(folder / ".work")
    size = sum(map(len, bytes_of(bench.whole, job.outputs).values()))
    room = rng.randrange(1, 2 * size)
    outcome = run(folder, *job.command, before=partial(_full, room, rng.choice([0.0, 0.02])))
    if outcome.status == 2 and refusal(outcome) is not None and "space" not in outcome.said:
        return f"{name}: {room} bytes", f"BAD: another cure: {outcome.said[-300:]!r}"
    return f"{name}: {room} bytes", judged(folder, job, bytes_of(bench.whole, job.outputs), outcome)


def users(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Two at once on one work directory and one output; now and then the second has another seed."""
    rng = random.Random(seed)
    names = tuple(name for name in STATEFUL if name.startswith("synthesize"))
    name = names[number % len(names)]
    job = JOBS[name]
    folder = bench.copy(bench.whole, job.outputs)
    shutil.rmtree(folder / ".work")
    child = os.fork()
    if not child:
        time.sleep(rng.uniform(0, 0.3))
        (folder / "other").mkdir()
        for link in ("pipeline", "stages", "params.yaml"):
            (folder / "other" / link).symlink_to(folder / link)
        (folder / "other" / "data").symlink_to(folder / "data")
        (folder / "other" / ".work").symlink_to(folder / ".work")
        os._exit(abs(run(folder / "other", *job.command).status))
    first = run(folder, *job.command)
    second = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if second not in {0, 2}:
        return name, f"BAD: the other ended with {second}: {(folder / 'other' / '.said').read_text()[-500:]!r}"
    if first.status == 2 and second == 0:
        same = bytes_of(folder, job.outputs) == bytes_of(bench.whole, job.outputs)
        return name, f"refused: {refusal(first)}" if same and refusal(first) else f"BAD: {first.said[-500:]!r}"
    return name, judged(folder, job, bytes_of(bench.whole, job.outputs), first)


def dvc(bench: Bench, number: int, seed: int) -> tuple[str, str]:
    """Kill `dvc repro` and everything that it started, at random moments, until a run ends by itself."""
    rng = random.Random(seed)
    folder = bench.root / "dvc"
    reference = bench.root / "dvc.json"
    if not folder.exists():
        _repository(folder)
        _repro(bench, 0)
        reference.write_text(json.dumps(_hashes(folder)))
    for name in ("data", ".work", "dvc.lock", ".dvc/cache"):
        place = folder / name
        shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
    kills = 0
    while kills < MOST and _repro(bench, rng.uniform(1, 10), rng.choice([signal.SIGKILL, signal.SIGTERM])) is None:
        kills += 1
    status = _repro(bench, 0)
    if status:
        return f"{kills} kills", f"BAD: {status}: {(folder / '.said').read_text(errors='replace')[-500:]!r}"
    return f"{kills} kills", "same" if _hashes(folder) == json.loads(reference.read_text()) else "BAD: other bytes"


def _hashes(folder: Path) -> dict[str, str]:
    below = ("teacher", "synthetic", "students", "metrics", "belief", "history")
    return {name: hashlib.sha256(content).hexdigest() for name, content in bytes_of(folder, below).items()}


def _repro(bench: Bench, seconds: float, how: signal.Signals = signal.SIGKILL) -> int | None:
    """The status of `dvc repro`; None when it was killed after so many seconds (0: it is left alone)."""
    folder = bench.root / "dvc"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PHOTOGRAM_WORKERS": "1", "DVC_SITE_CACHE_DIR": str(bench.root / "site"), "GIT_CONFIG_GLOBAL": os.devnull,
    }  # fmt: skip
    with (folder / ".said").open("wb") as said:
        child = subprocess.Popen(
            ["dvc", "repro"], cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            return child.wait(seconds or 600)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, how)
            time.sleep(0.2)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return None


def _repository(folder: Path) -> None:
    given = params()
    given["matrix"] |= {"methods": ["zskt"], "references": [], "few_shot": []}
    make(folder, given)
    for name in ("pipeline", "stages"):
        (folder / name).unlink()
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True, capture_output=True)


# How many trials, and how one is made.
KINDS: dict[str, tuple[int, Callable[[Bench, int, int], tuple[str, str]]]] = {
    "work": (1000, work),
    "growth": (120, growth),
    "outputs": (200, outputs),
    "kills": (100, kills),
    "dvc": (8, dvc),
    "clock": (60, clock),
    "disk": (80, disk),
    "users": (60, users),
}
