"""One family of errors: a message says what is wrong, the value, and the cure."""

import sys
from collections.abc import Callable

__all__ = [
    "DataError",
    "MethodError",
    "ParamsError",
    "PipelineError",
    "ShardError",
    "TeacherError",
    "TrainingError",
    "WorkError",
    "run_or_exit",
]


class PipelineError(Exception):
    """Something a user can cause and cure. Never shown with a traceback."""


class ParamsError(PipelineError):
    """A parameter file that is not as it must be; the message names every wrong key."""


class DataError(PipelineError):
    """Real data that is missing or not as described."""


class TeacherError(PipelineError):
    """A teacher that cannot be loaded, or that a method cannot use."""


class ShardError(PipelineError):
    """A dataset that is damaged, incomplete or hostile; the message names the file and the member."""


class WorkError(PipelineError):
    """A work directory that cannot be used: locked, full, or of another run."""


class MethodError(PipelineError):
    """A synthesis that cannot go on."""


class TrainingError(PipelineError):
    """A student or teacher training that cannot go on."""


def run_or_exit(main: Callable[[], None]) -> None:
    """Run a command's main function; a `PipelineError` becomes one line on stderr and exit status 2."""
    try:
        main()
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        sys.exit(130)
