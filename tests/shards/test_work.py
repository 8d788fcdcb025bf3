from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ParamsError
from pipeline.core.files import sha256_bytes
from pipeline.shards.work import ShardDirectory, ShardPlan, ShardRecord, plan, select, work_key
from tests.shards.support import SHARD, make_noise, noise_key
from tests.support import CPU

PLAN = ShardPlan("train", 0, 5)


def record(content: bytes, plan: ShardPlan = PLAN) -> ShardRecord:
    return ShardRecord(
        name=plan.name, samples=plan.samples, bytes=len(content), sha256=sha256_bytes(content),
        histogram=(2, 3), agree=4, seconds=0.5, work="",
    )  # fmt: skip


def stored(root: Path, content: bytes = b"shard") -> ShardDirectory:
    work = ShardDirectory(root, "noise", noise_key())
    with work:
        work.commit(PLAN, content, record(content))
    return work


def test_a_plan_numbers_full_shards_train_first():
    plans = plan(count=15, size=5, holdout=10)
    assert [entry.name for entry in plans] == [
        "train-00000.tar", "train-00001.tar", "train-00002.tar", "holdout-00000.tar", "holdout-00001.tar",
    ]  # fmt: skip
    assert [entry.number for entry in plans] == [0, 1, 2, -1, -2]
    assert {entry.samples for entry in plans} == {5}


def test_a_larger_plan_contains_the_smaller_one():
    assert set(plan(10, 5, 5)) < set(plan(20, 5, 10))


@pytest.mark.parametrize(
    ("count", "holdout", "message"),
    [
        (12, 0, "methods.noise.count: 12: .* multiple of shards.size .5.; the nearest: 10 or 15"),
        (3, 0, "methods.noise.count: 3: .*nearest: 5"),
        (0, 0, "methods.noise.count: 0: .*nearest: 5"),
        (-7, 0, "methods.noise.count: -7: .*nearest: 5"),
        (10, 3, "shards.holdout: 3: .*nearest: 0 or 5"),
        (10, -5, "shards.holdout: -5: .*nearest: 0"),
        (2_000_000_000, 0, "count: 2000000000: makes 400000000 shards .*at most 1000000; set shards.size to 2000"),
        (5_000_000, 5, "count: 5000000: makes 1000001 shards .* set shards.size to 6"),
    ],
)
def test_counts_that_are_not_whole_shards_are_refused_with_the_nearest_ones(count: int, holdout: int, message: str):
    with pytest.raises(ParamsError, match=message):
        plan(count, 5, holdout, key="methods.noise.count")


@pytest.mark.parametrize("size", [0, -5, 100_001])
def test_a_shard_of_no_samples_or_of_more_than_its_readers_take_is_refused(size: int):
    with pytest.raises(ParamsError, match=rf"shards\.size: {size}: expected 1 to 100000"):
        plan(size, size, 0)


def test_ranges_count_over_the_whole_plan():
    plans = plan(10, 5, 5)
    assert select(plans, "1:3") == plans[1:3]
    assert select(plans, "0:0") == ()
    for wrong in ("3", "2:1", "0:4", "-1:2", "a:b", ":", "1:2:3"):
        with pytest.raises(ParamsError, match="a:b with 0 <= a <= b <= 3"):
            select(plans, wrong)


def test_a_committed_shard_is_found_by_the_next_run(tmp_path: Path):
    before = stored(tmp_path)
    with ShardDirectory(tmp_path, "noise", noise_key()) as work:
        found = work.record(PLAN)
    assert found is not None
    assert found.work == before.fingerprint
    assert (found.histogram, found.agree, found.seconds) == ((2, 3), 4, 0.5)
    assert work.shard_path(PLAN).read_bytes() == b"shard"


def test_every_single_bit_flip_of_a_shard_or_its_sidecar_makes_it_missing(tmp_path: Path):
    work = stored(tmp_path)
    for path in (work.shard_path(PLAN), work.path / "train-00000.tar.json"):
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
            with ShardDirectory(tmp_path, "noise", noise_key()) as again:
                assert again.record(PLAN) is None, f"{path.name}, byte {position}"
        path.write_bytes(whole)
    with ShardDirectory(tmp_path, "noise", noise_key()) as again:
        assert again.record(PLAN) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"record": {"bytes": NaN}}', b"[" * 100_000, b"\xff"])
def test_a_sidecar_that_is_no_record_makes_the_shard_missing(tmp_path: Path, content: bytes):
    work = stored(tmp_path)
    (work.path / "train-00000.tar.json").write_bytes(content)
    with ShardDirectory(tmp_path, "noise", noise_key()) as again:
        assert again.record(PLAN) is None


def test_a_sidecar_from_another_work_directory_is_not_believed(tmp_path: Path):
    first = stored(tmp_path)
    with ShardDirectory(tmp_path, "noise", noise_key(seed=1)) as second:
        for name in (PLAN.name, f"{PLAN.name}.json"):
            (second.path / name).write_bytes((first.path / name).read_bytes())
        assert second.record(PLAN) is None


def test_a_shard_of_another_size_or_name_is_not_believed(tmp_path: Path):
    stored(tmp_path)
    with ShardDirectory(tmp_path, "noise", noise_key()) as work:
        assert work.record(replace(PLAN, samples=6)) is None
        (work.path / "train-00001.tar").write_bytes(b"shard")
        (work.path / "train-00001.tar.json").write_bytes((work.path / "train-00000.tar.json").read_bytes())
        assert work.record(replace(PLAN, index=1)) is None


def test_every_part_of_the_key_counts(tmp_path: Path):
    usual = {
        "method": "m", "params": {"a": 1}, "seed": 0, "teacher": "t", "encoding": "png", "size": 5, "code": "c",
        "compute": CPU,
    }  # fmt: skip
    changes = {
        "method": "n", "params": {"a": 2}, "seed": 1, "teacher": "u", "encoding": "npy", "size": 6, "code": "d",
        "compute": CPU.model_copy(update={"precision": "bfloat16"}),
    }  # fmt: skip
    keys = [work_key(**usual)] + [work_key(**(usual | {name: value})) for name, value in changes.items()]
    assert len({ShardDirectory(tmp_path, "x", entry).fingerprint for entry in keys}) == len(changes) + 1
    automatic = work_key(**(usual | {"compute": CPU.model_copy(update={"device": "auto"})}))
    assert automatic["compute"]["device"] in {"cpu", "cuda"}  # what it is here, not how it was asked for


def test_growth_and_resume_share_one_directory(tmp_path: Path):
    make_noise(tmp_path, None, count=2 * SHARD)
    make_noise(tmp_path, None, count=3 * SHARD)
    assert len(list((tmp_path / "synthetic" / "noise").iterdir())) == 1
