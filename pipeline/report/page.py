"""`index.html`: what the template sets; each section of the page has a template, and a function where it computes."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ..grid import REAL, Matrix, Row
from ..measure.metrics import Belief, class_labels
from ..shards.preview import short_label
from . import rows as numbers
from .charts import SMALL, Chart, Curve, chart
from .pictures import Pictures, data_uri, pixels_png, scale_of, strip_png
from .read import DatasetFacts, Material, Provenance, ReportInputs, Series, flat, mean_points
from .rows import Scores, best_result, comparisons, count_text, percent_text, spread_of
from .text import Headline

__all__ = ["page"]

_HERE = Path(__file__).parent
_NAMED = 40  # classes; of more, the hardest are listed, and the matrix has no names
_HARDEST = 20
_WIDTH = 800  # pixels, about, that pictures may fill side by side
_COLOURS, _DASHES, _SHADES = 6, 4, 4  # in the style sheet
_UNKNOWN = "line other"  # the style of what no row is named after
_APART = 10.0  # largest over smallest magnitude of losses that are legible in one plot
_HEADROOM = 1.18  # of the entropy's axis, for the name of the largest value there can be
_KINDS = {
    "generator": "a network that makes images",
    "proxy": "a student that was trained while the images were made",
    "history": "how the training went, epoch by epoch",
}

Styles = dict[str, str]  # by row: class names of the style sheet, the same in every table, legend and plot


def page(inputs: ReportInputs, material: Material, rows: Sequence[Scores], opening: Headline) -> bytes:
    """The page, which needs no other file, no script and no network."""
    styles = _styles(inputs.matrix, rows, "other d", _DASHES)
    proxies = comparisons(material, rows)
    content = {
        "inputs": inputs,
        "material": material,
        "teacher": material.teacher,
        "rows": rows,
        "students": _by_student(rows),
        "styles": styles,
        "opening": opening,
        "figures": _figures(material, rows),
        "has": _measured(rows),
        "on_holdout": any(cell.agreement_on == "holdout" for cell in material.cells),
        "samples": sorted({count_text(cell.samples) for cell in material.cells}),
        "notes": sorted({cell.note for cell in material.cells if cell.note}),
        "comparisons": proxies,
        "online_accuracy": any(one.proxy.of("accuracy") for one in proxies),
        "compared": _measured([row for one in proxies for row in (one.proxy, *one.offline)]),
        "others": any(not one.alike(row) for one in proxies for row in one.offline),
        "pictures": _pictures(material),
        "similarity": _similarity(inputs),
        "beliefs": _beliefs(material, rows, _styles(inputs.matrix, rows, "g", _SHADES)),
        "generators": _generators(material, styles),
        "training": _training(rows, material, styles),
        "classes": _classes(material, rows),
        "environment": _environment([*material.synthesis.values(), *material.training.values()]),
        "kinds": _KINDS,
        "unknown": _UNKNOWN,
    }
    return _template().render(content).encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    texts = (numbers.percent_text, numbers.number_text, numbers.points_text, count_text)
    sizes = (numbers.duration_text, numbers.rate_text, numbers.bytes_text)
    filters = {one.__name__: one for one in (*texts, *sizes, spread_of, flat, short_label)}
    cast(dict[str, Any], environment.filters).update(filters, labelled=_labelled)
    return environment.get_template("page.html.j2")


def _measured(rows: Sequence[Scores]) -> dict[str, bool]:
    """Which numbers there are, for tables without empty columns."""
    return {name: any(row.of(name) for row in rows) for name in ("accuracy", "top5", "mte")}


def _styles(matrix: Matrix, rows: Sequence[Scores], greys: str, count: int) -> Styles:
    """A colour for each result, a grey for each row to compare with: dashed (`other d`), or shaded (`g`)."""
    results = {row.method for row in rows if row.role == "result"}
    names = [row.name for row in matrix.rows]
    others = [name for name in names if name not in results]
    coloured = {name: _coloured(index) for index, name in enumerate(name for name in names if name in results)}
    return coloured | {name: f"line {greys}{index % count}" for index, name in enumerate(others)}


def _coloured(index: int) -> str:
    return f"line s{index % _COLOURS}"


def _by_student(rows: Sequence[Scores]) -> list[tuple[str, list[Scores]]]:
    return [(student, list(members)) for student, members in groupby(rows, key=lambda row: row.student)]


def _figures(material: Material, rows: Sequence[Scores]) -> list[tuple[str, str, str]]:
    """The few numbers to remember: (value, unit, what it is)."""
    found: list[tuple[str, str, str]] = []
    if material.teacher.accuracy is not None:
        found.append((f"{material.teacher.accuracy * 100:.2f}", "%", f"the teacher, {material.teacher.arch}"))
    best = best_result(rows)
    if best is None:
        return found
    what = "accuracy" if best.of("accuracy") else "agreement with the teacher"
    found.append((percent_text(best.main), "%", f"{what}, {best.student} from {best.method}"))
    for row in rows:
        if (row.student, row.row) == (best.student, Row(REAL, "true")) and row.of("accuracy"):
            found.append((percent_text(row.of("accuracy")), "%", f"{best.student} on real labels"))
    cost = material.synthesis.get(best.row.dataset)
    if cost is not None:
        found.append((numbers.duration_text(cost.seconds), "", f"to make {count_text(cost.images)} images"))
    return found


def _pictures(material: Material) -> dict[str, Any] | None:
    """A line for each class with a strip of each dataset; None where there is no dataset."""
    found = [facts.pictures for facts in material.datasets.values()]
    if not found:
        return None
    names, shown = class_labels(material.teacher.classes), found[0]
    return {
        "lines": [(names[index], [_strip(one, place) for one in found]) for place, index in enumerate(shown.classes)],
        "per_class": shown.per_class,
        "all": len(shown.classes) == len(names),
        "tile": max(24, min(44, _WIDTH // (len(found) * shown.per_class))),
    }


def _strip(pictures: Pictures, place: int) -> str | None:
    strip = strip_png(pictures.images[place], pictures.per_class)
    return None if strip is None else data_uri(strip)


def _labelled(facts: DatasetFacts) -> str:
    """How the classes that images are shown under came about."""
    if not facts.steered:
        return "labelled by the teacher"
    which = "intended" if facts.manifest.data_free else "true"
    return f"the teacher names the {which} class of {facts.manifest.teacher_agreement * 100:.1f} %"


def _similarity(inputs: ReportInputs) -> dict[str, Any] | None:
    """The class-similarity matrix; None for a teacher that has none."""
    if inputs.similarity is None:
        return None
    count = len(inputs.similarity)
    return {
        "uri": data_uri(pixels_png(inputs.similarity)),
        "count": count,
        "names": [short_label(name, 14) for name in inputs.teacher.classes] if count <= _NAMED else [],
        "scale": f"{scale_of(inputs.similarity):.2f}",
        "values": inputs.similarity.round(2).tolist() if count <= 12 else [],
    }


def _beliefs(material: Material, rows: Sequence[Scores], styles: Styles) -> dict[str, Any] | None:
    """A panel of transition curves for each student, one for the proxies; None where belief match was not measured.

    `styles` have no dashes, which tell the teacher from the student here.
    """
    proxies = [one.proxy for one in comparisons(material, rows)]
    panels: list[dict[str, Any]] = []
    for title, members in [*_by_student(rows), ("Proxy students, trained online", proxies)]:
        drawn = [row for row in members if any(cell.cell in material.beliefs for cell in row.cells)]
        parts = {
            "data-free students": [row for row in drawn if row.role == "result"],
            "to compare with": [row for row in drawn if row.role != "result"],
        }
        charts = [one for what, part in parts.items() if (one := _transitions(what, part, material, styles))]
        legend = [(row.method, styles.get(row.method, _UNKNOWN)) for row in drawn]
        panels += [{"title": title, "charts": charts, "legend": legend}] if charts else []
    if not panels:
        return None
    measured = [cell.belief for cell in (*material.cells, *material.proxies.values()) if cell.belief is not None]
    return {"panels": panels, "settings": _settings(measured, len(material.teacher.classes))}


def _transitions(what: str, rows: Sequence[Scores], material: Material, styles: Styles) -> Chart | None:
    curves: list[Curve] = []
    for row in rows:
        found = [material.beliefs[cell.cell] for cell in row.cells if cell.cell in material.beliefs]
        style = styles.get(row.method, _UNKNOWN)
        curves.append((f"{row.method}, student", style, mean_points(found, "student")))
        curves.append((f"{row.method}, teacher", f"{style} dashed", mean_points(found, "teacher")))
    return chart(f"{what}: belief in the new class", curves, low=0.0, high=1.0, by="step")


def _settings(measured: Sequence[Belief], classes: int) -> dict[str, str]:
    """How belief match was measured; a range, or several values, where not all were measured alike."""
    return {
        "images": _range([one.images for one in measured]),
        "steps": _range([one.steps for one in measured]),
        "size": " or ".join(f"{size:g}" for size in sorted({one.step_size for one in measured})),
        "stepped": " or ".join(sorted({one.stepped for one in measured})),
        "targets": count_text(classes - 1),
    }


def _range(values: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys([count_text(min(values)), count_text(max(values))]))


def _generators(material: Material, styles: Styles) -> list[dict[str, Any]]:
    """A row of small plots for each dataset that has a history of its generator's training."""
    classes = len(material.teacher.classes)
    rows = [
        {"name": name, "charts": _fit_charts(facts.fit, classes, styles.get(name, _UNKNOWN))}
        for name, facts in material.datasets.items()
        if facts.fit is not None
    ]
    return [row for row in rows if row["charts"]]


