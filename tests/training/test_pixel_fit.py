"""The closed form of the pixels against the PyMC model, integration, differences and truth."""

import numpy as np
import pymc as pm
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from bayes_cannon.base.packing import pack, unpack
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.models.training_model import build_training_model
from bayes_cannon.training.pixels.fit import Design, fit_pixels, log_marginal
from bayes_cannon.training.pixels.population import PixelPrior

SEED = 20


def correlated(tau, seed=4):
    """Covariance with these standard deviations and strong correlations."""
    square = np.random.default_rng(seed).normal(size=(len(tau), len(tau) + 2))
    cov = square @ square.T
    scale = tau / np.sqrt(np.diag(cov))
    return scale[:, None] * cov * scale


def make_pixels(n_stars=80, n_pixels=20, n_terms=6, scatter=0.01, seed=SEED):
    rng = np.random.default_rng(seed)
    x = np.c_[np.ones(n_stars), rng.normal(size=(n_stars, n_terms - 1))]
    tau = np.r_[0.1, np.full(n_terms - 1, 0.03)]
    theta = rng.normal(size=(n_pixels, n_terms)) @ np.linalg.cholesky(correlated(tau)).T
    sigma = 0.01 * np.exp(0.4 * rng.normal(size=(n_stars, n_pixels)))
    noise = rng.normal(size=sigma.shape) * np.sqrt(sigma**2 + scatter**2)
    flux, ivar = 1 + x @ theta.T + noise, sigma**-2.0
    ivar[rng.random(sigma.shape) < 0.05] = 0
    return flux, ivar, x, theta, Hyperparameters(correlated(tau), np.log(0.01), 0.5)


def fit_made(flux, ivar, x, hyper, **options):
    prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)
    start = np.full(flux.shape[1], np.log(0.005))
    return fit_pixels(flux, ivar, Design.exact(x), prior, start, **options), prior


def test_coefficients_are_the_map_of_the_pymc_model_and_cov_its_inverse_hessian():
    flux, ivar, x, _, hyper = make_pixels()
    fit, _ = fit_made(flux, ivar, x, hyper)
    model = build_training_model(flux, ivar, x, hyper=hyper)
    conditional = pm.do(model, {"log_s": fit.log_scatter})
    start = {"theta": np.zeros((20, 6)) + np.eye(6)[0]}
    with conditional:
        found = pm.find_MAP(
            initvals=start, method="Newton-CG", progressbar=False, jitter=False,
            return_inferencedata=False, options={"xtol": 1e-12, "maxiter": 500},
        )  # fmt: skip
    expected = fit.mean + np.eye(6)[0]
    scale = np.sqrt(np.array([np.diag(c) for c in unpack(fit.cov)]))
    assert np.all(np.abs(found["theta"] - expected) < 1e-5 * np.maximum(np.abs(expected), scale))

    hessian = -conditional.compile_d2logp(negate_output=False)({"theta": expected})
    blocks = np.abs(hessian).reshape(20, 6, 20, 6)
    own = np.array([hessian.reshape(20, 6, 20, 6)[p, :, p] for p in range(20)])
    assert blocks.sum() - np.abs(own).sum() < 1e-9 * np.abs(own).sum()
    np.testing.assert_allclose(np.linalg.inv(own), unpack(fit.cov), rtol=1e-6, atol=1e-12)


def test_marginal_density_equals_numerical_integration_of_the_model():
    flux, ivar, x, _, hyper = make_pixels(n_stars=12, n_pixels=1, n_terms=2)
    model = build_training_model(flux, ivar, x, hyper=hyper)
    log_p = model.compile_logp()
    prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)
    for log_s in (np.log(0.003), np.log(0.02)):
        u = np.array([log_s])
        fit = fit_pixels(flux, ivar, Design.exact(x), prior, u)
        sd = np.sqrt(np.diag(unpack(fit.cov)[0]))
        closed = log_marginal(flux, ivar, Design.exact(x), prior, u)[0]

        def inner(b, u=u, fit=fit, sd=sd, closed=closed):
            def density(a):
                theta = np.array([[1 + a, b]])
                return np.exp(log_p({"theta": theta, "log_s": u}) - closed)

            centre = fit.mean[0, 0]
            return quad(density, centre - 12 * sd[0], centre + 12 * sd[0], epsrel=1e-9)[0]

        centre = fit.mean[0, 1]
        total = quad(inner, centre - 12 * sd[1], centre + 12 * sd[1], epsrel=1e-7)[0]
        assert np.log(total) == pytest.approx(0.0, abs=1e-6)


def test_marginal_density_equals_the_multivariate_normal():
    flux, ivar, x, _, hyper = make_pixels(n_stars=30, n_pixels=3)
    prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)
    u = np.log([0.002, 0.01, 0.05])
    got = log_marginal(flux, ivar, Design.exact(x), prior, u)
    for p in range(3):
        good = ivar[:, p] > 0
        cov = np.diag(1 / ivar[good, p] + np.exp(2 * u[p]))
        cov += x[good] @ hyper.covariance @ x[good].T
        expected = multivariate_normal(np.ones(good.sum()), cov).logpdf(flux[good, p])
        z = (u[p] - hyper.mu_s) / hyper.omega_s
        expected += -0.5 * z**2 - np.log(hyper.omega_s * np.sqrt(2 * np.pi))
        assert got[p] == pytest.approx(expected, rel=1e-10)


