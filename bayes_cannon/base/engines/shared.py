"""Values that many tasks need, sent to a worker once and not with every task.

A task holds a `Shared`. An engine of the package pickles tasks with `pack`, which leaves the
values of these out and says which they are; the engine brings each to every worker once. Another
executor's processes of this machine ask the process that gave the task for the value, once each,
through a socket that only processes descended from it can talk to; whoever else pickles a `Shared`
gets the value with it. No value is written to disk.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError, connection, current_process
from typing import Any, override
from uuid import uuid4

__all__ = [
    "Shared",
    "pack",
    "sharing",
    "unpack",
]

_PROTOCOL = 5
_KEPT = 4
"""Values of other runs that a process keeps."""


@dataclass(frozen=True, eq=False)
class Shared[T]:
    """A value that many tasks need.

    Attributes
    ----------
    value : T
    key : str
        Its own.
    address : str, tuple or None
        Where other processes of this machine ask for the value, which is then not pickled with
        the tasks.
    """

    value: T
    key: str
    address: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.address is None:
            return Shared, (self.value, self.key)
        return _Elsewhere, (self.address, self.key)


@dataclass(frozen=True, eq=False)
class _Elsewhere:
    """A `Shared` in another process than the one that gave the task, which is asked once.

    Not before the value is needed: a pool is broken by what cannot be unpickled.
    """

    address: Any
    key: str

    @property
    def value(self) -> Any:
        if self.key not in _known:
            with connection.Client(self.address, authkey=current_process().authkey) as line:
                good, value = line.recv()
            if not good:
                raise value
            _known[self.key] = value
            while len(_known) > _KEPT:
                _known.popitem(last=False)
        return _known[self.key]


_known: OrderedDict[str, Any] = OrderedDict()


class _Source:
    """Gives a value to processes that ask for it, each in a thread of its own.

    They prove by `multiprocessing`'s key, which a process inherits, that they descend from this
    one; nobody else is answered.
    """

    def __init__(self, value: Any) -> None:
        self._value, self._closed = value, False
        self._key = current_process().authkey
        try:
            self._listener = connection.Listener(backlog=64, authkey=self._key)
        except OSError:  # where the path of the folder for sockets is too long for one
            self._listener = connection.Listener(("127.0.0.1", 0), backlog=64, authkey=self._key)
        self._thread = threading.Thread(target=self._answer, name="shared value", daemon=True)
        self._thread.start()

    @property
    def address(self) -> Any:
        return self._listener.address

    def _answer(self) -> None:
        while not self._closed:
            with suppress(OSError, EOFError, AuthenticationError):
                line = self._listener.accept()
                threading.Thread(target=self._give, args=(line,), daemon=True).start()

    def _give(self, line: connection.Connection) -> None:
        try:
            content = pickle.dumps((True, self._value), _PROTOCOL)
        except Exception as error:  # of a class that another process cannot find, for one
            content = pickle.dumps((False, pickle.PicklingError(str(error))))
        with suppress(OSError), line:
            line.send_bytes(content)

    def close(self) -> None:
        """Answer nobody any more."""
        self._closed = True
        with suppress(OSError, EOFError):  # wakes the thread
            connection.Client(self.address, authkey=self._key).close()
        self._thread.join()
        self._listener.close()


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
    source = _Source(value) if isinstance(executor, ProcessPoolExecutor) else None
    key = uuid4().hex
    try:
        yield Shared(value, key, None if source is None else source.address)
    finally:
        release = getattr(executor, "release", None)
        if release is not None:
            release(key)
        if source is not None:
            source.close()


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
