"""Makers of the sections of a report that show what the model says of stars and lines.

The section of a report that compares labels and errors with ASPCAP's.

The section of a report about stars without catalogue labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from bayes_cannon.analysis.aspcap import AspcapComparison, aspcap_comparison
from bayes_cannon.analysis.gradients import line_groups
from bayes_cannon.analysis.information import OWN, line_information
from bayes_cannon.analysis.isochrones import packaged_isochrones
from bayes_cannon.analysis.tables import mystery_story
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.aspcap import plot_disagreements, plot_errors, plot_forest, plot_pulls
from bayes_cannon.plots.corner import plot_corner
from bayes_cannon.plots.gradients import plot_line_group
from bayes_cannon.plots.kiel import SIX_GYR, plot_kiel, plot_kiel_stars
from bayes_cannon.plots.sequences import plot_giant_branch, plot_metallicity
from bayes_cannon.plots.spectra import plot_model
from bayes_cannon.plots.stars import plot_kiel_offsets
from bayes_cannon.runs.report.figures import gradients, reaches, window_of
from bayes_cannon.runs.report.inputs import ReportInputs, column
from bayes_cannon.runs.report.page import (
    Column,
    Grid,
    Heading,
    Note,
    Text,
    error_cell,
    measured,
    probability,
)
from bayes_cannon.runs.report.parts import Drawing, Item, chosen_stars, file_names
from bayes_cannon.runs.report.registry import section
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.star_ids import rows_of

__all__ = [
    "aspcap",
    "gradient_spectra",
    "kiel",
    "mystery",
    "sequences",
    "where_information_is",
]


_MOST_STARS = 4
_SNR = 150.0


@section(
    "gradients", "Gradient spectra",
    "Where the flux changes with each label. A data-driven model learns correlations, not "
    "physics: part of what it knows of an abundance comes from lines of other elements. Line by "
    "line, the extremum of a gradient should lie on the line or, where the line's core is "
    "saturated, on its flank.",
    order=50, needs=("cannon",),
)  # fmt: skip
def gradient_spectra(inputs: ReportInputs) -> Iterator[Item]:
    """Gradients of all labels, then line by line."""
    cannon = inputs.cannon
    assert cannon is not None
    yield from gradients(inputs)
    yield from where_information_is(cannon)
    for name in cannon.names:
        try:
            groups = line_groups(name, medium=cannon.medium)[:1]  # the page of the best lines
        except LabelError:
            yield Note(f"No lines are known for {name}; its gradient is shown above.")
            continue
        for group in groups:
            if all(reaches(cannon, (line - 5, line + 5)) for line in group.places(cannon.medium)):
                yield Drawing(
                    f"lines-{name}", partial(plot_line_group, cannon, group),
                    f"Gradient with {name} at its lines",
                    f"{group.title}, line by line, at their wavelengths in {cannon.medium}.",
                )  # fmt: skip


def where_information_is(cannon: Cannon) -> Iterator[Item]:
    """Table of what part of a label's information lies near its own lines, and where most does.

    Parameters
    ----------
    cannon
        The trained model.
    """
    try:
        table = line_information(cannon, snr=_SNR)
    except (InvalidDataError, LabelError):
        return
    rows = []
    for name in cannon.names:
        of_label = table[table["LABEL"] == name]
        groups = np.asarray(of_label["GROUP"]).astype(str)
        share = dict(zip(groups, 100 * np.asarray(of_label["INFORMATION"]), strict=True))
        own = share.pop(OWN, np.nan)
        most = sorted(share.items(), key=lambda item: -item[1])[:3]
        rows.append((shown_label(name), own, ", ".join(f"{k} {v:.0f} %" for k, v in most)))
    yield Grid(
        f"Where the information on each label is, at S/N {_SNR:g} per pixel: shares of the sum of "
        "(gradient / error)² over pixels. Lines are the strong ones of the list.",
        (Column("label", kind="id"), Column("near its own lines (%)", ".0f"),
         Column("most", kind="wide")), rows,
    )  # fmt: skip


@section(
    "kiel", "Kiel diagram",
    "Metal-poor giants are hotter than metal-rich ones of the same log g. The isochrones are of "
    "one age and of solar [α/Fe]: younger, α-enhanced and red clump stars lie off them.",
    order=90,
)  # fmt: skip
def kiel(inputs: ReportInputs) -> Iterator[Item]:
    """The run in the Kiel diagram, and chosen stars in zoom."""
    if not {"TEFF", "LOGG", "FE_H"} <= set(inputs.names):
        yield Note("The Kiel diagram needs Teff, log g and [Fe/H].", gone=True)
        return
    stars = [c.star for c in chosen_stars(inputs)][:_MOST_STARS]
    yield Drawing(
        "kiel", partial(plot_kiel, inputs.table, result=inputs.result, stars=stars),
        "Kiel diagram", "Isochrones: MIST (Choi et al. 2016; Dotter 2016).",
    )  # fmt: skip
    if stars:
        draw = partial(plot_kiel_stars, inputs.result, stars, aspcap=inputs.aspcap)
        yield Drawing("kiel-stars", draw, "Chosen stars in the Kiel diagram",
                      "The same for a few stars, in zoom.")  # fmt: skip
    yield Drawing("kiel-offsets", partial(plot_kiel_offsets, inputs.table),
                  "Offsets from the giant branches", _offsets_caption(inputs))  # fmt: skip


def _offsets_caption(inputs: ReportInputs) -> str:
    teff, logg, feh = (column(inputs.table, name) for name in ("TEFF", "LOGG", "FE_H"))
    off = teff - packaged_isochrones().ridge(logg, feh, log10_age=SIX_GYR)
    off = off[np.isfinite(off)]
    text = "Teff less that of the isochrone of each star's own [Fe/H] at its log g"
    if off.size == 0:
        return f"{text}."
    return (
        f"{text}: the median of {count_text(off.size, 'star', ',')} is {np.median(off):+.0f} K, "
        f"and {100 * np.mean(np.abs(off) > 100):.0f} % of them are off by more than 100 K."
    ).replace("-", "\N{MINUS SIGN}")


@section(
    "sequences", "Spectra along sequences",
    "Lines should deepen steadily with [Fe/H] and up the giant branch; a dashed spectrum is "
    "outside what the model was trained on.",
    order=100, needs=("cannon",),
)  # fmt: skip
def sequences(inputs: ReportInputs) -> Iterator[Item]:
    """Model spectra along [Fe/H] and up the giant branch."""
    cannon = inputs.cannon
    assert cannon is not None
    if not {"TEFF", "LOGG", "FE_H"} <= set(cannon.names) or window_of(inputs) is None:
        yield Note("The sequences need Teff, log g, [Fe/H], and 16000 to 16200 Å.", gone=True)
        return
    yield Drawing("metallicity", partial(plot_metallicity, cannon), "Spectra with rising [Fe/H]",
                  "All else as in the mean training star.")  # fmt: skip
    yield Drawing("giant-branch", partial(plot_giant_branch, cannon), "Spectra up the giant branch",
                  "Teff and log g along a MIST isochrone.")  # fmt: skip


_MOST_ROWS = 100


@section(
    "aspcap", "Errors compared with the catalogue's",
    "Pulls should follow the unit normal, and our calibrated errors should fall with S/N down "
    "to a floor that is the model's. ASPCAP's errors are its repeatability, not its accuracy.",
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
    yield Drawing("aspcap-pulls", partial(plot_pulls, found), f"Pulls against {found.catalogue}",
                  f"(this work − {found.catalogue})/σ, against the unit normal.")  # fmt: skip
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
                  "The stars that disagree most, with the model at our labels and at the "
                  "catalogue's: labels that fit the spectrum worse are to be doubted.")  # fmt: skip


def _pulls(found: AspcapComparison) -> Grid:
    columns = (
        Column("label", kind="id"), Column("posterior"), Column("stars", "d"),
        Column("bias", "g"), Column("rms", "g"), Column("error, this work", "g"),
        Column(f"{found.catalogue} error", "g"),
        Column("mean pull", ".2f"), Column("sd of pulls", ".2f"),
        Column("robust sd", ".2f"), Column("within 68 % (%)", ".0f"),
        Column("within 95 % (%)", ".0f"),
    )  # fmt: skip
    errors, pulls = (
        ("RMS", "ERR", f"{found.column}_ERR"),
        ("PULL_MEAN", "PULL_SD", "PULL_ROBUST_SD"),
    )
    rows = [
        (f"{shown_label(str(r['LABEL']))} ({r['UNIT']})", str(r["KIND"]), int(r["N"]),
         measured(r["BIAS"], r["RMS"] / np.sqrt(r["N"])), *(error_cell(r[k]) for k in errors),
         *(float(r[k]) for k in pulls), *(100 * float(r[k]) for k in ("COVER_68", "COVER_95")))
        for r in found.pulls
    ]  # fmt: skip
    return Grid("Pulls of every label; errors are medians.", columns, rows)


def _stars(found: AspcapComparison) -> Grid:
    archive = [n for n in ("ASPCAPFLAG", "STARFLAG") if n in found.stars.colnames]
    columns = (
        Column("star", kind="id"), Column("S/N", ".0f"), Column("labels", "d"),
        Column("χ²", ".1f"), Column("p", "g"), Column("furthest label"), Column("pull", "+.1f"),
        Column("flags"), *(Column(name) for name in archive),
    )  # fmt: skip
    rows = [
        (str(r[0]), float(r["SNR"]), int(r["N_LABELS"]), float(r["CHI2"]), probability(r["P"]),
         shown_label(str(r["WORST"])), float(r["PULL"]),
         *(str(r[n]) for n in ("FLAGS", *archive)))
        for r in found.stars[:_MOST_ROWS]
    ]  # fmt: skip
    cut = f", the first {len(rows)} of {len(found.stars)}" if len(rows) < len(found.stars) else ""
    return Grid(
        f"Stars in the order in which they disagree with {found.catalogue}{cut}.", columns, rows
    )


_MOST_MYSTERIES = 3


@section(
    "mystery", "Mystery stars",
    "Stars without catalogue labels: what the spectrum alone says.",
    order=150, needs=("mystery",), optional=True,
)  # fmt: skip
def mystery(inputs: ReportInputs) -> Iterator[Item]:
    """Stars without catalogue labels: posterior, spectrum with model, and how errors differ."""
    other = inputs.mystery
    assert other is not None
    stars = [str(s) for s in other.star_id[other.has_posterior]]
    if len(stars) > _MOST_MYSTERIES:
        yield Text(
            f"The first {_MOST_MYSTERIES} of {count_text(len(stars), 'star')} without catalogue "
            "labels."
        )
    every = [*inputs.star_id.tolist(), *other.star_id.tolist()]
    names = file_names("mystery", stars, list(dict.fromkeys(every)))
    snr = dict(zip(other.star_id.tolist(), other.snr.tolist(), strict=True))
    for star in stars[:_MOST_MYSTERIES]:
        yield Heading(star)
        yield Text(mystery_story(other.table, star).text)
        truth = _truth_of(inputs, other.names, star)
        yield Drawing(
            f"{names[star]}-corner",
            partial(plot_corner, other.result, star, truth=truth, snr=snr[star]),
            f"Corner plot of {star}",
            "Formal posterior (blue) and calibrated posterior (orange) of the labels"
            f"{'; black lines: the true labels' if truth is not None else ''}.",
        )  # fmt: skip
        if other.cannon is None or other.spectra is None:
            why = other.missing.get("cannon") or other.missing.get("spectra", "")
            yield Note(f"The model over its spectrum {why}", gone=True)
            continue
        draw = partial(
            plot_model, other.cannon, other.spectra, star, other.labels_of(star),
            window=window_of(other),
        )  # fmt: skip
        yield Drawing(f"{names[star]}-spectrum", draw, f"Model and spectrum of {star}",
                      f"The observed spectrum of {star}, the model at its labels, and the "
                      "residuals in units of their errors.")  # fmt: skip
    failed = other.star_id[~other.has_posterior]
    if failed.size:
        yield Note(
            f"{count_text(failed.size, 'star')} without catalogue labels have no posterior either."
        )


def _truth_of(inputs: ReportInputs, names: Sequence[str], star: str) -> FloatArray | None:
    """True labels of a star; None where they are not known."""
    truth = inputs.truth
    if truth is None or not set(names) <= set(truth.names):
        return None
    row = int(rows_of(truth.star_id, [star])[0])
    return np.asarray(truth.only(names).values[row]) if row >= 0 else None
