"""Makers of the sections of a report that show figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bayes_cannon.analysis.calibration import OF_MOMENTS
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.calibration import plot_calibration, plot_scores
from bayes_cannon.plots.corner import plot_corner
from bayes_cannon.plots.ensembles.edges import plot_edge_pulls
from bayes_cannon.plots.gradients import plot_gradients
from bayes_cannon.plots.sample import plot_catalogue_slice, plot_sample
from bayes_cannon.plots.spectra import plot_continuum, plot_model, plot_spectrum
from bayes_cannon.plots.stars import plot_one_to_one
from bayes_cannon.plots.training import plot_factor_choice, plot_loadings, plot_scatter
from bayes_cannon.runs.report.findings import (
    calibration_caption,
    factors_caption,
    one_to_one_caption,
    scatter_caption,
    scores_caption,
)
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.page import Column, Grid, Note, Text
from bayes_cannon.runs.report.parts import Drawing, Item, chosen_stars, file_names
from bayes_cannon.runs.report.registry import section
from bayes_cannon.runs.report.tables import coverage_table, cuts_table
from bayes_cannon.spectra.continuum import divide_by_continuum
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import row_of
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.preparing import treatment_of_files
from bayes_cannon.surveys.reading import Treatment, read_raw
from bayes_cannon.surveys.survey import open_survey

__all__ = [
    "calibration",
    "corners",
    "ends_of_windows",
    "factors",
    "gradients",
    "models",
    "one_to_one",
    "reaches",
    "sample",
    "scatter",
    "spectrum",
    "window_of",
]


WINDOW = (16000.0, 16200.0)
_END = 40
"""Pixels at the end of a window in which the continuum is looked at."""


@section(
    "sample", "The sample and its cuts",
    "Which stars of the catalogue were used, what each cut removed, and where training and "
    "held-out stars lie among the labels: both should fill the same region.",
    order=20, needs=("dataset",),
)  # fmt: skip
def sample(inputs: ReportInputs) -> Iterator[Item]:
    """The catalogue slice, the cuts, and the labels of training and held-out stars."""
    dataset = inputs.dataset
    assert dataset is not None
    yield cuts_table(inputs) or Note("The dataset does not say which cuts made it.", gone=True)
    if inputs.survey is None:
        yield Note(f"The catalogue slice {inputs.missing['survey']}", gone=True)
    else:
        yield Drawing("catalogue-slice", partial(_slice, inputs.survey, dataset),
                      "Slice of the catalogue", "All rows of the survey's catalogue, and those "
                      "that pass the cuts (dashed).")  # fmt: skip
    trained = np.zeros(dataset.n_stars, dtype=np.bool_)
    if inputs.cannon is not None:
        trained = np.isin(dataset.star_id, inputs.cannon.training.star_id)
    parts = [dataset.select(rows) for rows in (trained, ~trained) if rows.any()]
    yield Drawing("sample", partial(plot_sample, *parts), "Labels of the sample",
                  "Catalogue labels of the sample.")  # fmt: skip


def _slice(survey: Path, dataset: TrainingSet) -> Figure:
    """Figure of the catalogue of the survey that a dataset was made of."""
    names = dataset.labels.names
    found = open_survey(survey, labels=names)
    text = dataset.settings.get("cuts")
    cuts = Cuts(**json.loads(text)) if isinstance(text, str) else Cuts()
    return plot_catalogue_slice(
        found.catalogue, cuts, label_names=names, steps=dataset.cut_steps
    )  # fmt: skip


@section(
    "spectrum", "From raw to normalised spectrum",
    "The fitted continuum should run along the tops of the spectrum, without waves of its own; "
    "below, the normalised continuum should lie at 1 over all pixels that are used.",
    order=30, needs=("cannon", "files"),
)  # fmt: skip
def spectrum(inputs: ReportInputs) -> Iterator[Item]:
    """Raw and normalised spectrum of one star."""
    assert inputs.cannon is not None
    assert inputs.files is not None
    chosen = [c for c in chosen_stars(inputs) if c.star in inputs.files]
    star = chosen[0].star if chosen else next(iter(inputs.files))
    settings = inputs.cannon.settings.get("dataset") or {}
    files = [str(inputs.files[star])]
    treatment = treatment_of_files(Treatment.from_settings(settings), files)
    raw = read_raw([inputs.files[star]], treatment, star_ids=[star])[0]
    yield Drawing(
        "spectrum", partial(plot_spectrum, raw, star), f"Observed spectrum of {star}",
        "The observed spectrum, a colour per detector chip.",
    )  # fmt: skip
    if treatment.continuum is None:
        return
    normalized, fit = divide_by_continuum(raw, treatment.continuum)
    draw = partial(plot_continuum, raw, normalized, fit, star, settings=treatment.continuum,
                   windows=treatment.windows)  # fmt: skip
    ends = ends_of_windows(normalized, treatment.windows)
    yield Drawing(
        "continuum", draw, f"Continuum of {star}",
        "Above, the pixels that count as continuum and the Chebyshev series of degree "
        f"{treatment.continuum.degree} through them, chip by chip; below, the spectrum over it."
        f"{ends}",
    )  # fmt: skip


def ends_of_windows(normalized: NormalizedSpectra, windows: Sequence[tuple[int, int]]) -> str:
    """Where the continuum of one star lies at the ends of the pixels that are used, in words.

    Parameters
    ----------
    normalized
        A spectrum on the whole grid.
    windows
        Ranges (start, stop) of pixels that are used.
    """
    flux = np.where(normalized.good[0], normalized.flux[0], np.nan)
    parts = [flux[a:b][end] for a, b in windows for end in (slice(_END), slice(-_END, None))]
    tops = [float(np.nanquantile(part, 0.9)) for part in parts if np.isfinite(part).any()]
    if not tops:
        return ""
    return (
        f" Shaded pixels are not used; at the ends of the others its upper edge (90 % of {_END} "
        f"pixels lie below) is at {min(tops):.2f} to {max(tops):.2f}."
    )


@section(
    "model", "Model over observed spectra",
    "The observed spectrum should run inside the model's band, and residuals should scatter "
    "about zero with unit width; runs of residuals of one sign are lines that the model lacks.",
    order=40, needs=("cannon", "spectra"),
)  # fmt: skip
def models(inputs: ReportInputs) -> Iterator[Item]:
    """Model over the observed spectrum of a typical star and of the odd ones."""
    assert inputs.cannon is not None
    assert inputs.spectra is not None
    known = set(inputs.spectra.star_id.tolist())
    chosen = [c for c in chosen_stars(inputs)[:3] if c.star in known]
    if not chosen:
        raise InvalidDataError("no star of the run has both a spectrum and a posterior.")
    names = file_names("model", [c.star for c in chosen], inputs.star_id.tolist())
    for c in chosen:
        draw = partial(
            plot_model, inputs.cannon, inputs.spectra, c.star, inputs.labels_of(c.star),
            window=window_of(inputs),
        )  # fmt: skip
        yield Drawing(names[c.star], draw, f"Model and spectrum of {c.star}", f"{c.star}: {c.why}.")


def window_of(inputs: ReportInputs) -> tuple[float, float] | None:
    """Window in which spectra are shown; None, everything, where the model does not reach it.

    Parameters
    ----------
    inputs
        Of the report.
    """
    assert inputs.cannon is not None
    return WINDOW if reaches(inputs.cannon, WINDOW) else None


def reaches(cannon: Cannon, window: tuple[float, float]) -> bool:
    """Whether a model has pixels enough in a window.

    Parameters
    ----------
    cannon
        The trained model.
    window
        Lowest and highest wavelength, Å.
    """
    inside = (cannon.wavelength >= window[0]) & (cannon.wavelength <= window[1])
    return int(inside.sum()) > 10


def gradients(inputs: ReportInputs) -> Iterator[Item]:
    """Gradient spectra.

    Parameters
    ----------
    inputs
        Of the report.
    """
    assert inputs.cannon is not None
    yield Drawing(
        "gradients", partial(plot_gradients, inputs.cannon), "Gradient spectra",
        "Change of the flux with each label at the mean of the training stars, where its known "
        "lines change most.",
    )  # fmt: skip


@section(
    "scatter", "Intrinsic scatter",
    "What neither labels nor factors explain, pixel by pixel. Peaks are lines of elements not "
    "among the labels, or of the Earth's atmosphere.",
    order=60, needs=("cannon",),
)  # fmt: skip
def scatter(inputs: ReportInputs) -> Iterator[Item]:
    """Intrinsic scatter."""
    assert inputs.cannon is not None
    yield Drawing("scatter", partial(plot_scatter, inputs.cannon), "Intrinsic scatter",
                  scatter_caption(inputs.cannon))  # fmt: skip


@section(
    "factors", "Nuisance factors",
    "Patterns over thousands of pixels that move together from star to star without being a "
    "label: other elements, rotation, resolution, errors of the continuum (slow waves).",
    order=70, needs=("cannon",),
)  # fmt: skip
def factors(inputs: ReportInputs) -> Iterator[Item]:
    """Nuisance factors: their loadings, and how their number was chosen."""
    cannon = inputs.cannon
    assert cannon is not None
    if cannon.known_terms is not None:
        yield Text(f"Known terms beside the factors, rms over stars: {cannon.known_terms}.")
    if not cannon.n_factors:
        yield Text("The model has no nuisance factors.")
        return
    yield Drawing("loadings", partial(plot_loadings, cannon), "Loadings of the nuisance factors",
                  factors_caption(cannon))  # fmt: skip
    if "predictive" in cannon.history:
        yield Drawing(
            "factor-choice", partial(plot_factor_choice, cannon), "Choice of the number of factors",
            "Cross-validated predictive density against the number of factors.",
        )  # fmt: skip


@section(
    "one-to-one", "One-to-one with the catalogue",
    "Points should follow the line of equality over the whole range, and the differences below "
    "should show no trend; error bars should be as long as the points scatter.",
    order=80,
)  # fmt: skip
def one_to_one(inputs: ReportInputs) -> Iterator[Item]:
    """Our labels against the catalogue's and, of a simulation, against the truth."""
    if inputs.aspcap is not None:
        yield Drawing(
            "one-to-one", partial(plot_one_to_one, inputs.table),
            f"Labels against {inputs.catalogue}",
            one_to_one_caption(inputs.table, inputs.aspcap, inputs.catalogue),
        )  # fmt: skip
    if inputs.truth is not None:
        draw = partial(
            plot_one_to_one, inputs.table, reference=inputs.truth, reference_name="truth"
        )
        yield Drawing("one-to-one-truth", draw, "Labels against the truth",
                      one_to_one_caption(inputs.table, inputs.truth, "the truth"))  # fmt: skip
    if inputs.aspcap is None and inputs.truth is None:
        yield Note("The run has no catalogue labels to compare with.", gone=True)
    elif inputs.cannon is not None:
        yield from _edges(inputs, inputs.cannon)


