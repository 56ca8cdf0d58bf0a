"""The check of calibration: scores, tables, tolerances, figures and the command."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from scipy import stats

from bayes_cannon.analysis.calibration import (
    LEVELS,
    TOLERANCES,
    Tolerance,
    check_calibration,
    cover_error,
)
from bayes_cannon.analysis.scores import score
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.inference.summaries.keeping import reduce_draws
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.calibration import plot_calibration, plot_scores
from bayes_cannon.plots.posteriors import POSTERIOR_STYLES
from bayes_cannon.runs.run import infer_run
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.surveys.simulation.catalogue import read_truth
from tests.cli.test_cli import run
from tests.run_problem import CANNON, QUICK, make_spectra

NAMES, SD = ("TEFF", "LOGG", "FE_H"), np.array([20.0, 0.05, 0.02])
CENTER = np.array([4700.0, 2.5, -0.2])
N = 300


def problem(*, scale=1.0, shift=0.0, error=0.0, n=N, seed=1, simulated=1, calibrated=True):
    """Posteriors of exact width, true labels and catalogue labels with errors of `error` sd.

    `scale` multiplies the width of the calibrated posterior, `shift` moves it, in units of sd.
    """
    rng = np.random.default_rng(seed)
    truth = CENTER + np.array([300, 0.6, 0.3]) * rng.standard_normal((n, 3))
    mean = truth + SD * rng.standard_normal((n, 3))
    normal = rng.standard_normal((4, 250, n, 3))
    ids = np.array([f"star{i}" for i in range(n)])
    coords = {"chain": np.arange(4), "draw": np.arange(250), "star": ids}

    def group(width, move):
        draws = mean + SD * (move + width * normal)
        variables = {k: (("chain", "draw", "star"), draws[..., i]) for i, k in enumerate(NAMES)}
        return xr.Dataset(variables, coords, {"simulated": simulated})

    groups = {"posterior": group(0.3, 0)}
    if calibrated:
        groups["calibrated_posterior"] = group(scale, shift)
    groups["star_stats"] = xr.Dataset({"mahalanobis": ("star", rng.chisquare(3, n))}, coords)
    known = Labels(NAMES, truth, np.full(truth.shape, np.nan), ids)
    if not error:
        return xr.DataTree.from_dict(groups), known, known
    seen = truth + error * SD * rng.standard_normal((n, 3))
    return xr.DataTree.from_dict(groups), known, Labels(NAMES, seen, error * SD, ids)


def test_pit_of_a_reference_with_errors_is_that_of_draws_with_noise():
    """Against draws widened by sampled noise: 1000 draws, within 5 standard errors."""
    tree, _, catalogue = problem(error=2.0, n=40)
    found = score(tree, catalogue)
    draws = tree["calibrated_posterior"].to_dataset()["LOGG"].values.reshape(1000, -1)
    noise = np.random.default_rng(5).standard_normal((200, *draws.shape)) * 0.1
    below = np.mean(draws + noise < catalogue["LOGG"], axis=(0, 1))
    np.testing.assert_allclose(found.pit[:, 1], below, atol=0.01)
    expected = (draws.mean(axis=0) - catalogue["LOGG"]) / np.hypot(draws.std(axis=0), 0.1)
    np.testing.assert_allclose(found.pull[:, 1], expected, rtol=1e-3)


def test_runs_kept_as_moments_are_checked_by_what_these_describe():
    """Normal draws, 1000 of each star, against 2000 of their moments' distribution: 0.1 is 5 sd."""
    tree, truth, catalogue = problem(error=0.5)
    moments = reduce_draws(tree, "moments", 200.0)
    for reference in (truth, catalogue):
        for group in ("posterior", "calibrated_posterior"):
            found, right = (score(t, reference, group=group) for t in (moments, tree))
            np.testing.assert_allclose(found.pit, right.pit, atol=0.1)
            np.testing.assert_allclose(found.joint, right.joint, atol=0.1)
            np.testing.assert_allclose(found.pull, right.pull, rtol=1e-4, atol=1e-4)
    check = check_calibration(moments, {"truth": truth})
    assert check.of_moments
    assert check.passed
    assert "Student t" in repr(check)
    wide, _, _ = problem(scale=2.0)
    assert not check_calibration(reduce_draws(wide, "moments", 200.0), {"truth": truth}).passed


