import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ParamsError, WorkError
from pipeline.core.work import WorkDirectory, prune, work_root


def directory(root: Path, name: str = "students/a", part: str | None = None, **changes: Any) -> WorkDirectory:
    key = {"seed": 0, "params": {"level": 1.0, "steps": [1, 2]}}
    return WorkDirectory(root, name, key | changes, part)


def left(root: Path, name: str = "students/a", **changes: Any) -> Path:
    """A directory that a stopped run left."""
    with directory(root, name, **changes) as work:
        work.checkpoint("net").save({"step": 3})
    return work.path


def test_the_root_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work_root() == Path(".work")
    monkeypatch.setenv("PHOTOGRAM_WORK_DIR", "/elsewhere")
    assert work_root() == Path("/elsewhere")


def test_the_directory_does_not_depend_on_the_order_of_the_key(tmp_path: Path) -> None:
    backwards = WorkDirectory(tmp_path, "a", {"params": {"steps": [1, 2], "level": 1.0}, "seed": 0})
    assert backwards.path == directory(tmp_path, "a").path


def test_training_state_lives_with_the_key(tmp_path: Path) -> None:
    left(tmp_path)
    with directory(tmp_path) as work:
        assert work.checkpoint("net").load() == {"step": 3}
    with directory(tmp_path, seed=1) as other:
        assert other.checkpoint("net").load() is None
        (other.path / "net.safetensors").write_bytes((work.path / "net.safetensors").read_bytes())
        with pytest.raises(WorkError, match=r"net\.safetensors: a checkpoint of another training; delete it"):
            other.checkpoint("net").load()


def test_a_training_that_ended_leaves_nothing_not_even_a_lock(tmp_path: Path) -> None:
    with directory(tmp_path) as work:
        work.checkpoint("net").save({"step": 3})
        (work.path / "more").mkdir()
        (work.path / "more" / "file").write_bytes(b"")
        work.discard()
    assert list(tmp_path.iterdir()) == []
    with directory(tmp_path) as work:
        assert work.checkpoint("net").load() is None


def test_ending_leaves_the_stopped_work_of_other_keys_alone(tmp_path: Path) -> None:
    other = left(tmp_path, seed=1)
    with directory(tmp_path) as work:
        work.discard()
    assert list((tmp_path / "students" / "a").iterdir()) == [other]


def test_work_that_fails_stays(tmp_path: Path) -> None:
    def train() -> None:
        with directory(tmp_path) as work:
            work.checkpoint("net").save({"step": 3})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    with directory(tmp_path) as work:
        assert work.checkpoint("net").load() == {"step": 3}


def test_a_run_that_waited_while_another_ended_and_removed_the_folder_starts_in_a_new_one(tmp_path: Path) -> None:
    """The lock that it waited for is a deleted file's, which the next one would not see."""
    entered = threading.Event()

    def wait() -> None:
        with directory(tmp_path, part="0:1") as later:
            later.checkpoint("net").save({"step": 4})
            assert (later.path / ".lock-0-1").exists()
            entered.set()

    with directory(tmp_path) as work:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        assert not entered.is_set()
        work.discard()
    thread.join(timeout=30)
    assert entered.is_set()


def test_many_short_trainings_of_one_key_never_share_a_folder(tmp_path: Path) -> None:
    inside: list[int] = []
    problems: list[str] = []
    deadline = time.monotonic() + 1.0

    def train(number: int) -> None:
        while time.monotonic() < deadline:
            try:
                with directory(tmp_path) as work:
                    inside.append(number)
                    if len(inside) > 1 or (work.path / "mine").exists():
                        problems.append("two at once")
                    (work.path / "mine").write_bytes(b"")
                    inside.remove(number)
                    work.discard()
            except WorkError as error:
                if "another run" not in str(error):
                    problems.append(str(error))

    threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_entering_removes_what_a_killed_write_left(tmp_path: Path) -> None:
    leftover = left(tmp_path) / ".net.safetensors.4711.tmp"
    leftover.write_bytes(b"half")
    with directory(tmp_path, part="0:2"):
        assert leftover.exists(), "it may be a neighbour's, being written"
    with directory(tmp_path):
        assert not leftover.exists()


def test_a_new_key_is_explained_by_what_differs_from_the_last_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    left(tmp_path)
    assert capfd.readouterr().err == ""
    for _ in range(2):
        left(tmp_path, seed=7, params={"level": 2.0, "steps": [1, 2]})
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("students/a: starting anew, not from ")
    assert "seed (0 -> 7)" in said
    assert "params.level (1.0 -> 2.0)" in said
    assert "steps" not in said


def test_the_comparison_is_with_the_most_recently_used_directory(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed, used in ((1, 100), (2, 300), (3, 200)):
        os.utime(left(tmp_path, seed=seed) / "key.json", (used, used))
    capfd.readouterr()
    left(tmp_path, seed=9)
    assert "seed (2 -> 9)" in capfd.readouterr().err


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    with (
        directory(tmp_path),
        pytest.raises(WorkError, match="another run is at work there"),
        directory(tmp_path),
    ):
        pass
    with directory(tmp_path), directory(tmp_path, seed=1):
        pass  # free again, and another key never disturbs


def test_ranges_work_beside_each_other_but_not_beside_a_whole_run(tmp_path: Path) -> None:
    with directory(tmp_path, part="0:2"):
        with directory(tmp_path, part="2:4"):
            pass
        for part in ("0:2", None):
            with pytest.raises(WorkError, match="another run"), directory(tmp_path, part=part):
                pass
    with directory(tmp_path) as work:
        assert list(work.path.glob(".lock-*")) == []


def test_the_lock_is_freed_when_preparing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: Path, _content: bytes) -> None:
        raise WorkError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.core.work.write_atomic", broken)
        with pytest.raises(WorkError, match="no space"), directory(tmp_path):
            pass
    with directory(tmp_path):
        pass


def test_a_root_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", Path("/proc/nowhere")):
        with pytest.raises(WorkError, match=r"cannot make .*; .*, or set PHOTOGRAM_WORK_DIR"), directory(root):
            pass


def test_pruning_keeps_the_newest_of_every_kind_of_work_and_what_is_in_use(tmp_path: Path) -> None:
    names = ("synthetic/noise", "students/zskd-small-0", "teacher")
    paths = {(name, age): left(tmp_path, name, seed=age) for name in names for age in range(3)}
    for (_, age), path in paths.items():
        os.utime(path / "key.json", (1000 - age, 1000 - age))
    with directory(tmp_path, "teacher", seed=2) as in_use:
        os.utime(in_use.path / "key.json", (0, 0))
        deleted = prune(tmp_path, keep=1)
    assert set(deleted) == {path for (name, age), path in paths.items() if age > 0} - {in_use.path}
    assert {path for path in paths.values() if path.exists()} == {in_use.path, *(paths[name, 0] for name in names)}
    assert len(prune(tmp_path, keep=0)) == 4
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ParamsError, match="--keep -1"):
        prune(tmp_path, keep=-1)


def test_pruning_takes_no_name_that_looks_like_a_fingerprint(tmp_path: Path) -> None:
    kept = left(tmp_path, f"synthetic/{'a' * 16}")
    assert prune(tmp_path, keep=1) == ()
    assert kept.exists()


def test_the_key_file_is_readable_and_made_anew_when_it_is_damaged(tmp_path: Path) -> None:
    file = left(tmp_path) / "key.json"
    assert json.loads(file.read_bytes())["seed"] == 0
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with directory(tmp_path) as again:
            assert again.checkpoint("net").load() == {"step": 3}
        assert file.read_bytes() == whole
