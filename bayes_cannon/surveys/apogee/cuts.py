"""Choosing stars from a catalogue, one cut after the other, each counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.dataset import CutStep
from bayes_cannon.spectra.label_kinds import label_unit
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.catalogue import Catalogue
from bayes_cannon.surveys.reductions import reductions_of

__all__ = [
    "CutResult",
    "Cuts",
    "apply_cuts",
]


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cuts:
    """Which rows of a catalogue are good enough to train on; giants by default.

    Attributes
    ----------
    snr_min : float or None
        Smallest S/N per pixel; None cuts nothing, here and below. Unknown S/N is cut.
    logg_max : float or None
        Largest log g, dex.
    teff_max : float or None
        Largest effective temperature, K.
    feh_min : float or None
        Smallest [Fe/H], dex.
    aspcap_bad : tuple of int
        Bits of ASPCAPFLAG that exclude a star; 23 is STAR_BAD.
    star_bad : tuple of int
        Bits of STARFLAG that exclude a star: by default BAD_PIXELS, VERY_BRIGHT_NEIGHBOR,
        BAD_RV_COMBINATION and RV_FAIL. Stricter: also 4, 9, 17 and 23.
    drop_duplicates : bool
        Drop rows that EXTRATARG (bit 4) marks as another observation of a star; without such a
        column, in SDSS-V, all rows of a star but one: the one from Apache Point, and of several
        that with the highest S/N.
    require_labels : bool
        Drop stars that lack any of the labels. Without it, a star whose log g, Teff or [Fe/H] is
        missing passes the cut on it.
    result_bad : tuple of int
        Bits of RESULT_FLAGS, of SDSS-V's catalogue, that exclude a star, as does its FLAG_BAD.
    reductions : tuple of str
        Versions of the pipeline whose spectra are kept, such as ``'1.3'`` or ``'dr17'``. Empty
        keeps all, which then must be of one: spectra and labels of several are mixed by name only.

    Raises
    ------
    InvalidDataError
        On limits that are not numbers and bits that are not from 0 to 62.
    """

    snr_min: float | None = 50.0
    logg_max: float | None = 4.0
    teff_max: float | None = 5700.0
    feh_min: float | None = -1.0
    aspcap_bad: tuple[int, ...] = (23,)
    star_bad: tuple[int, ...] = (0, 3, 18, 22)
    drop_duplicates: bool = True
    require_labels: bool = True
    result_bad: tuple[int, ...] = ()
    reductions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("snr_min", "logg_max", "teff_max", "feh_min"):
            limit = getattr(self, name)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int | float | np.number):
                raise InvalidDataError(f"{name} must be a number or None, got {limit!r}.")
            if not np.isfinite(limit):
                raise InvalidDataError(f"{name} must be finite, got {limit}; None cuts nothing.")
            object.__setattr__(self, name, float(limit))
        wanted: Any = self.reductions
        named = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
        if not all(isinstance(name, str) and name for name in named):
            raise InvalidDataError(f"reductions must be names like '1.3', got {wanted!r}.")
        object.__setattr__(self, "reductions", tuple(name.lower() for name in named))
        for name in ("aspcap_bad", "star_bad", "result_bad"):
            given = getattr(self, name)
            given = () if given is None else given
            bits = (given,) if isinstance(given, int | np.integer) else _listed(name, given)
            if not all(_is_bit(b) for b in bits):
                raise InvalidDataError(f"{name} must be bit numbers from 0 to 62, got {bits}.")
            object.__setattr__(self, name, tuple(int(b) for b in bits))


def _is_bit(value: object) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and 0 <= int(value) <= 62  # type: ignore[call-overload]


def _listed(name: str, given: object) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidDataError(f"{name} must be bit numbers from 0 to 62, got {given!r}.")
    return tuple(given)


@dataclass(frozen=True, eq=False)
class CutResult:
    """Stars that passed all cuts, and the count of each cut.

    Attributes
    ----------
    keep : (n_rows,) bool
    rows : tuple of CutStep
        The first is the whole catalogue, and removes nothing.
    """

    keep: NDArray[np.bool_]
    rows: tuple[CutStep, ...]

    @property
    def n_kept(self) -> int:
        """Number of stars that passed."""
        return int(self.keep.sum())

    def table(self) -> Table:
        """Return the cuts as a table with a row for each."""
        return Table(
            {
                "CUT": np.array([s.name for s in self.rows], dtype=np.str_),
                "DESCRIPTION": np.array([s.description for s in self.rows], dtype=np.str_),
                "REMOVED": np.array([s.removed for s in self.rows], dtype=np.int64),
                "REMAINING": np.array([s.remaining for s in self.rows], dtype=np.int64),
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return `table` as a DataFrame."""
        return self.table().to_pandas()


@dataclass(frozen=True, eq=False)
class _Cut:
    """A cut before it is counted: the stars it rejects; None where a column is missing.

    One that depends on which stars are left is a function of these.
    """

    name: str
    description: str
    reject: NDArray[np.bool_] | Callable[[NDArray[np.bool_]], NDArray[np.bool_]] | None


