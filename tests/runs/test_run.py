import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import arviz as az
import corner
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from matplotlib.figure import Figure
from PIL import Image

from bayes_cannon.base.locks import lock_folder
from bayes_cannon.errors import InvalidDataError, LabelError, NoStarsError, OutputExistsError
from bayes_cannon.inference import infer
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.posterior import model_is_simulated
from bayes_cannon.inference.sampler import LabelSampler
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.label_priors import LabelPrior
from bayes_cannon.plots.corner import plot_corner
from bayes_cannon.runs import corners as run_corners
from bayes_cannon.runs.corners import corner_files, draw_corners
from bayes_cannon.runs.fingerprint import fingerprint
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.summary import write_summary
from tests.run_problem import CANNON, QUICK, labels_of, make_spectra, write_files

ROOT = Path(__file__).parents[2]
SPECTRA = make_spectra()
NUTS = InferenceSettings(draws=150, tune=100, chains=2, ess_limit=50, rhat_limit=1.1, block_size=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    wanted = [str(SPECTRA.star_id[i]) for i in (0, 3)]
    return infer_run(
        CANNON, SPECTRA, folder, settings=QUICK, seed=1, aspcap=labels_of(SPECTRA), corner=wanted
    )


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled") / "run"
    return infer_run(CANNON, make_spectra(5), folder, settings=NUTS, seed=1)


def test_posteriors_are_those_of_one_call(finished):
    whole = infer_labels(CANNON, SPECTRA, settings=QUICK, seed=1)
    for name in whole.children:
        xr.testing.assert_equal(finished.result[name].to_dataset(), whole[name].to_dataset())


def test_files_of_a_run(finished):
    folder = finished.folder
    assert {p.name for p in folder.iterdir()} == {
        "posterior.zarr", "progress", "figures", "summary.json", "catalogue.fits",
        "catalogue.ecsv",
    }  # fmt: skip
    names = {p.name for p in (folder / "figures").iterdir()}
    assert names == {"corner-star0.png", "one-to-one.png"}, "row 3 has no posterior to draw"
    for kind in ("fits", "ecsv"):
        table = Table.read(folder / f"catalogue.{kind}")
        assert [str(s).strip() for s in table["STAR_ID"]] == SPECTRA.star_id.tolist()
        assert np.ma.asarray(table["LABEL_COV"]).shape == (11, 2, 2)


def test_real_stars_and_a_model_of_simulated_ones_are_told_apart(tmp_path, finished):
    assert CANNON.simulated
    assert finished.table.meta["SIMULATE"]
    real = replace(SPECTRA, simulated=False)
    run = infer_run(CANNON, real, tmp_path / "run", settings=QUICK, seed=1)
    assert (run.table.meta["SIMULATE"], run.table.meta["SIMMODEL"]) == (False, True)
    assert model_is_simulated(open_run(run.folder).result)
    report = write_report(run.folder, cannon=CANNON, sections=[])
    page = report.path.read_text()
    assert "The model was trained on SIMULATED stars" in page
    assert "no star of this run is real" not in page


def test_a_star_without_pixels_is_one_flagged_row(finished):
    table = finished.table
    bad = np.arange(11) == 3
    for name in CANNON.names:
        np.testing.assert_array_equal(np.isnan(table[name]), bad)
    assert (table["LABEL_FLAG"][bad] & 1 == 1).all()
    assert (table["LABEL_FLAG"][~bad] & 1 == 0).all()
    assert table["DIVERGENCES"][3] == -1


def test_summary(finished):
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary["n_stars"] == 11
    assert summary["n_failed"] == 1
    assert summary["flags"]["NO_PIXELS"] == 1
    # Other tests run the same folder again, which rewrites its summary.
    assert finished.summary["n_from_earlier"] == 0
    assert summary["seconds"] > 0
    assert summary["seconds_per_star"] > 0
    assert summary["simulated"] is True
    assert summary["settings"]["draws"] == 20
    assert summary["labels"] == ["TEFF", "LOGG"]
    assert summary["priors"]["TEFF"] == {"distribution": "uniform", "lower": 0, "upper": 10000}
    assert [row["LABEL"] for row in summary["against_catalogue"]] == ["TEFF", "LOGG"]
    assert [row["N"] for row in summary["against_catalogue"]] == [10, 10]
    assert summary["rhat_below_1.01"] is None, "nothing was sampled"


def test_the_same_call_again_ends_at_once(finished, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("sampled again")

    monkeypatch.setattr(infer, "sample_block", never)
    monkeypatch.setattr(run_corners, "plot_corner", never)
    before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("0.*")}
    again = infer_run(
        CANNON, SPECTRA, finished.folder, settings=replace(QUICK, cores=2), seed=1,
        aspcap=labels_of(SPECTRA), corner=["star0"],
    )  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("0.*")} == before
    assert again.summary["n_from_earlier"] == 11
    assert again.summary["seconds"] == finished.summary["seconds"]
    np.testing.assert_array_equal(again.table["TEFF"], finished.table["TEFF"])


