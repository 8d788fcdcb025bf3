import pytest
import torch

from pipeline.core.errors import ShardError
from pipeline.distill.feed import ShardStream, feed_of
from pipeline.optimise.network import Pool

CPU = torch.device("cpu")
SHARD = 20 * (256 + 40 + 8)  # bytes of the largest shard, decoded: image, logits, cls


def stream(dataset, shards: int) -> ShardStream:
    """A stream that keeps so many of the largest shards in memory."""
    return ShardStream(dataset, "stored", 2 * shards * SHARD, CPU)


def fingerprints(feed, batch: int, steps: int, seed: int, epoch: int) -> list[bytes]:
    """One per sample, of image and logits together."""
    found = []
    for images, rows in feed.batches(batch, steps, seed, epoch):
        assert images.shape == (batch, 1, 16, 16)
        assert images.dtype == torch.float32
        found += [
            one.numpy().tobytes() + row.numpy().tobytes() for one, row in zip(images, rows["logits"], strict=True)
        ]
    assert len(found) == batch * steps
    return found


def stored(dataset) -> list[bytes]:
    samples = dataset.load("train")
    return [
        (one.float() / 255).numpy().tobytes() + row.numpy().tobytes()
        for one, row in zip(samples.images, samples.logits, strict=True)
    ]


@pytest.mark.parametrize("shards", [1, 2, 3, 9])
def test_each_pass_visits_every_sample_once_across_batches_windows_and_epochs(small_set, shards):
    feed = stream(small_set, shards)
    assert feed.shards_at_once == shards
    walk = [one for epoch in range(8) for one in fingerprints(feed, batch=25, steps=1, seed=0, epoch=epoch)]
    expected = sorted(stored(small_set))
    passes = [walk[start : start + 50] for start in range(0, 200, 50)]
    assert all(sorted(one) == expected for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_an_epoch_does_not_depend_on_those_before_it_nor_on_where_batches_are_cut(small_set):
    whole = fingerprints(stream(small_set, 2), batch=7, steps=40, seed=1, epoch=0)
    for epoch in (3, 0, 2):
        assert fingerprints(stream(small_set, 2), 7, 10, 1, epoch) == whole[70 * epoch : 70 * (epoch + 1)]
    assert fingerprints(stream(small_set, 2), 14, 20, 1, 0) == whole
    assert fingerprints(stream(small_set, 2), 14, 20, 2, 0) != whole


def test_samples_of_different_shards_meet_in_a_window(small_set):
    first = small_set.read(small_set.manifest.entries("train")[0])
    known = {one.numpy().tobytes() for one in first.images.float() / 255}
    walk, _ = next(stream(small_set, 9).batches(50, 1, 0, 0))
    places = [place for place, one in enumerate(walk) if one.numpy().tobytes() in known]
    assert max(places) - min(places) > len(places), "a shard's samples are spread among those of others"


def test_only_the_windows_that_are_needed_are_read(small_set, monkeypatch):
    feed, reads = stream(small_set, 1), []
    monkeypatch.setattr(small_set, "read", lambda entry, read=small_set.read: reads.append(entry.name) or read(entry))
    first = next(iter(feed._plan(0, 0)))[0]
    fingerprints(feed, 1, first.samples - 1, 0, 0)
    assert reads == [first.name]
    for epoch in range(first.samples - 1):
        fingerprints(feed, 1, 1, 0, epoch)
    assert reads == [first.name], "the window at hand is kept from epoch to epoch"


def test_memory_decides_between_pool_and_stream(small_set):
    assert isinstance(feed_of(small_set, "stored", 1, CPU), Pool)
    small_set.decoded_bytes = lambda split: 600 << 10
    assert isinstance(feed_of(small_set, "stored", 1, CPU), ShardStream)


@pytest.mark.parametrize(("labels", "names"), [("stored", {"logits"}), ("hard", {"cls"}), ("live", set())])
def test_rows_are_what_the_labels_need(small_set, labels, names):
    for feed in (feed_of(small_set, labels, 1, CPU), ShardStream(small_set, labels, SHARD, CPU)):
        _, rows = next(feed.batches(4, 1, 0, 0))
        assert set(rows) == names


def test_a_shard_damaged_during_the_run_is_an_error_before_its_first_sample(small_set):
    feed = stream(small_set, 1)
    for entry in small_set.manifest.entries("train"):
        path = small_set.folder / entry.name
        content = bytearray(path.read_bytes())
        content[700] ^= 1
        path.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-0000\d\.tar: damaged"):
        next(feed.batches(1, 1, 0, 0))
