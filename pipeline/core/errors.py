"""One family of errors: a message says what is wrong, the value, and the cure."""

import errno
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = [
    "DataError",
    "MethodError",
    "ParamsError",
    "PipelineError",
    "ShardError",
    "TeacherError",
    "TrainingError",
    "WorkError",
    "cure_of",
    "quiet_interrupt",
    "run_or_exit",
]

_INTERRUPTED = "interrupted; run the same command again to go on\n"
_ELSEWHERE = "choose another folder"
_CURES = {
    errno.ENOSPC: f"free some space or {_ELSEWHERE}",
    errno.EDQUOT: f"free some space, which your quota limits, or {_ELSEWHERE}",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: f"check who owns it and who may write there, or {_ELSEWHERE}",
    errno.EPERM: f"check who owns it and who may write there, or {_ELSEWHERE}",
    errno.EROFS: f"nothing can be written to that file system; {_ELSEWHERE}",
    errno.ENOENT: "make the folder, or check its spelling",
    errno.ENOTDIR: "a file stands where a folder must be; move it away",
    errno.EISDIR: "a folder stands where a file must be; move it away",
    errno.EEXIST: "something else stands there; move it away",
    errno.ENOTEMPTY: "something else stands there; move it away",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, which hold too many files open",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "raise the limit on processes (ulimit -u)",
}
_NO_MEMORY = (  # how torch says so, in plain RuntimeErrors
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",
    "bad allocation",
    "std::bad_alloc",
    "Cannot allocate memory",
)


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


def cure_of(error: OSError) -> str:
    """What to do about an error of the system."""
    return _CURES.get(error.errno or 0, f"check the disk, or {_ELSEWHERE}")


def run_or_exit(main: Callable[[], None]) -> None:
    """Run a command's main function; what a user can cause becomes one line on stderr and exit status 2.

    That is a `PipelineError`, an error of the system (a folder that may not be written, say) and a want of memory.
    Ctrl-C ends with status 130. Anything else is a mistake of ours and keeps its traceback.
    """
    try:
        with _interruptible():
            main()
    except KeyboardInterrupt:
        sys.stderr.write(_INTERRUPTED)
        sys.exit(130)
    except (PipelineError, OSError, MemoryError, RuntimeError) as error:
        line = _line(error)
        if line is None:
            raise
        sys.stderr.write(f"error: {line}\n")
        sys.exit(2)


def quiet_interrupt() -> None:
    """From here on Ctrl-C ends the process with one line, also in the middle of an import; `run_or_exit` takes over.

    To be called by commands before their heavy imports: torch takes seconds to load, and interrupted there it leaves
    a long traceback, or aborts.
    """
    if threading.current_thread() is threading.main_thread() and _at_interrupt() is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    sys.stderr.write(_INTERRUPTED)
    sys.stderr.flush()
    os._exit(130)


def _at_interrupt() -> object:
    return signal.getsignal(signal.SIGINT)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt inside the block, so that what is open is closed."""
    if _at_interrupt() is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)


def _line(error: Exception) -> str | None:
    """What a user is told; None for a mistake of ours."""
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, OSError):
        names = ", ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        what = f"{names}: {error.strerror or error}" if names else str(error)
        return f"{what}; {cure_of(error)}, then run the same command again"
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        said = next(iter(str(error).splitlines()), "")
        return f"not enough memory{f' ({said})' if said else ''}; free some, or use smaller batches or fewer workers"
    if any(kind.__name__ == "BackendCompilerFailed" for kind in type(error).__mro__):  # importing it would take seconds
        said, cache = " ".join(str(error).split())[:200], _compiler_cache()
        cure = f"a kill can leave a damaged file in its cache: delete {cache}, or set compute.compile: never"
        return f"torch's compiler failed ({said}); {cure}"
    return None


def _compiler_cache() -> str:
    """Where torch keeps what it has compiled."""
    return os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{tempfile.gettempdir()}/torchinductor_*"
