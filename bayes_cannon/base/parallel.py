"""Work on blocks of pixels or stars side by side: on the cores, or by an executor of the user's."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from bayes_cannon.base.engines.engine import Engine, WorkerLostError
from bayes_cannon.errors import BayesCannonError, FitError, InvalidDataError

__all__ = [
    "StopSign",
    "as_executor",
    "available_cores",
    "each_block",
    "in_order",
    "memory_here",
    "one_blas_thread",
    "one_thread",
    "threads_here",
    "workers_of",
]


def available_cores() -> int:
    """Return the number of processors that this process may use, at least 1.

    Where the system tells them (Linux), the limits of a batch queue or of ``taskset`` count, not
    all processors of the machine.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity else os.cpu_count() or 1)


def memory_here() -> int:
    """Return the bytes of memory that this process may have at most.

    That of the machine, or the limit of a container or of a batch job (Linux).
    """
    from psutil import virtual_memory

    found = int(virtual_memory().total)
    with suppress(OSError, ValueError):
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


_HERE = uuid4().hex
_MAX_THREADS = 8
"""Blocks worked on at a time; bounds the memory."""
_alone: ContextVar[bool] = ContextVar("alone", default=False)
"""Whether the work at hand is one task of many: it keeps to its thread."""
_lock = threading.Lock()
_holders: list[Any] = []
"""Who wants linear algebra to have one thread; the first one's limit is lifted after the last."""


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads of their own; looking for them takes milliseconds."""
    import scipy.linalg  # noqa: F401 (brings a library of its own, which is to be found)

    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give linear algebra one thread, in the whole process, while any thread is in here.

    The number of its threads may change the last digits of a product. Limits that threads set and
    lift on their own, each for itself, would lift each other's.
    """
    with _lock:
        if not _holders:
            _holders.append(_libraries().limit(limits=1, user_api="blas"))
        _holders.append(None)
    try:
        yield
    finally:
        with _lock:
            _holders.pop()
            if len(_holders) == 1:
                _holders.pop().restore_original_limits()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let `each_block` work in the thread that calls it, as one task of many should."""
    token = _alone.set(True)
    try:
        with one_blas_thread():
            yield
    finally:
        _alone.reset(token)


def threads_here() -> int:
    """Threads that the work at hand may have: 1 for a task of an executor, else all cores."""
    return 1 if _alone.get() else available_cores()


def each_block(work: Callable[[slice], None], size: int, total: int) -> None:
    """Call `work` with all blocks of `size` out of `total`, side by side on the cores.

    Element-wise work and small matrices use one core each, so that blocks on threads of their own
    are faster than threads inside the matrix products, which therefore get one each meanwhile.
    Every block must write to its own part of the result; their order does not matter.

    Parameters
    ----------
    work
        Works on one block; must be safe beside others.
    size
        Rows of a block; the last may have fewer.
    total
        Rows of all.
    """
    blocks = [slice(a, min(a + size, total)) for a in range(0, total, size)]
    threads = min(threads_here(), len(blocks), _MAX_THREADS)
    if threads < 2:
        for block in blocks:
            work(block)
        return
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, blocks):
            pass


class StopSign:
    """Seen by tasks of this process that the work has been given up; pickled, a sign of its own."""

    def __init__(self) -> None:
        self._given_up = False

    def set(self) -> None:
        """Give the work up."""
        self._given_up = True

    def check(self) -> None:
        """Raise `concurrent.futures.CancelledError` if the work has been given up.

        Raises
        ------
        CancelledError
            If so.
        """
        if self._given_up:
            raise CancelledError


def as_executor(given: Any) -> Executor | None:
    """Return an executor, or None.

    Parameters
    ----------
    given
        An executor of `concurrent.futures` or of a Dask client, or None.

    Raises
    ------
    InvalidDataError
        If it is neither.
    """
    client: Any = getattr(given, "_client", None)
    if given is None or isinstance(given, Engine):
        return given
    if isinstance(given, Executor) and hasattr(client, "scatter"):  # Dask's own
        from bayes_cannon.base.engines.cluster import Cluster

        return Cluster(client)
    if isinstance(given, Executor):
        return given
    hint = "client.get_executor()" if hasattr(given, "get_executor") else "ThreadPoolExecutor(4)"
    raise InvalidDataError(
        f"executor must be a concurrent.futures.Executor, such as {hint}, not an object of type "
        f"{type(given).__name__}."
    )


def workers_of(executor: Executor) -> int:
    """Tasks that an executor does at a time; of Dask's, those of its client's workers.

    Parameters
    ----------
    executor
        Any; the number of processors where it does not say.
    """
    known = getattr(executor, "_max_workers", None)
    if isinstance(known, int):
        return known
    known = getattr(executor, "n_workers", None)
    return known if isinstance(known, int) else available_cores()


def _submit(executor: Executor, name: str, work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Hand a task in; an engine of ours is told whom it concerns."""
    if isinstance(executor, Engine):
        return executor.submit_named(name, work, *args)
    return executor.submit(work, *args)


