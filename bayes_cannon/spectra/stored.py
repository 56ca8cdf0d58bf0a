"""Prepared spectra that stay on disk and are read in parts: by blocks of stars, by pixels.

A dataset in Zarr's layout (``SET.zarr``) holds what the file of a `TrainingSet` holds, flux and
inverse variance in chunks (`bayes_cannon.base.stores.rows`); its stars' names, labels and other
facts are in memory, a few hundred bytes a star.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import Row, count_text, simulated_mark
from bayes_cannon.base.paths import has_ending, user_path
from bayes_cannon.base.stores.blocks import damaged_file, read_json
from bayes_cannon.base.stores.codecs import ZARR_FORMAT, refuse_codecs
from bayes_cannon.base.stores.rows import BLOCK, RowReader
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.spectra.dataset import FORMAT, FORMAT_VERSION, TrainingSet
from bayes_cannon.spectra.files.trees import from_tree
from bayes_cannon.spectra.spectra import (
    NormalizedSpectra,
    SpectraOnGrid,
    name_some,
)
from bayes_cannon.spectra.star_ids import DEFAULT_ID, refuse_repeated, some_simulated

__all__ = [
    "AnySpectra",
    "StoredSet",
    "StoredSpectra",
    "is_stored",
    "open_dataset",
]


@dataclass(frozen=True, eq=False, repr=False)
class StoredSpectra(SpectraOnGrid):
    """Normalised spectra on disk, of which parts are read when they are needed.

    Pickled, they are the path and which stars are meant: a process elsewhere that sees the same
    path reads its own. Files are checked against their sums whenever they are read.

    Attributes
    ----------
    path : Path
        Of the dataset.
    row : (n_stars,) int
        Rows of the stars in its arrays.
    n_good : (n_stars,) int
        Number of good pixels of each star.
    stamp : str
        Tells the dataset from one that is written to the same path later.
    star_id, wavelength, snr, chips, simulated, medium, id_name, notes
        See `NormalizedSpectra`.
    """

    path: Path
    row: NDArray[np.intp]
    star_id: NDArray[np.str_]
    wavelength: NDArray[np.float64]
    snr: NDArray[np.float64]
    n_good: NDArray[np.intp]
    chips: tuple[tuple[int, int], ...]
    simulated: bool = False
    medium: str = "vacuum"
    id_name: str = DEFAULT_ID
    notes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    stamp: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Path and rows alone; the other facts are read again where they are needed."""
        return _reopened, (str(self.path), self.stamp, _packed(self.row))

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Stars that have a good pixel, shape (n_stars,)."""
        return self.n_good > 0

    @property
    def flux(self) -> NDArray[np.float32]:
        """Not in memory: raises `InvalidDataError`, which says how to read it."""
        raise self._on_disk()

    @property
    def ivar(self) -> NDArray[np.float32]:
        """Not in memory, as `flux`."""
        raise self._on_disk()

    @property
    def good(self) -> NDArray[np.bool_]:
        """Not in memory, as `flux`."""
        raise self._on_disk()

    def _on_disk(self) -> InvalidDataError:
        return InvalidDataError(
            f"the spectra of {count_text(self.n_stars, 'star')} are on disk ({self.path}): "
            "read some by rows() or columns(), or all by in_memory()."
        )

    def _facts(self) -> tuple[str, list[Row]]:
        mark = simulated_mark(self.simulated_stars)
        title = f"StoredSpectra of {count_text(self.n_stars, 'star')}{mark}"
        on_disk = ("on disk", str(self.path))
        return title, [on_disk, *self._pixel_rows(), ("stars", name_some(self.star_id))]

    def _pixel_rows(self) -> list[Row]:
        return self._rows_of_grid(int(self.n_good.sum()), self.n_stars * self.n_pixels)

    def select(self, stars: ArrayLike | slice) -> Self:
        """Return some of the stars, still on disk.

        Parameters
        ----------
        stars
            Integer indices, a boolean mask of shape (n_stars,), a slice, or star ids.

        Raises
        ------
        InvalidDataError
            If one of them is not there, or comes twice.
        """
        index = stars if isinstance(stars, slice) else self.index_of(stars)
        if not isinstance(index, slice) and np.unique(index).size < index.size:
            refuse_repeated(self.star_id[index])
        notes = {n: text[index] for n, text in self.notes.items()}
        return replace(
            self, row=self.row[index], star_id=self.star_id[index], snr=self.snr[index],
            n_good=self.n_good[index], notes=notes,
            simulated=some_simulated(self.simulated, notes),
        )  # fmt: skip

    def part(self, rows: slice) -> Self:
        """Return spectra that follow each other, still on disk.

        Parameters
        ----------
        rows
            Of the stars.
        """
        return self.select(rows)

    def rows(self, rows: slice) -> NormalizedSpectra:
        """Read the spectra of stars that follow each other.

        Parameters
        ----------
        rows
            Of the stars.

        Raises
        ------
        FileFormatError
            If a file is damaged or lost.
        """
        mine = self.select(rows)
        flux, ivar = mine.columns(slice(None))
        return NormalizedSpectra(
            star_id=mine.star_id, wavelength=self.wavelength, flux=flux, ivar=ivar, snr=mine.snr,
            chips=self.chips, simulated=mine.simulated, medium=self.medium, id_name=self.id_name,
            notes=mine.notes,
        )  # fmt: skip

    def in_memory(self) -> NormalizedSpectra:
        """Read the spectra of all stars."""
        return self.rows(slice(None))

    def columns(
        self, pixels: slice, stars: ArrayLike | slice | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read a range of pixels of some stars; only the chunks that hold them are read.

        Parameters
        ----------
        pixels
            That follow each other.
        stars
            See `select`; all where left out.

        Returns
        -------
        flux, ivar : (n_stars, n_pixels) float32

        Raises
        ------
        FileFormatError
            If a file is damaged or lost.
        """
        rows = self.row if stars is None else self.select(stars).row
        reader = RowReader(self.path)
        return reader.read("flux", rows, pixels), reader.read("ivar", rows, pixels)

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Read ``flux`` or ``ivar`` of all stars block by block, in their order.

        Parameters
        ----------
        name
            Which of the two.

        Yields
        ------
        (n_stars of the block, n_pixels) float32
        """
        reader = RowReader(self.path)
        for start in range(0, self.n_stars, BLOCK):
            yield reader.read(name, self.row[start : start + BLOCK])


AnySpectra = NormalizedSpectra | StoredSpectra
"""Normalised spectra, in memory or on disk."""


@dataclass(frozen=True, eq=False, repr=False)
class StoredSet(TrainingSet):
    """A training set whose spectra stay on disk; from `open_dataset` or `prepare_to`.

    Choosing stars (`select`, `split`) reads nothing; what needs all pixels takes `in_memory`.

    Attributes
    ----------
    spectra : StoredSpectra
        On disk.
    labels, cut_steps, problems, settings, info
        As of a `TrainingSet`, in memory.
    """

    spectra: StoredSpectra  # type: ignore[assignment]  # what is not there says so when asked for
    _kind_of_spectra: ClassVar[type] = StoredSpectra

    @property
    def path(self) -> Path:
        """Of the dataset."""
        return self.spectra.path

    def in_memory(self) -> TrainingSet:
        """Read the spectra of all stars: a training set like that of a NetCDF file."""
        return TrainingSet(
            spectra=self.spectra.in_memory(), labels=self.labels, cut_steps=self.cut_steps,
            problems=self.problems, settings=self.settings, info=self.info,
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Open a dataset of Zarr's layout; its spectra stay on disk.

        Parameters
        ----------
        path
            Of its folder.

        Raises
        ------
        FileFormatError
            If it is missing, damaged, not finished, of another kind or of a newer format version.
        """
        folder = user_path(path).absolute()
        stamp = _checked(folder)
        try:
            return from_tree(_head(folder), cls, _spectra_of(folder, stamp))
        except FileFormatError:
            raise
        except Exception as error:  # whatever a strange folder leads to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FileFormatError(f"{path} lacks parts of a training set ({reason}).") from error


