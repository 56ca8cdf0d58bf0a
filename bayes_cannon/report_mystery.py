"""The section of a report about stars without catalogue labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.plots import plot_corner, plot_model
from bayes_cannon.report_figures import window_of
from bayes_cannon.report_html import Heading, Note, Text
from bayes_cannon.report_inputs import ReportInputs
from bayes_cannon.report_parts import Drawing, Item, file_names
from bayes_cannon.report_registry import section
from bayes_cannon.star_story import mystery_story

__all__ = ["mystery"]

FloatArray = NDArray[np.float64]
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
        yield Text(f"The first {_MOST_MYSTERIES} of {len(stars)} stars without catalogue labels.")
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
        )  # fmt: skip
        if other.cannon is None or other.spectra is None:
            why = other.missing.get("cannon") or other.missing.get("spectra", "")
            yield Note(f"The model over its spectrum {why}", gone=True)
            continue
        draw = partial(
            plot_model, other.cannon, other.spectra, star, other.labels_of(star),
            window=window_of(other),
        )  # fmt: skip
        yield Drawing(f"{names[star]}-spectrum", draw, f"Model and spectrum of {star}")
    failed = other.star_id[~other.has_posterior]
    if failed.size:
        yield Note(f"{failed.size} stars without catalogue labels have no posterior either.")


def _truth_of(inputs: ReportInputs, names: Sequence[str], star: str) -> FloatArray | None:
    """True labels of a star; None where they are not known."""
    truth = inputs.truth
    if truth is None or not set(names) <= set(truth.names):
        return None
    rows = np.flatnonzero(truth.star_id == star)
    return np.asarray(truth.only(names).values[rows[0]]) if rows.size else None
