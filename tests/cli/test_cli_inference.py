"""What `train`, `infer` and `report` say on the command line of what is left out or undone."""

import dataclasses
import logging
import re
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.base.rounding import value_with_error
from bayes_cannon.cli import commands
from bayes_cannon.errors import FitError
from bayes_cannon.runs.report import physics as report_physics
from bayes_cannon.runs.report.parts import Drawing
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.surveys.apogee.layout import WAVELENGTH
from tests.cli.test_cli import run
from tests.line_survey import LineSurvey

SURVEY = LineSurvey("AGE", 0.2, 3.2, n_pixels=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a dataset, in which one star has few pixels left and lacks its age."""
    place = tmp_path_factory.mktemp("files")
    values = SURVEY.stars(40, 1)[0]
    values[0, 1] = np.nan
    stars = SURVEY.training_set(40, values=values, units={"AGE": "Gyr"}, allow_missing_labels=True)
    SURVEY.model(40, units={"AGE": "Gyr"}).save(place / "cannon.nc")
    ivar = stars.spectra.ivar.copy()
    ivar[0, 12:] = 0
    spectra = dataclasses.replace(stars.spectra, ivar=ivar)
    TrainingSet(spectra, stars.labels, settings=dict(stars.settings)).save(place / "dataset.nc")
    return place


def infer(folder, out, *options):
    """Status of `infer` on all stars of the dataset."""
    files = (folder / "cannon.nc", folder / "dataset.nc")
    quick = ("--all-stars", "--method", "laplace", "--draws", 50, "--chains", 2)
    return run("infer", *files, "-o", out, *quick, *options)


def test_stars_left_undone_are_said_and_give_status_1(folder, tmp_path, capsys):
    assert infer(folder, tmp_path / "run") == 1
    said = capsys.readouterr()
    assert "1 of 40 stars (star-1) have fewer than 60 usable pixels of the model's 120" in said.err
    assert "--min-pixels" in said.err
    assert "40 stars (40 of them in the training set), 1 without a posterior" in said.out
    assert "NO_PIXELS 1" in said.out
    assert infer(folder, tmp_path / "other", "--min-pixels", 10) == 0
    assert "0 without a posterior" in capsys.readouterr().out
    assert infer(folder, tmp_path / "none", "--min-pixels", 0) == 2


def test_show_prints_a_star_and_names_those_near(folder, tmp_path, capsys):
    infer(folder, tmp_path / "run", "--min-pixels", 10, "--corner", "star-3")
    table = bc.open_run(tmp_path / "run").table
    capsys.readouterr()
    assert run("show", tmp_path / "run", "star-1", "star-3") == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first.startswith("star-1\n")
    assert "    FEW_PIXELS: fewer than half of the model's pixels are usable. Errors grow" in first
    assert "corner plot: none yet; infer … --corner star-1 draws it" in first
    row = table[2]
    shown = value_with_error(row["AGE"], row["AGE_FORMAL_ERR"])
    assert f"  AGE      {shown} Gyr (formal)\n" in second
    assert f"S/N {row['SNR']:.0f}, reduced chi-square {row['CHI2_RED']:.2f}, pixels 120" in second
    flag = int(row["LABEL_FLAG"])
    assert f"  LABEL_FLAG {flag}" in second
    assert "LAPLACE: drawn from the Gaussian at the mode, not sampled. Sample the star" in second
    assert f"corner plot: {tmp_path / 'run' / 'figures' / 'corner-star-3.png'}" in second
    assert f"bayes-cannon report {tmp_path / 'run'} makes it" in second
    assert run("show", tmp_path / "run", "star-3", "Star_33") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no star 'Star_33' in the run" in said.err
    assert "did you mean star-33" in said.err
    opened = bc.open_run(tmp_path / "run")
    vars(opened)["star_id"] = np.array(["M15/star-3", "star-3#2", "star-4"])
    assert opened.named("star-3") == ["M15/star-3", "star-3#2"]
    assert opened.named("star-3#2") == ["star-3#2"]


def test_priors_of_a_file_may_leave_out_the_mean(folder, tmp_path, capsys):
    path = tmp_path / "priors.toml"
    path.write_text("TEFF = [4000, 6000]\nAGE = [2.0, 14]\n")
    assert infer(folder, tmp_path / "run", "--min-pixels", 10, "--priors", path) == 0
    path.write_text("AGE = [100, 200]\n")
    assert infer(folder, tmp_path / "far", "--min-pixels", 10, "--priors", path) in (0, 1)
    assert "the prior leaves out every training star: AGE" in capsys.readouterr().err


@pytest.mark.parametrize("how", [None, "auto", "impute", "drop"])
def test_ways_with_missing_labels(folder, tmp_path, monkeypatch, capsys, how):
    asked = []

    def stop(_stars, *, settings, **_options):
        asked.append(settings.missing)
        raise FitError("far enough")

    monkeypatch.setattr(sys.modules["bayes_cannon.training.pipeline"], "train", stop)
    options = () if how is None else ("--missing", how)
    assert run("train", folder / "dataset.nc", "-o", tmp_path / "model.nc", *options) == 2
    assert asked == [how or "auto"]
    assert "far enough" in capsys.readouterr().err
    assert run("train", folder / "dataset.nc", "-o", tmp_path / "m.nc", "--missing", "mean") == 2


@pytest.mark.parametrize(
    ("stopped", "told"),
    [
        ("training.pipeline.train", "nothing is kept, and nothing was written; the same command"),
        ("analysis.binaries.finding.find_binaries", "nothing is kept, and nothing was written"),
        ("runs.binaries.write_binaries", "out is not complete; run the same command again with --"),
    ],
)
def test_stopped_work_says_what_is_kept(folder, tmp_path, monkeypatch, capsys, stopped, told):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    module, _, name = stopped.rpartition(".")
    search = import_module("bayes_cannon.analysis.binaries.finding")
    monkeypatch.setattr(search, "find_binaries", lambda *_, **__: None)
    monkeypatch.setattr(import_module(f"bayes_cannon.{module}"), name, stop)
    files = (folder / "cannon.nc", folder / "dataset.nc")
    arguments = ("train", files[1]) if name == "train" else ("binaries", *files)
    assert run(*arguments, "-o", tmp_path / "out") == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("stopped; ")
    assert told in line


@pytest.mark.parametrize("verbose", [False, True])
def test_what_was_not_foreseen_is_one_line(folder, tmp_path, capsys, monkeypatch, verbose):
    def fail(*_args, **_options):
        raise KeyError("of an\nodd kind")

    monkeypatch.setattr("bayes_cannon.runs.run.infer_run", fail)
    monkeypatch.setattr("logging.Logger.isEnabledFor", lambda *_: verbose)
    assert infer(folder, tmp_path / "run") == 2
    said = capsys.readouterr().err
    lines = said.strip().splitlines()
    assert lines[-1].startswith("error: KeyError: ")
    assert "--verbose" in lines[-1]
    assert ("Traceback" in said) is verbose
    assert verbose or len(lines) == 1


def test_units_and_reasons_in_the_report(folder, tmp_path, capsys):
    assert infer(folder, tmp_path / "run", "--min-pixels", 10) == 0
    capsys.readouterr()
    assert run("report", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "aspcap=" not in said
    assert "could not be made" not in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", " ", re.sub(r'src="data:[^"]*"', "", page))
    assert not re.findall(r"AGE\s*\(dex\)", text)
    assert re.findall(r"AGE\s*\(Gyr\)", text)
    assert "No lines are known for AGE" in text


def test_a_label_without_lines_leaves_the_pages_of_the_others(monkeypatch):
    """AGE before MG_FE took the page of the Mg I triplet out of the report."""
    monkeypatch.setattr(report_physics, "gradients", lambda _: iter(()))
    names = ("TEFF", "AGE", "MG_FE")
    cannon = SimpleNamespace(
        names=names,
        wavelength=WAVELENGTH,
        used=np.ones(WAVELENGTH.size, dtype=bool),
        medium="vacuum",
    )
    items = list(report_physics.gradient_spectra(SimpleNamespace(cannon=cannon)))
    drawn = [item.name for item in items if isinstance(item, Drawing)]
    assert drawn == ["lines-TEFF", "lines-MG_FE"]
    told = [item.text for item in items if not isinstance(item, Drawing)]
    assert told == ["No lines are known for AGE; its gradient is shown above."]


@pytest.mark.parametrize("verbose", [False, True])
def test_what_dask_logs_of_a_lost_scheduler_is_for_those_who_ask(monkeypatch, verbose):
    given = {}
    monkeypatch.setattr("logging.basicConfig", lambda **options: given.update(options))
    commands._options(verbose=verbose)
    (handler,) = given["handlers"]
    of_dask, of_ours = (
        logging.LogRecord(name, logging.ERROR, "", 0, "lost", (), None)
        for name in ("distributed.client", "bayes_cannon.base.engines.cluster")
    )
    assert bool(handler.filter(of_dask)) is verbose
    assert handler.filter(of_ours)
