"""Tables of numbers that others wrote, and their mean."""

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.core.files import csv_bytes
from pipeline.report.read import Series, mean_points, parse_series


def parsed(text: str | bytes) -> Series:
    content = text.encode() if isinstance(text, str) else text
    return parse_series(content, "some/fit.csv", "epoch", "make it again")


def test_what_was_written_is_read_back():
    values = np.random.default_rng(3).normal(size=(7, 2))
    rows = [{"epoch": k + 1, "loss": a, "spread, all": b} for k, (a, b) in enumerate(values.tolist())]
    found = parsed(csv_bytes(rows))
    assert found.along == tuple(range(1, 8))
    assert found.points("loss") == tuple((k + 1, a) for k, (a, _) in enumerate(values.tolist()))
    assert found.points("spread, all", 100) == tuple((k + 1, b * 100) for k, (_, b) in enumerate(values.tolist()))


def test_empty_and_infinite_values_are_gaps_and_absent_columns_have_no_points():
    found = parsed("epoch,loss,late\n1,0.5,\n\n2,nan,3\n3,inf,-inf\n4\n")
    assert found.points("loss") == ((1, 0.5),)
    assert found.points("late") == ((2, 3),)
    assert found.points("other") == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("loss\n1\n", "some/fit.csv: no column named epoch; make it again"),
        ("", "no column named epoch"),
        ("epoch,loss\n1,2\n3,high\n", "some/fit.csv: line 3: 'high' is not a number; make it again"),
        ("epoch,loss\n,2\n", "line 2: no epoch"),
        ("epoch,loss\nnan,2\n", "line 2: no epoch"),
        (b"epoch,loss\n1,\xff\n", "not CSV in UTF-8"),
        ('epoch,loss\n1,"2\n', "not CSV in UTF-8"),
        ("epoch,loss\n1," + "9" * 200_000 + "\n", "not CSV in UTF-8"),
    ],
)
def test_what_is_no_table_of_numbers_is_an_error_that_says_where(content, said):
    with pytest.raises(DataError) as error:
        parsed(content)
    assert said in str(error.value)
    assert len(str(error.value)) < 300


def test_a_mean_over_series_equals_numpys_and_takes_what_is_there():
    values = np.random.default_rng(4).random((3, 5))
    series = [Series(tuple(range(5)), {"student": tuple(row)}) for row in values.tolist()]
    found = mean_points(series, "student")
    assert [x for x, _ in found] == list(range(5))
    assert [y for _, y in found] == pytest.approx(values.mean(0).tolist())
    gap = Series((0, 1), {"student": (None, 1.0)})
    assert mean_points([gap, Series((0, 1), {"student": (0.5, 0.0)})], "student") == ((0, 0.5), (1, 0.5))
