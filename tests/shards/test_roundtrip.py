import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Plan, encode, equal, shape, together, write

from pipeline.core.errors import ShardError
from pipeline.shards.general import read_general
from pipeline.shards.reader import Dataset, Samples, decode_shard
from pipeline.shards.regular import read_regular
from pipeline.shards.values import to_samples

counts = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    encoding = draw(st.sampled_from(["png", "npy"]))
    return Plan(
        encoding=encoding,
        channels=draw(st.sampled_from([1, 3]) if encoding == "png" else st.integers(1, 5)),
        size=draw(st.integers(1, 12)),
        classes=draw(st.integers(2, 130)),
        targets=draw(st.booleans()),
        train=draw(counts),
        holdout=draw(st.one_of(st.just(()), counts)),
        seed=draw(st.integers(0, 100)),
    )


@settings(max_examples=60, deadline=None)
@given(plans())
def test_any_dataset_reads_back_as_it_was_written(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as name:
        made = write(Path(name), plan)
        dataset = Dataset.open(Path(name))
        for split in ("train", "holdout"):
            if made[split]:
                assert equal(dataset.load(split), together(made[split]))
        for entry in dataset.manifest.shards:
            expected = shape(plan, entry.samples, entry.split, entry.index)
            assert read_regular((Path(name) / entry.name).read_bytes(), expected) is not None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_values_that_may_be_stored_come_back_bit_for_bit(data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.integers(0, 0x3C00), min_size=4, max_size=4))
    floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
    logits = data.draw(st.lists(floats, min_size=3, max_size=3))
    images = torch.from_numpy(np.array(bits, np.uint16).view(np.float16).reshape(1, 1, 2, 2))
    cls = torch.tensor([data.draw(st.integers(0, 2))])
    samples = Samples(images, torch.tensor([logits]), cls, None)
    found = to_samples(decode_shard(encode(samples, "npy"), shape(Plan(size=2, classes=3), 1), "s"))
    assert found.images.numpy().tobytes() == images.numpy().tobytes()
    assert found.logits.numpy().tobytes() == samples.logits.numpy().tobytes()
    assert torch.equal(found.cls, cls)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_gives_the_same_on_both_paths_or_an_error(data: st.DataObject) -> None:
    plan = Plan(encoding=data.draw(st.sampled_from(["png", "npy"])), size=2, classes=3)
    content = bytearray(encode(Samples(
        torch.zeros(2, 1, 2, 2, dtype=torch.uint8 if plan.encoding == "png" else torch.float16),
        torch.zeros(2, 3), torch.tensor([0, 2]), None), plan.encoding))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    quick = read_regular(content, shape(plan, 2))
    try:
        general = read_general(content, shape(plan, 2), "s")
    except ShardError:
        assert quick is None
        return
    if quick is not None:
        assert all(one is None or one.tobytes() == other.tobytes() for one, other in zip(quick, general, strict=True))
