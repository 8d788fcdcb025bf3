"""`python -m stages.check`: is params.yaml right? Every block, all errors at once, before anything runs.

A stage validates only its own slice, so that a mistake elsewhere cannot stop it; this command looks at everything.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

from pipeline import real, sources
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, PipelineError, run_or_exit
from pipeline.distill import few_shot_of, merge
from pipeline.measure.evaluate import EvaluateParams
from pipeline.report import ReportParams
from pipeline.shards.work import plan
from stages import consistency
from stages.consistency import Images
from stages.settings import PARAMS, Settings, require_plain
from stages.synthesize import MethodBlock, ShardParams, read_method

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
_SHOWN = 100  # lines of errors


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
    found.errors += consistency.of_numbers(settings.params)
    trust = found.attempt(lambda: settings.trust) or ()
    found.attempt(lambda: settings.block(Compute, "compute").torch_device())
    found.attempt(lambda: settings.block(EvaluateParams, "evaluate"))
    found.attempt(lambda: settings.block(ReportParams, "report"))
    data = found.attempt(lambda: real.parse(settings.slice("data")))
    teacher = found.attempt(lambda: sources.parse(settings.slice("teacher")))
    shards = found.attempt(lambda: settings.block(ShardParams, "shards"))
    matrix = found.attempt(lambda: settings.matrix)
    images = consistency.images_of(data, teacher) if data and teacher else None
    net = found.attempt(lambda: consistency.network_of(teacher, images)) if teacher else None
    made = _methods(settings, found, images)
    if matrix:
        classes = consistency.least_classes(data, teacher) if data and teacher else 2
        found.errors += consistency.of_matrix(matrix, settings, classes)
        found.warnings += consistency.few_images(matrix, settings, classes)
    if data and teacher:
        found.errors += consistency.of_classes(data, teacher)
        found.errors += consistency.of_teacher(data, teacher, net)
        if net is not None and matrix:
            found.errors += consistency.of_needs(matrix, teacher, net)
        found.warnings += consistency.missing_files(data, teacher, trust)
    if shards:
        for name, block in made.items():
            _shards(found, name, block, shards, images)
    if data and shards and matrix:
        found.errors += consistency.of_data(data, shards, matrix)
        found.errors += consistency.of_real(data, shards, made)
    _students(settings, found, images, teacher)
    found.warnings += consistency.untrusted(settings, trust)
    return found


def main() -> None:
    """`python -m stages.check`."""
    found = find(Settings.read())
    for line in found.warnings:
        sys.stderr.write(f"warning: {line}\n")
    if found.errors:
        count = len(found.errors)
        more = [f"... and {count - _SHOWN} more"] if count > _SHOWN else []
        head = f"{PARAMS}: {count} error{'s' * (count > 1)}"
        raise ParamsError("\n  ".join([head, *found.errors[:_SHOWN], *more]))
    sys.stdout.write(f"{PARAMS} is right\n")


def _methods(settings: Settings, found: Findings, images: Images | None) -> dict[str, MethodBlock]:
    """Every method's block, used or not, and whether it suits the teacher's images."""
    made: dict[str, MethodBlock] = {}
    for name in found.attempt(lambda: settings.mapping("methods")) or ():
        method = found.attempt(lambda name=name: read_method(settings, name))
        if method is not None:
            made[name] = method
            found.errors += consistency.of_method(name, method, images)
    return made


def _shards(found: Findings, name: str, method: MethodBlock, shards: ShardParams, images: Images | None) -> None:
    """That a method's count fills whole shards, and that they can be stored and read."""
    key, count = f"methods.{name}.count", method.images
    found.attempt(lambda: plan(count, shards.size, shards.holdout, key))
    if images is not None:
        found.attempt(lambda: consistency.require_room(images, shards, soft_targets=method.method.soft_targets))


def _students(settings: Settings, found: Findings, images: Images | None, teacher: sources.TeacherBlock | None) -> None:
    """The distillation block, every student's overrides, and that architecture, batches and terms go together."""
    common = found.attempt(lambda: settings.mapping("distill")) or {}
    last = {
        None: None,
        "reference": found.attempt(lambda: settings.mapping("reference")),
        "few_shot": found.attempt(lambda: few_shot_of(settings.mapping("few_shot"))[1]),
    }
    for name in found.attempt(lambda: settings.mapping("students")) or ():
        key = f"students.{name}"
        if found.attempt(lambda name=name: require_plain(name, "students") or True) is None:
            continue
        own = found.attempt(lambda key=key: settings.mapping(key))
        if own is None:
            continue
        for kind, block in last.items():
            if kind is not None and block is None:
                continue
            merged = found.attempt(
                lambda own=own, key=key, block=block, kind=kind: merge(common, own, key, block, kind or "reference")
            )
            if merged is None:
                break
            found.attempt(lambda merged=merged, key=key: consistency.require_trainable(*merged, images, teacher, key))


if __name__ == "__main__":
    run_or_exit(main)
