"""A lock on a folder, so that two processes do not write into it at once."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bayes_cannon.errors import OutputExistsError

__all__ = [
    "LOCK_NAME",
    "lock_folder",
]


LOCK_NAME = ".lock"
_log = logging.getLogger(__name__)
_NOT_SUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# A holder that lets go removes the file; who opened it before tries again.
_PATIENCE = 0.1


@contextmanager
def lock_folder(folder: str | os.PathLike[str], name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a folder's lock, a file with the process's number, while the context lasts.

    The operating system drops the lock of a process that dies, so that a file left behind by a
    killed process is no obstacle.

    Parameters
    ----------
    folder
        What is locked.
    name
        Path of the lock's file in `folder`; its directory is made.

    Raises
    ------
    OutputExistsError
        On entering, if another process holds the lock, or the folder cannot be written.
    """
    path = Path(folder) / name
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 4)
    except Timeout as error:
        raise OutputExistsError(
            f"{folder} is being written by another process{_holder(path)}; wait for it or choose "
            "another path."
        ) from error
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise OutputExistsError(f"cannot write {folder}: {error.strerror}.") from error
        _log.warning(
            "%s: this file system has no locks; do not write into it twice at once.", folder
        )
    # On a full disk the lock holds all the same, and Windows keeps others from the file.
    with suppress(OSError):
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):
        return f" (number {int(path.read_text(encoding='ascii', errors='replace'))})"
    return ""
