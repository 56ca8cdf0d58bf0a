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
    fault, and so it may where it does not read back what it wrote. Here it never hears of one:
    from the first one on the file is kept in memory, and the writer asks for `failure` at the end.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb+", buffering=0)
        self._place = self._end = 0
        self._memory: bytearray | None = None
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
        """Read from the file, or from memory once a write has failed."""
        size, place = len(memoryview(buffer)), self._place
        if self._memory is None:
            content = os.pread(self._file.fileno(), size, place)
        else:
            content = bytes(self._memory[place : place + size])
        memoryview(buffer)[: len(content)] = content
        self._place += len(content)
        return len(content)

    def write(self, content: Any) -> int:
        """Write all of it, or remember why not."""
        data = memoryview(content).cast("B")
        left, place = data, self._place
        try:
            while self._memory is None and len(left):
                done = os.pwrite(self._file.fileno(), left, place)
                left, place = left[done:], place + done
        except OSError as error:
            self._fail(error)
        if self._memory is not None:
            self._stretch(self._place + len(data))
            self._memory[self._place : self._place + len(data)] = data
        self._place += len(data)
        self._end = max(self._end, self._place)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Cut or stretch the file."""
        self._end = self._place if size is None else size
        try:
            if self._memory is None:
                os.ftruncate(self._file.fileno(), self._end)
        except OSError as error:
            self._fail(error)
        if self._memory is not None:
            del self._memory[self._end :]
            self._stretch(self._end)
        return self._end

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _fail(self, error: OSError) -> None:
        """Go on in memory, from what the file holds."""
        self.failure = error
        self._memory = bytearray()
        while piece := os.pread(self._file.fileno(), 1 << 20, len(self._memory)):
            self._memory += piece
        self._stretch(self._end)

    def _stretch(self, size: int) -> None:
        assert self._memory is not None
        self._memory.extend(bytes(max(0, size - len(self._memory))))
