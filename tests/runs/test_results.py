"""A run that is opened again is what `infer_run` returned, and goes wherever a result goes."""

import json
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import bayes_cannon as bc
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.runs.results import Run, open_run
from tests.run_problem import CANNON, QUICK, labels_of, make_spectra

SPECTRA = make_spectra(31)
CATALOGUE = labels_of(SPECTRA)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 31 stars, the fourth without a posterior, and what it was made with beside it."""
    folder = tmp_path_factory.mktemp("results")
    CANNON.save(folder / "cannon.nc")
    return bc.infer_run(
        CANNON, SPECTRA, folder / "run", settings=QUICK, seed=1, aspcap=CATALOGUE,
        inputs={"cannon": [folder / "cannon.nc"]},
    )  # fmt: skip


def test_what_is_opened_is_what_was_returned(made):
    run = open_run(made.folder)
    assert type(run) is type(made) is Run
    xr.testing.assert_equal(run.result["posterior"].to_dataset(),
                            made.result["posterior"].to_dataset())  # fmt: skip
    assert run.summary == made.summary
    assert run.settings == made.settings
    assert (run.settings["method"], run.settings["seed"]) == ("laplace", 1)
    assert run.table.colnames == made.table.colnames
    assert run.table.meta["LABELS"] == made.table.meta["LABELS"]
    for name in run.table.colnames:
        np.testing.assert_array_equal(
            np.ma.asarray(run.table[name]).filled(np.nan) if name != "STAR_ID" else
            run.table[name], made.table[name],
        )  # fmt: skip
    assert run.names == CANNON.names
    assert run.simulated


def test_a_catalogue_that_is_read_is_as_it_was_made(made):
    read = open_run(made.folder).table
    assert read is not made.table
    assert read.meta == made.table.meta
    for name in made.table.colnames:
        ours, theirs = made.table[name], read[name]
        assert (type(theirs), theirs.dtype) == (type(ours), ours.dtype), name
        assert (theirs.unit, theirs.description) == (ours.unit, ours.description), name
    for table in (read, made.table):
        assert table.to_pandas(index="TEFF").index.name == "TEFF"
    assert read.to_pandas().equals(made.table.to_pandas())


def test_stars_are_found_by_name(made):
    star = str(SPECTRA.star_id[5])
    assert len(made) == 31
    assert list(made) == SPECTRA.star_id.tolist()
    assert star in made
    assert "nobody" not in made
    assert dict(made[star]["posterior"].sizes) == {"chain": 2, "draw": 20}
    assert made.row(star)["TEFF"] == made.table["TEFF"][5]
    with pytest.raises(InvalidDataError, match=r"no star 'nobody' in the run .*, which has 31 \("):
        made["nobody"]
    with pytest.raises(InvalidDataError, match=r"use run\.result\['posterior'\]"):
        made["posterior"]


def test_problems_are_the_stars_that_need_a_look(made):
    found = made.problems
    assert str(SPECTRA.star_id[3]) in found["STAR_ID"]
    row = found[found["STAR_ID"] == SPECTRA.star_id[3]][0]
    assert "too few usable pixels" in row["FOUND"]
    remarks = {str(s) for s, f in zip(made.star_id, made.table["LABEL_FLAG"], strict=True)
               if f in (0, 1024)}  # fmt: skip
    assert remarks.isdisjoint(found["STAR_ID"])


def test_the_model_is_read_where_the_run_notes_it(made, tmp_path):
    assert made.cannon is CANNON
    np.testing.assert_array_equal(open_run(made.folder).cannon.theta, CANNON.theta)
    bare = bc.infer_run(CANNON, SPECTRA, tmp_path / "run", settings=QUICK, seed=1)
    with pytest.raises(FileFormatError, match="does not say where it is"):
        _ = open_run(bare.folder).cannon


def test_a_model_that_was_changed_since_is_refused(made, tmp_path):
    CANNON.save(tmp_path / "cannon.nc")
    bc.infer_run(CANNON, SPECTRA, tmp_path / "run", settings=QUICK, seed=1,
                 inputs={"cannon": [tmp_path / "cannon.nc"]})  # fmt: skip
    replace(CANNON, scatter=CANNON.scatter * 1.01).save(tmp_path / "cannon.nc", overwrite=True)
    with pytest.raises(FileFormatError, match="is not the model that the run"):
        _ = open_run(tmp_path / "run").cannon
    (tmp_path / "cannon.nc").unlink()
    with pytest.raises(FileFormatError, match=r"cannon\.nc is not there any more"):
        _ = open_run(tmp_path / "run").cannon


STAR = str(SPECTRA.star_id[0])
TAKES = {
    "catalogue": bc.catalogue,
    "comparison": lambda run: bc.comparison(run, CATALOGUE),
    "star_table": lambda run: bc.star_table(run, STAR),
    "scatter_table": lambda run: bc.scatter_table(run, CATALOGUE),
    "mystery_story": lambda run: bc.mystery_story(run, STAR),
    "aspcap_comparison": bc.aspcap_comparison,
    "check_calibration": lambda run: bc.analysis.check_calibration(run, {"catalogue": CATALOGUE}),
    "coverage": lambda run: bc.analysis.coverage(run, CATALOGUE),
    "score": lambda run: bc.analysis.score(run, CATALOGUE, group="posterior"),
    "plot_corner": lambda run: bc.plot_corner(run, STAR),
    "plot_one_to_one": bc.plot_one_to_one,
    "plot_kiel": bc.plot_kiel,
    "plot_kiel_stars": lambda run: bc.plots.plot_kiel_stars(run, [STAR]),
    "write_report": lambda run: bc.runs.write_report(run, cannon=CANNON, sections=[]),
    "draw_corners": lambda run: bc.runs.draw_corners(run, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKES)
def test_functions_that_take_a_result_take_a_run(made, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few stars
        TAKES[name](made)
    plt.close("all")


TAKE_A_MODEL = {
    "plot_scatter": lambda model: bc.plot_scatter(model, window=None),
    "plot_gradients": lambda model: bc.plot_gradients(model, window=None),
    "plot_model": lambda model: bc.plots.plot_model(
        model, SPECTRA, STAR, CATALOGUE.values[0], window=None
    ),
    "diagnose": lambda model: bc.diagnose(model, SPECTRA, CATALOGUE),
    "metallicity_sequence": bc.analysis.metallicity_sequence,
    "plot_metallicity": bc.plot_metallicity,
    "plot_giant_branch": bc.plot_giant_branch,
    "plot_bound": bc.plots.plot_bound,
    "plot_elbo": bc.plots.plot_elbo,
    "plot_loadings": bc.plots.plot_loadings,
    "plot_factor_choice": bc.plots.plot_factor_choice,
    "isochrone_sequence": bc.analysis.isochrone_sequence,
    "ridge_sequence": bc.analysis.ridge_sequence,
    "gradient_extrema": lambda model: bc.analysis.gradient_extrema(model, "TEFF", [5050.0]),
    "sbc_labels": lambda model: bc.analysis.sbc_labels(model, SPECTRA.ivar, 1),
    "infer_labels": lambda model: bc.infer_labels(model, SPECTRA),
    "plot_line_group": lambda model: bc.plots.plot_line_group(model, None),
    "plot_sequence": lambda model: bc.plots.plot_sequence(model, None),
    "plot_disagreements": lambda model: bc.plots.plot_disagreements(None, model, SPECTRA),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TAKE_A_MODEL)[:4])
def test_functions_that_take_a_model_take_a_run_or_its_file(made, name):
    for given in (CANNON, made, open_run(made.folder), made.folder.parent / "cannon.nc"):
        TAKE_A_MODEL[name](given)
    plt.close("all")


@pytest.mark.parametrize("name", TAKE_A_MODEL)
def test_what_is_no_model_is_told(name):
    for given in (3, SPECTRA, None):
        with pytest.raises(InvalidDataError, match=r"a trained model is needed, from train\(\)"):
            TAKE_A_MODEL[name](given)


def test_the_card_says_what_the_run_is(made):
    text = repr(open_run(made.folder))
    assert len(text.splitlines()) <= 7
    assert text.startswith("Run of 31 stars (SIMULATED)\n")
    for part in ("SIMULATED", "TEFF, LOGG", "Gaussian at the mode", "seed 1",
                 "1 without a posterior", "cannon.nc"):  # fmt: skip
        assert part in text
    assert made._repr_html_().count("<tr>") == 6
    (made.folder / "summary.json").rename(made.folder / "kept.json")
    try:
        assert "Run of 31 stars" in repr(open_run(made.folder))
    finally:
        (made.folder / "kept.json").rename(made.folder / "summary.json")


def test_a_seed_that_is_not_given_is_drawn_and_kept(tmp_path):
    first = bc.infer_run(CANNON, SPECTRA, tmp_path / "a", settings=QUICK)
    other = bc.infer_run(CANNON, SPECTRA, tmp_path / "b", settings=QUICK)
    assert first.settings["seed"] != other.settings["seed"]
    again = bc.infer_run(CANNON, SPECTRA, tmp_path / "a", settings=QUICK)
    assert again.settings["seed"] == first.settings["seed"]
    assert again.summary["n_from_earlier"] == 31


def test_a_summary_that_is_damaged_is_refused(made, tmp_path):
    run = bc.infer_run(CANNON, SPECTRA, tmp_path, settings=QUICK, seed=1)
    (run.folder / "summary.json").write_text(json.dumps([1]))
    with pytest.raises(FileFormatError, match="does not hold a summary"):
        _ = open_run(run.folder).summary
