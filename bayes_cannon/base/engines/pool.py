"""Processes of this machine as an executor that outlives its workers.

Every worker has a pipe of its own, so that one that is killed, by a lack of memory or by hand,
costs the task that it had and nothing else: the task is done again by a new one. (Of a
`ProcessPoolExecutor` all tasks are lost, and so is the executor.) Workers are spawned, keep to one
thread each, leave Ctrl-C to this process, and end with it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from typing import Any, override

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.engines.engine import Engine, Job, WorkerLostError
from bayes_cannon.base.engines.shared import unpack

__all__ = ["WorkerPool"]

_LOG = logging.getLogger(__name__)
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM", "BLIS", "NUMEXPR")
"""Libraries with threads of their own, by the variables that limit them."""
_PROTOCOL = 5
_STILLBORN = 3
"""Workers in a row that may end before they begin."""
_READY = b"ready"


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    ready: bool = False
    job: Job | None = None
    has: set[str] = field(default_factory=set)


class WorkerPool(Engine):
    """Spawned processes that do tasks; one that ends early is replaced.

    A script that opens one needs ``if __name__ == "__main__"``.

    Parameters
    ----------
    workers
        Their number. They are started as there is work for them.
    retries
        How often a task whose worker ended early is done again; then it fails with
        `WorkerLostError`.
    setup
        Pairs of a function and its arguments, called in each worker before its first task.
    """

    def __init__(
        self,
        workers: int,
        *,
        retries: int = 3,
        setup: Sequence[tuple[Callable[..., object], tuple[Any, ...]]] = (),
    ) -> None:
        self._max_workers, self._retries, self._setup = workers, retries, tuple(setup)
        self._todo: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._old: set[str] = set()
        self._lock = threading.Lock()
        self._stillborn, self._closing, self._killing = 0, False, False
        self._broken: WorkerLostError | None = None
        self._bell, self._ringer = get_context("spawn").Pipe(duplex=False)
        self._thread = threading.Thread(target=self._manage, name="worker pool", daemon=True)
        self._thread.start()

    @override
    def _take(self, job: Job) -> None:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._todo.append(job)
            self._ring()

    @override
    def release(self, key: str) -> None:
        """Let workers forget a shared value, before their next task."""
        with self._lock:
            self._old.add(key)

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes that are at work or wait for it."""
        with self._lock:
            return [w.process.pid for w in self._workers if w.process.pid is not None]

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end the workers once what is there is done.

        Parameters
        ----------
        wait
            Whether to wait for that.
        cancel_futures
            Cancel what is not begun.
        """
        with self._lock:
            self._closing = True
            if cancel_futures:
                self._cancel_all()
            self._ring()
        if wait:
            self._thread.join()

    def kill(self) -> None:
        """End the workers at once, whatever they do."""
        with self._lock:
            self._closing = self._killing = True
            self._cancel_all()
            self._ring()
        self._thread.join()

    def _ring(self) -> None:
        with suppress(OSError):
            self._ringer.send_bytes(b".")

    def _cancel_all(self) -> None:
        while self._todo:
            job = self._todo.popleft()
            job.future.cancel()
            job.future.set_running_or_notify_cancel()

    # The thread of the pool ---------------------------------------------------------------

    def _manage(self) -> None:
        _block_interrupts()
        try:
            while self._step():
                pass
        except Exception as error:  # whoever waits must not wait for ever
            with self._lock:
                self._broken = WorkerLostError(f"the pool of workers failed ({error!r})")
                self._killing = True
                self._cancel_all()
        self._end()

    def _step(self) -> bool:
        """Hand out what there is to do, then wait for something to happen; False in the end."""
        with self._lock:
            busy = any(w.job for w in self._workers)
            if self._killing or (self._closing and not self._todo and not busy):
                return False
            self._hand_out()
        pipes = {w.pipe: w for w in self._workers}
        for ready in connection.wait([self._bell, *pipes]):
            if ready is self._bell:
                self._bell.recv_bytes()
            else:
                self._hear(pipes[ready])  # type: ignore[index]
        return True

    def _hand_out(self) -> None:
        """Give waiting workers tasks; start workers for the others, under the lock."""
        for worker in [w for w in self._workers if w.ready and w.job is None]:
            job = self._next()
            if job is None:
                return
            worker.job = job
            try:
                self._send(worker, job)
            except OSError:
                self._bury(worker)
        starting = sum(not w.ready for w in self._workers)
        for _ in range(min(len(self._todo) - starting, self._max_workers - len(self._workers))):
            self._start()

    def _next(self) -> Job | None:
        while self._todo:
            job = self._todo.popleft()
            if job.future.running() or job.future.set_running_or_notify_cancel():
                return job
        return None

    def _send(self, worker: _Worker, job: Job) -> None:
        for key in worker.has & self._old:
            worker.has.discard(key)
            worker.pipe.send(("forget", key))
        for key, shared in job.needs.items():
            if key not in worker.has:
                worker.pipe.send(("keep", key))
                worker.pipe.send_bytes(pickle.dumps(shared.value, _PROTOCOL))
                worker.has.add(key)
        worker.pipe.send(("do", ""))
        worker.pipe.send_bytes(job.content)

    def _start(self) -> None:
        here, there = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=_work, args=(there, self._setup), name="bayes-cannon worker", daemon=True
        )
        with _one_thread_each():
            process.start()
        there.close()
        self._workers.append(_Worker(process, here))

    def _hear(self, worker: _Worker) -> None:
        """Take what a worker sends: that it is ready, or the result of its task."""
        try:
            content = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            with self._lock:
                self._bury(worker)
            return
        if content == _READY:
            worker.ready, self._stillborn = True, 0
            return
        job, worker.job = worker.job, None
        if job is None:
            return
        try:
            good, value = pickle.loads(content)  # noqa: S301 (from a process of ours)
        except Exception as error:
            good, value = False, error
        if good:
            job.future.set_result(value)
        else:
            job.future.set_exception(value)

    def _bury(self, worker: _Worker) -> None:
        """Take a worker off that has ended; its task is done again, under the lock."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join(5)
        how = _how(worker.process.exitcode)
        job = worker.job
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                self._give_up(how)
        if job is None:
            return
        job.losses += 1
        if job.losses <= self._retries:
            _LOG.warning(
                "a worker process ended early (%s) at the work on %s, which is done again.",
                how, job.name,
            )  # fmt: skip
            self._todo.appendleft(job)
            return
        job.future.set_exception(
            WorkerLostError(
                f"{count_text(job.losses, 'worker process')} ended early, the last one {how}; if "
                "they lack memory, take fewer workers"
            )
        )

    def _give_up(self, how: str) -> None:
        self._broken = WorkerLostError(
            f"worker processes end as they start, the last one {how}; a script that opens them "
            'needs `if __name__ == "__main__"`'
        )
        while self._todo:
            job = self._todo.popleft()
            if job.future.running() or job.future.set_running_or_notify_cancel():
                job.future.set_exception(self._broken)

    def _end(self) -> None:
        for worker in self._workers:
            if self._killing:
                worker.process.terminate()
            with suppress(OSError):
                worker.pipe.send(("end", ""))
            if worker.job is not None:
                worker.job.future.set_exception(WorkerLostError("the work was given up"))
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        self._bell.close()
        self._ringer.close()


