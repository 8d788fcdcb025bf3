"""What the page's template is given: plain values, ready to be set."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipeline.metrics import class_labels
from pipeline.report.charts import HEIGHT, WIDTH, Chart, Points, chart
from pipeline.report.drawing import data_uri, short_label
from pipeline.report.headline import Headline
from pipeline.report.inputs import Matrix, ReportInputs, dataset_of
from pipeline.report.material import Material
from pipeline.report.numbers import (
    ABSENT,
    bytes_text,
    count_text,
    duration_text,
    nats_text,
    percent_text,
    rate_text,
    spread_of,
)
from pipeline.report.pictures import strip_png
from pipeline.report.rows import Row, best_result
from pipeline.report.similarity import pixels_png, scale_of

__all__ = ["view"]

_PALETTE = 6  # colours in the style sheet
_NAMED = 40  # classes; more names on the matrix would not be legible
_WIDTH = 800  # pixels, about, that pictures may fill side by side
_HARDEST = 20  # classes shown where there are more than _NAMED


def view(inputs: ReportInputs, material: Material, rows: tuple[Row, ...], opening: Headline) -> dict[str, Any]:
    """Everything the template sets, by section."""
    styles = _styles(inputs.matrix, rows)
    return {
        "title": inputs.params.title,
        "opening": opening,
        "figures": _figures(material, rows),
        "missing": material.missing,
        "teacher": _teacher(material),
        "results": _results(rows, styles, material),
        "notes": sorted({cell.note for cell in material.cells if cell.note}),
        "pictures": _pictures(material),
        "similarity": _similarity(inputs, material),
        "curves": _curves(rows, material, styles),
        "chart_size": (WIDTH, HEIGHT),
        "classes": _classes(material, rows),
        "costs": _costs(material),
        "seeds": rows,
        "datasets": material.datasets,
        "matrix": inputs.matrix,
        "environment": _environment(material),
    }


def _styles(matrix: Matrix, rows: Sequence[Row]) -> dict[str, str]:
    """A colour for each data-free method, a grey dash pattern for each row that is only there to compare with."""
    results = [method for method in matrix.rows if any(row.method == method and row.kind == "result" for row in rows)]
    others = [method for method in matrix.rows if method not in results]
    colours = {method: f"line s{index % _PALETTE}" for index, method in enumerate(results)}
    return colours | {method: f"line other d{index % 3}" for index, method in enumerate(others)}


def _figures(material: Material, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The few numbers to remember: (value, unit, what it is)."""
    figures: list[tuple[str, str, str]] = []
    if material.teacher.accuracy is not None:
        figures.append((f"{material.teacher.accuracy * 100:.2f}", "%", f"the teacher, {material.teacher.arch}"))
    best = best_result(rows)
    if best is None:
        return figures
    what = "accuracy" if best.accuracy else "agreement with the teacher"
    figures.append((percent_text(best.score), "%", f"{what}, {best.student} from {best.method}"))
    real = next((row for row in rows if row.student == best.student and row.method == "real_labels"), None)
    if real is not None and real.accuracy is not None:
        figures.append((percent_text(real.accuracy), "%", f"{best.student} on real labels"))
    cost = material.synthesis.get(dataset_of(best.method))
    if cost is not None:
        figures.append((duration_text(cost.seconds), "", f"to make {count_text(cost.images)} images"))
    return figures


def _teacher(material: Material) -> dict[str, Any]:
    teacher = material.teacher
    percent = None if teacher.accuracy is None else teacher.accuracy * 100
    return {"facts": teacher, "percent": percent, "accuracy": ABSENT if percent is None else f"{percent:.2f}"}


def _results(rows: Sequence[Row], styles: dict[str, str], material: Material) -> dict[str, Any]:
    groups: list[dict[str, Any]] = []
    for student, members in groupby(rows, key=lambda row: row.student):
        lines = [_result(row, styles) for row in members]
        first = lines[0]["row"].cells[0]
        groups.append(
            {"student": student, "arch": first.arch, "parameters": count_text(first.parameters), "lines": lines}
        )
    places = sorted({cell.agreement_on for cell in material.cells if cell.agreement_on})
    return {
        "groups": groups,
        "has_accuracy": any(row.accuracy for row in rows),
        "has_top5": any(row.top5 for row in rows),
        "on_holdout": "holdout" in places,
        "samples": sorted({count_text(cell.samples) for cell in material.cells}),
        "chance": 100 / len(material.teacher.classes),
    }


def _result(row: Row, styles: dict[str, str]) -> dict[str, Any]:
    score = row.score
    return {
        "row": row,
        "style": styles[row.method],
        "accuracy": percent_text(row.accuracy),
        "top5": percent_text(row.top5),
        "agreement": percent_text(row.agreement),
        "kl": nats_text(row.kl),
        "dots": [round(value * 100, 2) for value in score.values] if score else [],
        "mean": round(score.mean * 100, 2) if score else None,
    }


