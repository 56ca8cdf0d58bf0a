"""The workers of a Dask scheduler as an executor that outlives workers and scheduler.

Dask itself does the tasks of a worker that is lost again. What it does not survive is the loss of
the scheduler, which knows of all tasks: they are handed in again here as soon as there is one at
the same address, or they fail with a message that says so.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, override
from uuid import uuid4

from bayes_cannon._version import __version__
from bayes_cannon.base.engines.engine import Engine, Job, WorkerLostError
from bayes_cannon.base.engines.shared import unpack
from bayes_cannon.errors import InvalidDataError

__all__ = ["Cluster", "connect"]

_LOG = logging.getLogger(__name__)
_CONNECT = 10.0
"""Seconds for a scheduler to answer."""
_PATIENCE = 60.0
"""Seconds that a scheduler, or its last worker, may be away."""
_LOOK = 1.0
"""Seconds between two looks at both."""
_ADDRESS = re.compile(r":\d+|^inproc://")


class Cluster(Engine):
    """Tasks for the workers of a Dask client.

    Parameters
    ----------
    client
        Of the scheduler.
    where
        Arguments of Dask's `Client` by which a lost scheduler is looked for again, its address or
        its file; None: the client is the caller's, and finds its own way back.
    retries
        How often a task is handed in again whose scheduler was lost.
    patience
        Seconds that the scheduler, or all workers, may be away.
    """

    def __init__(
        self,
        client: Any,
        *,
        where: Mapping[str, str] | None = None,
        retries: int = 3,
        patience: float = _PATIENCE,
    ) -> None:
        self._client, self._where, self._retries = client, where, retries
        self._patience = patience
        self._jobs: set[Job] = set()
        self._lost: list[Job] = []
        self._scattered: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._alone_since: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def n_workers(self) -> int:
        """Tasks that the workers do at a time, at least 1."""
        try:
            return max(1, sum(int(n) for n in self._client.nthreads().values()))
        except Exception:
            return 1

    @override
    def _take(self, job: Job) -> None:
        job.future.add_done_callback(lambda _: self._forget(job))
        with self._lock:
            self._jobs.add(job)
            self._send(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="dask watch", daemon=True)
                self._thread.start()

    @override
    def release(self, key: str) -> None:
        """Let workers forget a shared value."""
        with self._lock:
            self._scattered.pop(key, None)

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let tasks and values go; the client is closed where it is ours."""
        self._closed.set()
        with self._lock:
            jobs = list(self._jobs)
            self._scattered.clear()
        for job in jobs:
            job.future.cancel()
        if (thread := self._thread) is not None:
            thread.join(2 * _CONNECT)
        if self._where is not None:
            with suppress(Exception):
                self._client.close(timeout=2)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._jobs.discard(job)
            remote, job.remote = job.remote, None
        if remote is not None and job.future.cancelled():
            with suppress(Exception):
                remote.cancel()

    def _send(self, job: Job) -> None:
        """Hand a task in, its shared values first, under the lock."""
        try:
            for key, shared in job.needs.items():
                if key not in self._scattered:
                    self._scattered[key] = self._client.scatter(
                        shared.value, broadcast=True, hash=False
                    )
            values = [self._scattered[key] for key in job.needs]
            job.remote = self._client.submit(
                _work, job.content, list(job.needs), *values, pure=False,
                key=f"bayes_cannon-{uuid4().hex}",
            )  # fmt: skip
            job.remote.add_done_callback(lambda remote: self._done(job, remote))
        except Exception as error:
            _LOG.info("a task could not be handed in: %r", error)
            job.remote = None
            self._lost.append(job)

    def _done(self, job: Job, remote: Any) -> None:
        """Take a result; called by Dask in a thread of its own."""
        if remote is not job.remote or job.future.done():
            return
        try:
            if remote.status not in ("finished", "error"):
                raise ConnectionError(remote.status)
            error = (
                remote.exception(timeout=self._patience + 1) if remote.status == "error" else None
            )
            result = None if error is not None else remote.result(timeout=self._patience + 1)
        except Exception as problem:
            # Cancelled with its scheduler, or lost with the worker that held the result.
            _LOG.info("%s: %r", job.name, problem)
            with self._lock:
                job.remote = None
                self._lost.append(job)
            return
        with self._lock:
            if job.future.done() or not job.future.set_running_or_notify_cancel():
                return
        if error is None:
            job.future.set_result(result)
        elif type(error).__name__ == "KilledWorker":
            said = "the Dask workers that had it ended early; if they lack memory, give them more"
            job.future.set_exception(WorkerLostError(said))
        else:
            job.future.set_exception(error)

    # The thread that looks after the scheduler ---------------------------------------------

    def _watch(self) -> None:
        """Look after scheduler and workers as long as there are tasks."""
        while not self._closed.wait(_LOOK):
            try:
                with self._lock:
                    lost = bool(self._lost)
                    if not self._jobs:
                        self._thread = None
                        return
                if lost:
                    self._resume()
                else:
                    self._look_for_workers()
            except Exception as error:
                _LOG.info("looking after the Dask scheduler: %r", error)

    def _look_for_workers(self) -> None:
        """Fail what waits where there has been no worker for long."""
        if self._client.nthreads():
            self._alone_since = None
            return
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
            _LOG.warning("the Dask scheduler has no workers any more; waiting for some.")
        elif now - self._alone_since > self._patience:
            self._fail(f"the Dask scheduler has had no workers for {self._patience:.0f} s")

    def _resume(self) -> None:
        """Hand in again what was lost, when there is a scheduler with workers."""
        _LOG.warning(
            "the connection to the Dask scheduler was lost; waiting up to %.0f s for it.",
            self._patience,
        )
        end = time.monotonic() + self._patience
        while not self._closed.is_set():
            if self._is_back():
                break
            if time.monotonic() > end:
                self._fail(
                    f"the Dask scheduler has not answered for {self._patience:.0f} s; start it "
                    "again, with workers, then run the same command again"
                )
                return
            self._closed.wait(_LOOK)
        with self._lock:
            lost, self._lost = self._lost, []
            self._scattered.clear()
            for job in lost:
                job.losses += 1
                if job.losses > self._retries:
                    self._fail_one(job, f"the Dask scheduler was lost {job.losses} times")
                elif not job.future.done():
                    self._send(job)

    def _is_back(self) -> bool:
        """Whether there is a scheduler with workers; connects to it anew where that is ours."""
        from distributed import Client

        try:
            if self._client.status == "running" and self._client.nthreads():
                return True
            if self._where is None or self._client.status == "running":
                return False
            if not Path(self._where.get("scheduler_file", ".")).exists():  # Dask waits for it
                return False
            client: Any = Client(**self._where, timeout=_CONNECT / 2, set_as_default=False)
        except Exception:
            return False
        old, self._client = self._client, client
        with suppress(Exception):
            old.close(timeout=1)
        with self._lock:  # those that the old client never told of
            self._lost = [job for job in self._jobs if not job.future.done()]
            for job in self._lost:
                job.remote = None
        return bool(client.nthreads())

    def _fail(self, why: str) -> None:
        with self._lock:
            self._lost.clear()
            jobs = list(self._jobs)
        for job in jobs:
            self._fail_one(job, why)

    def _fail_one(self, job: Job, why: str) -> None:
        with suppress(Exception):
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(WorkerLostError(why))


