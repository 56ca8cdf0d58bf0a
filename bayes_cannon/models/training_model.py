r"""The training step as PyMC models. Each function builds one; none of them samples.

    flux[n,p] ~ Normal(theta[p].v(ell_n) [+ loading[p].z[n]], sqrt(err[n,p]**2 + s[p]**2))
    [theta[p] - (1, 0, ...), loading[p]] ~ MvNormal(0, T)     T: LKJ and HalfNormal
    log_s[p] ~ Normal(mu_s, omega_s)                          mu_s ~ Normal, omega_s ~ HalfNormal

The closed forms of `pixel_fit` are this model with the coefficients integrated out; tests hold the
two against each other. Dims: ``star``, ``pixel``, ``term``, ``factor``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.spectra.distortions import KnownTerms
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "build_factor_model",
    "build_label_error_model",
    "build_training_model",
]


def _coords(flux: NDArray[Any], term_names: tuple[str, ...]) -> dict[str, Any]:
    n_stars, n_pixels = flux.shape
    return {
        "star": np.arange(n_stars),
        "pixel": np.arange(n_pixels),
        "term": list(term_names),
    }


def _population(
    priors: TrainingPriors | None, hyper: Hyperparameters | None, n_terms: int, n_coef: int
) -> tuple[Any, Any, Any]:
    """Cholesky factor of T, and mean and width of the log scatters, free or fixed.

    Free: standard deviations are ``population_stds``, correlations ``population_corr``.
    """
    if priors is not None and hyper is not None:
        raise InvalidDataError("give priors of the hyperparameters, or their values: not both.")
    if hyper is not None:
        chol: Any = pm.Data("population", np.linalg.cholesky(hyper.covariance[:n_coef, :n_coef]))
        return chol, pm.Data("mu_s", hyper.mu_s), pm.Data("omega_s", hyper.omega_s)
    priors = priors or TrainingPriors()
    scales = pm.HalfNormal.dist(priors.scales(n_terms, n_coef - n_terms), shape=n_coef)
    chol, _, _ = pm.LKJCholeskyCov(
        "population", eta=priors.correlation_shape, n=n_coef, sd_dist=scales
    )
    mu_s = pm.Normal("mu_s", priors.log_scatter_mean, priors.log_scatter_mean_sd)
    return chol, mu_s, pm.HalfNormal("omega_s", priors.log_scatter_spread)


def _pixel_priors(
    priors: TrainingPriors | None,
    hyper: Hyperparameters | None,
    n_terms: int,
    n_factors: int = 0,
) -> tuple[Any, Any, Any]:
    """Coefficients, loadings and log scatter under free or fixed hyperparameters."""
    first = np.zeros(n_terms)
    first[0] = 1.0
    chol, mu_s, omega_s = _population(priors, hyper, n_terms, n_terms + n_factors)
    theta = pm.MvNormal("theta", first, chol=chol[:n_terms, :n_terms], dims=("pixel", "term"))
    log_s = pm.Normal("log_s", mu_s, omega_s, dims="pixel")
    if n_factors == 0:
        return theta, None, log_s
    # The loadings given the coefficients, from the lower rows of the Cholesky factor.
    white = pt.linalg.solve_triangular(chol[:n_terms, :n_terms], (theta - first).T, lower=True)
    loading = pm.MvNormal(
        "loading", (chol[n_terms:, :n_terms] @ white).T, chol=chol[n_terms:, n_terms:],
        dims=("pixel", "factor"),
    )  # fmt: skip
    return theta, loading, log_s


def _observe(model_flux: Any, log_s: Any, flux: NDArray[Any], ivar: NDArray[Any]) -> None:
    """Gaussian likelihood over the pixels that can be used, whose values may be swapped."""
    good = np.nonzero(ivar > 0)
    variance = 1 / np.asarray(ivar[good], dtype=np.float64)
    sigma = pt.sqrt(pm.Data("variance", variance) + pt.exp(2 * log_s)[good[1]])
    seen = pm.Data("observed_flux", np.asarray(flux[good], dtype=np.float64))
    pm.Normal("flux", model_flux[good], sigma, observed=seen)


def build_training_model(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    features: FloatArray,
    *,
    priors: TrainingPriors | None = None,
    hyper: Hyperparameters | None = None,
    term_names: tuple[str, ...] = (),
) -> pm.Model:
    """Build the training model with exact labels and no factors.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: left out), shape (n_stars, n_pixels).
    features
        v(ell) of the stars, shape (n_stars, n_terms).
    priors
        Of the hyperparameters.
    hyper
        Values at which to fix the hyperparameters; None: they are free variables.
    term_names
        Coordinates of ``term``.

    Raises
    ------
    InvalidDataError
        If both `priors` and `hyper` are given.
    """
    names = term_names or tuple(str(k) for k in range(features.shape[1]))
    with pm.Model(coords=_coords(flux, names)) as model:
        v = pm.Data("features", np.asarray(features, np.float64), dims=("star", "term"))
        theta, _, log_s = _pixel_priors(priors, hyper, features.shape[1])
        _observe(v @ theta.T, log_s, flux, ivar)
    return model


def build_factor_model(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    features: FloatArray,
    n_factors: int,
    *,
    priors: TrainingPriors | None = None,
    hyper: Hyperparameters | None = None,
    terms: KnownTerms | None = None,
) -> pm.Model:
    """Build the training model with `n_factors` nuisance factors and known terms.

    The amplitudes of the stars are ``a ~ N(0, 1)``, dim ``term_column``, in units of
    ``term_scale ~ HalfNormal``, one for each group of columns; the templates are those of the
    coefficients, free variables too.

    Parameters
    ----------
    flux, ivar, features, priors, hyper
        As for `build_training_model`; `hyper` has the covariance of terms and loadings.
    n_factors
        Number of factors, dim ``factor``.
    terms
        Known terms on these pixels, which must be few; None: none.

    Raises
    ------
    InvalidDataError
        If both `priors` and `hyper` are given.
    """
    n_terms = features.shape[1]
    coords = _coords(flux, tuple(str(k) for k in range(n_terms)))
    coords["factor"] = np.arange(n_factors)
    if terms is not None:
        coords["term_column"] = np.arange(len(terms.columns))
        coords["term_group"] = np.unique(terms.groups)
    with pm.Model(coords=coords) as model:
        v = pm.Data("features", np.asarray(features, np.float64), dims=("star", "term"))
        theta, loading, log_s = _pixel_priors(priors, hyper, n_terms, n_factors)
        z = pm.Normal("z", 0.0, 1.0, dims=("star", "factor"))
        mean = v @ theta.T + z @ loading.T
        if terms is not None:
            mean = mean + _known_terms(terms, v, theta)
        _observe(mean, log_s, flux, ivar)
    return model


def _known_terms(terms: KnownTerms, v: Any, theta: Any) -> Any:
    """What the known terms add to the stars' spectra, (n_stars, n_pixels)."""
    groups = terms.groups
    first = np.unique(groups, return_index=True)[1]
    scale = pm.HalfNormal("term_scale", terms.widest[first], dims="term_group")
    a = pm.Normal("a", 0.0, 1.0, dims=("star", "term_column"))
    flux, added = v @ theta.T, 0.0
    for c, (matrix, constant) in enumerate(terms.operators()):
        template = flux @ np.asarray(matrix).T + constant
        added = added + (scale[int(groups[c])] * a[:, c])[:, None] * template
    return added


