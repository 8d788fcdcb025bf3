"""The command line of stages that work on one student of the matrix."""

import argparse

__all__ = ["read_cell", "read_cell_or_proxy"]


def read_cell(stage: str, description: str | None) -> tuple[str, str, int]:
    """`python -m stages.<stage> METHOD STUDENT SEED`: the row, the student's name and its seed.

    Args:
        stage: the module's name.
        description: for ``--help``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description)
    _add_cell(parser, None)
    arguments = parser.parse_args()
    return arguments.row, arguments.student, arguments.seed


def read_cell_or_proxy(stage: str, description: str | None) -> tuple[str, str, int] | str:
    """The same, or `--proxy METHOD`: then the method alone.

    Args:
        stage: the module's name.
        description: for ``--help``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description)
    parser.add_argument(
        "--proxy", metavar="METHOD", help="instead: the student that this method's dataset brings along"
    )
    _add_cell(parser, "?")
    arguments = parser.parse_args()
    cell = arguments.row, arguments.student, arguments.seed
    if cell.count(None) != (0 if arguments.proxy is None else len(cell)):
        parser.error("give METHOD STUDENT SEED, or --proxy METHOD")
    return cell if arguments.proxy is None else arguments.proxy


def _add_cell(parser: argparse.ArgumentParser, nargs: str | None) -> None:
    what = "the dataset to learn from; DATASET_labels: its own labels; DATASET_few_shot: real images come last"
    parser.add_argument("row", metavar="METHOD", nargs=nargs, help=what)
    parser.add_argument("student", metavar="STUDENT", nargs=nargs, help="a name under `students` in params.yaml")
    parser.add_argument("seed", metavar="SEED", nargs=nargs, type=int)