def _how(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is None:
        return "without a word"
    if exitcode >= 0:
        return f"with exit status {exitcode}"
    name = signal.Signals(-exitcode).name if -exitcode in set(signal.Signals) else str(-exitcode)
    return f"by {name}{', often a lack of memory' if name == 'SIGKILL' else ''}"


def _block_interrupts() -> None:
    """Keep Ctrl-C from this thread, and from processes that it starts."""
    mask = getattr(signal, "pthread_sigmask", None)
    if mask is not None:
        mask(signal.SIG_BLOCK, {signal.SIGINT})


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have processes that are started here keep linear algebra to one thread, from the start."""
    names = [f"{name}_NUM_THREADS" for name in _THREADS]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# The workers ------------------------------------------------------------------------------


def _work(
    pipe: connection.Connection,
    setup: Sequence[tuple[Callable[..., object], tuple[Any, ...]]],
) -> None:
    """Do task after task, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    for function, arguments in setup:
        function(*arguments)
    kept: dict[str, Any] = {}
    with suppress(EOFError, OSError):
        pipe.send_bytes(_READY)
        while True:
            what, key = pipe.recv()
            if what == "end":
                return
            if what == "forget":
                kept.pop(key, None)
            elif what == "keep":
                kept[key] = pickle.loads(pipe.recv_bytes())  # noqa: S301 (from our parent)
            else:
                pipe.send_bytes(_done(pipe.recv_bytes(), kept))


def _done(content: bytes, kept: dict[str, Any]) -> bytes:
    """Do a task; its result, or what it raised, pickled."""
    try:
        function, args, kwargs = unpack(content, kept)
        return pickle.dumps((True, function(*args, **kwargs)), _PROTOCOL)
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        try:
            sent = pickle.dumps((False, error), _PROTOCOL)
            pickle.loads(sent)  # noqa: S301 (what takes arguments of its own may not come back)
        except Exception:
            sent = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return sent


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
