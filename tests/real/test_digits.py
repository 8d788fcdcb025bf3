import hashlib

import numpy as np
import pytest
import torch

from pipeline import real
from pipeline.real.digits import table

SCANS, LABELS = table()[:, :64].astype(float), table()[:, 64]
FIRST_TEST_SCANS = [1, 2, 4, 8, 13, 17, 20, 21, 24, 26, 33, 36]  # rows of the table


def bytes_of_scans():
    return [(scan * 255 / 16).round().astype(np.uint8).tobytes() for scan in SCANS]


def digits(split, size=8, channels=1):
    return real.load(real.parse({"source": "digits", "size": size, "channels": channels}), split)


def rows(labelled):
    return [image.tobytes() for image in labelled.images.numpy()]


def test_both_splits_together_are_every_scan_once():
    ours = sorted(rows(digits("train")) + rows(digits("test")))
    assert ours == sorted(bytes_of_scans())


def test_the_table_is_the_one_that_scikit_learn_has():
    """[1797, 65] uint8: `load_digits().data`, and its target as the last column."""
    assert table().shape == (1797, 65)
    digest = hashlib.sha256(table().tobytes()).hexdigest()
    assert digest == "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"


def test_each_image_has_the_label_that_stands_beside_it_in_the_table():
    labels = dict(zip(bytes_of_scans(), LABELS, strict=True))
    for split in ("train", "test"):
        labelled = digits(split)
        assert [labels[row] for row in rows(labelled)] == labelled.labels.tolist()


def test_the_split_is_1437_and_360_with_every_class_in_proportion():
    train, test = digits("train"), digits("test")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    share = test.labels.bincount().numpy() / np.bincount(LABELS)
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
