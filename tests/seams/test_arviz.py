"""ArviZ's functions work on results as they are, from memory and from a run's files."""

import dataclasses
import warnings

import matplotlib as mpl
import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference import infer_labels
from bayes_cannon.inference.likelihood.pixels import PixelModel, extra_variance
from bayes_cannon.inference.likelihood.whole import full_log_likelihood
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.inference.summaries.keeping import reduce_draws
from bayes_cannon.runs import infer_run
from tests.run_problem import CANNON, make_spectra

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

SETTINGS = InferenceSettings(draws=100, tune=100, chains=2, cores=1, ess_limit=1, rhat_limit=9)
SPECTRA = make_spectra(3, bad=())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return {
        "memory": infer_labels(CANNON, SPECTRA, settings=SETTINGS, seed=1),
        "run": infer_run(CANNON, SPECTRA, folder, settings=SETTINGS, seed=1).result,
    }


@pytest.fixture(params=["memory", "run"])
def result(request, results):
    return results[request.param]


def test_summary_has_a_row_for_each_label_of_each_star(result):
    table = az.summary(result)
    assert table.shape[0] == 2 * 3
    assert table.index[0] == "TEFF[star0]"
    worst = max(float(az.rhat(result)[name].sel(star="star0")) for name in CANNON.names)
    # The two draws beside the median are as far from it up to rounding, here float32's: their
    # folded ranks may change places.
    noted = float(result["star_stats"]["rhat_max"].sel(star="star0"))
    np.testing.assert_allclose(worst, noted, atol=2e-3)


PLOTS = ("plot_trace", "plot_rank", "plot_dist", "plot_ess", "plot_energy")


@pytest.mark.parametrize("plot", PLOTS)
def test_plots_of_a_star(result, plot):
    one = result.sel(star="star0")
    options = {} if plot == "plot_energy" else {"var_names": ["TEFF"]}
    assert getattr(az, plot)(one, backend="matplotlib", **options) is not None
    mpl.pyplot.close("all")


def test_groups_follow_the_schema(result):
    posterior, stats = result["posterior"], result["sample_stats"]
    assert posterior["TEFF"].dims == ("chain", "draw", "star")
    assert posterior["TEFF"].attrs["units"] == "K"
    assert posterior.attrs["creation_library"] == "ArviZ"
    assert posterior.attrs["inference_library"] == "bayes_cannon"
    assert list(posterior.attrs["sample_dims"]) == ["chain", "draw"]
    assert {"lp", "energy", "diverging", "tree_depth", "step_size"} <= set(stats.data_vars)
    assert "chain" not in result["star_stats"].dims
    assert "created_at" not in posterior.attrs, "the same work gives the same result"


def test_a_star_without_posterior_does_not_stop_a_summary():
    settings = dataclasses.replace(SETTINGS, method="laplace")
    with pytest.warns(UserWarning, match="have fewer than"):
        found = infer_labels(CANNON, make_spectra(4, bad=(2,)), settings=settings, seed=1)
    assert np.isnan(az.summary(found).loc["TEFF[starxx2]", "mean"])


def test_dims_without_coords_are_numbered():
    found = schema_dataset({"a": (("chain", "draw", "feature"), np.zeros((2, 3, 4)))}, {})
    assert found["feature"].values.tolist() == [0, 1, 2, 3]


