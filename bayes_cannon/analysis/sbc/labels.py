"""Simulation-based calibration of the label model: spectra drawn from a trained model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.analysis.sbc.ranks import LONGER, N_KEPT, Ranks, effective_draws, thinned_rank
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.packing import unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.posterior import group_of
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors
from bayes_cannon.spectra.spectra import NormalizedSpectra

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "rank_labels",
    "sbc_labels",
    "simulate_stars",
    "training_range_priors",
]


def training_range_priors(cannon: Cannon) -> LabelPriors:
    """Uniform priors between the smallest and the largest training label.

    Parameters
    ----------
    cannon
        The trained model.
    """
    values = cannon.training.values
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    uniform = [LabelPrior.uniform(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    return LabelPriors(tuple(cannon.basis.names), tuple(uniform))


def simulate_stars(
    cannon: Cannon,
    ivar: NDArray[np.floating],
    n_stars: int,
    priors: LabelPriors,
    rng: np.random.Generator,
) -> tuple[NormalizedSpectra, FloatArray]:
    """Draw stars from a trained model: labels, nuisance factors, coefficients, scatter, noise.

    Coefficients are drawn anew for every star, so that a pixel's flux has mean x'm and variance
    x'C x + s**2 + 1 / ivar with x = [v(labels), z].

    Parameters
    ----------
    cannon
        The trained model.
    ivar
        Inverse variances of observed stars, shape (n_observed, n_pixels); every simulated star
        takes those of one of them, bad pixels included.
    n_stars
        Stars to draw.
    priors
        To draw the labels from.
    rng
        Random numbers.

    Returns
    -------
    spectra : NormalizedSpectra
        Marked as simulated.
    labels : (n_stars, n_labels) float64
        Their true labels.
    """
    labels = priors.sample(n_stars, rng)
    z = rng.standard_normal((n_stars, cannon.loadings.shape[1]))
    x = np.concatenate([cannon.basis(labels), z], axis=1)
    mean = x @ np.concatenate([cannon.theta, cannon.loadings], axis=1).T
    cov = unpack(np.asarray(cannon.coef_cov, dtype=np.float64))
    weight = np.asarray(ivar, dtype=np.float64)[rng.integers(len(ivar), size=n_stars)]
    good = weight > 0
    variance = np.where(good, 1 / np.where(good, weight, 1.0), 0.0) + cannon.scatter**2
    if (terms := cannon.known_terms) is not None:
        templates = terms.templates(cannon.theta, cannon.used)
        amplitudes = rng.standard_normal((n_stars, len(terms.columns)))
        scaled = templates.scaled(x[:, : cannon.basis.n_terms])
        mean += np.einsum("nt,ntp->np", amplitudes, scaled)
    for i, row in enumerate(x):
        variance[i] += np.maximum(cov @ row @ row, 0.0)
    flux = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
    flux = np.where(np.isfinite(flux), flux, 1.0)
    star_id = np.array([f"simulated{i}" for i in range(n_stars)])
    spectra = NormalizedSpectra(
        star_id, cannon.wavelength, flux, weight, simulated=True, medium=cannon.medium
    )
    return spectra, labels


def sbc_labels(
    cannon: GivenModel,
    ivar: NDArray[np.floating],
    n_simulations: int,
    *,
    settings: InferenceSettings | None = None,
    priors: LabelPriors | None = None,
    seed: int | None = None,
) -> Ranks:
    """Rank the labels of stars drawn from a trained model among draws of their posteriors.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    ivar
        Inverse variances of observed stars, shape (n_observed, n_pixels).
    n_simulations
        Stars to draw.
    settings
        Of the inference. Stars whose draws are not worth 99 independent ones get more.
    priors
        Of the labels, which are drawn from them; None: uniform over the training range.
    seed
        Of everything; None takes a fresh one, which the result holds.

    Raises
    ------
    FitError
        If a star got no posterior, or draws of too little worth: leaving it out would bias the
        ranks.
    """
    cannon = as_model(cannon)
    priors = priors or training_range_priors(cannon)
    seed = as_seed(seed)
    rng = np.random.default_rng(seed)
    spectra, truth = simulate_stars(cannon, ivar, n_simulations, priors, rng)
    return rank_labels(cannon, spectra, truth, settings=settings, priors=priors, seed=seed)


def rank_labels(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    truth: FloatArray,
    *,
    settings: InferenceSettings | None = None,
    priors: LabelPriors,
    seed: int | None = None,
) -> Ranks:
    """Infer simulated stars and rank their true labels (n_stars, n_labels), see `sbc_labels`.

    Parameters
    ----------
    cannon
        The trained model.
    spectra
        Simulated spectra.
    truth : (n_stars, n_labels) float64
        The labels that they were made with.
    settings, priors, seed
        Of the inference.

    Raises
    ------
    FitError
        If a star gets no posterior, or draws that are worth too few.
    """
    seed = as_seed(seed)
    settings, names = settings or InferenceSettings(), tuple(cannon.basis.names)
    ranks = np.zeros(truth.shape, dtype=np.int64)
    sd, todo = np.zeros(truth.shape), np.arange(len(truth))
    for longer in LONGER:
        now = replace(settings, draws=longer * settings.draws)
        result = infer_labels(cannon, spectra.select(todo), settings=now, priors=priors, seed=seed)
        posterior = group_of(result, "posterior")
        columns = [posterior[n].transpose("star", "chain", "draw").values for n in names]
        draws = np.stack(columns, axis=-1).astype(np.float64)
        if missing := int(np.sum(~np.isfinite(draws).all(axis=(1, 2, 3)))):
            raise FitError(
                f"{missing} of {count_text(todo.size, 'simulated star')} got no posterior."
            )
        enough = np.array([effective_draws(d) >= N_KEPT for d in draws])
        for star, d in zip(todo[enough], draws[enough], strict=True):
            ranks[star], sd[star] = thinned_rank(d, truth[star]), d.std(axis=(0, 1))
        todo = todo[~enough]
        if todo.size == 0:
            return replace(Ranks.from_draws(names, truth, ranks, sd), seed=seed)
    raise FitError(
        f"the draws of {todo.size} of {count_text(len(truth), 'simulated star')} are worth fewer "
        f"than {N_KEPT} independent ones, even many of them; look at their posteriors, or ask for "
        "more draws."
    )
