"""What errors of the training labels do, and what regression calibration mends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from accuracy import predict
from common import library_set, say, short, table

from bayes_cannon.spectra.labels import Labels
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Errors in the training labels"
TRAINING, HELD_OUT = np.arange(400), np.arange(400, 600)


def section(*, quick: bool) -> Iterator[str]:
    """Attenuation and rms at 1, 3 and 5 times the usual errors."""
    seeds, factors = ((1,), (0,)) if quick else ((1, 2), (0, 20))
    yield (
        "400 library stars of S/N 150 to train on, 200 held out, medians over "
        f"{len(seeds)} seeds. rms: of held-out stars against the truth, divided by that of the "
        "model trained on the true labels. Slope: of the derivative of the flux (at the mean "
        "label) over pixels, regressed on that of the model trained on the true labels; below 1 "
        "is attenuation. Ignored: the catalogue's errors set to zero before training. Exact: "
        "`latent_labels=False`, in which errors are integrated out of the factors alone (without "
        "factors nothing differs). Default: features at their mean given the catalogue besides."
    )
    for j in factors:
        yield f"**{j} factors.**\n\n" + _table(seeds, j)


def _table(seeds, n_factors):
    ways = ("ignored", "exact", "default") if n_factors else ("ignored", "default")
    found = {(scale, way): [] for scale in (1, 3, 5) for way in ways}
    for seed in seeds:
        _one(seed, n_factors, found)
    rows = []
    for (scale, way), values in found.items():
        slopes, rms = (np.median(np.array(a), axis=0) for a in zip(*values, strict=True))
        rows.append(
            (f"{scale}, {way}", short(rms.mean()),
             *map(short, rms), *map(short, slopes))
        )  # fmt: skip
    names = ("Teff", "log g", "[Fe/H]", "[Mg/Fe]", "[Si/Fe]")
    columns = [f"{what} {name}" for what in ("rms", "slope") for name in names]
    return table(("label errors / usual", "mean ratio of rms", *columns), rows)


def _one(seed, n_factors, found):
    exact, true = library_set(seed=seed)
    reference = _train(_without_errors(exact, true.values), seed, n_factors=n_factors)
    test, truth = exact.select(HELD_OUT), true.values[HELD_OUT]
    middle = true.values.mean(axis=0)
    gradient = reference.gradient(middle).value
    best = _rms(reference, test, truth)
    for scale, way in found:
        noisy, _ = library_set(seed=seed, error_scale=scale)
        stars = _without_errors(noisy, noisy.labels.values) if way == "ignored" else noisy
        cannon = _train(stars, seed, n_factors=n_factors, latent_labels=way == "default")
        slope = np.sum(cannon.gradient(middle).value * gradient, axis=1)
        slope /= np.sum(gradient**2, axis=1)
        found[scale, way].append((slope, _rms(cannon, test, truth) / best))
        say(f"label_errors: seed {seed}, {n_factors} factors, {scale} times, {way}")


def _without_errors(stars, values):
    """The same stars with these labels and next to no errors."""
    labels = stars.labels
    exact = Labels(labels.names, values, 1e-6 * labels.errors, labels.star_id, labels.units)
    return replace(stars, labels=exact)


def _train(stars, seed, **settings):
    return train(stars.select(TRAINING), settings=TrainingSettings(folds=0, **settings), seed=seed)


def _rms(cannon, stars, truth):
    labels, _ = predict(cannon, stars.spectra)
    return np.sqrt(np.nanmean((labels - truth) ** 2, axis=0))
