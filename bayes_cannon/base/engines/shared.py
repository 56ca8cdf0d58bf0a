"""Values that many tasks need, sent to a worker once and not with every task.

A task holds a `Shared`. An engine of the package pickles tasks with `pack`, which leaves the
values of these out and says which they are; the engine brings each to every worker once. Another
executor's processes of this machine read the value from a file, once each; whoever else pickles a
`Shared` gets the value with it.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override
from uuid import uuid4

__all__ = [
    "Shared",
    "WorkerLostError",
    "pack",
    "sharing",
    "unpack",
]

_PROTOCOL = 5
_KEPT = 4
"""Values of other runs that a process keeps."""


class WorkerLostError(Exception):
    """Whoever did a task is gone, and so is the patience to have it done again.

    Its text says what happened and what to do, and stands before "at the work on …".
    """


@dataclass(frozen=True, eq=False)
class Shared[T]:
    """A value that many tasks need.

    Attributes
    ----------
    value : T
    key : str
        Its own.
    spool : Path or None
        File through which processes of this machine get the value; made when it is needed.
    """

    value: T
    key: str
    spool: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.spool is None:
            return Shared, (self.value, self.key)
        if not self.spool.exists():
            part = self.spool.with_suffix(f".{uuid4().hex}.part")
            part.write_bytes(pickle.dumps(self.value, _PROTOCOL))
            os.replace(part, self.spool)
        return _from_spool, (str(self.spool), self.key)


_read: OrderedDict[str, Shared[Any]] = OrderedDict()


def _from_spool(path: str, key: str) -> Shared[Any]:
    """Value of a file that the process which gave the task has written, read once."""
    if key not in _read:
        # In a folder that no other user can write to.
        _read[key] = Shared(pickle.loads(Path(path).read_bytes()), key)  # noqa: S301
        while len(_read) > _KEPT:
            _read.popitem(last=False)
    return _read[key]


@contextmanager
def sharing[T](executor: Executor | None, value: T) -> Iterator[Shared[T]]:
    """Share a value with the workers of an executor while the context lasts.

    Parameters
    ----------
    executor
        Whose tasks need it.
    value
        What can be pickled; not changed as long as the context lasts.
    """
    folder = None
    if isinstance(executor, ProcessPoolExecutor):
        folder = Path(tempfile.mkdtemp(prefix="bayes-cannon-"))
    key = uuid4().hex
    try:
        yield Shared(value, key, None if folder is None else folder / "value.pickle")
    finally:
        release = getattr(executor, "release", None)
        if release is not None:
            release(key)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.found: dict[str, Shared[Any]] = {}

    @override
    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, Shared):
            return None
        self.found[obj.key] = obj
        return obj.key


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: Mapping[str, Any]) -> None:
        super().__init__(file)
        self.known = known

    @override
    def persistent_load(self, pid: str) -> Shared[Any]:
        return Shared(self.known[pid], pid)


def pack(task: Any) -> tuple[bytes, dict[str, Shared[Any]]]:
    """Pickle a task without the values that it shares.

    Parameters
    ----------
    task
        What can be pickled.

    Returns
    -------
    content : bytes
    shared : dict of str to Shared
        What it shares, by key.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(task)
    return file.getvalue(), pickler.found


def unpack(content: bytes, known: Mapping[str, Any]) -> Any:
    """Unpickle what `pack` made, in a worker of ours.

    Parameters
    ----------
    content
        From `pack`.
    known
        Shared values by key.
    """
    return _Unpickler(io.BytesIO(content), known).load()
