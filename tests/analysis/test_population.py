"""Groups of stars: mean and intrinsic scatter from calibrated posteriors, and lists of members."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.table import Table
from matplotlib.figure import Figure
from scipy import stats

from bayes_cannon.analysis.groups.fit import GroupSettings, fit_group, group_table, population
from bayes_cannon.analysis.groups.members import choose_members, read_members
from bayes_cannon.errors import FileFormatError, InvalidDataError, LabelError, NoStarsError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.summaries.students import fit_students, without_prior
from bayes_cannon.models.group_model import GroupLabels
from bayes_cannon.plots.ensembles.groups import plot_group_corner, plot_group_forest
from bayes_cannon.runs.groups import open_population
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from tests.cli.test_cli import run
from tests.report_problem import make_run

NAMES, TRUE = ("FE_H", "MG_FE", "SI_FE"), np.array([0.0, 0.02, 0.05])
PRIOR, NU, MEAN = np.array([0.3, 0.1, 0.1]), 6.0, np.array([-0.4, 0.1, 0.15])
QUICK = GroupSettings(draws=300, tune=300, chains=2)


def group(n, seed):
    """Stars of a group: errors of 0.02 to 0.05 dex, heavy-tailed and correlated."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, 3, 3))
    cov = a @ a.transpose(0, 2, 1) + 3 * np.eye(3)
    root = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    sd = rng.uniform(0.02, 0.05, (n, 1, 1))
    scale = cov / root[:, :, None] / root[:, None] * sd**2 * (NU - 2) / NU
    noise = np.einsum("sij,sj->si", np.linalg.cholesky(scale), rng.standard_normal((n, 3)))
    labels = MEAN + TRUE * rng.standard_normal((n, 3))
    center = labels + noise / np.sqrt(rng.gamma(NU / 2, 2 / NU, (n, 1)))
    return GroupLabels(NAMES, np.array([f"m{i}" for i in range(n)]), center, scale, NU)


def result(data, rng, n_others=3):
    """A result whose calibrated posteriors are the t's of a group, and a few stars more."""
    n, shape = len(data.center) + n_others, (2, 250)
    u = rng.gamma(NU / 2, 2 / NU, (*shape, n))
    normal = rng.standard_normal((*shape, n, 3))
    center = np.concatenate([data.center, np.tile(MEAN + 1, (n_others, 1))])
    root = np.linalg.cholesky(np.concatenate([data.scale, data.scale[:n_others]]))
    draws = center + np.einsum("sij,cdsj->cdsi", root, normal) / np.sqrt(u)[..., None]
    draws[:, :, 39] = np.nan
    stars = np.array([*data.star_id, *(f"other{i}" for i in range(n_others))])
    dims = ("chain", "draw", "star")
    variables = {name: (dims, draws[..., i], {"units": "dex"}) for i, name in enumerate(NAMES)}
    coords = {"chain": [0, 1], "draw": np.arange(shape[1]), "star": stars}
    flag = np.zeros(n, np.int64)
    flag[38] = int(LabelFlag.UNLIKE_TRAINING)
    flag[37] = int(LabelFlag.PRIOR_EDGE)
    posterior = xr.Dataset(variables, coords)
    return xr.DataTree.from_dict(
        {
            "posterior": posterior,
            "calibrated_posterior": posterior,
            "star_stats": xr.Dataset({"label_flag": ("star", flag)}, {"star": stars}),
            "constant_data": xr.Dataset(
                {"label_scale": ("label_name", PRIOR)}, {"label_name": list(NAMES)}
            ),
        }
    )


@pytest.fixture(scope="module")
def tree():
    data = group(40, seed=5)
    data.center[7] += 0.5  # no member at all
    return result(data, np.random.default_rng(6))


@pytest.fixture(scope="module")
def found(tree):
    members = [f"m{i}" for i in range(40)] + ["nobody"]
    return population(tree, members, settings=QUICK, seed=1, cores=1)


def test_a_group_comes_out_of_the_posteriors_of_its_stars(found):
    """Means within four standard deviations, scatters in their 99.7 % intervals; one outlier."""
    table = group_table(found)
    assert found["posterior"].sizes["star"] == 38
    rest = np.abs(table["MEAN"] - MEAN) / table["MEAN_ERR"]
    assert np.all(rest < 4)
    assert np.all(table["MEAN_ERR"] < 0.02)
    scatter = found["posterior"].to_dataset()["scatter"].values.reshape(-1, 3)
    low, high = np.quantile(scatter, [0.0015, 0.9985], axis=0)
    assert np.all(high > TRUE)
    assert np.all(low[1:] < TRUE[1:])
    weight = found["posterior"].to_dataset()["weight"].mean(("chain", "draw"))
    assert str(weight["star"].values[np.argmin(weight.values)]) == "m7"
    assert float(weight.min()) < 0.2


