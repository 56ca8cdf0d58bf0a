"""Small trained models in closed form, drawn from the training model's own priors."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bayes_cannon.base.packing import pack
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.noise.independent_pixels import IndependentPixels
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra

NAMES = ("TEFF", "LOGG", "FE_H")
UNITS = ("K", "dex", "dex")
CENTER, SCALE = np.array([4700.0, 2.5, -0.2]), np.array([300.0, 0.6, 0.3])
GIANTS = Path(__file__).parents[1] / "data" / "giants.npz"
WINDOWS = ((246, 3274), (3585, 6080), (6344, 8335))


@dataclass(frozen=True, eq=False)
class TrainedStandIn:
    """What inference needs of a trained model."""

    basis: PolynomialBasis
    wavelength: np.ndarray
    theta: np.ndarray
    loadings: np.ndarray
    coef_cov: np.ndarray
    scatter: np.ndarray
    used: np.ndarray
    training: Labels
    model_error: None = None
    simulated: bool = True
    medium: str = "vacuum"
    settings: dict = field(default_factory=dict)
    known_terms: None = None

    @property
    def independent_pixels(self) -> IndependentPixels:
        """All of them."""
        chip = np.zeros(self.wavelength.size, dtype=np.int64)
        return IndependentPixels(np.ones(1), np.ones(1), chip, self.scatter**2)


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained model, and spectra of new stars with their true labels."""

    cannon: TrainedStandIn
    spectra: NormalizedSpectra
    labels: np.ndarray
    factors: np.ndarray


def stand_in_labels(names, values):
    """Labels of the training stars, without errors."""
    ids = np.array([f"training{i}" for i in range(len(values))])
    return Labels(names, values, np.full(values.shape, np.nan), ids)


def make_problem(
    *, n_pixels=200, n_factors=2, n_train=100, n_stars=10, degree=2, snr=100.0, scatter=0.005,
    tau=0.02, seed=1,
):  # fmt: skip
    """Train on stars drawn from the model with known hyperparameters, labels and factors."""
    rng = np.random.default_rng(seed)
    basis = PolynomialBasis(NAMES, UNITS, CENTER, SCALE, degree)
    n_terms = basis.n_terms
    prior = np.zeros(n_terms + n_factors)
    prior[0] = 1.0
    truth = prior + tau * rng.standard_normal((n_pixels, n_terms + n_factors))
    sigma = np.hypot(1 / snr, scatter)

    def observe(n):
        ell, z = rng.standard_normal((n, 3)), rng.standard_normal((n, n_factors))
        x = np.concatenate([basis.features(ell), z], axis=1)
        return ell, z, x, x @ truth.T + sigma * rng.standard_normal((n, n_pixels))

    trained, _, x, flux = observe(n_train)
    cov = np.linalg.inv(x.T @ x / sigma**2 + np.eye(x.shape[1]) / tau**2)
    coef = (cov @ (x.T @ flux / sigma**2 + prior[:, None] / tau**2)).T
    wavelength = 15000.0 + np.arange(n_pixels)
    cannon = TrainedStandIn(
        basis, wavelength, coef[:, :n_terms], coef[:, n_terms:],
        np.broadcast_to(pack(cov), (n_pixels, pack(cov).size)).astype(np.float32),
        np.full(n_pixels, scatter), np.ones(n_pixels, dtype=bool),
        stand_in_labels(NAMES, basis.unstandardize(trained)),
    )  # fmt: skip
    ell, z, _, flux = observe(n_stars)
    ids = np.array([f"star{i}" for i in range(n_stars)])
    ivar = np.full(flux.shape, snr**2)
    spectra = NormalizedSpectra(ids, wavelength, flux, ivar)
    return Problem(cannon, spectra, basis.unstandardize(ell), z)


def giants_problem(*, n_factors=0, n_train=268, snr=150.0, seed=1):
    """The shipped giants on 7514 pixels, five labels, trained by least squares."""
    rng = np.random.default_rng(seed)
    pixels = np.concatenate([np.arange(*window) for window in WINDOWS])
    with np.load(GIANTS) as file:
        flux = file["flux"][:, pixels] * float(file["flux_scale"])
        names = ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE")
        labels = np.stack([file[name] for name in names], axis=1)
    order = rng.permutation(len(flux))
    train, test = order[:n_train], order[n_train:]
    units = ("K", "dex", "dex", "dex", "dex")
    basis = PolynomialBasis(names, units, labels[train].mean(0), labels[train].std(0))
    x = basis(labels[train])
    noisy = flux[train] + rng.standard_normal(flux[train].shape) / snr
    coef = np.linalg.lstsq(x, noisy, rcond=None)[0]
    if n_factors:
        left, _, _ = np.linalg.svd(noisy - x @ coef, full_matrices=False)
        z = left[:, :n_factors] * np.sqrt(n_train)
        x = np.concatenate([x, z], axis=1)
        coef = np.linalg.lstsq(x, noisy, rcond=None)[0]
    variance = np.sum((noisy - x @ coef) ** 2, axis=0) / (n_train - x.shape[1])
    scatter2 = np.maximum(variance - snr**-2, 1e-6)
    cov = pack(np.linalg.inv(x.T @ x)) * (scatter2 + snr**-2)[:, None]
    wavelength = 10 ** (4.179 + 6e-6 * pixels)
    cannon = TrainedStandIn(
        basis, wavelength, coef[: basis.n_terms].T, coef[basis.n_terms :].T,
        cov.astype(np.float32), np.sqrt(scatter2), np.ones(pixels.size, dtype=bool),
        stand_in_labels(names, labels[train]),
    )  # fmt: skip
    observed = flux[test] + rng.standard_normal(flux[test].shape) / snr
    ids = np.array([f"giant{i}" for i in test])
    spectra = NormalizedSpectra(ids, wavelength, observed, np.full(observed.shape, snr**2))
    return Problem(cannon, spectra, labels[test], np.zeros((len(test), n_factors)))
