"""The section of a report that compares labels and errors with ASPCAP's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from bayes_cannon.aspcap_comparison import AspcapComparison, aspcap_comparison
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.plots import plot_disagreements, plot_errors, plot_forest, plot_pulls
from bayes_cannon.report_figures import reaches
from bayes_cannon.report_html import Column, Grid, Note, Text
from bayes_cannon.report_inputs import ReportInputs
from bayes_cannon.report_parts import Drawing, Item, shown_label
from bayes_cannon.report_registry import section

__all__ = ["aspcap"]

_MOST_ROWS = 100


@section(
    "aspcap", "Comparison with ASPCAP",
    "Pulls should follow the unit normal, and our calibrated errors should fall with S/N down "
    "to a floor that is the model's; ASPCAP's errors are its repeatability, not its accuracy.",
    order=120,
)  # fmt: skip
def aspcap(inputs: ReportInputs) -> Iterator[Item]:
    """Errors against S/N, pulls, and the stars that disagree most, with their spectra."""
    if inputs.aspcap is None:
        yield Note("The run has no catalogue labels to compare with.", gone=True)
        return
    known = dict(zip(inputs.star_id.tolist(), inputs.snr.tolist(), strict=True))
    reference = inputs.aspcap if inputs.dataset is None else inputs.dataset
    try:
        found = aspcap_comparison(inputs.result, reference, snr=known)
    except InvalidDataError:  # no star with a posterior has a label with an error
        yield Note(
            "No star with a posterior has a catalogue label with an error, so that there are no "
            "pulls; give errors of the labels (columns NAME_ERR) when the dataset is made.",
            gone=True,
        )
        return
    yield Text(found.describe().partition(" Median formal errors")[0])
    if np.isfinite(found.snr).any():
        yield Drawing("aspcap-errors", partial(plot_errors, found), "Errors against S/N",
                      "Errors of every star against its S/N, and medians in bins.")  # fmt: skip
    else:
        yield Note("Errors against S/N: the S/N is not known without the dataset.", gone=True)
    yield Drawing("aspcap-pulls", partial(plot_pulls, found), "Pulls against ASPCAP",
                  "Ours less ASPCAP's over the joint error, against the unit normal.")  # fmt: skip
    yield _pulls(found)
    yield Drawing("aspcap-forest", partial(plot_forest, found), "Forest plot",
                  "The stars that disagree most, each about its own posterior mean.")  # fmt: skip
    yield _stars(found)
    yield from _spectra(inputs, found)


def _spectra(inputs: ReportInputs, found: AspcapComparison) -> Iterator[Item]:
    """Spectra of the stars that disagree most."""
    if inputs.cannon is None or inputs.spectra is None:
        name = "cannon" if inputs.cannon is None else "spectra"
        yield Note(f"Their spectra: {inputs.missing.get(name, '')}", gone=True)
        return
    window = (16150.0, 16250.0)
    if not reaches(inputs.cannon, window):
        w = inputs.cannon.wavelength
        window = (float(w[0]), float(w[-1]) + 1e-6)
    draw = partial(plot_disagreements, found, inputs.cannon, inputs.spectra, window=window)
    yield Drawing("aspcap-spectra", draw, "Spectra of the stars that disagree most",
                  "The stars that disagree most, with the model at our labels and at ASPCAP's: the "
                  "labels that fit the spectrum worse are the ones to doubt.")  # fmt: skip


def _pulls(found: AspcapComparison) -> Grid:
    columns = (
        Column("label", kind="id"), Column("posterior"), Column("stars", "d"),
        Column("bias", ".3g"), Column("rms", ".3g"), Column("our error", ".3g"),
        Column("ASPCAP error", ".3g"), Column("mean pull", ".2f"), Column("sd of pulls", ".2f"),
        Column("robust sd", ".2f"), Column("within 68 % (%)", ".0f"),
        Column("within 95 % (%)", ".0f"),
    )  # fmt: skip
    keys = ("BIAS", "RMS", "ERR", "ASPCAP_ERR", "PULL_MEAN", "PULL_SD", "PULL_ROBUST_SD")
    rows = [
        (f"{shown_label(str(r['LABEL']))} ({r['UNIT']})", str(r["KIND"]), int(r["N"]),
         *(float(r[k]) for k in keys), *(100 * float(r[k]) for k in ("COVER_68", "COVER_95")))
        for r in found.pulls
    ]  # fmt: skip
    return Grid("Pulls of every label; errors are medians.", columns, rows)


def _stars(found: AspcapComparison) -> Grid:
    archive = [n for n in ("ASPCAPFLAG", "STARFLAG") if n in found.stars.colnames]
    columns = (
        Column("star", kind="id"), Column("S/N", ".0f"), Column("labels", "d"),
        Column("χ²", ".1f"), Column("p", ".2g"), Column("furthest label"), Column("pull", "+.1f"),
        Column("flags"), *(Column(name) for name in archive),
    )  # fmt: skip
    rows = [
        (str(r["APOGEE_ID"]), float(r["SNR"]), int(r["N_LABELS"]), float(r["CHI2"]), float(r["P"]),
         shown_label(str(r["WORST"])), float(r["PULL"]),
         *(str(r[n]) for n in ("FLAGS", *archive)))
        for r in found.stars[:_MOST_ROWS]
    ]  # fmt: skip
    cut = f", the first {len(rows)} of {len(found.stars)}" if len(rows) < len(found.stars) else ""
    return Grid(f"Stars in the order in which they disagree with ASPCAP{cut}.", columns, rows)
