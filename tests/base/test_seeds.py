"""A seed is given in one way everywhere; None takes a fresh one, which the result holds."""

import inspect

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.base.columns import as_seed
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.training import cross_validate, fit_map
from bayes_cannon.training.pipeline import label_design
from tests.line_survey import LineSurvey
from tests.run_problem import CANNON, QUICK, make_spectra

SURVEY = LineSurvey(n_pixels=90)


def test_a_seed_is_a_whole_number_or_a_fresh_one():
    assert as_seed(7) == as_seed(np.int64(7)) == 7
    assert len({as_seed(None) for _ in range(5)}) == 5
    assert as_seed(np.random.default_rng(1)) == as_seed(np.random.default_rng(1))
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(InvalidDataError, match="seed must be a whole number from 0, or None"):
            as_seed(wrong)


def test_every_public_function_takes_it_alike():
    seen = []
    for wing in (bc, bc.analysis, bc.analysis.sbc, bc.inference, bc.models, bc.plots, bc.runs,
                 bc.spectra, bc.surveys, bc.training):  # fmt: skip
        for name in getattr(wing, "__all__", ()):
            found = getattr(wing, name)
            parameters = inspect.signature(found).parameters if inspect.isfunction(found) else {}
            if "seed" in parameters:
                seen.append(name)
                given = parameters["seed"]
                assert (given.annotation, given.default, given.kind) == (
                    "int | None", None, inspect.Parameter.KEYWORD_ONLY,
                ), name  # fmt: skip
    assert {"train", "infer_labels", "infer_run", "fit_map", "sbc_labels", "observe"} <= set(seen)


def test_fresh_seeds_differ_and_are_held(tmp_path):
    spectra = make_spectra(bad=())
    found = [bc.infer_labels(CANNON, spectra, settings=QUICK) for _ in range(2)]
    seeds = [result["posterior"].attrs["seed"] for result in found]
    assert seeds[0] != seeds[1]
    again = bc.infer_labels(CANNON, spectra, settings=QUICK, seed=seeds[0])
    np.testing.assert_array_equal(again["posterior"]["TEFF"], found[0]["posterior"]["TEFF"])
    assert not np.array_equal(found[1]["posterior"]["TEFF"], found[0]["posterior"]["TEFF"])
    runs = [bc.infer_run(CANNON, spectra, tmp_path / n, settings=QUICK) for n in "ab"]
    assert runs[0].summary["seed"] != runs[1].summary["seed"]
    assert (
        bc.infer_run(CANNON, spectra, tmp_path / "a", settings=QUICK).summary["seed"]
        == (runs[0].summary["seed"])
    ), "a run that is there goes on with its own"


def test_results_of_training_hold_theirs():
    stars = SURVEY.training_set(40)
    options = bc.TrainingSettings(n_factors=1, folds=0)
    seeds = [bc.train(stars, settings=options).settings["training"]["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    cannon = bc.train(stars, settings=options, seed=seeds[0])
    design = label_design(stars.labels, cannon.basis)[0]
    fits = [fit_map(stars.spectra.flux, stars.spectra.ivar, design) for _ in range(2)]
    assert fits[0].seed != fits[1].seed
    crossed = [cross_validate(cannon, stars.spectra, design, folds=2) for _ in range(2)]
    assert crossed[0].seed != crossed[1].seed
    assert not np.array_equal(crossed[0].fold, crossed[1].fold)
    np.testing.assert_array_equal(
        cross_validate(cannon, stars.spectra, design, folds=2, seed=crossed[0].seed).fold,
        crossed[0].fold,
    )
