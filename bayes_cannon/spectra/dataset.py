"""Training set: normalised spectra with the catalogue labels of the same stars, and its file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import Carded, Row, count_text, range_text, simulated_mark
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.paths import has_ending, user_path
from bayes_cannon.base.storage import check_netcdf, read_tree, write_tree
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import catalogue_column

__all__ = [
    "CutStep",
    "Setting",
    "TrainingSet",
    "catalogue_name",
    "log_steps",
]


FORMAT = "bayes_cannon.dataset"
FORMAT_VERSION = 1
NAMED = "a dataset is a NetCDF file, .nc, or of many stars a folder, .zarr"
"""What files are to be called."""

Setting = str | int | float | bool


@dataclass(frozen=True, eq=False, repr=False)
class TrainingSet(Carded):
    """Normalised spectra and catalogue labels of the same stars, in the catalogue's order.

    Attributes
    ----------
    spectra : NormalizedSpectra
        Trimmed to the windows that are used.
    labels : Labels
        Catalogue labels with their errors; NaN where missing.
    cut_steps : tuple of CutStep
        How many stars each cut removed, those of reading included; of the whole survey, also
        after `select` and `split`.
    problems : tuple of StarProblem
        Stars that passed the cuts but could not be read.
    settings : mapping of str to str or number
        How it was made; `prepare_spectra` treats other spectra alike.
    info : mapping of str to (n_stars,) array
        ``apogee_id``, ``telescope``, ``field``, ``starflag``, … of each star.

    Raises
    ------
    InvalidDataError
        If spectra, labels and info are not of the same stars in the same order.
    """

    spectra: NormalizedSpectra
    labels: Labels
    cut_steps: tuple[CutStep, ...] = ()
    problems: tuple[StarProblem, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    info: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    _kind_of_spectra: ClassVar[type] = NormalizedSpectra

    def __post_init__(self) -> None:
        if not isinstance(self.spectra, self._kind_of_spectra):
            raise InvalidDataError(
                f"a training set needs NormalizedSpectra, not {type(self.spectra).__name__}; "
                "divide observed spectra by their continuum first (bayes_cannon.normalize)."
            )
        if not isinstance(self.labels, Labels):
            raise InvalidDataError(
                f"labels must be a Labels, not {type(self.labels).__name__}; "
                "training_set_from_arrays takes tables and mappings."
            )
        if not np.array_equal(self.spectra.star_id, self.labels.star_id):
            raise InvalidDataError(
                f"spectra of {count_text(self.spectra.n_stars, 'star')} and labels of "
                f"{self.labels.n_stars}: they must be of the same stars in the same order."
            )
        info = {name: _info_column(column) for name, column in (self.info or {}).items()}
        wrong = [name for name, c in info.items() if c.shape != (self.spectra.n_stars,)]
        if wrong:
            raise InvalidDataError(
                f"{', '.join(wrong)} of info must have shape ({self.spectra.n_stars},)."
            )
        object.__setattr__(self, "info", info)

    @property
    def star_id(self) -> NDArray[np.str_]:
        """Names of the stars, shape (n_stars,)."""
        return self.spectra.star_id

    @property
    def id_name(self) -> str:
        """What the column of the stars' names is called in tables, such as ``'APOGEE_ID'``."""
        return self.spectra.id_name

    @property
    def catalogue(self) -> str:
        """Name of the catalogue that the labels are of, as columns and figures have it.

        ``'ASPCAP'`` for APOGEE's; of a name that was given its letters and digits, in capitals;
        ``'CATALOGUE'`` where none was.
        """
        return catalogue_name(self.settings)

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return self.spectra.n_stars

    def __len__(self) -> int:
        return self.n_stars

    def _facts(self) -> tuple[str, list[Row]]:
        mark = simulated_mark(self.spectra.simulated_stars)
        labels, pixels = self.labels, dict(self.spectra._pixel_rows())
        ranges = ", ".join(
            f"{name} {range_text(labels[name], max(label_kind(name, unit).digits - 1, 0), unit)}"
            for name, unit in zip(labels.names, labels.units, strict=True)
        )
        snr, masked = pixels["S/N per pixel"], pixels["masked pixels"]
        whole = self.cut_steps[0].remaining if self.cut_steps else 0
        lacking = int((~labels.complete).sum())
        left = [f"{whole - self.n_stars} of {whole}" if whole > self.n_stars else ""]
        left += [f"{len(self.problems)} with problems" if self.problems else ""]
        left += [f"{count_text(lacking, 'star')} here without all labels" if lacking else ""]
        return f"TrainingSet of {count_text(self.n_stars, 'star')}{mark}", [
            ("pixels", pixels["pixels"]),
            ("quality", f"S/N {snr or 'unknown'}, {masked or 'none'} of the pixels masked"),
            ("labels", ranges),
            ("left out", "; ".join(filter(None, left))),
        ]

    def select(self, stars: ArrayLike) -> Self:
        """Return some of the stars, by integer indices, a boolean mask, or ids.

        Parameters
        ----------
        stars
            Row numbers, a mask of shape (n_stars,), or names.

        Raises
        ------
        InvalidDataError
            If one of them is not there.
        """
        index = self.spectra.index_of(stars)
        return replace(
            self,
            spectra=self.spectra.select(index),
            labels=self.labels.select(index),
            info={name: column[index] for name, column in self.info.items()},
        )

    def split(self, fraction: float, *, seed: int | None = None) -> tuple[Self, Self]:
        """Split at random into a part with `fraction` of the stars, and the rest.

        Which star goes where depends on the ids and the seed, not on the stars' order; each part
        keeps that order.

        Parameters
        ----------
        fraction
            Between 0 and 1.
        seed
            Of the random choice; None draws a fresh one. It is kept in the `settings` of both
            parts, as ``split_seed``.

        Raises
        ------
        InvalidDataError
            If the fraction is out of range, or one of the parts would be empty.
        """
        if not _is_number(fraction, int | float | np.number):
            raise InvalidDataError(f"the fraction of a split must be a number, got {fraction!r}.")
        seed = as_seed(seed)
        if not 0.0 < fraction < 1.0:
            raise InvalidDataError(
                f"the fraction of a split must be inside 0 to 1, not {fraction}."
            )
        n_first = round(fraction * self.n_stars)
        if not 0 < n_first < self.n_stars:
            raise InvalidDataError(
                f"a split of {count_text(self.n_stars, 'star')} at {fraction} leaves one part "
                "empty; use more stars or another fraction."
            )
        by_name = np.argsort(self.star_id, kind="stable")
        chosen = by_name[np.random.default_rng(seed).permutation(self.n_stars)[:n_first]]
        first = np.zeros(self.n_stars, dtype=np.bool_)
        first[chosen] = True
        whole = replace(self, settings={**self.settings, "split_seed": seed})
        return whole.select(first), whole.select(~first)

    def in_memory(self) -> TrainingSet:
        """Return the set itself, whose spectra are in memory; see `StoredSet`."""
        return self

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row a star: labels, their errors, S/N, and what else is known.

        Columns are those of `Labels.to_pandas`, ``SNR``, and those of `info` (named in capitals;
        one that is called as a label is left out). The index holds the stars' names.
        """
        frame = self.labels.to_pandas()
        known = {"SNR": self.spectra.snr}
        known |= {name.upper(): column for name, column in self.info.items()}
        for name, column in known.items():
            if name not in frame.columns and name != self.id_name:
                frame[name] = column
        return frame

    def cut_table(self) -> Table:
        """Return the table of cuts: step, description, stars removed and remaining."""
        return Table(
            rows=[(s.name, s.description, s.removed, s.remaining) for s in self.cut_steps],
            names=("cut", "description", "removed", "remaining"),
            dtype=("U32", "U200", "i8", "i8"),
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write as NetCDF, all or nothing, or in Zarr's layout; `load` gives back exactly the same.

        Parameters
        ----------
        path
            Of the file, ending with ``.nc``; or of a folder, ending with ``.zarr``, of which parts
            can be read (see `bayes_cannon.spectra.open_dataset`). A folder that was not finished
            is gone on with.
        overwrite
            Whether a file or dataset that is there is to be replaced.

        Returns
        -------
        Path

        Raises
        ------
        OutputExistsError
            If `path` exists and `overwrite` is false, or cannot be written.
        InvalidDataError
            If the name ends like a file of another format.
        """
        from bayes_cannon.spectra.files.storing import store_set
        from bayes_cannon.spectra.files.trees import to_tree, with_coordinates

        if has_ending(user_path(path), ".zarr"):
            return store_set(self, user_path(path), overwrite=overwrite)
        check_netcdf(path, NAMED, overwrite=overwrite)
        tree = with_coordinates(to_tree(self))
        return write_tree(
            tree, path, format_name=FORMAT, version=FORMAT_VERSION, overwrite=overwrite
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingSet:
        """Read what `save` or `prepare_to` wrote, into memory.

        Parameters
        ----------
        path
            Of the file or folder.

        Raises
        ------
        FileFormatError
            If it is missing, damaged, not finished, of another kind or of a newer format version.
        """
        from bayes_cannon.spectra.files.trees import from_tree, spectra_in_memory
        from bayes_cannon.spectra.stored import StoredSet, is_stored

        if is_stored(path):
            return StoredSet.load(path).in_memory()
        if (folder := user_path(path)).is_dir():
            raise FileFormatError(
                f"{folder} is a folder and no dataset; prepare a survey first: bayes-cannon "
                f"prepare {folder} -o DATASET.nc"
            )
        tree = read_tree(path, format_name=FORMAT, version=FORMAT_VERSION)
        try:
            return from_tree(tree, TrainingSet, spectra_in_memory)
        except Exception as error:  # whatever a strange file leads to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FileFormatError(f"{path} lacks parts of a training set ({reason}).") from error


def catalogue_name(settings: Mapping[str, Any]) -> str:
    """Name of the catalogue of a training set's labels, from its settings, as columns have it.

    Parameters
    ----------
    settings
        Of a training set.

    Examples
    --------
    >>> catalogue_name({"catalogue": "GALAH DR4"}), catalogue_name({"release": "dr17"})
    ('GALAH_DR4', 'ASPCAP')
    """
    given = settings.get("catalogue")
    if given is None:  # files of earlier versions: APOGEE's have a release
        apogee = "release" in settings or str(settings.get("labels", "")).startswith("APOGEE")
        given = "ASPCAP" if apogee else ""
    return catalogue_column(str(given))


def _is_number(value: object, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _info_column(column: Any) -> NDArray[Any]:
    """A column as a plain array; where it is masked, '' or NaN."""
    if hasattr(column, "to_numpy") and not isinstance(column, np.ndarray):
        column = column.to_numpy()
    if not np.ma.is_masked(column):
        return np.asarray(column)
    masked = np.ma.asarray(column)
    if masked.dtype.kind in "SU":
        return np.asarray(masked.filled(""))
    return np.ma.filled(masked.astype(np.float64), np.nan)


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CutStep:
    """One cut and what it did.

    Attributes
    ----------
    name : str
        Short name.
    description : str
        What was removed.
    removed, remaining : int
        Numbers of stars; those that an earlier cut removed are not counted again.
    """

    name: str
    description: str
    removed: int
    remaining: int


def log_steps(steps: Sequence[CutStep]) -> None:
    """Say on the log how many stars each step removed.

    Parameters
    ----------
    steps
        Cuts and what they did.
    """
    for step in steps:
        if step.removed:
            _log.info(
                "%s (%s): %d stars left out, %d remain",
                step.name, step.description, step.removed, step.remaining,
            )  # fmt: skip
