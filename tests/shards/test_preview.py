from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import ShardError
from pipeline.core.images import to_uint8
from pipeline.shards import preview as module
from pipeline.shards.preview import contact_sheet, first_pictures, png_bytes, preview, short_label
from pipeline.shards.reader import Dataset
from tests.shards.support import Data, together, write_dataset

ROW, MARGINS = 64 + 3, 2 * 10 - 3  # px


def sheet_of(folder: Path) -> Image.Image:
    return Image.open(BytesIO(preview(Dataset.open(folder))))


def test_of_a_thousand_classes_those_that_have_images_are_shown(tmp_path: Path) -> None:
    """Noise falls into a few classes, and hardly into the evenly chosen ones."""
    made = write_dataset(tmp_path, Data(classes=1000, train=(3, 2)))
    there = {int(cls) for samples in made["train"] for cls in samples.cls}
    assert sheet_of(tmp_path).height == len(there) * ROW + MARGINS


def test_of_a_few_classes_all_are_shown(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data(classes=10, train=(2,)))
    assert sheet_of(tmp_path).height == 10 * ROW + MARGINS


def test_classes_that_only_late_shards_hold_get_rows_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, Data(classes=1000, train=(3, 2)))
    monkeypatch.setattr(module, "_MOST_SHARDS", 0)
    assert sheet_of(tmp_path).height > MARGINS


def coloured(sheet: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a sheet has exactly this colour: rows of (y, x)."""
    return np.argwhere((np.asarray(sheet) == colour).all(axis=2))


def plain(colour: tuple[int, int, int], size: int = 8) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (size, size, 3))


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def test_each_class_has_its_row_and_pictures_keep_their_order():
    sheet = contact_sheet([[plain(GREEN)], [plain(RED), plain(BLUE)]], ["zero", "one"], 2)
    red, green, blue = (coloured(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert len(red) == len(green) == len(blue) == 64 * 64  # 8 pixels enlarged eight times
    assert green[:, 0].max() < red[:, 0].min() == blue[:, 0].min()
    assert red[:, 1].max() < blue[:, 1].min()
    assert red[:, 1].min() == green[:, 1].min()


def test_names_are_written_left_of_the_pictures():
    with_names = contact_sheet([[plain(RED)]], ["automobile"], 1)
    ink = coloured(with_names, (34, 34, 34))
    assert len(ink) > 50
    assert ink[:, 1].max() < coloured(with_names, RED)[:, 1].min()
    other = contact_sheet([[plain(RED)]], ["automobyle"], 1)
    assert not np.array_equal(np.asarray(with_names)[:, : ink[:, 1].max()], np.asarray(other)[:, : ink[:, 1].max()])


def test_enlarging_repeats_pixels_and_nothing_else():
    picture = np.arange(0, 192, 3, dtype=np.uint8).reshape(8, 8, 1)
    sheet = np.asarray(contact_sheet([[picture]], ["a"], 1))
    expected = np.kron(picture[..., 0], np.ones((8, 8), dtype=np.uint8))
    inner = sheet[10:74, -74:-10]
    assert np.array_equal(inner, np.stack([expected] * 3, axis=2))


def test_large_pictures_are_not_enlarged():
    sheet = contact_sheet([[plain(RED, 100)]], ["a"], 1)
    assert len(coloured(sheet, RED)) == 100 * 100


def test_missing_pictures_leave_a_pale_square_and_surplus_ones_are_left_out():
    sheet = contact_sheet([[plain(RED)] * 3, []], ["many", "none"], 2)
    assert len(coloured(sheet, RED)) == 2 * 64 * 64
    pictures = sheet.crop((sheet.width - 141, 0, sheet.width, sheet.height))  # without the names, whose edges are grey
    assert len(coloured(pictures, (240, 240, 240))) == 2 * 64 * 64


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_is_shown(tmp_path: Path, channels: int) -> None:
    made = write_dataset(tmp_path, Data(channels=channels, classes=2, train=(3, 2)))
    images = to_uint8(together(made["train"]).images).permute(0, 2, 3, 1)
    found = first_pictures(Dataset.open(tmp_path), [1, 0], 10, 64)
    shown = images if channels == 3 else images[..., :1]
    assert list(found) == [1, 0]
    for number, pictures in found.items():
        here = together(made["train"]).cls == number
        assert [picture.tolist() for picture in pictures] == shown[here].tolist()


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data("png", 3, 40, 2, train=(4,)))
    found = first_pictures(Dataset.open(tmp_path), [0, 1], 2, 20)
    assert {picture.shape for pictures in found.values() for picture in pictures} == {(20, 20, 3)}
    assert all(len(pictures) <= 2 for pictures in found.values())


def test_no_more_shards_are_read_than_needed(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data(classes=2, train=(8, 8)))
    dataset = Dataset.open(tmp_path)
    (tmp_path / "train-00001.tar").write_bytes(b"damaged")
    first_pictures(dataset, [0, 1], 1, 64)
    first_pictures(dataset, [0, 1], 99, 64, shards=1)
    with pytest.raises(ShardError, match="train-00001"):
        first_pictures(dataset, [0, 1], 99, 64)


@pytest.mark.parametrize(
    ("name", "label"),
    [("a", "a"), ("a\n b\t\u202ec", "a b c"), ("x" * 20, "x" * 20), ("x" * 21, "x" * 19 + "…"), ("", "")],
)
def test_a_label_is_one_short_printable_line(name: str, label: str) -> None:
    assert short_label(name) == label


def test_the_same_pictures_give_the_same_bytes_and_the_bytes_give_the_picture():
    images = list(np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))
    sheets = [contact_sheet([images[:4], [], images[4:]], ["a", "b", "ü" * 60], 5) for _ in range(2)]
    content = png_bytes(sheets[0])
    assert content == png_bytes(sheets[1])
    with Image.open(BytesIO(content)) as reread:
        assert np.array_equal(np.asarray(reread), np.asarray(sheets[0]))
        assert reread.info == {}
