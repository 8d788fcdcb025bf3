"""The table of proxies beside the students that were trained from the same images afterwards."""

from collections.abc import Sequence
from typing import Any

from pipeline.report.dataset import DatasetFacts
from pipeline.report.material import Material
from pipeline.report.numbers import count_text, points_text
from pipeline.report.online import Comparison, comparisons
from pipeline.report.rows import Row
from pipeline.report.view.results import line_of
from pipeline.report.view.styles import UNKNOWN, Styles

__all__ = ["online"]


def online(material: Material, rows: Sequence[Row], styles: Styles) -> dict[str, Any] | None:
    """A group of lines for each proxy; None where there is none."""
    found = comparisons(material, rows)
    if not found:
        return None
    proxies = [one.proxy for one in found]
    compared = [*proxies, *(row for one in found for row in one.offline)]
    return {
        "groups": [_group(one, material.datasets.get(one.method), styles.get(one.method, UNKNOWN)) for one in found],
        "has_accuracy": any(row.accuracy for row in proxies),
        "has_mte": any(row.mte for row in compared),
        "others": any(not one.alike(row) for one in found for row in one.offline),
    }


def _group(one: Comparison, facts: DatasetFacts | None, style: str) -> dict[str, Any]:
    proxy = line_of(one.proxy, style) | {"title": one.proxy.cells[0].arch, "kind": "online", "apart": ""}
    offline = [
        line_of(row, style)
        | {
            "title": row.student,
            "kind": "offline" if one.alike(row) else "offline, another architecture",
            "apart": points_text(one.difference(row)),
        }
        for row in one.offline
    ]
    return {"method": one.method, "images": _images(facts), "lines": [proxy, *offline]}


def _images(facts: DatasetFacts | None) -> str:
    """How many images each side learned from, as far as that is known."""
    if facts is None:
        return ""
    stored = f"{count_text(facts.images)} images are stored"
    return stored if facts.learned is None else f"{stored}, the proxy learned from {count_text(facts.learned)}"
