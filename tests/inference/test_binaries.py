"""Spectra of two stars and the fast pass that looks for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.binaries import fast_pass as fast_pass_module
from bayes_cannon.inference.binaries.fast_pass import FastPass, fast_pass, rest_frame_error
from bayes_cannon.inference.binaries.search import BinarySettings, Point
from bayes_cannon.inference.binaries.shifting import filtered, spline_coefficients, taps
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.spectra.continuum import ContinuumSettings, normalize
from bayes_cannon.spectra.spectra import ObservedSpectra
from bayes_cannon.surveys.simulation.faults import SurveyFaults, moved
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import observe
from bayes_cannon.surveys.simulation.telescope import KMS_PER_PIXEL
from tests.binary_problem import N_TRAINING, WINDOWS, pairs, small_cannon, stars, true_labels

EDGES = np.array([[0, 400], [400, 900]])
CHIPS = tuple(map(tuple, EDGES.tolist()))
SETTINGS = BinarySettings(rest_frame=0.1)


@pytest.fixture(scope="module")
def model() -> TwoStarModel:
    return TwoStarModel.from_cannon(small_cannon(), dv_max=60.0, inflate=1.5)


def curve() -> np.ndarray:
    x = np.arange(900.0)
    lines = sum(np.exp(-0.5 * ((x - c) / 2.5) ** 2) for c in (100, 130.3, 300, 550.5, 700))
    return 1 - 0.4 * lines


# Shifts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.0, 0.37, -2.6, 14.4])
@pytest.mark.parametrize("s", [0.0, 0.3, 5.0])
def test_kernel_shifts_and_broadens(delta: float, s: float) -> None:
    first, kernel = taps(delta, s)
    coefficients = spline_coefficients(curve()[None], CHIPS)
    found = filtered(coefficients, kernel[0], first, EDGES)[0]
    x = np.arange(900.0)
    width = np.hypot(2.5, np.sqrt(s))
    lines = sum(
        2.5 / width * np.exp(-0.5 * ((x - c - delta) / width) ** 2)
        for c in (100, 130.3, 300, 550.5, 700)
    )
    np.testing.assert_allclose(found, 1 - 0.4 * lines, atol=2e-4)


@pytest.mark.parametrize("s", [0.01, 0.3, 5.0])
def test_derivatives_of_the_kernel_are_its_differences(s: float) -> None:
    coefficients, step = spline_coefficients(curve()[None], CHIPS), 1e-4

    def at(delta: float, s: float, row: int = 0) -> np.ndarray:
        first, kernel = taps(delta, s)
        return filtered(coefficients, kernel[row], first, EDGES)[0]

    slope = (at(0.3 + step, s) - at(0.3 - step, s)) / (2 * step)
    np.testing.assert_allclose(at(0.3, s, 1), slope, atol=1e-5)
    wider = (at(0.3, s + step) - at(0.3, s - step)) / (2 * step)
    np.testing.assert_allclose(at(0.3, s, 2), wider, atol=1e-4)


def test_kernel_without_broadening_is_the_limit_of_little() -> None:
    (one, sharp), (two, wide) = taps(0.3, 0.0), taps(0.3, 2e-4)
    wide = wide[:, one - two : one - two + 4]
    np.testing.assert_allclose(wide[0], sharp[0], atol=1e-3)
    np.testing.assert_allclose(wide[2], sharp[2], atol=0.1)


# The model --------------------------------------------------------------------------------


def parameters(model: TwoStarModel) -> np.ndarray:
    k = model.n_labels
    rng = np.random.default_rng(1)
    return np.r_[0.5 * rng.standard_normal(2 * k), 0.3, 21.3, 1.2, 0.6]


@pytest.mark.parametrize("with_continuum", [False, True])
def test_slopes_are_differences(model: TwoStarModel, with_continuum: bool) -> None:
    if with_continuum:
        made = {"continuum_degree": 4, "continuum_pixels": "published"}
        cannon = replace(small_cannon(), settings={"dataset": made})
        model = TwoStarModel.from_cannon(cannon, dv_max=60.0, inflate=1.5)
        assert model.continuum
    theta, ivar = parameters(model), np.ones(model.usable.size)
    found = model.pair(theta, ivar)
    for i, step in enumerate([1e-4] * 2 * model.n_labels + [1e-5, 1e-3, 1e-3, 1e-4]):
        up, down = theta.copy(), theta.copy()
        up[i] += step
        down[i] -= step
        expected = (model.pair(up, ivar).flux - model.pair(down, ivar).flux) / (2 * step)
        size = np.abs(expected[model.usable]).max()
        difference = np.abs(found.slopes[i] - expected)[model.usable]
        assert difference.max() < 2e-4 * size


def test_single_star_is_nested(model: TwoStarModel) -> None:
    theta, ivar = parameters(model), np.ones(model.usable.size)
    k = model.n_labels
    theta[2 * k] = 0.0
    one = model.single(theta[:k], theta[-2], theta[-1])
    np.testing.assert_array_equal(model.pair(theta, ivar).flux, one.flux)
    twins = np.r_[theta[:k], theta[:k], 0.4, 0.0, theta[-2:]]
    np.testing.assert_allclose(model.pair(twins, ivar).flux, one.flux, atol=1e-12)


def test_single_star_at_rest_is_the_cannons_prediction(model: TwoStarModel) -> None:
    cannon, k = small_cannon(), model.n_labels
    ell = np.linspace(-0.5, 0.5, k)
    found = model.single(ell, 0.0, 0.0).flux
    expected = cannon.predict(cannon.basis.unstandardize(ell)).flux
    np.testing.assert_allclose(found[model.usable], expected[model.usable], atol=1e-10)


def test_sum_is_normalised_as_data_are() -> None:
    settings, cannon = ContinuumSettings(degree=2), small_cannon()

    def divided(flux: np.ndarray) -> np.ndarray:
        spectra = ObservedSpectra(
            np.array(["a"]), cannon.wavelength, flux[None], np.ones((1, flux.size)), np.ones(1),
            chips=cannon.chips, simulated=True,
        )  # fmt: skip
        return normalize(spectra, settings)[0].flux[0].astype(float)

    theta = cannon.theta.copy()
    theta[:, 0] = divided(theta[:, 0])  # a star whose own continuum is one, as training spectra
    made = {"dataset": {"continuum_degree": 2, "continuum_pixels": "published"}}
    model = TwoStarModel.from_cannon(
        replace(cannon, theta=theta, settings=made), dv_max=60.0, inflate=1.5
    )
    k = model.n_labels
    both = np.r_[np.zeros(2 * k), 0.4, 30.0, 0.0, 0.0]
    found = model.pair(both, np.ones(theta.shape[0])).flux
    moved_star = model.single(np.zeros(k), 30.0, 0.0).flux
    plain = 0.6 * theta[:, 0] + 0.4 * moved_star
    assert np.abs(plain - divided(plain))[model.usable].max() > 1e-3  # it matters
    # Splines are 1e-4 off at the ends of a chip, where continuum pixels may lie.
    np.testing.assert_allclose(found[model.usable], divided(plain)[model.usable], atol=1e-4)


def test_grid_uneven_in_velocity_is_refused() -> None:
    cannon = small_cannon()
    wavelength = cannon.wavelength.copy()
    wavelength[:1000] = np.linspace(wavelength[0], wavelength[0] * 1.2, 1000)
    wavelength[1000:] = np.linspace(wavelength[0] * 1.21, wavelength[0] * 1.5, 600)
    with pytest.raises(InvalidDataError, match="even in the logarithm"):
        TwoStarModel.from_cannon(replace(cannon, wavelength=wavelength), dv_max=60.0, inflate=1.5)


def test_coarse_grid_has_no_velocities() -> None:
    cannon = small_cannon()
    wavelength = np.linspace(4000, 9000, cannon.n_pixels)
    model = TwoStarModel.from_cannon(
        replace(cannon, wavelength=wavelength), dv_max=5.0, inflate=1.5
    )
    assert not model.resolved
    assert model.usable.sum() == cannon.used.sum()


# The fast pass ----------------------------------------------------------------------------


def search(spectra, settings: BinarySettings = SETTINGS) -> FastPass:
    return fast_pass(
        small_cannon(), spectra.star_id, spectra.flux, spectra.ivar, settings, threads=1
    )


TEST = np.arange(N_TRAINING, N_TRAINING + 20)


@pytest.fixture(scope="module")
def singles() -> FastPass:
    return search(stars().select(TEST).spectra)


def seconds(first: np.ndarray) -> np.ndarray:
    """Companions of nearly the same [Fe/H] and another Teff."""
    library = load_library()
    iron, teff = library.values("FE_H"), library.values("TEFF")
    cost = np.abs(iron[first][:, None] - iron) + 50 * (np.abs(teff[first][:, None] - teff) < 300)
    return cost.argmin(axis=1)


@pytest.mark.parametrize(("best", "slope"), [(0.5, 3.0), (0.47, 0.0), (0.1, 0.0), (0.0, -2.0)])
def test_moments_are_those_of_draws_whose_light_is_possible(best: float, slope: float) -> None:
    rng = np.random.default_rng(1)
    root = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    root[2] *= 4  # the light is known to about 0.1
    curvature = root @ root.T
    theta, away = np.array([0.3, -1.0, best, 12.0]), np.array([0.0, 0.0, slope, 0.0])
    point = Point(theta, 0.0, 0.0, away, curvature)
    mean, sd = fast_pass_module._within_light(point, 2, 0.5)
    covariance = np.linalg.inv(curvature)
    draws = rng.multivariate_normal(theta + covariance @ away, covariance, size=400_000)
    kept = draws[(draws[:, 2] >= 0) & (draws[:, 2] <= 0.5)]
    assert len(kept) > 20_000
    # Four standard errors of 20 000 draws.
    assert np.abs((mean - kept.mean(axis=0)) / kept.std(axis=0)).max() < 0.03
    np.testing.assert_allclose(sd, kept.std(axis=0), rtol=0.02)


def test_light_that_its_bound_holds_stays_there() -> None:
    theta = np.array([0.3, -1.0, 0.5, 12.0])
    point = Point(theta, 0.0, 0.0, np.array([0.0, 0.0, 1e6, 0.0]), np.diag([4.0, 4.0, 1e4, 1.0]))
    mean, sd = fast_pass_module._within_light(point, 2, 0.5)
    np.testing.assert_array_equal(mean, theta)
    np.testing.assert_allclose(sd, [0.5, 0.5, 0.0, 1.0])


@pytest.fixture(scope="module")
def blends() -> FastPass:
    return search(pairs(TEST, seconds(TEST), 0.3, 20.0))


def test_pairs_stand_out(singles: FastPass, blends: FastPass) -> None:
    assert np.median(singles.delta_chi2) < 30
    assert np.all(blends.delta_chi2 > np.quantile(singles.delta_chi2, 0.9))
    assert np.median(blends.delta_chi2) > 20 * np.quantile(singles.delta_chi2, 0.9)
    assert np.median(blends.improvement) > 0.3


def test_pair_is_found_where_it_is(blends: FastPass) -> None:
    assert np.median(np.abs(blends.light - 0.3)) < 0.03
    assert np.median(np.abs(blends.dv - 20.0)) < 0.5
    z = (blends.dv - 20.0) / blends.dv_sd
    assert np.median(np.abs(z)) < 3
    true = true_labels(TEST)
    wrong, right = (np.median(np.abs(x - true), axis=0) for x in (blends.single, blends.primary))
    assert np.all(right < 0.7 * wrong)


def test_second_star_is_roughly_right(blends: FastPass) -> None:
    true = true_labels(seconds(TEST))
    apart = np.median(np.abs(true - true_labels(TEST))[:, 0])
    assert np.median(np.abs(blends.secondary - true)[:, 0]) < 0.6 * apart


def test_rest_frame_is_measured_and_no_pair() -> None:
    library = load_library()
    spectra = observe(library, TEST, seed=3, windows=WINDOWS, faults=SurveyFaults(rest_frame=1.0))
    found = rest_frame_error(small_cannon(), spectra.flux, spectra.ivar)
    assert 0.5 < found < 1.8  # 20 stars: within a factor (false alarm 1e-3)
    moved_stars = search(spectra, replace(SETTINGS, rest_frame=found))
    assert np.median(moved_stars.delta_chi2) < 30


def test_broadened_star_is_no_pair(singles: FastPass) -> None:
    library = load_library()
    wide = replace(
        library,
        flux=gaussian_filter1d(library.flux, 7.0 / KMS_PER_PIXEL, axis=1),
        labels=library.labels,
    )
    found = search(observe(wide, TEST, seed=3, windows=WINDOWS))
    assert np.median(found.broadening) == pytest.approx(7.0, abs=1.0)
    assert np.median(found.delta_chi2) < 100


def test_result_does_not_depend_on_the_stars_beside(singles: FastPass) -> None:
    alone = search(stars().select(TEST[3:5]).spectra)
    np.testing.assert_allclose(alone.delta_chi2, singles.delta_chi2[3:5], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(alone.primary, singles.primary[3:5], rtol=1e-6)


def test_star_without_pixels_is_a_row_of_nan() -> None:
    spectra = stars().select(TEST[:2]).spectra
    ivar = spectra.ivar.copy()
    ivar[0] = 0
    found = fast_pass(
        small_cannon(), spectra.star_id, spectra.flux, ivar, SETTINGS, threads=1
    )  # fmt: skip
    assert np.isnan(found.delta_chi2[0])
    assert np.isfinite(found.delta_chi2[1])


def test_star_that_fails_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spectra, fit = stars().select(TEST[:3]).spectra, fast_pass_module.fit_laplace

    def fragile(pixels, priors, flux, ivar, settings):
        if np.any(np.abs(flux[:, 100] - 7.5) < 1e-6):
            raise np.linalg.LinAlgError("odd numbers")
        return fit(pixels, priors, flux, ivar, settings)

    monkeypatch.setattr(fast_pass_module, "fit_laplace", fragile)
    flux = spectra.flux.copy()
    flux[1, np.flatnonzero(small_cannon().used)[100]] = 7.5
    found = fast_pass(small_cannon(), spectra.star_id, flux, spectra.ivar, SETTINGS, threads=1)
    assert np.isfinite(found.delta_chi2).tolist() == [True, False, True]
    assert f"{spectra.star_id[1]}: not searched for a second star: odd numbers" in caplog.text


def test_shift_of_the_model_is_that_of_the_simulation() -> None:
    flux = load_library().flux[7].astype(float)
    first, kernel = taps(13.7 / KMS_PER_PIXEL)
    found = filtered(
        spline_coefficients(flux[None], ((0, 8575),)), kernel[0], first, np.array([[0, 8575]])
    )[0]
    np.testing.assert_allclose(found[20:-20], moved(flux, 13.7)[20:-20], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dv_max": -1.0}, "dv_max"),
        ({"light_max": 0.95}, "light_max"),
        ({"alike": 0.0}, "alike"),
        ({"n_starts": 0}, "n_starts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        BinarySettings(**changes)
