"""Priors of a trained model: defaults that hold its training stars, and what users give."""

import warnings

import numpy as np
import pytest

from bayes_cannon.errors import BayesCannonWarning, LabelError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors, as_prior, known_range
from bayes_cannon.models.model_priors import default_priors, priors_of
from tests.line_survey import LAPLACE, LineSurvey, moments


@pytest.mark.parametrize(
    ("name", "low", "high", "lower", "upper", "warns"),
    [
        ("MASS", 0.8, 2.8, -1.2, 4.8, False),
        ("AGE", 0.1, 3.2, -3.0, 6.3, False),
        ("A_K", 0.0, 0.2, -0.2, 0.4, False),
        ("FE_H", -3.0, -0.5, -5.5, 2.0, True),
        ("FE_H", -0.8, 0.3, -2.0, 2.0, False),
        ("LOGG", 1.0, 3.5, 0.0, 10.0, False),
    ],
)
def test_defaults_hold_the_training_stars(name, low, high, lower, upper, warns):
    model = LineSurvey(name, low, high).model()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        priors = priors_of(model)
    k = model.names.index(name)
    # the range of 80 uniform labels is narrower by a few per cent
    tolerance = 0.2 * (high - low)
    assert priors.lower[k] == pytest.approx(lower, abs=0 if lower in (-2, 0) else tolerance)
    assert priors.upper[k] == pytest.approx(upper, abs=0 if upper in (2, 10) else tolerance)
    assert [f"{name}: " in str(w.message) for w in told] == [True] * warns
    if warns:
        assert "training stars lie outside -2 to 2 dex" in str(told[0].message)


def test_stars_beyond_the_old_bounds_are_unbiased():
    """MASS beyond 2 had a bias of -0.38 under the prior of -2 to 2."""
    survey = LineSurvey("MASS", 0.8, 2.8)
    true, spectra = survey.new()
    mean, sd = moments(infer_labels(survey.model(), spectra, settings=LAPLACE, seed=1), "MASS")
    beyond = true[:, 1] > 2
    assert beyond.sum() >= 10
    off = (mean - true[:, 1])[beyond]
    assert abs(off.mean()) < 0.03
    assert np.sqrt(np.mean((off / sd[beyond]) ** 2)) < 1.5


def test_an_informed_prior_may_leave_out_the_mean():
    survey = LineSurvey("LOGG", 1.0, 3.5)
    model = survey.model()
    assert model.basis.center[1] < 2.8
    true, spectra = survey.new()
    one = spectra.select([int(np.argmax(true[:, 1]))])
    for prior in (
        LabelPrior.truncated(3.3, 0.05, 3.15, 3.45),
        LabelPrior.uniform(2.8, 5.0),
        LabelPrior.normal(3.3, 0.05),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", BayesCannonWarning)
            found = infer_labels(model, one, settings=LAPLACE, seed=1, priors={"LOGG": prior})
        mean, _ = moments(found, "LOGG")
        assert max(prior.lower, 2.8) < mean[0] < min(prior.upper, 3.7)


def test_a_prior_without_training_stars_is_taken_with_a_warning():
    model = LineSurvey().model()
    with pytest.warns(BayesCannonWarning, match=r"every training star: TEFF \(0 to 100;"):
        priors = priors_of(model, {"TEFF": (0, 100)})
    assert priors.upper[0] == 100


def test_labels_in_another_unit_are_of_no_known_kind():
    survey = LineSurvey()
    values = survey.stars(80, 1)[0] / [1000, 1]
    model = survey.model(values=values, units={"TEFF": "kK"})
    prior = default_priors(model)["TEFF"]
    assert prior.lower == pytest.approx(3.5, abs=0.2)
    assert prior.upper == pytest.approx(6.5, abs=0.2)


@pytest.mark.parametrize(
    "given",
    [
        (4000, 6000), [4000.0, 6000.0], np.array([4000, 6000]),
        (np.float32(4000), np.int64(6000)), {"lower": 4000, "upper": 6000},
        {"distribution": "uniform", "lower": 4000, "upper": 6000},
        LabelPrior.uniform(np.array(4000), np.float64(6000)),
    ],
)  # fmt: skip
def test_kinds_of_priors(given):
    assert as_prior(given, "TEFF") == LabelPrior.uniform(4000.0, 6000.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5000, r"must be a pair \(lower, upper\)"),
        ("4000-6000", r"must be a pair \(lower, upper\)"),
        ((6000, 4000), "prior of TEFF: a prior needs lower < upper"),
        (("a", "b"), "lower of a prior must be a number"),
        ((1, 2, 3), r"must be a pair"),
        ({"mean": 1}, "a normal needs both mean and sd"),
        ({"low": 1, "high": 2}, "must be a pair"),
        (None, "must be a pair"),
    ],
)
def test_what_is_no_prior(given, message):
    with pytest.raises(LabelError, match=message):
        as_prior(given, "TEFF")


def test_priors_of_a_file_of_all_labels_and_of_none(tmp_path):
    model = LineSurvey().model()
    path = tmp_path / "priors.toml"
    path.write_text("TEFF = [4000, 6000]\n[FE_H]\ndistribution = 'normal'\nmean = 0\nsd = 1\n")
    found = priors_of(model, path)
    assert found.priors == (LabelPrior.uniform(4000, 6000), LabelPrior.normal(0, 1))
    turned = LabelPriors(("FE_H", "TEFF"), found.priors[::-1])
    assert priors_of(model, turned).priors == found.priors
    with pytest.raises(LabelError, match="given for LOGG, but the model's labels are TEFF, FE_H"):
        priors_of(model, {"LOGG": (0, 5)})
    with pytest.raises(LabelError, match="priors must be given by label"):
        priors_of(model, [(0, 5)])


def test_known_kinds():
    assert known_range("TEFF") == (0, 10000)
    assert {known_range(n) for n in ("FE_H", "M_H", "ALPHA_M", "MG_FE", "TIII_H")} == {(-2, 2)}
    assert {known_range(n) for n in ("AGE", "MASS", "A_K", "C_N", "NUMAX", "H_K")} == {None}