def test_draws_have_what_they_say(found):
    draws = found["posterior"].to_dataset()
    diagonal = np.diagonal(draws["covariance"].values, axis1=-2, axis2=-1)
    np.testing.assert_allclose(diagonal, draws["scatter"].values ** 2)
    np.testing.assert_allclose(np.diagonal(draws["correlation"].values, axis1=-2, axis2=-1), 1)
    assert draws["scatter"].attrs["units"] == "dex, dex, dex"
    assert set(found.children) == {
        "posterior", "sample_stats", "observed_data", "constant_data", "members",
    }  # fmt: skip
    np.testing.assert_allclose(found["constant_data"].to_dataset()["scatter_prior"], PRIOR)
    assert 4 <= float(found["constant_data"].to_dataset()["nu"]) <= 8


def test_what_became_of_each_star_is_told(tree, found, caplog):
    fate = found["members"].to_dataset()["fate"].to_series()
    assert fate["m0"] == fate["m37"] == "used"
    assert fate["m38"].startswith("flagged: a spectrum beyond all")
    assert fate["m39"] == "no posterior"
    assert fate["nobody"] == "not in the run"
    assert found.attrs["told"] == (
        "38 of 41 stars used, 1 flagged, 1 no posterior, 1 not in the run"
    )
    kept = choose_members(tree, ["m36", "m37", "m38"], flagged="keep")
    assert kept.used.all()
    with caplog.at_level(logging.WARNING):
        population(tree, [*(f"m{i}" for i in range(38)), "nobody"], settings=QUICK, seed=1)
    assert "38 of 39 stars used, 1 not in the run" in caplog.text


def test_intrinsic_scatters_are_recovered():
    """Of 12 groups at least 9 of the 95 % intervals hold the truth, at least 4 of the 68 % ones.

    Fixed seeds; drawn anew, false alarm 1 % each (200 groups: benchmarks/bench.py population).
    """
    held = np.zeros((2, 3))
    for seed in range(12):
        table = group_table(fit_group(group(40, seed), PRIOR, settings=QUICK, seed=seed, cores=1))
        for k, end in enumerate(("", "95")):
            held[k] += table[f"SCATTER_LOW{end}"] <= TRUE
            held[k] -= table[f"SCATTER_HIGH{end}"] < TRUE
    assert np.all(held[1] >= 9), held
    assert np.all(held[0] >= 4), held


def test_students_of_draws_are_found():
    """Degrees of freedom on the list within a step, scale within 10 %: false alarm 1e-3."""
    rng, n_draws = np.random.default_rng(1), 2000
    scale = np.array([[4.0, 1.0], [1.0, 1.0]])
    draws = np.stack(
        [stats.multivariate_t.rvs([i, -i], scale, df=5, size=n_draws, random_state=rng)
         for i in range(8)]
    )  # fmt: skip
    found = fit_students(draws)
    assert found.nu in (4.0, 5.0, 6.0)
    np.testing.assert_allclose(found.scale.mean(axis=0), scale, rtol=0.1)
    np.testing.assert_allclose(found.center[:, 0], np.arange(8), atol=0.5)
    normal = fit_students(rng.standard_normal((8, 800, 2)))
    assert normal.nu >= 50


def test_normal_priors_are_taken_out_again():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, 3, 3))
    likelihood, truth = a @ a.transpose(0, 2, 1) + np.eye(3), rng.standard_normal((2, 3))
    prior_mean, prior_sd = np.array([1.0, 0.0, -1.0]), np.array([2.0, np.inf, 3.0])
    weight = np.diag(prior_sd**-2.0)
    cov = np.linalg.inv(np.linalg.inv(likelihood) + weight)
    right = np.einsum("sij,sj->si", np.linalg.inv(likelihood), truth) + weight @ prior_mean
    mean = np.einsum("sij,sj->si", cov, right)
    found = without_prior(mean, cov, prior_mean, prior_sd)
    np.testing.assert_allclose(found[0], truth, atol=1e-9)
    np.testing.assert_allclose(found[1], likelihood, rtol=1e-9)
    with pytest.raises(InvalidDataError, match="uniform priors"):
        without_prior(mean, cov, prior_mean, np.full(3, 0.01))


