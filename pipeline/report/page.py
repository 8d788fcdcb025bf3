"""`index.html`: plain values for the template, a function for each section of the page."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ..grid import REAL, Matrix, Row
from ..measure.metrics import Belief, class_labels
from .charts import SMALL, Chart, Curve, chart
from .pictures import data_uri, pixels_png, scale_of, short_label, strip_png
from .read import DatasetFacts, Material, ReportInputs, Series, flat, mean_points
from .rows import (
    ABSENT,
    Comparison,
    Scores,
    best_result,
    bytes_text,
    comparisons,
    count_text,
    duration_text,
    number_text,
    percent_text,
    points_text,
    rate_text,
    spread_of,
)
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
    content = {
        "title": inputs.params.title,
        "opening": opening,
        "figures": _figures(material, rows),
        "missing": material.missing,
        "teacher": _teacher(material),
        "results": _results(rows, styles, material),
        "notes": sorted({cell.note for cell in material.cells if cell.note}),
        "online": _online(material, rows, styles),
        "pictures": _pictures(material),
        "similarity": _similarity(inputs),
        "beliefs": _beliefs(material, rows, _styles(inputs.matrix, rows, "g", _SHADES)),
        "generators": _generators(material, styles),
        "training": _training(rows, material, styles),
        "classes": _classes(material, rows),
        "costs": _costs(material),
        "seeds": rows,
        "datasets": [_dataset(name, facts) for name, facts in material.datasets.items()],
        "matrix": inputs.matrix,
        "environment": _environment(material),
    }
    return _template().render(content).encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


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
        found.append((duration_text(cost.seconds), "", f"to make {count_text(cost.images)} images"))
    return found


def _teacher(material: Material) -> dict[str, Any]:
    facts = material.teacher
    percent = None if facts.accuracy is None else facts.accuracy * 100
    return {"facts": facts, "percent": percent, "accuracy": ABSENT if percent is None else f"{percent:.2f}"}


def _results(rows: Sequence[Scores], styles: Styles, material: Material) -> dict[str, Any]:
    """The main table: a group of lines for each student."""
    return {
        "groups": [
            {
                "student": student,
                "arch": members[0].arch,
                "parameters": count_text(members[0].cells[0].parameters),
                "lines": [_line(row, styles[row.method]) for row in members],
            }
            for student, members in _by_student(rows)
        ],
        "has_accuracy": any(row.of("accuracy") for row in rows),
        "has_top5": any(row.of("top5") for row in rows),
        "has_mte": any(row.of("mte") for row in rows),
        "on_holdout": any(cell.agreement_on == "holdout" for cell in material.cells),
        "samples": sorted({count_text(cell.samples) for cell in material.cells}),
        "chance": 100 / len(material.teacher.classes),
    }


def _line(row: Scores, style: str) -> dict[str, Any]:
    """A row's numbers as text, and its seeds as places on a line from 0 to 100."""
    return {
        "row": row,
        "style": style,
        "accuracy": percent_text(row.of("accuracy")),
        "top5": percent_text(row.of("top5")),
        "agreement": percent_text(row.of("agreement")),
        "kl": number_text(row.of("kl_to_teacher")),
        "mte": number_text(row.of("mte")),
        "dots": [round(value * 100, 2) for value in row.main.values] if row.main else [],
    }


def _online(material: Material, rows: Sequence[Scores], styles: Styles) -> dict[str, Any] | None:
    """Proxies beside the students that got the same images afterwards; None where there is no proxy."""
    found = comparisons(material, rows)
    if not found:
        return None
    return {
        "groups": [_compared(one, material.datasets.get(one.proxy.row.dataset), styles) for one in found],
        "has_accuracy": any(one.proxy.of("accuracy") for one in found),
        "has_mte": any(row.of("mte") for one in found for row in (one.proxy, *one.offline)),
        "others": any(not one.alike(row) for one in found for row in one.offline),
    }


