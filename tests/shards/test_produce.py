import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import MethodError, ParamsError, TeacherError, WorkError
from pipeline.core.rng import stream
from pipeline.methods import Batch
from pipeline.shards import executor
from pipeline.shards.executor import Executor, choose, fit_threads, free_cores
from pipeline.shards.make import ShardMaker, ShardPlan, Workshop, label, make_shard, quantise
from pipeline.shards.produce import produce
from pipeline.shards.publish import describe
from pipeline.shards.reader import Dataset
from pipeline.shards.work import ShardDirectory, plan, select
from tests.shards.support import (
    CHANNELS,
    CLASSES,
    NAMES,
    SHARD,
    SIZE,
    FixedSource,
    NoiseSource,
    linear_teacher,
    make_noise,
    noise_key,
    noise_workshop,
    tree,
)
from tests.support import CPU

PLAN = ShardPlan("train", 0, SHARD)


class DyingSource:
    def draw(self, count: int, rng: torch.Generator) -> Batch:
        os.kill(os.getpid(), 9)
        raise AssertionError


def dying_workshop() -> Workshop:
    return Workshop(DyingSource(), linear_teacher())


def failing_workshop() -> Workshop:
    images = torch.full((SHARD, CHANNELS, SIZE, SIZE), torch.nan)
    return Workshop(FixedSource(Batch(images, torch.full((SHARD, CLASSES), 1 / CLASSES))), linear_teacher())


def maker(encoding: str = "png") -> ShardMaker:
    return ShardMaker(noise_workshop, 0, "noise", encoding, soft_targets=True)


def good() -> Batch:
    return NoiseSource().draw_numbered(SHARD, torch.Generator().manual_seed(0), 0)


