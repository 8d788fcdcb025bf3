"""Names: every row and cell has one, no two share one, and nothing else may stand in `matrix`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ParamsError
from pipeline.core.params import build
from pipeline.grid import PROXY, Cell, Matrix, Row, path_of

BLOCK = {
    "methods": ["noise", "zskd", "real"],
    "references": ["real"],
    "few_shot": ["zskd"],
    "students": ["small", "wide"],
    "seeds": [0, 1],
    "proxies": ["zskd"],
}
NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9_]{0,63}\Z")


def matrix(**changes: object) -> Matrix:
    return build(Matrix, BLOCK | changes, "matrix")


def test_rows_are_datasets_with_the_control_last_then_what_saw_real_images():
    assert [row.name for row in matrix().rows] == ["zskd", "real", "noise", "real_labels", "zskd_few_shot"]
    assert matrix().datasets == ("zskd", "real", "noise")


def test_cells_are_every_student_of_every_row():
    cells = [cell.name for cell in matrix().cells]
    assert len(set(cells)) == len(cells) == 5 * 2 * 2
    assert cells[:3] == ["zskd-small-0", "zskd-small-1", "real-small-0"]
    assert [(cell.name, cell.online) for cell in matrix().proxy_cells] == [("zskd-proxy", True)]


@pytest.mark.parametrize(
    ("name", "data_free", "role", "meaning"),
    [
        ("zskd", True, "result", ""),
        ("noise", True, "control", "distilled on noise"),
        ("real", False, "reference", "distilled on real images"),
        ("real_labels", False, "reference", "trained on real labels, no teacher"),
        ("zskd_few_shot", False, "reference", "then a few real images of each class"),
        ("partner", False, "reference", ""),
    ],
)
def test_what_a_row_is_for(name, data_free, role, meaning):
    assert (Row.parse(name).role(data_free), Row.parse(name).meaning) == (role, meaning)


def test_code_of_each_kind_of_student_has_a_folder_of_its_own():
    assert [row.consumer for row in matrix().rows[-3:]] == ["students", "references", "few_shot"]


@given(NAMES.filter(lambda name: not name.endswith(("_labels", "_few_shot"))))
def test_a_row_is_read_back_from_its_name(dataset):
    for labels in ("teacher", "true", "few_shot"):
        assert Row.parse(Row(dataset, labels).name) == Row(dataset, labels)


@given(st.lists(st.tuples(NAMES, NAMES, st.integers(0, 99)), min_size=2, max_size=6, unique=True))
def test_no_two_cells_share_a_name(cells):
    names = {Cell(Row(dataset), student, seed).name for dataset, student, seed in cells}
    assert len(names) == len({cell if cell[1] != PROXY else cell[:2] for cell in cells})


def test_files_lie_where_the_stages_declare_them(project_root):
    declared = (project_root / "dvc.yaml").read_text()
    cell, dataset = "${item.method}-${item.student}-${item.seed}", "${item.method}"
    for folder in ("students", "metrics", "belief", "history", "provenance/students"):
        assert f"- data/{path_of(folder, cell)}\n" in declared.replace(".csv:", ".csv").replace(".json:", ".json")
    for folder in ("synthetic", "provenance/synthetic"):
        assert f"- data/{path_of(folder, dataset)}\n" in declared


HOSTILE = (
    "0; touch x #",
    "$(id)",
    "`id`",
    "../up",
    "a/b",
    "a b",
    "A",
    "",
    "-x",
    "_x",
    "v1.2",
    "a\n",
    "x" * 65,
    "\u00e9",
)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("key", ["methods", "students", "proxies"])
def test_what_a_shell_or_a_path_could_misread_is_no_name(key, name):
    with pytest.raises(ParamsError, match=rf"matrix\.{key}\.0: "):
        matrix(**{key: [name]})


@pytest.mark.parametrize("seed", ["0; touch x #", "0", -1, 2**31, 0.5, True, None])
def test_a_seed_is_a_small_whole_number(seed):
    with pytest.raises(ParamsError, match=r"matrix\.seeds\.1: "):
        matrix(seeds=[0, seed])


@pytest.mark.parametrize("name", ["real_labels", "zskd_few_shot"])
def test_a_dataset_may_not_be_called_like_a_row_of_another(name):
    with pytest.raises(ParamsError, match=r"matrix\.methods\.0: .*rename it"):
        matrix(methods=[name])
