from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.base.packing import unpack
from bayes_cannon.errors import LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.training_model import build_label_error_model
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.training.label_errors import (
    LatentLabels,
    SpectrumLabels,
    calibrated_design,
    check_label_errors,
    combine_labels,
    excess_covariance,
    label_variance,
    population_moments,
    uncertain_design,
)
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.fit import Design

BASIS = PolynomialBasis(
    ("TEFF", "LOGG"), ("K", "dex"), np.array([4700.0, 2.4]), np.array([300, 0.5])
)


def make_labels(n=400, error=(150.0, 0.1), seed=0, rho=0.6):
    rng = np.random.default_rng(seed)
    ell = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    true = BASIS.unstandardize(ell)
    error = np.broadcast_to(error, true.shape)
    observed = true + rng.normal(size=true.shape) * error
    return Labels(BASIS.names, observed, error, np.arange(n).astype(str)), ell


def test_cubature_gives_the_moments_of_the_quadratic_features():
    # Against 400 000 draws: 6 standard errors.
    rng = np.random.default_rng(1)
    mean, cov = np.array([[0.3, -0.5]]), np.array([[[0.3, 0.1], [0.1, 0.2]]])
    design = uncertain_design(LatentLabels(mean, cov), BASIS)
    v = BASIS.features(rng.multivariate_normal(mean[0], cov[0], 400_000))
    products = v[:, :, None] * v[:, None, :]
    np.testing.assert_array_less(
        np.abs(design.mean[0] - v.mean(axis=0)), 6 * v.std(axis=0) / 600 + 1e-9
    )
    second = unpack(design.second)[0]
    np.testing.assert_array_less(
        np.abs(second - products.mean(axis=0)), 6 * products.std(axis=0) / 600 + 1e-9
    )


def test_population_is_deconvolved():
    labels, _ = make_labels(n=20_000)
    mean, cov = population_moments(labels, BASIS)
    np.testing.assert_allclose(mean, 0, atol=0.05)
    np.testing.assert_allclose(cov, [[1, 0.6], [0.6, 1]], atol=0.06)


def test_combined_labels_are_calibrated_and_better():
    labels, ell = make_labels(n=2000)
    latent = combine_labels(labels, BASIS)
    before = BASIS.standardize(labels.values) - ell
    after = latent.mean - ell
    assert np.all(after.std(axis=0) < [0.9, 0.99] * before.std(axis=0))
    z = np.einsum("ni,nij,nj->n", after, np.linalg.inv(latent.cov), after)
    assert z.mean() == pytest.approx(2, abs=5 * 2 / np.sqrt(2000))


def test_missing_label_falls_back_on_population_and_spectrum():
    labels, ell = make_labels()
    values = labels.values.copy()
    values[0, 1] = np.nan
    labels = Labels(labels.names, values, labels.errors, labels.star_id)
    alone = combine_labels(labels, BASIS)
    assert 0.6 < np.sqrt(alone.cov[0, 1, 1]) < 1.1
    assert np.sqrt(alone.cov[1, 1, 1]) < 0.25
    mean, cov = np.full(ell.shape, np.nan), np.tile(np.eye(2), (len(ell), 1, 1))
    mean[0], cov[0] = ell[0], 0.01 * np.eye(2)
    both = combine_labels(labels, BASIS, SpectrumLabels(mean, cov))
    assert both.mean[0, 1] == pytest.approx(ell[0, 1], abs=0.1)
    np.testing.assert_allclose(both.mean[1:], alone.mean[1:])


def test_excess_covariance_is_what_errors_leave_unexplained():
    rng = np.random.default_rng(4)
    model = np.array([[0.09, 0.03], [0.03, 0.04]])
    explained = np.tile(np.diag([0.01, 0.02]), (5000, 1, 1))
    difference = rng.multivariate_normal([0.1, 0], model + explained[0], 5000)
    difference[::500] += 30  # wild stars
    difference[1] = np.nan
    np.testing.assert_allclose(excess_covariance(difference, explained), model, atol=0.01)


