"""Stage `evaluate`: one student's accuracy on real test data, if there is any, and its agreement with the teacher."""

from pipeline import datasets
from pipeline.core.errors import run_or_exit
from pipeline.core.params import build
from pipeline.distill import Student
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.metrics import Cell, cell_name, write_metrics
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from stages.cells import read_cell
from stages.settings import DATA, Settings, lesson_of

__all__ = ["main", "measure"]


def measure(settings: Settings, row: str, student: str, seed: int) -> None:
    """Measure one student and write `data/metrics/<cell>.json`.

    Args:
        settings: the parameters.
        row: a method's name, or `<dataset>_labels`.
        student: its name in params.yaml.
        seed: the student's.

    Raises:
        PipelineError: files are missing or damaged, or there is nothing to measure on.
    """
    name = cell_name(row, student, seed)
    params = build(EvaluateParams, settings.slice("evaluate"), "evaluate")
    dataset = Dataset.open(DATA / "synthetic" / lesson_of(row).dataset)
    free = dataset.manifest.data_free
    metrics = evaluate(
        Student.load(DATA / "students" / name, settings.trust),
        Teacher.load(DATA / "teacher", settings.trust),
        datasets.load(datasets.parse(settings.slice("data")), "test"),
        dataset,
        Cell(method=row, student=student, seed=seed, data_free=free, reference=not free),
        params.batch,
        settings.compute,
    )
    write_metrics(metrics, DATA / "metrics" / f"{name}.json")


def main() -> None:
    """`python -m stages.evaluate METHOD STUDENT SEED`."""
    measure(Settings.read(), *read_cell("evaluate", __doc__))


if __name__ == "__main__":
    run_or_exit(main)
