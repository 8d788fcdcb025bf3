import hashlib
import json
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.files import sha256_bytes
from pipeline.shards.manifest import Limits, ShardEntry
from pipeline.shards.reader import Dataset, Samples
from tests.shards.support import (
    Data,
    draw_samples,
    encode_samples,
    equal,
    resealed,
    together,
    write_dataset,
)

PLANS = [
    Data("npy", 1, 4, 10, targets=False),
    Data("npy", 5, 6, 2, targets=True),
    Data("png", 1, 8, 10, targets=True),
    Data("png", 3, 32, 100, targets=False),
    Data("png", 3, 150, 3, targets=False, train=(2,), holdout=()),  # more than one block of 65535 bytes
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_what_was_written_is_read(tmp_path: Path, plan: Data) -> None:
    made = write_dataset(tmp_path, plan)
    dataset = Dataset.open(tmp_path)
    for split in ("train", "holdout"):
        shards = list(dataset.shards(split))
        assert len(shards) == len(made[split])
        assert all(equal(found, expected) for found, expected in zip(shards, made[split], strict=True))
        if shards:
            assert equal(dataset.load(split), together(made[split]))
        assert dataset.count(split) == sum(len(part.cls) for part in shards)
    dataset.verify()


def test_a_split_without_samples_is_empty(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data(holdout=()))
    images, logits, cls, targets = Dataset.open(tmp_path).load("holdout")
    assert (images.shape, logits.shape, cls.shape, targets) == ((0, 1, 4, 4), (0, 10), (0,), None)


def test_shards_can_be_read_in_any_order(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, Data())
    dataset = Dataset.open(tmp_path)
    first, second = dataset.manifest.entries("train")
    assert equal(dataset.read(second), made["train"][1])
    assert equal(dataset.read(first), made["train"][0])


def test_the_dataset_knows_its_manifests_sha256_and_its_memory(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data(channels=3, size=8, targets=True))
    dataset = Dataset.open(tmp_path)
    assert dataset.sha256 == hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()
    samples = dataset.load("train")
    assert dataset.decoded_bytes("train") == sum(part.nbytes for part in samples if part is not None)


def test_a_missing_shard_is_named_before_anything_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    (tmp_path / "train-00001.tar").unlink()
    with pytest.raises(ShardError, match=r"train-00001\.tar: missing, the manifest names it"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("name", ["train-00002.tar", "holdout-00001.tar", "old.tar", "OLD.TAR"])
def test_a_shard_that_the_manifest_does_not_name_is_an_error(tmp_path: Path, name: str) -> None:
    write_dataset(tmp_path, Data())
    (tmp_path / name).write_bytes((tmp_path / "train-00000.tar").read_bytes())
    with pytest.raises(ShardError, match=f"{name}: not in the manifest"):
        Dataset.open(tmp_path)


def test_other_files_may_lie_beside_the_shards(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    for name in ("README.md", "preview.png", ".train-00000.tar.123.tmp", "notes.txt"):
        (tmp_path / name).write_text("x")
    Dataset.open(tmp_path).verify()


def test_damage_is_found_in_every_run_not_only_in_the_first(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    dataset = Dataset.open(tmp_path)
    dataset.verify()
    path = tmp_path / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ShardError, match=r"train-00000\.tar: damaged: sha256 differs"):
            dataset.load("train")


def test_no_sample_of_a_damaged_shard_is_handed_out(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data(train=(2, 2, 2)))
    path = tmp_path / "train-00001.tar"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shards = Dataset.open(tmp_path).shards("train")
    assert isinstance(next(shards), Samples)
    with pytest.raises(ShardError, match="train-00001"):
        next(shards)


def reseal(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_bytes(resealed(json.loads(path.read_bytes()) | changes))


def test_a_histogram_or_agreement_that_the_shards_contradict_is_an_error(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    manifest = Dataset.open(tmp_path).manifest
    histogram = list(manifest.class_histogram)
    reseal(tmp_path, class_histogram=histogram[::-1] if histogram != histogram[::-1] else [5] + [0] * 9)
    with pytest.raises(ShardError, match=r"manifest\.json: class_histogram"):
        Dataset.open(tmp_path).load("train")
    reseal(tmp_path, class_histogram=histogram, teacher_agreement=manifest.teacher_agreement + 0.001)
    with pytest.raises(ShardError, match=r"manifest\.json: teacher_agreement"):
        Dataset.open(tmp_path).load("train")


def test_counts_are_those_of_the_samples(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, Data(train=(50, 30)))
    whole = together(made["train"])
    manifest = Dataset.open(tmp_path).manifest
    assert list(manifest.class_histogram) == [int((whole.cls == number).sum()) for number in range(10)]
    assert manifest.teacher_agreement == float((whole.logits.argmax(1) == whole.cls).double().mean())


def test_budgets_are_checked_before_a_shard_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    with pytest.raises(ShardError, match="shards of 10240 bytes; at most 10239 are read"):
        Dataset.open(tmp_path, Limits(shard_bytes=10239))
    with pytest.raises(ShardError, match="shards of 10240 bytes; at most 200"):
        Dataset.open(tmp_path, Limits(shard_bytes=200))


def test_a_shard_is_as_long_as_its_samples(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    shard = tmp_path / "train-00000.tar"
    content = shard.read_bytes()
    for other in (content[:-512], content + bytes(10240)):
        shard.write_bytes(other)
        shards = json.loads((tmp_path / "manifest.json").read_bytes())["shards"]
        shards["train"][0]["sha256"][0] = sha256_bytes(other)
        reseal(tmp_path, shards=shards)
        with pytest.raises(ShardError, match=rf"00000\.tar: {len(other)} bytes, the manifest says 10240"):
            Dataset.open(tmp_path).load("train")


def test_a_dataset_reached_through_a_linked_folder_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path / "real", Data())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Dataset.open(tmp_path / "link").verify()


def test_an_entry_that_is_not_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    content = encode_samples(draw_samples(Data(), 3, 9), "npy")
    foreign = ShardEntry("train", 0, 3, len(content), sha256_bytes(content))
    with pytest.raises(ShardError, match="sha256 differs"):
        Dataset.open(tmp_path).read(foreign)
