"""Modes and the Gaussian at the best one, against differences, grids and known answers."""

import dataclasses

import numpy as np
import pytest

from bayes_cannon.inference.likelihood.compression import compress
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.modes import (
    ModeSettings,
    find_modes,
    fit_laplace,
    gaussian_at,
    log_posterior,
    starting_points,
)
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors
from tests.label_problem import NAMES, TrainedStandIn, make_problem, stand_in_labels

SEED = 3
KINDS = {
    "TEFF": LabelPrior.uniform(3000, 6000),
    "LOGG": LabelPrior.truncated(2.5, 0.7, lower=0),
    "FE_H": LabelPrior.normal(-0.2, 0.3),
}


def setup(priors=None, **options):
    problem = make_problem(**options)
    pixels = PixelModel.from_cannon(problem.cannon)
    flux, ivar = (pixels.take(a) for a in (problem.spectra.flux, problem.spectra.ivar))
    return problem, pixels, LabelPriors.for_labels(NAMES, priors), flux, ivar


def differences(function, u, h=1e-4):
    """Hessian of a function of (n, k) points that gives (n,) values, at one point."""
    k = len(u)
    out = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            a, b = h * np.eye(k)[i], h * np.eye(k)[j]
            four = function(np.array([u + a + b, u + a - b, u - a + b, u - a - b]))
            out[i, j] = (four[0] - four[1] - four[2] + four[3]) / (4 * h * h)
    return out


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_laplace_is_the_curvature_at_the_top(degree):
    problem, pixels, priors, flux, ivar = setup(KINDS, degree=degree, n_stars=4)
    laplace, data = fit_laplace(pixels, priors, flux, ivar)
    assert laplace.converged.all()
    assert laplace.exact.all()
    for i in range(4):

        def density(points, i=i):
            return log_posterior(
                problem.cannon.basis, priors, data.rows(slice(i, i + 1)), points[None]
            )[0]

        sd = np.sqrt(np.diag(laplace.chol[i] @ laplace.chol[i].T))
        scaled = -differences(lambda y, i=i, s=sd: density(laplace.u[i] + y * s), np.zeros(3), 0.01)
        cov = np.linalg.inv(scaled) * sd[:, None] * sd
        np.testing.assert_allclose(
            laplace.chol[i] @ laplace.chol[i].T, cov, rtol=0.01, atol=1e-4 * cov.max()
        )
        around = laplace.u[i] + 0.05 * sd * np.random.default_rng(SEED).standard_normal((50, 3))
        assert density(around).max() <= density(laplace.u[i][None])[0] + 1e-9
        np.testing.assert_allclose(laplace.log_density[i], density(laplace.u[i][None])[0])


def test_labels_are_recovered_within_their_errors():
    # mean chi2 of 300 labels: 5 standard deviations, false alarm 6e-7
    problem, pixels, priors, flux, ivar = setup(n_stars=100)
    laplace, _ = fit_laplace(pixels, priors, flux, ivar)
    off = laplace.labels - problem.labels
    chi2 = np.einsum("ni,nij,nj->", off, np.linalg.inv(laplace.cov), off)
    assert abs(chi2 - 300) < 5 * np.sqrt(600)


def test_variance_is_refreshed_until_the_labels_stand_still():
    problem, pixels, priors, flux, ivar = setup(n_train=30, n_stars=8)
    laplace, data = fit_laplace(pixels, priors, flux, ivar, ModeSettings(max_refreshes=10))
    assert np.all((laplace.refreshes >= 1) & (laplace.refreshes < 10))
    v = problem.cannon.basis(laplace.labels)
    again = compress(pixels, flux, ivar, np.c_[v, laplace.factors])
    ends, _, _ = find_modes(problem.cannon.basis, priors, again, laplace.u[:, None])
    shift = np.linalg.solve(laplace.chol, (ends[:, 0] - laplace.u)[:, :, None])
    assert np.abs(shift).max() < 0.05
    np.testing.assert_allclose(data.A, again.A, rtol=0.05, atol=0.01 * np.abs(again.A).max())


def test_without_coefficient_uncertainty_nothing_is_refreshed():
    problem = make_problem(n_stars=2)
    pixels = PixelModel.from_cannon(problem.cannon, coefficient_uncertainty=False)
    flux, ivar = (pixels.take(a) for a in (problem.spectra.flux, problem.spectra.ivar))
    laplace, _ = fit_laplace(pixels, LabelPriors.for_labels(NAMES), flux, ivar)
    np.testing.assert_array_equal(laplace.refreshes, 0)


