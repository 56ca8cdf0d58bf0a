"""A file for HDF5 to write into that survives a full disk."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

__all__ = ["Hdf5Sink"]


class Hdf5Sink(io.RawIOBase):
    """An unbuffered file for HDF5 that remembers the first failed write and goes on as if fine.

    HDF5 cannot close a file after a failed write: it ends the whole process by a segmentation
    fault. Here it never hears of one, and the writer asks for `failure` at the end.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb+", buffering=0)
        self._place = self._end = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def writable(self) -> bool:
        """It can be written."""
        return True

    def seekable(self) -> bool:
        """It can be sought."""
        return True

    def tell(self) -> int:
        """Place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another place; nothing is written."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read what is there, which is nothing where a write failed."""
        content = os.pread(self._file.fileno(), len(memoryview(buffer)), self._place)
        memoryview(buffer)[: len(content)] = content
        self._place += len(content)
        return len(content)

    def write(self, content: Any) -> int:
        """Write all of it, or remember why not."""
        left = memoryview(content).cast("B")
        size, place = len(left), self._place
        try:
            while self.failure is None and len(left):
                done = os.pwrite(self._file.fileno(), left, place)
                left, place = left[done:], place + done
        except OSError as error:
            self.failure = error
        self._place += size
        self._end = max(self._end, self._place)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut or stretch the file."""
        self._end = self._place if size is None else size
        try:
            if self.failure is None:
                os.ftruncate(self._file.fileno(), self._end)
        except OSError as error:
            self.failure = error
        return self._end

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
