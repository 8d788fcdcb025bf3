"""Files that a fit leaves in the work directory: kept whole or not at all."""

import hashlib
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import MethodError, WorkError
from pipeline.core.work import prune
from pipeline.methods import Attachment
from pipeline.shards.executor import Executor
from pipeline.shards.work import Attachments, ShardDirectory
from tests.shards.support import LEFT, SHARD, make_noise, make_noise_with_fault, noise_key, tree

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "PIL.Image", "tests.shards.support"])
NAMES = tuple(sorted(attachment.name for attachment in LEFT))


def attach(root: Path, out: Path, count: int = SHARD, **more: Any) -> None:
    make_noise(root, out, count, holdout=0, attach=True, **more)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("golden")
    attach(folder / "work", folder / "out")
    return tree(folder / "out")


@pytest.fixture
def store(tmp_path: Path) -> Attachments:
    """A work directory that holds what a fit left."""
    with ShardDirectory(tmp_path, "noise", noise_key()) as work:
        work.attachments.store(LEFT, "noise")
    return work.attachments


def test_what_was_stored_is_there_by_name_with_its_facts_size_and_hash(store: Attachments) -> None:
    found = store.entries()
    assert found is not None
    assert tuple(entry.name for entry in found) == NAMES
    for entry in found:
        original = next(attachment for attachment in LEFT if attachment.name == entry.name)
        assert (entry.kind, entry.facts) == (original.kind, original.facts)
        assert (entry.bytes, entry.sha256) == (len(original.content), hashlib.sha256(original.content).hexdigest())
        assert store.path(entry.name).read_bytes() == original.content


def test_nothing_stored_is_another_thing_than_nothing_left(tmp_path: Path) -> None:
    with ShardDirectory(tmp_path, "noise", noise_key()) as work:
        assert work.attachments.entries() is None
        work.attachments.store((), "noise")
        assert work.attachments.entries() == ()


def test_a_flipped_bit_anywhere_makes_them_all_missing(tmp_path: Path, store: Attachments) -> None:
    index = store.path("x").with_name("attachments.json")
    for path in (index, *map(store.path, NAMES)):
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
            assert store.entries() is None, f"{path.name}, byte {position}"
        path.unlink()
        assert store.entries() is None, path.name
        path.write_bytes(whole)
    assert store.entries() is not None


def test_an_index_from_another_work_directory_is_not_believed(tmp_path: Path, store: Attachments) -> None:
    with ShardDirectory(tmp_path, "noise", noise_key(seed=1)) as other:
        for path in store.path("x").parent.glob("attachment*"):
            (other.path / path.name).write_bytes(path.read_bytes())
        assert other.attachments.entries() is None


def test_a_name_cannot_meet_a_shard_a_checkpoint_or_a_file_of_the_directory_itself(tmp_path: Path) -> None:
    with ShardDirectory(tmp_path, "noise", noise_key()) as work:
        work.checkpoint("fit").save({"step": 1})
        left = [Attachment(f"{name}.safetensors", "proxy", {"arch": "x"}, b"other") for name in ("fit", "key", "lock")]
        work.attachments.store(left, "noise")
        assert work.checkpoint("fit").load() == {"step": 1}
        assert json.loads((work.path / "key.json").read_bytes())["seed"] == 0
        assert work.attachments.entries() is not None


def test_what_is_there_is_kept_and_another_fits_is_refused(store: Attachments) -> None:
    """Shards of two fits would be mixed, and the manifest would name the generators of one."""
    index = store.path("x").with_name("attachments.json")
    before = index.stat().st_mtime_ns
    store.keep(tuple(reversed(LEFT)), "noise")
    assert index.stat().st_mtime_ns == before
    for other in (LEFT[1:], (LEFT[0]._replace(content=b"other"), *LEFT[1:])):
        with pytest.raises(WorkError, match=r"made from another fit of noise; use as many threads .* or delete"):
            store.keep(other, "noise")
    index.unlink()
    store.keep(LEFT, "noise")
    assert store.entries() is not None


