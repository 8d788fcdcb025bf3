"""The one form of a shard: what is read is, to the byte, what would be written."""

import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import ShardError
from pipeline.shards import decode
from pipeline.shards.decode import decode_shard
from pipeline.shards.encode import encode_png
from pipeline.shards.manifest import shard_bytes
from pipeline.shards.reader import Dataset, Samples, to_samples
from tests.shards.support import (
    Data,
    archive,
    draw_samples,
    encode_samples,
    equal,
    header,
    member,
    parts,
    shape_of,
    together,
    write_dataset,
)

SMALL = Data(size=3, classes=12, targets=True)
CONTENT = encode_samples(draw_samples(SMALL, 2, 0), "npy")
counts = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def read(content: bytes | bytearray, data: Data, samples: int) -> Samples:
    return to_samples(decode_shard(content, shape_of(data, samples), "s"))


def accepted(content: bytes | bytearray, data: Data, samples: int) -> bool:
    """Whether it is read; then it must be what the writer makes of what was read."""
    try:
        found = read(content, data, samples)
    except ShardError as error:
        message = str(error)
    else:
        assert encode_samples(found, data.encoding) == content
        return True
    assert message.startswith("s: ")
    assert message.isprintable()
    assert len(message) < 500
    return False


@st.composite
def datasets(draw: st.DrawFn) -> Data:
    encoding = draw(st.sampled_from(["png", "npy"]))
    return Data(
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
@given(datasets())
def test_any_dataset_reads_back_as_it_was_written(data: Data) -> None:
    with tempfile.TemporaryDirectory() as name:
        made = write_dataset(Path(name), data)
        dataset = Dataset.open(Path(name))
        for split in ("train", "holdout"):
            if made[split]:
                assert equal(dataset.load(split), together(made[split]))
        for entry in dataset.manifest.every_entry:
            assert entry.bytes == shard_bytes(entry.samples, data.fields)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_values_that_may_be_stored_come_back_bit_for_bit(data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.integers(0, 0x3C00), min_size=4, max_size=4))
    floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
    logits = data.draw(st.lists(floats, min_size=3, max_size=3))
    images = torch.from_numpy(np.array(bits, np.uint16).view(np.float16).reshape(1, 1, 2, 2))
    cls = torch.tensor([data.draw(st.integers(0, 2))])
    samples = Samples(images, torch.tensor([logits]), cls, None)
    assert equal(read(encode_samples(samples, "npy"), Data(size=2, classes=3), 1), samples)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_or_other_numbers(data: st.DataObject) -> None:
    plan = Data(encoding=data.draw(st.sampled_from(["png", "npy"])), size=2, classes=3)
    content = bytearray(encode_samples(draw_samples(plan, 2, 0), plan.encoding))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    accepted(content, plan, 2)


@pytest.mark.parametrize("labels", [range(12), range(95, 107), [0, 1000, 10, 999, 100, 9]])
def test_labels_of_any_length_are_read(labels: list[int]) -> None:
    data = Data(classes=1001)
    samples = draw_samples(data, len(labels), 0)._replace(cls=torch.tensor(list(labels)))
    content = encode_samples(samples, "npy")
    assert read(content, data, len(labels)).cls.tolist() == list(labels)


@given(st.binary(max_size=8))
def test_a_label_is_accepted_only_in_the_way_python_prints_it(text: bytes) -> None:
    data = Data(classes=1000)
    content = archive(*(member(name, payload) for name, payload in parts(data, cls=text).items()))
    assert accepted(content, data, 1) == (text in {str(number).encode() for number in range(1000)})


def test_every_bit_flipped_in_a_header_is_an_error_naming_the_member() -> None:
    for place in range(512):
        for bit in range(8):
            damaged = bytearray(CONTENT)
            damaged[1024 + place] ^= 1 << bit
            with pytest.raises(ShardError, match=r"^s: t00000-00000\.logits\.npy: "):
                read(damaged, SMALL, 2)


