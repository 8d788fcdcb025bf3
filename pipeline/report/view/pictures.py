"""Pictures of every dataset side by side, and the matrix of classes that look alike."""

from typing import Any

from pipeline.metrics import class_labels
from pipeline.report.drawing import data_uri, short_label
from pipeline.report.inputs import ReportInputs
from pipeline.report.material import Material
from pipeline.report.numbers import count_text
from pipeline.report.pictures import strip_png
from pipeline.report.similarity import pixels_png, scale_of

__all__ = ["pictures", "similarity"]

_NAMED = 40  # classes; more names on the matrix would not be legible
_WIDTH = 800  # pixels, about, that pictures may fill side by side


def pictures(material: Material) -> dict[str, Any] | None:
    """A column for each dataset, a line for each class; None where there is no dataset."""
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


def similarity(inputs: ReportInputs, material: Material) -> dict[str, Any] | None:
    """The class-similarity matrix; None for a teacher that has none."""
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
