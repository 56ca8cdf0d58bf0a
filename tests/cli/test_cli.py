"""The commands, stage by stage, and what they say to bad input."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.analysis.information import line_windows
from bayes_cannon.base.numerical import interval_from_zero
from bayes_cannon.base.rounding import value_with_error
from bayes_cannon.cli import commands as cli
from bayes_cannon.errors import FitError
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.repeated import open_repeats, run_repeats
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.runs.report.sections import registered_sections
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.training import pipeline


def run(*arguments: object) -> int:
    """Run the command line in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bayes-cannon", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="session")
def stages(tmp_path_factory) -> Path:
    """Folder with a small survey taken through every stage."""
    folder = tmp_path_factory.mktemp("stages")
    assert run("simulate", folder / "survey", "--n-stars", 70, "--seed", 3) == 0
    assert run("prepare", folder / "survey", "-o", folder / "dataset.nc") == 0
    model = ("train", folder / "dataset.nc", "-o", folder / "cannon.nc")
    assert run(*model, "--factors", 2, "--train-fraction", 0.6) == 0
    sample = ("infer", folder / "cannon.nc", folder / "dataset.nc", "-o", folder / "run")
    assert run(*sample, "--method", "laplace") == 0
    return folder


def test_stages_leave_what_they_promise(stages):
    cannon = Cannon.load(stages / "cannon.nc")
    table = Table.read(stages / "run" / "catalogue.fits")
    summary = json.loads((stages / "run" / "summary.json").read_text())
    assert cannon.n_factors == 2
    assert cannon.simulated
    assert len(table) == len(cannon.held_out) == summary["n_stars"] == 28
    assert set(np.char.strip(table["STAR_ID"].astype(str))) == set(cannon.held_out)
    assert np.isfinite(table["TEFF"]).all()
    assert abs(np.median(table["TEFF"] - table["TEFF_ASPCAP"])) < 60
    assert summary["simulated"] is True
    assert (stages / "run" / "figures" / "one-to-one.png").stat().st_size > 20_000


def test_prepare_counts_every_cut(stages, capsys):
    assert run("prepare", stages / "survey", "-o", stages / "again.nc", "--overwrite") == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    removed = {row[0]: int(row[-2]) for row in rows if len(row) > 3 and row[-1].isdigit()}
    for name in ("aspcap", "star", "duplicate", "snr", "labels", "logg", "teff", "feh"):
        assert removed[name] >= 5, name
    assert "70 stars, 7514 pixels" in shown


def test_a_fits_file_is_inferred_with_a_corner_plot(stages, tmp_path, capsys):
    spectra = sorted((stages / "survey" / "mystery").glob("*.fits"))
    arguments = ("infer", stages / "cannon.nc", *spectra, "-o", tmp_path / "run")
    assert run(*arguments, "--method", "laplace") == 0
    shown = capsys.readouterr().out
    table = Table.read(tmp_path / "run" / "catalogue.ecsv")
    assert "1 star, 0 without a posterior" in shown
    for name in ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE"):
        value = value_with_error(table[name][0], table[f"{name}_ERR"][0])
        assert re.search(rf"^  {name} +{re.escape(value)} (K|dex) \(formal ± ", shown, re.MULTILINE)
    assert "LAPLACE: drawn from the Gaussian at the mode" in shown
    truth = Table.read(stages / "survey" / "truth.ecsv")
    true = truth[truth["KIND"] == "mystery"][0]
    assert len(table) == 1
    assert abs(table["TEFF"][0] - true["TEFF"]) < 250
    assert len(list((tmp_path / "run" / "figures").glob("corner-*.png"))) == 1


def test_real_mystery_spectrum_goes_from_fits_to_corner_plot(stages, tmp_path, real_dir):
    source = real_dir / "mystery_spec_wiped.fits"
    arguments = ("infer", stages / "cannon.nc", source, "-o", tmp_path / "run")
    assert run(*arguments, "--method", "laplace") == 0
    table = Table.read(tmp_path / "run" / "catalogue.ecsv")
    # A model of synthetic spectra on a real one: only the region of label space is asked for.
    assert 3800 < table["TEFF"][0] < 5200
    assert (table.meta["SIMULATE"], table.meta["SIMMODEL"]) == (False, True)
    assert len(list((tmp_path / "run" / "figures").glob("corner-*.png"))) == 1


def test_windows_of_known_lines(stages, tmp_path, monkeypatch):
    given = []

    def stopped(*_: object, windows: object, **__: object) -> None:
        given.append(windows)
        raise FitError("enough")

    monkeypatch.setattr(pipeline, "train", stopped)
    words = ("train", stages / "dataset.nc", "-o", tmp_path / "x.nc")
    assert run(*words, "--windows", "lines") == 2
    assert run(*words, "--windows", "lines", "--window", "MG_FE=15740:15775") == 2
    assert run(*words) == 2
    ready = line_windows(("MG_FE", "SI_FE"))
    assert given == [ready, ready | {"MG_FE": [(15740.0, 15775.0)]}, {}]


