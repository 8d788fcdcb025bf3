"""How generators trained, and the networks that are kept with a dataset."""

import math
import re

import numpy as np
import pytest

from pipeline.core.errors import DataError, ShardError
from pipeline.core.files import csv_bytes
from pipeline.report.read import read_material
from tests.support import Page, plots, section

HEADING = "How the generators trained"
EPOCHS = 9


def history(**scale: float) -> dict[str, np.ndarray]:
    """Columns as `synthesis.health` names them, each up to its scale."""
    names = {"confidence": 1.0, "disagreement": 1.0, "proxy_confidence": 1.0, "class_entropy": 1.0, "spread": 1.0}
    random = np.random.default_rng(2)
    return {name: random.random(EPOCHS).round(3) * most for name, most in (names | scale).items()}


def attach(run, columns: dict[str, np.ndarray]) -> None:
    rows = [{"epoch": k + 1} | {name: float(values[k]) for name, values in columns.items()} for k in range(EPOCHS)]
    run.attach("zskd", {"fit.csv": ("history", csv_bytes(rows))})


def shown(run, out) -> dict:
    run.build(out)
    return {plot.caption: plot for plot in plots(section(out, HEADING))}


def values(line) -> list[float]:
    return [y for _, y in line[1]]


def test_the_plots_hold_the_history(run, tmp_path):
    columns = history(generator_loss=-2.0)
    attach(run, columns)
    found = shown(run, tmp_path / "out")
    assert list(found) == ["confidence", "class entropy, nats", "disagreement, %", "generator loss"]
    beliefs = found["confidence"].lines
    assert values(beliefs["teacher"]) == pytest.approx(columns["confidence"].tolist(), abs=0.002)
    assert values(beliefs["proxy"]) == pytest.approx(columns["proxy_confidence"].tolist(), abs=0.002)
    assert values(found["disagreement, %"].lines[""]) == pytest.approx(
        (columns["disagreement"] * 100).tolist(), abs=0.2
    )
    loss = found["generator loss"].lines["generator loss"]
    assert values(loss) == pytest.approx(columns["generator_loss"].tolist(), abs=0.005)


def test_the_largest_entropy_there_can_be_is_drawn_at_its_place(run, tmp_path):
    attach(run, history())
    run.build(tmp_path / "out")
    html = next(part for part in section(tmp_path / "out", HEADING).split("<figure") if "class entropy" in part)
    grid = [
        (float(at), float(text))
        for at, text in re.findall(r'grid"[^>]* y1="([^"]+)"[^>]*>\s*<text[^>]*>([^<]+)<', html)
    ]
    level = float(re.search(r'class="level"[^>]* y1="([^"]+)"', html)[1])
    (low, zero), (high, one) = grid[0], grid[-1]
    assert zero + (level - low) / (high - low) * (one - zero) == pytest.approx(math.log(3), abs=0.02)
    assert "log 3 = 1.10" in html


def test_a_generator_without_a_proxy_has_no_plot_of_it(run, tmp_path):
    columns = history()
    attach(run, {name: columns[name] for name in ("confidence", "class_entropy")})
    found = shown(run, tmp_path / "out")
    assert list(found) == ["confidence", "class entropy, nats"]
    assert set(found["confidence"].lines) == {"teacher"}


def test_losses_of_one_magnitude_share_a_plot_and_each_has_its_colour(run, tmp_path):
    attach(run, history(loss=-4.0, one_hot_loss=0.9, proxy_loss=-400.0))
    found = shown(run, tmp_path / "out")
    assert list(found)[3:] == ["losses", "proxy loss"]
    assert list(found["losses"].lines) == ["loss", "one hot loss"]
    lines = {**found["losses"].lines, **found["proxy loss"].lines}
    assert len({style for style, _ in lines.values()}) == 3


def test_a_loss_that_stays_zero_is_drawn(run, tmp_path):
    attach(run, history(loss=0.0, proxy_loss=1.0))
    assert {"loss", "proxy loss"} <= set(shown(run, tmp_path / "out"))


def test_a_dataset_without_a_history_has_no_plots(run, tmp_path):
    run.attach("zskd", {"generator-01.safetensors": ("generator", b"weights")})
    assert not section(run.build(tmp_path / "out"), HEADING)


def test_what_is_kept_with_a_dataset_is_listed_and_counted(run, tmp_path):
    before = read_material(run.inputs()).datasets["zskd"].bytes
    content = {"generator-01.safetensors": ("generator", b"g" * 1500), "proxy.safetensors": ("proxy", b"p" * 25)}
    run.attach("zskd", content)
    assert read_material(run.inputs()).datasets["zskd"].bytes == before + 1525
    details = section(run.build(tmp_path / "out"), "Details")
    text = " ".join(re.sub(r"<[^>]*>", " ", details).split())
    assert "generator-01.safetensors a network that makes images 1.5 kB" in text
    assert "proxy.safetensors a student that was trained while the images were made 25 B" in text
    assert "arch tiny &lt;b&gt;, epoch 3" in text
    assert text.count("kept beside its images") == 1, "datasets with nothing beside them have no such table"


def test_hostile_names_of_columns_stay_text(run, tmp_path):
    attach(
        run, history() | {"<script>alert(1)</script> loss": np.arange(EPOCHS), "x" * 5000 + "loss": np.arange(EPOCHS)}
    )
    page = Page(run.build(tmp_path / "out") / "index.html")
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)" in page.text
    assert "x" * 100 not in page.text


def test_a_history_that_is_no_table_or_was_edited_is_an_error_that_names_it(run, tmp_path):
    run.attach("zskd", {"fit.csv": ("history", b"epoch,confidence\n1,sure\n")})
    with pytest.raises(DataError, match=r"fit\.csv: line 2: 'sure' is not a number"):
        run.build(tmp_path / "out")
    (run.data / "synthetic" / "zskd" / "fit.csv").write_bytes(b"epoch,confidence\n1,0.99\n")
    with pytest.raises(ShardError, match=r"fit\.csv"):
        run.build(tmp_path / "out")
