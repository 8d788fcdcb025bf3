import gzip
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from pipeline import real
from pipeline.core.errors import DataError, ParamsError

COUNTS = {"train": 30, "t10k": 20}


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """MNIST's own idx files with made-up digits, as torchvision lays them out."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
        for path in sorted(raw.glob(f"{split}-*")):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return tmp_path


def block(root, **changes):
    return {
        "source": "torchvision",
        "name": "MNIST",
        "root": str(root),
        "download": False,
        "size": 28,
        "channels": 1,
    } | changes


def load(root, split="test", **changes):
    return real.load(real.parse(block(root, **changes)), split)


def idx(path):
    """An independent reading of the idx format: magic, dimensions, bytes."""
    content = path.read_bytes()
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_mnist_equals_a_plain_reading_of_its_idx_files(mnist_root, split, stem):
    labelled = load(mnist_root, split)
    raw = mnist_root / "MNIST" / "raw"
    assert np.array_equal(labelled.images[:, 0].numpy(), idx(raw / f"{stem}-images-idx3-ubyte"))
    assert labelled.labels.tolist() == idx(raw / f"{stem}-labels-idx1-ubyte").tolist()
    assert len(labelled.classes) == 10


def test_shrinking_by_two_averages_with_the_triangle_filter(mnist_root):
    image = np.zeros((28, 28), np.uint8)
    image[:, 14:] = 200
    path = mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:16] + np.repeat(image[None], 20, 0).tobytes())
    small = load(mnist_root, size=14).images[0, 0].numpy()
    # The antialiased bilinear filter weighs the 4 pixels around an output pixel 1 3 3 1 (eighths): one column on
    # either side of the edge sees one foreign pixel.
    assert small[5].tolist() == [0] * 6 + [25] + [175] + [200] * 6


def test_grey_digits_repeat_in_three_channels(mnist_root):
    images = load(mnist_root, channels=3).images
    assert images.shape == (20, 3, 28, 28)
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10", "USPS"])
def test_missing_files_are_an_error_with_the_cure(tmp_path, name):
    with pytest.raises(DataError, match=rf"data.name: {name} \(test\).*data.download: true"):
        load(tmp_path, name=name)


def test_a_damaged_file_is_an_error_with_the_cure(mnist_root):
    path = mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"MNIST \(test\) cannot be read"):
        load(mnist_root)


@pytest.mark.parametrize("name", ["MNISTT", "ImageFolder", "FakeData", "__class__", "EuroSAT"])
def test_a_name_without_train_and_test_is_refused_and_the_others_listed(tmp_path, name):
    with pytest.raises(DataError, match="CIFAR10, CIFAR100"):
        load(tmp_path, name=name)


class _Split:
    """A set that knows its splits as trainval and test, like OxfordIIITPet."""

    asked: ClassVar[list[str]] = []

    def __init__(self, root, split="trainval", download=False):
        if split not in ("trainval", "test"):
            raise ValueError(f"Unknown value '{split}'")
        self.asked.append(split)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        from PIL import Image

        return Image.new("RGB", (4, 4), (index, 0, 0)), np.int64(index)


def test_sets_that_name_their_splits_differently_are_read(tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "STL10", _Split)
    for split in ("train", "test"):
        labelled = load(tmp_path, split, name="STL10", size=4, channels=3)
        assert labelled.images[:, 0, 0, 0].tolist() == [0, 1, 2]
        assert labelled.classes == ("0", "1", "2")
    assert _Split.asked == ["trainval", "test"]


def test_a_variant_goes_to_split_beside_train(tmp_path, monkeypatch):
    import torchvision.datasets

    seen = {}

    def emnist(root, split, **options):
        seen.update(options, split=split)
        return _Split(root)

    monkeypatch.setattr(torchvision.datasets, "EMNIST", emnist)
    load(tmp_path, "train", name="EMNIST:letters", channels=3)
    assert seen == {"split": "letters", "train": True, "download": False}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 0}, "data.size: 0"),
        ({"channels": 2}, "data.channels: 2"),
        ({"download": "yes"}, "data.download: 'yes'"),
        ({"sise": 3}, "data.sise: 3: unknown key"),
        ({"source": "web"}, "data.source: 'web': must be one of digits, folder, torchvision, none"),
    ],
)
def test_a_wrong_data_block_names_key_and_value(tmp_path, changes, named):
    with pytest.raises(ParamsError, match=named):
        real.parse(block(tmp_path) | changes)


@pytest.mark.parametrize("value", [None, [], "digits", {"source": ["digits"]}])
def test_a_block_that_is_no_mapping_with_a_source_is_refused(value):
    with pytest.raises(ParamsError, match=r"data\.source"):
        real.parse(value)


def test_no_data_is_none_in_both_splits():
    nothing = real.parse({"source": "none"})
    assert real.load(nothing, "train") is None
    assert real.load(nothing, "test") is None
