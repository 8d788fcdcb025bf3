"""What datasets and students cost, and where they were made."""

from typing import Any

from pipeline.report.material import Material
from pipeline.report.numbers import ABSENT, bytes_text, count_text, duration_text, rate_text

__all__ = ["costs", "environment"]


def costs(material: Material) -> dict[str, Any]:
    """Time, rate and size of each dataset and of each student's training."""
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
            kind = "" if cell.data_free else "real"
            training.append(
                {"student": cell.student, "method": cell.method, "kind": kind, "seed": str(cell.seed), **shown}
            )
    return {"synthesis": synthesis, "training": training}


def environment(material: Material) -> list[tuple[str, str]]:
    """Each key with the values that occurred; several where the runs were on different machines."""
    found: dict[str, set[str]] = {}
    for cost in [*material.synthesis.values(), *material.training.values()]:
        for key, value in cost.environment.items():
            found.setdefault(key, set()).add(value)
    return [(key, _listed(values)) for key, values in sorted(found.items())]


def _listed(values: set[str]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]} to {ordered[-1]} ({len(ordered)} values)" if len(ordered) > 4 else ", ".join(ordered)
