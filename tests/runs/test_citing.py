"""The paragraph on methods says what the run recorded, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bayes_cannon import open_run
from bayes_cannon.cli.runs import cite
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.citing import methods_paragraph
from bayes_cannon.runs.summary import write_summary
from tests.report_problem import make_run

TRAINING = {
    "method": "map", "degree": 2, "n_factors": "auto", "chosen_factors": 30, "folds": 5,
    "n_stars": 300, "latent_labels": True, "windows": {"MG_FE": [[15742.0, 15773.0]]},
}  # fmt: skip
CUTS = {"snr_min": 50.0, "logg_max": 4.0, "teff_max": None, "feh_min": -1.0}
PRIORS = {
    "TEFF": {"distribution": "uniform", "lower": 0.0, "upper": 10000.0},
    "LOGG": {"distribution": "truncated", "mean": 2.5, "sd": 0.5, "lower": 0.0},
    "FE_H": {"distribution": "normal", "mean": -0.2, "sd": 0.3},
}
SUMMARY = {
    "n_stars": 6, "n_failed": 1, "n_flagged": 2, "rhat_below_1.01": 1.0,
    "method": "nuts", "seed": 4,
    "settings": {"method": "nuts", "chains": 4, "draws": 500, "tune": 100}, "priors": PRIORS,
    "model": {
        "training": TRAINING, "versions": {"pymc": "6.4.1", "bayes_cannon": "0.1.0"},
        "dataset": {"reader": "apogee", "release": "dr17", "cuts": json.dumps(CUTS)},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("cited"), n_stars=6)


@pytest.fixture
def run(folder):
    """The run with a summary as `infer` writes it; its files stay as they are."""
    run = open_run(folder)
    vars(run)["summary"] = json.loads(json.dumps(SUMMARY))
    return run


def test_paragraph_says_how_the_run_was_made(run):
    said = methods_paragraph(run)
    for part in (
        "[The spectra of this run are simulated.] We inferred Teff, log g, [Fe/H], [Mg/Fe] and",
        "of 6 stars with bayes_cannon version 0.1.0, The Cannon (Ness et al. 2015)",
        "polynomial of degree 2 in the labels",
        "with 30 nuisance factors, their number chosen by predictive density.",
        "trained on 300 stars of APOGEE DR17 (Blanton et al. 2017; ",
        "S/N ≥ 50, log g ≤ 4 and [Fe/H] ≥ −1, with catalogue labels whose errors were modelled",
        "[Mg/Fe] was confined to windows",
        "(Hoffman & Gelman 2014), 4 chains of 500 draws after 100 steps of warm-up (seed 4)",
        "Teff uniform from 0 to 10000 K, log g normal (2.5 ± 0.5, cut from 0 to ∞) and "
        "[Fe/H] normal (−0.2 ± 0.3)",
        "a model error learnt by 5-fold cross-validation",
        "1 star has no posterior. 2 of 6 carry a flag",
        "This work used PyMC 6.4.1, ArviZ (Kumar et al. 2019) and astropy (Astropy Collab",
    ):
        assert part in said.text, part
    assert str(said) == said.text
    keys = [reference.key for reference in said.references]
    assert keys[:3] == ["bayes_cannon", "Ness2015", "AbrilPla2023"]
    assert {"Abdurrouf2022", "Majewski2017", "GarciaPerez2016"} <= set(keys)
    assert len(keys) == len(set(keys))
    assert "Gaia2023" not in keys


def test_the_effective_number_of_pixels_is_told_where_it_is_not_all(run):
    assert "independent" not in methods_paragraph(run).text
    cannon = Cannon.load(run.folder.parent / "cannon.nc")
    vars(run)["cannon"] = replace(
        cannon, kappa=np.full(3, 3.5)[: len(cannon.kappa)],
        kappa_noise=np.full(3, 2.0)[: len(cannon.kappa)],
    )  # fmt: skip
    said = methods_paragraph(run).text
    assert "divided by the number of pixels per independent one, 2.0 to 3.5, learnt" in said


def test_bibtex_has_an_entry_for_every_work_that_is_cited(run):
    said = methods_paragraph(run)
    assert said.bibtex.count("\n@") + 1 == len(said.references)
    assert said.bibtex.count("{") == said.bibtex.count("}")
    assert "doi = {10.1088/0004-637X/808/1/16}" in said.bibtex


def test_real_stars_of_gaia_and_another_method_are_told(run):
    run.summary["model"]["dataset"] = {"spectra": "Gaia DR3 XP", "labels": "APOGEE DR17"}
    run.summary["settings"]["method"] = run.summary["method"] = "laplace"
    run.summary["model"]["training"] |= {"chosen_factors": 0, "latent_labels": False}
    said = methods_paragraph(run)
    assert "Gaia XP spectra (Gaia Collaboration 2023) and labels of APOGEE DR17" in said.text
    assert "normal approximation at the mode" in said.text
    assert "taken as exact" in said.text
    assert "nuisance factor" not in said.text
    assert "Hoffman2014" not in {reference.key for reference in said.references}


def test_sdss_v_is_cited_by_its_own_papers(run):
    run.summary["model"]["dataset"] |= {"reader": "mwm", "release": "dr19"}
    said = methods_paragraph(run)
    assert "300 stars of APOGEE DR19 (Kollmeier et al. 2025; " in said.text
    keys = {reference.key for reference in said.references}
    assert {"Kollmeier2025", "SDSS2025", "Majewski2017"} <= keys
    assert not keys & {"Blanton2017", "Abdurrouf2022"}


def test_what_is_not_recorded_is_listed_and_not_said(folder, capsys):
    cite(folder)
    shown = capsys.readouterr()
    assert shown.out.startswith("[The spectra of this run are simulated.] We inferred Teff")
    assert "None" not in shown.out
    assert "?" not in shown.out.replace("? chains", "").replace("? steps", "")
    assert "not recorded: version of the package, number of nuisance factors" in shown.err
    cite(folder, bibtex=True)
    shown = capsys.readouterr()
    assert shown.out.startswith("@software{bayes_cannon,")
    assert shown.err == ""


def test_a_run_without_a_summary_is_refused(folder, tmp_path):
    run = open_run(folder)
    vars(run)["summary"] = {}
    with pytest.raises(InvalidDataError, match=r"has no summary\.json.*repeat the command"):
        methods_paragraph(run)
    assert write_summary(tmp_path, SUMMARY)["n_stars"] == 6