def parabola(tilt=0.0, n_pixels=50):
    """One label whose spectrum depends on its square, so that both signs fit."""
    basis = PolynomialBasis(("A",), ("dex",), np.zeros(1), np.ones(1), 2)
    theta = np.tile([1.0, tilt, 0.1], (n_pixels, 1))
    cov = np.zeros((n_pixels, 6), dtype=np.float32)
    ones = np.ones(n_pixels)
    cannon = TrainedStandIn(
        basis, np.arange(n_pixels) + 1.0, theta, np.zeros((n_pixels, 0)), cov, 0.001 * ones,
        ones.astype(bool), stand_in_labels(("A",), np.linspace(-1, 1, 9)[:, None]),
    )  # fmt: skip
    flux = basis.features(np.array([[0.8]])) @ theta.T
    return cannon, flux, np.full(flux.shape, 1e4)


def test_two_modes_are_found_and_counted():
    cannon, flux, ivar = parabola()
    priors = LabelPriors.for_labels(("A",))
    laplace, _ = fit_laplace(PixelModel.from_cannon(cannon), priors, flux, ivar)
    assert laplace.n_modes[0] == 2
    assert laplace.mode_gap[0] == pytest.approx(0, abs=1e-6)
    assert abs(laplace.labels[0, 0]) == pytest.approx(0.8, abs=1e-3)


def test_gap_between_modes_is_their_difference_in_log_density():
    cannon, flux, ivar = parabola(tilt=0.001)
    priors, pixels = LabelPriors.for_labels(("A",)), PixelModel.from_cannon(cannon)
    laplace, data = fit_laplace(pixels, priors, flux, ivar)
    grid = np.linspace(-1.9, 1.9, 100001)[:, None]
    values = log_posterior(cannon.basis, priors, data, priors.unconstrain(grid)[None])[0]
    gap = values[grid[:, 0] > 0].max() - values[grid[:, 0] < 0].max()
    assert laplace.n_modes[0] == 2
    assert laplace.mode_gap[0] == pytest.approx(gap, abs=1e-4)
    assert laplace.labels[0, 0] == pytest.approx(0.8, abs=1e-3)


def test_a_saddle_gets_the_gauss_newton_covariance():
    cannon, flux, ivar = parabola()
    priors, pixels = LabelPriors.for_labels(("A",)), PixelModel.from_cannon(cannon)
    data = compress(pixels, flux, ivar, cannon.basis.features(np.zeros((1, 1))))
    chol, exact = gaussian_at(cannon.basis, priors, data, np.zeros((1, 1)))
    assert not exact[0]
    assert chol[0, 0, 0] > 0


def test_starts_lie_inside_the_priors():
    problem, pixels, _, flux, ivar = setup(n_stars=3)
    priors = LabelPriors.for_labels(NAMES, {"TEFF": LabelPrior.uniform(4600, 4700)})
    x = np.c_[problem.cannon.basis(problem.labels), problem.factors]
    data = compress(pixels, flux, ivar, x)
    labels = priors.constrain(starting_points(problem.cannon.basis, priors, data, 6))
    assert labels.shape == (3, 6, 3)
    assert np.all((labels > priors.lower) & (labels < priors.upper))


def test_a_star_at_the_edge_of_its_prior_is_done_without_complaint():
    _, pixels, priors, flux, ivar = setup({"TEFF": LabelPrior.uniform(3000, 3500)}, n_stars=5)
    laplace, _ = fit_laplace(pixels, priors, flux, ivar)
    assert np.isfinite(laplace.chol).all()
    assert np.all(laplace.labels[:, 0] > 3490)


def test_no_information_gives_the_prior_back():
    problem, pixels, priors, flux, ivar = setup(KINDS, n_stars=1)
    laplace, _ = fit_laplace(pixels, priors, flux, 1e-12 * ivar)
    expected = dataclasses.replace(problem.cannon.basis).center
    assert laplace.labels[0, 2] == pytest.approx(expected[2], abs=1e-3)
    assert np.sqrt(laplace.cov[0, 2, 2]) == pytest.approx(0.3, rel=1e-3)
