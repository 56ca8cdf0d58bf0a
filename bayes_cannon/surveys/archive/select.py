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

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import whole_number
from bayes_cannon.errors import DownloadError
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.archive.addresses import Release, check_field, check_star
from bayes_cannon.surveys.archive.catalogue import catalogue_columns

__all__ = [
    "MOST_STREAMS",
    "Request",
    "Selection",
    "check_limits",
    "select_spectra",
    "take_in_turn",
]


logger = logging.getLogger(__name__)

MOST_STREAMS = 4
"""Files at a time, at most: the archive asks for moderation."""

_LONGEST_NAME = 120


def _unique(given: Sequence[str], check: Callable[[str], str]) -> tuple[str, ...]:
    """Checked names, each once, in the order given."""
    return tuple(dict.fromkeys(check(name) for name in given))


def check_limits(limit: int | None, snr_min: float | None) -> tuple[int | None, float | None]:
    """Return a limit of the number and a least S/N, if they can be.

    Parameters
    ----------
    limit
        At most so many, from 1; None: all.
    snr_min
        Minimum S/N; None: any.

    Raises
    ------
    DownloadError, InvalidDataError
        If they cannot be.
    """
    if limit is not None:
        limit = whole_number(limit, "limit")
        if limit < 1:
            raise DownloadError(f"limit must be at least 1, got {limit}.")
    if snr_min is not None:
        number = isinstance(snr_min, int | float | np.number)
        if not number or isinstance(snr_min, bool) or not np.isfinite(snr_min):
            raise DownloadError(f"snr_min must be a number or None, got {snr_min!r}.")
    return limit, snr_min


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
        Minimum S/N per pixel.
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
        limit, snr_min = check_limits(self.limit, self.snr_min)
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "snr_min", snr_min)
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
        keep = take_in_turn(np.asarray(table["FIELD"]), keep, request.limit)
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
                f"{count_text(len(table), 'row')} whether to keep it."
            )
        return keep
    from bayes_cannon.surveys.apogee.allstar import read_allstar
    from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts

    if not isinstance(cuts, Cuts):
        raise DownloadError(f"cuts must be a Cuts or a function, got {type(cuts).__name__}.")
    result = apply_cuts(read_allstar(catalogue, labels=labels), cuts, labels)
    return np.asarray(result.keep, dtype=bool)


def take_in_turn(
    groups: NDArray[np.generic], keep: NDArray[np.bool_], limit: int
) -> NDArray[np.bool_]:
    """Keep at most so many rows: the first of every group, then the second, and so on.

    Parameters
    ----------
    groups : (n_rows,)
        Field, or the like, of each row.
    keep : (n_rows,) bool
        Rows to take from.
    limit
        At most so many.

    Returns
    -------
    (n_rows,) bool

    Examples
    --------
    >>> take_in_turn(np.array([1, 1, 1, 2]), np.ones(4, dtype=bool), 2).tolist()
    [True, False, False, True]
    """
    chosen = np.flatnonzero(keep)
    _, group = np.unique(groups[chosen], return_inverse=True)
    turn = np.zeros(chosen.size, dtype=int)
    for code in np.unique(group):
        turn[group == code] = np.arange(np.sum(group == code))
    limited = np.zeros_like(keep)
    limited[chosen[np.argsort(turn, kind="stable")[:limit]]] = True
    return limited
