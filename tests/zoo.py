"""Small surveys, each odd in one way: what other people's data may be like.

Spectra come from a little world of its own, not from the package's simulator: Gaussian lines on
three chips, of optical depths that are nonlinear in three labels and in three hidden abundances
that move several lines each. `take` brings a survey through arrays, training and inference;
`faults` says what is wrong with the outcome.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bayes_cannon.analysis.calibration import coverage
from bayes_cannon.errors import BayesCannonError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.posterior import group_of, moments_of, posterior_names
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.label_priors import LabelPrior
from bayes_cannon.spectra.arrays import spectra_from_arrays, training_set_from_arrays
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.training.pipeline import train

__all__ = ["ZOO", "Animal", "Outcome", "Survey", "faults", "take"]

NAMES = ("TEFF", "LOGG", "FE_H")
CENTER, SCALE = np.array([4700.0, 2.4, -0.2]), np.array([300.0, 0.6, 0.3])
LABEL_ERRORS = np.array([15.0, 0.03, 0.01])
WIDE = {
    name: LabelPrior.uniform(mean - 6 * sd, mean + 6 * sd)
    for name, mean, sd in zip(NAMES, CENTER, SCALE, strict=True)
}
"""Priors of animals that are sampled: the label model is compiled once for all of them."""
MANY = 40
"""Test stars from which a coverage is judged."""
FEW = 10
"""Test stars up to which the spread of the training labels is what their rms is held against."""
N_CHIP = 110
CHIPS = ((15150.0, 15185.0), (15900.0, 15937.0), (16500.0, 16540.0))
STEP = 1.4e-5
"""Step of the grid in ln(wavelength): 4.2 km/s, as APOGEE's."""


def _wavelengths() -> np.ndarray:
    return np.concatenate([low * np.exp(STEP * np.arange(N_CHIP)) for low, _ in CHIPS])


