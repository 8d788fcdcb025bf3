"""The report in words: the sentences at its top, `report.md`, and the numbers for other programs."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..core.files import csv_bytes
from ..grid import CONTROL, REAL, ROLES, Role, Row
from ..measure.metrics import Metrics, class_labels
from .read import Material
from .rows import (
    ABSENT,
    Scores,
    Spread,
    best_result,
    comparisons,
    count_text,
    duration_text,
    number_text,
    percent_text,
    points_text,
    rate_text,
    spread_of,
)

__all__ = ["Headline", "headline", "markdown", "results_csv", "summary"]

_NO_ACCURACY = (
    "There is no real test data, so no accuracy can be given; and each dataset has its own held-out images, "
    "so agreement on them does not rank the datasets."
)
_TAG: dict[Role, str] = dict(zip(ROLES, ("", "control", "not data-free"), strict=True))
_MTE = " MTE, the mean transition error, is how far student and teacher are apart on the way between classes."
_ONLINE = (
    "Proxy students trained while the images were made, on new ones all along; offline students trained afterwards, "
    "from the stored images alone. Differences are offline minus online."
)
_MARKUP = re.compile(r"[\\`*\[\]|#~]|\b_|_\b|(?<!\w)_")  # an underscore inside a word is plain text
_NUMBERS = {"accuracy": "accuracy", "top5": "top5", "agreement": "agreement", "kl": "kl_to_teacher", "mte": "mte"}
_COLUMNS = ("cell", "method", "student", "seed", "data_free", "accuracy", "agreement", "kl_to_teacher", "mte")


class Headline(NamedTuple):
    """What stands at the top of the report."""

    lead: str
    body: tuple[str, ...]


def headline(material: Material, rows: Sequence[Scores]) -> Headline:
    """What the teacher is, what the best data-free student reached, and what to hold it against."""
    best, teacher = best_result(rows), _teacher_sentence(material)
    if best is None:
        return Headline("There is no data-free result yet.", (teacher,))
    accuracy = best.of("accuracy")
    if accuracy is None:
        lead = (
            f"{best.student}, trained on {best.method} without a real image, names the teacher's class on "
            f"{_share(best.of('agreement'))} of held-out synthetic images."
        )
        return Headline(lead, (_NO_ACCURACY, teacher, _choice_sentence(best, rows)))
    facts = material.datasets.get(best.row.dataset)
    source = f"From {count_text(facts.images)} synthetic images and no real one" if facts else "Without a real image"
    lead = f"{source}, {best.student} learned to classify {_share(accuracy)} of the real test images correctly."
    body = [teacher]
    if material.teacher.accuracy is not None:
        points = (accuracy.mean - material.teacher.accuracy) * 100
        where = "above" if points > 0 else "below"
        body.append(f"The student, trained on {best.method}, is {abs(points):.2f} points {where} its teacher.")
    return Headline(lead, (*body, *_compared(best, rows), _choice_sentence(best, rows)))


def markdown(title: str, material: Material, rows: Sequence[Scores], opening: Headline) -> bytes:
    """The report as GitHub-flavoured Markdown."""
    walked = any(row.of("mte") for row in rows)
    parts = [
        f"# {_escaped(title)}",
        f"**{_escaped(opening.lead)}** {_escaped(' '.join(opening.body))}",
        "## Results",
        "Accuracy and agreement in per cent, KL(teacher || student) in nats; "
        "mean ± sample standard deviation over n seeds, last epoch." + (_MTE if walked else ""),
        _results(material, rows, walked),
        *_section("Online and offline", _online(material, rows)),
        *_section("Missing", "\n".join(f"- {_escaped(item)}" for item in material.missing)),
        *_section("Every seed", _seeds(rows)),
        *_section("Accuracy of each class", _classes(material, rows)),
        *_section("Cost", _cost(material)),
        "## Pictures",
        "\n\n".join(f"![{name}](pictures/{name}.png)" for name in material.datasets),
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def summary(material: Material, rows: Sequence[Scores]) -> dict[str, Any]:
    """`summary.json`, for `dvc metrics`: numbers by method and student, the proxies among them, and the teacher's.

    Absent ones are left out: `dvc metrics` shows gaps.
    """
    table: dict[str, Any] = {
        "teacher": _present({"accuracy": material.teacher.accuracy}),
        "missing": len(material.missing),
    }
    for row in rows:
        table.setdefault(row.method, {})[row.student] = _numbers(row)
    for one in comparisons(material, rows):
        apart = {row.student: one.difference(row) for row in one.offline}
        numbers = _numbers(one.proxy) | {"offline_minus_online": _present(apart)}
        table.setdefault(one.proxy.method, {})[one.proxy.student] = numbers
    return table


def results_csv(cells: Iterable[Metrics]) -> bytes:
    """`results.csv`, for `dvc plots`: one line per cell; an empty field where there is no number."""
    return csv_bytes([{name: getattr(cell, name) for name in _COLUMNS} for cell in cells], _COLUMNS)


def _teacher_sentence(material: Material) -> str:
    teacher = material.teacher
    what = f"The teacher is {teacher.arch}: {len(teacher.classes)} classes, {teacher.size} x {teacher.size} pixels"
    if teacher.accuracy is None:
        return f"{what}; its accuracy is not known here."
    return f"{what}, {teacher.accuracy * 100:.2f}\u00a0% accuracy on the same test images."


def _compared(best: Scores, rows: Sequence[Scores]) -> Iterator[str]:
    """What the same student reaches otherwise."""
    wording = {
        Row(REAL, "true"): "Trained on the real labels instead, it reaches",
        Row(REAL): "Distilled on the real images, it reaches",
        Row(CONTROL): "Distilled on noise, the control, it reaches",
        Row(best.row.dataset, "few_shot"): (
            "Finished on a few real images of each class, no longer data-free, it reaches"
        ),
    }
    accuracies = {row.row: row.of("accuracy") for row in rows if row.student == best.student and row.role != "result"}
    return (f"{words} {_share(accuracies[row])}." for row, words in wording.items() if accuracies.get(row))


def _choice_sentence(best: Scores, rows: Sequence[Scores]) -> str:
    results, seeds = sum(row.role == "result" for row in rows), len(best.cells)
    over = f"mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread"
    chosen = f"the best of {results} data-free combinations below" if results > 1 else "the only data-free combination"
    return f"Figures are of the last epoch, {over}; the student named is {chosen}."


def _share(spread: Spread | None) -> str:
    return f"{percent_text(spread)} %".replace(" ", "\u00a0")


def _results(material: Material, rows: Sequence[Scores], walked: bool) -> str:
    lines: list[tuple[object, ...]] = [
        (row.student, row.method, _TAG[row.role], *_measured(row, walked), len(row.cells)) for row in rows
    ]
    if material.teacher.accuracy is not None:
        accuracy, gaps = _percent(material.teacher.accuracy), [ABSENT] * (4 if walked else 3)
        lines.append(("teacher", material.teacher.arch, _TAG["reference"], *accuracy, *gaps))
    return _table(("student", "trained on", "", *_heads(walked), "n"), lines)


def _online(material: Material, rows: Sequence[Scores]) -> str:
    found = comparisons(material, rows)
    walked = any(row.of("mte") for one in found for row in (one.proxy, *one.offline))
    lines: list[tuple[object, ...]] = []
    for one in found:
        method = one.proxy.method
        lines.append((method, one.proxy.arch, "online", ABSENT, *_measured(one.proxy, walked), 1))
        for row in one.offline:
            trained = "offline" if one.alike(row) else "offline, another architecture"
            apart = points_text(one.difference(row))
            lines.append((method, row.student, trained, apart, *_measured(row, walked), len(row.cells)))
    head = ("method", "student", "trained", "to the proxy, points", *_heads(walked), "n")
    return f"{_ONLINE}\n\n{_table(head, lines)}" if lines else ""


def _heads(walked: bool) -> list[str]:
    return ["accuracy", "agreement", "KL", *(["MTE"] if walked else [])]


def _measured(row: Scores, walked: bool) -> list[str]:
    found = [percent_text(row.of("accuracy")), percent_text(row.of("agreement")), number_text(row.of("kl_to_teacher"))]
    return [*found, number_text(row.of("mte"))] if walked else found


def _seeds(rows: Iterable[Scores]) -> str:
    lines = [
        (row.student, row.method, _TAG[row.role], cell.seed, *_measured(Scores(row.student, row.row, (cell,)), False))
        for row in rows
        for cell in row.cells
    ]
    return _table(("student", "trained on", "", "seed", *_heads(False)), lines)


def _classes(material: Material, rows: Sequence[Scores]) -> str:
    measured = [row for row in rows if any(cell.per_class for cell in row.cells)]
    if not measured:
        return ""
    tags = [f" ({_TAG[row.role]})" if _TAG[row.role] else "" for row in measured]
    head = ("class", *(f"{row.student}, {row.method}{tag}" for row, tag in zip(measured, tags, strict=True)))
    names = class_labels(material.teacher.classes)
    return _table(head, [(name, *_percent(*(row.class_accuracy(name) for row in measured))) for name in names])


def _cost(material: Material) -> str:
    lines = [
        (name, count_text(cost.images), duration_text(cost.seconds), rate_text(cost.images, cost.seconds))
        for name, cost in material.synthesis.items()
    ]
    return _table(("dataset", "images", "time", "images/s"), lines) if lines else ""


def _percent(*shares: float | None) -> list[str]:
    return [percent_text(spread_of([share])) for share in shares]


def _section(heading: str, content: str) -> tuple[str, ...]:
    return (f"## {heading}", content) if content else ()


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    escaped = [[_escaped(str(value)) for value in line] for line in (head, *lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (escaped[0], ["---"] * len(head), *escaped[1:]))


def _escaped(text: str) -> str:
    """Text that stays text: one line, no markup, no table break, no HTML."""
    line = " ".join(text.splitlines())
    safe = _MARKUP.sub(lambda match: f"\\{match[0]}", line)
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _numbers(row: Scores) -> dict[str, Any]:
    numbers: dict[str, float | None] = {"n": len(row.cells)}
    for name, field in _NUMBERS.items():
        spread = row.of(field)
        if spread is not None:
            numbers |= {f"{name}_mean": spread.mean, f"{name}_std": spread.std}
    return _present(numbers)


def _present(numbers: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value is not None}
