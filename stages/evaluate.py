"""Stage `evaluate`: one student's accuracy on real test data, if there is any, and its agreement with the teacher."""

from pipeline import real
from pipeline.classifier import Student, StudentCard, Teacher, TeacherCard
from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.core.rng import stream
from pipeline.distill import proxy_of
from pipeline.grid import PROXY, Cell, path_of
from pipeline.measure.belief import write_beliefs
from pipeline.measure.evaluate import EvaluateParams, evaluate
from pipeline.measure.metrics import write_metrics
from pipeline.shards.reader import Dataset
from stages import arguments
from stages.settings import DATA, TEACHER, Settings, require_origin

__all__ = ["main", "measure", "measure_proxy"]


def measure(settings: Settings, cell: Cell) -> None:
    """Measure one student and write `data/metrics/<cell>.json` and `data/belief/<cell>.csv`.

    Args:
        settings: the parameters.
        cell: which.

    Raises:
        PipelineError: files are missing, damaged or in the wrong place, or there is nothing to measure on.
    """
    folder = DATA / path_of("students", cell.name)
    _measure(settings, Student.load(folder, StudentCard, settings.trust), _dataset(cell), cell)


def measure_proxy(settings: Settings, method: str) -> None:
    """Measure the proxy student of a method's dataset, as `measure` does; the cell's name is `<method>-proxy`.

    Args:
        settings: the parameters.
        method: its name.

    Raises:
        PipelineError: as in `measure`, or the dataset has no proxy.
    """
    cell = Cell.parse(method, PROXY, 0)
    dataset = _dataset(cell)
    proxy = proxy_of(dataset, settings.trust)
    _measure(settings, proxy, dataset, cell._replace(seed=proxy.card.seed))


def _dataset(cell: Cell) -> Dataset:
    dataset = Dataset.open(DATA / path_of("synthetic", cell.row.dataset))
    require_origin(dataset.folder, {"method": (dataset.manifest.method, cell.row.dataset)})
    return dataset


def _measure(settings: Settings, student: Student, dataset: Dataset, cell: Cell) -> None:
    found = evaluate(
        student,
        Teacher.load(TEACHER, TeacherCard, settings.trust),
        real.load(real.parse(settings.slice("data")), "test"),
        dataset,
        cell,
        settings.block(EvaluateParams, "evaluate"),
        settings.block(Compute, "compute"),
        stream(settings.seed, "evaluate/belief"),  # the run's seed, so that students share images
    )
    write_metrics(found.metrics, DATA / path_of("metrics", cell.name))
    write_beliefs(found.beliefs, DATA / path_of("belief", cell.name))  # DVC expects it also where none were measured


def main() -> None:
    """`python -m stages.evaluate METHOD STUDENT SEED` or `python -m stages.evaluate --proxy METHOD`."""
    given = arguments("evaluate")
    if given.proxy is None:
        measure(Settings.read(), Cell.parse(given.row, given.student, given.seed))
    else:
        measure_proxy(Settings.read(), given.proxy)


if __name__ == "__main__":
    run_or_exit(main)
