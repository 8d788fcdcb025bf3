import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ShardError
from pipeline.shards.encode import encode_png, encode_shard
from pipeline.shards.layout import key_of, npy_header, png_layout, tar_header
from tests.shards.support import Data, draw_samples, encode_samples


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar.getmembers()}  # pyright: ignore


@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_equal_samples_give_equal_bytes(encoding: str) -> None:
    plan = Data(encoding=encoding, targets=True)
    assert encode_samples(draw_samples(plan, 3, 1), encoding) == encode_samples(draw_samples(plan, 3, 1), encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("png", "d236c5713d58ce012a0fa26232710cb993f9be131e45924880ac350d88fd0d57"),
        ("npy", "52073b541726044d7a7fbf657b87c41ee4a4d27b042071ff7c7a77af506bd150"),
    ],
)
def test_the_bytes_are_those_of_format_version_1(encoding: str, expected: str) -> None:
    # Recorded when the format was fixed. If this fails, caches and published datasets no longer match: raise
    # FORMAT_VERSION and say so in the changelog.
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    stored = images.to(torch.uint8) if encoding == "png" else (images / 128).half()
    logits = torch.arange(20.0).reshape(2, 10) / 7
    targets = torch.full((2, 10), 0.1)
    content = encode_shard(stored, logits, targets, torch.tensor([9, 0]), encoding, "holdout", 3)
    assert hashlib.sha256(content).hexdigest() == expected


@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_members_are_sorted_plain_ustar_without_time_or_owner(encoding: str) -> None:
    content = encode_samples(draw_samples(Data(encoding=encoding, targets=True), 2, 0), encoding, "holdout", 12)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
    extensions = ["cls", "logits.npy", encoding, "target.npy"]
    keys = ["h00012-00000", "h00012-00001"]
    assert [info.name for info in infos] == [f"{key}.{extension}" for key in keys for extension in extensions]
    for info in infos:
        assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
        assert info.type == tarfile.REGTYPE
        assert not info.pax_headers


def test_arrays_are_what_numpy_writes() -> None:
    samples = draw_samples(Data(channels=3, targets=True), 2, 0)
    found = members(encode_samples(samples, "npy"))
    for number in range(2):
        for name, expected in (
            ("npy", samples.images),
            ("logits.npy", samples.logits),
            ("target.npy", samples.targets),
        ):
            array = np.load(io.BytesIO(found[f"t00000-0000{number}.{name}"]), allow_pickle=False)
            assert array.dtype == expected[number].numpy().dtype
            assert np.array_equal(array, expected[number].numpy())
        assert found[f"t00000-0000{number}.cls"] == str(samples.cls[number].item()).encode()


@pytest.mark.parametrize("shape", [(1,), (10,), (100000,), (3, 32, 32), (1, 8192, 8192)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_npy_headers_are_numpys_own(shape: tuple[int, ...], dtype: str) -> None:
    stream = io.BytesIO()
    content = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, content)
    assert npy_header(dtype, shape) == stream.getvalue()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**11 - 1])
def test_tar_headers_are_tarfiles_own(size: int) -> None:
    info = tarfile.TarInfo("t00000-00000.logits.npy")
    info.size, info.mode, info.mtime = size, 0o644, 0
    assert tar_header(info.name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (1, 28), (3, 32), (3, 147), (3, 224), (1, 255), (1, 256)])
def test_pillow_reads_our_png(channels: int, size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (channels, size, size), dtype=np.uint8)
    content = encode_png(image)
    assert len(content) == png_layout(channels, size).length
    with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
        assert opened.mode == ("L" if channels == 1 else "RGB")
        pixels = np.asarray(opened).reshape(size, size, channels).transpose(2, 0, 1)
    assert np.array_equal(pixels, image)


def test_negative_zero_is_stored_as_zero() -> None:
    images = torch.full((1, 1, 2, 2), -0.0, dtype=torch.float16)
    content = encode_shard(images, torch.zeros(1, 2), None, torch.zeros(1, dtype=torch.int64), "npy", "train", 0)
    assert members(content)["t00000-00000.npy"][128:] == bytes(8)


def test_keys_are_unique_over_splits_and_shards_and_have_no_dot() -> None:
    keys = {
        key_of(split, index, sample) for split in ("train", "holdout") for index in range(30) for sample in range(30)
    }
    assert len(keys) == 2 * 30 * 30
    assert not any("." in key for key in keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 1, 4, 4)}, "images are"),
        ({"images": torch.zeros(2, 1, 4, 5).half()}, "images are"),
        ({"images": torch.zeros(0, 1, 4, 4).half()}, "images are"),
        ({"images": torch.full((2, 1, 4, 4), 1.5).half()}, "outside"),
        ({"images": torch.full((2, 1, 4, 4), torch.nan).half()}, "outside"),
        ({"images": torch.zeros(2, 2, 4, 4, dtype=torch.uint8), "encoding": "png"}, "1 or 3 channels, not 2"),
        ({"logits": torch.zeros(2, 3).double()}, "logits"),
        ({"logits": torch.zeros(1, 3)}, "logits"),
        ({"logits": torch.full((2, 3), torch.inf)}, "finite"),
        ({"targets": torch.zeros(2, 3)}, "sum to 1"),
        ({"targets": torch.tensor([[-1.0, 1, 1]] * 2)}, "not a distribution"),
        ({"targets": torch.ones(2, 1)}, "targets"),
        ({"cls": torch.tensor([0, 3])}, r"in \[0, 3\)"),
        ({"targets": torch.tensor([[0.0, 1, 0]] * 2)}, "not the largest entry"),
        ({"cls": torch.tensor([0, -1])}, "cls"),
        ({"cls": torch.tensor([0.0, 1.0])}, "cls"),
        ({"cls": torch.tensor([0])}, "cls"),
    ],
)
def test_what_no_reader_would_accept_is_not_written(change: dict, message: str) -> None:
    good = {
        "images": torch.zeros(2, 1, 4, 4).half(),
        "logits": torch.zeros(2, 3),
        "targets": None,
        "cls": torch.tensor([0, 2]),
        "encoding": "npy",
        "split": "train",
        "index": 5,
    }
    encode_shard(**good)
    with pytest.raises(ShardError, match=message) as caught:
        encode_shard(**(good | change))
    assert "train shard 5" in str(caught.value)
