"""The report's parts: pictures, the similarity matrix, axes, numbers."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.report.charts import chart, ticks
from pipeline.report.pictures import (
    colours,
    data_uri,
    first_images,
    sheet_png,
    short_label,
    shown_classes,
    similarity_png,
    strip_png,
)
from pipeline.report.rows import Spread, bytes_text, count_text, duration_text, percent_text, points_text, spread_of
from pipeline.shards.reader import Dataset


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_pictures_are_the_first_of_each_class_in_stored_order(run):
    pictures = first_images(Dataset.open(run.data / "synthetic" / "zskd"), classes=3, per_class=2)
    levels = [[int(image[0, 0, 0]) for image in images] for images in pictures.images]
    assert levels == [[0, 30], [10, 40], [20, 50]]


def test_a_class_with_too_few_images_leaves_room(run):
    pictures = first_images(Dataset.open(run.data / "synthetic" / "zskd"), classes=3, per_class=5)
    strip = opened(strip_png(pictures.images[2], 5))
    assert strip.shape == (8, 5 * 9 - 1, 4)
    assert (strip[0, :8, :3] == 20).all()
    assert strip[0, 9 * 2 :, 3].max() == 0, "the rest is clear"
    assert strip_png((), 5) is None
    assert opened(sheet_png(pictures, ("a", "b", "c"))).ndim == 3


def test_many_classes_are_thinned_evenly():
    assert shown_classes(3) == (0, 1, 2)
    shown = shown_classes(1000)
    assert (len(shown), shown[0], shown[-1]) == (20, 0, 999)
    assert set(np.diff(shown)) <= {52, 53}


def test_colours_tell_sign_and_strength_and_leave_the_diagonal_clear():
    rgba = colours(np.array([[1.0, 0.5, -0.25], [0.5, 1.0, 0.0], [-0.25, 0.0, 1.0]]))
    assert (np.diagonal(rgba[..., 3]) == 0).all()
    assert rgba[0, 1, 3] > rgba[0, 2, 3] > rgba[1, 2, 3] == 0
    assert rgba[0, 1, 0] > rgba[0, 1, 2]
    assert rgba[0, 2, 2] > rgba[0, 2, 0]


@pytest.mark.parametrize("count", [2, 40, 1000])
def test_the_matrix_picture_stays_small_for_any_number_of_classes(count):
    picture = opened(similarity_png(np.eye(count), tuple(f"class {k}" for k in range(count))))
    assert max(picture.shape) <= 1100


def test_a_data_address_holds_the_file():
    assert base64.b64decode(data_uri(b"abc").partition(",")[2]) == b"abc"


@given(st.text(max_size=60))
def test_a_label_is_one_printable_line(text):
    label = short_label(text, 16)
    assert len(label) <= 16
    assert len(label.splitlines()) <= 1
    assert "\x00" not in label


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low, width, about):
    high = low + width
    found = ticks(low, high, about)
    assert len(found) <= about + 1
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)


def test_a_curve_spans_the_plot_and_runs_downwards_for_rising_values():
    drawn = chart("loss", [("a", "s0", [(1, 1.0), (2, 2.0), (3, 3.0)])])
    points = [tuple(map(float, pair.split(","))) for pair in drawn.lines[0].path.split()]
    assert points[0] == (drawn.frame.left, drawn.frame.bottom)
    assert points[-1] == (drawn.frame.right, drawn.frame.top)
    assert points[1] == pytest.approx(tuple(np.mean([points[0], points[-1]], axis=0)))


def test_a_wide_range_gets_a_logarithmic_axis():
    drawn = chart("loss", [("a", "s0", [(1, 100.0), (2, 1.0), (3, 0.01)])])
    middle = float(drawn.lines[0].path.split()[1].split(",")[1])
    assert middle == pytest.approx((drawn.frame.top + drawn.frame.bottom) / 2)
    assert drawn.title == "loss, logarithmic"


def test_curves_of_no_one_point_or_one_value_can_be_drawn():
    assert chart("loss", [("a", "s0", [])]) is None
    assert chart("loss", [("a", "s0", [(1, 0.0)])]).lines
    assert chart("share", [("a", "s0", [(1, 0.5), (2, 0.5)])], low=0.0, high=1.0).y_ticks


def test_a_level_stands_where_its_value_does():
    drawn = chart("entropy", [("a", "s0", [(1, 0.0), (2, 4.0)])], level=(3.0, "most"))
    assert drawn.level.at == pytest.approx(drawn.frame.bottom + (drawn.frame.top - drawn.frame.bottom) * 3 / 4)
    assert drawn.level.text == "most"


def test_epochs_and_steps_are_marked_at_whole_numbers_only():
    for last in (1, 2, 3, 4):
        drawn = chart("loss", [("a", "s0", [(k, 1.0) for k in range(1, last + 1)])])
        assert [tick.text for tick in drawn.x_ticks] == [str(k) for k in range(1, last + 1)]


def test_a_long_curve_is_thinned_and_keeps_its_last_point():
    drawn = chart("loss", [("a", "s0", [(k, float(k)) for k in range(10_001)])])
    points = drawn.lines[0].path.split()
    assert len(points) <= 250
    assert points[-1] == f"{drawn.frame.right:.1f},{drawn.frame.top:.1f}"


def test_numbers_read_well():
    assert percent_text(Spread((0.9612, 0.9634))) == "96.23 ± 0.16"
    assert percent_text(Spread((1.0,))) == "100.00"
    assert [points_text(d) for d in (0.0123, -0.5, 0.00001, -0.00001, None)] == [
        "+1.23",
        "\u221250.00",
        "0.00",
        "0.00",
        "\u2013",
    ]
    assert spread_of([None, None]) is None
    assert spread_of([None, 0.5]) == Spread((0.5,))
    assert [duration_text(s) for s in (0.84, 48.4, 200, 7500, 59.7, 3599.7)] == [
        "0.8 s", "48 s", "3 min 20 s", "2 h 5 min", "1 min 0 s", "1 h 0 min",
    ]  # fmt: skip
    assert [count_text(n) for n in (24000, 7.68, 29, 12345.6)] == ["24,000", "7.7", "29", "12,346"]
    assert [bytes_text(n) for n in (812, 17_310_000, 812_000)] == ["812 B", "17.3 MB", "812 kB"]
