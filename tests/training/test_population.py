"""The population of the coefficients: its mode, held coefficients, and why it has correlations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from bayes_cannon.base.packing import pack, unpack
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.fit import Design, given_scatter
from bayes_cannon.training.pixels.kernels import LANES, posterior, weigh
from bayes_cannon.training.pixels.population import (
    PixelPrior,
    covariance_mode,
    extrapolate,
    second_moment,
    update_hyperparameters,
)
from bayes_cannon.training.pixels.redundancy import pixels_per_independent_one
from bayes_cannon.training.pixels.survey import _accelerated


def noise(n_stars, n_pixels, seed=4):
    return np.random.default_rng(seed).normal(size=(n_stars, n_pixels)).astype(np.float32)


def test_independent_pixels_all_count():
    white = noise(300, 4000)
    found = pixels_per_independent_one(white, np.ones_like(white), n_features=0)
    assert found == pytest.approx(1, abs=0.1)


def test_pixels_that_repeat_one_another_count_once():
    repeated = np.repeat(noise(300, 400), 10, axis=1)
    weight = np.full_like(repeated, 25.0)  # scale and the stars' own brightness do not matter
    repeated *= np.linspace(0.1, 3, 300, dtype=np.float32)[:, None]
    found = pixels_per_independent_one(repeated, weight, n_features=0)
    assert found == pytest.approx(10, rel=0.1)


def test_a_pattern_counts_until_a_factor_explains_it():
    white = noise(300, 3000) + 2 * noise(300, 1, seed=5) * noise(1, 3000, seed=6)
    ones = np.ones_like(white)
    assert pixels_per_independent_one(white, ones, n_features=0) > 300
    explained = pixels_per_independent_one(white, ones, n_features=0, n_factors=1)
    assert explained == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("n_stars", [0, 1, 6])
def test_with_too_few_stars_to_tell_all_pixels_count_as_one(n_stars):
    white = noise(n_stars, 50)
    found = pixels_per_independent_one(white, np.ones_like(white), n_features=5)
    assert found == 50


def test_stars_without_a_single_good_pixel_do_not_matter():
    white = noise(200, 2000)
    weight = np.ones_like(white)
    weight[::2] = 0
    found = pixels_per_independent_one(white, weight, n_features=0)
    assert found == pytest.approx(1, abs=0.1)


def test_prior_of_correlations_keeps_its_worth_against_pixels_that_repeat():
    priors = TrainingPriors(correlation_shape=30.0)
    assert priors.against(1.0) == priors
    assert priors.against(50.0).correlation_shape == 1 + 29 * 50


def test_few_factors_do_not_turn_what_moves_all_pixels_into_coefficients():
    # One pattern in all pixels, no factor to take it: by chance it goes with the features, which
    # are nearly collinear, and all pixels' coefficients are off the same way.
    rng = np.random.default_rng(8)
    n_stars, n_pixels = 60, 600
    x = rng.normal(size=n_stars)
    features = np.stack([np.ones(n_stars), x, x + 0.1 * rng.normal(size=n_stars)], axis=1)
    theta = 0.02 * rng.normal(size=(n_pixels, 3))
    pattern = 0.05 * rng.normal(size=(n_stars, 1)) * rng.normal(size=n_pixels)
    flux = 1 + features @ theta.T + pattern + 0.005 * rng.normal(size=(n_stars, n_pixels))
    ivar = np.full(flux.shape, 0.005**-2.0)
    fit = fit_map(flux, ivar, Design.exact(features), seed=0)
    assert fit.hyper.redundancy > 100
    wrong = replace(TrainingPriors(), correlation_shape=1 + 49 / fit.hyper.redundancy)
    naive = fit_map(flux, ivar, Design.exact(features), priors=wrong, seed=0)
    learnt, by_chance = (f.hyper.correlation[np.tril_indices(3, -1)] for f in (fit, naive))
    assert np.all(np.abs(learnt) < 0.1 * np.abs(by_chance))


def covariance(n, seed=1, scale=1.0):
    square = np.random.default_rng(seed).normal(size=(n, n + 2))
    return scale * square @ square.T


@pytest.mark.parametrize("n_pixels", [4, 10, 500])
def test_population_is_the_mode_for_few_and_many_pixels(n_pixels):
    n, scale, shape = 3, np.array([0.5, 0.2, 2.0]), 6.0
    second = n_pixels * covariance(n, scale=0.01)

    def loss(free):
        chol = np.zeros((n, n))
        chol[np.tril_indices(n)] = free
        T = chol @ chol.T + 1e-12 * np.eye(n)
        tau = np.sqrt(np.diag(T))
        value = 0.5 * n_pixels * np.linalg.slogdet(T)[1] + 0.5 * np.trace(
            np.linalg.solve(T, second)
        )
        value += 0.5 * np.sum((tau / scale) ** 2)
        return value - (shape - 1) * np.linalg.slogdet(T / np.outer(tau, tau))[1]

    start = np.linalg.cholesky(second / n_pixels)[np.tril_indices(n)]
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 6000, "xatol": 1e-9})
    got = covariance_mode(second, n_pixels, scale, shape)
    chol = np.linalg.cholesky(got)[np.tril_indices(n)]
    assert loss(chol) <= found.fun + 1e-6
    np.testing.assert_allclose(chol, np.abs(found.x) * np.sign(chol), rtol=0.02, atol=1e-3)


def test_extrapolation_ends_a_geometric_approach():
    """Logarithms that approach their limit by a constant factor are there at once."""
    target = Hyperparameters(covariance(4), -4.0, 0.3)

    def approach(distance):
        values, vectors = np.linalg.eigh(target.covariance)
        moved = values * np.exp(distance)
        return replace(target, covariance=(vectors * moved) @ vectors.T)

    def relative(hyper, unit):
        return np.linalg.slogdet(hyper.covariance / unit)[1]

    rounds = [approach(0.9**k) for k in range(3)]
    found = extrapolate(*rounds)
    unit = np.outer(rounds[0].tau, rounds[0].tau)
    left = abs(relative(found, unit) - relative(target, unit))
    assert left < 0.02 * abs(relative(rounds[2], unit) - relative(target, unit))
    assert (found.mu_s, found.omega_s) == (target.mu_s, target.omega_s)


def test_extrapolation_is_a_covariance_whatever_the_rounds_were():
    rng = np.random.default_rng(3)
    for _ in range(50):
        rounds = []
        for _ in range(3):
            x = rng.normal(size=(6, 5)) * 10.0 ** rng.uniform(-6, 1, 5)
            rounds.append(Hyperparameters(x.T @ x + 1e-20 * np.eye(5), 0.0, 1.0))
        found = extrapolate(*rounds)
        assert np.isfinite(found.covariance).all()
        assert np.all(found.tau > 0)
        assert np.linalg.eigvalsh(found.correlation).min() > -1e-6


def test_extrapolated_rounds_come_to_where_many_plain_ones_do():
    """Coefficients that are mostly noise: there a round of EM moves little."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(60, 5))
    gram = np.repeat(pack((x.T @ x)[None]), 300, axis=0) * 900.0
    true = np.array([0.05, 0.02, 0.004, 0.002, 0.001])
    theta = rng.normal(size=(300, 5)) * true
    noise_part = rng.normal(size=(300, 60)) @ x * 30.0
    right = np.einsum("pij,pj->pi", unpack(gram), theta) + noise_part
    scatter, sd = np.full(300, -5.0), np.full(300, 0.1)

    def em(hyper):
        prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)
        moments = second_moment(*given_scatter(gram, right, prior)[:2], prior)
        return update_hyperparameters(moments, scatter, sd, TrainingPriors(), 5)

    plain = few = fast = em(Hyperparameters(0.01 * np.eye(5), -5.0, 1.0))
    for _ in range(3000):
        plain = em(plain)
    for _ in range(30):
        few = em(few)
    for _ in range(10):
        first = em(fast)
        fast = em(extrapolate(fast, first, em(first)))
    assert few.moved(plain) > 0.05, "plain rounds are slow here"
    assert fast.moved(plain) < 0.7 * few.moved(plain), "for the same number of rounds"


