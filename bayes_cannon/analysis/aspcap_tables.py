"""Tables of a comparison with ASPCAP: errors in bins of S/N, pulls, stars that disagree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import chi2 as chi2_law
from scipy.stats import median_abs_deviation

from bayes_cannon.analysis.calibration import cover_error
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.tables import star_column, star_ids

__all__ = [
    "disagreement_table",
    "error_table",
    "pull_table",
    "snr_bins",
    "words",
]

_PER_BIN = 8
"""Least stars in a bin of S/N, where there are as many."""


def snr_bins(snr: FloatArray, n_bins: int) -> list[NDArray[np.bool_]]:
    """Stars of each bin of S/N, about equal numbers of them, in rising S/N; none unknown.

    Parameters
    ----------
    snr : (n_stars,) float64
        S/N per pixel, NaN where unknown.
    n_bins
        Number of bins, at most.

    Returns
    -------
    list of (n_stars,) bool
    """
    known = np.flatnonzero(np.isfinite(snr))
    if known.size == 0:
        return []
    n = max(1, min(n_bins, known.size // _PER_BIN))
    bins = []
    for part in np.array_split(known[np.argsort(snr[known], kind="stable")], n):
        here = np.zeros(snr.size, dtype=np.bool_)
        here[part] = True
        bins.append(here)
    return bins


def _median(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def error_table(
    names: tuple[str, ...],
    units: tuple[str, ...],
    snr: FloatArray,
    sd: Mapping[str, FloatArray],
    their_error: FloatArray,
    n_bins: int,
    catalogue: str = "ASPCAP",
) -> Table:
    """Median errors of each label in bins of S/N; see `AspcapComparison.errors`.

    Parameters
    ----------
    names, units
        Of the labels.
    snr : (n_stars,) float64
        S/N per pixel.
    sd
        Errors (n_stars, n_labels) by kind of posterior.
    their_error : (n_stars, n_labels) float64
        Of the catalogue.
    n_bins
        Bins of S/N.
    catalogue
        Name of the catalogue's column.
    """
    columns = (
        "LABEL",
        "UNIT",
        "SNR_LOW",
        "SNR_HIGH",
        "SNR",
        "N",
        "FORMAL",
        "CALIBRATED",
        catalogue,
    )
    kinds = ("U32", "U16", float, float, float, int, float, float, float)
    unknown = np.full(their_error.shape, np.nan)
    rows = []
    for i, (name, unit) in enumerate(zip(names, units, strict=True)):
        for here in snr_bins(snr, n_bins):
            part = snr[here]
            rows.append(
                (name, unit, part.min(), part.max(), float(np.median(part)), part.size,
                 *(_median(e[here, i]) for e in
                   (sd["formal"], sd.get("calibrated", unknown), their_error)))
            )  # fmt: skip
    out = Table(rows=rows or None, names=columns, dtype=kinds)
    for name in columns[2:]:
        out[name].info.format = "d" if name == "N" else ".3g"
    return out


def pull_table(
    names: tuple[str, ...],
    units: tuple[str, ...],
    pulls: Mapping[str, FloatArray],
    off: Mapping[str, FloatArray],
    sd: Mapping[str, FloatArray],
    their_error: FloatArray,
    catalogue: str = "ASPCAP",
) -> Table:
    """What the pulls of each label and kind are like; see `AspcapComparison.pulls`.

    Parameters
    ----------
    names, units
        Of the labels.
    pulls, off, sd
        Pulls, differences and errors (n_stars, n_labels) by kind of posterior.
    their_error : (n_stars, n_labels) float64
        Of the catalogue.
    catalogue
        Name of the catalogue in the column of its errors.
    """
    rows = []
    for i, (name, unit) in enumerate(zip(names, units, strict=True)):
        for kind, pull in pulls.items():
            known = np.isfinite(pull[:, i])
            head = {"LABEL": name, "UNIT": unit, "KIND": kind, "N": int(known.sum())}
            errors = {
                "ERR": _median(sd[kind][known, i]),
                f"{catalogue}_ERR": _median(their_error[known, i]),
            }
            rows.append(head | _moments(off[kind][known, i]) | errors | _pulls(pull[known, i]))
    out = Table(rows=rows)
    for name in out.colnames[4:]:
        out[name].info.format = ".3g"
    return out


def _moments(off: FloatArray) -> dict[str, float]:
    if off.size == 0:
        return {"BIAS": float("nan"), "RMS": float("nan")}
    return {"BIAS": float(off.mean()), "RMS": float(np.sqrt(np.mean(off**2)))}


def _pulls(pull: FloatArray) -> dict[str, float]:
    n, nan = pull.size, float("nan")
    found = {
        "PULL_MEAN": float(pull.mean()) if n else nan,
        "PULL_SD": float(pull.std(ddof=1)) if n > 1 else nan,
        "PULL_ROBUST_SD": float(median_abs_deviation(pull, scale="normal")) if n > 1 else nan,
    }
    for level in (0.68, 0.95):
        cover = float(np.mean(np.abs(pull) < ndtri(0.5 + level / 2))) if n else nan
        found[f"COVER_{100 * level:.0f}"] = cover
        found[f"COVER_{100 * level:.0f}_SE"] = cover_error(cover, n)
    return found


def words(names: list[str]) -> str:
    """Names of flags in a table's cell.

    Parameters
    ----------
    names
        Names of the flags that are set.
    """
    return " ".join(names) or "none"


def disagreement_table(
    table: Table,
    names: tuple[str, ...],
    off: FloatArray,
    their_error: FloatArray,
    pull: FloatArray,
    snr: FloatArray,
    archive: dict[str, list[str]],
) -> Table:
    """The stars, the one that disagrees most first; see `AspcapComparison.stars`.

    Parameters
    ----------
    table
        The catalogue of our labels.
    names
        Of the labels.
    off, their_error, pull : (n_stars, n_labels) float64
        Differences, the catalogue's errors, and pulls.
    snr : (n_stars,) float64
        S/N per pixel.
    archive
        Flags of the archive in words, by column.
    """
    cov = _covariances(table, names)
    rows, order = [], []
    key, ids = star_column(table), star_ids(table).tolist()
    for i in np.flatnonzero(np.isfinite(pull).any(axis=1)):
        k = np.flatnonzero(np.isfinite(pull[i]))
        joint = cov[i][np.ix_(k, k)] + np.diag(their_error[i, k] ** 2)
        chi2 = float(off[i, k] @ np.linalg.solve(joint, off[i, k]))
        worst = k[np.argmax(np.abs(pull[i, k]))]
        flags = [str(f.name) for f in LabelFlag if int(table["LABEL_FLAG"][i]) & f]
        rows.append(
            (ids[i], snr[i], k.size, chi2, float(chi2_law.sf(chi2, k.size)),
             names[worst], pull[i, worst], words(flags), *(c[i] for c in archive.values()))
        )  # fmt: skip
        order.append(float(chi2_law.logsf(chi2, k.size)))
    columns = (key, "SNR", "N_LABELS", "CHI2", "P", "WORST", "PULL", "FLAGS", *archive)
    out = Table(rows=[rows[j] for j in np.argsort(order, kind="stable")], names=columns)
    for name, digits in (("SNR", ".0f"), ("CHI2", ".1f"), ("P", ".2g"), ("PULL", "+.1f")):
        out[name].info.format = digits
    return out


def _covariances(table: Table, names: tuple[str, ...]) -> FloatArray:
    """Covariances of the labels, (n_stars, n_labels, n_labels); a DataFrame holds variances."""
    if "LABEL_COV" in table.colnames:
        return plain_numbers(table["LABEL_COV"])
    errors = np.stack([plain_numbers(table[f"{name}_ERR"]) for name in names], axis=1)
    formal = np.stack([plain_numbers(table[f"{name}_FORMAL_ERR"]) for name in names], axis=1)
    variances = np.where(np.isfinite(errors), errors, formal) ** 2
    return np.asarray(variances[:, :, None] * np.eye(len(names)))