def test_scores_are_normal_against_truth_and_against_a_catalogue():
    """Kolmogorov-Smirnov on six columns, false alarm 6e-4; without the errors it fails."""
    tree, truth, catalogue = problem(error=1.5)
    for reference in (truth, catalogue):
        found = score(tree, reference)
        for i in range(3):
            assert stats.kstest(found.normal[:, i], "norm").pvalue > 1e-4
    blind = dataclasses.replace(catalogue, errors=np.full((N, 3), np.nan))
    assert stats.kstest(score(tree, blind).pit[:, 0], "uniform").pvalue < 1e-4


def test_regions_of_all_labels_hold_the_reference_as_often_as_they_say():
    """Kolmogorov-Smirnov of the joint level, false alarm 1e-4; formal regions hold less."""
    tree, truth, catalogue = problem(error=1.5)
    for reference in (truth, catalogue):
        assert stats.kstest(score(tree, reference).joint, "uniform").pvalue > 1e-4
    blind = dataclasses.replace(catalogue, errors=np.full((N, 3), np.nan))
    assert stats.kstest(score(tree, blind).joint, "uniform").pvalue < 1e-4
    check = check_calibration(tree, {"truth": truth}, snr=dict.fromkeys(truth.star_id, 100.0))
    assert set(check.joint["BY"]) == {"ALL", "S/N", "DISTANCE", "TEFF", "FE_H"}
    whole = check.joint[check.joint["BY"] == "ALL"]
    assert list(whole["KIND"]) == ["formal", "calibrated"]
    # Draws of 0.3 times the true deviation: chi-square of three labels at 0.09 times its median.
    formal = stats.chi2.cdf(0.09 * stats.chi2.ppf(0.68, 3), 3)
    off = np.abs(whole["COVER_68"] - [formal, 0.68])
    assert np.all(off < 4 * np.asarray(whole["COVER_68_SE"]))
    assert check.joint_text("truth").endswith(f"of {N} stars")
    parts = check.joint[(check.joint["BY"] == "TEFF") & (check.joint["KIND"] == "calibrated")]
    assert parts["N"].sum() == N


def test_marginals_may_be_right_where_the_regions_are_not():
    """Errors of all labels that are one and the same, in posteriors that take them as apart."""
    tree, truth, _ = problem()
    draws = tree["calibrated_posterior"].to_dataset()
    mean = {n: draws[n].mean(("chain", "draw")).values for n in NAMES}
    off = (mean["TEFF"] - truth["TEFF"]) / SD[0]
    values = np.column_stack([mean[n] - off * SD[i] for i, n in enumerate(NAMES)])
    moved = dataclasses.replace(truth, values=values)
    found = score(tree, moved)
    assert stats.kstest(found.pit[:, 1], "uniform").pvalue > 1e-4
    assert stats.kstest(found.joint, "uniform").pvalue < 1e-4


def test_a_star_without_all_labels_has_no_joint_level():
    tree, truth, _ = problem(n=30)
    values = truth.values.copy()
    values[3, 1] = np.nan
    found = score(tree, dataclasses.replace(truth, values=values))
    assert np.flatnonzero(np.isnan(found.joint)).tolist() == [3]
    assert np.isfinite(found.pit[3, 0])


def test_pit_never_reaches_its_ends():
    tree, _, catalogue = problem(error=0.01, n=30)
    far = dataclasses.replace(catalogue, values=catalogue.values + 1000 * SD)
    found = score(tree, far)
    np.testing.assert_allclose(found.pit, 1 - 0.5 / 1001)
    assert np.isfinite(found.normal).all()


def test_blocks_of_stars_do_not_matter(monkeypatch):
    tree, truth, _ = problem(n=50)
    whole = score(tree, truth)
    monkeypatch.setattr("bayes_cannon.analysis.scores._BLOCK", 7)
    parts = score(tree, truth)
    np.testing.assert_array_equal(whole.pit, parts.pit)
    np.testing.assert_array_equal(whole.joint, parts.joint)
    np.testing.assert_array_equal(whole.star_id, parts.star_id)