def _fit_charts(fit: Series, classes: int, style: str) -> list[Chart]:
    most = math.log(classes)
    confidence = [
        ("teacher", "line teacher", fit.points("confidence")),
        ("proxy", style, fit.points("proxy_confidence")),
    ]
    entropy, apart = fit.points("class_entropy"), fit.points("disagreement", 100)
    level = (most, f"log {classes} = {most:.2f}")
    charts = [
        chart("confidence", confidence, low=0.0, high=1.0, frame=SMALL),
        chart("class entropy, nats", [("", style, entropy)], 0.0, most * _HEADROOM, frame=SMALL, level=level),
        chart("disagreement, %", [("", style, apart)], low=0.0, high=100.0, frame=SMALL),
        *(chart("losses" if len(curves) > 1 else curves[0][0], curves, frame=SMALL) for curves in _losses(fit)),
    ]
    return [one for one in charts if one is not None]


def _losses(fit: Series) -> list[list[Curve]]:
    """The losses, those of similar magnitude together, each in a colour of its own."""
    names = [name for name in fit.columns if name.endswith("loss") and fit.points(name)]
    curves = [
        (short_label(name.replace("_", " "), 24), _coloured(index), fit.points(name))
        for index, name in enumerate(names)
    ]
    groups: list[list[Curve]] = []
    for curve in sorted(curves, key=_magnitude):
        if not groups or _magnitude(curve) > _APART * max(_magnitude(groups[-1][0]), 1e-12):
            groups.append([])
        groups[-1].append(curve)
    return [sorted(group, key=curves.index) for group in groups]