def test_an_extrapolated_point_counts_only_where_its_density_is_not_lower():
    """Rounds that go straight to a target, half a unit each, and a cliff just beyond it."""
    target = np.log(0.02**2)
    asked = []

    def em(hyper):
        at = float(np.log(hyper.covariance[0, 0]))
        asked.append(at)
        density = -abs(at - target) if at > target - 0.01 else -1e9
        new = at - min(0.5, at - target)
        return Hyperparameters(np.exp(new) * np.eye(1), 0.0, 1.0), density

    found = _accelerated(em, Hyperparameters(np.eye(1), 0.0, 1.0))
    assert min(asked) < target - 0.01, "an extrapolated point fell off the cliff"
    assert float(np.log(found.covariance[0, 0])) == pytest.approx(target, abs=1e-6)


def test_an_extrapolated_point_that_is_no_covariance_is_not_used(monkeypatch):
    from bayes_cannon.training.pixels import survey

    def em(hyper):
        assert hyper.usable
        at = 0.5 * (hyper.covariance + np.eye(2))
        return Hyperparameters(at, 0.0, 1.0), 0.0

    broken = Hyperparameters(np.array([[1.0, 1.0], [1.0, 1.0]]), 0.0, 1.0)
    monkeypatch.setattr(survey, "extrapolate", lambda *rounds, longest: broken)
    found = _accelerated(em, Hyperparameters(9.0 * np.eye(2), 0.0, 1.0))
    np.testing.assert_allclose(found.covariance, np.eye(2), atol=0.02)


