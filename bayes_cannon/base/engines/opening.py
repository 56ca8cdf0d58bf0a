"""One argument, one engine: processes here, or the workers of a Dask scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from bayes_cannon.errors import InvalidDataError

__all__ = ["open_engine"]


@contextmanager
def open_engine(
    workers: int | None = None, scheduler: str | None = None
) -> Iterator[Executor | None]:
    """Return an executor for as long as the context lasts; None: the work is done in this process.

    Parameters
    ----------
    workers
        Processes of this machine, one thread each. A script needs ``if __name__ == "__main__"``.
    scheduler
        Address of a running Dask scheduler, such as ``tcp://10.0.0.1:8786``, or the path of its
        scheduler file.

    Raises
    ------
    InvalidDataError
        If both are given, the number is not positive, `distributed` is not installed, or the
        scheduler cannot be reached or has no fitting workers.
    """
    if workers is not None and scheduler is not None:
        raise InvalidDataError("give either --workers or --scheduler, not both.")
    if scheduler is not None:
        from bayes_cannon.base.engines.cluster import connect

        with connect(scheduler) as cluster:
            yield cluster
        return
    if workers is None:
        yield None
        return
    if workers < 1:
        raise InvalidDataError(f"--workers must be at least 1, not {workers}.")
    from bayes_cannon.base.engines.pool import WorkerPool

    pool = WorkerPool(workers)
    try:
        yield pool
    except BaseException:
        pool.kill()
        raise
    pool.shutdown()