OTHER = {
    "seed": {"seed": 2},
    "settings": {"settings": replace(QUICK, draws=21)},
    "priors": {"priors": {"TEFF": LabelPrior.uniform(3000, 6000)}},
    "spectra": {"spectra": make_spectra(seed=2)},
    "model": {"cannon": replace(CANNON, scatter=CANNON.scatter * 1.01)},
}


@pytest.mark.parametrize("what", OTHER)
def test_other_inputs_are_refused(finished, what):
    given = {"cannon": CANNON, "spectra": SPECTRA, "settings": QUICK, "seed": 1} | OTHER[what]
    cannon, spectra = given.pop("cannon"), given.pop("spectra")
    with pytest.raises(OutputExistsError, match=f"a run with other {what}; choose another path"):
        infer_run(cannon, spectra, finished.folder, **given)


def test_digests_see_every_part_of_the_model():
    def digest(cannon):
        priors = object()
        return fingerprint(cannon, SPECTRA, QUICK, priors, 1)["model"]  # type: ignore[arg-type]

    basis = replace(CANNON.basis, scale=CANNON.basis.scale * 2)
    others = [replace(CANNON, basis=basis), replace(CANNON, used=~CANNON.used)]
    others += [
        replace(CANNON, **{name: getattr(CANNON, name) + 1})
        for name in (
            "wavelength",
            "theta",
            "loadings",
            "coef_cov",
            "scatter",
            "log_scatter_sd",
            "factors",
        )
    ]
    for value in (1.0, 2.0):
        error = xr.DataTree.from_dict({"/": xr.Dataset({"sd": ("label_name", [value])})})
        others.append(CANNON.with_model_error(error))
    found = {digest(cannon) for cannon in [CANNON, *others]}
    assert len(found) == len(others) + 1
    assert digest(replace(CANNON, settings={"note": "other"})) in found


def test_overwrite_starts_anew(tmp_path):
    infer_run(CANNON, SPECTRA, tmp_path / "r", settings=QUICK, seed=1, corner=["star0"])
    other = infer_run(CANNON, SPECTRA, tmp_path / "r", settings=QUICK, seed=2, overwrite=True)
    assert other.summary["seed"] == 2
    assert other.summary["n_from_earlier"] == 0
    assert not (tmp_path / "r" / "figures" / "corner-star0.png").exists()


