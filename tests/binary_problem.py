"""A small Cannon of the library's giants, and pairs of them, for the tests of binaries."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.simulation.faults import moved
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import library_labels, observe
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

NAMES = ("TEFF", "LOGG", "FE_H")
WINDOWS = ((3700, 4700), (6400, 7000))
N_TRAINING = 120


@cache
def stars() -> TrainingSet:
    """Singles: the first N_TRAINING are for training, 30 more for testing."""
    library, index = load_library(), np.arange(N_TRAINING + 30)
    spectra = observe(library, index, seed=2, windows=WINDOWS)
    labels, _ = library_labels(library, NAMES, seed=2, index=index)
    return TrainingSet(spectra=spectra, labels=labels)


@cache
def small_cannon() -> Cannon:
    """Trained on them, with five factors and no cross-validation."""
    settings = TrainingSettings(n_factors=5, folds=0)
    return train(stars().select(np.arange(N_TRAINING)), settings=settings, seed=1)


@cache
def second_cannon() -> Cannon:
    """Another model of the same labels and pixels, of the fainter half of the same stars."""
    training = stars().select(np.arange(N_TRAINING))
    faint = np.argsort(training.labels["LOGG"])[N_TRAINING // 2 :]
    settings = TrainingSettings(n_factors=0, folds=0)
    return train(training.select(np.sort(faint)), settings=settings, seed=1)


def true_labels(index: np.ndarray) -> np.ndarray:
    """True labels, shape (n_stars, n_labels)."""
    library = load_library()
    return np.stack([library.values(name)[index] for name in NAMES], axis=1)


def pairs(
    first: np.ndarray, second: np.ndarray, light: float, dv: float, *, snr: float = 150.0
) -> NormalizedSpectra:
    """Spectra of pairs of library stars."""
    library = load_library()
    flux = [
        (1 - light) * library.flux[i] + light * moved(library.flux[j], dv)
        for i, j in zip(first, second, strict=True)
    ]
    labels = {name: library.values(name)[first] for name in library.names}
    blended = replace(library, flux=np.array(flux), labels=labels)
    return observe(blended, snr=snr, seed=9, windows=WINDOWS)
