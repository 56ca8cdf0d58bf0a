"""What the engines of the package have in common: how a task is handed in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, override

from bayes_cannon.base.engines.shared import Shared, pack

__all__ = ["Engine", "Job", "WorkerLostError"]


class WorkerLostError(Exception):
    """Whoever did a task is gone, and so is the patience to have it done again.

    Its text says what happened and what to do, and stands before "at the work on …".
    """


@dataclass(eq=False)
class Job:
    """A task that an engine was handed.

    Attributes
    ----------
    name : str
        What it is about, for messages.
    content : bytes
        From `pack`.
    needs : dict of str to Shared
        What it shares with others, by key.
    future : Future
    losses : int
        How often whoever did it was lost.
    remote : object
        What the engine knows it by, where it is done.
    """

    name: str
    content: bytes
    needs: dict[str, Shared[Any]]
    future: Future[Any] = field(default_factory=Future)
    losses: int = 0
    remote: Any = None


class Engine(Executor):
    """An executor that knows what its tasks are about and sends what they share once.

    A subclass says in `_take` what it does with a task.
    """

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a function called by a worker."""
        return self.submit_named("a task", fn, *args, **kwargs)

    def submit_named(
        self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """As `submit`; the name says in messages what the task was about.

        Parameters
        ----------
        name
            Such as ids of stars.
        fn, *args, **kwargs
            What can be pickled; `Shared` values are sent once to each worker.

        Raises
        ------
        WorkerLostError
            If workers end as they start.
        RuntimeError
            After `shutdown`.
        """
        job = Job(name, *pack((fn, args, kwargs)))
        self._take(job)
        return job.future

    @abstractmethod
    def _take(self, job: Job) -> None:
        """Take a task in, to be done as soon as a worker has time."""

    @abstractmethod
    def release(self, key: str) -> None:
        """Let workers forget a shared value.

        Parameters
        ----------
        key
            Of the value.
        """
