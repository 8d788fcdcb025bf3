"""One thin module per DVC stage: validate a slice of params.yaml, call one function, write one folder.

What a stage imports takes seconds. Before that, here: Ctrl-C ends with one line, and `--help` or wrong arguments are
answered.
"""

import argparse
import os
import sys

from pipeline.core.errors import quiet_interrupt

__all__ = ["arguments"]

_CELL = (
    ("METHOD", "the dataset; DATASET_labels: its own labels alone; DATASET_few_shot: real images come last"),
    ("STUDENT", "a name under `students` in params.yaml"),
    ("SEED", "the student's"),
)
_STAGES = {
    "check": "Is params.yaml right? Every block, all errors at once, before anything runs.",
    "code": "Refuse names that are no plain words; write a fingerprint of the code behind every consumer.",
    "teacher": "Make the teacher that params.yaml describes, in data/teacher.",
    "synthesize": "Make one method's dataset from the teacher alone, in data/synthetic.",
    "distill": "Train one student from one dataset's shards, in data/students.",
    "evaluate": "Measure one student, in data/metrics.",
    "report": "Put every number and picture on one page, in data/report.",
}


def arguments(stage: str, given: list[str] | None = None) -> argparse.Namespace:
    """The command line of `python -m stages.<stage>`; leaves with a message where it is wrong.

    Stages that take none need not ask: it has been looked at when they run. In dvc.yaml names of params.yaml never
    stand in a command, as a shell would read them: there `{}` means the next value in the name of the stage that DVC
    runs, such as ``distill@zskd-small-0``.

    Args:
        stage: the module's name.
        given: the arguments; None: those of this process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=_STAGES[stage])
    if stage == "synthesize":
        _add_synthesize(parser)
    if stage in {"distill", "evaluate"}:
        _add_cell(parser, "?" if stage == "evaluate" else None)
    if stage == "evaluate":
        parser.add_argument("--proxy", metavar="METHOD", help="instead: the student that this method's dataset brings")
    found = parser.parse_args(_filled(sys.argv[1:] if given is None else given, parser))
    if stage == "evaluate" and [found.row, found.student, found.seed].count(None) != (3 if found.proxy else 0):
        parser.error("give METHOD STUDENT SEED, or --proxy METHOD")
    return found


def _filled(given: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments, with the values of DVC's stage where `{}` stands."""
    text = os.environ.get("DVC_STAGE", "").partition("@")[2]
    values, asked = text.split("-") if text else [], sum("{}" in argument for argument in given)
    if asked not in {0, len(values)}:
        parser.error(f"{{}} stands for a value in the name of DVC's stage; there are {len(values)}: {text!r}")
    rest = iter(values)
    return [argument.replace("{}", next(rest)) if "{}" in argument else argument for argument in given]


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", metavar="METHOD", help="a name under `methods` in params.yaml")
    parser.add_argument(
        "--shards",
        metavar="a:b",
        help="make only these shards, counted from 0, training shards first, and leave them in the work directory: "
        "any scheduler can spread them over machines that share it; run without --shards afterwards to publish",
    )


def _add_cell(parser: argparse.ArgumentParser, nargs: str | None) -> None:
    for name, (metavar, text) in zip(("row", "student", "seed"), _CELL, strict=True):
        parser.add_argument(name, metavar=metavar, nargs=nargs, type=int if name == "seed" else str, help=text)


if sys.argv[:1] == ["-m"]:  # `python -m stages.X ...` has got as far as this package
    quiet_interrupt()
    _name = sys.orig_argv[-len(sys.argv)].removeprefix("-m").removeprefix("stages.")
    if _name in _STAGES:
        arguments(_name, sys.argv[1:])