def _edges(inputs: ReportInputs, cannon: Cannon) -> Iterator[Item]:
    """Pulls beyond the training labels, against the truth where there is one."""
    name = inputs.catalogue if inputs.truth is None else "truth"
    draw = partial(
        plot_edge_pulls, inputs.table, cannon.training,
        reference=inputs.aspcap if inputs.truth is None else inputs.truth, reference_name=name,
    )  # fmt: skip
    yield Drawing(
        "edges", draw, "Pulls near and beyond the labels of the training stars",
        "To the right of the dashed line a label lies beyond those of all training stars. Negative "
        "pulls there are labels drawn into the training set; colours say whether that was flagged.",
    )  # fmt: skip


@section(
    "corners", "Posteriors of chosen stars",
    "How the labels of one star depend on each other. The calibrated posterior is the one to "
    "use; the formal one is that of the model alone.",
    order=140,
)  # fmt: skip
def corners(inputs: ReportInputs) -> Iterator[Item]:
    """Corner plots of chosen stars."""
    chosen = chosen_stars(inputs)
    if not chosen:
        raise InvalidDataError("no star of the run has a posterior.")
    names = file_names("corner", [c.star for c in chosen], inputs.star_id.tolist())
    snr = dict(zip(inputs.star_id.tolist(), inputs.snr.tolist(), strict=True))
    for c in chosen:
        draw = partial(
            plot_corner, inputs.result, c.star, aspcap=_known(inputs, c.star), snr=snr[c.star]
        )
        yield Drawing(
            names[c.star], draw,
            f"Corner plot of {c.star}", f"{c.star}: {c.why}.", kept=True,
        )  # fmt: skip