def apply_cuts(
    catalogue: Catalogue,
    cuts: Cuts | None = None,
    label_names: Sequence[str] = DEFAULT_LABELS,
) -> CutResult:
    """Apply cuts to a catalogue, one after the other.

    A cut on a column that the catalogue lacks is not applied, and its step says so.

    Parameters
    ----------
    catalogue
        Of a survey.
    cuts
        None: the defaults of `Cuts`.
    label_names
        Labels that a star must have (see `Cuts.require_labels`).

    Returns
    -------
    CutResult

    Raises
    ------
    LabelError
        If the catalogue lacks one of the labels altogether.
    """
    keep = np.ones(len(catalogue), dtype=np.bool_)
    rows = [CutStep("catalogue", "all rows of the catalogue", 0, len(catalogue))]
    for cut in _cuts(catalogue, cuts or Cuts(), label_names):
        before = int(keep.sum())
        if cut.reject is not None:
            keep &= ~(cut.reject(keep) if callable(cut.reject) else cut.reject)
        remaining = int(keep.sum())
        rows.append(CutStep(cut.name, cut.description, before - remaining, remaining))
    return CutResult(keep, tuple(rows))


def _cuts(catalogue: Catalogue, cuts: Cuts, label_names: Sequence[str]) -> list[_Cut]:
    """All cuts that are asked for, in order."""
    found: list[_Cut] = []
    columns = catalogue.table.colnames
    if cuts.reductions:
        found.append(_reduction_cut(catalogue, cuts.reductions))
    unmarked = "EXTRATARG" not in columns and "REDUCTION" in columns
    for name, column, bits in (
        ("aspcap", "ASPCAPFLAG", cuts.aspcap_bad),
        ("result", "RESULT_FLAGS", cuts.result_bad),
        ("flag_bad", "FLAG_BAD", (0,) if cuts.result_bad and "FLAG_BAD" in columns else ()),
        ("star", "STARFLAG", cuts.star_bad),
        ("duplicate", "EXTRATARG", (4,) if cuts.drop_duplicates and not unmarked else ()),
    ):
        if bits:
            found.append(_flag_cut(catalogue, name, column, bits))
    if cuts.drop_duplicates and unmarked:
        found.append(_repeated_cut(catalogue))
    if cuts.snr_min is not None:
        found.append(
            _limit_cut(catalogue, "snr", "SNR", smallest=cuts.snr_min, unknown_passes=False)
        )
    passes = not cuts.require_labels
    if cuts.require_labels:
        labels = catalogue.labels(label_names)
        text = f"without a value of {', '.join(labels.names)}"
        found.append(_Cut("labels", text, ~labels.complete))
    for name, column, smallest, largest in (
        ("logg", "LOGG", None, cuts.logg_max),
        ("teff", "TEFF", None, cuts.teff_max),
        ("feh", "FE_H", cuts.feh_min, None),
    ):
        if smallest is not None or largest is not None:
            found.append(
                _limit_cut(
                    catalogue, name, column,
                    smallest=smallest, largest=largest, unknown_passes=passes,
                )
            )  # fmt: skip
    return found


def _flag_cut(catalogue: Catalogue, name: str, column: str, bits: Sequence[int]) -> _Cut:
    if column not in catalogue.table.colnames:
        return _Cut(name, f"not applied: no column {column}", None)
    wanted = np.int64(sum(1 << bit for bit in set(bits)))
    given = np.ma.asarray(catalogue.table[column])
    flags = np.ma.filled(given, 0).astype(np.int64)
    listed = ", ".join(str(b) for b in sorted(set(bits)))
    unknown = int(np.ma.getmaskarray(given).sum())
    text = f"{column} bit {listed}"
    if unknown:
        text += f" ({count_text(unknown, 'row')} without a value stay)"
    return _Cut(name, text, (flags & wanted) != 0)


def _reduction_cut(catalogue: Catalogue, wanted: Sequence[str]) -> _Cut:
    """Cut on the version of the pipeline that made a row's spectrum."""
    text = f"of another reduction than {' and '.join(wanted)}"
    return _Cut("reduction", text, ~np.isin(reductions_of(catalogue), wanted))


def _repeated_cut(catalogue: Catalogue) -> _Cut:
    """Cut all rows of a star but one: from Apache Point, then with the highest S/N."""
    table, n = catalogue.table, len(catalogue)
    star = np.asarray(table[catalogue.id_name]).astype(np.str_)
    blank = np.full(n, "", dtype=np.str_)
    place = (
        np.asarray(table["TELESCOPE"]).astype(np.str_) if "TELESCOPE" in table.colnames else blank
    )
    snr = plain_numbers(table["SNR"]) if "SNR" in table.colnames else np.zeros(n)
    order = np.lexsort((-np.nan_to_num(snr), np.strings.startswith(place, "lco")))

    def reject(keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        left = order[keep[order]]
        first = left[np.unique(star[left], return_index=True)[1]]
        out = np.ones(n, dtype=np.bool_)
        out[first] = False
        return out

    text = "another spectrum of the star: Apache Point is kept, then the highest S/N"
    return _Cut("duplicate", text, reject)


def _limit_cut(
    catalogue: Catalogue,
    name: str,
    column: str,
    *,
    smallest: float | None = None,
    largest: float | None = None,
    unknown_passes: bool,
) -> _Cut:
    """Cut on the value of a column; the limits themselves pass."""
    if column not in catalogue.table.colnames:
        return _Cut(name, f"not applied: no column {column}", None)
    values = plain_numbers(catalogue.table[column])
    unit = "" if column == "SNR" else f" {label_unit(column)}"
    passes = np.full(values.shape, True)
    if smallest is not None:
        text, passes = f"{column} < {smallest:g}{unit}", values >= smallest
    if largest is not None:
        text, passes = f"{column} > {largest:g}{unit}", values <= largest
    unknown = np.isnan(values)
    if unknown_passes:
        return _Cut(name, text, ~(passes | unknown))
    return _Cut(name, f"{text}, or unknown", ~passes)
