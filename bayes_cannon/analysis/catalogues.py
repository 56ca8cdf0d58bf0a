"""One row per star: labels with formal and calibrated errors, checks, flags, a catalogue's values.

The table is made from a result of `bayes_cannon.infer`: an `xarray.DataTree` whose group
``posterior`` (formal) and, where the model error is known, ``calibrated_posterior`` hold one
variable per label with dims (chain, draw, star), and whose group ``star_stats`` holds what was
checked on every star.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import check_output, write_atomically
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
    moments_of,
    notes_of,
    posterior_names,
)
from bayes_cannon.inference.reference import reduced_chi2
from bayes_cannon.inference.tables import catalogue_name, labels_first, star_column, star_ids
from bayes_cannon.inference.units import known_labels, units_of_result, units_of_table
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import catalogue_column, rows_of
from bayes_cannon.surveys.reductions import NOTE, other_reductions, reductions_text

__all__ = [
    "CatalogueTable",
    "catalogue",
    "comparison",
    "write_catalogue",
]


_CHECKS: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType({
    "RHAT_MAX": (("rhat_max",), "largest R-hat of the labels"),
    "ESS_MIN": (("ess_bulk_min", "ess_tail_min"),
                "smallest effective sample size of the labels, bulk or tail"),
    "DIVERGENCES": (("divergences",), "divergent transitions after warm-up, -1: not sampled"),
    "CHI2_P": (("chi2_p",), "posterior predictive p-value of chi-square, were the model exact"),
})  # fmt: skip
"""Column: variables of the group ``star_stats`` (the smallest is taken), and what it is."""
_FITS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "N_PIXELS": ("used_pixels", "pixels used"),
        "CHI2_RANK": ("chi2_rank", "part of left-out training stars of its S/N fitted better"),
    }
)
"""Column: variable of ``star_stats``, and what it is; only where the result has it."""
_TERMS: Mapping[str, tuple[str, str, str]] = MappingProxyType({
    "SHIFT": ("shift", "km/s", "rest frame of the spectrum is off by, to the red"),
    "SHIFT_ERR": ("shift_sd", "km/s", "formal standard deviation of SHIFT"),
})  # fmt: skip
"""Column: variable of ``star_stats``, unit, and what it is; only of models with known terms."""
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
        (``APOGEE_ID``, ``SDSS_ID``; also ``meta["ID"]``), beside it other names of SDSS-V's stars
        (``APOGEE_ID``, ``GAIA_ID``) and, where the spectra are not all of the reduction that the
        model was trained on, ``REDUCTION`` (``meta["REDUCTN"]``, ``meta["REDUCMOD"]``); for each
        label ``NAME`` (posterior
        mean), ``NAME_ERR`` (calibrated standard deviation, NaN where the model error was not
        measured), ``NAME_FORMAL_ERR``,
        ``NAME_Q16``, ``NAME_Q50``, ``NAME_Q84``, ``NAME_ASPCAP``, ``NAME_ASPCAP_ERR``
        (or with the name of another catalogue, also ``meta["CATALOG"]``);
        ``RHAT_MAX``, ``ESS_MIN``, ``DIVERGENCES``, ``CHI2_P``, ``CHI2_RED`` (chi-square at the mode
        per independent pixel), ``N_PIXELS``, ``CHI2_RANK`` (NaN where the model was not
        cross-validated), ``SHIFT`` and ``SHIFT_ERR`` (km/s, by which the rest frame is off, of
        models with the known term ``shift``), ``LABEL_FLAG``, ``NAME_FLAG`` (`GridEdge`);
        ``LABEL_COV``, the covariance of the labels, shape (n_stars, n_labels, n_labels). Means,
        quantiles and covariances are those of the calibrated posterior where there is one, else of
        the formal one: ``meta["KIND"]`` says which. A star that failed has NaN and its flag.

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
    formal = moments_of(posterior, names)
    has_calibrated = "calibrated_posterior" in result.children
    main = moments_of(group_of(result, "calibrated_posterior"), names) if has_calibrated else formal
    kind = "calibrated" if has_calibrated else "formal"
    error = main.sd if has_calibrated else np.full_like(formal.sd, np.nan)
    star_id = posterior["star"].values.astype(np.str_)
    units = units_of_result(result, names)
    theirs = _aligned(star_id, names, known_labels(aspcap, units))

    key, their_name = id_name_of(result), name or catalogue_name(aspcap, result)
    their = catalogue_column(their_name)
    table = CatalogueTable()
    table[key] = star_id
    table[key].description = "name of the star"
    reductions = _add_notes(table, result)
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
                "formal standard deviation, of the model alone",
            ),
            f"{label}_Q16": (main.quantiles[0, :, i], f"16 % quantile of the {kind} posterior"),
            f"{label}_Q50": (main.quantiles[1, :, i], f"median of the {kind} posterior"),
            f"{label}_Q84": (main.quantiles[2, :, i], f"84 % quantile of the {kind} posterior"),
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
    table["LABEL_COV"] = main.cov
    table["LABEL_COV"].description = f"{kind} covariance of {', '.join(names)} in their units"
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


_NOTES = {
    "APOGEE_ID": "name of the star in SDSS-IV, of 2MASS kind",
    "GAIA_ID": "source_id of Gaia DR3",
    NOTE: "version of the survey's pipeline that made the spectrum",
}


def _add_notes(table: Table, result: xr.DataTree) -> dict[str, str]:
    """Columns of other names and of the reduction; meta data of the latter."""
    notes, trained = notes_of(result), model_reduction_of(result)
    seen = reductions_text(notes.get(NOTE, np.empty(0, np.str_)).tolist())
    for name, texts in notes.items():
        if name in table.colnames or (name == NOTE and seen in ("", trained) and "+" not in seen):
            continue
        table[name] = texts
        table[name].description = _NOTES.get(name, "noted by the reader of the survey")
    meta = {"REDUCTN": seen, "REDUCMOD": trained}
    return {name: text for name, text in meta.items() if text}


def _add_checks(table: Table, stats: xr.Dataset) -> None:
    flag = next((name for name in _FLAGS if name in stats), _FLAGS[-1])
    wanted = {name for names, _ in _CHECKS.values() for name in names} | {flag}
    if missing := sorted(wanted - {str(n) for n in stats.data_vars}):
        raise InvalidDataError(f"the group star_stats lacks {', '.join(missing)}.")
    for column, (variables, text) in _CHECKS.items():
        values = np.min([stats[name].values for name in variables], axis=0)
        if column == "DIVERGENCES":
            values = np.where(np.isfinite(values), values, -1).astype(np.int64)
        table[column] = values
        table[column].description = text
    if {"chi2", "independent_pixels"} <= set(stats.data_vars):
        table["CHI2_RED"] = reduced_chi2(stats)
        table["CHI2_RED"].description = "chi-square at the mode per independent pixel"
    for column, (name, text) in _FITS.items():
        if name in stats:
            table[column] = stats[name].values
            table[column].description = text
    for column, (name, unit, text) in _TERMS.items():
        if name in stats and column not in table.colnames:
            table[column] = stats[name].values
            table[column].unit = unit
            table[column].description = text
    table["LABEL_FLAG"] = stats[flag].values.astype(np.int64)
    meanings = str(stats[flag].attrs.get("flag_meanings", "")).split()
    masks = np.atleast_1d(stats[flag].attrs.get("flag_masks", []))
    table["LABEL_FLAG"].description = "bit mask of what was found, 0: nothing"
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


def write_catalogue(
    table: Table, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write ``catalogue.fits`` and ``catalogue.ecsv`` into a folder, each whole or not at all.

    Parameters
    ----------
    table
        From `catalogue`.
    folder
        Where to write; made if need be.
    overwrite
        Replace the files that are there.

    Returns
    -------
    tuple of Path
        The two files.

    Raises
    ------
    OutputExistsError
        If one of them exists and `overwrite` is false, or the folder cannot be written.
    """
    paths = (user_path(folder) / "catalogue.fits", user_path(folder) / "catalogue.ecsv")
    for path in paths:
        check_output(path, overwrite=overwrite)
    write_atomically(paths[0], lambda part: _write_fits(table, part), overwrite=overwrite)
    write_atomically(
        paths[1], lambda part: table.write(part, format="ascii.ecsv"), overwrite=overwrite
    )
    return paths


