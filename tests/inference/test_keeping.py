"""What is kept of posteriors: draws, some of them, moments."""

import dataclasses
import logging

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.groups.members import choose_members, labels_of_members
from bayes_cannon.analysis.scores import judged_by_moments, score
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.calibrated import ErrorModel, calibrated_posterior
from bayes_cannon.inference.checks import StarStatus, check_convergence
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.posterior import moments_of, posterior_names
from bayes_cannon.inference.results import StarResult, assemble
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.inference.summaries import keeping
from bayes_cannon.inference.summaries.keeping import chosen_keep, reduce_draws
from bayes_cannon.inference.summaries.tabled import summary
from bayes_cannon.inference.units import units_of_result
from bayes_cannon.models.model_priors import priors_of
from bayes_cannon.spectra.labels import Labels
from tests.analysis import test_population as groups
from tests.inference.test_calibration import error_model, result
from tests.label_problem import make_problem

LAPLACE = InferenceSettings(method="laplace", draws=200, chains=2, n_khat=0, block_size=2)


@pytest.fixture(scope="module")
def problem():
    return make_problem(n_stars=4)


@pytest.fixture
def cannon(problem, monkeypatch):
    monkeypatch.setattr(ErrorModel, "from_tree", classmethod(lambda cls, tree: error_model(nu=5.0)))
    return dataclasses.replace(problem.cannon, model_error=xr.DataTree())


def kept(cannon, spectra, keep):
    return infer_labels(cannon, spectra, settings=dataclasses.replace(LAPLACE, keep=keep), seed=1)


def test_moments_are_those_of_the_draws(problem, cannon):
    draws, moments = (kept(cannon, problem.spectra, keep) for keep in ("draws", "moments"))
    assert posterior_names(moments) == posterior_names(draws) == problem.cannon.basis.names
    names = posterior_names(draws)
    assert units_of_result(moments, names) == units_of_result(draws, names)
    assert "sample_stats" not in moments.children
    for group in ("posterior", "calibrated_posterior"):
        assert set(moments[group].dims) == {"star", "label_name", "label_pair", "quantile"}
        some = names[::-1][:2]
        for levels in ((0.16, 0.5, 0.84), (0.025, 0.975)):
            found = moments_of(moments[group].to_dataset(), some, quantiles=levels)
            right = moments_of(draws[group].to_dataset(), some, quantiles=levels)
            for name, values in vars(right).items():
                np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, err_msg=name)
    tables = [catalogue(tree) for tree in (moments, draws)]
    for name in tables[1].colnames[1:]:
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-5, err_msg=name)
    with pytest.raises(InvalidDataError, match=r"were not kept; there are 0\.025, 0\.16"):
        moments_of(moments["posterior"].to_dataset(), names, quantiles=(0.3,))


def test_students_of_moments_are_those_of_the_calibrated_draws():
    """Scale matrices within 6 %: 4000 draws of a t of 5 degrees of freedom."""
    tree = result(2, shape=(4, 1000))
    tree["calibrated_posterior"] = xr.DataTree(
        calibrated_posterior(tree, error_model(nu=5.0), seed=1)
    )
    group = reduce_draws(tree, "moments", 5.0)["calibrated_posterior"].to_dataset()
    assert group.attrs["nu"] == 5.0
    error = error_model()
    right = error.chol[0] @ error.chol[0].T + np.diag([5.0, 0.02, 0.01]) ** 2
    scale = np.einsum("sp->sp", group["scale"].values)[:, [0, 2, 5]]
    np.testing.assert_allclose(scale / np.diag(right), 1, atol=0.12)


def test_thinned_draws_are_some_of_all(problem, cannon):
    every, some = (kept(cannon, problem.spectra, keep) for keep in ("draws", "thin:25"))
    assert {"posterior_moments", "calibrated_posterior_moments"} <= set(some.children)
    draw = some["posterior"]["draw"].values
    assert (draw.size, draw[0], draw[-1]) == (13, 0, 199)
    for group in ("posterior", "calibrated_posterior"):
        xr.testing.assert_equal(some[group].to_dataset(), every[group].to_dataset().sel(draw=draw))
    xr.testing.assert_equal(some["star_stats"].to_dataset(), every["star_stats"].to_dataset())
    whole = reduce_draws(every, "thin:1000")
    assert whole["posterior"].sizes["draw"] == 200
    assert "posterior_moments" not in whole.children