def _magnitude(curve: Curve) -> float:
    return max(abs(y) for _, y in curve[2])


def _training(rows: Sequence[Scores], material: Material, styles: Styles) -> list[dict[str, Any]]:
    """A panel for each student: loss and held-out agreement, a line for each seed."""
    panels: list[dict[str, Any]] = []
    for student, members in _by_student(rows):
        cells = [(row.method, cell) for row in members for cell in row.cells if cell.cell in material.histories]
        losses: list[Curve] = []
        agreements: list[Curve] = []
        for method, cell in cells:
            history, name = material.histories[cell.cell], f"{method}, seed {cell.seed}"
            losses.append((name, styles[method], history.points("loss")))
            agreements.append((name, styles[method], history.points("holdout_agreement", 100)))
        charts = [
            chart("training loss", losses),
            chart("agreement on held-out images, %", agreements, low=0.0, high=100.0),
        ]
        present = [one for one in charts if one is not None]
        if present:
            legend = list(dict.fromkeys((method, styles[method]) for method, _ in cells))
            panels.append({"student": student, "charts": present, "legend": legend})
    return panels


def _classes(material: Material, rows: Sequence[Scores]) -> dict[str, Any] | None:
    """A column for each row of the main table, a line for each class; None where nothing was measured."""
    measured = [row for row in rows if any(cell.per_class for cell in row.cells)]
    if not measured:
        return None
    table = [(name, [row.class_accuracy(name) for row in measured]) for name in class_labels(material.teacher.classes)]
    everything = len(table) <= _NAMED
    if not everything:
        table = sorted(table, key=_mean)[:_HARDEST]
    lines = [(name, short_label(name, 20), values) for name, values in table]
    return {"groups": _by_student(measured), "rows": measured, "lines": lines, "all": everything}


def _mean(line: tuple[str, list[float | None]]) -> float:
    spread = spread_of(line[1])
    return 2.0 if spread is None else spread.mean  # classes that were not measured come last


def _environment(costs: Sequence[Provenance]) -> list[tuple[str, str]]:
    """Each key with the values that occurred; several where the runs were on different machines."""
    found: dict[str, set[str]] = {}
    for key, value in (item for cost in costs for item in cost.environment.items()):
        found.setdefault(key, set()).add(value)
    return [(key, _listed(sorted(values))) for key, values in sorted(found.items())]


def _listed(values: list[str]) -> str:
    return f"{values[0]} to {values[-1]} ({len(values)} values)" if len(values) > 4 else ", ".join(values)