@pytest.mark.parametrize("n_stars", [9, 18])
def test_work_is_in_blocks_and_every_star_is_done_once(tmp_path, monkeypatch, n_stars):
    calls = []

    def counted(pixels, flux, ivar, star_id, **kwargs):
        calls.append(star_id.tolist())
        return sample_block(pixels, flux, ivar, star_id, **kwargs)

    sample_block = infer.sample_block
    monkeypatch.setattr(infer, "sample_block", counted)
    spectra, told = make_spectra(n_stars), []
    infer_run(CANNON, spectra, tmp_path, settings=QUICK, progress=lambda *n: told.append(n), seed=0)
    assert [len(ids) for ids in calls] == [4] * (n_stars // 4) + [n_stars % 4]
    assert [star for ids in calls for star in ids] == spectra.star_id.tolist()
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    assert told[-1] == (n_stars, n_stars, "inference")


def test_one_compilation_for_any_number_of_blocks(sampled):
    assert len(sampled.result["posterior"].star) == 5
    keys = [key for key in LabelSampler._cache if key[0] == CANNON.names]
    assert len(keys) == 1


def test_a_run_that_raised_goes_on(tmp_path, monkeypatch):
    sample_block, calls = infer.sample_block, []

    def fragile(pixels, flux, ivar, star_id, **kwargs):
        calls.append(star_id[0])
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return sample_block(pixels, flux, ivar, star_id, **kwargs)

    monkeypatch.setattr(infer, "sample_block", fragile)
    with pytest.raises(RuntimeError, match="power cut"):
        infer_run(CANNON, SPECTRA, tmp_path / "r", settings=QUICK, seed=1)
    assert not (tmp_path / "r" / ".lock").exists()
    done = infer_run(CANNON, SPECTRA, tmp_path / "r", settings=QUICK, seed=1)
    assert done.summary["n_from_earlier"] == 4
    assert calls[2:] == [SPECTRA.star_id[4], SPECTRA.star_id[8]]


def test_priors_decide_and_are_told(tmp_path):
    priors = {
        "TEFF": LabelPrior.truncated(4000, 0.05, lower=3000),
        "LOGG": LabelPrior.normal(2.0, 0.5),
    }
    run = infer_run(CANNON, SPECTRA, tmp_path, settings=QUICK, priors=priors, seed=0)
    assert run.summary["priors"] == {
        "TEFF": {"distribution": "truncated", "lower": 3000.0, "mean": 4000.0, "sd": 0.05},
        "LOGG": {"distribution": "normal", "mean": 2.0, "sd": 0.5},
    }
    good = np.isfinite(run.table["TEFF"])
    assert np.abs(run.table["TEFF"][good] - 4000).max() < 6


def test_bad_arguments_are_refused_before_any_work(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InvalidDataError, match="not in these 11 spectra: nobody"):
        infer_run(CANNON, SPECTRA, folder, corner=["nobody"], seed=0)
    with pytest.raises(LabelError, match="priors are given for AGE"):
        infer_run(CANNON, SPECTRA, folder, priors={"AGE": LabelPrior.uniform(0, 14)}, seed=0)
    with pytest.raises(NoStarsError, match="no spectrum"):
        infer_run(CANNON, SPECTRA.select([]), folder, seed=0)
    assert not folder.exists()


def test_a_run_that_failed_at_once_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InvalidDataError, match="not on the wavelengths"):
        infer_run(CANNON, replace(SPECTRA, wavelength=SPECTRA.wavelength + 1.0), folder, seed=0)
    assert not folder.exists()


def test_a_run_of_stars_that_all_fail(tmp_path):
    spectra = make_spectra(3, bad=(0, 1, 2))
    run = infer_run(
        CANNON,
        spectra,
        tmp_path,
        settings=QUICK,
        aspcap=labels_of(spectra),
        corner=["star0"],
        seed=0,
    )
    assert run.summary["n_failed"] == run.summary["n_flagged"] == 3
    assert "against_catalogue" not in run.summary


def test_labels_of_other_stars_are_no_comparison(tmp_path):
    other = replace(labels_of(SPECTRA), star_id=np.array([f"other{i}" for i in range(11)]))
    run = infer_run(
        CANNON, SPECTRA, tmp_path, settings=QUICK, aspcap=other, corner=["star0"], seed=0
    )
    assert "against_catalogue" not in run.summary
    assert (tmp_path / "figures" / "corner-star0.png").exists()


def test_summary_is_strict_json(tmp_path):
    write_summary(
        tmp_path, {"a": np.float32("nan"), "b": [np.int64(3), (1.5, np.inf)], "c": {1: np.True_}}
    )
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == {"a": None, "b": [3, [1.5, None]], "c": {"1": True}}


# ArviZ and corner on one star of an opened run


@pytest.fixture
def one_star(sampled):
    return open_run(sampled.folder).result.sel(star="star0")


def test_summary_of_arviz(one_star):
    table = az.summary(one_star)
    assert list(table.index) == ["TEFF", "LOGG"]
    assert np.isfinite(table.loc["TEFF"].astype(float)).all()


@pytest.mark.parametrize(
    "plot", ["plot_trace", "plot_dist", "plot_rank", "plot_pair", "plot_energy", "plot_forest"]
)
def test_plots_of_arviz(one_star, plot):
    drawn = getattr(az, plot)(one_star, backend="matplotlib")
    assert drawn.viz is not None
    plt.close("all")


