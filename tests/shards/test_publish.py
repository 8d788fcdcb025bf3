"""Publishing: whole or not at all, and two at a time never mix."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline.core.errors import WorkError
from pipeline.shards import publish as module
from pipeline.shards.make import ShardMaker
from pipeline.shards.manifest import LIMITS, Manifest
from pipeline.shards.publish import describe, publish
from pipeline.shards.reader import Dataset
from pipeline.shards.work import ShardRecord, plan
from tests.shards.support import Data, linear_teacher, write_dataset


class Work:
    """A work directory whose shards are there."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        write_dataset(path, Data(seed=seed))

    @property
    def manifest(self) -> Manifest:
        return Dataset.open(self.path).manifest


def send(work: Work, out: Path) -> str | None:
    """The error's message, or None."""
    try:
        publish(work, work.manifest, out)  # pyright: ignore[reportArgumentType]
    except WorkError as error:
        return str(error)
    return None


@pytest.fixture
def works(tmp_path: Path) -> list[Work]:
    return [Work(tmp_path / f"work{seed}", seed) for seed in range(4)]


def test_what_is_published_names_its_card_and_contact_sheet(works: list[Work], tmp_path: Path):
    out = tmp_path / "deep" / "out"
    written = publish(works[0], works[0].manifest, out)  # pyright: ignore[reportArgumentType]
    dataset = Dataset.open(out)
    assert dataset.manifest == written
    assert set(written.files) == {"README.md", "preview.png"}
    assert dataset.changed() == ()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_two_publishers_in_turn_never_mix(works: list[Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The second begins and ends while the first is between any two of its steps."""
    points: list[str] = []
    monkeypatch.setattr(module, "crash_point", points.append)
    send(works[0], tmp_path / "alone")
    for step in range(len(points)):
        out = tmp_path / f"out{step}"
        results: list[str | None] = []
        passed = iter(range(len(points)))

        def meet(_: str, step: int = step, out: Path = out, passed=passed, results=results) -> None:
            if next(passed, None) == step:
                monkeypatch.setattr(module, "crash_point", lambda _: None)
                results.append(send(works[1], out))

        monkeypatch.setattr(module, "crash_point", meet)
        results.insert(0, send(works[0], out))
        Dataset.open(out).verify()
        assert Dataset.open(out).changed() == ()
        assert [result is None for result in results].count(True) == 1
        (failed,) = (result for result in results if result is not None)
        assert "another dataset" in failed
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_many_publishers_at_once_leave_one_whole_dataset(works: list[Work], tmp_path: Path):
    for trial in range(5):
        out = tmp_path / f"out{trial}"
        results: list[str | None] = []

        def sending(work: Work, out: Path = out, results: list[str | None] = results) -> None:
            results.append(send(work, out))

        threads = [threading.Thread(target=sending, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Dataset.open(out).verify()
        assert results.count(None) == 1
        assert all("another dataset" in result for result in results if result is not None)


def test_a_folder_that_another_publisher_takes_for_a_dead_ones_is_given_up(
    works: list[Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other one has it locked, and has not removed it yet, when its owner looks."""
    lock, begun = module._locked, threading.Event()

    def meet(folder: Path, **wait: bool) -> int | None:
        monkeypatch.setattr(module, "_locked", lock)
        thread = threading.Thread(target=remove, args=(folder,))
        thread.start()
        begun.wait()
        return lock(folder, **wait)

    def remove(folder: Path) -> None:
        descriptor = lock(folder)
        assert descriptor is not None
        begun.set()
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)

    monkeypatch.setattr(module, "_locked", meet)
    assert send(works[0], tmp_path / "out") is None


def test_equal_datasets_may_be_published_at_once(works: list[Work], tmp_path: Path):
    assert [send(works[0], tmp_path / "out") for _ in range(2)] == [None, None]
    (tmp_path / "out" / "README.md").write_text("edited")
    assert "another dataset" in (send(works[0], tmp_path / "out") or "")


def test_the_folder_of_a_killed_publisher_is_removed_and_no_others(works: list[Work], tmp_path: Path):
    (tmp_path / ".out.publishing-0123abcd").mkdir()
    (tmp_path / ".other.publishing-0123abcd").mkdir()
    (tmp_path / "empty").mkdir()
    assert send(works[0], tmp_path / "out") is None
    assert send(works[0], tmp_path / "empty") is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".other.publishing-0123abcd"]


def test_a_place_that_is_taken_stays_as_it_is(works: list[Work], tmp_path: Path):
    (tmp_path / "file").write_text("x")
    assert "something else is there" in (send(works[0], tmp_path / "file") or "")
    assert (tmp_path / "file").read_text() == "x"
    assert send(works[0], tmp_path / "file" / "out") is not None


def test_a_manifest_that_no_reader_takes_is_not_written(
    works: list[Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = works[0].manifest
    monkeypatch.setattr(module, "LIMITS", module.LIMITS.__class__(manifest_bytes=100))
    with pytest.raises(WorkError, match=r"more than readers take: 100; make larger shards"):
        publish(works[0], manifest, tmp_path / "out")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def test_shards_that_no_manifest_may_hold_are_one_line():
    large = ShardRecord(
        name="train-00000.tar", samples=LIMITS.shard_samples + 1, bytes=1, sha256="1" * 64, histogram=(1, 0, 0, 0),
        agree=1, seconds=1.0, work="",
    )  # fmt: skip
    maker = ShardMaker(Path, 0, "noise", "png", soft_targets=False)  # pyright: ignore[reportArgumentType]
    facts = {"params": {}, "data_free": True, "steered": True, "attachments": ()}
    with pytest.raises(WorkError, match=r"^noise: the manifest cannot say: 'samples'.*[^\n]$"):
        describe(plan(1, 1, 0), [large], maker, teacher=linear_teacher().card, **facts)