@dataclass(frozen=True, eq=False)
class World:
    """Lines and how their strengths depend on labels and hidden abundances."""

    pixel: np.ndarray
    chip: np.ndarray
    strength: np.ndarray
    slopes: np.ndarray
    hidden: np.ndarray

    @classmethod
    def make(cls, seed: int = 1) -> World:
        rng = np.random.default_rng(seed)
        n = 45
        slopes = np.stack(
            [rng.normal(-0.25, 0.25, n), rng.normal(0.0, 0.2, n), rng.uniform(0.1, 0.6, n)], 1
        )
        slopes = np.concatenate([slopes, rng.normal(0, 0.08, (n, 2))], 1)
        hidden = np.where(rng.random((n, 3)) < 0.3, rng.uniform(0.1, 0.5, (n, 3)), 0.0)
        return cls(
            rng.uniform(2, N_CHIP - 2, n), np.arange(n) % 3, np.exp(rng.normal(-1.2, 0.7, n)),
            slopes, hidden,
        )  # fmt: skip

    def spectra(self, ell: np.ndarray, hidden: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Flux (n_stars, n_pixels) at standardised labels, shifted by so many pixels."""
        t, g, f = ell.T
        terms = np.stack([t, g, f, t**2 - 1, t * f], axis=1)
        depth = self.strength * np.exp(terms @ self.slopes.T + hidden @ self.hidden.T)
        tau = np.zeros((len(ell), 3, N_CHIP))
        for i, (pixel, chip) in enumerate(zip(self.pixel, self.chip, strict=True)):
            off = np.arange(N_CHIP) - pixel - shift[:, None]
            tau[:, chip] += depth[:, i, None] * np.exp(-0.5 * (off / 1.7) ** 2)
        # The curve of growth bends: lines saturate at 0.2 of the continuum.
        return np.asarray(1 - 0.8 * (1 - np.exp(-tau / 0.8))).reshape(len(ell), -1)


@dataclass(frozen=True, eq=False)
class Survey:
    """Training and test stars as a user has them.

    Attributes
    ----------
    wavelength : (n_pixels,)
    flux, ivar : (n_stars, n_pixels)
        Training stars; `error` in place of `ivar` where that is None.
    labels : mapping of str to (n_stars,)
    label_errors : mapping or None
    test_flux, test_ivar : (n_test, n_pixels)
    truth : mapping of str to (n_test,)
        True labels of the test stars.
    judged : (n_test,) bool or None
        Test stars whose labels are judged; None: all.
    continuum : ContinuumSettings or None
    missing : bool
        Whether labels are missing.
    priors : mapping or None
    star_id : of the training stars, or None
    """

    wavelength: Any
    flux: Any
    ivar: Any
    labels: Mapping[str, Any]
    label_errors: Mapping[str, Any] | None
    test_flux: Any
    test_ivar: Any
    truth: Mapping[str, np.ndarray]
    judged: np.ndarray | None = None
    continuum: ContinuumSettings | None = None
    missing: bool = False
    priors: Mapping[str, LabelPrior] | None = None


@dataclass(frozen=True, eq=False)
class Draw:
    """What stars are before anybody observes them, for the animals to bend."""

    rng: np.random.Generator
    ell: np.ndarray
    hidden: np.ndarray
    clean: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return CENTER + SCALE * self.ell


def draw(
    n: int, rng: np.random.Generator, *, ell: np.ndarray | None = None, shift_kms: float = 0.0
) -> Draw:
    """Draw `n` giants: Teff and log g correlate at 0.8."""
    if ell is None:
        t, a, f = rng.uniform(-1.6, 1.6, (3, n))
        ell = np.stack([t, 0.8 * t + 0.6 * a, f], axis=1)
    hidden = rng.normal(0, 0.25, (n, 3))
    shift = rng.normal(0, shift_kms / 4.2, n)
    return Draw(rng, ell, hidden, World.make().spectra(ell, hidden, shift))


def observe(
    stars: Draw, *, snr: Any = 150.0, error_scale: float = 1.0, kernel: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance; the noise may be convolved, its quoted error be wrong."""
    sigma = np.broadcast_to(1 / np.atleast_1d(snr)[:, None], stars.clean.shape)
    noise = stars.rng.standard_normal(stars.clean.shape)
    if kernel is not None:
        kernel = np.asarray(kernel) / np.linalg.norm(kernel)
        noise = np.array([np.convolve(row, kernel, mode="same") for row in noise])
    return stars.clean + sigma * noise, 1 / (error_scale * sigma) ** 2


def survey(
    n: int = 100, n_test: int = 60, *, seed: int = 1, ell: Any = None, test_ell: Any = None,
    shift_kms: float = 0.0, test_snr: Any = None, label_errors: Any = LABEL_ERRORS,
    **options: Any,
) -> Survey:  # fmt: skip
    """Return the plain survey, or one with options of `draw` and `observe`."""
    rng = np.random.default_rng(seed)
    ell = ell(rng, n) if callable(ell) else ell
    test_ell = test_ell(rng, n_test) if callable(test_ell) else test_ell
    stars = draw(n, rng, ell=ell, shift_kms=shift_kms)
    test = draw(n_test, rng, ell=test_ell, shift_kms=shift_kms)
    snr = options.pop("snr", None)

    def brightness(count: int) -> Any:
        if snr is None:
            return np.clip(150 * np.exp(0.4 * rng.standard_normal(count)), 50, 500)
        return snr(rng, count) if callable(snr) else snr

    flux, ivar = observe(stars, snr=brightness(n), **options)
    test_brightness = brightness(n_test) if test_snr is None else test_snr
    test_flux, test_ivar = observe(test, snr=test_brightness, **options)
    seen = stars.labels + label_errors * rng.standard_normal((n, 3))
    return Survey(
        _wavelengths(), flux, ivar,
        dict(zip(NAMES, seen.T, strict=True)), dict(zip(NAMES, label_errors, strict=True)),
        test_flux, test_ivar, dict(zip(NAMES, test.labels.T, strict=True)),
    )  # fmt: skip


@dataclass(frozen=True)
class Animal:
    """A survey, and what may be asked of it.

    Attributes
    ----------
    name : str
    make : function of no argument that returns a `Survey`
    refused : str
        Pattern of the error's message where refusal is right; empty: it must train.
    told : str
        Pattern of a warning that must be given; empty: none asked for.
    uninformed : tuple of str
        Labels that the spectra do not tell: their errors need only be honest.
    worst : float
        What the rms error may be of that of predicting the training mean.
    cover : tuple of float
        Range in which calibrated 68 % intervals must hold the truth, on average over labels.
    without_posterior : tuple of int
        Rows of test stars that can have no posterior, and must be flagged.
    calibrated : bool
        Whether there are stars enough to learn the model error.
    method : "laplace" or "nuts"
        Of the inference.
    n_factors : int
        Where none are asked for.
    """

    name: str
    make: Callable[[], Survey]
    refused: str = ""
    told: str = ""
    uninformed: tuple[str, ...] = ()
    worst: float = 0.5
    cover: tuple[float, float] = (0.40, 0.95)
    without_posterior: tuple[int, ...] = ()
    calibrated: bool = True
    method: str = "laplace"
    n_factors: int = 5


ZOO: dict[str, Animal] = {}


def animal(**options: Any) -> Callable[[Callable[[], Survey]], Callable[[], Survey]]:
    """Register the function that follows as an animal of its name."""

    def register(make: Callable[[], Survey]) -> Callable[[], Survey]:
        name = make.__name__.strip("_").replace("_", " ")
        ZOO[name] = Animal(name, make, **options)
        return make

    return register


# Pixels ---------------------------------------------------------------------------------------


def _masked(found: Survey, good: np.ndarray, test_good: np.ndarray | None = None) -> Survey:
    """Set the inverse variance to 0 where pixels are bad: in all stars, or in each its own."""
    test_good = good if test_good is None else test_good
    return replace(
        found,
        ivar=np.where(good, found.ivar, 0.0),
        test_ivar=np.where(test_good, found.test_ivar, 0.0),
    )


@animal(method="nuts")
def plain() -> Survey:
    return survey()


@animal(told="17 of 330 pixels")
def dead_pixels() -> Survey:
    good = np.random.default_rng(3).random(3 * N_CHIP) > 0.06
    return _masked(survey(), good)


@animal(told="110 of 330 pixels")
def dead_chip() -> Survey:
    good = np.ones(3 * N_CHIP, dtype=bool)
    good[N_CHIP : 2 * N_CHIP] = False
    return _masked(survey(), good)


@animal()
def dead_in_training_only() -> Survey:
    good = np.random.default_rng(3).random(3 * N_CHIP) > 0.1
    return _masked(survey(), good, np.ones_like(good))


@animal(told="30 of 330 pixels")
def pixels_good_in_one_star() -> Survey:
    good = np.ones((100, 3 * N_CHIP), dtype=bool)
    good[1:, ::11] = False
    return _masked(survey(), good, np.ones(3 * N_CHIP, dtype=bool))


@animal()
def pixels_good_in_few_stars() -> Survey:
    good = np.ones((100, 3 * N_CHIP), dtype=bool)
    for count, first in ((2, 0), (4, 1), (8, 2), (15, 3)):
        good[count:, first::11] = False
    return _masked(survey(), good, np.ones(3 * N_CHIP, dtype=bool))


@animal()
def sixty_percent_bad() -> Survey:
    rng = np.random.default_rng(3)
    return _masked(
        survey(), rng.random((100, 3 * N_CHIP)) > 0.6, rng.random((60, 3 * N_CHIP)) > 0.6
    )


@animal()
def one_enormous_pixel() -> Survey:
    found = survey()
    ivar, test = found.ivar.copy(), found.test_ivar.copy()
    ivar[:, 100], test[:, 100] = 1e16, 1e16
    return replace(found, ivar=ivar, test_ivar=test)


@animal()
def nan_where_bad() -> Survey:
    rng = np.random.default_rng(3)
    found = survey()
    good, test_good = rng.random(found.flux.shape) > 0.1, rng.random(found.test_flux.shape) > 0.1
    found = _masked(found, good, test_good)
    return replace(
        found,
        flux=np.where(good, found.flux, np.nan),
        test_flux=np.where(test_good, found.test_flux, np.nan),
    )


@animal()
def infinite_where_bad() -> Survey:
    found = nan_where_bad()
    return replace(
        found,
        flux=np.where(np.isnan(found.flux), np.inf, found.flux),
        test_flux=np.where(np.isnan(found.test_flux), -np.inf, found.test_flux),
    )


@animal()
def masked_arrays() -> Survey:
    rng = np.random.default_rng(3)
    found = survey()
    bad, test_bad = rng.random(found.flux.shape) < 0.05, rng.random(found.test_flux.shape) < 0.05
    return replace(
        found,
        flux=np.ma.array(np.where(bad, 30.0, found.flux), mask=bad),
        test_flux=np.ma.array(np.where(test_bad, 30.0, found.test_flux), mask=test_bad),
    )


@animal()
def float32_inputs() -> Survey:
    return _as_type(survey(), np.dtype(np.float32))


@animal()
def big_endian() -> Survey:
    return _as_type(survey(), np.dtype(">f8"))


def _as_type(found: Survey, kind: np.dtype[Any]) -> Survey:
    return replace(
        found,
        wavelength=found.wavelength.astype(np.dtype(kind).newbyteorder(kind.byteorder))
        if kind.itemsize == 8 else found.wavelength,
        labels={n: v.astype(kind) for n, v in found.labels.items()},
        **{n: getattr(found, n).astype(kind) for n in ("flux", "ivar", "test_flux", "test_ivar")},
    )  # fmt: skip


@animal()
def sixty_pixels() -> Survey:
    return _columns(survey(), np.arange(20, 80))


@animal()
def twelve_pixels() -> Survey:
    return _columns(survey(), np.arange(20, 110, 8))


def _columns(found: Survey, columns: np.ndarray) -> Survey:
    return replace(
        found,
        wavelength=found.wavelength[columns],
        **{n: getattr(found, n)[:, columns] for n in ("flux", "ivar", "test_flux", "test_ivar")},
    )


@animal(refused="increase from pixel to pixel")
def descending_wavelengths() -> Survey:
    return _columns(survey(), np.arange(3 * N_CHIP)[::-1])


@animal()
def uneven_grid() -> Survey:
    keep = np.random.default_rng(3).random(3 * N_CHIP) < 0.6
    return _columns(survey(), np.flatnonzero(keep))


@animal()
def correlated_to_unity() -> Survey:
    """343 pixels whose residuals correlate at 0.999 with their neighbours'."""
    rng = np.random.default_rng(1)
    wavelength = np.linspace(3360.0, 10200.0, 343)
    x = np.linspace(-1, 1, 343)
    waves = np.array([np.cos(np.pi * j * (x + 1) / 2) for j in range(12)])
    weights = rng.normal(size=(9, 12)) * 0.3

    def make(n: int) -> tuple[np.ndarray, np.ndarray]:
        t, g, f = rng.uniform(-1.6, 1.6, (3, n))
        ell = np.stack([t, 0.8 * t + 0.6 * g, f], axis=1)
        terms = np.concatenate(
            [ell, ell**2 - 1, np.tanh(ell[:, :1] * ell[:, 2:]), rng.normal(size=(n, 2))], 1
        )
        smooth = np.exp(terms @ weights) @ waves * 0.1
        noise = np.array(
            [np.convolve(row, np.exp(-0.5 * (np.arange(-60, 61) / 16) ** 2), "same") for row in
             rng.standard_normal((n, 343))]
        )  # fmt: skip
        return ell, 1 + smooth + 0.004 * noise / noise.std() + 1e-5 * rng.standard_normal((n, 343))

    ell, flux = make(100)
    test_ell, test_flux = make(60)
    seen = CENTER + SCALE * ell + LABEL_ERRORS * rng.standard_normal(ell.shape)
    truth = CENTER + SCALE * test_ell
    return Survey(
        wavelength, flux, np.full(flux.shape, 200.0**2), dict(zip(NAMES, seen.T, strict=True)),
        dict(zip(NAMES, LABEL_ERRORS, strict=True)), test_flux,
        np.full(test_flux.shape, 200.0**2), dict(zip(NAMES, truth.T, strict=True)),
    )  # fmt: skip


# Stars ----------------------------------------------------------------------------------------


@animal(refused="too few", calibrated=False)
def two_stars() -> Survey:
    return survey(2)


@animal(n_factors=2)
def twelve_stars() -> Survey:
    return survey(12)


@animal()
def forty_stars() -> Survey:
    return survey(40)


@animal()
def three_thousand_stars() -> Survey:
    return _columns(survey(3000), np.arange(N_CHIP))


@animal()
def twenty_test_stars() -> Survey:
    return survey(n_test=20)


@animal()
def one_test_star() -> Survey:
    return survey(n_test=1)


@animal(told="50 of 100 training stars .* exactly the spectrum")
def identical_stars_twice() -> Survey:
    found = survey(50)
    return replace(
        found,
        flux=np.repeat(found.flux, 2, axis=0),
        ivar=np.repeat(found.ivar, 2, axis=0),
        labels={n: np.repeat(v, 2) for n, v in found.labels.items()},
    )


@animal(without_posterior=(3,))
def star_without_pixels() -> Survey:
    found = survey()
    ivar = found.test_ivar.copy()
    ivar[3] = 0
    return replace(found, test_ivar=ivar)


@animal(without_posterior=(0, 1, 2, 3, 4))
def stars_with_five_pixels() -> Survey:
    found = survey()
    ivar = found.test_ivar.copy()
    ivar[:5, 5:] = 0
    judged = np.arange(len(ivar)) >= 5
    return replace(found, test_ivar=ivar, judged=judged)


@animal(method="nuts")
def stars_far_outside() -> Survey:
    def ell(rng: np.random.Generator, n: int) -> np.ndarray:
        t, a, f = rng.uniform(-1.6, 1.6, (3, n))
        out = np.stack([t, 0.8 * t + 0.6 * a, f], axis=1)
        out[:10] += 3.0
        return out

    found = survey(test_ell=ell)
    return replace(found, judged=np.arange(60) >= 10)


@animal()
def one_brilliant_star() -> Survey:
    found = survey()
    ivar = found.ivar.copy()
    ivar[7] = 1e5**2
    return replace(found, ivar=ivar)


@animal()
def one_wild_star() -> Survey:
    found = survey()
    labels = {n: v.copy() for n, v in found.labels.items()}
    for name, step in (("TEFF", 3000.0), ("LOGG", -5.0), ("FE_H", 1.9)):
        labels[name][7] += step
    return replace(found, labels=labels)


# Noise ----------------------------------------------------------------------------------------


@animal()
def equal_noise() -> Survey:
    return survey(snr=100.0)


@animal()
def noise_of_all_sizes() -> Survey:
    return survey(snr=lambda rng, n: 10 ** rng.uniform(1, np.log10(2000), n))


@animal()
def errors_too_small() -> Survey:
    return survey(error_scale=1 / 3)


@animal()
def errors_too_large() -> Survey:
    return survey(error_scale=3.0)


@animal()
def correlated_noise() -> Survey:
    return survey(kernel=(0.3, 1.0, 0.3))


@animal()
def rest_frame_errors() -> Survey:
    return survey(shift_kms=0.5)


@animal()
def training_brighter() -> Survey:
    return survey(snr=300.0, test_snr=30.0)


@animal()
def training_fainter() -> Survey:
    return survey(snr=30.0, test_snr=300.0)


# Flux -----------------------------------------------------------------------------------------


@animal(refused="only 1 different spectrum of 100")
def constant_flux() -> Survey:
    found = survey()
    return replace(found, flux=np.ones_like(found.flux), test_flux=np.ones_like(found.test_flux))


@animal(uninformed=NAMES, told="say little about TEFF, LOGG, FE_H")
def noise_alone() -> Survey:
    found = survey()
    rng = np.random.default_rng(5)
    return replace(
        found,
        flux=1 + rng.standard_normal(found.flux.shape) / np.sqrt(found.ivar),
        test_flux=1 + rng.standard_normal(found.test_flux.shape) / np.sqrt(found.test_ivar),
    )


@animal(refused="not normalised")
def physical_flux_without_continuum() -> Survey:
    return _physical(survey())


@animal()
def physical_flux() -> Survey:
    return replace(_physical(survey()), continuum=ContinuumSettings(pixels=_far_from_lines()))


def _physical(found: Survey) -> Survey:
    return replace(
        found,
        flux=found.flux * 1e-17,
        ivar=found.ivar * 1e34,
        test_flux=found.test_flux * 1e-17,
        test_ivar=found.test_ivar * 1e34,
    )


def _far_from_lines() -> tuple[float, ...]:
    world = World.make()
    mean = world.spectra(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1))[0]
    return tuple(_wavelengths()[mean > 0.98].tolist())


