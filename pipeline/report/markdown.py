"""`report.md`: the page's numbers as text, for a pull request or a terminal."""

import re
from collections.abc import Iterable, Sequence

from pipeline.metrics import class_labels
from pipeline.report.headline import Headline
from pipeline.report.material import Material
from pipeline.report.numbers import (
    ABSENT,
    Spread,
    count_text,
    duration_text,
    mte_text,
    nats_text,
    percent_text,
    points_text,
    rate_text,
    spread_of,
)
from pipeline.report.online import comparisons
from pipeline.report.rows import Row

__all__ = ["markdown"]

_KIND = {"result": "", "control": "control", "real": "not data-free"}
_MTE = " MTE, the mean transition error, is how far student and teacher are apart on the way between classes."
_ONLINE = (
    "Proxy students trained while the images were made, on new ones all along; offline students trained afterwards, "
    "from the stored images alone. Differences are offline minus online."
)
_MARKUP = re.compile(r"[\\`*\[\]|#~]|\b_|_\b|(?<!\w)_")  # an underscore inside a word is plain text


def markdown(title: str, material: Material, rows: tuple[Row, ...], opening: Headline) -> bytes:
    """The report as GitHub-flavoured Markdown."""
    parts = [
        f"# {_escaped(title)}",
        f"**{_escaped(opening.lead)}** {_escaped(' '.join(opening.body))}",
        "## Results",
        "Accuracy and agreement in per cent, KL(teacher || student) in nats; "
        "mean ± sample standard deviation over n seeds, last epoch." + (_MTE if any(row.mte for row in rows) else ""),
        _results(material, rows),
        *_section("Online and offline", _online(material, rows)),
        *_section("Missing", "\n".join(f"- {_escaped(item)}" for item in material.missing)),
        *_section("Every seed", _seeds(rows)),
        *_section("Accuracy of each class", _classes(material, rows)),
        *_section("Cost", _cost(material)),
        "## Pictures",
        "\n\n".join(f"![{name}](pictures/{name}.png)" for name in material.datasets),
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _results(material: Material, rows: Sequence[Row]) -> str:
    walked = any(row.mte for row in rows)
    lines: list[tuple[object, ...]] = [
        (row.student, row.method, _KIND[row.kind], *_measured(row, walked), len(row.cells)) for row in rows
    ]
    if material.teacher.accuracy is not None:
        accuracy = _numbers(material.teacher.accuracy)
        gaps = [ABSENT] * (4 if walked else 3)
        lines.append(("teacher", material.teacher.arch, _KIND["real"], *accuracy, *gaps))
    return _table(("student", "trained on", "", *_heads(walked), "n"), lines)


def _online(material: Material, rows: Sequence[Row]) -> str:
    found = comparisons(material, rows)
    walked = any(row.mte for one in found for row in (one.proxy, *one.offline))
    lines: list[tuple[object, ...]] = []
    for one in found:
        lines.append((one.method, one.proxy.cells[0].arch, "online", ABSENT, *_measured(one.proxy, walked), 1))
        lines += [
            (
                one.method,
                row.student,
                "offline" if one.alike(row) else "offline, another architecture",
                points_text(one.difference(row)),
                *_measured(row, walked),
                len(row.cells),
            )
            for row in one.offline
        ]
    head = ("method", "student", "trained", "to the proxy, points", *_heads(walked), "n")
    return f"{_ONLINE}\n\n{_table(head, lines)}" if lines else ""


def _heads(walked: bool) -> list[str]:
    return ["accuracy", "agreement", "KL", *(["MTE"] if walked else [])]


def _measured(row: Row, walked: bool) -> list[str]:
    found = [percent_text(row.accuracy), percent_text(row.agreement), nats_text(row.kl)]
    return [*found, mte_text(row.mte)] if walked else found


def _seeds(rows: Iterable[Row]) -> str:
    lines = [
        (
            row.student,
            row.method,
            _KIND[row.kind],
            cell.seed,
            *_numbers(cell.accuracy, cell.agreement),
            nats_text(spread_of([cell.kl_to_teacher])),
        )
        for row in rows
        for cell in row.cells
    ]
    return _table(("student", "trained on", "", "seed", "accuracy", "agreement", "KL"), lines)


def _classes(material: Material, rows: Sequence[Row]) -> str:
    measured = [row for row in rows if any(cell.per_class for cell in row.cells)]
    if not measured:
        return ""
    head = ("class", *(_named(row) for row in measured))
    names = class_labels(material.teacher.classes)
    return _table(head, [(name, *_numbers(*(row.class_accuracy(name) for row in measured))) for name in names])


def _named(row: Row) -> str:
    name = f"{row.student}, {row.method}"
    return f"{name} ({_KIND[row.kind]})" if _KIND[row.kind] else name


def _cost(material: Material) -> str:
    lines = [
        (name, count_text(cost.images), duration_text(cost.seconds), rate_text(cost.images, cost.seconds))
        for name, cost in material.synthesis.items()
    ]
    return _table(("dataset", "images", "time", "images/s"), lines) if lines else ""


def _numbers(*shares: float | None) -> list[str]:
    return [percent_text(None if share is None else Spread((share,))) for share in shares]


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
