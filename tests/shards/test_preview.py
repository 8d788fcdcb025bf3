from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from pipeline.shards import preview as module
from pipeline.shards.preview import preview
from pipeline.shards.reader import Dataset
from tests.support import Data, write_dataset

ROW, MARGINS = 64 + 3, 2 * 10 - 3  # px


def sheet_of(folder: Path) -> Image.Image:
    return Image.open(BytesIO(preview(folder, Dataset.open(folder).manifest)))


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
