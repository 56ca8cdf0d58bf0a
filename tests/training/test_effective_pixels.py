"""The effective number of pixels: learnt where noise is shared by neighbours, 1 where it is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.noise.independent_pixels import IndependentPixels
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training.effective_pixels import (
    EffectivePixels,
    _by_lag,
    _filters,
    _from_residuals,
)
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

NAMES, CHIPS = ("TEFF", "LOGG", "FE_H"), ((0, 150), (150, 300))
KERNEL = np.array([0.3, 1.0, 0.3])
KAPPA = 1 + 2 * (0.6 + 0.09) / np.sum(KERNEL**2)
"""Sum of the autocorrelation of white noise after the kernel: (sum of it)^2 / sum of squares."""


def make_set(n_stars, *, correlated, seed):
    """Quadratic spectra of two chips whose noise (S/N 30) is correlated in the named chips.

    What labels do to a spectrum is as wide as a line, so that noise shared by neighbours matters.
    """
    rng, pixels = np.random.default_rng(seed), np.random.default_rng(99)
    ell = rng.standard_normal((n_stars, 3))
    center, scale = np.array([4700, 2.4, -0.2]), np.array([300, 0.6, 0.3])
    basis = PolynomialBasis(NAMES, ("K", "dex", "dex"), center, scale, 2)
    theta = 0.05 * gaussian_filter1d(pixels.standard_normal((300, basis.n_terms)), 3.0, axis=0)
    theta[:, 0] = 0.9
    noise = rng.standard_normal((n_stars, 302))
    smooth = sum(k * noise[:, i : i + 300] for i, k in enumerate(KERNEL))
    smooth /= np.sqrt(np.sum(KERNEL**2))
    flux, white = basis.features(ell) @ theta.T, noise[:, :300]
    for c, (start, stop) in enumerate(CHIPS):
        flux[:, start:stop] += 0.03 * (smooth if correlated[c] else white)[:, start:stop]
    ids = np.array([f"s{seed}-{i}" for i in range(n_stars)])
    spectra = NormalizedSpectra(
        ids, np.linspace(15200, 15600, 300), flux, np.full(flux.shape, 0.03**-2), chips=CHIPS
    )
    labels = Labels(NAMES, basis.unstandardize(ell), 1e-3 * scale, ids)
    return TrainingSet(spectra, labels, settings={})


@pytest.fixture(scope="module")
def models():
    settings = TrainingSettings(n_factors=0)
    return {
        kind: train(make_set(300, correlated=kind, seed=1), settings=settings, seed=1)
        for kind in ((True, True), (False, False), (True, False))
    }


def test_kappa_is_that_of_the_noise(models):
    """Of white noise 1, of smoothed noise 2.2; the labels' score knows it to 7 %."""
    both, none = models[True, True], models[False, False]
    assert np.all(np.abs(np.log(both.kappa / KAPPA)) < 0.35)
    assert np.all(none.kappa < 1.25)
    assert 0.02 < both.kappa_log_sd < 0.2
    assert both.settings["training"]["effective_pixels"]["of_folds"] >= both.kappa.tolist()


def test_chips_have_their_own(models):
    rough, white = models[True, False].kappa
    assert rough > 1.6 * white


def test_formal_intervals_hold_what_they_say(models):
    """500 new stars: 68 % within 4 % (standard error 2.1 %, three labels); without kappa 50 %."""
    new = make_set(500, correlated=(True, True), seed=2)
    settings = InferenceSettings(method="laplace", n_khat=0)

    def inside(cannon):
        stats = infer_labels(cannon, new.spectra, settings=settings, seed=1)["star_stats"]
        sd = np.sqrt(np.diagonal(stats["laplace_cov"].values, axis1=1, axis2=2))
        return np.mean(np.abs(stats["map_labels"].values - new.labels.values) < sd)

    cannon = models[True, True]
    assert 0.64 < inside(cannon) < 0.73
    assert inside(replace(cannon, kappa=np.ones(2), kappa_noise=np.ones(2))) < 0.55


