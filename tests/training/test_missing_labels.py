"""Training stars that lack a label: inferred from their spectra, no worse than dropped."""

import sys

import numpy as np
import pytest

from bayes_cannon.errors import FitError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.training.missing_labels import complete_needed, labels_from_spectra
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings
from tests.line_survey import LAPLACE, PLAIN, LineSurvey, moments

SURVEY = LineSurvey()


def lacking(n_missing, seed=1):
    """100 stars, the first of which lack [Fe/H]; their true labels."""
    true = SURVEY.stars(100, seed)[0]
    values = true.copy()
    values[:n_missing, 1] = np.nan
    return true, SURVEY.training_set(100, seed, values=values, allow_missing_labels=True)


def scores(stars, how, seed):
    """Root mean squares of the errors of Teff and [Fe/H] and of the pulls of [Fe/H]."""
    settings = TrainingSettings(n_factors=0, folds=0, missing=how)
    true, spectra = SURVEY.new(100, 70 + seed)
    found = infer_labels(train(stars, settings=settings, seed=0), spectra, settings=LAPLACE, seed=1)
    teff, feh = (moments(found, name) for name in ("TEFF", "FE_H"))
    pull = (feh[0] - true[:, 1]) / feh[1]
    squares = ((teff[0] - true[:, 0]) ** 2, (feh[0] - true[:, 1]) ** 2, pull**2)
    return [float(np.sqrt(np.mean(s))) for s in squares]


@pytest.mark.parametrize("n_missing", [50, 80])
def test_imputed_labels_are_no_worse_than_none(n_missing):
    """Mean [Fe/H] in place of the missing ones: 0.030 and 0.106 dex, pulls 1.21 and 2.85."""
    found = {"auto": [], "drop": []}
    for seed in (1, 2, 3):
        _, stars = lacking(n_missing, seed)
        for how, rows in found.items():
            rows.append(scores(stars, how, seed))
    auto, drop = (np.median(found[how], axis=0) for how in ("auto", "drop"))
    assert auto[1] < 1.03 * drop[1]  # [Fe/H]
    assert auto[0] < drop[0]  # Teff, which all stars have
    assert auto[1] < 0.031
    assert auto[2] < 1.25


def test_missing_labels_come_with_honest_errors():
    true, stars = lacking(60)
    basis = PolynomialBasis.from_labels(stars.labels)
    found = labels_from_spectra(stars, basis, lambda part: train(part, settings=PLAIN, seed=0))
    assert np.isnan(found.mean[60:]).all()
    off = basis.unstandardize(found.mean[:60]) - true[:60]
    sd = np.sqrt(np.diagonal(found.cov[:60], axis1=1, axis2=2)) * basis.scale
    # 60 stars: the standard error of the root mean square of pulls is 0.09
    np.testing.assert_allclose(np.sqrt(np.mean((off / sd) ** 2, axis=0)), 1, atol=0.3)
    assert np.sqrt(np.mean(off[:, 1] ** 2)) < 0.035


def test_too_few_complete_stars_are_said(caplog):
    _, stars = lacking(95)
    basis = PolynomialBasis.from_labels(stars.labels)
    assert labels_from_spectra(stars, basis, lambda part: pytest.fail("trained")) is None
    assert "5 of 100 training stars have all labels, too few (8 are needed)" in caplog.text
    assert complete_needed(basis, 10) == 18
    assert complete_needed(basis, "auto") == 12
    complete = stars.select(stars.labels.complete)
    assert labels_from_spectra(complete, basis, lambda part: pytest.fail("trained")) is None


def test_unknown_ways_are_refused():
    with pytest.raises(FitError, match="missing must be 'auto', 'impute' or 'drop', not 'mean'"):
        TrainingSettings(missing="mean")


def test_cross_validation_leaves_out_stars_with_inferred_labels(monkeypatch):
    """They know of the stars that a fold leaves out: [Mg/Fe] came out twice too good."""
    seen = []

    def stop(cannon, spectra, design, *, ivar, **_options):
        seen.append((cannon.training.n_stars, spectra.n_stars, len(design.mean), len(ivar)))
        raise FitError("far enough")

    monkeypatch.setattr(sys.modules["bayes_cannon.training.pipeline"], "cross_validate", stop)
    _, stars = lacking(60)
    cannon = train(stars, settings=TrainingSettings(n_factors=0), seed=0)
    assert cannon.settings["training"]["no_model_error"] == "far enough"
    assert seen == [(40, 40, 40, 40)]
