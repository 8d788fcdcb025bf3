"""Belief match as the report shows it."""

import csv

import numpy as np
import pytest

from tests.support import Page, plots, section, summary_of

HEADING = "From one class to another"
NAMES = ("zskd", "impressions", "noise", "real_labels")
SEEDS = (0, 1, 2)


def walked(run, method: str, student: str, seed: int = 5) -> np.ndarray:
    """Made-up curves of each seed, [seeds, 2, steps], rounded to what a plot can tell."""
    curves = np.random.default_rng(seed).random((len(SEEDS), 2, 6)).round(3)
    for number, (ours, theirs) in zip(SEEDS, curves.tolist(), strict=True):
        run.walk(f"{method}-{student}-{number}", 0.1 + number / 10, ours, theirs)
    return curves


def test_curves_are_the_means_over_seeds_and_the_teachers_are_dashed(run, tmp_path):
    curves = walked(run, "zskd", "half").mean(0)
    (plot,) = plots(section(run.build(tmp_path / "out"), HEADING))
    assert set(plot.lines) == {"zskd, student", "zskd, teacher"}
    for name, expected in zip(("student", "teacher"), curves, strict=True):
        assert [y for _, y in plot.lines[f"zskd, {name}"][1]] == pytest.approx(expected.tolist(), abs=0.001)
    student, teacher = (plot.lines[f"zskd, {name}"][0] for name in ("student", "teacher"))
    assert teacher == f"{student} dashed"


def test_a_colour_stands_for_the_same_method_everywhere_and_dashes_for_the_teacher_alone(run, tmp_path):
    for method in NAMES:
        walked(run, method, "half")
        walked(run, method, "tiny")
    run.add_proxy("zskd")
    out = run.build(tmp_path / "out")
    styles: dict[str, set[str]] = {}
    for plot in plots(section(out, HEADING)):
        for name, (style, _) in plot.lines.items():
            method, who = name.split(", ")
            styles.setdefault(method, set()).add(style.removesuffix(" dashed"))
            assert style.endswith(" dashed") == (who == "teacher")
    assert set(styles) == set(NAMES)
    assert len(set.union(*styles.values())) == len(styles), "one style for each, and no two alike"
    trained = {
        line.split(", ")[0]: style
        for plot in plots(section(out, "Training"))
        for line, (style, _) in plot.lines.items()
    }
    assert all({trained[method]} == styles[method] for method in ("zskd", "impressions"))


def test_panels_part_students_and_results_from_what_they_are_compared_with(run, tmp_path):
    walked(run, "zskd", "half")
    walked(run, "noise", "half")
    walked(run, "impressions", "tiny")
    run.add_proxy("zskd")
    run.walk("zskd-proxy", 0.3, [0.0, 1.0], [0.0, 0.5])
    found = plots(section(run.build(tmp_path / "out"), HEADING))
    assert [sorted({name.split(",")[0] for name in plot.lines}) for plot in found] == [
        ["zskd"],
        ["noise"],
        ["impressions"],
        ["zskd"],
    ]
    assert [y for _, y in found[-1].lines["zskd, teacher"][1]] == pytest.approx([0.0, 0.5], abs=0.001)


def test_how_it_was_measured_is_said(run, tmp_path):
    walked(run, "zskd", "half")
    belief = run.cells["zskd-half-1"].belief
    run.change("zskd-half-1", belief=belief.model_copy(update={"images": 31}))
    text = " ".join(section(run.build(tmp_path / "out"), HEADING).replace("&#8239;", " ").split())
    assert "K = 6 steps of ξ = 0.5 in normalised units, along the gradient of the student" in text
    assert "from N = 31 to 40 images towards 2 classes each" in text


def test_the_error_is_a_column_of_every_table(run, tmp_path):
    walked(run, "zskd", "half")
    run.add_proxy("zskd")
    run.walk("zskd-proxy", 0.375, [0.0], [0.0])
    out = run.build(tmp_path / "out")
    errors = [run.cells[f"zskd-half-{seed}"].belief.mte for seed in SEEDS]
    found = summary_of(out)
    assert found["zskd"]["half"]["mte_mean"] == pytest.approx(np.mean(errors))
    assert found["zskd"]["half"]["mte_std"] == pytest.approx(np.std(errors, ddof=1))
    assert found["zskd"]["proxy"]["mte_mean"] == 0.375
    assert not [key for key in found["zskd"]["tiny"] if key.startswith("mte")]
    with (out / "results.csv").open(newline="") as file:
        lines = {line["cell"]: line["mte"] for line in csv.DictReader(file)}
    assert [float(lines[f"zskd-half-{seed}"]) for seed in SEEDS] == errors
    assert lines["zskd-tiny-0"] == ""
    shown = f"{np.mean(errors):.3f} ± {np.std(errors, ddof=1):.3f}"
    report = (out / "report.md").read_text()
    for text in (section(out, "Results"), section(out, "Online and offline"), report.split("## Missing")[0]):
        assert shown in text
    assert "0.375" in section(out, "Online and offline")
    widths = {
        line.count(" | ") for line in report.split("## Results")[1].split("## ")[0].splitlines() if line[:2] == "| "
    }
    assert len(widths) == 1, "every line of the table has as many cells"


def test_what_was_not_measured_leaves_no_trace(run, tmp_path):
    run.write_text("belief/zskd-half-0.csv", "not a table, and not looked at: the metrics name no belief match\n")
    out = run.build(tmp_path / "out")
    assert not section(out, HEADING)
    assert "MTE" not in Page(out / "index.html").text + (out / "report.md").read_text()
    assert summary_of(out)["missing"] == 0


def test_curves_that_are_gone_are_named_and_the_error_stays(run, tmp_path):
    walked(run, "zskd", "half")
    for seed in SEEDS:
        (run.data / "belief" / f"zskd-half-{seed}.csv").unlink()
    out = run.build(tmp_path / "out")
    assert "- transition curves of zskd-half-2" in (out / "report.md").read_text()
    assert summary_of(out)["missing"] == 3
    assert not section(out, HEADING)
    assert "mte_mean" in summary_of(out)["zskd"]["half"]