def test_calibrated_posteriors_pass():
    """Three labels, two references, two levels at 3 standard errors: false alarm 3 %, seeded."""
    tree, truth, catalogue = problem(error=1.0)
    check = check_calibration(tree, {"truth": truth, "catalogue": catalogue})
    assert check.passed
    assert check.judged == "calibrated"
    assert check.simulated
    table = check.coverage
    assert len(table) == 2 * 2 * 3
    judged = table[table["KIND"] == "calibrated"]
    assert set(judged["VERDICT"]) == {"pass"}
    assert set(table["VERDICT"][table["KIND"] == "formal"]) == {""}
    np.testing.assert_allclose(judged["COVER_50"], 0.5, atol=0.12)
    np.testing.assert_allclose(judged["COVER_90"], 0.9, atol=0.07)
    np.testing.assert_allclose(judged["PULL_SD"], 1, atol=0.17)
    assert np.all(np.asarray(judged["PIT_P"]) > 1e-3)
    formal = table[(table["KIND"] == "formal") & (table["REFERENCE"] == "truth")]
    assert np.all(np.asarray(formal["PIT_P"]) < 1e-6)
    np.testing.assert_allclose(formal["COVER_68_SE"], np.sqrt(0.235 * 0.765 / N), rtol=0.2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"scale": 0.6}, "truth, calibrated, TEFF: the 68 % interval holds"),
        ({"scale": 1.8}, "truth, calibrated, LOGG: the 95 % interval holds"),
        ({"shift": 1.0}, "truth, calibrated, FE_H: the 68 % interval holds"),
    ],
)
def test_wrong_posteriors_fail_and_it_is_said_where(wrong, says):
    tree, truth, _ = problem(**wrong)
    check = check_calibration(tree, {"truth": truth})
    assert not check.passed
    assert any(text.startswith(says) for text in check.failures)
    rows = check.coverage[check.coverage["KIND"] == "calibrated"]
    assert set(rows["VERDICT"]) == {"fail"}


def test_formal_posteriors_are_judged_where_there_is_no_other():
    tree, truth, _ = problem(calibrated=False)
    check = check_calibration(tree, {"truth": truth})
    assert check.judged == "formal"
    assert not check.passed


def test_tolerance_is_the_stated_one_or_three_standard_errors():
    for tolerance in TOLERANCES:
        assert tolerance.limits(10_000) == (tolerance.low, tolerance.high)
    low, high = TOLERANCES[0].limits(299)
    assert (low, high) == pytest.approx((0.60, 0.76), abs=0.002)
    low, high = TOLERANCES[1].limits(299)
    assert (low, high) == pytest.approx((0.91, 0.985), abs=0.003)
    assert Tolerance(0.95, 0.91, 0.985).limits(30) == pytest.approx((0.95 - 0.1194, 1.0), abs=1e-3)


def test_standard_error_of_a_coverage_is_never_zero():
    assert cover_error(0.68, 1000) == pytest.approx(np.sqrt(0.68 * 0.32 / 1000), rel=0.01)
    assert cover_error(1.0, 10) > 0.05


def test_bins_find_stars_that_are_off():
    """Scores of faint stars are made 2.5 times too wide: their bin says so, the others do not."""
    tree, truth, _ = problem()
    snr = dict(zip(truth.star_id.tolist(), np.linspace(50, 300, N), strict=True))
    values = truth.values.copy()
    mean = np.stack([tree["calibrated_posterior"][n].mean(("chain", "draw")) for n in NAMES], 1)
    values[:100] = mean[:100] + 2.5 * (values[:100] - mean[:100])
    table = check_calibration(
        tree, {"truth": dataclasses.replace(truth, values=values)}, snr=snr
    ).bins
    assert list(dict.fromkeys(table["BY"])) == ["S/N", "DISTANCE", "TEFF", "FE_H"]
    rows = table[(table["BY"] == "S/N") & (table["KIND"] == "calibrated")]
    assert list(rows["N"]) == [100] * 9
    faint = np.asarray(rows["LOW"]) == 50
    sd, error = np.asarray(rows["SD"]), np.asarray(rows["SD_SE"])
    assert np.all(sd[faint] > 1 + 4 * error[faint])
    np.testing.assert_allclose(sd[~faint], 1, atol=0.25)
    assert np.all(np.asarray(rows["COVER_68"])[faint] < 0.5)


