"""A lock on a folder, so that two processes do not write one run."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from contextlib import suppress
from types import TracebackType
from typing import Self

from bayes_cannon.errors import OutputExistsError
from bayes_cannon.user_paths import user_path

__all__ = ["LOCK_NAME", "FolderLock"]

LOCK_NAME = ".lock"
_log = logging.getLogger(__name__)
_NOT_SUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class FolderLock:
    """Lock of a folder: a file with the process's number, held while the context lasts.

    The operating system drops the lock of a process that dies, so that a file left behind by a
    killed process is no obstacle.

    Parameters
    ----------
    folder
        Must exist.

    Raises
    ------
    OutputExistsError
        On entering, if another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = user_path(folder) / LOCK_NAME
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock."""
        while self._file < 0:
            file = self._open()
            try:
                self._lock(file)
                # The holder before may have removed the file between the two calls above.
                if os.path.samestat(self.path.stat(), os.fstat(file)):
                    self._file = file
            except FileNotFoundError:
                pass
            finally:
                if self._file < 0:
                    os.close(file)
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the file and let the lock go."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self._file)
        self._file = -1

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputExistsError(
                f"cannot write {self.path.parent}: {error.strerror}."
            ) from error

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 32, 0).decode(errors="replace").strip()
            raise OutputExistsError(
                f"{self.path.parent} is being written by another process"
                + (f" (number {holder})" if holder else "")
                + "; wait for it or choose another path."
            ) from error
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _log.warning(
                "%s: this file system has no locks; do not write the run twice at once.",
                self.path.parent,
            )