def is_stored(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of a dataset in Zarr's layout, whole or not, and of no other folder.

    Parameters
    ----------
    path
        Of a file or folder.
    """
    folder = user_path(path)
    heads = (".zgroup", ".zattrs", "zarr.json")
    return folder.is_dir() and (
        has_ending(folder, ".zarr") or any((folder / head).is_file() for head in heads)
    )


def open_dataset(path: str | os.PathLike[str]) -> TrainingSet:
    """Open a dataset: one of Zarr's layout as a `StoredSet`, whose spectra stay on disk.

    Parameters
    ----------
    path
        Of a NetCDF file, which is read into memory, or of a folder in Zarr's layout.

    Raises
    ------
    FileFormatError
        If it is missing, damaged, not finished, of another kind or of a newer format version.
    """
    return (StoredSet if is_stored(path) else TrainingSet).load(path)


def _checked(folder: Path) -> str:
    """Refuse what is no finished dataset; return its stamp."""
    if not folder.is_dir():
        raise FileFormatError(f"{folder} does not exist.")
    attrs, progress = read_json(folder / ".zattrs") or {}, folder / "progress"
    whole = read_json(progress / "whole")
    if whole is None and (progress / "plan").exists():
        raise FileFormatError(
            f"{folder} is not finished; run the command that makes it again, which goes on."
        )
    if attrs.get("format") != FORMAT:
        found = attrs.get("format") or "something else"
        raise FileFormatError(f"{folder} holds {found}, not {FORMAT}.")
    if attrs.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{folder} has format version {attrs.get('format_version')}, not {FORMAT_VERSION}; "
            "upgrade bayes_cannon to read it, or make it again."
        )
    hurt = "progress/whole" if whole is None else damaged_file(folder, whole, whole=True)
    if whole is None or hurt:
        raise FileFormatError(
            f"{folder / hurt} is damaged or lost; run the command that made the dataset again, "
            "which mends it, or make it anew."
        )
    return f"{zlib.crc32((progress / 'whole').read_bytes()):08x}"


def _head(folder: Path) -> xr.DataTree:
    """All but flux and ivar."""
    refuse_codecs(folder.glob("*/*/.zarray"), "dataset")
    groups = {"/": "stars", "/info": "info", "/notes": "notes"}
    tree = xr.DataTree.from_dict(
        {
            place: _plain(
                xr.open_zarr(
                    folder, group=name, chunks=None, consolidated=False, zarr_format=ZARR_FORMAT
                ).load()
            )
            for place, name in groups.items()
            if (folder / name).is_dir()
        }
    )
    tree.attrs.update(read_json(folder / ".zattrs") or {})
    return tree


def _plain(group: xr.Dataset) -> xr.Dataset:
    """A group with its texts and its order as those of a NetCDF file."""
    texts = {name: a.astype(object) for name, a in group.items() if a.dtype.kind == "T"}
    return group.assign(texts)[list(group.attrs["variables"])]


def _spectra_of(folder: Path, stamp: str) -> Any:
    def spectra(whole: xr.Dataset, facts: dict[str, Any]) -> StoredSpectra:
        row, n_good = (whole[name].values.astype(np.intp) for name in ("row", "n_good"))
        return StoredSpectra(path=folder, row=row, n_good=n_good, stamp=stamp, **facts)

    return spectra


def _packed(row: NDArray[np.intp]) -> tuple[int, bytes] | NDArray[np.intp]:
    """Which rows: a bit each where they increase, which is small; else their numbers."""
    if row.size == 0 or np.any(np.diff(row) <= 0):
        return row
    first = int(row[0])
    mask = np.zeros(int(row[-1]) - first + 1, dtype=np.bool_)
    mask[row - first] = True
    return first, zlib.compress(np.packbits(mask).tobytes(), 1)


def _unpacked(packed: tuple[int, bytes] | NDArray[np.intp]) -> NDArray[np.intp]:
    if isinstance(packed, np.ndarray):
        return packed
    first, bits = packed
    return first + np.flatnonzero(np.unpackbits(np.frombuffer(zlib.decompress(bits), np.uint8)))


@lru_cache(maxsize=4)
def _opened(path: str, stamp: str) -> StoredSpectra:
    return StoredSet.load(path).spectra


def _reopened(path: str, stamp: str, packed: tuple[int, bytes] | NDArray[np.intp]) -> StoredSpectra:
    """Open a dataset in the process that unpickles, once for all parts of it."""
    whole = _opened(path, stamp)
    if whole.stamp != stamp:
        raise FileFormatError(f"{path} was replaced by another dataset meanwhile; start again.")
    row = _unpacked(packed)
    return whole.select(np.searchsorted(whole.row, row))
