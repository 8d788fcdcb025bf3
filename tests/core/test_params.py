import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pipeline.core.errors import ParamsError
from pipeline.core.params import Block, build, read_params, slice_of


class Inner(Block):
    rate: float
    names: tuple[str, ...]


class Outer(Block):
    steps: int = Field(gt=0)
    mode: Literal["a", "b"]
    flag: bool
    pair: tuple[float, float]
    inner: Inner


GOOD: dict[str, Any] = {
    "steps": 3,
    "mode": "a",
    "flag": True,
    "pair": [0.5, 1],
    "inner": {"rate": 1e-4, "names": ["x"]},
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_numbers_are_read_as_yaml_1_2_says(tmp_path: Path) -> None:
    text = "a: 1e-4\nb: 012\nc: on\ne: no\nf: 0o17\ng: -.5\n"
    assert read_params(written(tmp_path, text)) == {
        "a": 1e-4,
        "b": 12,
        "c": "on",
        "e": "no",
        "f": 15,
        "g": -0.5,
    }


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no such parameter file; run `python -m stages\.preset digits`"):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "duplicate key"),
        ("a: &x [1]\nb: *x\n", r"line 2: aliases \(\*name\) are refused"),
        ("a: !!python/object/apply:os.system ['touch pwned']\n", "line 1"),
        ("a: [1\n", "line"),
        ("- a\n- b\n", "expected a mapping of blocks, found"),
        ("", "expected a mapping of blocks, found"),
        ("a: 2001-99-99\n", "a value that cannot be read .*month must be in"),
        ("a: !!int abc\n", "a value that cannot be read"),
        ("a: !!bool abc\n", "a value that cannot be read"),
        ("a: 0x_\n", "a value that cannot be read"),
        (f"a: {'1' * 5000}\n", "a value that cannot be read"),
        (f"a:\n  b: {'[' * 300}{']' * 300}\n", "line 2: nested deeper than 64 levels"),
        ("[" * 5000, "line 1: nested deeper than 64 levels"),
        ("1: 2\nfoo: 3\n", "the key 1 in the file: keys are text"),
        ("a:\n  b:\n  - ? [c, d]\n    : 3\n", r"the key \('c', 'd'\) under a\.b\.0: keys are text"),
    ],
)
def test_what_is_not_a_plain_parameter_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        read_params(written(tmp_path, text))
    assert str(caught.value).count(str(tmp_path / "params.yaml")) == 1
    assert "\n" not in str(caught.value)
    assert "unicode string" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "line"), [("a: 1\n# café\n".encode("latin-1"), 2), ("a: 1".encode("utf-16"), 1), (b"\x80" * 99, 1)]
)
def test_a_file_in_another_encoding_is_one_line(tmp_path: Path, content: bytes, line: int) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=rf"params\.yaml: line {line}: not UTF-8; save the file in that encoding"):
        read_params(tmp_path / "params.yaml")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ParamsError, match=f"{path}: no regular file"):
            read_params(path)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ParamsError, match=r"params\.yaml: cannot be read: Permission denied; check who owns it"):
        read_params(written(tmp_path, "a: 1"))


def test_a_billion_laughs_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ParamsError, match="aliases"):
        read_params(written(tmp_path, "\n".join(lines)))


def test_a_file_that_would_take_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="at most 262144"):
        read_params(written(tmp_path, "a: " + "x" * (1 << 18)))


def test_a_slice_is_found_by_its_dotted_key() -> None:
    assert slice_of({"a": {"b": {"c": 1}}}, "a.b") == {"c": 1}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("b", "b: missing; the file has a"),
        ("a.x", "a.x: missing; a has b"),
        ("a.b.c.d", "a.b.c.d: missing; a.b.c has 1"),
    ],
)
def test_a_missing_key_is_named_with_what_is_there(key: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        slice_of({"a": {"b": {"c": 1}}}, key)


def test_a_block_is_built_and_frozen() -> None:
    outer = build(Outer, GOOD, "outer")
    assert outer.inner.rate == 1e-4
    assert outer.pair == (0.5, 1.0)
    with pytest.raises(ValueError, match="frozen"):
        outer.steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"steps": "3"}, [r"outer\.steps: '3': input should be a valid integer"]),
        ({"steps": 3.5}, [r"outer\.steps: 3\.5"]),
        ({"steps": 0}, [r"outer\.steps: 0: input should be greater than 0"]),
        ({"steps": True}, [r"outer\.steps: True"]),
        ({"flag": "yes"}, [r"outer\.flag: 'yes'"]),
        ({"flag": 1}, [r"outer\.flag: 1"]),
        ({"mode": "c"}, [r"outer\.mode: 'c': input should be 'a' or 'b'"]),
        ({"stepz": 3}, [r"outer\.stepz: 3: unknown key; remove it or check its spelling"]),
        ({"inner": {"rate": "1e-4", "names": [1]}}, [r"outer\.inner\.rate: '1e-4'", r"outer\.inner\.names\.0: 1"]),
        ({"pair": [1.0]}, [r"outer\.pair\.1: missing"]),
        ({"inner": None}, [r"outer\.inner: None"]),
    ],
)
def test_wrong_values_are_named_with_key_value_and_what_is_allowed(change: dict[str, Any], lines: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        build(Outer, GOOD | change, "outer")
    found = str(caught.value).splitlines()
    assert len(found) == len(lines)
    for line, pattern in zip(found, lines, strict=True):
        assert re.match(pattern, line), line


def test_all_errors_come_at_once_and_missing_keys_have_no_default() -> None:
    with pytest.raises(ParamsError) as caught:
        build(Outer, {"steps": -1, "extra": 1}, "outer")
    found = str(caught.value)
    for key in ("steps", "mode", "flag", "pair", "inner", "extra"):
        assert f"outer.{key}: " in found
    assert "outer.mode: missing; it has no default" in found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_rate_must_be_finite(value: float) -> None:
    with pytest.raises(ParamsError, match=r"outer\.inner\.rate"):
        build(Outer, GOOD | {"inner": {"rate": value, "names": []}}, "outer")


PLAIN = st.recursive(
    st.one_of(
        st.integers(-(10**9), 10**9),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.text("abc xyz:#-", max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), PLAIN, min_size=1, max_size=4))
def test_json_is_read_as_the_yaml_that_it_is(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "params.yaml"
    path.write_text(json.dumps(content))
    assert read_params(path) == content
