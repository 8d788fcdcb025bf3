import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from producing import SHARD, key, make, tree

from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, WorkError
from pipeline.core.files import sha256_bytes
from pipeline.shards.plan import ShardPlan, plan, select
from pipeline.shards.work import ShardRecord, WorkDirectory, prune, work_key, work_root

PLAN = ShardPlan("train", 0, 5)


def record(content: bytes, plan: ShardPlan = PLAN) -> ShardRecord:
    return ShardRecord(
        name=plan.name, samples=plan.samples, bytes=len(content), sha256=sha256_bytes(content),
        histogram=(2, 3), agree=4, seconds=0.5, work="",
    )  # fmt: skip


def stored(root: Path, content: bytes = b"shard") -> WorkDirectory:
    work = WorkDirectory(root, "noise", key())
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
    ],
)
def test_counts_that_are_not_whole_shards_are_refused_with_the_nearest_ones(count: int, holdout: int, message: str):
    with pytest.raises(ParamsError, match=message):
        plan(count, 5, holdout, key="methods.noise.count")


def test_a_shard_of_no_samples_is_refused():
    with pytest.raises(ParamsError, match=r"shards\.size: 0"):
        plan(10, 0, 0)


def test_ranges_count_over_the_whole_plan():
    plans = plan(10, 5, 5)
    assert select(plans, "1:3") == plans[1:3]
    assert select(plans, "0:0") == ()
    for wrong in ("3", "2:1", "0:4", "-1:2", "a:b", ":", "1:2:3"):
        with pytest.raises(ParamsError, match="a:b with 0 <= a <= b <= 3"):
            select(plans, wrong)


def test_the_root_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PHOTOGRAM_WORK_DIR", raising=False)
    assert work_root() == Path(".work")
    monkeypatch.setenv("PHOTOGRAM_WORK_DIR", "/elsewhere")
    assert work_root() == Path("/elsewhere")


def test_a_committed_shard_is_found_by_the_next_run(tmp_path: Path):
    before = stored(tmp_path)
    with WorkDirectory(tmp_path, "noise", key()) as work:
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
            with WorkDirectory(tmp_path, "noise", key()) as again:
                assert again.record(PLAN) is None, f"{path.name}, byte {position}"
        path.write_bytes(whole)
    with WorkDirectory(tmp_path, "noise", key()) as again:
        assert again.record(PLAN) is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"record": {"bytes": NaN}}', b"[" * 100_000, b"\xff"])
def test_a_sidecar_that_is_no_record_makes_the_shard_missing(tmp_path: Path, content: bytes):
    work = stored(tmp_path)
    (work.path / "train-00000.tar.json").write_bytes(content)
    with WorkDirectory(tmp_path, "noise", key()) as again:
        assert again.record(PLAN) is None


def test_a_sidecar_from_another_work_directory_is_not_believed(tmp_path: Path):
    first = stored(tmp_path)
    with WorkDirectory(tmp_path, "noise", key(seed=1)) as second:
        for name in (PLAN.name, f"{PLAN.name}.json"):
            (second.path / name).write_bytes((first.path / name).read_bytes())
        assert second.record(PLAN) is None


def test_a_shard_of_another_size_or_name_is_not_believed(tmp_path: Path):
    stored(tmp_path)
    with WorkDirectory(tmp_path, "noise", key()) as work:
        assert work.record(replace(PLAN, samples=6)) is None
        (work.path / "train-00001.tar").write_bytes(b"shard")
        (work.path / "train-00001.tar.json").write_bytes((work.path / "train-00000.tar.json").read_bytes())
        assert work.record(replace(PLAN, index=1)) is None


def test_entering_removes_what_a_killed_write_left(tmp_path: Path):
    work = stored(tmp_path)
    leftover = work.path / ".train-00001.tar.4711.tmp"
    leftover.write_bytes(b"half")
    with WorkDirectory(tmp_path, "noise", key()):
        assert not leftover.exists()


def test_the_directory_does_not_depend_on_the_order_of_the_key(tmp_path: Path):
    backwards = dict(reversed(list(key().items())))
    assert WorkDirectory(tmp_path, "noise", backwards).path == WorkDirectory(tmp_path, "noise", key()).path


def test_every_part_of_the_key_counts(tmp_path: Path):
    compute = Compute(device="cpu", precision="float32", channels_last=False, compile="never")
    usual = {
        "method": "m", "params": {"a": 1}, "seed": 0, "teacher": "t", "encoding": "png", "size": 5, "code": "c",
        "compute": compute,
    }  # fmt: skip
    changes = {
        "method": "n", "params": {"a": 2}, "seed": 1, "teacher": "u", "encoding": "npy", "size": 6, "code": "d",
        "compute": compute.model_copy(update={"precision": "bfloat16"}),
    }  # fmt: skip
    keys = [work_key(**usual)] + [work_key(**(usual | {name: value})) for name, value in changes.items()]
    assert len({WorkDirectory(tmp_path, "x", entry).fingerprint for entry in keys}) == len(changes) + 1
    automatic = work_key(**(usual | {"compute": compute.model_copy(update={"device": "auto"})}))
    assert automatic["compute"]["device"] in {"cpu", "cuda"}  # what it is here, not how it was asked for


