"""Simulation-based calibration at length; writes `sbc.md` and figures beside this file.

    .venv/bin/python benchmarks/sbc.py                  # everything, as in `make sbc`
    .venv/bin/python benchmarks/sbc.py --scale 0.1      # a tenth of the simulations
    .venv/bin/python benchmarks/sbc.py -o some/folder

Exit status 1 if a p-value that must be above 0.01 is not, beyond what their number explains, or if
a model that is wrong on purpose is not found out.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
from common import busy, clock, cores, library_set, machine, say, short, table
from scipy.stats import binom

from bayes_cannon.analysis.sbc.labels import rank_labels, simulate_stars, training_range_priors
from bayes_cannon.analysis.sbc.pixels import (
    TrainingSampler,
    closed_form_pits,
    sbc_pixels,
    sbc_training,
)
from bayes_cannon.analysis.sbc.ranks import Ranks
from bayes_cannon.inference.sampler import NutsSettings
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.plots.calibration import plot_ranks
from bayes_cannon.plots.common import save_figure
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

ALARM = 0.01
NUTS = InferenceSettings(draws=150, tune=150, ess_limit=50, rhat_limit=1.05, n_khat=0)
TRAINING = NutsSettings(draws=200, tune=300, target_accept=0.95)


def label_model(scale):
    """The trained model of 300 library giants in the green chip, five labels, four factors."""
    stars, _ = library_set(300, seed=1)
    spectra = stars.spectra
    cut = slice(0, 3028, 4)
    spectra = dataclasses.replace(
        spectra, wavelength=spectra.wavelength[cut], flux=spectra.flux[:, cut],
        ivar=spectra.ivar[:, cut], chips=((0, len(range(0, 3028, 4))),),
    )  # fmt: skip
    dataset = dataclasses.replace(stars, spectra=spectra)
    cannon = train(dataset, settings=TrainingSettings(n_factors=4, folds=0), seed=1)
    priors, rng = training_range_priors(cannon), np.random.default_rng(1)
    n = max(int(1000 * scale), 100)
    new, labels = simulate_stars(cannon, spectra.ivar, n, priors, rng)

    def ranks(model, count, ivar=new.ivar, **change):
        settings = dataclasses.replace(NUTS, **change)
        some = dataclasses.replace(new, ivar=ivar).select(np.arange(count))
        return rank_labels(model, some, labels[:count], settings=settings, priors=priors, seed=1)

    few = max(n // 2, 100)
    yield "label model, NUTS", True, ranks(cannon, n)
    told = new.ivar.astype(np.float64) ** 2
    yield "label model, wrong: variance of the noise for its sd", False, ranks(cannon, few, told)
    yield (
        "label model, wrong: no uncertainty of the coefficients", False,
        ranks(cannon, few, coefficient_uncertainty=False),
    )  # fmt: skip


def design(n_stars, n_pixels, n_terms):
    rng = np.random.default_rng(0)
    features = np.vander(rng.standard_normal(n_stars), n_terms, increasing=True)
    return features, np.where(rng.random((n_stars, n_pixels)) < 0.05, 0, 0.02**-2)


def training_model(scale):
    """Free hyperparameters: training sets of 30 stars, 4 pixels, 3 terms."""
    features, ivar = design(30, 4, 3)
    priors = TrainingPriors(0.1, 1.0, float(np.log(0.03)), 0.5, 0.5, 2.0)
    sampler = TrainingSampler.compile(features, ivar, priors=priors)
    n = max(int(200 * scale), 50)
    given = {"settings": TRAINING, "cores": cores(), "seed": 1}
    yield "training model, NUTS, hyperparameters free", True, sbc_training(sampler, n, **given)
    squared = np.where(ivar > 0, 0.02**-4, 0)
    broken = sbc_training(sampler, max(n // 4, 50), told_ivar=squared, **given)
    yield "training model, wrong: variance of the noise for its sd", False, broken


def pixel_model(scale):
    """Fixed hyperparameters: every pixel is a simulation."""
    hyper = hyperparameters(3)
    features, ivar = design(30, max(int(1000 * scale), 100), 3)
    sampler = TrainingSampler.compile(features, ivar, hyper=hyper)
    yield (
        "training model, NUTS, hyperparameters fixed", True,
        sbc_pixels(sampler, settings=NutsSettings(draws=200, tune=300), seed=1),
    )  # fmt: skip


def closed_forms(scale):
    features, ivar = design(30, max(int(20_000 * scale), 1000), 6)
    pits = closed_form_pits(hyperparameters(6), features, ivar, seed=1)
    rough = [name for name in pits if name.endswith(("laplace", "at mode"))]
    for title, must, names in (
        ("closed forms, exact", True, [n for n in pits if n not in rough]),
        ("closed forms, approximations (nothing is claimed)", None, rough),
    ):
        yield title, must, Ranks.from_pit(tuple(names), np.stack([pits[n] for n in names], axis=1))


def hyperparameters(n_terms):
    tau = 0.05 / np.arange(1, n_terms + 1)
    cov = np.outer(tau, tau) * (0.5 + 0.5 * np.eye(n_terms))
    return Hyperparameters(cov, float(np.log(0.02)), 0.5)


def verdict(must, ranks):
    """In words, and whether it is as it must be.

    Of n right p-values one or two fall below 0.01 by chance; more than 99 % of chance allows fail.
    """
    p = ranks.p_values()
    low = int(np.sum(p < ALARM))
    if must is None:
        return f"{low} of {p.size} below {ALARM}", True
    if must:
        good = low <= binom.ppf(0.99, p.size, ALARM) and p.min() > ALARM / p.size / 10
        return (
            f"{low} of {p.size} below {ALARM}: {'calibrated' if good else 'NOT CALIBRATED'}",
            good,
        )
    found = bool(p.min() < 1e-3)
    return f"smallest {p.min():.1g}: {'found out' if found else 'NOT FOUND OUT'}", found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="part of the simulations")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    parts, summary, fine = [], [], True
    for source in (closed_forms, label_model, pixel_model, training_model):
        runs = source(options.scale)
        while True:
            seconds, made = clock(lambda runs=runs: next(runs, None))
            if made is None:
                break
            title, must, ranks = made
            text, good = verdict(must, ranks)
            say(f"{title}: {ranks.n_simulations} simulations, {text}, {seconds:.0f} s")
            fine &= good
            summary.append((title, ranks.n_simulations, len(ranks.names), text, f"{seconds:.0f}"))
            parts.append(f"## {title[0].upper()}{title[1:]}\n\n{rows(ranks)}")
            if must:
                name = title.replace(",", "").replace(" ", "-")
                save_figure(plot_ranks(ranks, title=title), options.out / f"sbc-{name}.png")
    head = ("what", "simulations", "parameters", "p-values of the chi-square test", "seconds")
    text = INTRO + f"\n{machine()} {busy()}\n\n" + table(head, summary) + "\n\n"
    (options.out / "sbc.md").write_text(text + "\n\n".join(parts) + "\n")
    return 0 if fine else 1


INTRO = """# Simulation-based calibration

Written by `make sbc`. Parameters are drawn from their priors, data from the model, draws from the
posterior; the ranks of the true values among 99 independent draws must be uniform. All data are
simulated. Labels: uniform over the training range of a model of 300 synthetic giants (757 pixels,
five labels, four factors); spectra with its factors, scatter and coefficients' uncertainty, and
the noise of its training stars. Training model: 30 stars, noise and scatter of the same size.
Contraction: 1 - posterior variance / prior variance. Models that are wrong on purpose must be
found out.
"""


def rows(ranks):
    lines = [(r["PARAMETER"], f"{r['CHI2_P']:.3g}", short(r["CONTRACTION"])) for r in ranks.table()]
    return table(("parameter", "p", "contraction"), lines)


if __name__ == "__main__":
    sys.exit(main())
