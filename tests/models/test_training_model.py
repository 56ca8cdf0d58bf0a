"""The training model as PyMC has it: its population of coefficients, fixed and free."""

import numpy as np
import pymc as pm
import pytest

from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.models.training_model import build_factor_model, build_training_model

QUICK = "FAST_COMPILE"
"""No compiler: every model is run once."""
N_TERMS, N_FACTORS, N_PIXELS = 3, 2, 4000


@pytest.fixture(scope="module")
def hyper():
    square = np.random.default_rng(1).normal(size=(5, 7))
    return Hyperparameters(1e-4 * square @ square.T, np.log(0.01), 0.4)


def data(n_stars, n_pixels):
    return np.ones((n_stars, n_pixels)), np.full((n_stars, n_pixels), 1e4)


def test_coefficients_and_loadings_come_from_one_population(hyper):
    # 4000 pixels: entries of a correlation matrix are good to 0.016; 5 times that is allowed.
    flux, ivar = data(2, N_PIXELS)
    model = build_factor_model(flux, ivar, np.ones((2, N_TERMS)), N_FACTORS, hyper=hyper)
    theta, loading, log_s = pm.draw(
        [model["theta"], model["loading"], model["log_s"]], random_seed=3
    )
    c = np.concatenate([theta, loading], axis=1)
    c[:, 0] -= 1
    scale = np.outer(hyper.tau, hyper.tau)
    np.testing.assert_allclose(c.T @ c / N_PIXELS / scale, hyper.correlation, atol=0.08)
    assert log_s.mean() == pytest.approx(hyper.mu_s, abs=5 * 0.4 / np.sqrt(N_PIXELS))


def test_density_of_the_coefficients_is_the_multivariate_normal(hyper):
    flux, ivar = data(2, 6)
    model = build_factor_model(flux, ivar, np.ones((2, N_TERMS)), N_FACTORS, hyper=hyper)
    rng = np.random.default_rng(2)
    c = 0.01 * rng.normal(size=(6, 5))
    point = {"theta": c[:, :3] + np.eye(3)[0], "loading": c[:, 3:]}
    point |= {"log_s": np.full(6, -5.0), "z": np.zeros((2, 2))}
    prior = model.compile_logp([model["theta"], model["loading"]], mode=QUICK)
    chol = np.linalg.cholesky(hyper.covariance)
    white = np.linalg.solve(chol, c.T)
    expected = -0.5 * np.sum(white**2) - 6 * np.log(np.diag(chol)).sum() - 15 * np.log(2 * np.pi)
    assert prior(point) == pytest.approx(expected, rel=1e-10)


def test_free_population_has_correlations_and_scales():
    flux, ivar = data(3, 4)
    model = build_training_model(flux, ivar, np.ones((3, N_TERMS)), term_names=("1", "a", "b"))
    assert {v.name for v in model.free_RVs} == {"population", "theta", "log_s", "mu_s", "omega_s"}
    stds, corr, theta = pm.draw(
        [model["population_stds"], model["population_corr"], model["theta"]],
        random_seed=1,
        mode=QUICK,
    )
    assert stds.shape == (3,)
    assert np.all(stds > 0)
    np.testing.assert_allclose(np.diag(corr), 1, rtol=1e-6)
    assert theta.shape == (4, 3)
    assert np.isfinite(model.compile_logp(mode=QUICK)(model.initial_point()))


def test_prior_of_the_hyperparameters_is_that_of_the_pymc_model():
    """`Hyperparameters.log_prior` in tau and R against the model's in the Cholesky factor."""
    priors = TrainingPriors(coef_scale=0.3, correlation_shape=4.0, log_scatter_spread=0.7)
    flux, ivar = data(3, 4)
    model = build_training_model(flux, ivar, np.ones((3, N_TERMS)), priors=priors)
    variables = [model[n] for n in ("population", "mu_s", "omega_s")]
    log_p = model.compile_logp(variables, jacobian=False, sum=True, mode=QUICK)
    rows = np.tril_indices(N_TERMS)
    diagonal = rows[0] == rows[1]

    def split(packed):
        """Tau and the lower triangle of R."""
        factor = np.zeros((N_TERMS, N_TERMS))
        factor[rows] = packed
        cov = factor @ factor.T
        tau = np.sqrt(np.diag(cov))
        return np.r_[tau, (cov / np.outer(tau, tau))[np.tril_indices(N_TERMS, -1)]]

    def offset(seed):
        rng = np.random.default_rng(seed)
        hyper = Hyperparameters(
            np.cov(0.2 * rng.standard_normal((N_TERMS, 9))), rng.normal(-4, 1), rng.uniform(0.2, 1)
        )
        packed = np.linalg.cholesky(hyper.covariance)[rows]
        step = 1e-6 * np.eye(packed.size)
        slopes = [(split(packed + d) - split(packed - d)) / 2e-6 for d in step]
        point = model.initial_point()
        value = {v.name: v for v in model.value_vars}
        names = {n: next(k for k in value if k.startswith(n)) for n in ("population", "mu_s")}
        spread = next(k for k in value if k.startswith("omega_s"))
        point[names["population"]] = np.where(diagonal, np.log(np.abs(packed)), packed)
        point[names["mu_s"]], point[spread] = hyper.mu_s, np.log(hyper.omega_s)
        in_tau_and_r = log_p(point) - np.linalg.slogdet(np.array(slopes))[1]
        return in_tau_and_r - hyper.log_prior(priors, N_TERMS)

    np.testing.assert_allclose([offset(seed) for seed in (2, 3, 4)], offset(1), atol=1e-6)
