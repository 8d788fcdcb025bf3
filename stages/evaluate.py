"""Stage `evaluate`: one student's accuracy on real test data, if there is any, and its agreement with the teacher."""

from pipeline import datasets
from pipeline.belief import write_beliefs
from pipeline.core.errors import run_or_exit
from pipeline.core.params import build
from pipeline.core.rng import generator
from pipeline.distill import Student
from pipeline.evaluate import EvaluateParams, Evaluation, evaluate
from pipeline.metrics import Cell, cell_name, write_metrics
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from stages.cells import read_cell
from stages.settings import DATA, Settings, lesson_of

__all__ = ["main", "measure"]


def measure(settings: Settings, row: str, student: str, seed: int) -> None:
    """Measure one student and write `data/metrics/<cell>.json` and `data/belief/<cell>.csv`.

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
    found = evaluate(
        Student.load(DATA / "students" / name, settings.trust),
        Teacher.load(DATA / "teacher", settings.trust),
        datasets.load(datasets.parse(settings.slice("data")), "test"),
        dataset,
        Cell(method=row, student=student, seed=seed, data_free=free, reference=not free),
        params,
        settings.compute,
        generator(settings.seed, "evaluate/belief"),  # the run's seed, so that students share images
    )
    _write(found, name)


def _write(found: Evaluation, name: str) -> None:
    """Both files of one cell; DVC expects the curves also where none were measured."""
    write_metrics(found.metrics, DATA / "metrics" / f"{name}.json")
    write_beliefs(found.beliefs, DATA / "belief" / f"{name}.csv")


def main() -> None:
    """`python -m stages.evaluate METHOD STUDENT SEED`."""
    measure(Settings.read(), *read_cell("evaluate", __doc__))


if __name__ == "__main__":
    run_or_exit(main)
