"""Files that a fit leaves: kept whole or not at all, published with the shards, read strictly."""

import hashlib
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attaching import LEFT, NAMES, make, make_with_fault
from producing import SHARD, key, tree

from pipeline.core.errors import MethodError, ShardError, WorkError, run_or_exit
from pipeline.core.files import canonical_json
from pipeline.methods import Attachment
from pipeline.shards.__main__ import main
from pipeline.shards.attachments import Attachments
from pipeline.shards.card import card
from pipeline.shards.executor import Processes
from pipeline.shards.limits import Limits
from pipeline.shards.reader import Dataset
from pipeline.shards.summary import summary
from pipeline.shards.work import WorkDirectory, prune

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "PIL.Image", "pipeline.methods", "pipeline.shards.publish"])
CONTENTS = {attachment.name: attachment.content for attachment in LEFT}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("golden")
    make(folder / "work", folder / "out")
    return tree(folder / "out")


@pytest.fixture
def folder(tmp_path: Path, golden: dict[str, bytes]) -> Path:
    """A published dataset, free to be damaged."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, content in golden.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Attachments:
    """A work directory that holds what a fit left."""
    with WorkDirectory(tmp_path, "noise", key()) as work:
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
    with WorkDirectory(tmp_path, "noise", key()) as work:
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
    with WorkDirectory(tmp_path, "noise", key(seed=1)) as other:
        for path in store.path("x").parent.glob("attachment*"):
            (other.path / path.name).write_bytes(path.read_bytes())
        assert other.attachments.entries() is None


def test_a_name_cannot_meet_a_shard_a_checkpoint_or_a_file_of_the_directory_itself(tmp_path: Path) -> None:
    with WorkDirectory(tmp_path, "noise", key()) as work:
        work.checkpoint("fit").save({"step": 1})
        left = [Attachment(f"{name}.safetensors", "proxy", {"arch": "x"}, b"other") for name in ("fit", "key", "lock")]
        work.attachments.store(left, "noise")
        assert work.checkpoint("fit").load() == {"step": 1}
        assert json.loads((work.path / "key.json").read_bytes())["seed"] == 0
        assert work.attachments.entries() is not None


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
        process = CONTEXT.Process(target=make_with_fault, args=(root, out, f"{point}:{passage}"))
        process.start()
        process.join()
        assert process.exitcode == 137
        (directory,) = (root / "synthetic" / "noise").iterdir()
        found = Attachments(directory).entries()
        assert found is None or tuple(entry.name for entry in found) == NAMES
        make(root, out)
        assert tree(out) == golden
        assert list(root.rglob("*.tmp")) == []


def test_they_lie_beside_the_shards_and_come_back_bit_for_bit(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert {entry.name: dataset.attachment(entry) for entry in dataset.manifest.attachments} == CONTENTS
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "manifest.json", "preview.png", "train-00000.tar", *NAMES,
    }  # fmt: skip
    dataset.verify()


def test_they_are_stored_once_and_are_the_same_from_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    make(tmp_path / "one", tmp_path / "serial", log=log, count=3 * SHARD)
    make(tmp_path / "two", tmp_path / "parallel", Processes(2), log, count=3 * SHARD)
    make(tmp_path / "two", tmp_path / "again", Processes(2), log, count=3 * SHARD)
    assert log.read_text().split() == ["stored", "stored"]
    assert tree(tmp_path / "serial") == tree(tmp_path / "parallel") == tree(tmp_path / "again")


def test_a_worker_process_can_be_handed_the_store(store: Attachments) -> None:
    assert pickle.loads(pickle.dumps(store)).entries() == store.entries()


@pytest.mark.parametrize("name", ["attachments.json", f"attachment.{NAMES[1]}"])
@pytest.mark.parametrize("change", ["delete", "edit"])
def test_what_somebody_deleted_or_edited_in_the_work_directory_is_made_again_without_its_shards(
    tmp_path: Path, golden: dict[str, bytes], name: str, change: str
) -> None:
    make(tmp_path / "work", tmp_path / "first")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.tar")}
    (path,) = (tmp_path / "work").rglob(name)
    # A new file: the published one is a link to the old one.
    content = path.read_bytes()
    path.unlink()
    if change == "edit":
        path.write_bytes(content.replace(b"first", b"First"))
    make(tmp_path / "work", tmp_path / "second")
    assert tree(tmp_path / "second") == golden
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.tar")} == times


def test_pruning_takes_them_along(tmp_path: Path, store: Attachments) -> None:
    (deleted,) = prune(tmp_path, keep=0)
    assert store.path("x").parent == deleted
    assert not deleted.exists()


@pytest.mark.parametrize("name", NAMES)
def test_one_flipped_bit_in_any_byte_is_an_error_naming_the_file(folder: Path, name: str) -> None:
    dataset, path = Dataset.open(folder), folder / name
    (entry,) = (entry for entry in dataset.manifest.attachments if entry.name == name)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ShardError, match=rf"{name}: damaged: sha256 differs"):
            dataset.attachment(entry)
    for wrong in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(wrong)
        with pytest.raises(ShardError, match=rf"{name}: {len(wrong)} bytes, the manifest says {len(whole)}"):
            dataset.attachment(entry)
        with pytest.raises(ShardError, match=name):
            dataset.verify()


def test_a_missing_one_is_named_before_anything_is_read(folder: Path) -> None:
    (folder / "fit.csv").unlink()
    with pytest.raises(ShardError, match=r"fit\.csv: missing, the manifest names it"):
        Dataset.open(folder)


@pytest.mark.parametrize("name", ["generator-03.safetensors", "old.csv", "OLD.CSV", "model.SafeTensors"])
def test_one_that_the_manifest_does_not_name_is_an_error(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(ShardError, match=f"{name}: not in the manifest"):
        Dataset.open(folder)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_one_that_is_no_regular_file_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / "fit.csv"
    path.rename(tmp_path / "real.csv")
    if kind == "link":
        path.symlink_to(tmp_path / "real.csv")  # even to the right content: a link leads out of the folder
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(ShardError, match=r"fit\.csv: .*regular file"):
        Dataset.open(folder).verify()


def reseal(folder: Path, number: int, **changes: object) -> None:
    """An edit of one entry by somebody who also sets the digest right."""
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    content.pop("digest")
    content["attachments"][number] |= changes
    path.write_bytes(canonical_json(content | {"digest": hashlib.sha256(canonical_json(content)).hexdigest()}))


HOSTILE: list[tuple[dict[str, object], str]] = [
    *(
        ({"name": name}, r"attachments\.0\.name")
        for name in (
            "../fit.csv", "/etc/fit.csv", "a/fit.csv", "..csv", ".csv", "fit.csv\n", "fit\0.csv", "Fit.csv",
            "fit.csv.gz", "manifest.json", "README.md", "train-00000.tar", "", "f" * 200 + ".csv",
        )
    ),
    ({"name": "zzz.csv"}, "in the order of their names"),
    ({"name": NAMES[1]}, "each once"),
    ({"kind": "code"}, r"attachments\.0\.kind"),
    ({"facts": []}, r"attachments\.0\.facts"),
    ({"bytes": 2**40}, r"attachments\.0\.bytes"),
    ({"bytes": -1}, r"attachments\.0\.bytes"),
    ({"bytes": 17.0}, r"attachments\.0\.bytes"),
    ({"sha256": "../" + "0" * 61}, r"attachments\.0\.sha256"),
    ({"run": "me"}, r"attachments\.0\.run"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_entry_is_one_line(folder: Path, changes: dict[str, object], message: str) -> None:
    reseal(folder, 0, **changes)
    with pytest.raises(ShardError, match=message) as caught:
        Dataset.open(folder)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(folder))


def test_another_files_hash_or_size_under_a_right_digest_is_refused(folder: Path) -> None:
    reseal(folder, 0, sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ShardError, match=r"fit\.csv: damaged"):
        Dataset.open(folder).verify()
    reseal(folder, 0, bytes=400 << 20)
    with pytest.raises(ShardError, match=r"fit\.csv: 17 bytes, the manifest says 419430400"):
        Dataset.open(folder).verify()


def test_more_than_the_caps_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"generator-02\.safetensors: 300 bytes; at most 299 are read"):
        Dataset.open(folder, Limits(attachment_bytes=299))
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    content.pop("digest")
    content["attachments"] = [content["attachments"][0] | {"name": f"a-{number:04d}.csv"} for number in range(1001)]
    path.write_bytes(canonical_json(content | {"digest": hashlib.sha256(canonical_json(content)).hexdigest()}))
    with pytest.raises(ShardError, match="at most 1000"):
        Dataset.open(folder)


def test_the_card_lists_them_and_says_nothing_where_there_are_none(folder: Path) -> None:
    manifest = Dataset.open(folder).manifest
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == card(manifest)
    section = text.split("## Networks beside the images")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"`{name}`" for name in NAMES]
    assert "arch: resnet8" in section
    assert r"epoch: 1, noise: 8, widths: \[4, 2\]" in section
    without = card(manifest.model_copy(update={"attachments": ()}))
    assert "beside the images" not in without
    assert "\n\n\n" not in without
    assert "\n\n\n" not in text


def test_facts_cannot_break_out_of_the_cards_table(folder: Path) -> None:
    manifest = Dataset.open(folder).manifest
    entry = manifest.attachments[0].model_copy(update={"facts": {"a|b": "x\n| y | <b> |\n# z", "n": {"k": "|"}}})
    text = card(manifest.model_copy(update={"attachments": (entry,)}))
    (row,) = (line for line in text.splitlines() if line.startswith("| `fit.csv` |"))
    assert r"a\|b: x \| y \| \<b\> \| # z" in row
    assert row.replace(r"\|", "").count("|") == 4


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shards", *map(str, arguments)])
    try:
        run_or_exit(main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_commands_verify_and_name_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify", folder) == 0
    assert f"{SHARD} samples in 1 shards, 4 files beside them" in capsys.readouterr().out
    assert "fit.csv (17 bytes), generator-01.safetensors (250 bytes)" in summary(Dataset.open(folder))
    content = bytearray((folder / NAMES[2]).read_bytes())
    content[7] ^= 1
    (folder / NAMES[2]).write_bytes(content)
    assert run(monkeypatch, "verify", folder) == 2
    assert NAMES[2] in capsys.readouterr().err