def test_plot_of_corner(one_star):
    figure = corner.corner(one_star["posterior"].to_dataset(), var_names=["TEFF", "LOGG"])
    assert len(figure.axes) == 4
    plt.close(figure)


def test_sample_stats_are_kept(sampled):
    stats = sampled.result["sample_stats"]
    assert stats["diverging"].dtype == bool
    assert sampled.summary["rhat_below_1.01"] is not None
    assert sampled.table["DIVERGENCES"][3] == -1, "the star without pixels was not sampled"


# Corner plots of many stars


def test_names_of_files_differ_and_are_plain(tmp_path):
    files = corner_files(["a/b", "a_b", "A_b", "2M1+2", "ok#2"], tmp_path)
    names = [path.name.lower() for path in files.values()]
    assert len(set(names)) == 5
    assert files["2M1+2"].name == "corner-2M1+2.png"
    assert all(path.parent == tmp_path for path in files.values())


def test_figures_are_closed_and_whole(finished, tmp_path, monkeypatch):
    stars = [str(s) for s in SPECTRA.star_id[:3]]
    told, open_figures = [], set(plt.get_fignums())
    files = corner_files(stars, tmp_path)
    draw_corners(finished.folder, files, progress=lambda *n: told.append(n))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files.values())
    assert told == [(k, 3, "corner plots") for k in (1, 2, 3)]
    assert set(plt.get_fignums()) == open_figures


