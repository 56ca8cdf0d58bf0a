"""Captions of figures that say what is seen in them, computed from the run."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from bayes_cannon.analysis.calibration import Check
from bayes_cannon.base.rounding import two_digits, value_with_error
from bayes_cannon.inference.tables import star_ids
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import rows_of

__all__ = [
    "calibration_caption",
    "factors_caption",
    "one_to_one_caption",
    "scatter_caption",
    "scores_caption",
]

_FEWEST = 10
_FAR = 3.0


def one_to_one_caption(table: Table, reference: Labels, what: str) -> str:
    """Slopes of the differences against the reference, where they are significant.

    Parameters
    ----------
    table
        Catalogue of the run.
    reference
        Labels compared with.
    what
        What the reference is called.
    """
    rows = rows_of(reference.star_id, star_ids(table))
    slopes = []
    for name in reference.names:
        if name not in table.colnames:
            continue
        ours = np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan)
        theirs = np.where(rows >= 0, reference[name][rows], np.nan)
        known = np.isfinite(ours) & np.isfinite(theirs)
        n = int(known.sum())
        if n < _FEWEST or np.ptp(theirs[known]) == 0:
            continue
        off, x = (ours - theirs)[known], theirs[known] - theirs[known].mean()
        slope = float(np.sum(x * off) / np.sum(x**2))
        left = off - off.mean() - slope * x
        error = float(np.sqrt(np.sum(left**2) / max(n - 2, 1) / np.sum(x**2)))
        if abs(slope) > _FAR * error:
            slopes.append(f"{shown_label(name)} {value_with_error(slope, error)}")
    trend = (
        f"The differences change with the label itself (slope per unit): {', '.join(slopes)}; "
        "negative ones are regression to the mean of the training set."
        if slopes
        else "No difference changes with its label by more than three errors of the slope."
    )
    return f"Labels of this work against {what}; below, the differences. {trend}"


def calibration_caption(check: Check, reference: str) -> str:
    """Coverage that was found, kind by kind.

    Parameters
    ----------
    check
        Of the run.
    reference
        Name of the reference.
    """
    parts = []
    for kind in dict.fromkeys(str(k) for k in check.coverage["KIND"]):
        rows = check.coverage[
            (check.coverage["KIND"] == kind) & (check.coverage["REFERENCE"] == reference)
        ]
        covers = ", ".join(
            f"{shown_label(str(r['LABEL']))} {100 * r['COVER_68']:.0f}" for r in rows
        )
        parts.append(f"{kind}: {covers} %")
    return (
        "Empirical coverage against nominal level, and PIT histograms. The 68 % intervals hold the "
        f"{reference} for {'; '.join(parts)} of the stars."
    )


def scores_caption(check: Check, reference: str) -> str:
    """How many bins are off.

    Parameters
    ----------
    check
        Of the run.
    reference
        Name of the reference.
    """
    bins = check.bins
    if len(bins) == 0:
        return "There are no bins with stars enough."
    bins = bins[(bins["KIND"] == check.judged) & (bins["REFERENCE"] == reference)]
    n = np.asarray(bins["N"], dtype=float)
    off = int(np.sum(np.abs(bins["MEAN"]) > _FAR / np.sqrt(n)))
    wide = int(np.sum(np.abs(np.asarray(bins["SD"]) - 1) > _FAR / np.sqrt(2 * (n - 1))))
    return (
        f"Mean (should be 0) and width (should be 1) of the {check.judged} scores in bins of "
        f"stars: of {len(bins)} bins, {off} means and {wide} widths are off by more than three "
        "standard errors."
    )


def scatter_caption(cannon: Cannon) -> str:
    """Level of the intrinsic scatter, and where it is largest.

    Parameters
    ----------
    cannon
        The model.
    """
    used = np.asarray(cannon.used, dtype=bool)
    scatter, where = cannon.scatter[used], cannon.wavelength[used]
    if scatter.size == 0:
        return "No pixel is used."
    peak = float(where[np.argmax(scatter)])
    return (
        f"Intrinsic scatter per pixel: the median is {two_digits(float(np.median(scatter)))}, "
        f"1 % of the pixels have more than {two_digits(float(np.quantile(scatter, 0.99)))}, and "
        f"the largest is {two_digits(float(scatter.max()))} at {peak:.1f} Å."
    )


def factors_caption(cannon: Cannon) -> str:
    """How much flux the factors move.

    Parameters
    ----------
    cannon
        The model.
    """
    rms = np.sqrt(np.mean(np.asarray(cannon.loadings, dtype=float) ** 2, axis=0))
    return (
        f"The {rms.size} loadings in order of their size: one standard deviation of a factor moves "
        f"the flux by {two_digits(float(rms.max()))} (rms over the pixels) for the largest and "
        f"{two_digits(float(rms.min()))} for the smallest. Lines are named where a loading, freed "
        "of its slow waves, is largest."
    )