def in_order[T, R](
    executor: Executor | None,
    work: Callable[[T], R],
    tasks: Iterable[T],
    *,
    named: Callable[[T], str],
    finished: Callable[[int], None] | None = None,
    stop: StopSign | None = None,
    ahead: int = 2,
) -> Iterator[R]:
    """Results of all tasks, in their order, done side by side by an executor.

    No more tasks are handed out than `ahead` times as many as there are workers, so that results do
    not pile up in memory. An error, Ctrl-C, or an iterator that is closed cancel what is not begun.
    What workers in other processes log is logged here.

    Parameters
    ----------
    executor
        Any of `concurrent.futures`; it is left open. None: each task is done when its turn comes.
    work
        A function of a module, which can be pickled.
    tasks
        Its arguments; made when they are handed out.
    named
        Says whom a task concerns, for messages.
    finished
        Called with the number of a task that is done, in whatever order.
    stop
        Set when the work is given up.
    ahead
        Tasks handed out for each worker. 1: a worker may have to wait, and what is given up early
        costs least.

    Raises
    ------
    FitError
        If a worker ends early, or raises anything but an error of the package, which is raised as
        it is.
    """
    if executor is None:
        for number, task in enumerate(tasks):
            result = work(task)
            if finished is not None:
                finished(number)
            yield result
        return
    todo, most = enumerate(tasks), ahead * workers_of(executor)
    line: deque[tuple[str, Future[tuple[R, list[logging.LogRecord]]]]] = deque()
    running: dict[Future[Any], int] = {}
    try:
        while True:
            while len(line) < most and (item := next(todo, None)) is not None:
                name = named(item[1])
                with _told(name):
                    future = _submit(executor, name, _logged, _this_process(), work, item[1])
                line.append((name, future))
                running[future] = item[0]
            if not line:
                return
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                number = running.pop(future)
                if finished is not None and future.exception() is None:
                    finished(number)
            while line and line[0][1].done():
                name, future = line.popleft()
                with _told(name):
                    result, records = future.result()
                for record in records:
                    logging.getLogger(record.name).handle(record)
                yield result
    finally:
        if stop is not None:
            stop.set()
        for future in running:
            future.cancel()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what an executor raises into an error of the package that says whom it concerns."""
    try:
        yield
    except (BayesCannonError, MemoryError):
        raise
    except CancelledError as error:
        raise FitError(f"the executor cancelled the work on {name}.") from error
    except WorkerLostError as error:
        raise FitError(f"{error}; the work on {name} is not done.") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise FitError(
            f"the executor's work on {name} failed ({type(error).__name__}: {reason})."
        ) from error


def _this_process() -> tuple[int, str]:
    """Tell this process from others, on other machines too."""
    return os.getpid(), _HERE


def _logged[T, R](
    home: tuple[int, str], work: Callable[[T], R], task: T
) -> tuple[R, list[logging.LogRecord]]:
    """Do a task in one thread; return what it logged, where that is another process."""
    with one_thread():
        if _this_process() == home:
            return work(task), []
        queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
        logger, handler = logging.getLogger("bayes_cannon"), QueueHandler(queue)
        logger.addHandler(handler)
        propagate, logger.propagate = logger.propagate, False
        try:
            result = work(task)
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
    return result, [queue.get() for _ in range(queue.qsize())]
