"""Small surveys, each odd in one way, go all the way or are refused with a clear error.

What each animal is, see `zoo`. The coverage limits leave four standard errors and more on both
sides of what calibrated 68 % intervals hold here (60 stars, three labels).
"""

import functools
import re

import numpy as np
import pytest

from bayes_cannon.errors import FitError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.training.model_error_fit import ModelErrorSettings
from tests.zoo import ZOO, Animal, Outcome, faults, take

SOME = (
    "plain",
    "dead chip",
    "twelve stars",
    "constant flux",
    "missing labels",
    "correlated to unity",
    "one brilliant star",
)
"""Also taken through without factors and with a chosen number."""


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """A quarter of the usual draws of the model error, of 100 stars at most: enough here."""
    quick = functools.partial(
        ModelErrorSettings, draws=250, tune=250, chains=2, max_stars=100, rhat_limit=1.1
    )
    monkeypatch.setattr("bayes_cannon.training.model_error_fit.ModelErrorSettings", quick)


@pytest.mark.parametrize("name", ZOO)
def test_survey_goes_all_the_way(name):
    outcome = take(ZOO[name])
    assert faults(ZOO[name], outcome) == []


@pytest.mark.parametrize("n_factors", [0, "auto"])
@pytest.mark.parametrize("name", SOME)
def test_whatever_the_number_of_factors(name, n_factors):
    outcome = take(ZOO[name], n_factors=n_factors)
    assert faults(ZOO[name], outcome) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"ratio": np.array([0.1, 0.9, 0.1])}, "LOGG: rms error 0.90 of that of the training mean"),
        ({"ratio": np.array([0.1, np.nan, 0.1])}, "LOGG: rms error nan"),
        ({"calibrated": np.full(3, 0.2)}, "hold the truth in 20 %"),
        (
            {"unknown": (4,), "flags": np.full(60, int(LabelFlag.NO_PIXELS))},
            r"no posterior of test stars \(4,\)",
        ),
        ({"error": FitError("no")}, "refused: no"),
    ],
)
def test_faults_are_seen(changes, found):
    good = {
        "names": ("TEFF", "LOGG", "FE_H"), "ratio": np.full(3, 0.1), "pull": np.ones(3),
        "formal": np.full(3, 0.5), "calibrated": np.full(3, 0.7), "n_judged": 60,
        "flags": np.zeros(60, dtype=int),
    }  # fmt: skip
    one = Animal("one", ZOO["plain"].make)
    assert faults(one, Outcome(**good)) == []
    (fault,) = faults(one, Outcome(**(good | changes)))
    assert re.search(found, fault)
