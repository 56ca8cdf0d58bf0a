"""Light that follows from the labels of both stars, and a second star of another Cannon."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from pytensor.compile.mode import Mode
from scipy.special import expit

from bayes_cannon.analysis.binaries.one_age import light_on_isochrones
from bayes_cannon.analysis.isochrones import IsochroneSet, packaged_isochrones
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError
from bayes_cannon.inference.binaries.fast_pass import FastPass, fast_pass
from bayes_cannon.inference.binaries.pair_priors import PairPrior
from bayes_cannon.inference.binaries.search import BinarySettings
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.models.light.isochrone_light import IsochroneLight
from bayes_cannon.models.two_stars import (
    PairPriors,
    build_two_star_model,
    light_labels,
    log_light_ratio,
    log_planck,
)
from tests.binary_problem import (
    N_TRAINING,
    pairs,
    second_cannon,
    small_cannon,
    stars,
    true_labels,
)

TIED = BinarySettings(rest_frame=0.1, light="tied")
TEST = np.arange(N_TRAINING, N_TRAINING + 12)
GIVEN = {"dv_max": 60.0, "inflate": 1.5}


def light_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second star's share, by the true labels."""
    one, two = true_labels(first), true_labels(second)
    return expit(log_light_ratio((one[:, 0], two[:, 0]), (one[:, 1], two[:, 1])))


def companions() -> np.ndarray:
    """Fainter stars of nearly the same [Fe/H] that have a quarter of the light, about."""
    every = np.arange(N_TRAINING)
    labels, iron = true_labels(TEST), true_labels(every)[:, 2]
    light = np.array([light_of(np.full(N_TRAINING, i), every) for i in TEST])
    return (np.abs(light - 0.25) + 0.5 * np.abs(labels[:, 2][:, None] - iron)).argmin(axis=1)


@cache
def one_age() -> IsochroneLight:
    """Of two ages: at the younger one stars are 120 K hotter and 1.4 times as massive."""
    found = list(packaged_isochrones())
    younger = [
        replace(one, log10_age=9.3, log_Teff=np.log10(one.teff + 120), log_L=one.log_L + 0.15)
        for one in found
    ]
    return light_on_isochrones(IsochroneSet((*found, *younger)), small_cannon())


def settings_of(light: str) -> BinarySettings:
    return replace(TIED, light=light, isochrones=one_age() if light == "isochrone" else None)


@pytest.fixture(scope="module")
def both() -> TwoStarModel:
    return TwoStarModel.from_cannon(small_cannon(), second=second_cannon(), **GIVEN)


