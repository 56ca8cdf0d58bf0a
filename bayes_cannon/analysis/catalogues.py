"""One row per star: labels with formal and calibrated errors, checks, flags, a catalogue's values.

The table is made from a result of `bayes_cannon.infer`: an `xarray.DataTree` whose group
``posterior`` (formal) and, where the model error is known, ``calibrated_posterior`` hold one
variable per label with dims (chain, draw, star), and whose group ``star_stats`` holds what was
checked on every star.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.analysis.catalogued.columns import FACTS, name_of_correlation, typed
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result, as_table
from bayes_cannon.inference.flags import GridEdge
from bayes_cannon.inference.posterior import (
    group_of,
    id_name_of,
    is_simulated,
    model_is_simulated,
    model_reduction_of,
    moments_in,
    notes_of,
    posterior_names,
)
from bayes_cannon.inference.reference import reduced_chi2
from bayes_cannon.inference.tables import catalogue_name, labels_first, star_column, star_ids
from bayes_cannon.inference.units import known_labels, units_of_result, units_of_table
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import catalogue_column, rows_of
from bayes_cannon.surveys.reductions import NOTE, reductions_text

__all__ = [
    "CatalogueTable",
    "catalogue",
    "comparison",
]


_CHECKS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "RHAT_MAX": ("rhat_max",),
    "ESS_MIN": ("ess_bulk_min", "ess_tail_min"),
    "DIVERGENCES": ("divergences",),
    "CHI2_P": ("chi2_p",),
})  # fmt: skip
"""Column: variables of the group ``star_stats``; the smallest is taken."""
_FITS: Mapping[str, str] = MappingProxyType(
    {
        "N_PIXELS": "used_pixels",
        "CHI2_RANK": "chi2_rank",
        "KHAT": "khat",
        "MAHALANOBIS": "mahalanobis",
    }
)
"""Column: variable of ``star_stats``; only where the result has it."""
_TERMS: Mapping[str, str] = MappingProxyType({"SHIFT": "shift", "SHIFT_ERR": "shift_sd"})
"""The same, of models with known terms."""
_FLAGS = ("label_flag", "status")
"""Variables of ``star_stats`` that hold the bit mask; the first that is there is taken."""


class CatalogueTable(Table):  # type: ignore[misc]
    """Table of a survey, as `catalogue` makes it; a `Table` that pandas can have, too.

    Printed or shown in a notebook it begins with the labels, and errors follow.
    """

    def __str__(self) -> str:
        return "\n".join(labels_first(self).pformat())

    def __repr__(self) -> str:
        return repr(labels_first(self))

    def _repr_html_(self) -> str:
        return str(labels_first(self)._repr_html_())

    def to_pandas(self, index: Any = None, use_nullable_int: bool = True) -> pd.DataFrame:
        """Return a DataFrame, its index the stars' names; without LABEL_COV, which is no column.

        What `meta` says is in ``attrs``, so that functions that take a catalogue take the frame.

        Parameters
        ----------
        index, use_nullable_int
            As for `astropy.table.Table.to_pandas`; left out, the stars' names are the index.
        """
        flat = Table(self[[name for name in self.colnames if self[name].ndim == 1]])
        key = star_column(self)
        frame = flat.to_pandas(key if index is None else index, use_nullable_int)
        names = str(self.meta.get("LABELS", "")).split(",")
        frame.attrs.update(self.meta, label_units=units_of_table(self, names))
        return frame


def _aligned(star_id: NDArray[np.str_], names: tuple[str, ...], labels: Labels | None) -> Labels:
    """Labels of the given stars and names; NaN for what is not known."""
    values, errors = np.full((2, star_id.size, len(names)), np.nan)
    if labels is not None and labels.n_stars:
        row = rows_of(labels.star_id, star_id)
        found = row >= 0
        for i, name in enumerate(names):
            if name in labels.names:
                values[found, i] = labels[name][row[found]]
                errors[found, i] = labels.error(name)[row[found]]
    return Labels(names, values, errors, star_id)


def catalogue(
    result: GivenResult, *, aspcap: KnownLabels | None = None, name: str | None = None
) -> CatalogueTable:
    """Make the table of a survey, one row per star.

    Parameters
    ----------
    result
        What `infer_labels` returned, whole or one star or chain of it; or a run, see `open_run`.
    aspcap
        The catalogue's labels, `Labels`, a `TrainingSet` or a table (see `arguments.as_labels`);
        matched by star id, NaN for stars and labels it lacks. Their units are converted.
    name
        Name of that catalogue, for its columns; left out, what `aspcap` or the result says, else
        ASPCAP.

    Returns
    -------
    CatalogueTable
        An `astropy.table.Table`. Names of the stars in a column named as the survey does
        (``APOGEE_ID``, ``SDSS_ID``), or ``STAR_ID`` with the survey's names beside it where these
        had to be made unique (``meta["ID"]`` says which); what the survey says of the star:
        ``APOGEE_ID``, ``GAIA_ID``, ``RA``, ``DEC``, ``TELESCOPE``, ``FIELD``, ``NVISITS``, ``SNR``,
        ``STARFLAG``, ``ASPCAPFLAG``, each where it is known, and, where the spectra are not all of
        the reduction that the model was trained on, ``REDUCTION`` (``meta["REDUCTN"]``,
        ``meta["REDUCMOD"]``); for each label ``NAME`` (posterior
        mean), ``NAME_ERR`` (calibrated standard deviation, NaN where the model error was not
        measured), ``NAME_FORMAL_ERR``,
        ``NAME_Q16``, ``NAME_Q50``, ``NAME_Q84``, ``NAME_ASPCAP``, ``NAME_ASPCAP_ERR``
        (or with the name of another catalogue, also ``meta["CATALOG"]``);
        ``RHAT_MAX``, ``ESS_MIN``, ``DIVERGENCES``, ``CHI2_P``, ``CHI2``, ``CHI2_RED`` (at the mode,
        per independent pixel), ``KHAT``, ``MAHALANOBIS``, ``N_PIXELS``, ``CHI2_RANK`` (NaN where
        the model was not cross-validated), ``SHIFT`` and ``SHIFT_ERR`` (km/s, by which the rest
        frame is off, of models with the known term ``shift``), ``LABEL_FLAG``, ``NAME_FLAG``
        (`GridEdge`); correlations
        such as ``TEFF_LOGG_CORR``; ``LABEL_COV``, the
        covariance of the labels, shape (n_stars, n_labels, n_labels). Means, quantiles and
        covariances are those of the calibrated posterior where there is one, else of the formal
        one: ``meta["KIND"]`` says which. A star that failed has NaN and its flag.

    Raises
    ------
    InvalidDataError
        If the result lacks its posterior, or its per-star checks, or `aspcap` holds no labels.
    LabelError
        If the unit of a label of `aspcap` cannot be converted, or a label is named like one of the
        columns.
    """
    result = as_result(result)
    names = posterior_names(result)
    posterior = group_of(result, "posterior")
    formal = moments_in(result, "posterior", names)
    has_calibrated = "calibrated_posterior" in result.children
    main = moments_in(result, "calibrated_posterior", names) if has_calibrated else formal
    kind = "calibrated" if has_calibrated else "formal"
    error = main.sd if has_calibrated else np.full_like(formal.sd, np.nan)
    star_id = posterior["star"].values.astype(np.str_)
    units = units_of_result(result, names)
    theirs = _aligned(star_id, names, known_labels(aspcap, units))

    notes = notes_of(result)
    own, their_name = id_name_of(result), name or catalogue_name(aspcap, result)
    # Names that were made unique stand apart from those that the survey knows.
    surveys = notes.get(own, star_id)
    made = bool(((surveys != star_id) & (surveys != "")).any())
    key = "STAR_ID" if made else own
    their = catalogue_column(their_name)
    table = CatalogueTable()
    table[key] = star_id
    table[key].description = FACTS["STAR_ID"].text if made else "name of the star"
    reductions = _add_notes(table, result, notes)
    for i, (label, unit) in enumerate(units.items()):
        theirs_there = {
            f"{label}_{their}": (theirs.values[:, i], f"value of the catalogue {their_name}"),
            f"{label}_{their}_ERR": (theirs.errors[:, i], f"its error in {their_name}"),
        }
        columns = {
            label: (main.mean[:, i], f"mean of the {kind} posterior"),
            f"{label}_ERR": (error[:, i], "calibrated standard deviation, model error included"),
            f"{label}_FORMAL_ERR": (
                formal.sd[:, i],
                "formal standard deviation, without the model error",
            ),
            f"{label}_Q16": (main.quantiles[0, :, i], f"quantile 0.16 of the {kind} posterior"),
            f"{label}_Q50": (main.quantiles[1, :, i], f"median of the {kind} posterior"),
            f"{label}_Q84": (main.quantiles[2, :, i], f"quantile 0.84 of the {kind} posterior"),
        }
        clash = [c for c in theirs_there if c in columns]
        columns |= theirs_there
        if clash := [*clash, *(c for c in columns if c in table.colnames)]:
            raise LabelError(
                f"the catalogue needs the column {clash[0]} twice; give the label {label} or the "
                f"catalogue {their_name} another name."
            )
        for column, (values, text) in columns.items():
            table[column] = values
            table[column].unit = unit
            table[column].description = text
    _add_checks(table, group_of(result, "star_stats"))
    _add_covariances(table, names, main.cov, kind)
    marks = {"SIMULATE": is_simulated(result), "SIMMODEL": model_is_simulated(result)}
    table.meta.update(
        ID=key,
        CATALOG=their,
        LABELS=",".join(names),
        UNITS=",".join(units.values()),
        KIND=kind,
        **marks,
        **reductions,
    )
    return table


def _add_notes(table: Table, result: xr.DataTree, notes: Mapping[str, Any]) -> dict[str, str]:
    """Columns of what the survey says of the stars, in a fixed order; meta data of reductions."""
    trained = model_reduction_of(result)
    seen = reductions_text(notes.get(NOTE, np.empty(0, np.str_)).tolist())
    order = list(FACTS)
    for name in sorted(notes, key=lambda n: order.index(n) if n in FACTS else len(FACTS)):
        if name in table.colnames or (name == NOTE and seen in ("", trained) and "+" not in seen):
            continue
        table[name] = typed(name, notes[name])
        _describe(table, name, "noted by the reader of the survey")
    meta = {"REDUCTN": seen, "REDUCMOD": trained}
    return {name: text for name, text in meta.items() if text}


def _describe(table: Table, name: str, otherwise: str = "") -> None:
    """Give a column its description and unit."""
    facts = FACTS.get(name)
    table[name].description = facts.text if facts else otherwise
    table[name].unit = (facts.unit or None) if facts else None


def _add_checks(table: Table, stats: xr.Dataset) -> None:
    flag = next((name for name in _FLAGS if name in stats), _FLAGS[-1])
    wanted = {name for names in _CHECKS.values() for name in names} | {flag}
    if missing := sorted(wanted - {str(n) for n in stats.data_vars}):
        raise InvalidDataError(f"the group star_stats lacks {', '.join(missing)}.")
    columns: dict[str, NDArray[Any]] = {
        name: np.min([stats[v].values for v in variables], axis=0)
        for name, variables in _CHECKS.items()
    }
    divergences = columns["DIVERGENCES"]
    sampled = np.isfinite(divergences)
    columns["DIVERGENCES"] = np.where(sampled, divergences, -1).astype(np.int64)
    if {"chi2", "independent_pixels"} <= set(stats.data_vars):
        columns["CHI2"] = stats["chi2"].values
        columns["CHI2_RED"] = reduced_chi2(stats)
    columns |= {name: stats[v].values for name, v in _FITS.items() if v in stats}
    terms = {name: stats[v].values for name, v in _TERMS.items() if v in stats}
    columns |= {name: values for name, values in terms.items() if name not in table.colnames}
    columns["LABEL_FLAG"] = stats[flag].values.astype(np.int64)
    for name, values in columns.items():
        table[name] = values
        _describe(table, name)
    meanings = str(stats[flag].attrs.get("flag_meanings", "")).split()
    masks = np.atleast_1d(stats[flag].attrs.get("flag_masks", []))
    if len(meanings) == len(masks):
        table.meta["FLAGS"] = ",".join(
            f"{int(bit)}={name}" for bit, name in zip(masks, meanings, strict=True)
        )
    if "grid_edge" in stats:
        for name in stats["label_name"].values.tolist():
            column = f"{name}_FLAG"
            table[column] = stats["grid_edge"].sel(label_name=name).values.astype(np.int64)
            table[
                column
            ].description = (
                f"1: {name} in the outer 1 % of the training labels, 2: beyond all of them"
            )
        table.meta["EDGEFLAG"] = ",".join(f"{int(bit)}={bit.name}" for bit in GridEdge)


def _add_covariances(table: Table, names: tuple[str, ...], cov: FloatArray, kind: str) -> None:
    """Correlations in columns of their own, for tools without array cells, and the covariance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
        correlation = cov / (sd[:, :, None] * sd[:, None, :])
    for (i, first), (j, second) in combinations(enumerate(names), 2):
        column = name_of_correlation(first, second)
        if column in table.colnames:
            continue
        table[column] = correlation[:, i, j]
        table[column].description = f"correlation of {first} and {second} in the {kind} posterior"
    table["LABEL_COV"] = cov
    table["LABEL_COV"].description = f"{kind} covariance of {', '.join(names)} in their units"


