"""Tests of the diagnostics of a trained model, on spectra drawn from known models."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.analysis.diagnostics import (
    Diagnostics,
    diagnose,
    fit_quality,
    residual_correlation,
)
from bayes_cannon.base.packing import packed_size, unpack
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training.factors import star_factors
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.fit import Design

NAMES, UNITS = ("TEFF", "FE_H"), ("K", "dex")
N_STARS, N_TRAINING, N_PIXELS, N_FACTORS = 160, 120, 240, 2


def make_case(
    n_factors: int = N_FACTORS, seed: int = 3
) -> tuple[Cannon, NormalizedSpectra, Labels]:
    """Spectra with two factors and a fit with `n_factors`; 120 training stars and 40 others."""
    rng = np.random.default_rng(seed)
    values = np.stack([rng.normal(4500, 200, N_STARS), rng.normal(-0.2, 0.3, N_STARS)], axis=1)
    ids = np.array([f"S{i:03d}" for i in range(N_STARS)])
    labels = Labels(NAMES, values, np.array([20.0, 0.02]), ids)
    training = labels.select(np.arange(N_TRAINING))
    basis = PolynomialBasis.from_labels(training, 2)
    theta = rng.normal(0, 0.02, (N_PIXELS, basis.n_terms))
    theta[:, 0] = 1
    loadings = rng.normal(0, 0.03, (N_PIXELS, 2))
    scatter = np.full(N_PIXELS, 0.02)
    error = np.full((N_STARS, N_PIXELS), 0.01)
    flux = basis(values) @ theta.T + rng.standard_normal((N_STARS, 2)) @ loadings.T
    flux += np.hypot(error, scatter) * rng.standard_normal(flux.shape)
    bad = rng.random(flux.shape) < 0.05
    bad[:, 7] = True  # a pixel without data
    ivar = np.where(bad, 0, error**-2)
    flux = np.where(bad, 1, flux)
    wavelength = 15200.0 + 0.2 * np.arange(N_PIXELS)
    spectra = NormalizedSpectra(ids, wavelength, flux, ivar, simulated=True)
    design = Design.exact(basis(training.values))
    fit = fit_map(
        spectra.flux[:N_TRAINING], spectra.ivar[:N_TRAINING], design, n_factors=n_factors, seed=0
    )
    mean = fit.mean.copy()
    mean[:, 0] += 1
    used = np.arange(N_PIXELS) != 7
    z = np.zeros((N_TRAINING, 0)) if fit.factors is None else fit.factors.mean
    cannon = Cannon(
        basis, wavelength, spectra.chips, mean[:, : basis.n_terms], mean[:, basis.n_terms :],
        fit.cov, fit.scatter, fit.log_scatter_sd, used, fit.hyper, training, ids[N_TRAINING:], z,
        simulated=True,
    )  # fmt: skip
    return cannon, spectra, labels


@pytest.fixture(scope="module")
def case() -> tuple[Cannon, NormalizedSpectra, Labels]:
    return make_case()


@pytest.fixture(scope="module")
def found(case: tuple[Cannon, NormalizedSpectra, Labels]) -> Diagnostics:
    return diagnose(*case)


def test_chi_square_of_the_true_model_is_one(found: Diagnostics) -> None:
    """Data from the model itself: 1 within the noise (5 sd of a mean of 36 000 and 12 000)."""
    quality = found.quality
    assert quality.training.sum() == N_TRAINING
    for chosen, n in ((quality.training, N_TRAINING), (~quality.training, N_STARS - N_TRAINING)):
        mean = quality.chi2_star[chosen].mean()
        sd = np.sqrt(2 / (n * N_PIXELS * 0.95))
        # The fitted scatter has an error of its own, shared by all stars.
        sd = np.hypot(sd, np.sqrt(2 / (N_TRAINING * N_PIXELS)))
        assert mean == pytest.approx(1, abs=5 * sd)
    assert np.nanmedian(quality.chi2_pixel) == pytest.approx(1, abs=0.03)


def test_unused_pixels_have_no_chi_square(found: Diagnostics) -> None:
    quality = found.quality
    assert np.isnan(quality.chi2_pixel[7])
    assert np.isfinite(np.delete(quality.chi2_pixel, 7)).all()
    assert quality.n_good_pixel[7] == 0
    assert quality.n_good_pixel.sum() == quality.n_good_star.sum()


def test_chi_square_of_one_star_by_hand(case: tuple[Cannon, NormalizedSpectra, Labels]) -> None:
    """The definition, written out star by star and pixel by pixel, for a star not trained on."""
    cannon, spectra, labels = case
    n = 150
    v = cannon.basis(labels.values[n])
    mean = np.concatenate([cannon.theta, cannon.loadings], axis=1)
    mean[:, 0] -= 1
    ivar = np.where(cannon.used, spectra.ivar[n], 0)
    z = star_factors(
        spectra.flux[[n]], ivar[None], Design.exact(v[None]), mean, cannon.coef_cov, cannon.scatter
    )
    x = np.concatenate([v, z.mean[0]])
    square = freedom = leverage = 0.0
    good = np.flatnonzero(ivar > 0)
    for p in good:
        w = 1 / (1 / float(ivar[p]) + cannon.scatter[p] ** 2)
        residual = spectra.flux[n, p] - cannon.theta[p] @ v - cannon.loadings[p] @ z.mean[0]
        h = w * x @ cannon.term_cov(p) @ x
        square += w * residual**2
        freedom += 1 + h - w * cannon.loadings[p] @ z.cov[0] @ cannon.loadings[p]
        leverage += h
    quality = fit_quality(spectra.flux, spectra.ivar, labels.values, labels.star_id, cannon)
    assert quality.chi2_star[n] == pytest.approx(square / freedom, rel=1e-4)
    assert quality.leverage[n] == pytest.approx(leverage / good.size, rel=1e-4)
    assert quality.n_good_star[n] == good.size


def test_leverages_of_training_stars_sum_to_the_coefficients(found: Diagnostics) -> None:
    """Trace of the hat matrix: at most the number of coefficients, nearly it with a weak prior."""
    quality = found.quality
    total = quality.leverage[quality.training].sum()
    n_coef = 6 + N_FACTORS
    assert 0.9 * n_coef < total < 1.02 * n_coef


def test_an_odd_star_is_the_worst(case: tuple[Cannon, NormalizedSpectra, Labels]) -> None:
    cannon, spectra, labels = case
    flux = spectra.flux.copy()
    good = spectra.ivar[33] > 0
    flux[33, good] += 0.1 * np.random.default_rng(0).standard_normal(good.sum())
    quality = diagnose(cannon, replace(spectra, flux=flux), labels).quality
    worst = quality.worst_stars(3)
    assert worst[0][0] == "S033"
    assert worst[0][1] > 5
    assert worst[0][1] > worst[1][1] >= worst[2][1]
    assert len(quality.worst_stars(1000)) == N_STARS


def test_a_star_without_pixels_is_not_ranked(
    case: tuple[Cannon, NormalizedSpectra, Labels],
) -> None:
    cannon, spectra, labels = case
    ivar = spectra.ivar.copy()
    ivar[5] = 0
    quality = diagnose(cannon, replace(spectra, ivar=ivar), labels).quality
    assert np.isnan(quality.chi2_star[5])
    assert "S005" not in [star for star, _ in quality.worst_stars(1000)]


def test_blocks_of_stars_change_nothing(
    case: tuple[Cannon, NormalizedSpectra, Labels],
    found: Diagnostics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bayes_cannon.analysis.residuals._BLOCK", 37)
    parts = diagnose(*case)
    np.testing.assert_allclose(parts.quality.chi2_pixel, found.quality.chi2_pixel, rtol=1e-4)
    np.testing.assert_allclose(parts.quality.chi2_star, found.quality.chi2_star, rtol=1e-4)
    np.testing.assert_allclose(
        parts.correlation.lag_mean_abs, found.correlation.lag_mean_abs, atol=1e-4
    )


def test_factors_take_the_correlation_away(found: Diagnostics) -> None:
    correlation = found.correlation
    before, after = np.nanmean(correlation.lag_mean_abs, axis=0)
    assert before > 4 * correlation.noise_level
    assert after < 1.3 * correlation.noise_level
    assert correlation.eigenvalue_share[0, 0] > 0.3
    assert correlation.eigenvalue_share[0, 1] < 0.06
    assert (np.diff(correlation.eigenvalue_share, axis=0) <= 0).all()


def test_noise_level_is_that_of_independent_residuals() -> None:
    """Without factors anywhere, before and after are the same and at the level of noise."""
    rng = np.random.default_rng(8)
    n, p = 300, 150
    basis = PolynomialBasis(("TEFF",), ("K",), np.array([4500.0]), np.array([200.0]), 1)
    values = rng.normal(4500, 200, (n, 1))
    ids = np.array([f"S{i}" for i in range(n)])
    labels = Labels(("TEFF",), values, np.array([20.0]), ids)
    flux = 1 + 0.01 * rng.standard_normal((n, p))
    theta = np.tile([1.0, 0.0], (p, 1))
    cannon = Cannon(
        basis, 15200 + np.arange(p) * 0.2, ((0, p),), theta, np.zeros((p, 0)),
        np.zeros((p, packed_size(2)), np.float32), np.full(p, 1e-5), np.ones(p), np.ones(p, bool),
        Hyperparameters(np.eye(2), -5.0, 1.0), labels, ids[:0], np.zeros((n, 0)),
    )  # fmt: skip
    found = residual_correlation(flux, np.full((n, p), 1e4), values, cannon)
    assert found.noise_level == pytest.approx(np.sqrt(2 / np.pi / n))
    mean = np.mean(np.abs(found.off_diagonal), axis=0)
    np.testing.assert_allclose(mean, found.noise_level, rtol=0.05)
    np.testing.assert_array_equal(found.off_diagonal[:, 0], found.off_diagonal[:, 1])


def test_correlation_equals_numpy_where_nothing_is_masked() -> None:
    cannon, spectra, labels = make_case(n_factors=0)
    full = np.full_like(spectra.ivar, 1e4)
    found = residual_correlation(spectra.flux, full, labels.values, cannon, n_pixels=64)
    residual = (
        spectra.flux[:, found.pixels] - cannon.basis(labels.values) @ cannon.theta[found.pixels].T
    )
    second = residual.T @ residual
    expected = second / np.sqrt(np.outer(np.diag(second), np.diag(second)))
    rows, columns = np.tril_indices(found.pixels.size, -1)
    np.testing.assert_allclose(found.off_diagonal[:, 1], expected[rows, columns], atol=1e-4)
    assert found.eigenvalue_share[:, 0].sum() <= 1 + 1e-9


def test_sampled_pixels_are_runs_of_used_ones(
    case: tuple[Cannon, NormalizedSpectra, Labels],
) -> None:
    cannon, spectra, labels = case
    found = residual_correlation(spectra.flux, spectra.ivar, labels.values, cannon, n_pixels=128)
    assert found.pixels.size <= 128
    assert 7 not in found.pixels
    assert found.lag_edges[0] == 1
    assert found.lag_edges[-1] > found.pixels[-1] - found.pixels[0]


def test_stars_without_all_labels_are_left_out(
    case: tuple[Cannon, NormalizedSpectra, Labels],
) -> None:
    cannon, spectra, labels = case
    values = labels.values.copy()
    values[[3, 9], 1] = np.nan
    partial = replace(labels, values=values)
    quality = diagnose(cannon, spectra, partial).quality
    assert quality.star_id.size == N_STARS - 2
    assert not np.isin(["S003", "S009"], quality.star_id).any()
    with pytest.raises(InvalidDataError, match=r"2 of 160 stars \(rows 3, 9\) lack"):
        fit_quality(spectra.flux, spectra.ivar, values, labels.star_id, cannon)


def test_what_does_not_fit_together(case: tuple[Cannon, NormalizedSpectra, Labels]) -> None:
    cannon, spectra, labels = case
    with pytest.raises(InvalidDataError, match="same stars in the same order"):
        diagnose(cannon, spectra.select(np.arange(5)), labels)
    shifted = replace(spectra, wavelength=spectra.wavelength + 1)
    with pytest.raises(InvalidDataError, match="prepare them with the same settings"):
        diagnose(cannon, shifted, labels)
    with pytest.raises(InvalidDataError, match="do not fit a model of 240 pixels"):
        fit_quality(spectra.flux[:, 1:], spectra.ivar, labels.values, labels.star_id, cannon)
    two = np.arange(2)
    with pytest.raises(InvalidDataError, match="at least 3 stars, got 2"):
        residual_correlation(spectra.flux[two], spectra.ivar[two], labels.values[two], cannon)


def test_packed_covariance_is_that_of_the_model(
    case: tuple[Cannon, NormalizedSpectra, Labels],
) -> None:
    """The order of coefficients that leverage relies on: terms first, then loadings."""
    cannon = case[0]
    cov = unpack(cannon.coef_cov[20].astype(float))
    assert cov.shape == (6 + N_FACTORS, 6 + N_FACTORS)
    np.testing.assert_array_equal(cov, cannon.term_cov(20))