def build_label_error_model(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: Labels,
    basis: PolynomialBasis,
    *,
    priors: TrainingPriors | None = None,
    hyper: Hyperparameters | None = None,
    population_cov: FloatArray | None = None,
) -> pm.Model:
    """Build the training model in which the catalogue's labels are noisy measurements.

    The true labels are latent: ``ell_n ~ MvNormal(0, population)`` and
    ``label_obs ~ Normal(l_n, label_err)``; a missing label has no measurement. Sampled as it
    stands with thousands of pixels it trusts the spectra too much (the polynomial is not the
    truth); see `label_errors` for the fit that guards against it.

    Parameters
    ----------
    flux, ivar, priors, hyper
        As for `build_training_model`.
    labels
        Catalogue labels with errors; NaN where missing.
    basis
        Scaling and monomials.
    population_cov
        Covariance of the standardised true labels, (n_labels, n_labels); None: the identity.

    Raises
    ------
    InvalidDataError
        If both `priors` and `hyper` are given.
    """
    n_labels = basis.n_labels
    cov = np.eye(n_labels) if population_cov is None else population_cov
    coords = {**_coords(flux, basis.term_names), "label_name": list(basis.names)}
    known = np.nonzero(np.isfinite(labels.values))
    observed = basis.standardize(labels.values)[known]
    error = (labels.errors / basis.scale)[known]
    with pm.Model(coords=coords) as model:
        theta, _, log_s = _pixel_priors(priors, hyper, basis.n_terms)
        white = pm.Normal("white", 0.0, 1.0, dims=("star", "label_name"))
        ell = pm.Deterministic(
            "ell", white @ np.linalg.cholesky(cov).T, dims=("star", "label_name")
        )
        pm.Normal("label_obs", ell[known], error, observed=observed)
        _observe(basis.symbolic(ell) @ theta.T, log_s, flux, ivar)
    return model
