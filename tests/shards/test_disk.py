"""Disks that are full, small or read-only: one clear error, nothing half-committed, and the next run goes on."""

import multiprocessing
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import WorkError
from pipeline.shards.reader import Dataset
from tests.shards.support import SHARD, make_noise, tree

COUNT = 6 * SHARD


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB: room for less than the dataset."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("golden")
    make_noise(folder / "work", folder / "out", count=COUNT)
    return tree(folder / "out")


def whole_shards(root: Path) -> int:
    """Sidecars in a work directory, after checking that nothing else is half there."""
    shards = {path.name for path in root.rglob("*.tar")}
    sidecars = {path.name.removesuffix(".json") for path in root.rglob("*.tar.json")}
    assert shards == sidecars
    assert list(root.rglob("*.tmp")) == []
    return len(shards)


def test_a_disk_that_is_full_from_time_to_time_delays_the_dataset_and_changes_nothing(
    small_disk: Path, tmp_path: Path, golden: dict[str, bytes]
):
    root, out = small_disk / "work", tmp_path / "out"
    ballast = small_disk / "ballast"
    finished = -1
    for kilobytes in (299, 290, 250, 170, 120):  # less and less is in the way
        ballast.write_bytes(bytes(kilobytes << 10))
        with pytest.raises(WorkError, match=r"cannot (write|make) .* No space left on device; (free some space|set)"):
            make_noise(root, out, count=COUNT)
        assert not out.exists()
        before, finished = finished, whole_shards(root)
        assert finished >= before
        ballast.unlink()
    assert finished > 0
    make_noise(root, out, count=COUNT)
    assert tree(out) == golden


def test_a_disk_that_is_full_when_publishing_shows_no_dataset(
    small_disk: Path, tmp_path: Path, golden: dict[str, bytes]
):
    root, out = tmp_path / "work", small_disk / "out"
    for kilobytes in (299, 280, 200, 90, 77):
        (small_disk / "ballast").write_bytes(bytes(kilobytes << 10))
        with pytest.raises(WorkError, match="No space left on device; free some space"):
            make_noise(root, out, count=COUNT)
        assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    (small_disk / "ballast").unlink()
    make_noise(root, out, count=COUNT)
    assert tree(out) == golden


def limited(root: Path, out: Path, most: int, answers: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        make_noise(root, out, count=COUNT)
        answers.send("done")
    except WorkError as error:
        answers.send(str(error))


def test_a_limit_on_file_sizes_is_one_clear_error_whatever_file_it_hits(tmp_path: Path, golden: dict[str, bytes]):
    context = multiprocessing.get_context("fork")
    sizes = sorted({len(content) for content in golden.values()})
    for most in [200, *sizes]:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=limited, args=(tmp_path / "work", tmp_path / "out", most - 1, sender))
        process.start()
        process.join()
        answer = receiver.recv()
        assert "cannot write" in answer
        assert "File too large; raise the limit on the size of files" in answer
        assert not (tmp_path / "out").exists()
        whole_shards(tmp_path / "work")
    make_noise(tmp_path / "work", tmp_path / "out", count=COUNT)
    assert tree(tmp_path / "out") == golden


def error_of(folder: Path) -> str | None:
    try:
        make_noise(folder / "work", folder / "out", count=2 * SHARD)
    except WorkError as error:
        return str(error)
    return None


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_disk_at_any_write_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: dict[str, bytes], call: str
):
    real = getattr(os, call)
    for nth in range(1, 200):
        calls = 0

        def failing(*arguments: Any, nth: int = nth) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(5, "Input/output error")
            return real(*arguments)

        folder = tmp_path / str(nth)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            message = error_of(folder)
        if message is None:
            break
        assert "Input/output error" in message
        whole_shards(folder / "work")
        if (folder / "out").exists():
            Dataset.open(folder / "out").verify()
        make_noise(folder / "work", folder / "out", count=2 * SHARD)
        assert Dataset.open(folder / "out").manifest.samples.train == 2 * SHARD
    assert nth > 10