def test_regression_calibration_removes_the_attenuation():
    # Errors of half the spread: plain regression loses about a fifth of the slope.
    labels, ell = make_labels(n=3000, error=(150.0, 0.25), seed=3)
    rng = np.random.default_rng(5)
    theta = rng.normal(size=(60, BASIS.n_terms)) * 0.05
    flux = 1 + BASIS.features(ell) @ theta.T + 0.01 * rng.normal(size=(3000, 60))
    ivar = np.full(flux.shape, 1e4)
    plain = fit_map(flux, ivar, Design.exact(BASIS(labels.values)), seed=0)
    design, _ = calibrated_design(combine_labels(labels, BASIS), BASIS)
    latent = fit_map(flux, ivar, design, seed=0)

    def slope(fit, k):
        return (fit.mean[:, k] @ theta[:, k]) / (theta[:, k] @ theta[:, k])

    for k in (1, 2):
        assert slope(plain, k) < 0.93
        assert slope(latent, k) == pytest.approx(1, abs=0.04)


def test_label_variance_is_that_of_draws():
    # 100 000 draws: standard deviations are good to 0.3 %; the polynomial's moments are exact.
    mean, cov = np.array([[0.3, -0.5]]), np.array([[[0.3, 0.1], [0.1, 0.2]]])
    _, variance = calibrated_design(LatentLabels(mean, cov), BASIS)
    rng = np.random.default_rng(3)
    theta = rng.normal(size=(4, BASIS.n_terms))
    flux = BASIS.features(rng.multivariate_normal(mean[0], cov[0], 100_000)) @ theta.T
    np.testing.assert_allclose(label_variance(variance, theta)[0], flux.var(axis=0), rtol=0.03)


def test_label_error_model_has_the_density_of_its_parts():
    from scipy.stats import norm

    labels, ell = make_labels(n=5, seed=6)
    values = labels.values.copy()
    values[2, 1] = np.nan
    labels = Labels(labels.names, values, labels.errors, labels.star_id)
    flux, ivar = np.full((5, 2), 0.9), np.full((5, 2), 1e3)
    model = build_label_error_model(flux, ivar, labels, BASIS)
    log_p = model.compile_logp([model["label_obs"]])
    point = model.initial_point() | {"white": ell}
    known = np.isfinite(values)
    z = (BASIS.standardize(values) - ell)[known]
    expected = norm.logpdf(z, 0, (labels.errors / BASIS.scale)[known]).sum()
    assert log_p(point) == pytest.approx(expected)


def test_population_is_that_of_all_stars_where_none_has_all_labels():
    """Three labels, each star lacks one: pairs of stars still tell how labels go together."""
    rng = np.random.default_rng(2)
    basis = PolynomialBasis(("A", "B", "C"), ("dex",) * 3, np.zeros(3), np.ones(3))
    true = np.array([[1.0, 0.8, 0.3], [0.8, 1.0, 0.0], [0.3, 0.0, 1.0]])
    values = rng.multivariate_normal(np.zeros(3), true, 3000)
    values[np.arange(3000), np.arange(3000) % 3] = np.nan
    labels = Labels(basis.names, values, np.full((3000, 3), 0.01), np.arange(3000).astype(str))
    # 1000 stars a pair: standard error of a covariance at most 0.045.
    np.testing.assert_allclose(population_moments(labels, basis)[1], true, atol=0.15)


def test_errors_beyond_the_spread_of_a_label_are_refused():
    labels, _ = make_labels(error=(15.0, 0.1))
    check_label_errors(labels)
    errors = labels.errors * [1.0, 100.0]
    with pytest.raises(
        LabelError, match=r"errors of LOGG \(errors 10, spread 0.5\d* dex\) are far"
    ):
        check_label_errors(replace(labels, errors=errors))


def test_label_that_is_mostly_error_is_told(caplog):
    labels, _ = make_labels(error=(15.0, 1.0))
    check_label_errors(labels)
    assert "differ in LOGG (errors 1, spread 1.1" in caplog.text
    assert "TEFF" not in caplog.text