# Labels ---------------------------------------------------------------------------------------


@animal(uninformed=("FE_H",), told="say little about FE_H")
def one_cluster() -> Survey:
    def ell(rng: np.random.Generator, n: int) -> np.ndarray:
        t, a = rng.uniform(-1.6, 1.6, (2, n))
        return np.stack([t, 0.8 * t + 0.6 * a, 0.3 + rng.normal(0, 0.002 / 0.3, n)], axis=1)

    return survey(ell=ell, test_ell=ell, label_errors=(15.0, 0.03, 0.0002))


@animal()
def two_clusters() -> Survey:
    def ell(rng: np.random.Generator, n: int) -> np.ndarray:
        t, a = rng.uniform(-1.6, 1.6, (2, n))
        feh = np.where(np.arange(n) % 2, 1.2, -1.2) + rng.normal(0, 0.05, n)
        return np.stack([t, 0.8 * t + 0.6 * a, feh], axis=1)

    return survey(ell=ell, test_ell=ell)


@animal(uninformed=("FE_H",), told="in FE_H .* is error of the labels")
def one_cluster_with_honest_errors() -> Survey:
    """As `one_cluster`, and the catalogue's [Fe/H] scatters by its error, five times the spread."""
    found = one_cluster()
    noise = np.random.default_rng(10).normal(0, 0.01, 100)
    errors = dict(found.label_errors or {}) | {"FE_H": 0.01}
    labels = dict(found.labels) | {"FE_H": found.labels["FE_H"] + noise}
    return replace(found, labels=labels, label_errors=errors)


