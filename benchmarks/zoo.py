"""Surveys that are each odd in one way, with 0, 5 and chosen factors, by both ways of inference."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import say, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.zoo import ZOO, Outcome, faults, take

TITLE = "A zoo of surveys"
HEAD = (
    "survey", "factors", "rms", "formal 68 %", "calibrated 68 %", "no posterior", "s",
    "told, or why it was refused",
)  # fmt: skip


def section(*, quick: bool) -> Iterator[str]:
    """All of them; a quick run takes 5 factors and Laplace's method alone."""
    yield (
        "Small surveys of a world of its own (`tests/zoo.py`: Gaussian lines on three chips, "
        "optical depths nonlinear in Teff, log g and [Fe/H], three hidden abundances), 100 "
        "training and 60 test stars unless the name says otherwise. *rms*: of the test stars "
        "against the truth, over that of predicting the mean of the training labels. *68 %*: "
        "part of the true labels in the intervals. Each is the range over labels."
    )
    ways = [(None, "laplace")] if quick else [(0, "laplace"), (None, "nuts"), ("auto", "laplace")]
    for n_factors, method in ways:
        rows, wrong = [], []
        asked = "5, of few stars 2" if n_factors is None else n_factors
        for name, one in ZOO.items():
            outcome = take(one, n_factors=n_factors, method=method)
            wrong += [f"{name}: {fault}" for fault in faults(one, outcome)]
            rows.append(_row(name, outcome))
            say(f"zoo: {name}, {asked} factors: {outcome.seconds:.1f} s")
        verdict = "None is at fault." if not wrong else "At fault: " + "; ".join(wrong) + "."
        yield f"**Factors: {asked}; inference: {method}.** {verdict}\n\n" + table(HEAD, rows)


def _row(name: str, outcome: Outcome) -> tuple[object, ...]:
    if outcome.error is not None:
        kind, text = type(outcome.error).__name__, _short(str(outcome.error))
        return name, "–", "–", "–", "–", "–", f"{outcome.seconds:.1f}", f"{kind}: {text}"
    return (
        name, outcome.n_factors, _range(outcome.ratio, 2),
        _range(100 * outcome.formal, 0), _range(100 * outcome.calibrated, 0),
        len(outcome.unknown), f"{outcome.seconds:.1f}",
        "; ".join(_short(text) for text in outcome.told),
    )  # fmt: skip


def _range(values: np.ndarray, digits: int) -> str:
    if not np.isfinite(values).all():
        return "–"
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return low if low == high else f"{low}–{high}"


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) < 160 else f"{text[:157]}…"
