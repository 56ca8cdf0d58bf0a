"""Our uncertainties beside ASPCAP's: three kinds of errors, pulls, and who disagrees most.

Which error is which:

- **formal**: standard deviation of the posterior alone. It knows noise, intrinsic scatter,
  nuisance factors and uncertain coefficients, and is right only as far as the model is.
- **calibrated**: the formal posterior convolved with the model error, which cross-validation inside
  the training set measured from predicted less catalogue labels, once formal errors and the
  catalogue's quoted errors were taken off. So by construction it also holds what the catalogue's
  errors leave out, and it is relative to the catalogue's scale: errors that ASPCAP has for all
  such stars are in our labels as well, and in neither error. That pulls of held-out stars have a
  standard deviation near 1 says that the training stars stand for them, no more.
- **ASPCAP** (DR16, DR17): internal precision, found from repeat observations as a function of
  Teff, [M/H] and S/N; no covariances, and not accuracy. DR12 to DR14 quoted errors several times
  as large for the same spectra. Jönsson et al. 2020, AJ 160, 120;
  https://www.sdss4.org/dr17/irspec/parameters.

A pull is ours less ASPCAP's over both errors in quadrature. This takes the two as independent; but
ASPCAP used the same spectrum, so that real pulls may come out a little too small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.analysis.aspcap_tables import (
    disagreement_table,
    error_table,
    pull_table,
    words,
)
from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result, as_table
from bayes_cannon.inference.posterior import moments_in
from bayes_cannon.inference.tables import catalogue_name, star_ids
from bayes_cannon.inference.units import known_labels, units_of_table
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.label_kinds import shown_label, two_digits
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import catalogue_column, row_of, rows_of
from bayes_cannon.surveys.apogee.bits import ASPCAP_BITS, STAR_BITS, flag_names

__all__ = [
    "AspcapComparison",
    "aspcap_comparison",
]

_FLAGS = {"aspcapflag": ASPCAP_BITS, "starflag": STAR_BITS}


@dataclass(frozen=True, eq=False, repr=False)
class AspcapComparison(Carded):
    """Labels and errors of stars, ours and those of ASPCAP or another catalogue.

    Attributes
    ----------
    names, units : tuple of str
        Of the labels.
    star_id : (n_stars,) str
    snr : (n_stars,) float64
        S/N per pixel, NaN where unknown.
    mean, sd : mapping of str to (n_stars, n_labels) float64
        Posterior mean and standard deviation by kind: ``formal`` and, where there is one,
        ``calibrated``. NaN for stars without a posterior.
    aspcap, aspcap_error : (n_stars, n_labels) float64
        The catalogue's values and errors, NaN where it has none.
    errors : astropy.table.Table
        A row per label and bin of S/N: ``LABEL``, ``UNIT``, ``SNR_LOW``, ``SNR_HIGH``, ``SNR``
        (median), ``N`` stars, and medians of ``FORMAL``, ``CALIBRATED`` and ``ASPCAP`` errors (or
        the name of another catalogue, here and below).
        Empty where no S/N is known.
    pulls : astropy.table.Table
        A row per label and kind: ``LABEL``, ``UNIT``, ``KIND``, ``N`` stars with a pull, ``BIAS``
        and ``RMS`` of ours less ASPCAP's, median ``ERR`` and ``ASPCAP_ERR``; mean, standard
        deviation and robust one of the pulls (``PULL_MEAN``, ``PULL_SD``, ``PULL_ROBUST_SD``);
        ``COVER_68``, ``COVER_95``: share of pulls inside the central 68 and 95 % of the unit
        normal, each with its binomial error ``_SE``.
    stars : astropy.table.Table
        A row per star that can be compared, the one that disagrees most first: ``APOGEE_ID``,
        ``SNR``, ``N_LABELS``, ``CHI2`` of the difference in all labels under our covariance and
        the catalogue's errors, its probability ``P``, the label that is furthest off
        (``WORST``) with its ``PULL``, and ``FLAGS``, ``ASPCAPFLAG``, ``STARFLAG`` in words.
    simulated : bool
    catalogue : str
        Name of the catalogue.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    star_id: NDArray[np.str_]
    snr: FloatArray
    mean: Mapping[str, FloatArray]
    sd: Mapping[str, FloatArray]
    aspcap: FloatArray
    aspcap_error: FloatArray
    errors: Table
    pulls: Table
    stars: Table
    simulated: bool
    catalogue: str = "ASPCAP"

    @property
    def column(self) -> str:
        """Name of the catalogue in the names of columns."""
        return catalogue_column(self.catalogue)

    @property
    def kinds(self) -> tuple[str, ...]:
        """``formal`` and, where there is one, ``calibrated``."""
        return tuple(self.mean)

    @property
    def judged(self) -> str:
        """The kind that should be right: the calibrated one where there is one."""
        return self.kinds[-1]

    def pull(self, kind: str | None = None) -> FloatArray:
        """Pull, (this work − ASPCAP) / joint error, shape (n_stars, n_labels); NaN where unknown.

        Parameters
        ----------
        kind
            ``formal`` or ``calibrated``; left out, `judged`.

        Raises
        ------
        InvalidDataError
            If there is no posterior of this kind.
        """
        kind = kind or self.judged
        if kind not in self.mean:
            raise InvalidDataError(f"there is no {kind} posterior, only {', '.join(self.kinds)}.")
        joint = np.hypot(self.sd[kind], self.aspcap_error)
        return np.asarray((self.mean[kind] - self.aspcap) / joint)

    def row(self, star: str) -> int:
        """Row of a star.

        Parameters
        ----------
        star
            Name of the star.

        Raises
        ------
        InvalidDataError
            If the star is not there.
        """
        return row_of(self.star_id, star)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame, a row a star, its index the stars' names.

        Columns are ``SNR`` and for each label ``NAME``, ``NAME_ERR`` (calibrated where there is
        one, else formal), ``NAME_FORMAL_ERR``, the catalogue's ``NAME_ASPCAP`` and
        ``NAME_ASPCAP_ERR`` (or another name), and ``NAME_PULL``.
        """
        columns, pull, kind = {"SNR": self.snr}, self.pull(), self.judged
        for i, name in enumerate(self.names):
            columns |= {
                name: self.mean[kind][:, i],
                f"{name}_ERR": self.sd[kind][:, i],
                f"{name}_FORMAL_ERR": self.sd["formal"][:, i],
                f"{name}_{self.column}": self.aspcap[:, i],
                f"{name}_{self.column}_ERR": self.aspcap_error[:, i],
                f"{name}_PULL": pull[:, i],
            }
        key = self.stars.colnames[0]
        return pd.DataFrame(columns, index=pd.Index(self.star_id, name=key, dtype=object))

    def _facts(self) -> tuple[str, list[Row]]:
        rows = self.pulls[self.pulls["KIND"] == self.judged]
        pulls = [f"{shown_label(str(r['LABEL']))} {r['PULL_SD']:.2f}" for r in rows if r["N"]]
        worst = [f"{r[0]} ({shown_label(str(r['WORST']))}, {r['PULL']:+.1f})".replace("-", "−")
                 for r in self.stars[:3]]  # fmt: skip
        title = f"{count_text(len(self.stars), 'star')} compared with {self.catalogue}"
        return f"{title}{SIMULATED if self.simulated else ''}", [
            ("errors", " and ".join(self.kinds)),
            (f"sd of {self.judged} pulls", ", ".join(pulls)),
            ("furthest off", ", ".join(worst)),
        ]

    def describe(self) -> str:
        """Say in a few sentences which error is which and what the comparison found."""
        n = len(self.stars)
        text = [
            f"{n} star{'s' if n != 1 else ''} compared with {self.catalogue}"
            f"{' (SIMULATED: spectra and catalogue alike)' if self.simulated else ''}.",
            "Formal errors are those of the posterior alone: noise, intrinsic scatter, nuisance "
            "factors and uncertain coefficients.",
        ]
        if "calibrated" in self.kinds:
            text.append(
                "Calibrated errors add the model error, measured by cross-validation against the "
                "catalogue inside the training set; by construction they hold what the catalogue's "
                "quoted errors leave out there, and they are relative to its scale. Pulls of "
                "held-out stars near one say that the training stars stand for them, no more."
            )
        else:
            text.append(
                "The model error was not measured, so there are no calibrated errors; formal ones "
                "alone are too small."
            )
        text.append(
            "ASPCAP's errors are its internal precision from repeat observations, without "
            "covariances; they are not its accuracy."
            if self.catalogue == "ASPCAP"
            else f"The errors of {self.catalogue} are those that it quotes."
        )
        return " ".join([*text, *(self._found(kind) for kind in self.kinds)])

    def _found(self, kind: str) -> str:
        rows = self.pulls[self.pulls["KIND"] == kind]
        parts = [
            f"{r['LABEL']} {two_digits(r['ERR'])} {r['UNIT']} "
            f"({self.catalogue} {two_digits(r[f'{self.column}_ERR'])}; "
            f"pulls' standard deviation {r['PULL_SD']:.2f}, "
            f"{100 * r['COVER_68']:.0f} % within 68 %)"
            for r in rows
            if r["N"]
        ]
        return f"Median {kind} errors: {', '.join(parts)}." if parts else ""


def aspcap_comparison(
    result: GivenResult | Table,
    aspcap: KnownLabels | TrainingSet | None = None,
    *,
    snr: Mapping[str, float] | None = None,
    n_bins: int = 6,
) -> AspcapComparison:
    """Compare posteriors with ASPCAP's labels and errors.

    Parameters
    ----------
    result
        What `infer_labels` returned, a run's posteriors, or the table that `catalogue` made of
        them. A table holds one mean per label, which then stands for that of both kinds.
    aspcap
        The catalogue's labels, matched by star id; a `TrainingSet` brings S/N and the archive's
        flags with them. May be left out with a table that has them.
    snr
        S/N per pixel by star id, where `aspcap` does not bring it.
    n_bins
        Bins of S/N with equal numbers of stars, fewer where stars are few.

    Raises
    ------
    InvalidDataError
        If no star has both a posterior and a value with error in the catalogue, the result lacks
        its groups, or `n_bins` is not positive.
    """
    if n_bins < 1:
        raise InvalidDataError(f"at least one bin of S/N is needed, not {n_bins}.")
    given = as_table(result)
    draws = (
        as_result(result) if isinstance(getattr(result, "result", result), xr.DataTree) else None
    )
    if given is None:
        table = catalogue(as_result(result) if draws is None else draws, aspcap=aspcap)
    else:
        own = units_of_table(given, given.meta["LABELS"].split(","))
        labels = known_labels(aspcap, own)
        table = (
            given
            if labels is None
            else _with_catalogue(given, labels, catalogue_name(aspcap, given))
        )
    names = tuple(table.meta["LABELS"].split(","))
    star_id, their_name = star_ids(table), catalogue_name(aspcap, table)
    their = catalogue_column(their_name)
    mean, sd = _moments(draws, table, names)
    theirs, their_error = (_columns(table, names, f"_{their}{end}") for end in ("", "_ERR"))
    judged = list(mean)[-1]
    usable = np.isfinite((mean[judged] - theirs) * sd[judged] * their_error)
    if not usable.any():
        raise InvalidDataError(
            f"none of {count_text(star_id.size, 'star')} has both a posterior and a label with "
            "error in the catalogue; pass the labels of these stars with their errors (aspcap=, "
            "or columns NAME_ERR of the table that the dataset is made of)."
        )
    own_snr = _snr_of(star_id, aspcap, snr)
    units = tuple(units_of_table(table, names).values())
    pulls = {k: (mean[k] - theirs) / np.hypot(sd[k], their_error) for k in mean}
    return AspcapComparison(
        names, units, star_id, own_snr, mean, sd, theirs, their_error,
        error_table(names, units, own_snr, sd, their_error, n_bins, their),
        pull_table(names, units, pulls, {k: mean[k] - theirs for k in mean}, sd, their_error,
               their),
        disagreement_table(table, names, mean[judged] - theirs, their_error, pulls[judged], own_snr,
               _archive_flags(star_id, aspcap)),
        bool(table.meta.get("SIMULATE")), their_name,
    )  # fmt: skip


def _columns(table: Table, names: tuple[str, ...], suffix: str = "") -> FloatArray:
    """Columns of all labels, shape (n_stars, n_labels); NaN where masked."""
    return np.stack([plain_numbers(table[f"{n}{suffix}"]) for n in names], axis=1)


def _with_catalogue(table: Table, labels: Labels, their_name: str) -> Table:
    """The table with the catalogue's values put in anew."""
    out, their = table.copy(), catalogue_column(their_name)
    out.meta["CATALOG"] = their
    rows = rows_of(labels.star_id, star_ids(table))
    for name in table.meta["LABELS"].split(","):
        for suffix, values in (
            (f"_{their}", labels[name] if name in labels.names else None),
            (f"_{their}_ERR", labels.error(name) if name in labels.names else None),
        ):
            column = np.full(len(table), np.nan)
            if values is not None:
                column[rows >= 0] = values[rows[rows >= 0]]
            out[f"{name}{suffix}"] = column
    return out