@animal(uninformed=("FE_H",), told="in FE_H .* is error of the labels")
def one_cluster_with_errors_too_large() -> Survey:
    """As `one_cluster`, with [Fe/H] errors of five times the scatter that there is."""
    found = one_cluster()
    return replace(found, label_errors=dict(found.label_errors or {}) | {"FE_H": 0.01})


@animal()
def one_label() -> Survey:
    return _only(survey(), ("FE_H",))


def _only(found: Survey, names: tuple[str, ...]) -> Survey:
    errors = found.label_errors or {}
    return replace(
        found,
        labels={n: found.labels[n] for n in names},
        label_errors={n: errors[n] for n in names},
        truth={n: found.truth[n] for n in names},
    )


@animal()
def eight_labels() -> Survey:
    """The three labels, three abundances, and two that are noise around functions of them."""
    rng = np.random.default_rng(1)
    world = World.make()

    def make(n: int) -> tuple[np.ndarray, np.ndarray]:
        stars = draw(n, rng)
        hidden = stars.hidden
        more = np.stack([0.2 * rng.standard_normal(n), 0.2 * rng.standard_normal(n)], axis=1)
        lines = 0.15 * (world.slopes[:, 3:5] > 0)
        shifted = np.concatenate([hidden, more], axis=1)
        wide = replace(world, hidden=np.concatenate([world.hidden, 2 * lines], axis=1))
        clean = wide.spectra(stars.ell, shifted, np.zeros(n))
        flux = clean + rng.standard_normal(clean.shape) / 150
        return np.concatenate([stars.labels, shifted], axis=1), flux

    names = (*NAMES, "MG_FE", "SI_FE", "CA_FE", "AL_FE", "MN_FE")
    values, flux = make(100)
    truth, test_flux = make(60)
    errors = np.array([*LABEL_ERRORS, *[0.02] * 5])
    seen = values + errors * rng.standard_normal(values.shape)
    return Survey(
        _wavelengths(), flux, np.full(flux.shape, 150.0**2), dict(zip(names, seen.T, strict=True)),
        dict(zip(names, errors, strict=True)), test_flux, np.full(test_flux.shape, 150.0**2),
        dict(zip(names, truth.T, strict=True)),
    )  # fmt: skip