@pytest.mark.slow
def test_processes_draw_the_same(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(run_corners, "_FEW", 1)
    monkeypatch.setattr(run_corners, "_BATCH", 2)
    stars = [str(SPECTRA.star_id[i]) for i in (0, 1, 2)]
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        files = corner_files(stars, folder)
        draw_corners(finished.folder, files, aspcap=labels_of(SPECTRA), processes=processes)
        assert all(path.stat().st_size > 10_000 for path in files.values())
    for path in one.iterdir():
        np.testing.assert_array_equal(plt.imread(path), plt.imread(two / path.name))


def test_an_executor_of_the_caller_draws_what_is_missing(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(run_corners, "_BATCH", 1)
    files = corner_files([str(s) for s in SPECTRA.star_id[:3]], tmp_path)
    first, *others = files.values()
    first.write_bytes(b"drawn before")
    told, snr = [], {str(SPECTRA.star_id[1]): 123.0}
    with ThreadPoolExecutor(2) as pool:
        draw_corners(
            finished.folder, files, aspcap=labels_of(SPECTRA), snr=snr, executor=pool,
            progress=lambda *n: told.append(n),
        )  # fmt: skip
        assert pool.submit(int, 7).result() == 7, "it is left open"
    assert first.read_bytes() == b"drawn before"
    assert told[-1] == (3, 3, "corner plots")
    for path, star in zip(others, list(files)[1:], strict=True):
        figure = plot_corner(
            finished.result, star, aspcap=labels_of(SPECTRA), snr=snr.get(star), figure=Figure()
        )
        run_corners._save(figure, tmp_path / "alone.png")
        np.testing.assert_array_equal(plt.imread(path), plt.imread(tmp_path / "alone.png"))


def test_the_few_colours_of_a_file_are_those_of_the_figure(finished, tmp_path):
    figure = plot_corner(finished.result, "star0", aspcap=labels_of(SPECTRA), figure=Figure())
    run_corners._save(figure, tmp_path / "few.png")
    few = np.asarray(Image.open(tmp_path / "few.png").convert("RGB"), dtype=float)
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
    off = np.abs(few - drawn).max(axis=-1)
    assert off.max() < 64
    assert np.mean(off > 16) < 0.01
    assert (few[:5] == 255).all(), "white stays white"


def test_what_a_worker_raises_comes_back_and_what_is_drawn_stays(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(run_corners, "_BATCH", 1)
    files = corner_files(["star0", "nobody"], tmp_path)
    with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidDataError, match="nobody"):
        draw_corners(finished.folder, files, executor=pool)
    assert files["star0"].exists()
    assert not files["nobody"].exists()


def test_processes_end_after_the_figure_at_hand_when_stopped(finished, tmp_path, monkeypatch):
    """What `draw_corners` sets on Ctrl-C."""
    stop, drawn = threading.Event(), []

    def draw(*args, **kwargs):
        drawn.append(args[1])
        stop.set()
        return plot_corner(*args, **kwargs)

    monkeypatch.setattr(run_corners, "_stop", stop)
    monkeypatch.setattr(run_corners, "plot_corner", draw)
    files = corner_files([str(s) for s in SPECTRA.star_id[:3]], tmp_path)
    draw_corners(finished.folder, files)
    assert drawn == ["star0"]
    assert [path.exists() for path in files.values()] == [True, False, False]


def test_what_lost_processes_left_is_drawn_here(finished, tmp_path, monkeypatch, caplog):
    def lost(pool, run, files, todo, *others):
        raise BrokenProcessPool("a process ended")

    monkeypatch.setattr(run_corners, "_FEW", 1)
    monkeypatch.setattr(run_corners, "_draw_with", lost)
    files = corner_files([str(s) for s in SPECTRA.star_id[:2]], tmp_path)
    draw_corners(finished.folder, files, processes=2)
    assert all(path.exists() for path in files.values())
    assert "a process that drew corner plots ended early" in caplog.text


def test_an_executor_and_processes_are_two_ways_to_say_one_thing(finished, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(InvalidDataError, match="not both"):
            draw_corners(finished.folder, {}, executor=pool, processes=2)
        with pytest.raises(InvalidDataError, match="not both"):
            infer_run(
                CANNON, SPECTRA, tmp_path / "r", settings=QUICK, executor=pool, processes=2, seed=0
            )
    assert not (tmp_path / "r").exists(), "refused before anything is written"


def test_other_catalogue_labels_are_drawn_anew(tmp_path):
    options = {"settings": QUICK, "corner": ["star0"], "seed": 0}
    infer_run(CANNON, SPECTRA, tmp_path, **options)
    figure = tmp_path / "figures" / "corner-star0.png"
    first = figure.stat().st_mtime_ns
    infer_run(CANNON, SPECTRA, tmp_path, **options)
    assert figure.stat().st_mtime_ns == first
    infer_run(CANNON, SPECTRA, tmp_path, **options, aspcap=labels_of(SPECTRA))
    assert figure.stat().st_mtime_ns > first


# Killed runs


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.killed_run", str(tmp_path), "6"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["n_marks"] == 3
    assert report["moments"] > 10
    assert report["wrong"] == []
    assert report["touched"] == [], "blocks that were done have been written again"


def start(folder, *options):
    program = [sys.executable, "-c", "from bayes_cannon.cli import main; main()"]
    command = [*program, "infer", "cannon.nc", "dataset.nc", "-o", "run", "--all-stars"]
    command += ["--method", "laplace", "--draws", "100", "--corner", "none", *options]
    return subprocess.Popen(
        command, cwd=folder, env=environment() | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_the_command_goes_on_after_a_signal(tmp_path, sign):
    write_files(tmp_path, 700)
    run = tmp_path / "run"
    with start(tmp_path) as process:
        while not (run / "progress" / "000001").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        locked = rf"written by another process \(number {process.pid}\)"
        with pytest.raises(OutputExistsError, match=locked), lock_folder(run):
            pass
        process.send_signal(sign)
        _, said = process.communicate()
    assert process.returncode == (-9 if sign == signal.SIGKILL else 130)
    assert ("run the same command again" in said) is (sign == signal.SIGINT)
    assert "Traceback" not in said
    assert not (run / "summary.json").exists()
    with start(tmp_path) as process:
        out, said = process.communicate()
    assert process.returncode == 1, said  # one star is left without a posterior
    assert "1 of 700 stars (starxxx3) have fewer than 89 usable pixels" in said
    assert "700 stars" in out
    assert "done earlier" in out
    spectra = make_spectra(700)
    settings = InferenceSettings(method="laplace", draws=100)
    assert infer_run(CANNON, spectra, run, settings=settings, seed=1).summary["n_failed"] == 1
    rows = np.array([0, 63, 64, 127, 128, 500, 699])
    alone = infer_labels(CANNON, spectra.select(rows), settings=settings, seed=1)
    np.testing.assert_allclose(
        open_run(run).result["posterior"]["TEFF"].isel(star=rows),
        alone["posterior"]["TEFF"],
        rtol=1e-5,
    )
