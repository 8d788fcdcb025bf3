"""kill -9 and power cuts: at any moment a reader sees all or nothing, and the next run ends with the same bytes."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from pipeline.shards.reader import Dataset
from tests.shards.support import SHARD, make_noise, make_noise_with_fault, tree
from tests.support import ROOT

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "PIL.Image", "pipeline.methods", "tests.shards.support"])
COUNT = 3 * SHARD
FEW = SHARD  # where every passage of every point is tried
POINTS = (
    "write:opened", "write:written", "write:synced", "write:replaced",
    "shard:drawn", "shard:stored", "shard:committed",
    "publish:begun", "publish:linked", "publish:manifest", "publish:renamed",
)  # fmt: skip


def start(root: Path, out: Path, count: int, fault: str = "", pause: float = 0.0) -> BaseProcess:
    process = CONTEXT.Process(target=make_noise_with_fault, args=(root, out, fault, count, pause))
    process.start()
    return process


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("golden")
    make_noise(folder / "work", folder / "out", count=COUNT)
    return tree(folder / "out")


@pytest.fixture(scope="module")
def golden_few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("golden_few")
    make_noise(folder / "work", folder / "out", count=FEW)
    return tree(folder / "out")


def assert_all_or_nothing(out: Path, golden: dict[str, bytes]) -> None:
    if out.exists():
        assert tree(out) == golden
        Dataset.open(out).verify()


@pytest.mark.parametrize("point", POINTS)
def test_a_power_cut_at_every_passage_of_a_point_leaves_nothing_half_done(
    tmp_path: Path, golden_few: dict[str, bytes], point: str
):
    for passage in range(1, 100):
        folder = tmp_path / str(passage)
        process = start(folder / "work", folder / "out", FEW, fault=f"{point}:{passage}")
        process.join()
        assert_all_or_nothing(folder / "out", golden_few)
        if process.exitcode == 0:
            break
        assert process.exitcode == 137
        make_noise(folder / "work", folder / "out", count=FEW)
        assert tree(folder / "out") == golden_few
        assert [path.name for path in folder.iterdir() if path.name not in {"work", "out"}] == []
        assert list(folder.rglob("*.tmp")) == []
    assert passage > 1, "the point was never passed"


def disturb(work: Path, chance: random.Random) -> None:
    """Delete, cut or flip something in the work directory, as failing disks and tidy people do."""
    files = sorted(path for path in work.rglob("*") if path.is_file())
    if not files or chance.random() < 0.5:
        return
    victim = chance.choice(files)
    content = bytearray(victim.read_bytes())
    action = chance.choice(["delete", "cut", "flip"])
    if action == "delete" or not content:
        victim.unlink()
        return
    if action == "flip":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        del content[chance.randrange(len(content)) :]
    # A new file, since the old one may be shared with a published dataset, which damage in the work directory
    # must not be made to reach by the test itself.
    victim.unlink()
    victim.write_bytes(bytes(content))


def kill_many(folder: Path, golden: dict[str, bytes], kills: int, seed: int) -> None:
    chance = random.Random(seed)
    seconds: list[float] = []
    for number in range(3):  # the first start also starts the server that forks the others
        begin = time.perf_counter()
        process = start(folder / f"work-{number}-whole", folder / f"out-{number}-whole", COUNT, pause=0.02)
        process.join()
        seconds.append(time.perf_counter() - begin)
        assert process.exitcode == 0

    killed = completed = 0
    while killed < kills:
        root, out = folder / f"work-{completed}", folder / f"out-{completed}"
        process = start(root, out, COUNT, pause=0.02)
        process.join(chance.uniform(0, min(seconds)))
        process.kill()
        process.join()
        assert_all_or_nothing(out, golden)
        assert process.exitcode in {0, -signal.SIGKILL}
        killed += process.exitcode != 0
        if process.exitcode == 0 or out.exists():
            assert tree(out) == golden
            completed += 1
        else:
            disturb(root, chance)
    make_noise(root, out, count=COUNT)
    assert tree(out) == golden


def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, golden: dict[str, bytes]):
    kill_many(tmp_path, golden, kills=20, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_change_nothing(tmp_path: Path, golden: dict[str, bytes]):
    kill_many(tmp_path, golden, kills=200, seed=2)


PROGRAM = """
import sys
from pathlib import Path
from pipeline.core.errors import quiet_interrupt, run_or_exit
quiet_interrupt()
from pipeline.shards.executor import Executor
from tests.shards.support import make_noise
root, out, count, workers, pause = sys.argv[1:]
executor = Executor(int(workers), patience=0)
run_or_exit(lambda: make_noise(Path(root), Path(out), int(count), executor=executor, pause=float(pause)))
"""


def launch(root: Path, out: Path, workers: int, pause: float) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", PROGRAM, root, out, str(COUNT), str(workers), str(pause)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes through /proc")
def test_when_the_parent_of_a_pool_is_killed_its_workers_go_and_the_next_run_goes_on(
    tmp_path: Path, golden: dict[str, bytes]
):
    root, out = tmp_path / "work", tmp_path / "out"
    parent = launch(root, out, workers=2, pause=0.5)
    deadline = time.monotonic() + 120
    while not list(root.rglob("train-*.json")):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.02)
    family = children(parent.pid)
    assert len(family) >= 2
    parent.kill()
    parent.wait()
    assert not out.exists()
    while any(alive(pid) for pid in family):
        assert time.monotonic() < deadline, "orphaned workers"
        time.sleep(0.02)
    make_noise(root, out, count=COUNT)
    assert tree(out) == golden


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes through /proc")
def test_an_interrupt_while_workers_still_import_is_one_line(tmp_path: Path):
    """Ctrl-C goes to the whole group, and a worker needs seconds before it could install a handler of its own."""
    parent = launch(tmp_path / "work", tmp_path / "out", workers=2, pause=5)
    deadline = time.monotonic() + 120
    while len(children(parent.pid)) < 3:  # the first is multiprocessing's resource tracker
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert said.decode() == "interrupted; run the same command again to go on\n"
    assert parent.returncode == 130
