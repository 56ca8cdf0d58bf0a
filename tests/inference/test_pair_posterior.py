"""The two-star model in PyMC: its compressed likelihood, and its posterior."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.binaries.fast_pass import fast_pass, whitened_stars
from bayes_cannon.inference.binaries.pair_posterior import compress_pair, sample_pair
from bayes_cannon.inference.binaries.search import BinarySettings, Search, Star, pair_point
from bayes_cannon.inference.sampler import NutsSettings
from bayes_cannon.models.two_stars import PairPriors, build_two_star_model, pair_features
from bayes_cannon.spectra.spectra import NormalizedSpectra
from tests.binary_problem import N_TRAINING, pairs, small_cannon, true_labels
from tests.inference.test_binaries import seconds

SETTINGS = BinarySettings(rest_frame=0.1)
FIRST = np.array([N_TRAINING + 1])


@pytest.fixture(scope="module")
def spectra() -> NormalizedSpectra:
    return pairs(FIRST, seconds(FIRST), 0.3, 20.0)


@pytest.fixture(scope="module")
def theta(spectra: NormalizedSpectra) -> np.ndarray:
    found = fast_pass(small_cannon(), spectra.star_id, spectra.flux, spectra.ivar, SETTINGS)
    return found.theta[0]


@pytest.fixture(scope="module")
def star(spectra: NormalizedSpectra) -> Star:
    search = Search.prepare(small_cannon(), SETTINGS)
    return whitened_stars(search, small_cannon(), spectra.flux, spectra.ivar)[0][0]


def test_compressed_likelihood_is_that_of_the_pixels(star: Star, theta: np.ndarray) -> None:
    data, basis, k = compress_pair(star, theta), small_cannon().basis, star.search.model.n_labels
    width = star.search.model.kms_per_pixel

    def compressed(t: np.ndarray) -> float:
        first = (t[2 * k + 2] - theta[2 * k + 2]) / width
        second = first + (t[2 * k + 1] - theta[2 * k + 1]) / width
        v1, v2 = basis.features(t[:k]), basis.features(t[k : 2 * k])
        q = pair_features(v1, v2, t[2 * k], np.array(first), np.array(second))
        return float(data["b"] @ q - 0.5 * q @ data["A"] @ q)

    here, exact = compressed(theta), pair_point(star, theta).chi2
    rng = np.random.default_rng(1)
    size, most = np.r_[np.full(2 * k, 0.1), 0.05, 0.8, 0.3], 0.0
    for _ in range(8):
        there = theta.copy()
        there[:-1] += size * rng.standard_normal(2 * k + 3)
        change = -0.5 * (pair_point(star, there).chi2 - exact)
        assert compressed(there) - here == pytest.approx(change, rel=2e-3, abs=0.05)
        most = min(most, change)
    assert most < -10  # by moves that matter


def test_posterior_holds_both_stars(spectra: NormalizedSpectra, theta: np.ndarray) -> None:
    nuts = NutsSettings(draws=200, tune=200, chains=2)
    result = sample_pair(
        small_cannon(), "pair", spectra.flux[0], spectra.ivar[0], theta, SETTINGS, nuts=nuts,
        seed=1,
    )  # fmt: skip
    posterior = result["posterior"].to_dataset()
    assert posterior["labels_1"].dims == ("chain", "draw", "label_name")
    summary = az.rhat(result)
    assert all(float(summary[name].max()) < 1.05 for name in ("labels_1", "labels_2", "dv"))
    assert int(result["sample_stats"]["diverging"].sum()) <= 5
    mean, sd = posterior.mean(("chain", "draw")), posterior.std(("chain", "draw"))
    assert float(mean["dv"]) == pytest.approx(20.0, abs=4 * float(sd["dv"]) + 0.3)
    assert float(mean["light"]) == pytest.approx(0.3, abs=4 * float(sd["light"]) + 0.02)
    k = len(small_cannon().names)
    scale = small_cannon().basis.scale
    mode = small_cannon().basis.unstandardize(theta[:k])
    assert np.all(np.abs(mean["labels_1"].values - mode) < 1.0 * sd["labels_1"].values)
    assert np.all(np.abs(mean["labels_1"].values - true_labels(FIRST)[0]) < 0.4 * scale)
    short = NutsSettings(draws=5, tune=20, chains=1)
    one, two = (
        sample_pair(
            small_cannon(), "pair", spectra.flux[0], spectra.ivar[0], theta, SETTINGS, nuts=short,
            seed=1,
        )
        for _ in range(2)
    )  # fmt: skip
    np.testing.assert_array_equal(one["posterior"]["dv"].values, two["posterior"]["dv"].values)


def test_arrays_of_another_shape_are_refused() -> None:
    basis, k = small_cannon().basis, 3
    priors = PairPriors(np.zeros(k), np.eye(k), np.zeros((k, k)), 0.5, 60.0, 0.1)
    data = {"A": np.eye(3), "b": np.zeros(3), "mode": np.zeros(9), "chol": np.eye(9)}
    with pytest.raises(InvalidDataError, match=r"A has shape \(3, 3\), expected \(60, 60\)"):
        build_two_star_model(basis, priors, data, kms_per_pixel=4.1)


def test_star_without_pixels_is_refused(spectra: NormalizedSpectra, theta: np.ndarray) -> None:
    with pytest.raises(InvalidDataError, match="pair has too few usable pixels"):
        sample_pair(
            small_cannon(), "pair", spectra.flux[0], 0 * spectra.ivar[0], theta, SETTINGS
        )  # fmt: skip
