"""Files that a fit leaves: published with the shards, read strictly."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError, run_or_exit
from pipeline.core.files import canonical_json
from pipeline.shards.__main__ import main, summary
from pipeline.shards.card import card
from pipeline.shards.manifest import Limits
from pipeline.shards.reader import Dataset
from tests.shards.support import LEFT, SHARD, make_noise, tree

NAMES = tuple(sorted(attachment.name for attachment in LEFT))
CONTENTS = {attachment.name: attachment.content for attachment in LEFT}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("golden")
    make_noise(folder / "work", folder / "out", SHARD, 0, attach=True)
    return tree(folder / "out")


@pytest.fixture
def folder(tmp_path: Path, golden: dict[str, bytes]) -> Path:
    """A published dataset, free to be damaged."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, content in golden.items():
        (folder / name).write_bytes(content)
    return folder


def test_they_lie_beside_the_shards_and_come_back_bit_for_bit(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert {entry.name: dataset.attachment(entry) for entry in dataset.manifest.attachments} == CONTENTS
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "manifest.json", "preview.png", "train-00000.tar", *NAMES,
    }  # fmt: skip
    dataset.verify()


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
    assert r"epoch: 1, latent\_dim: 8, widths: \[4, 2\]" in section
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