@animal()
def label_errors_absent() -> Survey:
    return replace(survey(), label_errors=None)


@animal(refused="not positive")
def label_errors_zero() -> Survey:
    return replace(survey(), label_errors=dict.fromkeys(NAMES, 0.0))


@animal(refused="errors of TEFF .* far larger than the values")
def label_errors_huge() -> Survey:
    """Quoted ten times the labels' range, though the labels are as good as ever."""
    return replace(
        survey(), label_errors={n: 10 * s for n, s in zip(NAMES, 3 * SCALE, strict=True)}
    )


@animal()
def label_errors_tiny() -> Survey:
    return replace(survey(), label_errors={n: 1e-9 * s for n, s in zip(NAMES, SCALE, strict=True)})


@animal()
def missing_labels() -> Survey:
    found = survey(150)
    feh = found.labels["FE_H"].copy()
    feh[::3] = np.nan
    return replace(found, labels={**found.labels, "FE_H": feh}, missing=True)


@animal(calibrated=False, worst=0.7, told="0 training stars with all labels are too few")
def no_star_has_all_labels() -> Survey:
    found = survey()
    labels = {n: v.copy() for n, v in found.labels.items()}
    for i, name in enumerate(NAMES):
        labels[name][i::3] = np.nan
    return replace(found, labels=labels, missing=True)


