"""Repeated visits: what their differences say about errors whose truth is known."""

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure

from bayes_cannon.analysis.repeated.comparison import SEES, repeats
from bayes_cannon.analysis.repeated.visits import labels_of_visits, pairs_of
from bayes_cannon.base.numerical import interval_from_zero
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.plots.ensembles.visits import plot_repeats
from bayes_cannon.spectra.spectra import NormalizedSpectra
from tests.label_problem import make_problem

SCALE, FLOOR = 1.3, np.array([15.0, 0.0, 0.02])
QUICK = InferenceSettings(method="laplace", draws=150, chains=2, n_khat=0)


def observe_visits(n_stars, seed):
    """Visits whose noise is 1.3 times what is quoted, and whose labels jitter by the floor."""
    cannon = make_problem(n_train=2000, n_pixels=120, n_factors=1).cannon
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 5, n_stars)
    star = np.repeat(np.arange(n_stars), n)
    labels = cannon.basis.unstandardize(0.7 * rng.normal(size=(n_stars, 3)))[star]
    labels += FLOOR * rng.normal(size=labels.shape)
    snr = np.exp(rng.normal(np.log(100), 0.5, star.size))
    flux = cannon.basis.features(cannon.basis.standardize(labels)) @ cannon.theta.T
    flux += rng.standard_normal((n_stars, 1))[star] @ cannon.loadings.T
    sigma = np.hypot(1 / snr[:, None], cannon.scatter)
    flux += SCALE * sigma * rng.standard_normal(flux.shape)
    ids = np.array([f"s{i}/visit-{k + 1}" for i in range(n_stars) for k in range(n[i])])
    ivar = np.broadcast_to(snr[:, None] ** 2, flux.shape)
    spectra = NormalizedSpectra(ids, cannon.wavelength, flux, ivar, snr=snr, simulated=True)
    table = Table({"STAR_ID": ids, "STAR": [f"s{i}" for i in star], "SNR": snr})
    return cannon, spectra, table


@pytest.fixture(scope="module")
def visits():
    """Result and table of the visits to 120 stars."""
    cannon, spectra, table = observe_visits(120, seed=4)
    return infer_labels(cannon, spectra, settings=QUICK, seed=1), table


@pytest.fixture(scope="module")
def found(visits):
    return repeats(*visits, flagged="keep", seed=1, cores=1)


def test_scale_and_floor_are_the_true_ones(found):
    """Within 99.7 % intervals; fixed seeds, false alarm 2 % were they drawn anew."""
    posterior = found.fit["posterior"].to_dataset()
    for i, name in enumerate(found.labels.names):
        own = posterior.sel(label_name=name)
        scale, floor = own["scale"].values.ravel(), own["floor"].values.ravel()
        low, high = np.quantile(scale, [0.0015, 0.9985])
        assert low < SCALE < high, name
        low, high = interval_from_zero(floor, 0.997)
        assert low <= FLOOR[i] <= high, name
    assert found.table["FLOOR_LOW"][1] == 0  # there is none in log g
    assert (found.table["FLOOR_LOW"][[0, 2]] > 0).all()
    assert (found.table["FLOOR_LIMIT"] > found.table["FLOOR"]).all()


def test_z_is_too_wide_where_errors_are_too_small(found):
    """sd of z is the ratio of true to formal error, within five standard errors."""
    formal = found.labels.errors["formal"]
    true = np.sqrt((SCALE * formal) ** 2 + FLOOR**2)
    ratio = np.median(true / formal, axis=0)
    assert np.all(np.abs(found.table["Z_SD"] - ratio) < 5 * found.table["Z_SD_SE"])
    assert np.all(found.table["COVER_68"] < 0.66)
    off = np.abs(found.table["REPEAT_ERR"] - np.median(true, axis=0))
    assert np.all(off < 5 * found.table["REPEAT_ERR_SE"])
    assert np.isnan(found.table["CAL_Z_SD"]).all()  # this model has no calibration


def test_pairs_of_a_star_are_not_independent(visits):
    labels = labels_of_visits(visits[0], visits[1], flagged="keep")
    pairs = pairs_of(labels)
    star, n = np.unique(labels.star, return_counts=True)
    np.testing.assert_allclose(np.bincount(pairs.star, pairs.weight), n - 1)
    assert pairs.star.size == np.sum(n * (n - 1) // 2)
    assert star.size == 120
    i, j = pairs.first[5], pairs.second[5]
    assert labels.star[i] == labels.star[j]
    expected = (labels.mean[i] - labels.mean[j]) / np.hypot(
        labels.errors["formal"][i], labels.errors["formal"][j]
    )
    np.testing.assert_allclose(pairs.z["formal"][5], expected)


def test_tables_and_figure_say_what_is_seen(found):
    assert found.table.meta["comments"] == [SEES]
    assert list(found.table["LABEL"]) == list(found.labels.names)
    np.testing.assert_allclose(
        np.sum(found.bins["N"][(found.bins["LABEL"] == "TEFF")]), found.pairs.weight.sum()
    )
    pairs = found.pair_table()
    assert {"STAR", "FIRST", "SECOND", "SNR", "TEFF_DIFF", "TEFF_Z"} <= set(pairs.colnames)
    assert "Repeats of 120 stars" in str(found)
    assert "SIMULATED" in str(found)
    figure = plot_repeats(found)
    assert isinstance(figure, Figure)
    assert "simulated" in figure.get_suptitle()


def test_flagged_visits_are_left_out_or_kept(visits):
    result, table = visits
    tree = result.copy()
    stats = tree["star_stats"].to_dataset()
    flag = np.zeros(stats.sizes["star"], dtype=np.int64)
    flag[:3] = int(LabelFlag.UNLIKE_TRAINING)
    tree["star_stats"] = stats.assign(label_flag=("star", flag))
    out, kept = (labels_of_visits(tree, table, flagged=f) for f in ("exclude", "keep"))
    assert out.n_flagged == kept.n_flagged == 3
    assert kept.star.size == table["STAR"].size
    assert out.star.size <= kept.star.size - 3
    assert out.star.size + 3 + out.n_alone == kept.star.size
    assert not set(out.visit_id) & set(table["STAR_ID"][:3])


def test_bad_input_is_told(visits):
    result, table = visits
    with pytest.raises(InvalidDataError, match="no column STAR"):
        labels_of_visits(result, table["STAR_ID", "SNR"])
    with pytest.raises(InvalidDataError, match="lacks 2 of"):
        labels_of_visits(result, table[2:])
    with pytest.raises(InvalidDataError, match="'exclude' or 'keep'"):
        labels_of_visits(result, table, flagged="no")
    alone = table.copy()
    alone["STAR"] = alone["STAR_ID"]
    with pytest.raises(NoStarsError, match=r"none of .* has two visits"):
        repeats(result, alone)
    few = result.isel(star=np.arange(6))
    with pytest.raises(NoStarsError, match="8 are needed"):
        repeats(few, table)