def test_members_may_be_given_in_any_form(tmp_path):
    stars = ["2M1", "2M2", "2M3"]
    assert read_members([*stars, "2M2"]).tolist() == stars
    table = Table({"APOGEE_ID": stars, "RV": [1.0, 2.0, 3.0]})
    frame = pd.DataFrame({"RV": [1.0, 2, 3]}, index=pd.Index(stars, name="STAR_ID"))
    forms = [table, table.to_pandas(), frame]
    for name, form in (("a.fits", "fits"), ("a.ecsv", "ascii.ecsv"), ("a.csv", "ascii.csv")):
        table.write(tmp_path / name, format=form)
        forms += [tmp_path / name, str(tmp_path / name)]
    table["APOGEE_ID",].write(tmp_path / "one.ecsv", format="ascii.ecsv")
    (tmp_path / "plain.txt").write_text("# members of a cluster\n\n2M1\n2M2\n2M3\n")
    (tmp_path / "blanks.txt").write_text("HD 122563\nArcturus\nHD 122563\n")
    assert read_members(tmp_path / "blanks.txt").tolist() == ["HD 122563", "Arcturus"]
    (tmp_path / "table.txt").write_text("STAR_ID TEFF\n2M1 4500\n2M2 4600\n2M3 4700\n")
    (tmp_path / "noted.txt").write_text("# STAR_ID TEFF\n2M1 4500\n2M2 4600\n2M3 4700\n")
    assert read_members(tmp_path / "table.txt").tolist() == stars
    (tmp_path / "head.txt").write_text("apogee_id\n2M1\n2M2\n2M3\n")
    forms += [tmp_path / "one.ecsv", tmp_path / "plain.txt", tmp_path / "head.txt"]
    for form in forms:
        assert read_members(form).tolist() == stars, form


def test_plain_ids_find_stars_of_one_spectrum(tree):
    posterior = tree["posterior"].to_dataset()
    names = posterior["star"].values.astype("U40")
    names[[0, 1, 2]] = "apo25m/M15/m0", "apo25m/M15/m1", "lco25m/M15/m1"
    groups = {n: d.to_dataset() for n, d in tree.children.items()}
    groups = {n: d.assign_coords(star=names) if "star" in d.dims else d for n, d in groups.items()}
    placed = xr.DataTree.from_dict(groups)
    found = choose_members(placed, ["m0", "m1", "lco25m/M15/m1", "m3", "m4"])
    assert found.rows.tolist() == [0, -1, 2, 3, 4]
    assert found.fate[1] == "several spectra in the run"


@pytest.mark.parametrize(
    ("stars", "error", "says"),
    [
        ("nothing.txt", FileFormatError, "is not a file; give a list"),
        ([], InvalidDataError, "is empty"),
        (Table({"NAME": ["a"]}), InvalidDataError, "no column with their names"),
    ],
)
def test_lists_that_are_none_are_told(stars, error, says):
    with pytest.raises(error, match=says):
        read_members(stars)


def test_bad_arguments_are_told(tree):
    with pytest.raises(NoStarsError, match="needs 3 stars, and of this list 1 of 3 stars used"):
        population(tree, ["m1", "m38", "m39"])
    with pytest.raises(LabelError, match="unknown labels C_FE"):
        population(tree, ["m1"], labels="C_FE")
    with pytest.raises(InvalidDataError, match="'exclude' or 'keep'"):
        population(tree, ["m1"], flagged="some")
    with pytest.raises(InvalidDataError, match="scatter_prior of FE_H"):
        population(tree, ["m1", "m2", "m3"], scatter_prior={"FE_H": -1.0})


def test_figures_show_members_and_limits(found):
    forest = plot_group_forest(found)
    assert isinstance(forest, Figure)
    assert "38 members" in forest.get_suptitle()
    titles = [ax.get_title() for ax in forest.axes]
    assert "(95 %)" in titles[0]
    assert "±" in titles[2]
    assert any("weight below" in t.get_text() for t in forest.legends[0].get_texts())
    scatter = plot_group_corner(found, ["MG_FE", "SI_FE"])
    assert len(scatter.axes) == 4
    assert "Means" in plot_group_corner(found, what="mean").get_suptitle()
    with pytest.raises(InvalidDataError, match="'mean' or 'scatter'"):
        plot_group_corner(found, what="all")
    with pytest.raises(LabelError, match="unknown labels TEFF"):
        plot_group_forest(found, "TEFF")


def test_command_writes_what_it_finds(tmp_path, capsys):
    place = make_run(tmp_path, n_stars=42)
    ids = Table.read(place / "catalogue.ecsv")
    stars = [str(s) for s in ids[ids.colnames[0]]]
    (tmp_path / "members.txt").write_text("\n".join([*stars, "2M99"]))
    out = tmp_path / "population"
    arguments = ("population", place, "--stars", tmp_path / "members.txt", "-o", out)
    some = [part for name in DEFAULT_LABELS[2:] for part in ("--label", name)]
    assert run(*arguments, *some, "--flagged", "keep") == 0
    said = capsys.readouterr()
    assert "FE_H: mean" in said.out
    assert "1 no posterior, 1 not in the run" in said.out
    table = Table.read(out / "population.fits")
    assert len(table) == 3
    members = Table.read(out / "members.ecsv")
    assert members["FATE"].tolist().count("used") == 41
    assert members["STAR_ID"][-1] == "2M99"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["errors"] == "calibrated"
    assert summary["simulated"] is True
    np.testing.assert_allclose(
        group_table(open_population(out))["SCATTER"], table["SCATTER"], rtol=1e-4
    )
    for name in ("forest", "corner-mean", "corner-scatter"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert run(*arguments) == 2
    assert "exists; choose another path or pass --overwrite" in capsys.readouterr().err
