import hashlib
import json
import zlib
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ShardError
from pipeline.core.files import canonical_json
from pipeline.shards.general import read_general
from pipeline.shards.limits import Limits
from pipeline.shards.png import encode_png
from pipeline.shards.reader import Dataset, Samples, decode_shard
from pipeline.shards.regular import read_regular
from pipeline.shards.values import Arrays, to_samples
from tests.support import (
    Data,
    archive,
    draw_samples,
    encode_samples,
    entry_of,
    equal,
    member,
    parts,
    shape_of,
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


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_quick_path_takes_what_we_write_and_agrees_with_the_general_one(plan: Data) -> None:
    content = encode_samples(draw_samples(plan, 12, 3), plan.encoding, "holdout", 41)
    expected = shape_of(plan, 12, "holdout", 41)
    quick = read_regular(content, expected)
    assert quick is not None
    assert equal(to_samples(quick), to_samples(read_general(content, expected, "s")))


@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_wherever_one_bit_flips_both_paths_give_the_same(encoding: str) -> None:
    plan = Data(encoding=encoding, size=3, classes=12, targets=True)
    content = encode_samples(draw_samples(plan, 2, 0), encoding)
    expected = shape_of(plan, 2)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place * 5) % 8
        quick = read_regular(damaged, expected)
        if quick is None:
            continue
        general = read_general(damaged, expected, "s")
        assert same_bytes(quick, general)


def same_bytes(one: Arrays, other: Arrays) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        left is right or (left.dtype == right.dtype and left.tobytes() == right.tobytes()) for left, right in pairs
    )


@pytest.mark.parametrize("labels", [range(12), range(95, 107), [0, 1000, 10, 999, 100, 9]])
def test_labels_of_any_length_take_the_quick_path(labels: list[int]) -> None:
    plan = Data(classes=1001)
    samples = draw_samples(plan, len(labels), 0)._replace(cls=torch.tensor(list(labels)))
    quick = read_regular(encode_samples(samples, "npy"), shape_of(plan, len(labels)))
    assert quick is not None
    assert quick.cls.tolist() == list(labels)
    fewer = Data(classes=max(labels))
    assert read_regular(encode_samples(samples, "npy"), shape_of(fewer, len(labels))) is None


def test_a_foreign_but_valid_archive_is_read_by_the_general_path() -> None:
    members = parts(Data())
    content = archive(*(member(name, members[name]) for name in sorted(members, reverse=True)))
    assert read_regular(content, shape_of(Data(), 1)) is None
    assert decode_shard(content, shape_of(Data(), 1), "s").cls.tolist() == [0]


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


def test_other_files_beside_the_shards_are_nobodys_business(tmp_path: Path) -> None:
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
    content = json.loads(path.read_bytes())
    content.pop("digest")
    content |= changes
    path.write_bytes(canonical_json(content | {"digest": hashlib.sha256(canonical_json(content)).hexdigest()}))


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
    with pytest.raises(ShardError, match=r"train-00000\.tar: 3 samples in 10240 bytes"):
        Dataset.open(tmp_path, Limits(shard_bytes=10239))
    with pytest.raises(ShardError, match="bytes decoded; at most"):
        Dataset.open(tmp_path, Limits(decoded_bytes=200))


def test_a_dataset_reached_through_a_linked_folder_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path / "real", Data())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Dataset.open(tmp_path / "link").verify()


def test_an_entry_that_is_not_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data())
    foreign = entry_of(encode_samples(draw_samples(Data(), 3, 9), "npy"), "train", 0, 3)
    with pytest.raises(ShardError, match="sha256 differs"):
        Dataset.open(tmp_path).read(foreign)


def shard_of(picture: bytes) -> bytes:
    members = parts(Data()) | {"t00000-00000.png": picture}
    names = ("t00000-00000.cls", "t00000-00000.logits.npy", "t00000-00000.png")
    return archive(*(member(name, members[name]) for name in names))


@pytest.mark.parametrize("adler", [True, False])
def test_a_picture_changed_under_right_checksums_is_decoded_or_refused_alike(adler: bool) -> None:
    plan = Data(encoding="png")
    good = encode_png(draw_samples(plan, 1, 0).images[0].numpy())
    start = good.index(b"IDAT")
    assert read_regular(shard_of(good), shape_of(plan, 1)) is not None
    for place in range(start + 4, len(good) - 16):
        changed = bytearray(good)
        changed[place] ^= 1
        if adler:
            changed[-20:-16] = zlib.adler32(changed[start + 11 : -20]).to_bytes(4)
        changed[-16:-12] = zlib.crc32(changed[start:-16]).to_bytes(4)
        quick = read_regular(shard_of(bytes(changed)), shape_of(plan, 1))
        try:
            general = read_general(shard_of(bytes(changed)), shape_of(plan, 1), "s")
        except ShardError:
            assert quick is None
            continue
        assert adler
        assert quick is None or same_bytes(quick, general)