def _write_fits(table: Table, path: Path) -> None:
    """Write a FITS table; ``dex``, none of the FITS standard's units, goes into the description.

    FITS has ASCII alone: other signs of a star's name are written as Python escapes them.
    """
    bare = table.copy()
    key = star_column(table)
    bare[key] = np.char.encode(star_ids(table), "ascii", "backslashreplace")
    bare.meta = {}
    for column in bare.columns.values():
        column.unit = None
        column.description = None
    hdu = fits.table_to_hdu(bare)
    hdu.name = "CATALOGUE"
    for number, name in enumerate(table.colnames, start=1):
        unit, text = table[name].unit, table[name].description or ""
        if unit is not None and str(unit) == "dex":
            text = f"{text} [dex]"
        elif unit is not None and str(unit):
            hdu.header.set(f"TUNIT{number}", _ascii(str(unit)), after=f"TFORM{number}")
        hdu.header[f"TCOMM{number}"] = _ascii(text)
    for key, value in table.meta.items():
        hdu.header[key] = _ascii(value) if isinstance(value, str) else value
    if table.meta.get("SIMULATE"):
        hdu.header["HISTORY"] = "SIMULATED spectra: not observations"
    elif table.meta.get("SIMMODEL"):
        hdu.header["HISTORY"] = "The model was trained on SIMULATED spectra."
    if told := other_reductions(table):
        hdu.header["HISTORY"] = told
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def _ascii(text: str) -> str:
    """Text as a header of FITS can hold it."""
    return text.encode("ascii", "backslashreplace").decode()


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
            f"the {len(ours)} stars of the table and the {reference.n_stars} of the reference "
            "share no star, or no label."
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
