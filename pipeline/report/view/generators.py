"""How the training of each dataset's generator went: whether what it makes is varied, and who believes what of it."""

import math
from typing import Any

from pipeline.report.charts import SMALL, Chart, Curve, chart
from pipeline.report.drawing import short_label
from pipeline.report.material import Material
from pipeline.report.series import Series
from pipeline.report.view.styles import UNKNOWN, Styles, coloured

__all__ = ["generators"]

_LOSS = "loss"  # ends the names of the columns that are losses
_APART = 10.0  # largest over smallest magnitude of losses that are legible in one plot
_HEADROOM = 1.18  # of the entropy's axis, for the name of the largest value there can be


def generators(material: Material, styles: Styles) -> list[dict[str, Any]]:
    """A row of small plots for each dataset that has a history."""
    classes = len(material.teacher.classes)
    rows = [
        {"name": name, "charts": _charts(facts.fit, classes, styles.get(name, UNKNOWN))}
        for name, facts in material.datasets.items()
        if facts.fit is not None
    ]
    return [row for row in rows if row["charts"]]


def _charts(fit: Series, classes: int, style: str) -> list[Chart]:
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
    """The losses, those of like magnitude together, each in a colour of its own."""
    names = [name for name in fit.columns if name.endswith(_LOSS) and fit.points(name)]
    curves = [
        (short_label(name.replace("_", " "), 24), coloured(index), fit.points(name)) for index, name in enumerate(names)
    ]
    groups: list[list[Curve]] = []
    for curve in sorted(curves, key=_magnitude):
        if not groups or _magnitude(curve) > _APART * max(_magnitude(groups[-1][0]), 1e-12):
            groups.append([])
        groups[-1].append(curve)
    return [sorted(group, key=curves.index) for group in groups]


def _magnitude(curve: Curve) -> float:
    return max(abs(y) for _, y in curve[2])