def _work(content: bytes, keys: list[str], *values: Any) -> Any:
    """Do a task, in a worker."""
    try:
        function, args, kwargs = unpack(content, dict(zip(keys, values, strict=True)))
        return function(*args, **kwargs)
    except Exception as error:
        error.add_note(f"In a Dask worker:\n{traceback.format_exc()}")
        raise


def _version() -> str:
    return __version__


@contextmanager
def connect(scheduler: str) -> Iterator[Cluster]:
    """Connect to a running scheduler for as long as the context lasts.

    Parameters
    ----------
    scheduler
        Its address, or the path of its scheduler file.

    Raises
    ------
    InvalidDataError
        If `distributed` is not installed, what is given is neither an address nor a file, the
        scheduler does not answer, or has no workers with this version of the package.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InvalidDataError(
            "--scheduler needs Dask, which is not installed; pip install 'bayes_cannon[dask]', or "
            "take --workers for processes of this machine."
        ) from error
    where = {"address": scheduler}
    if "://" not in scheduler and Path(scheduler).is_file():
        where = {"scheduler_file": scheduler}
    elif not _ADDRESS.search(scheduler):
        # Dask would wait for it, then complain again while its client is collected.
        raise InvalidDataError(
            f"--scheduler {scheduler!r} is no file, and no address such as tcp://10.0.0.1:8786."
        )
    client: Any
    try:
        client = Client(**where, timeout=_CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, ImportError) as error:
        raise InvalidDataError(
            f"no Dask scheduler answers at {scheduler}; start one (`dask scheduler`, and "
            "`dask worker ADDRESS` on the machines that work), or look at the address."
        ) from error
    try:
        _refuse_unfit(client, scheduler)
    except BaseException:
        client.close(timeout=2)
        raise
    cluster = Cluster(client, where=where)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def _refuse_unfit(client: Any, scheduler: str) -> None:
    """Raise where there are no workers, or workers of another version."""
    try:
        client.wait_for_workers(1, timeout=_CONNECT)
    except TimeoutError as error:
        raise InvalidDataError(
            f"the Dask scheduler at {scheduler} has no workers; start some with `dask worker "
            f"{scheduler}`."
        ) from error
    try:
        versions = client.run(_version, on_error="return")
    except Exception as error:
        versions = {scheduler: error}
    for worker, version in versions.items():
        if version != __version__:
            has = "cannot import it" if isinstance(version, Exception) else f"has {version}"
            raise InvalidDataError(
                f"the Dask worker {worker} must have bayes_cannon {__version__}, and {has}; "
                "install the same version where workers run."
            )