def test_a_new_key_is_explained_by_what_differs_from_the_last_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    stored(tmp_path)
    assert capfd.readouterr().err == ""
    with WorkDirectory(tmp_path, "noise", key(seed=7, params={"level": 2.0, "steps": [1, 2]})):
        pass
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "seed (0 -> 7)" in said
    assert "params.level (1.0 -> 2.0)" in said
    assert "steps" not in said
    with WorkDirectory(tmp_path, "noise", key(seed=7, params={"level": 2.0, "steps": [1, 2]})):
        pass
    assert capfd.readouterr().err == ""


def test_the_comparison_is_with_the_most_recently_used_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for seed, used in ((1, 100), (2, 300), (3, 200)):
        with WorkDirectory(tmp_path, "noise", key(seed=seed)) as work:
            pass
        os.utime(work.path / "key.json", (used, used))
    capfd.readouterr()
    with WorkDirectory(tmp_path, "noise", key(seed=9)):
        pass
    assert "seed (2 -> 9)" in capfd.readouterr().err


def test_a_second_writer_is_kept_out(tmp_path: Path):
    with (
        WorkDirectory(tmp_path, "noise", key()),
        pytest.raises(WorkError, match="another run is at work"),
        WorkDirectory(tmp_path, "noise", key()),
    ):
        pass
    with WorkDirectory(tmp_path, "noise", key()), WorkDirectory(tmp_path, "noise", key(seed=1)):
        pass  # free again, and another key never disturbs


def test_ranges_work_beside_each_other_but_not_beside_a_whole_run(tmp_path: Path):
    with WorkDirectory(tmp_path, "noise", key(), part="0:2"):
        with WorkDirectory(tmp_path, "noise", key(), part="2:4"):
            pass
        with pytest.raises(WorkError, match="another run"), WorkDirectory(tmp_path, "noise", key(), part="0:2"):
            pass
        with pytest.raises(WorkError, match="another run"), WorkDirectory(tmp_path, "noise", key()):
            pass
    with WorkDirectory(tmp_path, "noise", key()):
        pass


def test_a_range_leaves_the_temporary_files_of_its_neighbours_alone(tmp_path: Path):
    work = stored(tmp_path)
    neighbour = work.path / ".train-00009.tar.4711.tmp"
    neighbour.write_bytes(b"being written")
    with WorkDirectory(tmp_path, "noise", key(), part="0:2"):
        assert neighbour.exists()


def test_the_lock_is_freed_when_preparing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(_path: Path, _content: bytes) -> None:
        raise WorkError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.core.work.write_atomic", broken)
        with pytest.raises(WorkError, match="no space"), WorkDirectory(tmp_path, "noise", key()):
            pass
    with WorkDirectory(tmp_path, "noise", key()):
        pass


def test_a_root_that_cannot_be_used_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkError, match="PHOTOGRAM_WORK_DIR"), WorkDirectory(tmp_path / "file", "noise", key()):
        pass


def test_training_state_lives_with_the_key(tmp_path: Path):
    with WorkDirectory(tmp_path, "noise", key()) as work:
        work.checkpoint("fit").save({"step": 3})
    with WorkDirectory(tmp_path, "noise", key()) as work:
        assert work.checkpoint("fit").load() == {"step": 3}
    with WorkDirectory(tmp_path, "noise", key(seed=1)) as work:
        assert work.checkpoint("fit").load() is None


def test_pruning_keeps_the_newest_of_each_dataset_and_those_in_use(tmp_path: Path):
    paths = {}
    for name in ("noise", "other"):
        for age in range(3):
            with WorkDirectory(tmp_path, name, key(seed=age)) as work:
                work.commit(PLAN, b"shard", record(b"shard"))
            os.utime(work.path / "key.json", (1000 - age, 1000 - age))
            paths[name, age] = work.path
    with WorkDirectory(tmp_path, "other", key(seed=2)) as in_use:
        os.utime(in_use.path / "key.json", (0, 0))
        deleted = prune(tmp_path, keep=1)
    assert set(deleted) == {paths["noise", 1], paths["noise", 2], paths["other", 1]}
    assert {path for path in paths.values() if path.exists()} == {
        paths["noise", 0], paths["other", 0], paths["other", 2],
    }  # fmt: skip
    with pytest.raises(ParamsError, match="--keep -1"):
        prune(tmp_path, keep=-1)


def test_the_key_file_is_readable_and_repaired(tmp_path: Path):
    work = stored(tmp_path)
    file = work.path / "key.json"
    assert json.loads(file.read_bytes())["seed"] == 0
    whole = tree(work.path)["key.json"]
    file.write_bytes(whole[:10])
    with WorkDirectory(tmp_path, "noise", key()) as again:
        assert again.record(PLAN) is not None
    assert file.read_bytes() == whole


def test_growth_and_resume_share_one_directory(tmp_path: Path):
    make(tmp_path, None, count=2 * SHARD)
    make(tmp_path, None, count=3 * SHARD)
    assert len(list((tmp_path / "synthetic" / "noise").iterdir())) == 1
