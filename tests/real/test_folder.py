import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import real
from pipeline.core.errors import DataError


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


def load(root, split="train", size=12, channels=3):
    block = {"source": "folder", "root": str(root), "size": size, "channels": channels}
    return real.load(real.parse(block), split)


def test_every_image_of_a_split_is_read_with_its_class(image_folder):
    train, test = load(image_folder, "train"), load(image_folder, "test", channels=1)
    assert train.classes == test.classes == ("cat", "zebra")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images[:, :, 0, 0].tolist() == [[v] * 3 for v in (0, 10, 20, 100, 110, 120)]
    assert test.images[:, :, 5, 5].tolist() == [[v] for v in (5, 15, 25, 105, 115, 125)]


def test_an_oblong_image_is_cut_to_its_middle(image_folder):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(image_folder / "train" / "cat" / "0.png")
    assert int(load(image_folder, size=10).images[0].min()) == 255


def test_colours_become_luminance(image_folder):
    Image.new("RGB", (12, 12), (10, 200, 90)).save(image_folder / "train" / "cat" / "0.png")
    expected = 0.299 * 10 + 0.587 * 200 + 0.114 * 90
    assert abs(int(load(image_folder, channels=1).images[0, 0, 0, 0]) - expected) <= 1


def test_a_missing_split_is_an_error_with_the_cure(image_folder):
    shutil.rmtree(image_folder / "test")
    with pytest.raises(DataError, match=r"test is not there.*data.source: none"):
        load(image_folder, "test")


def test_classes_that_differ_between_the_splits_are_named(image_folder):
    (image_folder / "test" / "okapi").mkdir()
    with pytest.raises(DataError, match="only one has okapi"):
        load(image_folder)


def test_a_split_without_images_is_an_error(image_folder):
    for path in (image_folder / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no images there"):
        load(image_folder)


def test_a_damaged_image_is_named(image_folder):
    path = image_folder / "train" / "zebra" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"zebra/1.png: not a readable image"):
        load(image_folder)


def test_an_image_of_another_format_than_its_name_says_is_refused(image_folder):
    Image.new("RGB", (12, 12)).save(image_folder / "train" / "cat" / "0.png", format="TIFF")
    with pytest.raises(DataError, match=r"cat/0.png: not a readable image"):
        load(image_folder)


def test_sixteen_bit_pixels_are_refused_rather_than_clipped(image_folder):
    Image.fromarray(np.full((12, 12), 40_000, np.uint16)).save(image_folder / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        load(image_folder)


def test_an_image_bomb_is_refused(image_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match="not a readable image"):
        load(image_folder)
