"""Arguments of a kind that a user would try: accepted, or refused in the package's own words."""

import functools
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.base.columns import as_seed
from bayes_cannon.errors import BayesCannonError, LabelError
from bayes_cannon.inference.arguments import as_labels, as_result
from bayes_cannon.plots.aspcap import plot_forest
from bayes_cannon.plots.kiel import plot_kiel_stars
from bayes_cannon.plots.sample import plot_sample
from bayes_cannon.spectra.labels import Labels
from tests.line_survey import LAPLACE, LineSurvey

SURVEY = LineSurvey("LOGG", 1.0, 3.0)


class Made:
    """A model, its stars, and what was inferred of three of them."""

    def __init__(self, folder):
        self.folder = folder
        self.stars = SURVEY.training_set(30, label_errors={"TEFF": 30.0, "LOGG": 0.05})
        self.model = SURVEY.model(30)
        self.some = self.stars.select([0, 1, 2])
        self.result = bc.infer_labels(self.model, self.some.spectra, settings=LAPLACE, seed=1)
        self.table = bc.catalogue(self.result, aspcap=self.stars)
        self.model.save(folder / "cannon.nc")
        self.run = bc.infer_run(
            self.model, self.some, folder / "run", settings=LAPLACE, seed=None, corner="star-1"
        )

    @functools.cached_property
    def frame(self):
        """Labels of the stars as pandas has them."""
        v = self.some.labels.values
        return pd.DataFrame({"APOGEE_ID": ["star-1", "star-2", "star-3"], "TEFF": v[:, 0],
                             "TEFF_ERR": [30.0, 30.0, np.nan], "LOGG": v[:, 1]})  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Made once."""
    return Made(tmp_path_factory.mktemp("arguments"))


@pytest.fixture(autouse=True)
def closed():
    """No figure stays open."""
    yield
    plt.close("all")


def infer(made, spectra=None, **options):
    return bc.infer_labels(
        options.pop("model", made.model), made.some.spectra if spectra is None else spectra,
        settings=LAPLACE, **({"seed": 1} | options),
    )  # fmt: skip


ACCEPTED = {
    "infer_labels(TrainingSet)": lambda m: infer(m, m.some),
    "infer_labels(path of a model)": lambda m: infer(m, model=m.folder / "cannon.nc"),
    "infer_labels(text of a path)": lambda m: infer(m, model=str(m.folder / "cannon.nc")),
    "infer_labels(pair as a prior)": lambda m: infer(m, priors={"TEFF": (4000, 6000)}),
    "infer_labels(seed of NumPy)": lambda m: infer(m, seed=np.int64(3)),
    "infer_labels(seed=None)": lambda m: infer(m, seed=None),
    "infer_labels(seed=Generator)": lambda m: infer(m, seed=np.random.default_rng(1)),
    "catalogue(Run)": lambda m: bc.catalogue(m.run),
    "catalogue(aspcap=TrainingSet)": lambda m: bc.catalogue(m.result, aspcap=m.stars),
    "catalogue(aspcap=DataFrame)": lambda m: bc.catalogue(m.result, aspcap=m.frame),
    "catalogue(aspcap=Table)": lambda m: bc.catalogue(m.result, aspcap=Table.from_pandas(m.frame)),
    "catalogue(one star)": lambda m: bc.catalogue(m.result.sel(star="star-1")),
    "catalogue(one chain)": lambda m: bc.catalogue(m.result.sel(chain=0)),
    "catalogue(one star and chain)": lambda m: bc.catalogue(m.result.sel(star="star-1", chain=1)),
    "comparison(TrainingSet)": lambda m: bc.comparison(m.result, m.stars),
    "comparison(table, DataFrame)": lambda m: bc.comparison(m.table, m.frame),
    "scatter_table(TrainingSet)": lambda m: bc.scatter_table(m.table, m.stars),
    "star_table(one star, TrainingSet)": lambda m: bc.star_table(
        m.result.sel(star="star-2"), aspcap=m.stars
    ),
    "mystery_story(one star)": lambda m: bc.mystery_story(m.result.sel(star="star-2")),
    "aspcap_comparison(DataFrame)": lambda m: bc.aspcap_comparison(m.result, m.frame),
    "aspcap_comparison(table)": lambda m: bc.aspcap_comparison(m.table),
    "plot_forest(one star)": lambda m: plot_forest(
        bc.aspcap_comparison(m.result, m.stars), "star-1"
    ),
    "plot_corner(TrainingSet)": lambda m: bc.plot_corner(m.result, "star-1", aspcap=m.stars),
    "plot_corner(names='TEFF')": lambda m: bc.plot_corner(m.result, "star-1", names="TEFF"),
    "plot_corner(one star)": lambda m: bc.plot_corner(m.result.sel(star="star-1"), "star-1"),
    "plot_one_to_one(result)": lambda m: bc.plot_one_to_one(m.result, reference=m.stars),
    "plot_one_to_one(names='TEFF')": lambda m: bc.plot_one_to_one(m.table, names="TEFF"),
    "plot_kiel(result)": lambda m: bc.plot_kiel(m.result),
    "plot_kiel(stars='star-1')": lambda m: bc.plot_kiel(m.table, result=m.run, stars="star-1"),
    "plot_kiel_stars(star, frame)": lambda m: plot_kiel_stars(m.result, "star-1", aspcap=m.frame),
    "plot_gradients(names='TEFF')": lambda m: bc.plot_gradients(
        m.model, names="TEFF", window=None, labels={"TEFF": 5000, "LOGG": 2}
    ),
    "plot_sample(frame)": lambda m: plot_sample(m.frame),
    "plot_spectrum(TrainingSet)": lambda m: bc.plot_spectrum(m.stars, "star-1"),
    "plot_model(TrainingSet)": lambda m: bc.plot_model(
        m.model, m.stars, "star-1", {"TEFF": 5000, "LOGG": 2}, window=None
    ),
    "diagnose(TrainingSet)": lambda m: bc.diagnose(m.model, m.stars),
    "predict(mapping)": lambda m: m.model.predict({"LOGG": 2, "TEFF": 5000}),
    "predict(Labels)": lambda m: m.model.predict(m.stars.labels),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_accepted(made, what):
    assert ACCEPTED[what](made) is not None


REFUSED = {
    "infer_labels(array)": (lambda m: infer(m, np.ones((2, 201))), "an array of shape"),
    "infer_labels(no model)": (lambda m: infer(m, model=m.stars), "a trained model is needed"),
    "infer_labels(no file)": (lambda m: infer(m, model="no.nc"), "no.nc does not exist"),
    "infer_labels(seed=1.5)": (lambda m: infer(m, seed=1.5), "seed must be a whole number"),
    "infer_labels(seed=-1)": (lambda m: infer(m, seed=-1), "seed must be a whole number"),
    "infer_labels(seed=True)": (lambda m: infer(m, seed=True), "seed must be a whole number"),
    "infer_labels(priors=list)": (lambda m: infer(m, priors=[(1, 2)]), "given by label"),
    "infer_labels(prior=5000)": (lambda m: infer(m, priors={"TEFF": 5000}), "must be a pair"),
    "infer_labels(settings=dict)": (
        lambda m: bc.infer_labels(m.model, m.some, settings={"draws": 5}, seed=1),
        "settings must be InferenceSettings",
    ),
    "InferenceSettings(draws='5')": (lambda _: bc.InferenceSettings(draws="5"), "whole number"),
    "catalogue(model)": (lambda m: bc.catalogue(m.model), "a result of infer_labels"),
    "catalogue(no run)": (lambda m: bc.catalogue(m.folder), "open the run first"),
    "catalogue(posterior)": (lambda m: bc.catalogue(m.result["posterior"]), "no group"),
    "catalogue(dataset)": (
        lambda m: bc.catalogue(m.result["posterior"].to_dataset()),
        "a result of infer_labels",
    ),
    "catalogue(one draw)": (lambda m: bc.catalogue(m.result.isel(draw=0, chain=0)), "one draw"),
    "catalogue(star dropped)": (
        lambda m: bc.catalogue(m.result.isel(star=0, drop=True)),
        "keeps the dimension",
    ),
    "catalogue(aspcap=array)": (
        lambda m: bc.catalogue(m.result, aspcap=np.ones(3)),
        "aspcap must be Labels, a TrainingSet",
    ),
    "catalogue(aspcap=table without ids)": (
        lambda m: bc.catalogue(m.result, aspcap=m.frame[["TEFF"]]),
        "has no column with the stars' names",
    ),
    "comparison(None)": (lambda m: bc.comparison(m.result, None), "no reference"),
    "comparison(other table)": (lambda m: bc.comparison(m.frame, m.stars), "not one that catal"),
    "plot_corner(star=3)": (lambda m: bc.plot_corner(m.result, 3), "no star '3'"),
    "plot_corner(unknown)": (lambda m: bc.plot_corner(m.result, "star-1", names="AGE"), "AGE"),
    "plot_spectrum(array)": (lambda _: bc.plot_spectrum(np.ones(5), "star-1"), "spectra must be"),
    "diagnose(spectra)": (lambda m: bc.diagnose(m.model, m.stars.spectra), "labels must be"),
    "train(no file)": (lambda _: bc.train("nothing.nc"), "nothing.nc does not exist"),
    "train(array)": (lambda m: bc.train(m.stars.spectra.flux), "a training set is needed"),
    "predict(one label)": (lambda m: m.model.predict({"TEFF": 5000}), "LOGG is not given"),
    "predict(text)": (lambda m: m.model.predict("hot"), "labels must be numbers"),
    "infer_run(path=None)": (
        lambda m: bc.infer_run(m.model, m.some, None, settings=LAPLACE, seed=0),
        "a path must be text or a path object",
    ),
    "open_run(no folder)": (lambda m: bc.open_run(m.folder / "x"), "it is not a run"),
    "check(labels)": (
        lambda m: bc.analysis.check_calibration(m.result, m.stars),
        "references must be given by name",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_our_own_words(made, what):
    call, message = REFUSED[what]
    with pytest.raises(BayesCannonError, match=message):
        call(made)


def test_one_star_is_the_row_of_the_whole(made):
    whole, one = bc.catalogue(made.result), bc.catalogue(made.result.sel(star="star-2"))
    assert len(one) == 1
    for name in whole.colnames:
        np.testing.assert_array_equal(one[name][0], whole[name][1])
    tree = as_result(made.result.sel(star="star-2", chain=0))
    assert tree["posterior"]["TEFF"].dims == ("chain", "draw", "star")


def test_labels_of_tables(made):
    found = as_labels(made.frame)
    assert found.names == ("TEFF", "LOGG")
    np.testing.assert_array_equal(found.values, made.some.labels.values)
    np.testing.assert_array_equal(found.error("TEFF"), [30, 30, np.nan])
    assert np.isnan(found.error("LOGG")).all()
    table = Table(made.frame.assign(LOGG=[-9999.0, 2.0, 2.0]).to_dict("list"), masked=True)
    table["TEFF"].mask = [False, True, False]
    found = as_labels(table)
    np.testing.assert_array_equal(np.isnan(found.values), [[0, 1], [1, 0], [0, 0]])


def test_a_fresh_seed_is_kept_and_taken_again(made):
    first, second = (infer(made, seed=None)["posterior"].attrs["seed"] for _ in range(2))
    assert first != second
    again = bc.infer_run(made.model, made.some, made.folder / "run", settings=LAPLACE, seed=None)
    assert again.summary["seed"] == made.run.summary["seed"]
    assert again.summary["n_from_earlier"] == 3
    assert (made.folder / "run" / "figures" / "corner-star-1.png").exists()
    assert as_seed(np.uint8(5)) == 5


@pytest.mark.parametrize("name", ["star", "chain", "draw", "LABEL_FLAG"])
def test_names_that_results_need_are_refused_before_training(name):
    with pytest.raises(LabelError, match=f"cannot be named {name}"):
        LineSurvey(name, 0.0, 1.0).model(12)


def test_a_label_named_like_a_column_of_another_is_refused():
    with pytest.raises(LabelError, match="TEFF_ERR cannot be labels beside"):
        Labels(("TEFF", "TEFF_ERR"), np.ones((1, 2)), np.nan, np.array(["a"]))


def test_home_folder(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(made.folder)
    made.model.save("~/c.nc")
    assert (tmp_path / "c.nc").exists()
    assert bc.Cannon.load("~/c.nc").names == made.model.names
    bc.infer_run("~/c.nc", made.some, "~/run", settings=LAPLACE, seed=0)
    assert bc.open_run("~/run").result["posterior"].sizes["star"] == 3
    assert "~" not in os.listdir(made.folder)
