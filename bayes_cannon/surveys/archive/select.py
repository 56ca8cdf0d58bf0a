"""Which spectra to download: from what was asked for, through the catalogue, to a list."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.columns import whole_number
from bayes_cannon.errors import DownloadError
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.archive.addresses import Release, check_field, check_star
from bayes_cannon.surveys.archive.catalogue import catalogue_columns

__all__ = [
    "MOST_STREAMS",
    "Request",
    "Selection",
    "select_spectra",
]


logger = logging.getLogger(__name__)

MOST_STREAMS = 4
"""Files at a time, at most: the archive asks for moderation."""

_LONGEST_NAME = 120


def _unique(given: Sequence[str], check: Callable[[str], str]) -> tuple[str, ...]:
    """Checked names, each once, in the order given."""
    return tuple(dict.fromkeys(check(name) for name in given))


@dataclass(frozen=True)
class Request:
    """What to download.

    Attributes
    ----------
    release : Release
    fields, stars : tuple of str
        Names of fields, ids of single stars.
    labels : tuple of str
        Labels that the catalogue gets.
    limit : int, optional
        At most so many spectra.
    snr_min : float, optional
        Least S/N per pixel.
    cuts : Cuts or callable, optional
        See `download_survey`.

    Raises
    ------
    DownloadError
        On names that cannot be those of fields or stars, none of either, a limit below 1.
    LabelError
        On names that cannot be those of labels.
    """

    release: Release
    fields: tuple[str, ...]
    stars: tuple[str, ...]
    labels: tuple[str, ...]
    limit: int | None = None
    snr_min: float | None = None
    cuts: object | None = None

    def __post_init__(self) -> None:
        if not self.fields and not self.stars:
            raise DownloadError("name at least one field or star to download.")
        if self.limit is not None:
            object.__setattr__(self, "limit", whole_number(self.limit, "limit"))
            if self.limit < 1:
                raise DownloadError(f"limit must be at least 1, got {self.limit}.")
        if self.snr_min is not None:
            number = isinstance(self.snr_min, int | float | np.number)
            if not number or isinstance(self.snr_min, bool) or not np.isfinite(self.snr_min):
                raise DownloadError(f"snr_min must be a number or None, got {self.snr_min!r}.")
        from bayes_cannon.surveys.apogee.cuts import Cuts

        if self.cuts is not None and not isinstance(self.cuts, Cuts) and not callable(self.cuts):
            raise DownloadError(
                f"cuts must be a Cuts or a function, got {type(self.cuts).__name__}."
            )
        object.__setattr__(self, "fields", _unique(self.fields, check_field))
        object.__setattr__(self, "stars", _unique(self.stars, check_star))
        catalogue_columns(self.release, self.labels)

    def catalogue_name(self) -> str:
        """Name of the catalogue's file: the release, the fields, the stars."""
        joined = "_".join((*self.fields, *self.stars))
        if len(joined) > _LONGEST_NAME:
            digest = hashlib.sha1(joined.encode(), usedforsecurity=False).hexdigest()[:8]
            joined = f"{joined[: _LONGEST_NAME - 9]}_{digest}"
        return f"allStar-{self.release.name}-{joined}.fits"

    def absent_stars(self, table: Table) -> list[str]:
        """Stars asked for that the catalogue does not have.

        Parameters
        ----------
        table
            Catalogue of the fields and stars.

        Raises
        ------
        DownloadError
            If it does not have one of the fields.
        """
        known = set(np.asarray(table["FIELD"]).tolist())
        absent = [field for field in self.fields if field not in known]
        if absent:
            raise DownloadError(
                f"the catalogue of {self.release.name} has no stars in the field"
                f"{'s' * (len(absent) > 1)} {name_some(absent)}; check the spelling, capitals too."
            )
        ids = set(np.asarray(table["APOGEE_ID"]).tolist())
        return [star for star in self.stars if star not in ids]


@dataclass(frozen=True)
class Selection:
    """Rows of the catalogue whose spectra are wanted.

    Attributes
    ----------
    keep : (n_rows,) bool
    steps : tuple of (str, int)
        Each condition, and how many rows were left after it.
    """

    keep: NDArray[np.bool_]
    steps: tuple[tuple[str, int], ...]


def select_spectra(table: Table, catalogue: Path, request: Request) -> Selection:
    """Apply S/N, cuts and limit to a catalogue, one after the other.

    The cuts spare the stars that were asked for by name.

    Parameters
    ----------
    table : astropy.table.Table
        From `catalogue.make_table`.
    catalogue : Path
        The same as a file, for the package's own cuts.
    request : Request
    """
    keep = np.ones(len(table), dtype=bool)
    steps = [("rows of the catalogue", int(keep.sum()))]
    if request.snr_min is not None:
        keep &= np.asarray(table["SNR"]) >= request.snr_min
        steps.append((f"SNR >= {request.snr_min:g}", int(keep.sum())))
    if request.cuts is not None:
        # A star asked for by its name is wanted even where it would not do for training.
        named = np.isin(np.asarray(table["APOGEE_ID"]), np.array(request.stars, dtype=np.str_))
        keep &= _apply_cuts(request.cuts, table, catalogue, request.labels) | named
        steps.append(("cuts", int(keep.sum())))
    if request.limit is not None:
        keep = _first_of_each_field(table, keep, request.limit)
        steps.append((f"at most {request.limit}", int(keep.sum())))
    for step, n_rows in steps:
        logger.info("%s: %d", step, n_rows)
    return Selection(keep, tuple(steps))


def _apply_cuts(
    cuts: object, table: Table, catalogue: Path, labels: Sequence[str]
) -> NDArray[np.bool_]:
    """Rows that pass the package's cuts, or a function of the table."""
    if callable(cuts):
        keep = np.asarray(cuts(table), dtype=bool)
        if keep.shape != (len(table),):
            raise DownloadError(
                f"cuts returned an array of shape {keep.shape}; it must say of each of the "
                f"{len(table)} rows whether to keep it."
            )
        return keep
    from bayes_cannon.surveys.apogee.allstar import read_allstar
    from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts

    if not isinstance(cuts, Cuts):
        raise DownloadError(f"cuts must be a Cuts or a function, got {type(cuts).__name__}.")
    result = apply_cuts(read_allstar(catalogue, labels=labels), cuts, labels)
    return np.asarray(result.keep, dtype=bool)


def _first_of_each_field(table: Table, keep: NDArray[np.bool_], limit: int) -> NDArray[np.bool_]:
    """Keep at most `limit` rows: the first of every field, then the second, and so on."""
    chosen = np.flatnonzero(keep)
    _, field = np.unique(np.asarray(table["FIELD"])[chosen], return_inverse=True)
    turn = np.zeros(chosen.size, dtype=int)
    for code in np.unique(field):
        turn[field == code] = np.arange(np.sum(field == code))
    limited = np.zeros_like(keep)
    limited[chosen[np.argsort(turn, kind="stable")[:limit]]] = True
    return limited
