"""Stars with few pixels: one rule for cross-validation and inference, and nothing silent."""

import warnings

import numpy as np
import pytest

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.likelihood.pixels import pixels_needed
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.runs.run import infer_run
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training.cross_validation import cross_validate
from bayes_cannon.training.pipeline import label_design
from tests.line_survey import LAPLACE, LineSurvey, moments

SURVEY = LineSurvey(n_pixels=90)


@pytest.fixture(scope="module")
def model():
    """Of 90 pixels."""
    return SURVEY.model(60)


def with_good(spectra, n_good):
    """The spectra with some usable pixels left in the first stars."""
    ivar = spectra.ivar.copy()
    for row, n in enumerate(n_good):
        ivar[row, n:] = 0
    return NormalizedSpectra(spectra.star_id, spectra.wavelength, spectra.flux, ivar)


def test_rule():
    assert [pixels_needed(n) for n in (1, 3, 90, 100, 200, 7514)] == [1, 2, 45, 50, 100, 100]
    assert pixels_needed(7514, 10) == 10


def test_ninety_pixels_are_enough(model):
    true, spectra = SURVEY.new(18)
    with warnings.catch_warnings():
        warnings.simplefilter("error", BayesCannonWarning)
        found = infer_labels(model, spectra, settings=LAPLACE, seed=1)
    mean, sd = moments(found, "TEFF")
    off = mean - true[:, 0]
    assert np.sqrt(np.mean(off**2)) < 40
    assert np.sqrt(np.mean((off / sd) ** 2)) < 1.5


def test_cross_validation_and_inference_leave_out_the_same_stars(model):
    stars = SURVEY.training_set(60)
    spectra = with_good(stars.spectra, [44, 45])
    with pytest.warns(BayesCannonWarning, match=r"1 of 60 stars \(star-1\) have fewer than 45 us"):
        found = infer_labels(model, spectra, settings=LAPLACE, seed=1)
    crossed = cross_validate(
        model, spectra, label_design(stars.labels, model.basis)[0], folds=5, seed=0
    )
    inferred = np.isfinite(moments(found, "TEFF")[0])
    np.testing.assert_array_equal(np.isfinite(crossed.predicted).all(axis=1), inferred)
    assert inferred.tolist() == [False] + [True] * 59
    assert catalogue(found)["LABEL_FLAG"][0] & 1


def test_a_number_of_the_users(model):
    _, spectra = SURVEY.new(3)
    few = with_good(spectra, [12, 30])
    settings = InferenceSettings(method="laplace", draws=50, chains=2, n_khat=0, min_pixels=20)
    with pytest.warns(BayesCannonWarning, match="fewer than 20 usable pixels of the model's 90"):
        found = infer_labels(model, few, settings=settings, seed=1)
    assert np.isfinite(moments(found, "TEFF")[0]).tolist() == [False, True, True]
    with pytest.raises(InvalidDataError, match="at least 1"):
        InferenceSettings(min_pixels=0)
    with pytest.raises(InvalidDataError, match=r"min_pixels must be a whole number, not 2\.5"):
        InferenceSettings(min_pixels=2.5)
    assert InferenceSettings(min_pixels=np.int64(7)).min_pixels == 7


def test_a_run_counts_them(model, tmp_path):
    _, spectra = SURVEY.new(3)
    with pytest.warns(BayesCannonWarning, match="1 of 3 stars"):
        run = infer_run(model, with_good(spectra, [12]), tmp_path / "run", settings=LAPLACE, seed=0)
    wanted = {"n_failed": 1, "n_too_few_pixels": 1, "n_numerical_failures": 0, "pixels_needed": 45}
    assert wanted.items() <= run.summary.items()


def test_numbers_that_fail_cost_one_star(model, monkeypatch):
    from bayes_cannon.inference import block as star_block

    honest = star_block.predictive_p
    _, spectra = SURVEY.new(3)

    def fail(data, v):
        if np.allclose(data.n_used, 89):
            raise ValueError("no such number")
        return honest(data, v)

    monkeypatch.setattr(star_block, "predictive_p", fail)
    ivar = spectra.ivar.copy()
    ivar[1, 0] = 0
    odd = NormalizedSpectra(spectra.star_id, spectra.wavelength, spectra.flux, ivar)
    with pytest.warns(BayesCannonWarning, match=r"1 of 3 stars \(spectrum-2\) get no posterior"):
        found = infer_labels(model, odd, settings=LAPLACE, seed=1)
    assert np.isfinite(moments(found, "TEFF")[0]).tolist() == [True, False, True]
    assert found["star_stats"]["label_flag"].values[1] & 2
