"""A small trained model with spectra of its own, as files too, for runs that take a moment."""

import numpy as np

from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from tests.models.test_cannon import make_cannon

CANNON = make_cannon(n_pixels=200)
QUICK = InferenceSettings(method="laplace", draws=20, chains=2, block_size=4, cores=1)


def make_spectra(n_stars: int = 11, *, seed: int = 1, bad: tuple[int, ...] = (3,)):
    """Spectra of the model, ids of different lengths; the `bad` rows have no usable pixel."""
    rng = np.random.default_rng(seed)
    labels = CANNON.training.values[np.arange(n_stars) % 30]
    flux = CANNON.predict(labels).flux + 0.01 * rng.normal(size=(n_stars, CANNON.n_pixels))
    ivar = np.full(flux.shape, 1e4)
    ivar[list(bad)] = 0
    ids = np.array([f"star{'x' * (i % 7)}{i}" for i in range(n_stars)])
    return NormalizedSpectra(ids, CANNON.wavelength, flux, ivar, simulated=True)


def labels_of(spectra: NormalizedSpectra) -> Labels:
    """Catalogue labels of the stars of `make_spectra`."""
    values = CANNON.training.values[np.arange(spectra.n_stars) % 30]
    return Labels(CANNON.names, values, np.array([20.0, 0.05]), spectra.star_id)


def write_files(folder, n_stars: int = 300) -> None:
    """Write the model and a dataset, for the command line."""
    spectra = make_spectra(n_stars)
    CANNON.save(folder / "cannon.nc")
    TrainingSet(spectra, labels_of(spectra)).save(folder / "dataset.nc")
