"""What is said in two ways at once raises, and settings left out are the defaults."""

import dataclasses
import inspect
import re

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.errors import DownloadError, InvalidDataError
from bayes_cannon.models import Hyperparameters, TrainingPriors
from bayes_cannon.runs import run_check
from bayes_cannon.training import fit_map
from tests.line_survey import LineSurvey

STARS = LineSurvey(n_pixels=30).training_set(12)
FLUX, X = np.ones((3, 2)), np.ones((3, 1))
BOTH = {"priors": TrainingPriors(), "hyper": Hyperparameters(np.eye(2), 0.0, 1.0)}
SETTINGS = bc.TrainingSettings(n_factors=0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: bc.train(STARS, method="map", settings=SETTINGS), InvalidDataError,
         "say method and n_factors in settings"),
        (lambda: bc.train(STARS, n_factors=0, settings=SETTINGS), InvalidDataError,
         "say method and n_factors in settings"),
        (lambda: bc.models.build_training_model(FLUX, FLUX, X, **BOTH), InvalidDataError,
         "priors of the hyperparameters, or their values: not both"),
        (lambda: bc.models.build_factor_model(FLUX, FLUX, X, 1, **BOTH), InvalidDataError,
         "priors of the hyperparameters, or their values: not both"),
        (lambda: fit_map(FLUX, FLUX, None, start=object()), InvalidDataError,
         "a fit without factors begins from nothing"),
        (lambda: run_check(None, None, "x", run="there", seed=1), InvalidDataError,
         "a run that is there has its own"),
        (lambda: run_check(None, None, "x", run="there", settings=bc.InferenceSettings()),
         InvalidDataError, "a run that is there has its own"),
        (lambda: bc.surveys.read_apstar("x.fits", visit=1, weighting="pixel"), InvalidDataError,
         "give a visit, or the weighting of a combination: not both"),
        (lambda: bc.download_survey("x", allstar="y", catalogue_source="skyserver"), DownloadError,
         "give an allStar file, or a source of the catalogue: not both"),
    ],
)  # fmt: skip
def test_two_ways_to_say_one_thing_raise(call, error, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        call()
    assert not list(tmp_path.iterdir())


def test_settings_left_out_are_the_defaults():
    wings = (bc.analysis, bc.analysis.sbc, bc.inference, bc.models, bc.plots, bc.runs, bc.spectra,
             bc.surveys, bc.training)  # fmt: skip
    seen = 0
    for wing in wings:
        for name in getattr(wing, "__all__", ()):
            function = getattr(wing, name)
            if not inspect.isfunction(function):
                continue
            for parameter in inspect.signature(function).parameters.values():
                kind = re.match(r"(\w*Settings|Cuts)\b", str(parameter.annotation))
                if kind and parameter.default is not inspect.Parameter.empty:
                    seen += 1
                    assert parameter.default is None, f"{name}({parameter})"
                settings = dataclasses.is_dataclass(parameter.default)
                assert not settings or name == "fit_laplace", f"{name}({parameter})"
    assert seen >= 10
