"""Where shards are made: here, or in processes on every free core. The choice never changes a byte of a shard.

Each worker computes with one thread, in one process or in many, so that sums are added in the same order.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, WorkError

__all__ = ["Auto", "Executor", "Processes", "Serial", "choose", "free_cores"]

T = TypeVar("T")
R = TypeVar("R")

_WORKERS = "AFTERIMAGE_WORKERS"
_WORTH_SECONDS = 20.0  # a pool takes seconds to start: every process imports torch and builds its source


class Executor(Protocol):
    """Runs one function over many items; results come as they are done, in any order."""

    workers: int

    def map(self, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
        """Call `setup` once per worker (in this process first), and what it returned on each item."""
        ...


class Serial:
    """Everything in this process."""

    workers = 1

    def map(self, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
        """Results in the order of the items."""
        with _one_thread():
            function = setup()
            for item in items:
                yield function(item)


class Processes:
    """A pool of spawned processes; `setup` and the items must be picklable.

    On a machine with several GPUs worker k uses GPU k modulo their number.
    """

    def __init__(self, workers: int) -> None:
        """`workers` processes at most, never more than there are items."""
        self.workers = workers

    def map(self, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
        """Results as they are done.

        `setup` runs here first: what it leaves on disk (a fitted generator) is there for every worker.

        Raises:
            WorkError: a worker was killed.
        """
        with _one_thread():
            setup()
            yield from _pool(self.workers, setup, items)


class Auto:
    """Here as long as the rest is short, then in a pool: quick datasets never wait for processes to start."""

    def __init__(self, workers: int) -> None:
        """At most `workers` processes."""
        self.workers = workers

    def map(self, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
        """Results as they are done.

        Raises:
            WorkError: a worker was killed.
        """
        with _one_thread():
            function = setup()
            for done, item in enumerate(items, start=1):
                start = time.perf_counter()
                yield function(item)
                left = len(items) - done
                if left > 1 and (time.perf_counter() - start) * left > _WORTH_SECONDS:
                    yield from _pool(self.workers, setup, items[done:])
                    return


def choose(compute: Compute) -> Executor:
    """The executor that the machine and the environment ask for.

    AFTERIMAGE_WORKERS gives the number of processes. Without it there is one per GPU, or one per free core when the
    work is done on the CPU, started once the first shard shows that it is worth while.

    Raises:
        ParamsError: AFTERIMAGE_WORKERS is not a positive whole number.
    """
    wanted = os.environ.get(_WORKERS, "")
    if not wanted:
        most = torch.cuda.device_count() if compute.torch_device().type == "cuda" else free_cores()
        return Auto(most) if most > 1 else Serial()
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise ParamsError(f"{_WORKERS}={wanted}: expected a whole number of processes, at least 1")
    return Processes(int(wanted)) if int(wanted) > 1 else Serial()


def free_cores() -> int:
    """The cores this process may use: its affinity, cut down to a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def _pool(workers: int, setup: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Generator[R, None, None]:
    """Feed a spawned pool with a window of two items per worker; leave no process behind, whatever happens."""
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(items))
    stop_reader, stop_writer = context.Pipe(duplex=False)
    counter = context.Value("i", 0)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(stop_reader, counter, setup))
    rest = iter(items)
    try:
        with _environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"):
            running: set[Future[Any]] = {pool.submit(_call, item) for item in islice(rest, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
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
    """Prepare a worker: one thread, its GPU, no Ctrl-C of its own, and an end when the parent ends, also by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
def _one_thread() -> Generator[None, None, None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _environment(**values: str) -> Generator[None, None, None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
