"""`python -m stages.check`: is params.yaml right? Every block, all errors at once, before anything runs.

A stage validates only its own slice, so that a mistake elsewhere cannot stop it; this command looks at everything.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

from pipeline import datasets
from pipeline.core.errors import ParamsError, PipelineError, run_or_exit
from pipeline.core.params import build
from pipeline.distill import few_shot_of, merge
from pipeline.evaluate import EvaluateParams
from pipeline.report import ReportParams
from pipeline.shards.plan import plan
from pipeline.teacher.blocks import parse as parse_teacher
from stages import consistency
from stages.consistency import Images
from stages.method import ShardParams, read_method
from stages.settings import PARAMS, Settings

__all__ = ["Findings", "find", "main"]

T = TypeVar("T")

_BLOCKS = (
    "seed",
    "trust",
    "compute",
    "matrix",
    "data",
    "teacher",
    "shards",
    "methods",
    "distill",
    "students",
    "reference",
    "few_shot",
    "evaluate",
    "report",
)


class Findings:
    """What is wrong, and what may be: lines for a person to read."""

    def __init__(self) -> None:
        """Nothing found yet."""
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def attempt(self, function: Callable[[], T]) -> T | None:
        """Call, and keep the lines of a `PipelineError` instead of raising it."""
        try:
            return function()
        except PipelineError as error:
            self.errors += [line for line in str(error).splitlines() if line not in self.errors]
            return None


def find(settings: Settings) -> Findings:
    """Everything that is wrong with a parameter file."""
    found = Findings()
    for key in sorted(settings.params.keys() - set(_BLOCKS)):
        found.errors.append(f"{key}: unknown block; there are {', '.join(_BLOCKS)}")
    trust = found.attempt(lambda: settings.trust)
    found.attempt(lambda: settings.compute.torch_device())  # noqa: PLW0108 - reading the block may fail too
    found.attempt(lambda: build(EvaluateParams, settings.slice("evaluate"), "evaluate"))
    found.attempt(lambda: build(ReportParams, settings.slice("report"), "report"))
    data = found.attempt(lambda: datasets.parse(settings.slice("data")))
    teacher = found.attempt(lambda: parse_teacher(settings.slice("teacher")))
    shards = found.attempt(lambda: build(ShardParams, settings.slice("shards"), "shards"))
    matrix = found.attempt(lambda: settings.matrix)
    images = consistency.images_of(data, teacher) if data and teacher else None
    _methods(settings, found, shards)
    _students(settings, found, images)
    if matrix:
        found.errors += consistency.of_matrix(matrix, settings)
    if data and teacher:
        found.errors += consistency.of_teacher(data, teacher)
        net = found.attempt(lambda: consistency.network_of(teacher, images))
        if net is not None and matrix:
            found.errors += consistency.of_batch_norm(matrix, teacher, net)
        found.warnings += consistency.missing_files(data, teacher, trust or ())
    if data and shards and matrix:
        found.errors += consistency.of_shards(data, images, shards, matrix)
    return found


def main() -> None:
    """`python -m stages.check`."""
    found = find(Settings.read())
    for line in found.warnings:
        sys.stderr.write(f"warning: {line}\n")
    if found.errors:
        count = len(found.errors)
        raise ParamsError("\n  ".join([f"{PARAMS}: {count} error{'s' * (count > 1)}", *found.errors]))
    sys.stdout.write(f"{PARAMS} is right\n")


def _methods(settings: Settings, found: Findings, shards: ShardParams | None) -> None:
    """Every method's block, used or not, and that its count fills whole shards."""
    for name in found.attempt(lambda: settings.mapping("methods")) or ():
        method = found.attempt(lambda name=name: read_method(settings, name))
        if method is not None and shards is not None:
            key, images = f"methods.{name}.count", method.images
            found.attempt(lambda key=key, images=images: plan(images, shards.size, shards.holdout, key))


def _students(settings: Settings, found: Findings, images: Images | None) -> None:
    """The distillation block, every student's overrides, and that every architecture fits the images."""
    common = found.attempt(lambda: settings.mapping("distill"))
    reference = found.attempt(lambda: settings.mapping("reference"))
    few_shot = found.attempt(lambda: few_shot_of(settings.mapping("few_shot"))[1])
    for name in found.attempt(lambda: settings.mapping("students")) or ():
        own = found.attempt(lambda name=name: settings.mapping(f"students.{name}"))
        merged = found.attempt(lambda own=own, name=name: merge(common or {}, own or {}, f"students.{name}"))
        if merged is not None:
            found.attempt(lambda arch=merged[0], name=name: consistency.network(arch, images, f"students.{name}.arch"))
            for key, last in (("reference", reference), ("few_shot", few_shot)):
                found.attempt(
                    lambda own=own, name=name, key=key, last=last: merge(
                        common or {}, own or {}, f"students.{name}", last, key
                    )
                )


if __name__ == "__main__":
    run_or_exit(main)
