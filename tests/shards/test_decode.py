import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import npy, raw_npy
from PIL import Image

from pipeline.core.errors import ShardError
from pipeline.shards.decode import decode_cls, decode_npy, decode_png
from pipeline.shards.png import encode_png


def pixels(channels: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (channels, size, size), dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, size: int = 4) -> memoryview:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
    return memoryview(b"\x89PNG\r\n\x1a\n" + b"".join((head, *chunks)))


@pytest.mark.parametrize("number", [0, 1, 9, 10, 99, 12345])
def test_labels_are_read(number: int) -> None:
    assert decode_cls(memoryview(str(number).encode()), 12346, "x") == number


@given(st.binary(max_size=8))
def test_a_label_is_accepted_only_in_the_way_python_prints_it(text: bytes) -> None:
    try:
        value = decode_cls(memoryview(text), 1000, "x")
    except ShardError:
        assert text not in {str(number).encode() for number in range(1000)}
    else:
        assert str(value).encode() == text


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(1,), (10,), (3, 5, 5)])
def test_arrays_are_read_as_numpy_wrote_them(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape).astype(dtype)
    found = decode_npy(memoryview(npy(array)), dtype, shape, "x")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_padding_of_older_numpy_is_accepted() -> None:
    array = np.arange(10, dtype=np.float32)
    old = raw_npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10,), }".ljust(69) + b"\n", array.tobytes())
    assert np.array_equal(decode_npy(memoryview(old), "float32", (10,), "x"), array)


def test_an_npy_is_refused_at_any_cut_and_any_flip_of_its_header() -> None:
    content = npy(np.arange(10, dtype=np.float32))
    for length in range(len(content)):
        with pytest.raises(ShardError):
            decode_npy(memoryview(content[:length]), "float32", (10,), "x")
    for place in range(128):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(ShardError):
                decode_npy(memoryview(damaged), "float32", (10,), "x")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 0}, {"compress_level": 9}])
def test_pictures_of_other_encoders_are_read(channels: int, options: dict) -> None:
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 7  # several filter types
    image = np.stack([smooth + number for number in range(channels)])
    stream = io.BytesIO()
    Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).save(stream, "PNG", **options)
    assert np.array_equal(decode_png(memoryview(stream.getvalue()), channels, 16, "x"), image)


def test_a_picture_in_several_idat_chunks_is_read() -> None:
    data = zlib.compress(b"".join(b"\0" + bytes([row] * 4) for row in range(4)))
    content = png(*(chunk(b"IDAT", data[start : start + 3]) for start in range(0, len(data), 3)), chunk(b"IEND", b""))
    assert decode_png(content, 1, 4, "x").tolist() == [[[row] * 4 for row in range(4)]]


def test_a_picture_is_refused_at_any_flip_and_any_cut() -> None:
    content = encode_png(pixels(1, 4))
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(ShardError):
                decode_png(memoryview(damaged), 1, 4, "x")
    for length in range(len(content)):
        with pytest.raises(ShardError):
            decode_png(memoryview(content[:length]), 1, 4, "x")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_sequence_of_chunks_escapes_as_another_error(data: st.DataObject) -> None:
    kinds = st.sampled_from([b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"zTXt", b"\xff\0\n\t"])
    good = zlib.compress(bytes(20))
    contents = st.one_of(st.binary(max_size=30), st.just(good), st.just(b""))
    content = png(*(chunk(kind, body) for kind, body in data.draw(st.lists(st.tuples(kinds, contents), max_size=5))))
    try:
        array = decode_png(content, 1, 4, "x")
    except ShardError as error:
        if not str(error).isprintable():
            raise
    else:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            assert np.array_equal(np.asarray(image), array[0])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_escape_the_array_decoder_as_another_error(content: bytes) -> None:
    with pytest.raises(ShardError) as caught:
        decode_npy(memoryview(content), "float32", (10,), "x")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "chunks",
    [
        (chunk(b"IDAT", zlib.compress(bytes(20))), chunk(b"IDAT", b"")),
        (chunk(b"IDAT", zlib.compress(bytes(20))), chunk(b"IEND", b"x")),
        (chunk(b"IEND", b""),),
        (chunk(b"IDAT", zlib.compress(bytes(20))), chunk(b"tEXt", b"a\0b"), chunk(b"IEND", b"")),
    ],
    ids=["no end", "an end with content", "no data", "text"],
)
def test_a_picture_is_header_data_and_end(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ShardError, match="expected IHDR IDAT IEND"):
        decode_png(png(*chunks), 1, 4, "x")


def test_a_picture_that_inflates_to_much_is_not_inflated() -> None:
    bomb = png(chunk(b"IDAT", zlib.compress(bytes(64 << 20))), chunk(b"IEND", b""))
    tracemalloc.start()
    try:
        with pytest.raises(ShardError, match="not 20 bytes of pixels"):
            decode_png(bomb, 1, 4, "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
