"""Continuum pixels, Chebyshev fit per chip, and the choice of pixels from a trained model."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_cannon.errors import BayesCannonWarning, InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.spectra.continua.running_quantile import divide_by_running_quantile
from bayes_cannon.spectra.continuum import (
    ContinuumSettings,
    match_pixels,
    normalize,
    published_pixels,
)
from bayes_cannon.spectra.spectra import ObservedSpectra
from bayes_cannon.surveys.apogee.layout import CHIPS_8575, WAVELENGTH
from bayes_cannon.training.continuum_pixels import (
    NESS_LIMITS,
    choose_continuum,
    select_continuum_pixels,
)
from tests.line_survey import LineSurvey

FLUX_SCALE = 1000.0


def smooth_curves(n_stars: int, seed: int = 0) -> np.ndarray:
    """Curves that are positive, of another shape in each chip, shape (n_stars, 8575)."""
    rng = np.random.default_rng(seed)
    curves = np.ones((n_stars, WAVELENGTH.size))
    for start, stop in CHIPS_8575:
        grid = WAVELENGTH[start:stop]
        x = (2 * grid - grid[0] - grid[-1]) / (grid[-1] - grid[0])
        shape = np.polynomial.chebyshev.chebval(x, rng.normal(0, 0.06, (5, n_stars)))
        curves[:, start:stop] = 1.0 + shape + 0.2 * rng.normal(size=(n_stars, 1))
    return FLUX_SCALE * np.maximum(curves, 0.2)


def noisy_spectra(n_stars: int = 6, seed: int = 0, bad_fraction: float = 0.1) -> ObservedSpectra:
    """Noise of very unequal size, some bad pixels; absorption everywhere but at the continuum."""
    rng = np.random.default_rng(seed + 1)
    flux = smooth_curves(n_stars, seed)
    sigma = FLUX_SCALE * np.exp(rng.uniform(-6, -2, flux.shape))
    flux = flux + sigma * rng.normal(size=flux.shape)
    ivar = np.where(rng.random(flux.shape) < bad_fraction, 0.0, sigma**-2)
    return ObservedSpectra(
        star_id=np.array([f"star {i}" for i in range(n_stars)]),
        wavelength=WAVELENGTH,
        flux=np.where(ivar > 0, flux, 0.0),
        ivar=ivar,
        snr=np.linspace(50, 300, n_stars),
        chips=CHIPS_8575,
    )


def changed(spectra: ObservedSpectra, **changes: object) -> ObservedSpectra:
    names = ("star_id", "wavelength", "flux", "ivar", "snr", "chips", "simulated")
    return ObservedSpectra(**({n: getattr(spectra, n) for n in names} | changes))


@pytest.fixture(scope="module")
def spectra() -> ObservedSpectra:
    return noisy_spectra()


def test_published_list_is_the_one_described() -> None:
    pixels = published_pixels()
    assert pixels.size == 529
    assert (np.diff(pixels) > 0).all()
    assert (pixels[0], pixels[-1]) == (335, 8278)
    per_chip = [np.sum((pixels >= a) & (pixels < b)) for a, b in CHIPS_8575]
    assert per_chip == [241, 108, 180]


@pytest.mark.parametrize("degree", [2, 3, 4, 5])
def test_fit_equals_numpy_with_one_over_sigma(spectra: ObservedSpectra, degree: int) -> None:
    _, fit = normalize(spectra, ContinuumSettings(degree=degree))
    pixels = published_pixels()
    for star in range(spectra.n_stars):
        for chip, (start, stop) in enumerate(CHIPS_8575):
            good = spectra.good[star, pixels] & (pixels >= start) & (pixels < stop)
            p = pixels[good]
            oracle = np.polynomial.Chebyshev.fit(
                WAVELENGTH[p],
                spectra.flux[star, p].astype(float),
                degree,
                w=np.sqrt(spectra.ivar[star, p].astype(float)),
                domain=(WAVELENGTH[start], WAVELENGTH[stop - 1]),
            )
            np.testing.assert_allclose(
                fit.coefficients[star, chip] / FLUX_SCALE, oracle.coef / FLUX_SCALE, atol=1e-8
            )
            np.testing.assert_allclose(
                fit.continuum(star)[start:stop], oracle(WAVELENGTH[start:stop]), rtol=1e-8
            )
            assert fit.n_pixels_used[star, chip] == good.sum()


def test_a_smooth_spectrum_becomes_flat() -> None:
    flux = smooth_curves(3)
    raw = ObservedSpectra(
        np.array(["a", "b", "c"]), WAVELENGTH, flux, np.full(flux.shape, 0.04), chips=CHIPS_8575
    )
    normalized, _ = normalize(raw)
    for start, stop in CHIPS_8575:
        np.testing.assert_allclose(normalized.flux[:, start:stop], 1.0, atol=2e-6)
        np.testing.assert_allclose(
            normalized.ivar[:, start:stop], 0.04 * flux[:, start:stop] ** 2, rtol=1e-5
        )
    assert normalized.chips == CHIPS_8575


def test_bad_pixels_and_pixels_outside_chips(spectra: ObservedSpectra) -> None:
    normalized, fit = normalize(spectra)
    in_chip = np.zeros(WAVELENGTH.size, bool)
    for start, stop in CHIPS_8575:
        in_chip[start:stop] = True
    np.testing.assert_array_equal(normalized.good, spectra.good & in_chip)
    assert (normalized.flux[~normalized.good] == 1).all()
    assert (spectra.good & ~in_chip).any()
    assert np.isnan(fit.continuum(0)[~in_chip]).all()
    np.testing.assert_array_equal(normalized.snr, spectra.snr)


def test_bad_continuum_pixels_are_not_used(spectra: ObservedSpectra) -> None:
    flux = spectra.flux.copy()
    flux[~spectra.good] = -1e6
    first, _ = normalize(spectra)
    second, _ = normalize(changed(spectra, flux=flux))
    np.testing.assert_array_equal(first.flux, second.flux)


def test_too_few_continuum_pixels_mask_the_chip_and_are_said(spectra: ObservedSpectra) -> None:
    ivar = spectra.ivar.copy()
    pixels = published_pixels()
    green = pixels[(pixels >= CHIPS_8575[1][0]) & (pixels < CHIPS_8575[1][1])]
    ivar[2, green[5:]] = 0.0
    with pytest.warns(BayesCannonWarning, match=r"1 of 6 stars \(star 2\).*1 in chip 1") as caught:
        normalized, fit = normalize(changed(spectra, ivar=ivar))
    assert len(caught) == 1
    assert fit.masked_chips.sum() == 1
    assert fit.masked_chips[2, 1]
    assert not normalized.good[2, slice(*CHIPS_8575[1])].any()
    assert np.isnan(fit.coefficients[2, 1]).all()
    untouched, _ = normalize(spectra)
    others = np.arange(6) != 2
    np.testing.assert_array_equal(normalized.flux[others], untouched.flux[others])
    np.testing.assert_array_equal(
        normalized.flux[2, slice(*CHIPS_8575[0])], untouched.flux[2, slice(*CHIPS_8575[0])]
    )


def test_min_pixels_moves_the_limit(spectra: ObservedSpectra) -> None:
    ivar = spectra.ivar.copy()
    blue = published_pixels()[:241]
    ivar[0, blue] = 0.0
    ivar[0, blue[::30]] = 1.0
    flux = spectra.flux.copy()
    flux[0, blue[::30]] = FLUX_SCALE
    few = changed(spectra, flux=flux, ivar=ivar)
    with pytest.warns(BayesCannonWarning, match="1 in chip 0"):
        normalize(few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, fit = normalize(few, ContinuumSettings(min_pixels=9))
    assert fit.n_pixels_used[0, 0] == 9
    assert not fit.masked_chips.any()


def test_continuum_that_is_not_positive_masks_the_chip(spectra: ObservedSpectra) -> None:
    flux = spectra.flux.copy()
    flux[1, slice(*CHIPS_8575[2])] *= -1.0
    with pytest.warns(BayesCannonWarning, match=r"not positive \(1 in chip 2\)"):
        normalized, fit = normalize(changed(spectra, flux=flux))
    assert fit.masked_chips[1, 2]
    assert not normalized.good[1, slice(*CHIPS_8575[2])].any()


def test_continuum_that_comes_close_to_zero_masks_the_chip(spectra: ObservedSpectra) -> None:
    flux, chip = spectra.flux.copy(), slice(*CHIPS_8575[2])
    ivar = spectra.ivar.copy()
    flux[1, chip], ivar[1, chip] = np.linspace(1.0, 1e-5, chip.stop - chip.start), 1.0
    with pytest.warns(BayesCannonWarning, match="1 in chip 2"):
        normalized, fit = normalize(changed(spectra, flux=flux, ivar=ivar))
    assert np.argwhere(fit.masked_chips).tolist() == [[1, 2]]
    assert np.abs(normalized.flux).max() < 100


def test_chip_without_data_is_counted_but_not_warned_of(spectra: ObservedSpectra) -> None:
    ivar = spectra.ivar.copy()
    ivar[3, slice(*CHIPS_8575[0])] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalized, fit = normalize(changed(spectra, ivar=ivar))
    assert fit.empty_chips.sum() == 1
    assert fit.empty_chips[3, 0]
    assert not fit.masked_chips.any()
    assert (normalized.flux[3, slice(*CHIPS_8575[0])] == 1).all()


def test_a_weight_that_outshines_all_others_masks_the_chip(spectra: ObservedSpectra) -> None:
    ivar = spectra.ivar.copy()
    ivar[0, published_pixels()[10]] = 1e30
    with pytest.warns(BayesCannonWarning, match="1 in chip 0"):
        normalized, _ = normalize(changed(spectra, ivar=ivar))
    assert not normalized.good[0, slice(*CHIPS_8575[0])].any()


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)))
def test_permuted_stars_give_permuted_results(order: list[int]) -> None:
    spectra = noisy_spectra(bad_fraction=0.3)
    straight, _ = normalize(spectra)
    permuted, fit = normalize(spectra.select(order))
    np.testing.assert_array_equal(permuted.star_id, spectra.star_id[order])
    np.testing.assert_allclose(permuted.flux, straight.flux[order], rtol=1e-6)
    np.testing.assert_allclose(permuted.ivar, straight.ivar[order], rtol=1e-6)
    np.testing.assert_array_equal(fit.star_id, permuted.star_id)


@settings(max_examples=20, deadline=None)
@given(st.floats(-6, 6))
def test_units_of_flux_do_not_matter(log_factor: float) -> None:
    spectra = noisy_spectra(3)
    factor = 10.0**log_factor
    scaled = changed(
        spectra,
        flux=spectra.flux.astype(float) * factor,
        ivar=spectra.ivar.astype(float) / factor**2,
    )
    expected, _ = normalize(spectra)
    result, _ = normalize(scaled)
    np.testing.assert_allclose(result.flux, expected.flux, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(result.ivar, expected.ivar, rtol=2e-5)


def test_many_stars_equal_one_at_a_time() -> None:
    few = noisy_spectra(3)
    rows = np.arange(300) % 3
    many = ObservedSpectra(
        np.arange(300).astype(str), WAVELENGTH, few.flux[rows], few.ivar[rows], chips=CHIPS_8575
    )
    expected, _ = normalize(few)
    result, fit = normalize(many)
    np.testing.assert_allclose(result.flux, expected.flux[rows], rtol=1e-6)
    assert np.isfinite(fit.coefficients).all()


def test_other_grids_match_pixels_by_wavelength(spectra: ObservedSpectra) -> None:
    start, stop = 322, 3242
    blue = changed(
        spectra,
        wavelength=WAVELENGTH[start:stop],
        flux=spectra.flux[:, start:stop],
        ivar=spectra.ivar[:, start:stop],
        chips=((0, stop - start),),
    )
    _, fit = normalize(blue)
    oracle_pixels = published_pixels()
    oracle_pixels = oracle_pixels[oracle_pixels < stop]
    expected = spectra.good[:, oracle_pixels].sum(axis=1)
    np.testing.assert_array_equal(fit.n_pixels_used[:, 0], expected)
    own = ContinuumSettings(pixels=tuple(WAVELENGTH[start:stop:10]))
    _, fit = normalize(blue, own)
    np.testing.assert_array_equal(fit.n_pixels_used[:, 0], blue.good[:, ::10].sum(axis=1))


def test_match_pixels_leaves_out_what_is_not_on_the_grid() -> None:
    grid = np.array([10.0, 11, 12, 20, 21, 22])
    np.testing.assert_array_equal(match_pixels(grid, [11.2, 16.0, 9.0, 22.5, 30.0, 11.3]), [1, 5])
    assert match_pixels([5.0], [5.0]).size == 0


def test_no_continuum_pixel_on_the_grid(spectra: ObservedSpectra) -> None:
    with pytest.raises(InvalidDataError, match="none of the 2 continuum pixels lies on the grid"):
        normalize(spectra, ContinuumSettings(pixels=(5000.0, 6000.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 1}, "must be 2 to 5, not 1"),
        ({"degree": 6}, "must be 2 to 5, not 6"),
        ({"min_pixels": 4}, "needs at least 5 pixels"),
        ({"pixels": "mine"}, "not 'mine'"),
        ({"pixels": ()}, "one or more positive wavelengths"),
        ({"pixels": (15200.0, float("nan"))}, "one or more positive wavelengths"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        ContinuumSettings(**arguments)


# First pass: running quantile


def test_running_quantile_equals_numpy_at_nodes(spectra: ObservedSpectra) -> None:
    normalized = divide_by_running_quantile(spectra, width=50.0, quantile=0.9)
    start, stop = CHIPS_8575[0]
    grid = WAVELENGTH[start:stop]
    # The chip's first pixel is a node; its window reaches 25 Å into the chip.
    window = slice(start, start + int(np.searchsorted(grid, grid[0] + 25.0)))
    seen = 0
    for star in np.flatnonzero(spectra.good[:, start]):
        values = spectra.flux[star, window][spectra.good[star, window]].astype(float)
        expected = spectra.flux[star, start] / np.quantile(values, 0.9)
        assert normalized.flux[star, start] == pytest.approx(expected, rel=1e-6)
        seen += 1
    assert seen > 0


def test_running_quantile_follows_the_continuum_past_lines_and_bad_pixels() -> None:
    rng = np.random.default_rng(5)
    curves = smooth_curves(4)
    lines = np.where(rng.random(curves.shape) < 0.4, rng.uniform(0.5, 1, curves.shape), 1.0)
    ivar = np.where(rng.random(curves.shape) < 0.2, 0.0, 1.0)
    flux = np.where(ivar > 0, curves * lines, 1e7)
    raw = ObservedSpectra(np.array(list("abcd")), WAVELENGTH, flux, ivar, chips=CHIPS_8575)
    normalized = divide_by_running_quantile(raw)
    inner = slice(600, 3000)
    good = normalized.good[:, inner]
    np.testing.assert_array_equal(good, ivar[:, inner] > 0)
    ratio = normalized.flux[:, inner][good] / lines[:, inner][good]
    assert np.abs(ratio - 1).max() < 0.04


def test_running_quantile_masks_where_there_is_too_little() -> None:
    ivar = np.zeros((2, WAVELENGTH.size))
    ivar[0, 1000:1005] = 1.0
    ivar[1] = 1.0
    flux = np.ones_like(ivar)
    flux[1, slice(*CHIPS_8575[1])] = -1.0
    raw = ObservedSpectra(np.array(["few", "negative"]), WAVELENGTH, flux, ivar, chips=CHIPS_8575)
    good = divide_by_running_quantile(raw).good
    assert not good[0].any()
    assert not good[1, slice(*CHIPS_8575[1])].any()
    assert good[1, slice(*CHIPS_8575[0])].all()


@pytest.mark.parametrize("arguments", [{"width": 0.0}, {"quantile": 1.0}, {"width": np.nan}])
def test_running_quantile_refuses(spectra: ObservedSpectra, arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidDataError, match="wider than 0 Å"):
        divide_by_running_quantile(spectra, **arguments)


# Continuum pixels from a trained model

NAMES = ("TEFF", "LOGG", "FE_H", "MG_FE")
BASIS = PolynomialBasis(
    NAMES, ("K", "dex", "dex", "dex"), np.array([4600.0, 2.3, -0.2, 0.1]),
    np.array([400.0, 0.7, 0.3, 0.1]), degree=2,
)  # fmt: skip


def flat_theta(n_pixels: int = 8) -> np.ndarray:
    theta = np.zeros((n_pixels, BASIS.n_terms))
    theta[:, 0] = 1.0
    return theta


def test_thresholds_are_on_raw_label_units() -> None:
    theta = flat_theta()
    for pixel, name in enumerate(("TEFF", "LOGG", "FE_H")):
        k = NAMES.index(name)
        theta[pixel, BASIS.terms.index((k,))] = -1.01 * NESS_LIMITS[name] * BASIS.scale[k]
        theta[pixel + 3, BASIS.terms.index((k,))] = -0.99 * NESS_LIMITS[name] * BASIS.scale[k]
    theta[6, BASIS.terms.index((3,))] = 0.031 * BASIS.scale[3]
    np.testing.assert_array_equal(select_continuum_pixels(theta, BASIS), [3, 4, 5, 7])
    np.testing.assert_array_equal(
        select_continuum_pixels(theta, BASIS, other_limit=0.04), [3, 4, 5, 6, 7]
    )


def test_baseline_quadratic_terms_and_unfitted_pixels() -> None:
    theta = flat_theta(6)
    theta[:, 0] = [0.984, 0.986, 1.014, 1.016, 1.0, 1.0]
    theta[4, 1] = np.nan
    theta[5, BASIS.terms.index((0, 0))] = 10.0  # only linear terms are limited
    np.testing.assert_array_equal(select_continuum_pixels(theta, BASIS), [1, 2, 5])
    np.testing.assert_array_equal(select_continuum_pixels(theta, BASIS, baseline=0.0155), [1, 2, 5])
    np.testing.assert_array_equal(
        select_continuum_pixels(theta, BASIS, baseline=0.017), [0, 1, 2, 3, 5]
    )


def test_scaling_of_the_labels_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    theta = flat_theta(400)
    theta[:, 1:5] = rng.normal(0, 0.004, (400, 4))
    chosen = select_continuum_pixels(theta, BASIS)
    other = PolynomialBasis(NAMES, BASIS.units, BASIS.center, BASIS.scale * 3.0, degree=2)
    rescaled = theta.copy()
    rescaled[:, 1:5] *= 3.0
    np.testing.assert_array_equal(select_continuum_pixels(rescaled, other), chosen)
    assert 0 < chosen.size < 400


def test_selection_refuses() -> None:
    with pytest.raises(InvalidDataError, match=r"expected \(n_pixels, 15\)"):
        select_continuum_pixels(np.ones((4, 3)), BASIS)
    with pytest.raises(InvalidDataError, match="none of 4 pixels is continuum"):
        select_continuum_pixels(np.zeros((4, 15)), BASIS)
    with pytest.raises(LabelError, match="limits for CE_FE"):
        select_continuum_pixels(flat_theta(), BASIS, limits={"CE_FE": 0.1})


def test_a_trained_model_chooses_the_continuum_of_its_survey() -> None:
    survey = LineSurvey()
    cannon = survey.model()
    settings = choose_continuum(cannon, degree=2, limits={"TEFF": 3e-5, "FE_H": 0.02})
    pixels = np.isin(cannon.wavelength, settings.pixels)
    assert 5 < pixels.sum() < pixels.size / 2
    lines = survey.profiles.sum(axis=0)
    assert lines[pixels].max() < 0.2, "no pixel inside a line"
    observed = ObservedSpectra(["a"], survey.wavelength, *np.full((2, 1, 201), [[[7.0]], [[1.0]]]))
    np.testing.assert_allclose(normalize(observed, settings)[0].flux, 1.0, atol=1e-5)
