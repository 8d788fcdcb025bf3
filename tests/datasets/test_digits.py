import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pipeline import datasets

SCANS = load_digits()
FIRST_TEST_SCANS = [1, 2, 4, 8, 13, 17, 20, 21, 24, 26, 33, 36]  # indices into scikit-learn's order


def bytes_of_scans():
    return [(scan * 255 / 16).round().astype(np.uint8).tobytes() for scan in SCANS.images]


def digits(split, size=8, channels=1):
    return datasets.load(datasets.parse({"source": "digits", "size": size, "channels": channels}), split)


def rows(labelled):
    return [image.tobytes() for image in labelled.images.numpy()]


def test_both_splits_together_are_every_scan_once():
    ours = sorted(rows(digits("train")) + rows(digits("test")))
    assert ours == sorted(bytes_of_scans())


def test_each_image_has_the_label_that_scikit_learn_gives_it():
    labels = dict(zip(bytes_of_scans(), SCANS.target, strict=True))
    for split in ("train", "test"):
        labelled = digits(split)
        assert [labels[row] for row in rows(labelled)] == labelled.labels.tolist()


def test_the_split_is_1437_and_360_with_every_class_in_proportion():
    train, test = digits("train"), digits("test")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    share = test.labels.bincount().numpy() / np.bincount(SCANS.target)
    assert share.min() > 0.195
    assert share.max() < 0.206


def test_the_split_does_not_depend_on_size_or_channels():
    assert torch.equal(digits("test").labels, digits("test", 32, 3).labels)


def test_the_split_is_the_one_that_it_always_was():
    """A recorded fact: a changed split would make old and new results incomparable."""
    place = {row: index for index, row in enumerate(bytes_of_scans())}
    assert [place[row] for row in rows(digits("test"))][:12] == FIRST_TEST_SCANS


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 1), (32, 3), (20, 3)])
def test_images_come_at_the_size_and_with_the_channels_asked_for(size, channels):
    labelled = digits("test", size, channels)
    assert labelled.images.shape == (360, channels, size, size)
    assert labelled.images.dtype == torch.uint8
    assert labelled.labels.dtype == torch.int64
    assert labelled.classes == tuple("0123456789")


def test_growing_keeps_the_mean_and_repeats_grey_in_every_channel():
    small, large = digits("test", 8).images.float(), digits("test", 32, 3).images.float()
    assert torch.equal(large[:, 0], large[:, 1])
    assert torch.equal(large[:, 0], large[:, 2])
    assert abs(float(small.mean() - large.mean())) < 4


def test_a_scikit_learn_that_packs_another_file_is_asked_itself(monkeypatch):
    expected = digits("test")
    monkeypatch.setattr("pipeline.datasets.digits._FILE", "")
    asked = digits("test")
    assert torch.equal(asked.images, expected.images)
    assert torch.equal(asked.labels, expected.labels)


def test_reading_digits_does_not_import_scikit_learn():
    code = (
        "import sys; from pipeline import datasets; "
        "datasets.load(datasets.parse({'source': 'digits', 'size': 8, 'channels': 1}), 'test'); "
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