def _pictures(material: Material) -> dict[str, Any] | None:
    datasets = list(material.datasets.items())
    if not datasets:
        return None
    names, shown = class_labels(material.teacher.classes), datasets[0][1].pictures
    lines: list[dict[str, Any]] = []
    for place, index in enumerate(shown.classes):
        strips = [strip_png(facts.pictures.images[place], shown.per_class) for _, facts in datasets]
        lines.append(
            {
                "name": names[index],
                "label": short_label(names[index]),
                "strips": [None if strip is None else data_uri(strip) for strip in strips],
            }
        )
    columns = [
        {
            "name": name,
            "data_free": facts.data_free,
            "images": count_text(facts.images),
            "agreement": f"{facts.teacher_agreement * 100:.1f} %",
        }
        for name, facts in datasets
    ]
    return {
        "columns": columns,
        "lines": lines,
        "per_class": shown.per_class,
        "all": len(shown.classes) == len(names),
        "tile": max(24, min(44, _WIDTH // (len(columns) * shown.per_class))),
    }


def _similarity(inputs: ReportInputs, material: Material) -> dict[str, Any] | None:
    if inputs.similarity is None:
        return None
    names, count = material.teacher.classes, len(inputs.similarity)
    return {
        "uri": data_uri(pixels_png(inputs.similarity)),
        "count": count,
        "names": [short_label(name, 14) for name in names] if count <= _NAMED else [],
        "scale": f"{scale_of(inputs.similarity):.2f}",
        "values": inputs.similarity.round(2).tolist() if count <= 12 else [],
    }


def _curves(rows: Sequence[Row], material: Material, styles: dict[str, str]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    for student, members in groupby(rows, key=lambda row: row.student):
        cells = [(row.method, cell) for row in members for cell in row.cells if cell.cell in material.histories]
        losses: list[tuple[str, str, Points]] = []
        agreements: list[tuple[str, str, Points]] = []
        for method, cell in cells:
            history = material.histories[cell.cell]
            name = f"{method}, seed {cell.seed}"
            losses.append((name, styles[method], [(row.epoch, row.loss) for row in history if row.loss is not None]))
            shares = [(row.epoch, row.holdout_agreement * 100) for row in history if row.holdout_agreement is not None]
            agreements.append((name, styles[method], shares))
        charts = [
            chart("training loss", losses),
            chart("agreement on held-out images, %", agreements, low=0.0, high=100.0),
        ]
        present: list[Chart] = [one for one in charts if one is not None]
        if present:
            legend = list(dict.fromkeys((method, styles[method]) for method, _ in cells))
            panels.append({"student": student, "charts": present, "legend": legend})
    return panels


def _classes(material: Material, rows: Sequence[Row]) -> dict[str, Any] | None:
    measured = [row for row in rows if any(cell.per_class for cell in row.cells)]
    if not measured:
        return None
    table = [(name, [row.class_accuracy(name) for row in measured]) for name in class_labels(material.teacher.classes)]
    everything = len(table) <= _NAMED
    if not everything:
        table = sorted(table, key=_lowest)[:_HARDEST]
    groups = [(student, list(members)) for student, members in groupby(measured, key=lambda row: row.student)]
    lines = [(name, short_label(name, 20), values) for name, values in table]
    return {"groups": groups, "rows": measured, "lines": lines, "all": everything}


def _lowest(line: tuple[str, list[float | None]]) -> float:
    spread = spread_of(line[1])
    return 2.0 if spread is None else spread.mean


def _costs(material: Material) -> dict[str, Any]:
    synthesis = [
        {
            "name": name,
            "facts": material.datasets.get(name),
            "bytes": bytes_text(material.datasets[name].bytes) if name in material.datasets else ABSENT,
            "images": count_text(cost.images),
            "time": duration_text(cost.seconds),
            "rate": rate_text(cost.images, cost.seconds),
            "device": cost.environment.get("device", ABSENT),
        }
        for name, cost in material.synthesis.items()
    ]
    training: list[dict[str, str]] = []
    for cell in material.cells:
        cost = material.training.get(cell.cell)
        if cost is not None:
            shown = {
                "time": duration_text(cost.seconds),
                "rate": rate_text(cost.images, cost.seconds),
                "images": count_text(cost.images),
            }
            training.append({"student": cell.student, "method": cell.method, "seed": str(cell.seed), **shown})
    return {"synthesis": synthesis, "training": training}


def _environment(material: Material) -> list[tuple[str, str]]:
    """Each key with the values that occurred; several where the runs were on different machines."""
    found: dict[str, set[str]] = {}
    for cost in [*material.synthesis.values(), *material.training.values()]:
        for key, value in cost.environment.items():
            found.setdefault(key, set()).add(value)
    return [(key, _listed(values)) for key, values in sorted(found.items())]


def _listed(values: set[str]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]} to {ordered[-1]} ({len(ordered)} values)" if len(ordered) > 4 else ", ".join(ordered)