@animal()
def huge_offset() -> Survey:
    """An age in years, around 5e9, in place of [Fe/H]."""
    return _renamed(survey(), lambda v: 5e9 + 3e9 * (v - CENTER[2]), 3e9)


@animal()
def tiny_scale() -> Survey:
    """A label of the order of 1e-9 in place of [Fe/H]."""
    return _renamed(survey(), lambda v: 5e-9 + 3e-9 * (v - CENTER[2]), 3e-9)


def _renamed(found: Survey, scale: Callable[[np.ndarray], np.ndarray], unit: float) -> Survey:
    def swap(values: Mapping[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in values.items() if n != "FE_H"} | {"AGE": scale(values["FE_H"])}

    errors = dict(found.label_errors or {})
    errors["AGE"] = unit * errors.pop("FE_H")
    return replace(
        found, labels=swap(found.labels), label_errors=errors, truth=swap(found.truth),
        priors={"AGE": LabelPrior.uniform(*sorted((scale(np.array(-2.0)), scale(np.array(2.0)))))},
    )  # fmt: skip


# Taking them through --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a survey.

    Attributes
    ----------
    error : BayesCannonError or None
        If it was refused.
    n_factors : int
        That were used.
    names : tuple of str
    ratio : (n_labels,)
        rms error of the judged stars over that of predicting the training mean.
    pull : (n_labels,)
        rms of posterior mean minus truth in posterior standard deviations.
    formal, calibrated : (n_labels,)
        Part of the true labels in the 68 % intervals; NaN without a calibrated posterior.
    n_judged : int
    unknown : tuple of int
        Rows of test stars without a posterior.
    flags : (n_test,)
    told : tuple of str
        Warnings, of the log too.
    seconds : float
    """

    error: BayesCannonError | None = None
    n_factors: int = -1
    names: tuple[str, ...] = ()
    ratio: np.ndarray = field(default_factory=lambda: np.array([]))
    pull: np.ndarray = field(default_factory=lambda: np.array([]))
    formal: np.ndarray = field(default_factory=lambda: np.array([]))
    calibrated: np.ndarray = field(default_factory=lambda: np.array([]))
    n_judged: int = 0
    unknown: tuple[int, ...] = ()
    flags: np.ndarray = field(default_factory=lambda: np.array([], dtype=int))
    told: tuple[str, ...] = ()
    seconds: float = 0.0


class _Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def take(one: Animal, *, n_factors: Any = None, method: str | None = None) -> Outcome:
    """Take a survey through arrays, training and inference, by default as the animal says."""
    n_factors = one.n_factors if n_factors is None else n_factors
    start, told = time.perf_counter(), _Told()
    logger = logging.getLogger("bayes_cannon")
    logger.addHandler(told)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("error", category=RuntimeWarning, module=r"bayes_cannon\.")
            try:
                outcome = _through(one, n_factors, method or one.method)
            except BayesCannonError as error:
                outcome = Outcome(error=error)
    finally:
        logger.removeHandler(told)
    words = [*(str(w.message) for w in caught), *told.messages]
    return replace(outcome, told=tuple(words), seconds=time.perf_counter() - start)


def _through(one: Animal, n_factors: Any, method: str) -> Outcome:
    found = one.make()
    stars = training_set_from_arrays(
        found.wavelength, found.flux, found.labels, ivar=found.ivar,
        label_errors=found.label_errors, continuum=found.continuum,
        allow_missing_labels=found.missing, chips=_chips(found), simulated=True,
    )  # fmt: skip
    n_test = len(found.test_flux)
    test = spectra_from_arrays(
        found.wavelength, found.test_flux, ivar=found.test_ivar, chips=_chips(found),
        star_id=[f"test-{i}" for i in range(n_test)], continuum=found.continuum, simulated=True,
    )  # fmt: skip
    cannon = train(stars, n_factors=n_factors, seed=1)
    draws = {"draws": 250, "chains": 2} if method == "laplace" else {"draws": 300, "chains": 2}
    settings = InferenceSettings(method=method, n_khat=0, **draws)
    priors = found.priors or (WIDE if method == "nuts" and cannon.names == NAMES else None)
    result = infer_labels(cannon, test, settings=settings, priors=priors, seed=1)
    return _judge(found, stars.labels, result, cannon.n_factors)


def _chips(found: Survey) -> tuple[tuple[float, float], ...]:
    grid = np.asarray(found.wavelength)
    return tuple(c for c in CHIPS if np.sum((grid >= c[0]) & (grid <= c[1])) > 1)


def _judge(found: Survey, training: Labels, result: Any, n_factors: int) -> Outcome:
    names = posterior_names(result)
    has_calibrated = "calibrated_posterior" in result.children
    group = "calibrated_posterior" if has_calibrated else "posterior"
    moments = moments_of(group_of(result, group), names)
    truth = np.stack([found.truth[n] for n in names], axis=1)
    unknown = ~np.isfinite(moments.mean).all(axis=1)
    judged = np.ones(len(truth), bool) if found.judged is None else found.judged
    judged = judged & ~unknown
    off = (moments.mean - truth)[judged]
    mean, spread = np.nanmean(training.values, axis=0), np.nanstd(training.values, axis=0)
    base = np.sqrt(np.mean((truth - mean)[judged] ** 2, axis=0)) if len(off) > FEW else spread
    ids = np.array([f"test-{i}" for i in range(len(truth))])
    missing = np.full(len(names), np.nan)
    if not judged.any():
        return Outcome(
            n_factors=n_factors, names=names, ratio=missing, pull=missing, formal=missing,
            calibrated=missing, unknown=tuple(np.flatnonzero(unknown).tolist()),
            flags=np.asarray(result["star_stats"]["label_flag"].values),
        )  # fmt: skip
    true = Labels(names, truth[judged], np.full(off.shape, np.nan), ids[judged])
    table = coverage(result, true, [0.68])
    covers = {
        kind: np.array(table["COVER_68"][table["KIND"] == kind])
        for kind in ("formal", "calibrated")
    }
    return Outcome(
        n_factors=n_factors, names=names, ratio=np.sqrt(np.mean(off**2, axis=0)) / base,
        pull=np.sqrt(np.mean((off / moments.sd[judged]) ** 2, axis=0)),
        formal=covers["formal"], calibrated=covers["calibrated"] if has_calibrated else missing,
        n_judged=int(judged.sum()), unknown=tuple(np.flatnonzero(unknown).tolist()),
        flags=np.asarray(result["star_stats"]["label_flag"].values),
    )  # fmt: skip


def faults(one: Animal, outcome: Outcome) -> list[str]:
    """What is wrong with an outcome, empty if nothing."""
    if outcome.error is not None or one.refused:
        said = str(outcome.error)
        if one.refused and outcome.error is not None and re.search(one.refused, said):
            return []
        return [f"refused: {said}" if outcome.error else f"not refused ({one.refused!r})"]
    out = []
    if one.told and not any(re.search(one.told, text) for text in outcome.told):
        out.append(f"nobody was told of {one.told!r}: {outcome.told}")
    if not one.uninformed and any("say little about" in text for text in outcome.told):
        out.append(f"falsely told that spectra say little: {outcome.told}")
    if outcome.unknown != one.without_posterior:
        out.append(f"no posterior of test stars {outcome.unknown}, not {one.without_posterior}")
    lost = LabelFlag.NO_PIXELS | LabelFlag.FAILED
    if not all(outcome.flags[i] & lost for i in outcome.unknown):
        out.append(f"no flag of test stars without a posterior: {outcome.flags}")
    for name, ratio, pull in zip(outcome.names, outcome.ratio, outcome.pull, strict=True):
        if name in one.uninformed:
            if not pull < 1.5:
                out.append(f"{name}: off by {pull:.2f} of its own errors")
        elif not ratio < one.worst:
            out.append(f"{name}: rms error {ratio:.2f} of that of the training mean")
    if one.calibrated == np.isnan(outcome.calibrated).any():
        out.append(f"calibrated posterior: {outcome.calibrated}")
    low, high = one.cover
    held = float(np.mean(outcome.calibrated))
    if one.calibrated and outcome.n_judged >= MANY and not low <= held <= high:
        out.append(f"calibrated 68 % intervals hold the truth in {100 * held:.0f} %")
    return out
