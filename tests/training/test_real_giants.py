"""Train and infer on 671 real giants (100 pixels, three labels): the same functions as ever."""

import logging
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

FILE = Path(__file__).resolve().parents[3] / "shared" / "real" / "giants_671x100.npz"


@pytest.fixture(scope="module")
def giants() -> TrainingSet:
    with np.load(FILE, allow_pickle=False) as data:
        flux, error = data["flux"].astype(float), data["error"].astype(float)
        labels, names = data["labels"], tuple(str(n) for n in data["label_names"])
    good = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    ids = np.array([f"giant{i:03d}" for i in range(len(flux))])
    spectra = NormalizedSpectra(
        star_id=ids,
        wavelength=np.arange(1.0, flux.shape[1] + 1),  # the file has no wavelengths
        flux=np.where(good, flux, 1),
        ivar=np.where(good, error, 1) ** -2.0 * good,
    )
    return TrainingSet(spectra, Labels(names, labels, np.nan, ids))


def unweighted_fit(training: TrainingSet, held_out: TrainingSet) -> np.ndarray:
    """Labels by ordinary least squares on both steps: what a first script would do."""
    basis = PolynomialBasis.from_labels(training.labels)
    x = basis(training.labels.values)
    theta = np.linalg.lstsq(x, training.spectra.flux, rcond=None)[0].T
    return np.array(
        [
            basis.unstandardize(
                least_squares(lambda ell, f=f: f - theta @ basis.features(ell), np.zeros(3)).x
            )
            for f in held_out.spectra.flux
        ]
    )


def scatter(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square and robust scatter."""
    return (
        np.sqrt(np.mean(difference**2, axis=0)),
        1.4826 * np.median(np.abs(difference), axis=0),
    )


@pytest.mark.slow
@pytest.mark.skipif(not FILE.exists(), reason="the real giants are not here")
def test_real_giants_are_recovered_better_than_by_an_unweighted_fit(giants, record_property):
    ours, plain = [], []
    for split in (1, 2, 3):
        order = np.random.default_rng(split).permutation(671)
        training, held_out = (giants.select(np.sort(o)) for o in (order[:400], order[400:]))
        cannon = train(training, settings=TrainingSettings(folds=0), seed=1)
        assert cannon.basis.n_terms == 10
        settings = InferenceSettings(method="laplace", min_pixels=20)
        posterior = infer_labels(cannon, held_out.spectra, settings=settings, seed=1)["posterior"]
        found = [posterior[n].mean(("chain", "draw")).values for n in cannon.names]
        ours.append(scatter(np.stack(found, axis=1) - held_out.labels.values))
        plain.append(scatter(unweighted_fit(training, held_out) - held_out.labels.values))
    rms, robust = np.mean(ours, axis=0)
    plain_rms, plain_robust = np.mean(plain, axis=0)
    record_property("rms", rms.tolist())
    logging.getLogger(__name__).info(
        "3 x 271 real giants: rms %s, robust %s; unweighted rms %s, robust %s",
        rms, robust, plain_rms, plain_robust,
    )  # fmt: skip
    assert np.all(rms < 0.95 * plain_rms)
    # Most of it is the catalogue's own errors, which no fit takes away.
    assert np.all(robust < 1.05 * plain_robust)
