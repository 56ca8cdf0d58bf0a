"""What a run found, in words: the first section of a report, five sentences computed from it.

Captions of figures that say what is seen in them, computed as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from astropy.table import Table

from bayes_cannon.analysis.calibration import Check
from bayes_cannon.analysis.catalogues import comparison
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.numerical import slope_of
from bayes_cannon.base.rounding import two_digits, value_with_error
from bayes_cannon.inference.flags import LabelFlag, is_flagged, severity
from bayes_cannon.inference.tables import star_ids
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.report.inputs import ReportInputs, column
from bayes_cannon.runs.report.page import Listing
from bayes_cannon.runs.report.parts import Item, distance_from_catalogue, furthest_label
from bayes_cannon.runs.report.registry import section
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import rows_of

__all__ = [
    "calibration_caption",
    "factors_caption",
    "findings",
    "one_to_one_caption",
    "scatter_caption",
    "scores_caption",
]


_WIDE = 0.03
"""By how much a coverage of 68 % is off before intervals are called too wide or too narrow."""
_FAR = 3.0
_WORST = 3
_SIGNIFICANT = 3.0


@section(
    "findings", "Findings", "What this run says, before its figures and tables.", order=5,
)  # fmt: skip
def findings(inputs: ReportInputs) -> Iterator[Item]:
    """Accuracy, calibration, edges, the worst stars and what failed, a sentence each."""
    makers = (_accuracy, _calibration, _edges, _worst, _failed)
    yield Listing([(title, text) for title, text in (make(inputs) for make in makers) if text])


def _accuracy(inputs: ReportInputs) -> tuple[str, str]:
    """Scatter about the truth of a simulation, else about the catalogue."""
    reference = inputs.truth if inputs.truth is not None else inputs.aspcap
    if reference is None:
        return "Accuracy", "There are no catalogue labels to compare with."
    what = "the truth of the simulation" if inputs.truth is not None else inputs.catalogue
    rows = comparison(inputs.table, reference)
    parts = [
        f"{two_digits(float(r['ROBUST_SCATTER']))} {_unit(r)} in {shown_label(str(r['LABEL']))}"
        for r in rows
    ]
    biased = []
    for r in rows:
        error = float(r["RMS"]) / np.sqrt(int(r["N"]))
        if abs(r["BIAS"]) > _SIGNIFICANT * error:
            bias = value_with_error(float(r["BIAS"]), error)
            biased.append(f"{shown_label(str(r['LABEL']))} {bias} {_unit(r)}".rstrip())
    tail = "; no label is biased by more than three standard errors."
    if biased:
        tail = f"; biased are {_listed(biased)}."
    return "Accuracy", (
        f"The labels of {count_text(int(max(rows['N'])), 'star', ',')} scatter about {what} by "
        f"{_listed(parts)} (robust){tail}"
    )


def _unit(row: object) -> str:
    return str(row["UNIT"])  # type: ignore[index]


def _calibration(inputs: ReportInputs) -> tuple[str, str]:
    """Whether the errors are as large as they claim, in words."""
    check = inputs.check
    if isinstance(check, str):
        return "Calibration", f"Not tested: {check}"
    reference = "truth" if inputs.truth is not None else "catalogue"
    rows = check.coverage
    rows = rows[(rows["KIND"] == check.judged) & (rows["REFERENCE"] == reference)]
    covers = 100 * np.asarray(rows["COVER_68"])
    span = f"{covers.min():.0f} to {covers.max():.0f} %" if len(rows) > 1 else f"{covers[0]:.0f} %"
    verdicts = [_verdict(str(r["LABEL"]), float(r["COVER_68"]), str(r["VERDICT"])) for r in rows]
    wrong = [text for text in verdicts if text]
    if not wrong:
        tail = "which is within the tolerances for every label."
    else:
        good = len(rows) - len(wrong)
        tail = f"{good} of {count_text(len(rows), 'label')} pass; {_listed(wrong)}."
    return "Calibration", (
        f"The {check.judged} 68 % intervals hold the {reference} for {span} of the stars: {tail}"
    )


def _verdict(label: str, cover: float, verdict: str) -> str:
    """What is wrong with the errors of a label; empty where nothing is."""
    if verdict != "fail":
        return ""
    name = shown_label(label)
    if cover > 0.68 + _WIDE:
        return f"{name} is conservative ({100 * cover:.0f} %: errors too large)"
    if cover < 0.68 - _WIDE:
        return f"{name} is overconfident ({100 * cover:.0f} %: errors too small)"
    return f"{name} fails in the tails of its distribution"


def _edges(inputs: ReportInputs) -> tuple[str, str]:
    """Stars at the edge of the training set."""
    flag = np.asarray(inputs.table["LABEL_FLAG"], dtype=np.int64)
    bits = LabelFlag.OUTSIDE_LABELS | LabelFlag.SPARSE_LABELS | LabelFlag.GRIDEDGE
    at = (flag & int(bits)) != 0
    by_label = {
        name: int((column(inputs.table, f"{name}_FLAG") > 0).sum())
        for name in inputs.names if f"{name}_FLAG" in inputs.table.colnames
    }  # fmt: skip
    parts = [f"{shown_label(k)} {n}" for k, n in by_label.items() if n]
    text = (
        f"{int(at.sum()):,} of {count_text(len(flag), 'star', ',')} lie beyond the training labels "
        "or where there are few of them"
    )
    if parts:
        text += f"; near the edge of single labels: {', '.join(parts)}"
    far = distance_from_catalogue(inputs)
    if at.any() and np.isfinite(far).any():
        off = int((far[at] > _FAR).sum())
        text += f"; {off} of the {int(at.sum())} are off by more than {_FAR:g}σ in a label"
    return "Edges", f"{text}."


def _worst(inputs: ReportInputs) -> tuple[str, str]:
    """The stars furthest from the catalogue."""
    far = distance_from_catalogue(inputs)
    rows = np.flatnonzero(np.isfinite(far) & inputs.has_posterior)
    if rows.size == 0:
        return "Worst stars", ""
    rows = rows[np.argsort(-far[rows], kind="stable")][:_WORST]
    parts = []
    for row in rows:
        name, pull = furthest_label(inputs, int(row))
        flag = int(inputs.table["LABEL_FLAG"][row])
        state = severity(flag) or "not flagged"
        shown = f"{pull:+.1f}".replace("-", "\N{MINUS SIGN}")
        parts.append(f"{inputs.star_id[row]} ({shown}σ in {shown_label(name)}, {state})")
    beyond = int((far > _FAR).sum())
    return "Worst stars", (
        f"{beyond:,} of {count_text(int(np.isfinite(far).sum()), 'star', ',')} differ from "
        f"{inputs.catalogue} by more than {_FAR:g} joint errors in some label; furthest off are "
        f"{_listed(parts)}."
    )


def _failed(inputs: ReportInputs) -> tuple[str, str]:
    """Stars without a posterior, not converged, or not to be used."""
    flag = np.asarray(inputs.table["LABEL_FLAG"], dtype=np.int64)
    n, without = len(flag), int((~inputs.has_posterior).sum())
    bad = sum(severity(int(f)) == "BAD" for f in flag)
    flagged = int(is_flagged(flag).sum())
    rhat = column(inputs.table, "RHAT_MAX")
    sampled = np.isfinite(rhat)
    lacks = "lack" if without > 1 else "lacks"
    text = f"Of {count_text(n, 'star', ',')}, {without or 'none'} {lacks} a posterior"
    if sampled.any():
        text += f"; {int((rhat[sampled] >= 1.01).sum())} have R-hat above 1.01"
    return "Failures", (
        f"{text}; {flagged:,} have a flag, {bad:,} of them one that says not to use the labels."
    )


def _listed(parts: Sequence[str]) -> str:
    """Parts as an enumeration."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_FEWEST = 10


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
        if known.sum() < _FEWEST or np.ptp(theirs[known]) == 0:
            continue
        slope, error = slope_of(theirs[known], (ours - theirs)[known])
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
        f"Mean (should be 0) and width (should be 1) of the {check.judged} scores in "
        f"bins of stars: of {count_text(len(bins), 'bin')}, {off} means and {wide} widths are off "
        "by more than three standard errors."
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
        f"The {count_text(rms.size, 'loading')} in order of their size: one standard deviation of "
        f"a factor moves the flux by {two_digits(float(rms.max()))} (rms over the pixels) for the "
        f"largest and {two_digits(float(rms.min()))} for the smallest. Lines are named where a "
        "loading, freed of its slow waves, is largest."
    )
