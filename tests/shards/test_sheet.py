from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.shards.sheet import contact_sheet, png_bytes


def coloured(sheet: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a sheet has exactly this colour: rows of (y, x)."""
    return np.argwhere((np.asarray(sheet) == colour).all(axis=2))


def plain(*colours: tuple[int, int, int], size: int = 8) -> torch.Tensor:
    return torch.stack(
        [torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, size, size) for colour in colours]
    )


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def test_each_class_has_its_row_and_pictures_keep_their_order():
    sheet = contact_sheet(plain(RED, GREEN, BLUE), torch.tensor([1, 0, 1]), ["zero", "one"], per_class=2)
    red, green, blue = (coloured(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert len(red) == len(green) == len(blue) == 64 * 64  # 8 pixels enlarged eight times
    assert green[:, 0].max() < red[:, 0].min() == blue[:, 0].min()
    assert red[:, 1].max() < blue[:, 1].min()
    assert red[:, 1].min() == green[:, 1].min()


def test_names_are_written_left_of_the_pictures():
    with_names = contact_sheet(plain(RED), torch.tensor([0]), ["automobile"], per_class=1)
    ink = coloured(with_names, (34, 34, 34))
    assert len(ink) > 50
    assert ink[:, 1].max() < coloured(with_names, RED)[:, 1].min()
    other = contact_sheet(plain(RED), torch.tensor([0]), ["automobyle"], per_class=1)
    assert not np.array_equal(np.asarray(with_names)[:, : ink[:, 1].max()], np.asarray(other)[:, : ink[:, 1].max()])


def test_enlarging_repeats_pixels_and_nothing_else():
    picture = torch.arange(0, 192, 3, dtype=torch.uint8).view(1, 1, 8, 8)
    sheet = np.asarray(contact_sheet(picture, torch.tensor([0]), ["a"], per_class=1))
    expected = np.kron(picture[0, 0].numpy(), np.ones((8, 8), dtype=np.uint8))
    inner = sheet[10:74, -74:-10]
    assert np.array_equal(inner, np.stack([expected] * 3, axis=2))


def test_large_pictures_are_not_enlarged():
    sheet = contact_sheet(plain(RED, size=100), torch.tensor([0]), ["a"], per_class=1)
    assert len(coloured(sheet, RED)) == 100 * 100


def test_missing_pictures_leave_a_pale_square_and_surplus_ones_are_left_out():
    sheet = contact_sheet(plain(RED, RED, RED), torch.tensor([0, 0, 0]), ["many", "none"], per_class=2)
    assert len(coloured(sheet, RED)) == 2 * 64 * 64
    pictures = sheet.crop((sheet.width - 141, 0, sheet.width, sheet.height))  # without the names, whose edges are grey
    assert len(coloured(pictures, (240, 240, 240))) == 2 * 64 * 64


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_is_drawn(channels: int):
    images = torch.zeros(1, channels, 8, 8, dtype=torch.uint8)
    images[:, 0] = 200
    sheet = contact_sheet(images, torch.tensor([0]), ["a"], per_class=1)
    assert len(coloured(sheet, (200, 0, 0) if channels == 3 else (200, 200, 200))) == 64 * 64


def test_the_same_pictures_give_the_same_bytes_and_the_bytes_give_the_picture():
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheets = [contact_sheet(images, torch.arange(12) % 3, ["a", "b", "ü" * 60], per_class=5) for _ in range(2)]
    content = png_bytes(sheets[0])
    assert content == png_bytes(sheets[1])
    with Image.open(BytesIO(content)) as reread:
        assert np.array_equal(np.asarray(reread), np.asarray(sheets[0]))
        assert reread.info == {}