def test_outliers_among_the_training_stars_are_told(stages, tmp_path, monkeypatch, capsys):
    cannon = Cannon.load(stages / "cannon.nc")
    known = cannon.model_error["differences"].to_dataset()
    assert known["outlier"].notnull().all()
    stars = known["star"].values.tolist()
    p = np.where(np.arange(len(stars)) < 6, 0.9, 0.1)
    tree = cannon.model_error.assign(differences=xr.DataTree(known.assign(outlier=("star", p))))
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: cannon.with_model_error(tree))
    assert run("train", stages / "dataset.nc", "-o", tmp_path / "x.nc") == 0
    told = " ".join(capsys.readouterr().out.split())
    named = ", ".join(f"{star} (0.90)" for star in stars[:5])
    assert "6 probable outliers among the training stars, " in told
    assert told.endswith(f"(probability): {named}, …")


ERRORS = {
    "no survey": (("prepare", "{tmp}/nothing", "-o", "{tmp}/x.nc"), "nothing"),
    "unknown label": (
        ("prepare", "{stages}/survey", "-o", "{tmp}/x.nc", "--label", "MGG_FE"),
        "did you mean MG_FE",
    ),
    "nothing left": (
        ("prepare", "{stages}/survey", "-o", "{tmp}/x.nc", "--snr-min", "9999"),
        "none of",
    ),
    "dataset exists": (
        ("prepare", "{stages}/survey", "-o", "{stages}/dataset.nc"),
        "--overwrite",
    ),
    "degree": (
        ("prepare", "{stages}/survey", "-o", "{tmp}/x.nc", "--degree", "7"),
        "2 to 5",
    ),
    "dataset of another format": (
        ("prepare", "{stages}/survey", "-o", "{tmp}/x.fits"),
        "a dataset is a NetCDF file, .nc, or of many stars a folder, .zarr, but x.fits ends like",
    ),
    "model of another format": (
        ("train", "{tmp}/none.nc", "-o", "{tmp}/X.ZARR"),
        "a model is a NetCDF file, its name ends with .nc, but X.ZARR ends like a file of another",
    ),
    "not a dataset": (("train", "{stages}/survey/truth.ecsv", "-o", "{tmp}/x.nc"), "truth.ecsv"),
    "factors": (
        ("train", "{stages}/dataset.nc", "-o", "{tmp}/x.nc", "--factors", "many"),
        "a number or 'auto'",
    ),
    "window": (
        ("train", "{stages}/dataset.nc", "-o", "{tmp}/x.nc", "--window", "MG_FE=abc"),
        "NAME=low:high",
    ),
    "window of nothing": (
        ("train", "{stages}/dataset.nc", "-o", "{tmp}/x.nc", "--window", "X_FE=15100:16000",
         "--factors", "0"),
        "X_FE",
    ),
    "no model": (("infer", "{tmp}/no.nc", "{stages}/dataset.nc", "-o", "{tmp}/r"), "no.nc"),
    "no spectra": (("infer", "{stages}/cannon.nc", "{tmp}", "-o", "{tmp}/r"), "no apStar"),
    "no file": (("infer", "{stages}/cannon.nc", "{tmp}/a.fits", "-o", "{tmp}/r"), "does not exist"),
    "demo's folder": (("demo", "{stages}"), "choose another path"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line_with_status_2_and_nothing_is_written(case, stages, tmp_path, capsys):
    arguments, message = ERRORS[case]
    before = sorted(p.name for p in tmp_path.iterdir())
    status = run(*(a.format(tmp=tmp_path, stages=stages) for a in arguments))
    error = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_web_page_saved_as_fits_is_said(stages, tmp_path, capsys):
    page = tmp_path / "apStar-page.fits"
    page.write_text("<!DOCTYPE html><html>not found</html>")
    assert run("infer", stages / "cannon.nc", page, "-o", tmp_path / "run") == 2
    assert "apStar-page.fits" in capsys.readouterr().err


def test_every_simulated_file_says_so(stages):
    for path in list((stages / "survey").rglob("*.fits"))[:5]:
        with fits.open(path) as file:
            assert all(hdu.header["SIMULATE"] for hdu in file)


@pytest.mark.parametrize(
    "command", ["simulate", "prepare", "train", "infer", "report", "download", "demo"]
)
def test_every_command_has_help(command, capsys):
    assert run(command, "--help") == 0
    assert f"{command} [OPTIONS]" in capsys.readouterr().out


def test_command_is_installed_and_starts_quickly_without_the_heavy_libraries():
    code = (
        "import sys, bayes_cannon.cli.commands;"
        "print(any(m in sys.modules for m in ('pymc', 'xarray', 'scipy', 'astropy')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
    version = subprocess.run(
        [sys.executable, "-c", "from bayes_cannon.cli import main; main()", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert version.stdout.startswith("bayes-cannon ")


ONLY_PRINT = ("readers", "cite", "show")
"""Commands that write no file and take no time."""


def test_the_help_is_in_sentences_and_its_options_are_the_same_everywhere():
    from typer.main import get_command

    for name, command in get_command(cli.app).commands.items():
        first = (command.help or "").split("\n", maxsplit=1)[0]
        assert first.endswith("."), name
        assert len(first) < 70, "whole in the list of commands"
        options = {opt: p for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        assert ({"--progress", "--quiet"} <= options.keys()) == (name not in ONLY_PRINT), name
        if name not in ("download", *ONLY_PRINT):
            assert "--overwrite" in options, name
        for parameter in command.params:
            text = parameter.help or ""
            assert text[:1].isupper() or text.startswith(("TOML", "allStar")), (name, text)
            assert text.endswith("."), (name, text)


def test_quiet_shows_no_progress(stages, tmp_path):
    from bayes_cannon.cli import console

    arguments = ("prepare", stages / "survey", "-o", tmp_path / "dataset.nc", "--overwrite")
    assert run(*arguments, "--quiet") == 0
    assert console._ERR.quiet
    assert run(*arguments) == 0
    assert not console._ERR.quiet


@pytest.fixture(scope="module")
def visits(stages, tmp_path_factory):
    """Folder of the repeats of the small survey, and what the command said."""
    out, said = tmp_path_factory.mktemp("repeats") / "repeats", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run(*repeats_of(stages, out), "--flagged", "keep", "--all-stars") == 0
    return out, said.getvalue()


def repeats_of(stages, out, survey="survey"):
    place = stages / survey
    return ("repeats", stages / "cannon.nc", place, "-o", out, "--method", "laplace")


def test_repeats_are_compared_and_go_into_the_report(stages, visits, tmp_path, capsys):
    out, said = visits
    assert "SIMULATED" in said
    assert "is not seen" in said
    for name in ("repeats", "repeats-snr", "pairs"):
        ecsv, fits = (Table.read(out / f"{name}.{end}") for end in ("ecsv", "fits"))
        assert len(ecsv) == len(fits) > 0
    table = Table.read(out / "repeats.ecsv")
    # What repeats see is less than the whole error, and more than nothing.
    assert np.all(table["REPEAT_ERR"] < 1.3 * table["CAL_ERR"])
    assert np.all(table["SCALE"] > 0.05)
    found = open_repeats(out)
    np.testing.assert_allclose(found.table["SCALE"], table["SCALE"], rtol=1e-4)
    only = [one for one in registered_sections() if one.key == "repeats"]
    made = write_report(stages / "run", repeats=out, out=tmp_path / "page.html", sections=only)
    assert not made.failed
    page = made.path.read_text()
    assert "Repeated visits" in page
    assert "error of the model above all" in page
    assert run(*repeats_of(stages, out)) == 2
    assert "exists; choose another path or pass --overwrite" in capsys.readouterr().err


def test_few_visits_to_many_stars_say_what_many_visits_to_few_do(stages, visits, tmp_path):
    """Scales within 3.5 joint errors, floors in 99.5 % intervals: false alarm 3 %, fixed seeds."""
    settings = SimulationSettings(
        snr_median=400, snr_range=(200, 900), visit_shares=(0.0,) * 15 + (1.0,), decoys_per_cut=0
    )
    survey = simulate_survey(tmp_path / "survey", n_stars=14, seed=8, settings=settings)
    many = run_repeats(
        stages / "cannon.nc", survey, tmp_path / "many", flagged="keep",
        settings=InferenceSettings(method="laplace"), seed=1,
    )  # fmt: skip
    few = open_repeats(visits[0])
    assert many.labels.star.size > 150
    joint = np.hypot(few.table["SCALE_ERR"], many.table["SCALE_ERR"])
    assert np.all(np.abs(few.table["SCALE"] - many.table["SCALE"]) < 3.5 * joint)
    floors = few.fit["posterior"].to_dataset()["floor"].values.reshape(-1, len(few.table))
    truth = many.fit["posterior"].to_dataset()["floor"].values.reshape(-1, len(few.table))
    for i, floor in enumerate(floors.T):
        assert interval_from_zero(floor, 0.995)[1] > interval_from_zero(truth[:, i], 0.683)[0]
        assert interval_from_zero(floor, 0.995)[0] < interval_from_zero(truth[:, i], 0.683)[1]
