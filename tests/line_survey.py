"""Small surveys of twenty lines whose depths follow two labels; trained in a moment."""

import numpy as np

from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.spectra.arrays import spectra_from_arrays, training_set_from_arrays
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

LAPLACE = InferenceSettings(method="laplace", draws=100, chains=2, n_khat=0, cores=1)
PLAIN = TrainingSettings(n_factors=0, folds=0)


class LineSurvey:
    """Stars of TEFF and a second label, uniform in a range, at S/N 100."""

    def __init__(self, name="FE_H", low=-0.8, high=0.3, *, n_pixels=201, error=0.01):
        self.name, self.low, self.high, self.error = name, low, high, error
        self.wavelength = np.linspace(5000.0, 5100.0, n_pixels)
        rng = np.random.default_rng(99)
        self.depths = rng.normal(0, 0.06, (2, 20))
        centers = np.linspace(5004.0, 5096.0, 20)
        self.profiles = np.exp(-0.5 * ((self.wavelength - centers[:, None]) / 0.8) ** 2)

    def stars(self, n, seed):
        """Labels (n, 2), flux and errors (n, n_pixels)."""
        rng = np.random.default_rng(seed)
        values = np.column_stack([rng.uniform(4500, 5500, n), rng.uniform(self.low, self.high, n)])
        ell = (values - [5000, self.low]) / [500, self.high - self.low] - [0, 0.5]
        flux = 1 - (0.25 + ell @ self.depths) @ self.profiles
        errors = np.full(flux.shape, self.error)
        return values, flux + errors * rng.normal(size=flux.shape), errors

    def training_set(self, n=80, seed=1, *, values=None, **options):
        """Stars to train on; `values` stand for their labels."""
        known, flux, error = self.stars(n, seed)
        known = known if values is None else values
        labels = {"TEFF": known[:, 0], self.name: known[:, 1]}
        return training_set_from_arrays(self.wavelength, flux, labels, error=error, **options)

    def new(self, n=40, seed=71):
        """New stars: true labels, and their spectra."""
        values, flux, error = self.stars(n, seed)
        return values, spectra_from_arrays(self.wavelength, flux, error=error)

    def model(self, n=80, seed=1, *, settings=PLAIN, **options):
        """A model trained on the stars of `training_set`."""
        return train(self.training_set(n, seed, **options), settings=settings, seed=0)


def moments(result, name):
    """Posterior means and standard deviations (n_stars,) of one label."""
    draws = result["posterior"][name]
    return draws.mean(("chain", "draw")).values, draws.std(("chain", "draw")).values