def test_scatter_is_at_the_mode_with_the_width_of_the_curvature():
    flux, ivar, x, _, hyper = make_pixels()
    fit, prior = fit_made(flux, ivar, x, hyper)
    assert fit.converged.all()
    h = 1e-3
    low, mid, high = (
        log_marginal(flux, ivar, Design.exact(x), prior, fit.log_scatter + k * h)
        for k in (-1, 0, 1)
    )
    slope, curvature = (high - low) / (2 * h), -(high - 2 * mid + low) / h**2
    assert np.all(np.abs(slope) * fit.log_scatter_sd < 0.01)
    np.testing.assert_allclose(fit.log_scatter_sd, curvature**-0.5, rtol=1e-3)


@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_scatter_is_recovered_without_bias(ratio):
    # 300 pixels: the mean of s has a standard error of well under 1 % of s; 4 of them allowed.
    scatter = 0.01 * ratio
    flux, ivar, x, _, hyper = make_pixels(400, 300, scatter=scatter)
    hyper = Hyperparameters(hyper.covariance, np.log(scatter), 0.5)
    fit, _ = fit_made(flux, ivar, x, hyper)
    found = np.exp(fit.log_scatter)
    error = found.std() / np.sqrt(300)
    assert abs(np.mean(found) - scatter) < 4 * error
    assert error < 0.02 * scatter


def test_pixels_without_excess_scatter_are_not_pinned_to_a_floor():
    flux, ivar, x, _, hyper = make_pixels(400, 200, scatter=0.0)
    fit, _ = fit_made(flux, ivar, x, Hyperparameters(hyper.covariance, np.log(0.003), 1.0))
    assert np.all(np.exp(fit.log_scatter) < 0.005)
    assert np.unique(np.round(fit.log_scatter, 6)).size == 200
    assert np.all(fit.log_scatter_sd > 0.2)


def test_marginal_mode_does_not_share_the_bias_of_the_joint_mode():
    # 40 stars, 6 terms: the joint mode is too small by about 8 %, i.e. over 8 standard errors.
    flux, ivar, x, _, hyper = make_pixels(40, 1500, scatter=0.03)
    fit, _ = fit_made(flux, ivar, x, Hyperparameters(hyper.covariance, np.log(0.03), 0.5))
    log_s = fit.log_scatter
    assert abs(log_s.mean() - np.log(0.03)) < 0.02
    residual = (flux - 1 - x @ fit.mean.T) * (ivar > 0)
    joint = np.sqrt((residual**2).sum(axis=0) / (ivar > 0).sum(axis=0) - 1e-4 * np.exp(0.32))
    assert np.log(joint).mean() < np.log(0.03) - 0.05


def test_coefficients_held_at_zero_stay_there_and_the_rest_do_not_notice():
    flux, ivar, x, _, hyper = make_pixels()
    free = np.ones((20, 6), dtype=bool)
    free[:, 3] = False
    prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s, free)
    start = np.full(20, np.log(0.01))
    fit = fit_pixels(flux, ivar, Design.exact(x), prior, start, tolerance=1e-3)
    keep = [0, 1, 2, 4, 5]
    fewer = PixelPrior(hyper.covariance[np.ix_(keep, keep)], hyper.mu_s, hyper.omega_s)
    expected = fit_pixels(flux, ivar, Design.exact(x[:, keep]), fewer, start, tolerance=1e-3)
    assert np.all(fit.mean[:, 3] == 0)
    assert np.all(unpack(fit.cov)[:, 3] == 0)
    # The two searches for the scatter may end 1e-3 of its width apart.
    np.testing.assert_allclose(fit.mean[:, keep], expected.mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fit.log_density, expected.log_density, rtol=1e-9)


def test_pixel_without_data_returns_the_prior():
    flux, ivar, x, _, hyper = make_pixels(n_pixels=2)
    ivar[:, 0] = 0
    fit, _ = fit_made(flux, ivar, x, hyper)
    np.testing.assert_allclose(fit.mean[0], 0, atol=1e-15)
    np.testing.assert_allclose(unpack(fit.cov)[0], hyper.covariance, rtol=1e-11)
    assert fit.log_scatter[0] == pytest.approx(hyper.mu_s, abs=1e-3)
    assert fit.log_scatter_sd[0] == pytest.approx(hyper.omega_s, rel=1e-6)


def test_packing_goes_there_and_back():
    matrices = np.random.default_rng(1).normal(size=(4, 5, 5))
    matrices = matrices + matrices.transpose(0, 2, 1)
    np.testing.assert_array_equal(unpack(pack(matrices)), matrices)