def _known(inputs: ReportInputs, star: str) -> Labels | None:
    """The catalogue's labels where it knows some of this star."""
    aspcap = inputs.aspcap
    if aspcap is None:
        return None
    row = row_of(aspcap.star_id, star)
    return aspcap if np.isfinite(aspcap.values[row]).any() else None


@section(
    "calibration", "Calibration",
    "Coverage should follow the diagonal inside its tolerance and PIT histograms should be "
    "flat; a hump means errors too large, horns at the ends errors too small.",
    order=130,
)  # fmt: skip
def calibration(inputs: ReportInputs) -> Iterator[Item]:
    """Coverage, PIT and scores against the catalogue and, of a simulation, the truth."""
    check = inputs.check
    if isinstance(check, str):
        yield Note(check, gone=True)
        return
    if check.of_moments:
        yield Note(OF_MOMENTS)
    yield coverage_table(check)
    if check.failures:
        rows = [(failure,) for failure in check.failures]
        yield Grid("Failed calibration tests.", [Column("test and result", kind="wide")], rows)
    for reference in dict.fromkeys(str(name) for name, _ in check.scores):
        yield Drawing(f"calibration-{reference}", partial(plot_calibration, check, reference),
                      f"Coverage and PIT against the {reference}",
                      calibration_caption(check, reference))  # fmt: skip
        yield Drawing(f"scores-{reference}", partial(plot_scores, check, reference),
                      f"Scores in bins against the {reference}",
                      scores_caption(check, reference))  # fmt: skip
