"""Makers of the sections of a report that show what the model says of stars and lines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bayes_cannon.errors import LabelError
from bayes_cannon.gradient_lines import line_groups
from bayes_cannon.plots import (
    plot_giant_branch,
    plot_kiel,
    plot_kiel_stars,
    plot_line_group,
    plot_metallicity,
)
from bayes_cannon.report_figures import gradients, reaches, window_of
from bayes_cannon.report_html import Note
from bayes_cannon.report_inputs import ReportInputs
from bayes_cannon.report_parts import Drawing, Item, chosen_stars
from bayes_cannon.report_registry import section

__all__ = ["gradient_spectra", "kiel", "sequences"]

_MOST_STARS = 4


@section(
    "gradients", "Gradient spectra",
    "Where each label acts: a label's gradient should be large at the lines of its own element "
    "and small elsewhere. Line by line, its extremum should lie on the line or, where the "
    "line's core is saturated, on its flank.",
    order=50, needs=("cannon",),
)  # fmt: skip
def gradient_spectra(inputs: ReportInputs) -> Iterator[Item]:
    """Gradients of all labels, then line by line."""
    cannon = inputs.cannon
    assert cannon is not None
    yield from gradients(inputs)
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


@section(
    "kiel", "Kiel diagram",
    "Stars should lie along the isochrones of their [Fe/H], metal-poor ones to the left "
    "(hotter) of metal-rich ones at the same log g.",
    order=90,
)  # fmt: skip
def kiel(inputs: ReportInputs) -> Iterator[Item]:
    """The run in the Kiel diagram, and chosen stars seen closely."""
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
                      "The same for a few stars, seen closely.")  # fmt: skip


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