def test_summary_is_arviz_s_with_digits_that_are_needed(result):
    table, right = bc.summary(result, round_values=False), az.summary(result, round_to="none")
    assert table.index.names == ["star", "label"]
    assert len(table) == 2 * 3
    for star, label in table.index:
        mine, theirs = table.loc[star, label], right.loc[f"{label}[{star}]"]
        for name, other in (("mean", "mean"), ("formal_sd", "sd"), ("ess_bulk", "ess_bulk")):
            np.testing.assert_allclose(mine[name], float(theirs[other]), rtol=2e-3)
        np.testing.assert_allclose(mine["r_hat"], float(theirs["r_hat"]), atol=2e-3)
        assert mine["eti68_lb"] < mine["mean"] < mine["eti68_ub"]
    one = bc.summary(result, "starx1")
    assert set(one.index.get_level_values("star")) == {"starx1"}
    sd = one.loc[("starx1", "TEFF"), "sd"]
    assert sd == float(f"{sd:.2g}")
    with pytest.raises(InvalidDataError, match="1 of 1 star id are not in"):
        bc.summary(result, "nobody")
    moments = reduce_draws(result if result.parent is None else result.copy(), "moments")
    kept = bc.summary(moments, "starx1", round_values=False)
    np.testing.assert_allclose(kept["mean"], table.loc["starx1"]["mean"], rtol=1e-5)
    for name in ("r_hat", "ess_bulk", "ess_tail"):
        atol = 2e-3 if name == "r_hat" else 0.0
        np.testing.assert_allclose(kept[name], table.loc["starx1"][name], rtol=2e-3, atol=atol)
    assert kept["ess_bulk"].nunique() == 2, "of each label, not of the worst"


def test_groups_with_pixels_are_made_on_request(result):
    """The likelihood that was sampled is that of pixels, with prior and posterior of the factors:
    p(flux | ell) = p(flux | ell, z) p(z) / p(z | flux, ell) at any z, here at those drawn."""
    tree = bc.pixel_groups(result, SPECTRA, "starx1", cannon=CANNON, n_draws=60)
    assert dict(tree["log_likelihood"].sizes) == {"chain": 2, "draw": 30, "pixel": 177}
    pixels = PixelModel.from_cannon(CANNON)
    flux, ivar = (pixels.take(a)[1] for a in (SPECTRA.flux, SPECTRA.ivar))
    post = tree["posterior"].to_dataset()
    labels = np.stack([post[n].values.ravel() for n in CANNON.names], -1).astype(float)
    ell = CANNON.basis.standardize(labels)
    z = post["factors"].values.reshape(len(ell), -1)
    v = CANNON.basis.features(ell)
    x = np.concatenate([v, np.tile(z.mean(axis=0), (len(v), 1))], axis=1)
    w = 1 / (1 / ivar + extra_variance(pixels, x))
    U, theta = pixels.coef[:, pixels.n_terms :], pixels.coef[:, : pixels.n_terms]
    inner = np.eye(z.shape[1]) + np.einsum("pi,dp,pj->dij", U, w, U)
    right = np.einsum("pi,dp,dp->di", U, w, flux - v @ theta.T)
    off = z - np.linalg.solve(inner, right[..., None])[..., 0]
    of_z = 0.5 * np.linalg.slogdet(inner)[1] - 0.5 * np.einsum("di,dij,dj->d", off, inner, off)
    pointwise = tree["log_likelihood"]["flux"].values.reshape(len(ell), -1).astype(float)
    found = pointwise.sum(axis=1) - 0.5 * np.sum(z**2, axis=1) - of_z
    full = full_log_likelihood(pixels, flux, ivar, ell, z.mean(axis=0))
    np.testing.assert_allclose(found, full, atol=0.05)
    loo = az.loo(tree)
    assert loo.n_data_points == 177
    assert 0 < loo.p < 20
    seen, said = tree["observed_data"]["flux"].values, tree["posterior_predictive"]["flux"]
    np.testing.assert_array_equal(seen, flux)
    width = said.std(("chain", "draw")).values / np.sqrt(1 / w.mean(axis=0))
    assert 0.95 < np.median(width) < 1.1  # by 0.09 / sqrt(177), and what labels and factors add
    assert np.abs(seen - said.mean(("chain", "draw")).values).std() < 0.02
    assert az.plot_ppc_dist(tree, backend="matplotlib") is not None
    assert az.plot_prior_posterior(tree, var_names=["TEFF"], backend="matplotlib") is not None
    mpl.pyplot.close("all")


def test_groups_with_pixels_need_draws_of_a_star(result):
    with pytest.raises(InvalidDataError, match="nobody"):
        bc.pixel_groups(result, SPECTRA, "nobody", cannon=CANNON)
    moments = reduce_draws(result.copy(), "moments")
    with pytest.raises(InvalidDataError, match="holds moments and no draws"):
        bc.pixel_groups(moments, SPECTRA, "starx1", cannon=CANNON)
