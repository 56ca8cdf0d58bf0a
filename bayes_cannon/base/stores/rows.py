"""Arrays on disk with a row a star, written block by block by one process or many, read in parts.

A folder in Zarr's layout: ``pixels/NAME`` are the arrays, (n_rows, n_columns) float32, in chunks of
`BLOCK` rows by `CHUNK` columns; ``progress/plan`` says what they are made of, ``progress/000000``
and so on note the blocks that are done with the sums of their files and facts of their rows, and
``progress/whole`` says that all is there. A block that was cut off is written again as a whole.

Measured on spectra of APOGEE (8 bytes a pixel and star): blosc with zstd 1 and bits shuffled takes
0.73 of the size (lz4 0.75, zstd 5 0.70 at four times the time of writing); chunks of 256 by 1024
give all pixels of 64 rows in 30 ms, and 256 pixels of 2048 rows in 50 ms, a second copy chunked by
pixels in 20 ms, which would double the size.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numcodecs import Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.locks import LOCK_NAME
from bayes_cannon.base.storage import told_writing
from bayes_cannon.base.stores.blocks import (
    block_files,
    damaged_file,
    mark_name,
    read_json,
    sums_of,
    write_json,
)
from bayes_cannon.base.stores.codecs import ZARR_FORMAT
from bayes_cannon.base.stores.folder import PROGRESS, BlockFolder
from bayes_cannon.errors import BayesCannonWarning, FileFormatError, OutputExistsError

__all__ = [
    "BLOCK",
    "CHUNK",
    "RowReader",
    "RowStore",
    "write_block",
]


BLOCK, CHUNK = 256, 1024
"""Rows and columns of a chunk; the rows of a chunk are a block."""
_PIXELS = "pixels"
_PLAN, _WHOLE = f"{PROGRESS}/plan", f"{PROGRESS}/whole"
_LEFT = ("progress/*.part", "*.partial", "*/*.partial", "*/*/*.partial")
_CONSOLIDATED = ".zmetadata"
_HEADS = {".zgroup", ".zattrs", _CONSOLIDATED}


class RowStore(BlockFolder):
    """Writer of such a folder, which is locked while the context lasts.

    Parameters
    ----------
    folder
        Of the arrays; made if need be.
    names
        Of the arrays.
    shape
        Numbers of rows and of columns.
    digest
        Of all that the arrays are made of; what was begun with another is not continued.
    overwrite
        Whether to delete what is there.

    Raises
    ------
    OutputExistsError
        On entering, if the folder holds something else, cannot be written, or another process
        writes it.
    FileFormatError
        On entering, if a description of the arrays is damaged.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        shape: tuple[int, int],
        *,
        digest: str,
        overwrite: bool = False,
    ) -> None:
        super().__init__(folder, shape[0], BLOCK)
        self._names, self._shape, self._overwrite = tuple(names), shape, overwrite
        self._plan = {"digest": digest, "n_rows": shape[0], "n_columns": shape[1], "block": BLOCK}

    @property
    def is_whole(self) -> bool:
        """Whether all is there, what `finish` writes included."""
        return read_json(self.folder / _WHOLE) is not None and not self.pending

    def facts(self) -> Iterator[dict[str, Any]]:
        """What was noted of the rows of each block, in their order."""
        for block in range(len(self.blocks)):
            yield (read_json(self._mark(block)) or {})["facts"]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the folder go; one in which nothing was done is removed."""
        if not self.is_whole and len(self.pending) == len(self.blocks):
            with suppress(OSError):
                self._clear()
        self._lock.close()
        with suppress(OSError):
            self.folder.rmdir()

    def finish(self, groups: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> None:
        """Write what is known of the rows beside the arrays, then note that all is there.

        Parameters
        ----------
        groups
            By name.
        attrs
            Say what it all is.

        Raises
        ------
        OutputExistsError
            If it cannot be written.
        """
        with told_writing(self.folder):
            (self.folder / _WHOLE).unlink(missing_ok=True)
            self._clear_groups()
            for name, group in groups.items():
                group.to_zarr(
                    self.folder, group=name, mode="w", zarr_format=ZARR_FORMAT, consolidated=False
                )
            zarr.open_group(self.folder, mode="r+", zarr_format=ZARR_FORMAT).attrs.put(dict(attrs))
            (self.folder / _CONSOLIDATED).unlink(missing_ok=True)
            depths = (".z*", "*/.z*", "*/*/.z*")
            heads = sorted(path for depth in depths for path in self.folder.glob(depth))
            heads.append(self._consolidate(heads))
            chunks = [p for group in self._groups() for p in group.glob("*/*") if p not in heads]
            sums = sums_of(self.folder, [*heads, *sorted(chunks)])
            write_json(self.folder / _WHOLE, {"digest": self._plan["digest"], "files": sums})

    def _consolidate(self, heads: Sequence[Path]) -> Path:
        """Write all descriptions into one file, by which other programs open the whole at once."""
        known = {p.relative_to(self.folder).as_posix(): read_json(p) for p in heads}
        path = self.folder / _CONSOLIDATED
        write_json(path, {"zarr_consolidated_format": 1, "metadata": known})
        return path

    def forget(self) -> None:
        """Note no block as done, where nothing can be made of them."""
        for block in range(len(self.blocks)):
            self._mark(block).unlink(missing_ok=True)

    def _groups(self) -> list[Path]:
        """Folders of the groups that `finish` writes."""
        folders = [p for p in self.folder.iterdir() if p.is_dir() and p.name != _PIXELS]
        return [p for p in folders if (p / ".zgroup").exists()]

    def _refuse_others(self) -> None:
        """Raise if the folder is there and holds something else, or what is made otherwise."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputExistsError(f"{self.folder} is a file; choose another path.")
        entries = {p.name for p in self.folder.iterdir()} - {LOCK_NAME}
        if not entries or (entries == {PROGRESS} and self._has_no_plan()):
            return
        known = read_json(self.folder / _PLAN)
        if known is None and not (self._overwrite and self._looks_like_one(entries)):
            raise OutputExistsError(
                f"{self.folder} is not empty and holds nothing that can go on; choose another "
                "path, or pass --overwrite if it is an old dataset."
            )
        if not self._overwrite and known != self._plan:
            raise OutputExistsError(
                f"{self.folder} holds a dataset that was made of something else, in another way "
                "or by another version; choose another path or pass --overwrite."
            )

    def _has_no_plan(self) -> bool:
        """Whether a process was cut off before it noted what it was to make."""
        return {p.name for p in (self.folder / PROGRESS).iterdir()} <= {"plan.part"}

    def _looks_like_one(self, entries: set[str]) -> bool:
        known = {_PIXELS, PROGRESS, *_HEADS, *(p.name for p in self._groups())}
        return bool(entries & {_PIXELS, PROGRESS}) and entries <= known

    def _make_ready(self) -> None:
        """Under the lock: clear what is to be overwritten, and what a killed process left."""
        self._refuse_others()
        if self._overwrite:
            self._clear()
        for pattern in _LEFT:
            for path in self.folder.glob(pattern):
                path.unlink()
        if len(self.pending) == len(self.blocks):
            self._lay_out()
        else:
            self._forget_damaged()

    def _lay_out(self) -> None:
        """Note what is to be made, then make the arrays, without their chunks."""
        (self.folder / PROGRESS).mkdir(exist_ok=True)
        (self.folder / _WHOLE).unlink(missing_ok=True)
        write_json(self.folder / _PLAN, self._plan)
        group = zarr.open_group(self.folder, mode="a", zarr_format=ZARR_FORMAT)
        pixels = group.require_group(_PIXELS)
        for name in self._names:
            pixels.create_array(
                name, shape=self._shape, chunks=(BLOCK, min(CHUNK, self._shape[1])),
                dtype="<f4", fill_value=0.0, overwrite=True,
                compressors=Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE),
                attributes={"_ARRAY_DIMENSIONS": ["row", "pixel"]},
            )  # fmt: skip

    def _forget_damaged(self) -> None:
        """Have blocks done again whose files were damaged or lost since."""
        whole = read_json(self.folder / _WHOLE)
        if file := damaged_file(self.folder, whole, whole=True):
            if file.startswith(_PIXELS):
                raise FileFormatError(
                    f"{self.folder / file} is damaged or lost; put it back from a copy, or pass "
                    "--overwrite to begin again."
                )
            write_json(self.folder / ".zgroup", {"zarr_format": ZARR_FORMAT})
            (self.folder / _WHOLE).unlink()
        hurt = self._hurt(self.folder)
        if not hurt:
            return
        (self.folder / _WHOLE).unlink(missing_ok=True)
        for block in hurt:
            self._mark(block).unlink()
        warnings.warn(
            f"{len(hurt)} of {count_text(len(self.blocks), 'block')} of {BLOCK} stars in "
            f"{self.folder} were damaged or lost; they are done again.",
            BayesCannonWarning,
            stacklevel=5,
        )

    def _clear(self) -> None:
        # The marks go first, so that a process killed here leaves no mark without its data.
        for name in (PROGRESS, _PIXELS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._clear_groups()
        for name in _HEADS:
            (self.folder / name).unlink(missing_ok=True)

    def _clear_groups(self) -> None:
        for group in self._groups():
            shutil.rmtree(group)


def write_block(
    folder: Path,
    block: int,
    arrays: Mapping[str, NDArray[np.float32]],
    facts: Mapping[str, Any],
    seconds: float,
) -> None:
    """Write one block of rows, then note it as done; processes may write blocks side by side.

    Parameters
    ----------
    folder
        Made ready by a `RowStore`.
    block
        Number of the block.
    arrays : mapping of str to (n_rows of the block, n_columns)
        By name.
    facts
        Of its rows: plain values.
    seconds
        That it took.

    Raises
    ------
    OutputExistsError
        If it cannot be written.
    """
    with told_writing(folder):
        for name, values in arrays.items():
            array = zarr.open_array(folder / _PIXELS / name, mode="r+", zarr_format=ZARR_FORMAT)
            first = block * array.chunks[0]
            array[first : first + len(values)] = values
        sums = sums_of(folder, block_files(folder, block, "row"))
        mark = folder / PROGRESS / mark_name(block)
        write_json(mark, {"seconds": round(seconds, 4), "files": sums, "facts": dict(facts)})


class RowReader:
    """Reads parts of a finished folder; files are checked against their sums when they are read.

    Parameters
    ----------
    folder
        Written by a `RowStore`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            path = self.folder / _PIXELS / name
            self._arrays[name] = zarr.open_array(path, mode="r", zarr_format=ZARR_FORMAT)
        return self._arrays[name]

    def read(
        self, name: str, rows: NDArray[np.intp], columns: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Read some rows and columns of an array; only their chunks are read.

        Parameters
        ----------
        name
            Of the array.
        rows : (n,) int
            In any order.
        columns
            That follow each other.

        Returns
        -------
        (n, n_columns) float32

        Raises
        ------
        FileFormatError
            If a file is damaged or lost.
        """
        array = self._array(name)
        first, last, _ = columns.indices(array.shape[1])
        out = np.empty((rows.size, max(0, last - first)), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        block, chunk = array.chunks
        numbers, starts = np.unique(rows[order] // block, return_index=True)
        ends = [*starts[1:].tolist(), rows.size]
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=False):
            mine = order[start:end]
            self._check(name, number, range(first // chunk, -(-last // chunk)))
            low, high = int(rows[mine[0]]), int(rows[mine[-1]]) + 1
            try:
                part = np.asarray(array[low:high, first:last])
            except Exception as error:  # whatever a strange chunk leads to
                raise self._damaged(f"{_PIXELS}/{name}/{number}") from error
            out[mine] = part[rows[mine] - low]
        return out

    def _check(self, name: str, block: int, chunks: range) -> None:
        mark = read_json(self.folder / PROGRESS / mark_name(block))
        if mark is None:
            raise self._damaged(f"{PROGRESS}/{mark_name(block)}")
        names = [f"{_PIXELS}/{name}/{block}.{chunk}" for chunk in chunks]
        noted = mark.get("files", {})
        for file in names:
            if file not in noted and (self.folder / file).exists():
                raise self._damaged(file)
        sums = {file: noted[file] for file in names if file in noted}
        if file := damaged_file(self.folder, {"files": sums}, whole=True):
            raise self._damaged(file)

    def _damaged(self, file: str) -> FileFormatError:
        return FileFormatError(
            f"{self.folder / file} is damaged or lost; run the command that made the dataset "
            "again, which mends it, or make it anew."
        )
