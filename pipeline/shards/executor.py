"""Where shards are made: here, or in processes on every free core. The choice never changes a byte of a shard.

A fit happens once and may use every core; its result is on the disk when it ends. Shards are drawn with one thread, in
one process or in many, from what the disk holds, so that sums are added in the same order.

A pool takes seconds to start, since every process imports torch and builds its source (20 quick shards: 1.4 s here,
28 s in two processes on two busy cores), so it waits until the first shard shows that it is worth while.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..core.device import Compute
from ..core.errors import ParamsError, WorkError

__all__ = ["Executor", "choose", "fit_threads", "free_cores"]

T = TypeVar("T")
R = TypeVar("R")

_WORKERS = "PHOTOGRAM_WORKERS"
_WORTH_SECONDS = 20.0


class Executor:
    """Runs one function over many items; results come as they are done, in any order.

    On a machine with several GPUs worker k uses GPU k modulo their number.
    """

    def __init__(self, workers: int = 1, patience: float = _WORTH_SECONDS) -> None:
        """Processes are started when there is more than one worker and more work left than `patience`.

        Args:
            workers: processes at most, never more than there are items.
            patience: seconds of work, judged by the item before; 0: processes from the start.
        """
        self.workers, self.patience = workers, patience

    def map(self, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
        """Call `setup` in this process, on all free cores; then what it returned on each item, with one thread.

        What `setup` leaves on disk (a fitted generator) is there when it is called again, with one thread, by whoever
        works on the items: every worker, or this process. For a pool `setup` and the items must be picklable.

        Raises:
            WorkError: a worker was killed.
        """
        with _threads(fit_threads()) as threads:
            function = setup()
        seconds = math.inf if self.patience == 0 else 0.0
        with _threads(1):
            for done, item in enumerate(items):
                left = len(items) - done
                if self.workers > 1 and left > 1 and seconds * left > self.patience:
                    yield from _pool(self.workers, setup, items[done:])
                    return
                if done == 0 and threads > 1:
                    function = setup()
                start = time.perf_counter()
                yield function(item)
                seconds = time.perf_counter() - start


def choose(compute: Compute) -> Executor:
    """The executor that the machine and the environment ask for.

    PHOTOGRAM_WORKERS gives the number of processes. Without it there is one per GPU, or one per free core when the work
    is done on the CPU, started once the first shard shows that it is worth while.

    Raises:
        ParamsError: PHOTOGRAM_WORKERS is not a positive whole number.
    """
    wanted = os.environ.get(_WORKERS, "")
    if not wanted:
        return Executor(torch.cuda.device_count() if compute.torch_device().type == "cuda" else free_cores())
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise ParamsError(f"{_WORKERS}={wanted}: expected a whole number of processes, at least 1")
    return Executor(int(wanted), patience=0)


def free_cores() -> int:
    """The cores this process may use: its affinity, cut down to a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def fit_threads() -> int:
    """The threads that a fit computes with: torch's setting (OMP_NUM_THREADS, say), at most one per free core.

    The bytes of what a fit trains are the same for equal numbers of threads.
    """
    return min(torch.get_num_threads(), free_cores())


def _pool(workers: int, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
    """Feed a spawned pool with a window of two items per worker; leave no process behind, whatever happens."""
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(items))
    stop_reader, stop_writer = context.Pipe(duplex=False)
    counter = context.Value("i", 0)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(stop_reader, counter, setup))
    rest = iter(items)
    try:
        with _for_children():
            running: set[Future[Any]] = {pool.submit(_call, item) for item in islice(rest, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                with _for_children():
                    running |= {pool.submit(_call, item) for item in islice(rest, 1)}
    except BrokenProcessPool as error:
        raise WorkError(
            f"one of {workers} worker processes was killed, perhaps for want of memory; finished shards are kept: "
            f"run the same command again, with a smaller {_WORKERS} if it happens again"
        ) from error
    finally:
        stop_writer.close()  # every worker sees the end of the pipe and goes, in the middle of a shard if need be
        pool.shutdown(wait=True, cancel_futures=True)
        stop_reader.close()


class _Held:
    """What one worker process holds."""

    setup: Callable[[], Callable[[Any], Any]] | None = None
    function: Callable[[Any], Any] | None = None


_held = _Held()


def _start(stop: connection.Connection, counter: Any, setup: Callable[[], Callable[[Any], Any]]) -> None:
    """Prepare a worker: one thread, its GPU, and an end when the parent ends, also by kill -9."""
    threading.Thread(target=_leave_with, args=(stop,), daemon=True).start()
    torch.set_num_threads(1)
    with counter.get_lock():
        rank = counter.value
        counter.value += 1
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    _held.setup = setup


def _leave_with(stop: connection.Connection) -> None:
    connection.wait([stop])  # ready only when its last writer, the parent, has closed it or died
    os._exit(0)


def _call(item: Any) -> Any:
    # Built at the first item, not in the initializer, whose errors a pool swallows.
    if _held.function is None:
        assert _held.setup is not None
        _held.function = _held.setup()
    return _held.function(item)


@contextmanager
def _threads(number: int) -> Iterator[int]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield number
    finally:
        torch.set_num_threads(before)


@contextmanager
def _for_children() -> Iterator[None]:
    """Processes started in the block compute with one thread from their first import, and never hear Ctrl-C.

    They inherit that from this process: a handler of their own would come too late, seconds into their imports. What
    is pressed meanwhile reaches this process when the block ends, since a process that was started and not yet told
    what to do ends with a traceback.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    pressed: list[int] = []
    # Another thread may take the signal that this one blocks; Python calls the handler in the main thread all the same.
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)