def _compared(one: Comparison, facts: DatasetFacts | None, styles: Styles) -> dict[str, Any]:
    style, images = styles.get(one.proxy.method, _UNKNOWN), ""
    if facts is not None:
        images = f"{count_text(facts.images)} images are stored"
        images += "" if facts.learned is None else f", the proxy learned from {count_text(facts.learned)}"
    lines = [_line(one.proxy, style) | {"title": one.proxy.arch, "kind": "online", "apart": ""}]
    for row in one.offline:
        kind = "offline" if one.alike(row) else "offline, another architecture"
        apart = points_text(one.difference(row))
        lines.append(_line(row, style) | {"title": row.student, "kind": kind, "apart": apart})
    return {"method": one.proxy.method, "images": images, "lines": lines}


def _pictures(material: Material) -> dict[str, Any] | None:
    """A column for each dataset, a line for each class; None where there is no dataset."""
    datasets = list(material.datasets.values())
    if not datasets:
        return None
    names, shown = class_labels(material.teacher.classes), datasets[0].pictures
    lines: list[dict[str, Any]] = []
    for place, index in enumerate(shown.classes):
        strips = [strip_png(facts.pictures.images[place], shown.per_class) for facts in datasets]
        uris = [None if strip is None else data_uri(strip) for strip in strips]
        lines.append({"name": names[index], "label": short_label(names[index]), "strips": uris})
    return {
        "columns": [
            {
                "name": name,
                "data_free": facts.manifest.data_free,
                "images": count_text(facts.images),
                "labelled": _labelled(facts),
            }
            for name, facts in material.datasets.items()
        ],
        "lines": lines,
        "per_class": shown.per_class,
        "all": len(shown.classes) == len(names),
        "tile": max(24, min(44, _WIDTH // (len(datasets) * shown.per_class))),
    }


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


def _costs(material: Material) -> dict[str, Any]:
    """Time, rate and size of each dataset and of each student's training."""
    synthesis: list[dict[str, str]] = []
    for name, cost in material.synthesis.items():
        size = bytes_text(material.datasets[name].bytes) if name in material.datasets else ABSENT
        device = cost.environment.get("device", ABSENT)
        synthesis.append({"name": name, "bytes": size, "device": device, **_cost(cost.images, cost.seconds)})
    training: list[dict[str, str]] = []
    for cell in material.cells:
        cost = material.training.get(cell.cell)
        if cost is not None:
            what = {"student": cell.student, "method": cell.method, "role": cell.role, "seed": str(cell.seed)}
            training.append({**what, **_cost(cost.images, cost.seconds)})
    return {"synthesis": synthesis, "training": training}


def _cost(images: int, seconds: float) -> dict[str, str]:
    return {"images": count_text(images), "time": duration_text(seconds), "rate": rate_text(images, seconds)}


def _environment(material: Material) -> list[tuple[str, str]]:
    """Each key with the values that occurred; several where the runs were on different machines."""
    found: dict[str, set[str]] = {}
    for cost in [*material.synthesis.values(), *material.training.values()]:
        for key, value in cost.environment.items():
            found.setdefault(key, set()).add(value)
    return [(key, _listed(sorted(values))) for key, values in sorted(found.items())]


def _listed(values: list[str]) -> str:
    return f"{values[0]} to {values[-1]} ({len(values)} values)" if len(values) > 4 else ", ".join(values)


def _dataset(name: str, facts: DatasetFacts) -> dict[str, Any]:
    """How it was made, and the files that are kept with it."""
    manifest = facts.manifest
    kept = [
        {
            "name": entry.name,
            "kind": _KINDS[entry.kind],
            "facts": ", ".join(f"{key} {value}" for key, value in flat(entry.facts).items()),
            "bytes": bytes_text(entry.bytes),
        }
        for entry in manifest.attachments
    ]
    params, shards = flat(manifest.method_params), len(manifest.entries("train"))
    return {"name": name, "params": params, "shards": shards, "sha256": facts.sha256, "kept": kept}