def _moments(
    draws: xr.DataTree | None, table: Table, names: tuple[str, ...]
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Means and standard deviations by kind."""
    main = _columns(table, names)
    mean, sd = {"formal": main}, {"formal": _columns(table, names, "_FORMAL_ERR")}
    calibrated = _columns(table, names, "_ERR")
    if np.isfinite(calibrated).any():
        mean["calibrated"], sd["calibrated"] = main, calibrated
        if draws is not None:
            mean["formal"] = moments_in(draws, "posterior").mean
    return mean, sd


def _snr_of(
    star_id: NDArray[np.str_],
    aspcap: Labels | TrainingSet | None,
    snr: Mapping[str, float] | None,
) -> FloatArray:
    known = dict(snr or {})
    if isinstance(aspcap, TrainingSet):
        own = dict(zip(aspcap.star_id.tolist(), aspcap.spectra.snr.tolist(), strict=True))
        known = own | known
    return np.array([known.get(s, np.nan) for s in star_id.tolist()], dtype=np.float64)


def _archive_flags(
    star_id: NDArray[np.str_], aspcap: Labels | TrainingSet | None
) -> dict[str, list[str]]:
    """The archive's flags of each star in words, by column."""
    if not isinstance(aspcap, TrainingSet):
        return {}
    row = {star: i for i, star in enumerate(aspcap.star_id.tolist())}
    return {
        name.upper(): [
            words(flag_names(aspcap.info[name][row[s]], bits)) if s in row else ""
            for s in star_id.tolist()
        ]
        for name, bits in _FLAGS.items()
        if name in aspcap.info
    }
