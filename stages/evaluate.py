"""Stage `evaluate`: one student's accuracy on real test data, if there is any, and its agreement with the teacher."""

from pipeline import datasets
from pipeline.belief import write_beliefs
from pipeline.core.errors import run_or_exit
from pipeline.core.params import build
from pipeline.core.rng import generator
from pipeline.distill import Student, proxy_of
from pipeline.evaluate import EvaluateParams, Evaluation, evaluate
from pipeline.metrics import PROXY, Cell, cell_name, write_metrics
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from stages.cells import read_cell_or_proxy
from stages.settings import DATA, Settings, lesson_of

__all__ = ["main", "measure", "measure_proxy"]


def measure(settings: Settings, row: str, student: str, seed: int) -> None:
    """Measure one student and write `data/metrics/<cell>.json` and `data/belief/<cell>.csv`.

    Args:
        settings: the parameters.
        row: a method's name, `<dataset>_labels` or `<method>_few_shot`.
        student: its name in params.yaml.
        seed: the student's.

    Raises:
        PipelineError: files are missing or damaged, or there is nothing to measure on.
    """
    dataset = Dataset.open(DATA / "synthetic" / lesson_of(row).dataset)
    measured = Student.load(DATA / "students" / cell_name(row, student, seed), settings.trust)
    free = measured.info.data_free
    cell = Cell(method=row, student=student, seed=seed, data_free=free, reference=not free, online=False)
    _measure(settings, measured, dataset, cell)


def measure_proxy(settings: Settings, method: str) -> None:
    """Measure the proxy student of a method's dataset, as `measure` does; the cell's name is `<method>-proxy`.

    Args:
        settings: the parameters.
        method: its name.

    Raises:
        PipelineError: as in `measure`, or the dataset has no proxy.
    """
    dataset = Dataset.open(DATA / "synthetic" / method)
    proxy, free = proxy_of(dataset, settings.trust), dataset.manifest.data_free
    cell = Cell(method=method, student=PROXY, seed=proxy.info.seed, data_free=free, reference=not free, online=True)
    _measure(settings, proxy, dataset, cell)


def _measure(settings: Settings, student: Student, dataset: Dataset, cell: Cell) -> None:
    params = build(EvaluateParams, settings.slice("evaluate"), "evaluate")
    found = evaluate(
        student,
        Teacher.load(DATA / "teacher", settings.trust),
        datasets.load(datasets.parse(settings.slice("data")), "test"),
        dataset,
        cell,
        params,
        settings.compute,
        generator(settings.seed, "evaluate/belief"),  # the run's seed, so that students share images
    )
    _write(found, cell.name)


def _write(found: Evaluation, name: str) -> None:
    """Both files of one cell; DVC expects the curves also where none were measured."""
    write_metrics(found.metrics, DATA / "metrics" / f"{name}.json")
    write_beliefs(found.beliefs, DATA / "belief" / f"{name}.csv")


def main() -> None:
    """`python -m stages.evaluate METHOD STUDENT SEED` or `python -m stages.evaluate --proxy METHOD`."""
    asked = read_cell_or_proxy("evaluate", __doc__)
    if isinstance(asked, str):
        measure_proxy(Settings.read(), asked)
    else:
        measure(Settings.read(), *asked)


if __name__ == "__main__":
    run_or_exit(main)