def test_population_stays_positive_definite_with_fewer_pixels_than_coefficients():
    x = np.random.default_rng(2).normal(size=(5, 21))
    found = covariance_mode(x.T @ x, 5, np.ones(21), 10.0)
    assert np.linalg.eigvalsh(found)[0] > 0.01


def test_priors_refuse_a_shape_that_is_no_density():
    with pytest.raises(InvalidDataError, match="correlation_shape"):
        TrainingPriors(correlation_shape=0.5)
    with pytest.raises(InvalidDataError, match="square"):
        Hyperparameters(np.ones(3), -5.0, 1.0)


def test_coefficients_held_at_zero_count_as_missing():
    # Complete data of half of the pixels, two coefficients of three in the others: EM finds the
    # population that made them (2000 pixels: correlations are good to 0.03).
    rng, T = np.random.default_rng(3), covariance(3, seed=5)
    free = np.ones((4000, 3), dtype=bool)
    free[::2, 1] = False
    c = rng.multivariate_normal(np.zeros(3), T, size=4000)
    gram = np.broadcast_to(pack(1e6 * np.eye(3)), (4000, 6))
    prior = PixelPrior(np.eye(3), 0.0, 1.0, free)
    for _ in range(100):
        moments = given_scatter(gram, 1e6 * c, prior)[:2]
        T_new = second_moment(*moments, prior) / 4000
        prior = PixelPrior(T_new, 0.0, 1.0, free)
    scale = np.sqrt(np.diag(T))
    np.testing.assert_allclose(
        T_new / np.outer(scale, scale), T / np.outer(scale, scale), atol=0.09
    )
    assert np.all(moments[0][::2, 1] == 0)


