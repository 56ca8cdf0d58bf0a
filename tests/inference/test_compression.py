"""The compressed likelihood against the dense multivariate normal."""

import dataclasses
from math import comb

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayes_cannon.base.packing import pack_outer, unpack
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.likelihood.compression import compress
from bayes_cannon.inference.likelihood.pixels import PixelModel, extra_variance
from bayes_cannon.inference.likelihood.smooth import at_all_draws
from bayes_cannon.inference.likelihood.whole import full_log_likelihood
from tests.label_problem import make_problem

SEED = 5


def dense(cannon, flux, ivar, v, x, *, plug_in=False):
    """Log density of one star by the full covariance matrix of its good pixels."""
    good = ivar > 0
    variance = 1 / ivar[good].astype(float) + cannon.scatter[good] ** 2
    if not plug_in:
        cov = unpack(cannon.coef_cov[good].astype(float))
        variance = variance + np.einsum("i,pij,j->p", x, cov, x)
    loading = cannon.loadings[good]
    mean = cannon.theta[good] @ v
    return multivariate_normal(mean, np.diag(variance) + loading @ loading.T).logpdf(flux[good])


def masked_problem(n_factors, **options):
    problem = make_problem(n_pixels=60, n_factors=n_factors, n_stars=4, **options)
    ivar = problem.spectra.ivar.copy()
    ivar[np.random.default_rng(SEED).random(ivar.shape) < 0.2] = 0
    ivar[2] = 0
    ivar[2, 7] = 1e4
    return problem, problem.spectra.flux.astype(float), ivar.astype(float)