def test_every_bit_flipped_in_padding_or_in_the_end_is_an_error() -> None:
    used = -(-len(CONTENT.rstrip(b"\0")) // 512) * 512
    for place in [*range(514, 1024, 7), *range(used, len(CONTENT), 97)]:
        damaged = bytearray(CONTENT)
        damaged[place] ^= 1 << place % 8
        assert not accepted(damaged, SMALL, 2)


def test_another_length_is_an_error() -> None:
    for length in range(len(CONTENT)):
        assert not accepted(CONTENT[:length], SMALL, 2)
    for addition in (b"x" * 512, bytes(512), bytes(10240), member("a.npy", b"1"), CONTENT):
        assert not accepted(CONTENT + addition, SMALL, 2)


def test_two_damages_that_cancel_in_the_checksum_are_found() -> None:
    for place in range(1, 512):
        damaged = bytearray(CONTENT)
        damaged[place], damaged[0] = (damaged[place] + 1) % 256, damaged[0] - 1
        assert not accepted(damaged, SMALL, 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"at100": b"0000600"}, "tar mode"),
        ({"at108": b"0000001"}, "tar uid"),
        ({"at116": b"0000001"}, "tar gid"),
        ({"at136": b"00000000001"}, "tar time"),
        ({"at329": b"0000000\0" * 2}, "tar device"),
        ({"size": 2}, "label is not"),
        ({"size": 511}, "label is not"),
        ({"size": 513}, "label is not"),
    ],
)
def test_a_header_with_other_fields_is_refused_with_a_word(change: dict, what: str) -> None:
    good = {name: member(name, payload) for name, payload in parts(Data()).items()}
    size = change.get("size", 1)
    first = header(b"t00000-00000.cls", size, **{at: value for at, value in change.items() if at != "size"})
    good["t00000-00000.cls"] = first + b"0" + bytes(511)
    content = archive(*good.values())
    with pytest.raises(ShardError, match=rf"^s: t00000-00000\.cls: ({what}|tar size)"):
        read(content, Data(), 1)


def test_an_archive_that_others_would_take_is_refused_naming_the_member() -> None:
    members = parts(Data())
    turned = archive(*(member(name, members[name]) for name in sorted(members, reverse=True)))
    with pytest.raises(ShardError, match=r"t00000-00000\.cls: expected here, found b't00000-00000\.npy'"):
        read(turned, Data(), 1)
    data = Data(encoding="png", size=32)
    stream = BytesIO()
    Image.new("L", (32, 32)).save(stream, "PNG")
    names = ("t00000-00000.cls", "t00000-00000.logits.npy", "t00000-00000.png")
    payloads = dict(zip(names, (b"0", members["t00000-00000.logits.npy"], stream.getvalue()), strict=True))
    deflated = archive(*(member(name, payload) for name, payload in payloads.items()))
    with pytest.raises(ShardError, match=r"t00000-00000\.png: tar size"):
        read(deflated, data, 1)


@pytest.mark.parametrize("adler", [True, False])
def test_a_picture_changed_under_right_checksums_is_read_as_pillow_does_or_refused(adler: bool) -> None:
    data = Data(encoding="png")
    logits = parts(data)["t00000-00000.logits.npy"]
    good = encode_png(draw_samples(data, 1, 0).images[0].numpy())
    start = good.index(b"IDAT")
    taken = 0
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        if adler and place >= start:
            changed[-20:-16] = zlib.adler32(changed[start + 11 : -20]).to_bytes(4)
        changed[-16:-12] = zlib.crc32(changed[start:-16]).to_bytes(4)
        shard = archive(*(
            member(f"t00000-00000.{name}", payload)
            for name, payload in (("cls", b"0"), ("logits.npy", logits), ("png", bytes(changed)))
        ))  # fmt: skip
        if accepted(shard, data, 1):
            taken += 1
            with Image.open(BytesIO(bytes(changed)), formats=["PNG"]) as image:
                assert np.array_equal(np.asarray(image), read(shard, data, 1).images[0, 0].numpy())
    repaired = 4 + 4 if adler else 4  # a flip that the checksums set right again
    assert taken == repaired + (16 if adler else 0)


def test_little_memory_is_an_error_that_names_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "_decode", full)
    with pytest.raises(ShardError, match="s: 2 decoded samples are more than the memory that is free"):
        read(CONTENT, SMALL, 2)
