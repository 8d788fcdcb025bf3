import csv
import io

import pytest

from pipeline.core.table import csv_bytes


def test_rows_come_back_as_they_were_whatever_stands_in_them() -> None:
    rows = [{"name": 'a "quoted", text', "loss": 0.1 + 0.2}, {"name": "two\nlines", "loss": 1e-300}]
    content = csv_bytes(rows)
    found = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [(row["name"], float(row["loss"])) for row in found] == [(row["name"], row["loss"]) for row in rows]
    assert b"\r" not in content


def test_columns_stand_in_the_order_asked_for_and_else_in_that_of_the_first_row() -> None:
    rows = [{"b": 1, "a": 2}, {"a": 3, "b": 4}]
    assert csv_bytes(rows) == b"b,a\n1,2\n4,3\n"
    assert csv_bytes(rows, ("a", "b")) == b"a,b\n2,1\n3,4\n"
    assert csv_bytes([], ("a", "b")) == b"a,b\n"


def test_a_value_without_a_column_is_refused() -> None:
    with pytest.raises(ValueError, match="c"):
        csv_bytes([{"a": 1}, {"a": 2, "c": 3}])