GOOD = LEFT[0]
REFUSED: list[tuple[tuple[Attachment, ...], str]] = [
    ((GOOD, GOOD), "each once"),
    *(
        ((GOOD._replace(name=name),), "attachments.0.name")
        for name in ("../x.csv", "a/b.csv", "/x.csv", "X.csv", "x.json", "x.tar", "x", ".csv", "x.csv\n", "a b.csv", "")
    ),
    ((GOOD._replace(kind="teacher"),), "attachments.0.kind"),  # pyright: ignore
    ((GOOD._replace(facts={"loss": float("nan")}),), "nan"),
    ((GOOD._replace(facts={"path": Path("x")}),), "Path"),  # pyright: ignore
    (tuple(GOOD._replace(name=f"a-{number:04d}.csv") for number in range(1001)), "at most 1000"),
]


@pytest.mark.parametrize(("left", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_kept_is_an_error_of_the_method_and_leaves_what_was_there(
    store: Attachments, left: tuple[Attachment, ...], message: str
) -> None:
    with pytest.raises(MethodError, match=message) as caught:
        store.store(left, "dream")
    assert str(caught.value).startswith("methods.dream: attachments: ")
    assert "\n" not in str(caught.value)
    assert store.entries() is not None


def failing_after(writes: int) -> Callable[..., None]:
    """`os.replace` on a disk that takes so many writes more."""
    real, room = os.replace, iter(range(writes))

    def replace(*arguments: Any) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        real(*arguments)

    return replace


def test_a_full_disk_leaves_nothing_of_them(store: Attachments, monkeypatch: pytest.MonkeyPatch) -> None:
    for writes in range(len(LEFT) + 1):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing_after(writes))
            with pytest.raises(WorkError, match="No space left on device"):
                store.store(LEFT, "noise")
        assert list(store.path("x").parent.glob("*attachment*")) == []
    store.store(LEFT, "noise")
    assert store.entries() is not None


@pytest.mark.parametrize(
    "point", ["attachment:stored", "attachments:committed", "write:opened", "write:written", "write:replaced"]
)
def test_a_power_cut_while_they_are_stored_never_counts_half_of_them(
    tmp_path: Path, golden: dict[str, bytes], point: str
) -> None:
    passages = {"attachments:committed": 1, "attachment:stored": len(LEFT)}.get(point, len(LEFT) + 2)
    for passage in range(1, passages + 1):
        root, out = tmp_path / str(passage) / "work", tmp_path / str(passage) / "out"
        process = CONTEXT.Process(
            target=make_noise_with_fault, args=(root, out, f"{point}:{passage}", SHARD, 0.0, True)
        )
        process.start()
        process.join()
        assert process.exitcode == 137
        (directory,) = (root / "synthetic" / "noise").iterdir()
        found = Attachments(directory).entries()
        assert found is None or tuple(entry.name for entry in found) == NAMES
        attach(root, out)
        assert tree(out) == golden
        assert list(root.rglob("*.tmp")) == []


def test_they_are_stored_once_and_are_the_same_from_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    attach(tmp_path / "one", tmp_path / "serial", 3 * SHARD, executor=None, log=log)
    attach(tmp_path / "two", tmp_path / "parallel", 3 * SHARD, executor=Executor(2, patience=0), log=log)
    attach(tmp_path / "two", tmp_path / "again", 3 * SHARD, executor=Executor(2, patience=0), log=log)
    assert log.read_text().split() == ["stored", "stored"]
    assert tree(tmp_path / "serial") == tree(tmp_path / "parallel") == tree(tmp_path / "again")


def test_a_worker_process_can_be_handed_the_store(store: Attachments) -> None:
    assert pickle.loads(pickle.dumps(store)).entries() == store.entries()


@pytest.mark.parametrize("name", ["attachments.json", f"attachment.{NAMES[1]}"])
@pytest.mark.parametrize("change", ["delete", "edit"])
def test_what_somebody_deleted_or_edited_in_the_work_directory_is_made_again_without_its_shards(
    tmp_path: Path, golden: dict[str, bytes], name: str, change: str
) -> None:
    attach(tmp_path / "work", tmp_path / "first")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.tar")}
    (path,) = (tmp_path / "work").rglob(name)
    # A new file: the published one is a link to the old one.
    content = path.read_bytes()
    path.unlink()
    if change == "edit":
        path.write_bytes(content.replace(b"first", b"First"))
    attach(tmp_path / "work", tmp_path / "second")
    assert tree(tmp_path / "second") == golden
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.tar")} == times


def test_pruning_takes_them_along(tmp_path: Path, store: Attachments) -> None:
    (deleted,) = prune(tmp_path, keep=0)
    assert store.path("x").parent == deleted
    assert not deleted.exists()