@pytest.mark.parametrize("n", [1, 5, 21])
def test_compiled_posterior_is_that_of_linear_algebra(n):
    rng, p = np.random.default_rng(n), 2 * LANES + 3
    x = rng.normal(size=(p, n, n + 3))
    a, a2 = x @ x.transpose(0, 2, 1), 0.1 * x @ x.transpose(0, 2, 1)
    h, h2, prior = rng.normal(size=(p, n)), rng.normal(size=(p, n)), covariance(n)[None]
    out = np.empty((p, n)), np.empty((p, n * (n + 1) // 2)), np.empty(p), np.empty(p)
    for function in (posterior, posterior.py_func):
        if function is not posterior and n == 21:
            continue  # slow without the compiler
        for array in out:
            array[:] = np.nan
        assert function(pack(a), h, prior, pack(a2), h2, *out) == -1
        mean, cov, log_det, spread = out
        C = np.linalg.inv(a + prior)
        m = np.einsum("pij,pj->pi", C, h)
        np.testing.assert_allclose(unpack(cov), C, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mean, m, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(a + prior)[1], rtol=1e-12)
        expected = np.einsum("pij,pij->p", C + m[:, :, None] * m[:, None, :], a2)
        np.testing.assert_allclose(spread, expected - 2 * np.sum(m * h2, axis=1), rtol=1e-8)


def test_compiled_posterior_names_a_pixel_that_is_singular():
    a = np.zeros((3, 3))
    a[1] = [-5.0, 0.0, 1.0]
    out = np.empty((3, 2)), np.empty((3, 3)), np.empty(3), np.empty(3)
    assert posterior(a, np.zeros((3, 2)), np.eye(2)[None], a, np.zeros((3, 2)), *out) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_weights_are_those_of_numpy(dtype):
    rng = np.random.default_rng(7)
    r = rng.normal(size=(20, 6)).astype(dtype)
    ivar = rng.uniform(0, 1e4, (20, 6)).astype(dtype)
    ivar[rng.random(ivar.shape) < 0.3] = 0
    s2 = rng.uniform(1e-5, 1e-3, 6).astype(dtype)
    w = ivar / (1 + ivar * s2)
    log_w = np.log(np.where(w > 0, w, 1).astype(float)).sum(axis=0)
    expected = [(w * r**2).sum(0), w.sum(0), (w**2).sum(0), (w**2 * r**2).sum(0), log_w]
    for function in (weigh, weigh.py_func):
        arrays, sums = [np.empty_like(r) for _ in range(4)], np.zeros((5, 6))
        function(r, ivar, s2, *arrays, sums, True)
        for got, wanted in zip(arrays, (w, w**2, w * r, w**2 * r), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5)
        np.testing.assert_allclose(sums, expected, rtol=1e-5)


def test_noise_in_the_coefficients_does_not_pull_labels_to_the_mean():
    """The reason for the correlations.

    Two labels that go together (correlation 0.9) and whose lines look alike; 60 stars train 1500
    pixels. Labels of new, noise-free stars by generalised least squares: with a diagonal
    population they are pulled to the mean by 11 %; with correlations by 1 %.
    """
    rng = np.random.default_rng(11)
    n_stars, n_pixels, s = 60, 1500, 0.01
    population = 0.008**2 * np.array([[1.0, -0.9], [-0.9, 1.0]])
    theta = rng.multivariate_normal([0, 0], population, size=n_pixels)
    labels = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=n_stars + 400)
    x = np.c_[np.ones(len(labels)), labels]
    flux = 1 + labels @ theta.T
    noisy = flux[:n_stars] + s * rng.normal(size=(n_stars, n_pixels))
    fit = fit_map(noisy, np.full(noisy.shape, 1e6), Design.exact(x[:n_stars]), seed=0)

    def slopes(coef):
        found = np.linalg.lstsq(coef[:, 1:], flux[n_stars:].T - 1 - coef[:, :1], rcond=None)[0].T
        truth = labels[n_stars:]
        return np.sum(found * truth, axis=0) / np.sum(truth**2, axis=0)

    found = slopes(fit.mean)
    alone = np.diag(np.diag(fit.hyper.covariance))
    prior = PixelPrior(alone, fit.hyper.mu_s, fit.hyper.omega_s)
    w = 1 / (1e-6 + fit.scatter**2)
    gram = pack(w[:, None, None] * (x[:n_stars].T @ x[:n_stars]))
    right = w[:, None] * ((noisy - 1).T @ x[:n_stars])
    diagonal = slopes(given_scatter(gram, right, prior)[0])
    assert np.all(np.abs(found - 1) < 0.03)
    assert np.all(diagonal < 0.92)
    assert fit.hyper.correlation[1, 2] == pytest.approx(-0.9, abs=0.05)
