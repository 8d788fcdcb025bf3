"""The command line of stages that work on one student of the matrix."""

import argparse

__all__ = ["read_cell"]


def read_cell(stage: str, description: str | None) -> tuple[str, str, int]:
    """`python -m stages.<stage> METHOD STUDENT SEED`: the row, the student's name and its seed.

    Args:
        stage: the module's name.
        description: for ``--help``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description)
    parser.add_argument("row", metavar="METHOD", help="the dataset to learn from, or DATASET_labels for its own labels")
    parser.add_argument("student", metavar="STUDENT", help="a name under `students` in params.yaml")
    parser.add_argument("seed", metavar="SEED", type=int)
    arguments = parser.parse_args()
    return arguments.row, arguments.student, arguments.seed
