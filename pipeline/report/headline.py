"""The run in a few true sentences."""

from dataclasses import dataclass

from pipeline.report.inputs import FEW_SHOT
from pipeline.report.material import Material
from pipeline.report.numbers import Spread, count_text, percent_text
from pipeline.report.rows import Row, best_result

__all__ = ["Headline", "headline"]

_NO_ACCURACY = (
    "There is no real test data, so no accuracy can be given; and each dataset has its own held-out images, "
    "so agreement on them does not rank the datasets."
)


@dataclass(frozen=True)
class Headline:
    """What stands at the top of the report."""

    lead: str
    body: tuple[str, ...]


def headline(material: Material, rows: tuple[Row, ...]) -> Headline:
    """What the teacher is, what the best data-free student reached, and what to hold it against."""
    best = best_result(rows)
    if best is None:
        return Headline("There is no data-free result yet.", (_teacher_sentence(material),))
    if best.accuracy is None:
        return Headline(
            _agreement_lead(best), (_NO_ACCURACY, _teacher_sentence(material), _choice_sentence(best, rows))
        )
    body = (
        _teacher_sentence(material),
        _gap_sentence(material, best),
        *_comparisons(best, rows),
        _choice_sentence(best, rows),
    )
    return Headline(_accuracy_lead(material, best), tuple(sentence for sentence in body if sentence))


def _accuracy_lead(material: Material, best: Row) -> str:
    facts = material.datasets.get(best.method)
    source = f"From {count_text(facts.images)} synthetic images and no real one" if facts else "Without a real image"
    return f"{source}, {best.student} learned to classify {_share(best.accuracy)} of the real test images correctly."


def _agreement_lead(best: Row) -> str:
    return (
        f"{best.student}, trained on {best.method} without a real image, names the teacher's class on "
        f"{_share(best.agreement)} of held-out synthetic images."
    )


def _teacher_sentence(material: Material) -> str:
    teacher = material.teacher
    what = f"The teacher is {teacher.arch}: {len(teacher.classes)} classes, {teacher.size} x {teacher.size} pixels"
    if teacher.accuracy is None:
        return f"{what}; its accuracy is not known here."
    return f"{what}, {_percent(teacher.accuracy)} accuracy on the same test images."


def _gap_sentence(material: Material, best: Row) -> str:
    teacher, reached = material.teacher.accuracy, best.accuracy
    if teacher is None or reached is None:
        return ""
    return f"The student, trained on {best.method}, is {_difference(reached.mean, teacher)} its teacher."


def _comparisons(best: Row, rows: tuple[Row, ...]) -> list[str]:
    wording = {
        "real_labels": "Trained on the real labels instead, it reaches",
        "real": "Distilled on the real images, it reaches",
        "noise": "Distilled on noise, the control, it reaches",
        f"{best.method}{FEW_SHOT}": "Finished on a few real images of each class, no longer data-free, it reaches",
    }
    same = {row.method: row for row in rows if row.student == best.student and row.kind != "result"}
    return [
        f"{words} {_share(same[method].accuracy)}."
        for method, words in wording.items()
        if method in same and same[method].accuracy
    ]


def _choice_sentence(best: Row, rows: tuple[Row, ...]) -> str:
    results = sum(row.kind == "result" for row in rows)
    seeds = (
        f"mean ± sample standard deviation over {len(best.cells)} seeds"
        if len(best.cells) > 1
        else "one seed, so no spread"
    )
    chosen = f"the best of {results} data-free combinations below" if results > 1 else "the only data-free combination"
    return f"Figures are of the last epoch, {seeds}; the student named is {chosen}."


def _difference(value: float, base: float) -> str:
    points = (value - base) * 100
    return f"{abs(points):.2f} points {'above' if points > 0 else 'below'}"


def _share(spread: Spread | None) -> str:
    return f"{percent_text(spread)} %".replace(" ", "\u00a0")


def _percent(share: float) -> str:
    return f"{share * 100:.2f}\u00a0%"
