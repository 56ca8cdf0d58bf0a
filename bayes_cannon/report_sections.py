"""The sections of a report, in order: a new figure is one more entry here."""

from __future__ import annotations

from bayes_cannon import report_figures as figures
from bayes_cannon import report_physics as physics
from bayes_cannon import report_tables as tables
from bayes_cannon.report_aspcap import aspcap
from bayes_cannon.report_mystery import mystery
from bayes_cannon.report_parts import Section
from bayes_cannon.report_settings import settings

__all__ = ["SECTIONS"]

SECTIONS: tuple[Section, ...] = (
    Section(
        "summary", "Summary",
        "How many stars were inferred, whether the chains converged, and what was found about the "
        "stars. Flags mark stars to look at before they are used; most runs have a few per cent.",
        tables.summary,
    ),
    Section(
        "sample", "The sample and its cuts",
        "Which stars of the catalogue were used, what each cut removed, and where training and "
        "held-out stars lie among the labels: both should fill the same region.",
        figures.sample, needs=("dataset",),
    ),
    Section(
        "spectrum", "From raw to normalised spectrum",
        "The fitted continuum should run along the tops of the spectrum, without waves of its own; "
        "below, the normalised continuum should lie at 1 from edge to edge.",
        figures.spectrum, needs=("cannon", "files"),
    ),
    Section(
        "model", "Model over observed spectra",
        "The observed spectrum should run inside the model's band, and residuals should scatter "
        "about zero with unit width; runs of residuals of one sign are lines that the model lacks.",
        figures.models, needs=("cannon", "spectra"),
    ),
    Section(
        "gradients", "Gradient spectra",
        "Where each label acts: a label's gradient should be large at the lines of its own element "
        "and small elsewhere. Line by line, its extremum should lie on the line or, where the "
        "line's core is saturated, on its flank.",
        physics.gradient_spectra, needs=("cannon",),
    ),
    Section(
        "scatter", "Intrinsic scatter",
        "What neither labels nor factors explain, pixel by pixel. Peaks are lines of elements that "
        "are no labels, or of the Earth's atmosphere.",
        figures.scatter, needs=("cannon",),
    ),
    Section(
        "factors", "Nuisance factors",
        "Patterns over thousands of pixels that move together from star to star without being a "
        "label: other elements, rotation, resolution. Each should follow lines of something.",
        figures.factors, needs=("cannon",),
    ),
    Section(
        "one-to-one", "One-to-one with the catalogue",
        "Points should follow the line of equality over the whole range, and the differences below "
        "should show no trend; error bars should be as long as the points scatter.",
        figures.one_to_one,
    ),
    Section(
        "kiel", "Kiel diagram",
        "Stars should lie along the isochrones of their [Fe/H], metal-poor ones to the left "
        "(hotter) of metal-rich ones at the same log g.",
        physics.kiel,
    ),
    Section(
        "sequences", "Spectra along sequences",
        "Lines should deepen steadily with [Fe/H] and up the giant branch; a dashed spectrum is "
        "outside what the model was trained on.",
        physics.sequences, needs=("cannon",),
    ),
    Section(
        "tables", "Tables 1 and 2",
        "The two tables of the original report, beside what others found with The Cannon.",
        tables.original_tables,
    ),
    Section(
        "aspcap", "Comparison with ASPCAP",
        "Pulls should follow the unit normal, and our calibrated errors should fall with S/N down "
        "to a floor that is the model's; ASPCAP's errors are its repeatability, not its accuracy.",
        aspcap,
    ),
    Section(
        "calibration", "Calibration",
        "Coverage should follow the diagonal inside its tolerance and PIT histograms should be "
        "flat; a hump means errors too large, horns at the ends errors too small.",
        figures.calibration,
    ),
    Section(
        "corners", "Posteriors of chosen stars",
        "How the labels of one star depend on each other. The calibrated posterior is the one to "
        "use; the formal one inside it says what noise alone would leave open.",
        figures.corners,
    ),
    Section(
        "mystery", "Mystery stars",
        "Stars without catalogue labels: what the spectrum alone says.",
        mystery, needs=("mystery",), optional=True,
    ),
    Section(
        "stars", "All stars",
        "Every star of the run. Press a header to sort by its column, again to turn the order.",
        tables.all_stars,
    ),
    Section(
        "settings", "Settings and versions",
        "What made this run, so that it can be made again.",
        settings,
    ),
)  # fmt: skip
"""Sections in the order of the page."""