def a_pair(k: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.r_[0.5 * rng.standard_normal(2 * k), 0.3, 21.3, 0.12, 0.6]


def test_equal_stars_have_half_of_the_light_each() -> None:
    assert log_light_ratio((4500.0, 4500.0), (2.0, 2.0)) == 0
    assert log_light_ratio((4500.0, 4500.0), (2.0, 2.3)) == pytest.approx(-0.3 * np.log(10))
    # By expm1(8992 K / T), 5000 K is 1.265 times as bright at 1.6 micron as 4500 K.
    assert np.exp(log_light_ratio((4500.0, 5000.0), (2.0, 2.0))) == pytest.approx(1.265, abs=0.002)
    with pytest.raises(InvalidDataError, match=r"has no label LOGG .* leave the light free"):
        light_labels(("TEFF", "FE_H"))


@pytest.mark.parametrize("light", ["tied", "isochrone"])
def test_slopes_of_the_prior_are_its_differences(both: TwoStarModel, light: str) -> None:
    prior = PairPrior.make(both, settings_of(light))
    theta, step = a_pair(both.n_labels), 1e-5
    _, slope, curvature = prior.at(theta)
    for i in range(theta.size):
        moved = step * (np.arange(theta.size) == i)
        expected = -0.5 * (prior.at(theta + moved)[0] - prior.at(theta - moved)[0]) / (2 * step)
        assert slope[i] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert np.all(np.linalg.eigvalsh(curvature) > -1e-6 * np.abs(curvature).max())


@pytest.mark.parametrize("light", ["tied", "isochrone"])
def test_prior_of_the_pymc_model_is_that_of_the_fast_pass(both: TwoStarModel, light: str) -> None:
    settings = settings_of(light)
    prior, k = PairPrior.make(both, settings), both.n_labels
    one, two, n = both.first, both.second, 2 * both.n_labels + 3
    t = 3 * (one.basis.n_terms + two.basis.n_terms)
    data = {"A": np.zeros((t, t)), "b": np.zeros(t), "mode": np.zeros(n), "chol": np.eye(n)}
    priors = PairPriors(
        one.prior_mean, one.prior_precision, prior.tie, 0.5, 60.0, 0.1, two.prior_mean,
        two.prior_precision, settings.light_scatter, settings.isochrones,
    )  # fmt: skip
    model = build_two_star_model(
        one.basis, priors, data, kms_per_pixel=both.kms_per_pixel, second=two.basis
    )
    log_prior = model.compile_fn(
        model["log_prior"], inputs=[model["y"]], on_unused_input="ignore", mode=Mode("py", None)
    )
    rng, difference = np.random.default_rng(2), []
    for _ in range(5):
        theta = a_pair(k)
        theta[: 2 * k + 1] += 0.02 * rng.standard_normal(2 * k + 1)
        share = theta[2 * k] / 0.5
        y = theta[:-1].copy()
        y[2 * k] = np.log(share) - np.log1p(-share)
        of_light = -np.log(theta[2 * k]) - np.log1p(-theta[2 * k]) + np.log(share * (1 - share))
        difference.append(float(log_prior({"y": y})) - (-0.5 * prior.at(theta)[0] + of_light))
    np.testing.assert_allclose(difference, difference[0], atol=1e-6)


def found_with(settings: BinarySettings, spectra) -> FastPass:
    return fast_pass(
        small_cannon(), spectra.star_id, spectra.flux, spectra.ivar, settings, threads=1,
        second=second_cannon(),
    )  # fmt: skip


def test_second_star_of_another_model_is_found_with_its_light() -> None:
    second = companions()
    light = light_of(TEST, second)
    keep = (light > 0.1) & (light < 0.45)
    assert keep.sum() >= 6
    first, second, light = TEST[keep], second[keep], light[keep]
    each = [pairs(first[i : i + 1], second[i : i + 1], w, 20.0) for i, w in enumerate(light)]
    flux, ivar = (np.concatenate([getattr(e, n) for e in each]) for n in ("flux", "ivar"))
    spectra = replace(
        each[0], star_id=np.array([f"p{i}" for i in first]), flux=flux, ivar=ivar,
        snr=np.concatenate([e.snr for e in each]),
    )  # fmt: skip
    tied, free = (found_with(s, spectra) for s in (TIED, replace(TIED, light="free")))
    assert np.median(np.abs(tied.dv - 20.0)) < 0.6
    assert np.median(np.abs(tied.light - light)) < 0.05
    # What the labels say of the light says of the labels, too.
    assert np.median(tied.secondary_sd[:, 1] / free.secondary_sd[:, 1]) < 0.9
    ratio = log_light_ratio(
        (tied.primary[:, 0], tied.secondary[:, 0]), (tied.primary[:, 1], tied.secondary[:, 1])
    )
    assert np.median(np.abs(ratio - np.log(tied.light / (1 - tied.light)))) < TIED.light_scatter
    singles = found_with(TIED, stars().select(TEST[:6]).spectra)
    assert np.median(singles.delta_chi2) < 30 < 0.1 * np.median(tied.delta_chi2)
    on_one = found_with(settings_of("isochrone"), spectra)
    assert np.median(np.abs(on_one.light - light)) < 0.05
    assert np.median(np.abs(on_one.dv - 20.0)) < 0.6
    # A star on an isochrone of known [Fe/H] has its Teff and log g better.
    assert np.median(on_one.secondary_sd[:, 0] / tied.secondary_sd[:, 0]) < 0.97


def test_light_is_that_of_the_isochrone() -> None:
    light = one_age()
    assert light.band == "bolometric luminosity"
    assert light.teff.shape[:2] == (2, 5)
    (one,) = [iso for iso in packaged_isochrones() if iso.feh == 0.0]
    clump, branch = one.red_clump(), one.giant_branch()
    a, b = int(np.argmin(np.abs(branch.log_g - 3.3))), 20
    first = [branch.teff[a], branch.log_g[a], 0.0]
    second = [clump.teff[b], clump.log_g[b], 0.0]
    on, other = light.at(*first), light.at(*second)
    assert on.log_density[1] == pytest.approx(0.0, abs=0.1)  # the second age is its own
    assert on.log_density[0] < -0.4
    assert other.log_density[1] > -0.1  # the giant branch passes near the clump
    shines = [
        x.log_L[i] * np.log(10) + log_planck(x.teff[i]) - 4 * np.log(x.teff[i])
        for x, i in ((branch, a), (clump, b))
    ]
    equal = log_light_ratio((first[0], second[0]), (first[1], second[1]))
    excess = other.excess - on.excess
    assert equal + excess[1] == pytest.approx(shines[1] - shines[0], abs=0.02)
    # Stars of no age at all: as light as others, and no further than three errors away.
    off = light.at(5400.0, 1.0, 0.0)
    np.testing.assert_allclose(off.log_density, -4.5, atol=0.01)
    # The middle of two [Fe/H] is the mean of their isochrones; beyond the last it stays.
    middle = 0.5 * (light.teff[:, 2] + light.teff[:, 3])
    g = 0.5 * (light.log_g[:, 2] + light.log_g[:, 3])
    assert np.all(light.at(middle[1], g[1], 0.125).log_density[:, 1] > -0.7)
    ends = [light.at(4500.0, 2.0, feh).log_density for feh in (0.5, 0.9)]
    np.testing.assert_array_equal(*ends)
    assert light.key == one_age().key != replace(light, teff_error=50.0).key


def test_isochrones_that_do_not_serve_are_refused() -> None:
    cannon, found = small_cannon(), list(packaged_isochrones())
    dark = [replace(one, log_L=None) for one in found]
    with pytest.raises(InvalidDataError, match=r"has no brightness: .* 2MASS_H .* or log_L"):
        light_on_isochrones(IsochroneSet(tuple(dark)), cannon)
    old = [replace(one, log10_age=9.8 if one.feh else 9.0) for one in found]
    with pytest.raises(InvalidDataError, match=r"no age between 0.5 and 14 Gyr .* same ages"):
        light_on_isochrones(IsochroneSet(tuple(old)), cannon)
    some = [replace(one, eep=one.eep + 300 * (one.feh > 0)) for one in found]
    with pytest.raises(InvalidDataError, match="share 0 evolutionary points"):
        light_on_isochrones(IsochroneSet(tuple(some)), cannon)
    rich = IsochroneSet((found[-1],))
    with pytest.raises(InvalidDataError, match=r"of 120 training stars lie within two errors"):
        light_on_isochrones(rich, cannon)
    with pytest.warns(BayesCannonWarning, match=r"of 120 training stars .*\[Fe/H\] 0.00 to 0.50"):
        light_on_isochrones(IsochroneSet(tuple(one for one in found if one.feh > -0.2)), cannon)
    labels = cannon.basis.names
    basis = replace(cannon.basis, names=(*labels[:2], "MG_H"))
    with pytest.raises(InvalidDataError, match=r"no label FE_H or M_H .* tie it to Teff"):
        light_labels(basis.names, metal=True)


def test_magnitudes_are_preferred_to_luminosities() -> None:
    found = [
        replace(one, H=np.where(one.log_g > 1, 1.0 - 2.5 * one.log_L + 0.3 * one.log_g, np.nan))
        for one in packaged_isochrones()
    ]
    light = light_on_isochrones(IsochroneSet(tuple(found)), small_cannon())
    assert light.band == "2MASS H"
    assert light.log_g.min() > 0.9
    np.testing.assert_array_less(0.0, np.diff(light.feh))


def test_models_that_cannot_be_added_are_refused() -> None:
    cannon = second_cannon()
    shifted = replace(cannon, wavelength=cannon.wavelength * 1.001)
    with pytest.raises(InvalidDataError, match="second model has other wavelengths"):
        TwoStarModel.from_cannon(small_cannon(), second=shifted, **GIVEN)
    basis = replace(cannon.basis, names=("TEFF", "LOGG", "M_H"))
    training = cannon.training
    other = replace(cannon, basis=basis, training=replace(training, names=basis.names))
    with pytest.raises(InvalidDataError, match="second model has other labels"):
        TwoStarModel.from_cannon(small_cannon(), second=other, **GIVEN)
    dr17, dr19 = ({"dataset": {"reduction": name}} for name in ("dr17", "1.3"))
    with pytest.raises(InvalidDataError, match="second model has other reductions"):
        TwoStarModel.from_cannon(
            replace(small_cannon(), settings=dr17), second=replace(cannon, settings=dr19), **GIVEN
        )
    made = {"dataset": {"continuum_degree": 3}}
    with pytest.raises(InvalidDataError, match="second model has other continua"):
        TwoStarModel.from_cannon(small_cannon(), second=replace(cannon, settings=made), **GIVEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"light": "fixed"}, "'free', 'tied' or 'isochrone'"),
        ({"light_scatter": 0.0}, "light_scatter"),
        ({"light": "isochrone"}, "belong together"),
    ],
)
def test_impossible_settings_of_the_light_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        BinarySettings(**changes)
