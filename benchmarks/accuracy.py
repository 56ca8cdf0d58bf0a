"""Accuracy of the labels of held-out stars against the truth, with and without factors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.table import Table
from common import library_set, quick_inference, say, short, table

from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.preparing import prepare
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.survey import open_survey
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Accuracy"


def section(*, quick: bool) -> Iterator[str]:
    """Both surveys."""
    seeds = range(1, 2 if quick else 4)
    yield "Goals: each ratio ≤ 0.70, their mean ≤ 0.55."
    yield _survey(
        "In memory: library stars with noise, sky lines, gaps and bad pixels, true continuum",
        _in_memory, seeds,
    )  # fmt: skip
    yield _survey(
        "Written and read: a simulated survey on disk, cuts, continuum normalisation",
        _on_disk, seeds,
    )  # fmt: skip


def _in_memory(seed):
    stars, true = library_set(seed=seed, snr=None)
    return stars, true.values


def _on_disk(seed):
    with tempfile.TemporaryDirectory() as folder:
        out = simulate_survey(Path(folder) / "survey", seed=seed)
        stars = prepare(open_survey(out))
        truth = Table.read(out / "truth.ecsv")
    rows = {str(name): i for i, name in enumerate(truth["STAR_ID"])}
    index = [rows[str(s)] for s in stars.star_id]
    return stars, np.stack([np.asarray(truth[n], float)[index] for n in DEFAULT_LABELS], axis=1)


def predict(cannon, spectra):
    """Labels at the mode and their formal errors, both (n_stars, n_labels)."""
    stats = infer_labels(cannon, spectra, settings=quick_inference(), seed=1)["star_stats"]
    cov = stats["laplace_cov"].values
    return stats["map_labels"].values, np.sqrt(np.diagonal(cov, axis1=1, axis2=2))


def _survey(title, make, seeds):
    rms, formal, chosen, counts = [], [], [], []
    for seed in seeds:
        stars, true = make(seed)
        place = {s: i for i, s in enumerate(stars.star_id)}
        training, held_out = stars.split(0.5, seed=seed)
        truth = true[[place[s] for s in held_out.star_id]]
        counts.append((training.n_stars, held_out.n_stars))
        for factors in (0, "auto"):
            settings = TrainingSettings(n_factors=factors, folds=0)
            cannon = train(training, settings=settings, seed=seed)
            found, error = predict(cannon, held_out.spectra)
            rms.append(np.sqrt(np.nanmean((found - truth) ** 2, axis=0)))
            formal.append(np.nanmedian(error, axis=0))
            chosen.append(cannon.n_factors)
        say(f"accuracy: seed {seed}, {chosen[-1]} factors, ratios {rms[-1] / rms[-2]}")
    rms, formal = (np.array(a).reshape(-1, 2, len(DEFAULT_LABELS)) for a in (rms, formal))
    ratio = rms[:, 1] / rms[:, 0]
    rows = [
        (name, short(np.median(ratio[:, k])), ", ".join(short(r) for r in ratio[:, k]),
         *(short(np.median(a[:, i, k])) for a in (rms, formal) for i in (0, 1)),
         short(np.median(rms[:, 1, k] / formal[:, 1, k])))
        for k, name in enumerate(DEFAULT_LABELS)
    ]  # fmt: skip
    mean = ratio.mean(axis=1)
    rows.append(("mean", short(np.median(mean)), ", ".join(map(short, mean)), *[""] * 5))
    head = (
        "label", "ratio of rms, median", "each seed", "rms without", "rms with factors",
        "formal error without", "with", "rms / formal with",
    )  # fmt: skip
    trained = ", ".join(f"{a} + {b}" for a, b in counts)
    factors = ", ".join(map(str, chosen[1::2]))
    return (
        f"**{title}.** Stars trained on + held out: {trained}. Factors chosen by `auto`: "
        f"{factors}. Medians over the seeds; K and dex.\n\n" + table(head, rows)
    )