def test_check_says_what_is_wrong():
    tree, truth, _ = problem(n=12)
    with pytest.raises(InvalidDataError, match="nothing to check against"):
        check_calibration(tree, {})
    with pytest.raises(InvalidDataError, match=r"TEFF: 12 stars have both .* too few to judge"):
        check_calibration(tree, {"truth": truth})
    strangers = dataclasses.replace(truth, star_id=np.arange(12).astype(str))
    with pytest.raises(InvalidDataError, match="share no star, or no label"):
        check_calibration(tree, {"truth": strangers})


def test_figures_say_what_they_show():
    tree, truth, catalogue = problem(error=1.0)
    snr = dict(zip(truth.star_id.tolist(), np.linspace(50, 300, N), strict=True))
    check = check_calibration(tree, {"truth": truth, "catalogue": catalogue}, snr=snr)
    figure = plot_calibration(check, "truth")
    assert figure.get_suptitle() == "Calibration against the truth, 300 held-out stars (simulated)"
    assert len(figure.axes) == 6
    colours = {h.get_label(): h.get_color() for h in figure.legends[0].legend_handles[:2]}
    assert colours == {  # those of the corner plots
        f"{style.name} posterior": style.color for style in POSTERIOR_STYLES.values()
    }
    low, high = figure.axes[0].get_ylim()
    covers = [check.coverage[f"COVER_{100 * level:g}"].min() for level in LEVELS]
    assert min(covers) - 0.1 < low < min(covers)
    assert high > 1
    plt.close(figure)
    figure = plot_scores(check, "catalogue", kind="formal")
    assert "formal posteriors against the catalogue (simulated)" in figure.get_suptitle()
    assert figure.axes[0].get_ylabel() == "pull, by rank"
    assert len(figure.axes) == 12
    plt.close(figure)
    with pytest.raises(InvalidDataError, match="no reference 'sky'; it has truth, catalogue"):
        plot_calibration(check, "sky")
    only = check_calibration(problem(calibrated=False)[0], {"truth": truth})
    with pytest.raises(InvalidDataError, match="no calibrated posterior against the truth"):
        plot_scores(only, "truth", kind="calibrated")


# True labels from a file ----------------------------------------------------------------------


def test_truth_is_read_from_a_table_or_a_survey(tmp_path):
    table = Table({"STAR_ID": ["a", "b"], "TEFF": [4500.0, 4600.0], "FE_H": [0.1, np.nan]})
    table.write(tmp_path / "truth.ecsv")
    for path in (tmp_path, tmp_path / "truth.ecsv"):
        labels = read_truth(path)
        assert labels.names == ("TEFF", "FE_H")
        assert labels.star_id.tolist() == ["a", "b"]
        np.testing.assert_array_equal(labels.values, [[4500, 0.1], [4600, np.nan]])
        assert np.isnan(labels.errors).all()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "does not exist; give the truth.ecsv"),
        ("nonsense", "cannot be read as an ECSV table"),
        (Table({"STAR_ID": ["a"], "X": [1.0]}), "holds no true labels: STAR_ID and one of TEFF"),
        (Table({"TEFF": [1.0]}), "holds no true labels"),
        (Table({"STAR_ID": ["a"], "TEFF": ["hot"]}), "a label that is not a number"),
    ],
)
def test_a_bad_truth_file_is_refused(tmp_path, content, match):
    path = tmp_path / "truth.ecsv"
    if isinstance(content, Table):
        content.write(path)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(FileFormatError, match=match):
        read_truth(path)