@pytest.mark.parametrize("n_factors", [0, 2])
@pytest.mark.parametrize("plug_in", [False, True])
def test_log_likelihood_is_the_dense_one(n_factors, plug_in):
    problem, flux, ivar = masked_problem(n_factors)
    pixels = PixelModel.from_cannon(problem.cannon, coefficient_uncertainty=not plug_in)
    basis, rng = problem.cannon.basis, np.random.default_rng(SEED)
    x = np.c_[basis(problem.labels), problem.factors]
    data = compress(pixels, flux, ivar, x)
    v = basis.features(rng.standard_normal((4, 3, 3)))
    expected = np.array(
        [
            [
                dense(problem.cannon, flux[i], ivar[i], v[i, d], x[i], plug_in=plug_in)
                for d in (0, 1, 2)
            ]
            for i in range(4)
        ]
    )
    np.testing.assert_allclose(data.log_likelihood(v), expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(data.log_likelihood(v[:, 1]), expected[:, 1], rtol=1e-6, atol=1e-5)
    by_hand = np.einsum("nt,nt->n", data.b, v[:, 1])
    by_hand -= 0.5 * np.einsum("nt,ntu,nu->n", v[:, 1], data.A, v[:, 1])
    np.testing.assert_allclose(by_hand + data.const, expected[:, 1], rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(data.n_used, (ivar > 0).sum(axis=1))


def test_chi2_and_factors_are_the_dense_ones():
    problem, flux, ivar = masked_problem(2)
    cannon, pixels = problem.cannon, PixelModel.from_cannon(problem.cannon)
    v = cannon.basis(problem.labels)
    x = np.c_[v, problem.factors]
    data = compress(pixels, flux, ivar, x)
    variance = extra_variance(pixels, x)
    for i in range(4):
        good = ivar[i] > 0
        loading, residual = cannon.loadings[good], (flux[i] - cannon.theta @ v[i])[good]
        cov = np.diag(1 / ivar[i, good] + variance[i, good]) + loading @ loading.T
        solved = np.linalg.solve(cov, residual)
        np.testing.assert_allclose(data.chi2(v)[i], residual @ solved, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(data.factors(v)[i], loading.T @ solved, rtol=1e-6, atol=1e-8)


def test_extra_variance_is_the_quadratic_form():
    problem = make_problem(n_pixels=30)
    x = np.c_[problem.cannon.basis(problem.labels), problem.factors]
    cov = unpack(problem.cannon.coef_cov.astype(float))
    expected = np.einsum("ni,pij,nj->np", x, cov, x) + problem.cannon.scatter**2
    pixels = PixelModel.from_cannon(problem.cannon)
    np.testing.assert_allclose(extra_variance(pixels, x), expected, rtol=1e-5)


@pytest.mark.parametrize("n_factors", [0, 2])
@pytest.mark.parametrize("plug_in", [False, True])
def test_full_likelihood_is_the_dense_one_with_the_variance_of_each_label(n_factors, plug_in):
    problem, flux, ivar = masked_problem(n_factors, n_train=30)
    pixels = PixelModel.from_cannon(problem.cannon, coefficient_uncertainty=not plug_in)
    basis = problem.cannon.basis
    ell = np.random.default_rng(SEED).standard_normal((6, 3))
    z = problem.factors[0]
    found = full_log_likelihood(pixels, flux[0], ivar[0], ell, z)
    v = basis.features(ell)
    expected = [
        dense(problem.cannon, flux[0], ivar[0], v[d], np.r_[v[d], z], plug_in=plug_in)
        for d in range(6)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_full_likelihood_of_many_draws_is_that_of_each(spread):
    problem, flux, ivar = masked_problem(2, n_train=30)
    pixels = PixelModel.from_cannon(problem.cannon)
    ell = spread * np.random.default_rng(SEED).standard_normal((60, 3))
    given = pixels, flux[0], ivar[0]
    together = full_log_likelihood(*given, ell, problem.factors[0])
    alone = [full_log_likelihood(*given, ell[i : i + 1], problem.factors[0])[0] for i in range(60)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=0.002)


def test_smooth_functions_are_evaluated_at_some_draws_and_others_at_all():
    ell = np.random.default_rng(SEED).standard_normal((200, 3)) * [0.1, 1, 10] + 5
    calls = []

    def smooth(x):
        calls.append(len(x))
        return x[:, 0] ** 3 - x[:, 0] * x[:, 1] * x[:, 2] + 2 * x[:, 2]

    np.testing.assert_allclose(at_all_draws(smooth, ell), smooth(ell), rtol=1e-9)
    assert calls[0] < 30  # 20 coefficients
    assert len(calls) == 2  # the second is the test's

    def rough(x):
        calls.append(len(x))
        return np.abs(x[:, 1] - 5)

    calls.clear()
    np.testing.assert_array_equal(at_all_draws(rough, ell), np.abs(ell[:, 1] - 5))
    assert sum(calls) == 200
    few = ell[:25]
    np.testing.assert_array_equal(at_all_draws(rough, few), np.abs(few[:, 1] - 5))
    still = np.repeat(ell[:1], 200, axis=0)
    np.testing.assert_array_equal(at_all_draws(rough, still), np.abs(still[:, 1] - 5))


def test_what_comes_out_for_a_star_does_not_depend_on_the_others():
    problem = make_problem(n_stars=37)
    pixels = PixelModel.from_cannon(problem.cannon)
    flux, ivar = (pixels.take(a) for a in (problem.spectra.flux, problem.spectra.ivar))
    x = np.c_[problem.cannon.basis(problem.labels), problem.factors]
    together = compress(pixels, flux, ivar, x)
    for rows in (slice(0, 1), slice(5, 20), slice(36, 37)):
        alone = compress(pixels, flux[rows], ivar[rows], x[rows])
        for name, array in vars(together.rows(rows)).items():
            np.testing.assert_array_equal(array, getattr(alone, name), err_msg=name)


def test_rows_can_be_taken_and_replaced():
    problem = make_problem(n_stars=3)
    pixels = PixelModel.from_cannon(problem.cannon)
    flux, ivar = (pixels.take(a) for a in (problem.spectra.flux, problem.spectra.ivar))
    x = np.c_[problem.cannon.basis(problem.labels), problem.factors]
    data = compress(pixels, flux, ivar, x)
    other = compress(pixels, flux[:1], 4 * ivar[:1], x[:1])
    merged = data.with_rows(np.array([1]), other)
    np.testing.assert_array_equal(merged.A[1], other.A[0])
    np.testing.assert_array_equal(merged.A[[0, 2]], data.A[[0, 2]])
    assert not np.array_equal(data.A[1], other.A[0])


def test_unused_pixels_are_left_out():
    problem = make_problem(n_pixels=40)
    used = np.arange(40) % 3 > 0
    theta = np.where(used[:, None], problem.cannon.theta, np.nan)
    cannon = dataclasses.replace(problem.cannon, used=used, theta=theta)
    pixels = PixelModel.from_cannon(cannon)
    assert pixels.n_pixels == used.sum()
    np.testing.assert_array_equal(
        pixels.take(problem.spectra.flux), problem.spectra.flux[:, used].astype(float)
    )


def test_wrong_number_of_pixels_is_refused():
    pixels = PixelModel.from_cannon(make_problem(n_pixels=40).cannon)
    with pytest.raises(InvalidDataError, match="spectra have 39 pixels, the trained model 40"):
        pixels.take(np.ones((2, 39)))


def test_a_model_without_pixels_is_refused():
    cannon = make_problem(n_pixels=40).cannon
    with pytest.raises(InvalidDataError, match="no usable pixel"):
        PixelModel.from_cannon(dataclasses.replace(cannon, used=np.zeros(40, dtype=bool)))


@pytest.mark.parametrize("name", ["theta", "coef_cov", "scatter"])
def test_coefficients_that_are_not_finite_are_refused(name):
    cannon = make_problem(n_pixels=40).cannon
    array = getattr(cannon, name).copy()
    array[3] = np.nan
    with pytest.raises(InvalidDataError, match=r"of 1 usable pixel .* not finite"):
        PixelModel.from_cannon(dataclasses.replace(cannon, **{name: array}))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_monomials_hold_the_covariances_of_all_pairs_of_terms(degree):
    problem = make_problem(n_pixels=30, n_factors=0, degree=degree, n_stars=5)
    pixels = PixelModel.from_cannon(problem.cannon)
    v = problem.cannon.basis(problem.labels)
    pairs, place, sums = pixels.monomials
    by_monomial = pack_outer(v)[:, pairs]
    assert by_monomial.shape[1] == comb(3 + 2 * degree, 3)
    np.testing.assert_array_equal(by_monomial[:, place], v)
    np.testing.assert_allclose(
        by_monomial @ sums + pixels.scatter2, extra_variance(pixels, v), rtol=1e-5
    )


def test_monomials_of_pixels_without_uncertainty_are_refused():
    pixels = PixelModel.from_cannon(make_problem().cannon, coefficient_uncertainty=False)
    with pytest.raises(InvalidDataError, match="leave the coefficients' uncertainty out"):
        _ = pixels.monomials