def test_tables_of_thinned_draws_are_of_all_draws(problem, cannon):
    every, some = (kept(cannon, problem.spectra, keep) for keep in ("draws", "thin:25"))
    tables = [catalogue(tree) for tree in (some, every)]
    for name in tables[1].colnames[1:]:
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-5, err_msg=name)
    columns = ["mean", "sd", "eti68_lb", "eti68_ub", "formal_sd"]
    told, right = (summary(tree, round_values=False)[columns] for tree in (some, every))
    np.testing.assert_allclose(told, right, rtol=1e-5)
    truth = problem_labels(problem, every)
    for group in ("posterior", "calibrated_posterior"):
        found, right = (score(tree, truth, group=group) for tree in (some, every))
        for name in ("mean", "sd", "pull"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(right, name), rtol=1e-4, atol=1e-4, err_msg=name
            )
        # 26 draws alone would be off by up to 0.3.
        np.testing.assert_allclose(found.pit, right.pit, atol=0.1)
    assert judged_by_moments(some, "posterior")
    assert not judged_by_moments(kept(cannon, problem.spectra, "thin:300"), "posterior")
    assert not judged_by_moments(every, "posterior")


def problem_labels(problem, tree):
    """Labels half a formal error off the means."""
    names = posterior_names(tree)
    found = moments_of(tree["posterior"].to_dataset(), names)
    unknown = np.full_like(found.mean, np.nan)
    return Labels(
        names, found.mean + 0.5 * found.sd, unknown, problem.spectra.star_id,
        tuple(units_of_result(tree, names).values()),
    )  # fmt: skip


def test_convergence_is_that_of_each_label_whatever_is_kept():
    labels = np.random.default_rng(3).standard_normal((4, 300, 3))
    labels[:, :, 1] = np.repeat(labels[:, ::10, 1], 10, axis=1)
    found = check_convergence(labels, np.zeros((4, 300), bool))
    assert found.ess_bulk.min() == found.ess_bulk_min == found.ess_bulk[1]
    assert found.ess_bulk[0] > 3 * found.ess_bulk[1]
    problem = make_problem(n_stars=2)
    row = StarResult(StarStatus(0), None, vars(found))
    tree = assemble(
        problem.cannon.basis, priors_of(problem.cannon), np.array(["a", "b"]), np.array([9, 9]),
        [row, StarResult(StarStatus.FAILED)], LAPLACE, 1,
    )  # fmt: skip
    stats = tree["star_stats"].to_dataset()
    for name in ("r_hat", "ess_bulk", "ess_tail"):
        assert stats[name].dims == ("star", "label_name")
        np.testing.assert_allclose(stats[name][0], getattr(found, name), rtol=1e-6)
        assert np.isnan(stats[name][1]).all()
    told = summary(reduce_draws(tree, "moments"), round_values=False)
    np.testing.assert_allclose(told.loc["a", "ess_bulk"], found.ess_bulk, rtol=1e-6)
    np.testing.assert_allclose(told.loc["a", "r_hat"], found.r_hat, rtol=1e-6)


def test_groups_take_moments():
    """Centers within 0.3, scales within 30 % of those of 500 draws."""
    tree = groups.result(groups.group(40, seed=5), np.random.default_rng(6))
    moments = reduce_draws(tree, "moments", groups.NU)
    members = [f"m{i}" for i in range(40)]
    found, right = (
        labels_of_members(t, choose_members(t, members), groups.NAMES[::-1])
        for t in (moments, tree)
    )
    assert found[0].star_id.tolist() == right[0].star_id.tolist()
    assert found[0].nu == groups.NU
    off = (found[0].center - right[0].center) / right[1]
    assert np.abs(off).max() < 0.1
    np.testing.assert_allclose(found[1], right[1], rtol=0.15)
    del moments["calibrated_posterior"]
    formal, sd = labels_of_members(moments, choose_members(moments, members), groups.NAMES)
    assert formal.nu == 200
    assert np.isfinite(sd).all()


def test_many_stars_are_said_to_keep_moments(caplog, monkeypatch):
    monkeypatch.setattr(keeping, "MANY_STARS", 3)
    with caplog.at_level(logging.WARNING):
        assert [chosen_keep(k, 4) for k in (None, "draws")] == ["moments", "draws"]
        assert chosen_keep(None, 3) == "draws"
    assert caplog.text.count("4 stars: their moments are kept, no draws") == 1


@pytest.mark.parametrize("keep", ["all", "thin", "thin:x", "thin:-5", 3])
def test_what_cannot_be_kept_is_refused(keep):
    with pytest.raises(InvalidDataError, match=r"keep \(--keep\) must be draws, thin:N"):
        InferenceSettings(keep=keep)
    with pytest.raises(InvalidDataError, match="too few draws"):
        InferenceSettings(keep="thin:19")


def test_few_draws_are_kept_without_a_warning(caplog):
    assert InferenceSettings(keep="thin:30").keep == "thin:30"
    assert not caplog.records
