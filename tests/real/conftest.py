"""Small real files on disk, in the formats that the sets are published in."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes, several sizes and modes; pixel values say which file is which."""
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "zebra")):
            (tmp_path / split / name).mkdir(parents=True)
            for index, mode in enumerate(("L", "RGB", "RGBA")):
                value = 100 * label + 10 * index + (5 if split == "test" else 0)
                colour = value if mode == "L" else (value, value, value, 255)[: len(mode)]
                Image.new(mode, (12 + 4 * index, 12), colour).save(tmp_path / split / name / f"{index}.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    return tmp_path