def comparison(table: Table | GivenResult, reference: KnownLabels) -> Table:
    """Compare labels with a reference (the catalogue's values, or the truth of a simulation).

    Parameters
    ----------
    table
        What `catalogue` made, or a result of inference.
    reference
        Labels to compare with (`Labels`, a `TrainingSet` or a table); matched by star id.

    Returns
    -------
    astropy.table.Table
        One row per label: ``LABEL``, ``UNIT``, ``N`` stars compared, ``BIAS`` (mean of ours minus
        reference), ``RMS`` about zero, ``ROBUST_SCATTER`` (1.4826 times the median absolute
        deviation), ``FORMAL_ERR`` and ``ERR`` (median formal and calibrated error, NaN where not
        known), all in the unit of the row.

    Raises
    ------
    InvalidDataError
        If no star or no label is in both.
    """
    known = as_table(table)
    ours = catalogue(table) if known is None else known
    units = units_of_table(ours, ours.meta["LABELS"].split(","))
    reference = known_labels(reference, units, "reference")
    if reference is None:
        raise InvalidDataError("there is no reference to compare with.")
    names = tuple(n for n in units if n in reference.names)
    star_id = star_ids(ours)
    if not names or not np.isin(star_id, reference.star_id).any():
        raise InvalidDataError(
            f"the {count_text(len(ours), 'star')} of the table and the {reference.n_stars} of the "
            "reference share no star, or no label."
        )
    theirs = _aligned(star_id, names, reference)
    rows = []
    for i, name in enumerate(names):
        difference = plain_numbers(ours[name]) - theirs.values[:, i]
        known = np.isfinite(difference)
        errors = (plain_numbers(ours[f"{name}_{kind}"])[known] for kind in ("FORMAL_ERR", "ERR"))
        rows.append(
            (
                name,
                units[name],
                int(known.sum()),
                *_summary(difference[known]),
                *map(_median, errors),
            )
        )
    columns = ("LABEL", "UNIT", "N", "BIAS", "RMS", "ROBUST_SCATTER", "FORMAL_ERR", "ERR")
    return Table(rows=rows, names=columns)


def _median(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _summary(difference: FloatArray) -> tuple[float, float, float]:
    """Bias, rms about zero, robust scatter."""
    if difference.size == 0:
        return (float("nan"),) * 3
    spread = median_abs_deviation(difference, scale="normal")
    return float(difference.mean()), float(np.sqrt(np.mean(difference**2))), float(spread)