def test_what_is_read_back_is_what_the_source_drew_and_the_teacher_says_of_the_stored_image(tmp_path: Path):
    make_noise(tmp_path / "work", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    for split, number in (("train", 3), ("holdout", 0)):
        drawn = NoiseSource().draw_numbered(SHARD, stream(0, f"noise/{split}", number), 0)
        stored = list(dataset.shards(split))[number]
        pixels = np.rint(drawn.images.numpy() * 255).astype(np.uint8)
        assert np.array_equal(stored.images.numpy(), pixels)
        net = linear_teacher().net
        seen = (torch.from_numpy(pixels).float() / 255 - 0.5) / 0.25
        torch.testing.assert_close(stored.logits, net(seen), rtol=1e-5, atol=1e-5)
        assert stored.targets is not None
        torch.testing.assert_close(stored.targets, drawn.targets, rtol=0, atol=0)
        assert stored.cls.tolist() == drawn.targets.argmax(1).tolist()


def test_the_teacher_labels_the_float16_image_when_that_is_what_is_stored(tmp_path: Path):
    make_noise(tmp_path / "work", tmp_path / "out", encoding="npy")
    stored = Dataset.open(tmp_path / "out").load("train")
    drawn = NoiseSource().draw_numbered(SHARD, stream(0, "noise/train", 0), 0)
    assert torch.equal(stored.images[:SHARD], drawn.images.half())
    torch.testing.assert_close(stored.logits, label(linear_teacher(), stored.images), rtol=0, atol=0)
    exact = linear_teacher()(drawn.images)
    assert not torch.equal(stored.logits[:SHARD], exact)


def test_the_manifest_counts_what_the_shards_hold(tmp_path: Path):
    make_noise(tmp_path / "work", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    train = dataset.load("train")
    manifest = dataset.manifest
    assert (manifest.samples.train, manifest.samples.holdout) == (4 * SHARD, SHARD)
    assert list(manifest.class_histogram) == np.bincount(train.cls.numpy(), minlength=CLASSES).tolist()
    assert manifest.teacher_agreement == np.mean(train.logits.numpy().argmax(1) == train.cls.numpy())
    assert manifest.teacher.classes == NAMES
    assert manifest.method_params == {"level": 1.0, "steps": [1, 2]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "preview.png", "manifest.json", "holdout-00000.tar", *(f"train-{k:05d}.tar" for k in range(4)),
    }  # fmt: skip


def test_shards_are_linked_not_copied_and_survive_the_removal_of_the_output(tmp_path: Path):
    make_noise(tmp_path / "work", tmp_path / "out")
    published = tmp_path / "out" / "train-00000.tar"
    assert published.stat().st_nlink == 2
    before = tree(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    log = tmp_path / "log"
    make_noise(tmp_path / "work", tmp_path / "out", log=log)
    assert not log.exists()
    assert tree(tmp_path / "out") == before


def test_growth_makes_only_the_missing_shards(tmp_path: Path):
    log = tmp_path / "log"
    make_noise(tmp_path / "work", tmp_path / "small", count=2 * SHARD, holdout=0, log=log)
    stats = {path.name: path.stat() for path in (tmp_path / "work").rglob("*.tar")}
    assert log.read_text().split() == ["0", "1"]
    make_noise(tmp_path / "work", tmp_path / "large", count=4 * SHARD, holdout=SHARD, log=log)
    assert log.read_text().split() == ["0", "1", "2", "3", "-1"]
    for path in (tmp_path / "work").rglob("*.tar"):
        if path.name in stats:
            before, now = stats[path.name], path.stat()
            assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    make_noise(tmp_path / "fresh", tmp_path / "whole", count=4 * SHARD, holdout=SHARD)
    assert tree(tmp_path / "large") == tree(tmp_path / "whole")
    make_noise(tmp_path / "work", tmp_path / "smaller-again", count=SHARD, holdout=0, log=log)
    assert len(log.read_text().split()) == 5
    assert Dataset.open(tmp_path / "smaller-again").manifest.samples.train == SHARD


def test_seeds_and_splits_and_shards_never_share_images(tmp_path: Path):
    make_noise(tmp_path / "work", tmp_path / "a", seed=0)
    make_noise(tmp_path / "work", tmp_path / "b", seed=1)
    images = [Dataset.open(tmp_path / name).load(split).images for name in "ab" for split in ("train", "holdout")]
    rows = torch.cat(images).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 10 * SHARD


def test_processes_make_the_same_bytes_as_one_process(tmp_path: Path):
    make_noise(tmp_path / "one", tmp_path / "serial")
    log = tmp_path / "log"
    make_noise(tmp_path / "two", tmp_path / "parallel", executor=Executor(2, patience=0), log=log, pause=0.2)
    assert tree(tmp_path / "serial") == tree(tmp_path / "parallel")
    assert sorted(log.read_text().split()) == ["-1", "0", "1", "2", "3"]


def setup_of(function: Callable[[Any], Any]) -> Callable[[], Callable[[Any], Any]]:
    return lambda: function


def test_a_quick_dataset_is_made_without_starting_processes():
    here = Executor(2).map(setup_of(lambda _item: os.getpid()), range(5))
    assert set(here) == {os.getpid()}


@pytest.mark.parametrize(("patience", "here"), [(1e-9, [1]), (0, [])])
def test_a_slow_first_shard_moves_the_rest_to_a_pool(monkeypatch: pytest.MonkeyPatch, patience: float, here: list[int]):
    handed: list[Any] = []

    def pool(workers: int, setup: Callable[[], Callable[[Any], Any]], items: Sequence[Any]):
        handed.append((workers, list(items)))
        yield from map(setup(), items)

    monkeypatch.setattr("pipeline.shards.executor._pool", pool)
    assert list(Executor(3, patience).map(setup_of(lambda item: item * 10), [1, 2, 3, 4])) == [10, 20, 30, 40]
    assert handed == [(3, [item for item in (1, 2, 3, 4) if item not in here])]


def test_a_fit_has_every_free_core_and_shards_one_thread_and_the_setting_stays(monkeypatch: pytest.MonkeyPatch):
    """The second setup finds what the first one left on the disk, as a worker process would."""
    calls: list[object] = []
    monkeypatch.setattr("pipeline.shards.executor.free_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)

    def setup() -> Callable[[Any], None]:
        calls.append("setup")
        return lambda _item: calls.append("item")

    list(Executor().map(setup, [0, 1]))
    assert calls == [3, "setup", 7, 1, "setup", "item", "item", 7]
    run = Executor().map(lambda: lambda item: item, [0, 1])
    next(run)
    run.close()
    assert calls[8:] == [3, 7, 1, 7]
    assert fit_threads() == 3


def test_with_one_thread_the_workshop_is_opened_once(monkeypatch: pytest.MonkeyPatch):
    opened: list[int] = []
    monkeypatch.setattr("pipeline.shards.executor.free_cores", lambda: 1)
    list(Executor().map(lambda: opened.append(1) or (lambda item: item), [0, 1]))
    assert opened == [1]


def test_an_interrupt_that_another_thread_takes_waits_until_a_new_process_knows_what_to_do():
    over, told = threading.Event(), threading.Event()
    threading.Thread(target=over.wait).start()  # as a bar's, which blocks no signal

    def start() -> None:
        with executor._for_children():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            told.set()

    with pytest.raises(KeyboardInterrupt):
        start()
    over.set()
    assert told.is_set()


def test_a_killed_worker_is_one_clear_error_and_what_was_made_stays(tmp_path: Path):
    make_noise(tmp_path, None, count=SHARD, holdout=0)
    plans = plan(3 * SHARD, SHARD, 0)
    for open_workshop, error, message in (
        (dying_workshop, WorkError, "worker processes was killed.*PHOTOGRAM_WORKERS"),
        (failing_workshop, MethodError, "methods.noise: shard train-0000[12].tar: images hold values that"),
    ):
        with ShardDirectory(tmp_path, "noise", noise_key()) as work:
            with pytest.raises(error, match=message):
                produce(
                    work,
                    plans,
                    ShardMaker(open_workshop, 0, "noise", "png", soft_targets=True),
                    Executor(2, patience=0),
                )
            assert work.record(plans[0]) is not None
            assert work.record(plans[1]) is None


IMAGES, TARGETS = (SHARD, CHANNELS, SIZE, SIZE), (SHARD, CLASSES)
WRONG = {
    "images are float32 [4, 1, 6, 6], expected float32 [5, 1, 6, 6]": lambda b: b._replace(images=b.images[1:]),
    "images are float32 [5, 3, 6, 6]": lambda b: b._replace(images=b.images.expand(-1, 3, -1, -1)),
    "images are uint8": lambda b: b._replace(images=b.images.byte()),
    "targets are float32 [5, 3]": lambda b: b._replace(targets=b.targets[:, :3]),
    "targets are int64 [5]": lambda b: b._replace(targets=b.targets.argmax(1)),
    "images hold values that are not finite": lambda b: b._replace(images=b.images / 0),
    "targets hold values that are not finite": lambda b: b._replace(targets=b.targets * torch.nan),
    "images range over [0,": lambda b: b._replace(images=torch.linspace(0, 1.01, 180).reshape(IMAGES)),
    "images range over [-0.01,": lambda b: b._replace(images=torch.linspace(-0.01, 1, 180).reshape(IMAGES)),
    "targets are no distributions": lambda b: b._replace(targets=b.targets * 1.01),
    "targets are no distributions: expected": lambda b: b._replace(targets=torch.eye(5)[:, :4] * 2 - 0.25),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_batch_that_is_none_is_an_error_naming_the_method_and_the_shard(message: str):
    batch = WRONG[message](good())
    with pytest.raises(MethodError) as caught:
        make_shard(Workshop(FixedSource(batch), linear_teacher()), PLAN, maker())
    assert f"methods.noise: shard train-00000.tar: {message}" in str(caught.value)


def test_a_whole_batch_on_the_edges_of_what_is_allowed_is_accepted():
    images = torch.zeros(IMAGES)
    images[:, :, 0] = 1
    targets = torch.eye(CLASSES)[[0, 1, 2, 3, 3]]
    made = make_shard(Workshop(FixedSource(Batch(images, targets)), linear_teacher()), PLAN, maker())
    assert made.histogram == (1, 1, 1, 2)


def test_where_nothing_was_aimed_at_the_label_is_the_teachers_first_choice_of_what_is_stored():
    batch = good()._replace(targets=None)
    unaimed = ShardMaker(noise_workshop, 0, "noise", "png", soft_targets=False)
    made = make_shard(Workshop(FixedSource(batch), linear_teacher()), PLAN, unaimed)
    choice = label(linear_teacher(), quantise(batch.images, "png")).argmax(dim=1)
    aimed = batch._replace(targets=torch.eye(CLASSES)[choice])
    same = make_shard(Workshop(FixedSource(aimed), linear_teacher()), PLAN, unaimed)
    assert (made.content, made.histogram, made.agree) == (same.content, same.histogram, SHARD)
    with pytest.raises(MethodError, match=r"noise: shard train-00000\.tar: no targets, though"):
        make_shard(Workshop(FixedSource(batch), linear_teacher()), PLAN, maker())


def test_a_teacher_that_answers_nan_is_an_error():
    broken = linear_teacher()
    broken.net[1].weight[0, 0] = torch.nan  # pyright: ignore
    with pytest.raises(TeacherError, match="teacher linear: logits that are not finite"):
        make_shard(Workshop(NoiseSource(), broken), PLAN, maker())


def test_labels_do_not_depend_on_how_many_images_are_asked_about_at_once(monkeypatch: pytest.MonkeyPatch):
    images = quantise(torch.rand(23, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), "png")
    together = label(linear_teacher(), images)
    monkeypatch.setattr("pipeline.shards.make._LABEL_BATCH", 4)
    torch.testing.assert_close(label(linear_teacher(), images), together)


def test_rounding_is_to_the_nearest_and_what_is_stored_is_what_is_labelled():
    images = torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 254.4 / 255, 254.6 / 255, 1.0]).reshape(1, 1, 1, 6)
    assert quantise(images, "png").flatten().tolist() == [0, 0, 1, 254, 255, 255]


def test_png_of_two_channels_is_refused_before_anything_is_drawn():
    two = linear_teacher()
    two.card = two.card.model_copy(update={"channels": 2})
    with pytest.raises(ParamsError, match=r"shards\.encoding: 'png': .*2 channels.*npy"):
        make_shard(Workshop(NoiseSource(), two), PLAN, maker())


def test_a_range_makes_its_shards_and_the_whole_run_only_publishes(tmp_path: Path):
    plans = plan(4 * SHARD, SHARD, SHARD)
    for part in ("0:2", "2:5"):
        with ShardDirectory(tmp_path / "parts", "noise", noise_key(), part) as work:
            records = produce(work, select(plans, part), maker(), Executor())
            with pytest.raises(WorkError, match=r"[23] of 5 shards"):
                describe(
                    plans, records, maker(), params={}, data_free=True, steered=True, attachments=(),
                    teacher=linear_teacher().card,
                )  # fmt: skip
    log = tmp_path / "log"
    make_noise(tmp_path / "parts", tmp_path / "out", log=log)
    assert not log.exists()
    make_noise(tmp_path / "work", tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_empty_range_does_the_fit_and_no_shard(tmp_path: Path):
    opened: list[int] = []

    def opening() -> Workshop:
        opened.append(1)
        return noise_workshop()

    with ShardDirectory(tmp_path, "noise", noise_key(), "0:0") as work:
        assert produce(work, (), ShardMaker(opening, 0, "noise", "png", soft_targets=True), Executor()) == ()
    assert opened == [1]
    assert list(tmp_path.rglob("*.tar")) == []


def test_seconds_come_from_the_sidecars_so_that_a_rerun_costs_what_the_first_run_cost(tmp_path: Path):
    first = make_noise(tmp_path, None, pause=0.01)
    assert all(record.seconds >= 0.01 for record in first)
    assert make_noise(tmp_path, None) == first


def test_a_folder_with_something_else_is_never_touched(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkError, match="out: another dataset or something else is there"):
        make_noise(tmp_path / "work", out)
    assert tree(out) == {"thesis.txt": b"years of work"}
    make_noise(tmp_path / "work", tmp_path / "fine")
    with pytest.raises(WorkError, match="something else"):
        make_noise(tmp_path / "work", tmp_path / "fine", seed=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="something else"):
        make_noise(tmp_path / "work", tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "work", "fine", "file"}


def test_an_empty_folder_or_this_very_dataset_is_fine(tmp_path: Path):
    (tmp_path / "out").mkdir()
    make_noise(tmp_path / "work", tmp_path / "out")
    inode = (tmp_path / "out").stat().st_ino
    make_noise(tmp_path / "work", tmp_path / "out")
    assert (tmp_path / "out").stat().st_ino == inode


def test_where_links_are_refused_shards_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_noise(tmp_path / "work", tmp_path / "linked")

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    make_noise(tmp_path / "work", tmp_path / "copied")
    assert tree(tmp_path / "copied") == tree(tmp_path / "linked")
    assert (tmp_path / "copied" / "train-00000.tar").stat().st_nlink == 1


def test_the_number_of_workers_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    for text, workers in (("1", 1), ("3", 3)):
        monkeypatch.setenv("PHOTOGRAM_WORKERS", text)
        assert (choose(CPU).workers, choose(CPU).patience) == (workers, 0)
    for text in ("0", "-1", "two", "1.5", "²"):
        monkeypatch.setenv("PHOTOGRAM_WORKERS", text)
        with pytest.raises(ParamsError, match=f"PHOTOGRAM_WORKERS={text}: expected a whole number"):
            choose(CPU)
    monkeypatch.delenv("PHOTOGRAM_WORKERS")
    for cores in (1, 4):
        monkeypatch.setattr("pipeline.shards.executor.free_cores", lambda cores=cores: cores)
        assert choose(CPU).workers == cores
        assert choose(CPU).patience > 0
    assert free_cores() >= 1