def test_flags_mark_what_the_model_was_not_tested_on(models):
    """Of 500 new stars 1 % have either flag (standard error 0.4 %, and 0.6 % of the ranks'); nearly
    all of those with a line that the model does not know have one.
    """
    cannon, settings = models[True, True], InferenceSettings(method="laplace", n_khat=0)
    new = make_set(500, correlated=(True, True), seed=2).spectra

    def flags(flux):
        changed = replace(new, flux=flux)
        found = infer_labels(cannon, changed, settings=settings, seed=1)
        return found["star_stats"]["label_flag"].values

    assert np.mean(flags(new.flux) & int(LabelFlag.POOR_CHI2) > 0) < 0.04
    line = np.zeros(300)
    line[100:110] = 0.15
    odd = flags(new.flux - line)
    assert np.mean(odd & int(LabelFlag.POOR_CHI2 | LabelFlag.UNLIKE_TRAINING) > 0) > 0.9


def test_kappa_is_kept_in_the_file(models, tmp_path):
    cannon = models[True, False]
    cannon.save(tmp_path / "model.nc")
    again = Cannon.load(tmp_path / "model.nc")
    np.testing.assert_array_equal(again.kappa, cannon.kappa)
    assert again.kappa_log_sd == cannon.kappa_log_sd
    np.testing.assert_array_equal(again.kappa_noise, cannon.kappa_noise)


def test_misfit_falls_with_stars_and_noise_does_not():
    kappa, residuals = np.array([1.1, 4.0, 2.0]), np.array([1.0, 1.5, 2.5])
    found = EffectivePixels(kappa, 0.1, residuals, np.ones((3, 1)), 1.0)
    np.testing.assert_allclose(found.of_final_model(5), [1 + 0.8 * 0.1, 1.5 + 0.8 * 2.5, 2.0])


def test_a_star_lies_between_noise_and_scatter():
    """By its mean share of scatter, pixels that are not used left out."""
    chip, scatter2 = np.array([0, 0, 0, 1, 1]), np.full(5, 1e-4)
    found = IndependentPixels(np.array([4.0, 2.0]), np.array([1.0, 1.5]), chip, scatter2)
    ivar = np.array([[1e4, 3e4, 0.0, 1e4, 1e4], [1e12] * 5, [1e-6] * 5])
    shares = found.shares(ivar)
    np.testing.assert_allclose(shares[:, 0], [(0.5 + 0.75) / 2, 0.5])
    kappa = found.kappa(ivar)
    np.testing.assert_allclose(kappa[0], [2.875, 2.875, 2.875, 1.75, 1.75])
    np.testing.assert_allclose(kappa[1], [4, 4, 4, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(kappa[2], [1, 1, 1, 1.5, 1.5], rtol=1e-6)
    assert not found.trivial


def test_slow_waves_count_by_what_filters_see(models):
    """Residuals with a correlation of 0.04 over 50 pixels: 5 of all, 1.1 of a line's filter."""
    pixels = PixelModel.from_cannon(models[False, False])
    h = _filters(pixels, pixels.basis.center, np.full(300, 900.0))
    np.testing.assert_allclose(np.sum(h**2, axis=1), 1.0)
    slopes = pixels.coef[:, 1:4] * 30.0  # of the labels in standard deviations of a pixel
    seen = h @ slopes
    np.testing.assert_allclose(seen, np.diag(np.diag(seen)), atol=1e-9 * np.abs(seen).max())
    line = np.zeros((1, 300))
    line[0, 100:103] = 1, 2, 1
    waves = np.r_[1.0, np.full(50, 0.04)][None]
    block = SimpleNamespace(products=900 * waves, pairs=np.full((1, 51), 900.0))
    for filters, kappa in ((_by_lag(line)[None], 1 + 0.08 * (4 + 1) / 6), (np.ones((1, 51)), 5.0)):
        block.filters = filters
        rho, found = _from_residuals([block])
        np.testing.assert_allclose(rho, waves)
        np.testing.assert_allclose(found, kappa)
