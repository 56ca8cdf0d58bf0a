"""ArviZ's functions work on results as they are, from memory and from a run's files."""

import dataclasses
import warnings

import matplotlib as mpl
import numpy as np
import pytest

from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.inference import infer_labels
from bayes_cannon.inference.settings import InferenceSettings
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