# The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Model, run, dataset whose labels fit the run's posteriors, and truth three times too far."""
    folder = tmp_path_factory.mktemp("check")
    spectra = make_spectra(150)
    dataclasses.replace(CANNON, held_out=spectra.star_id).save(folder / "cannon.nc")
    found = infer_run(CANNON, spectra, folder / "run", settings=QUICK, seed=1)
    rng = np.random.default_rng(2)
    mean = np.stack([np.asarray(found.table[n]) for n in CANNON.names], axis=1)
    sd = np.stack([np.asarray(found.table[f"{n}_FORMAL_ERR"]) for n in CANNON.names], axis=1)
    error = np.where(np.isnan(sd), 1.0, 0.5 * sd)
    noise = rng.standard_normal(mean.shape)
    labels = Labels(CANNON.names, mean + np.hypot(sd, error) * noise, error, spectra.star_id)
    TrainingSet(spectra, labels).save(folder / "dataset.nc")
    far = mean + 3 * sd * rng.standard_normal(mean.shape)
    columns = {n: far[:, i] for i, n in enumerate(CANNON.names)}
    Table({"STAR_ID": spectra.star_id, **columns}).write(folder / "truth.ecsv")
    return folder


def test_command_passes_on_good_intervals(files, tmp_path, capsys):
    out = tmp_path / "check"
    arguments = ("check", files / "cannon.nc", files / "dataset.nc", "-o", out)
    assert run(*arguments, "--run", files / "run") == 0
    shown = capsys.readouterr().out
    assert "149 held-out stars of a SIMULATED survey against the catalogue" in shown
    assert "The model error was not measured. The formal posteriors are tested." in shown
    assert "All tested coverages are within their tolerances." in shown
    summary = json.loads((out / "summary.json").read_text())
    assert summary["passed"] is True
    assert summary["simulated"] is True
    table = Table.read(out / "coverage.ecsv")
    assert set(table["VERDICT"]) == {"pass"}
    assert table.meta["comments"] == ["SIMULATED spectra: not observations"]
    assert len(Table.read(out / "scores.ecsv")) > 0
    assert (out / "figures" / "calibration-catalogue.png").stat().st_size > 20_000
    assert (out / "figures" / "scores-catalogue.png").stat().st_size > 20_000
    assert not (out / "run").exists()
    assert run(*arguments, "--run", files / "run") == 2
    assert "exists; choose another path or pass --overwrite" in capsys.readouterr().err


def test_command_infers_by_itself_and_fails_on_bad_intervals(files, tmp_path, capsys):
    out = tmp_path / "check"
    arguments = ("check", files / "cannon.nc", files / "dataset.nc", "-o", out)
    more = ("--truth", files / "truth.ecsv", "--method", "laplace")
    assert run(*arguments, *more) == 1
    shown = capsys.readouterr().out
    assert "FAIL truth, formal, " in shown
    assert "catalogue, formal" not in shown
    assert "within its tolerance" not in shown
    assert (out / "run" / "catalogue.fits").exists()
    assert json.loads((out / "summary.json").read_text())["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--truth", "{tmp}/nothing.ecsv"), "nothing.ecsv does not exist"),
        (("--run", "{tmp}/nothing"), "holds no posterior.zarr"),
        (("-o", "{files}"), "holds more than an earlier check"),
        (("-o", "{files}/truth.ecsv"), "is a file; choose another folder"),
    ],
)
def test_command_says_what_is_wrong(files, tmp_path, capsys, arguments, says):
    given = [a.format(tmp=tmp_path, files=files) for a in arguments]
    base = ("check", files / "cannon.nc", files / "dataset.nc", "-o", tmp_path / "out")
    assert run(*base, *given) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_stars_trained_on_are_no_test(files, tmp_path, capsys):
    spectra = make_spectra(150)
    seen = Labels(
        CANNON.names, CANNON.training.values[np.arange(150) % 30], np.nan, spectra.star_id
    )
    factors = CANNON.factors[np.arange(150) % 30]
    knows = dataclasses.replace(CANNON, training=seen, factors=factors)
    assert isinstance(knows, Cannon)
    knows.save(tmp_path / "cannon.nc")
    arguments = ("check", tmp_path / "cannon.nc", files / "dataset.nc", "-o", tmp_path / "out")
    assert run(*arguments, "--run", files / "run") == 2
    assert "holds training stars only" in capsys.readouterr().err
