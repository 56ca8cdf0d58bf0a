"""Stars are judged by how well the model fits stars that it has not seen."""

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.inference.flags import GridEdge, LabelFlag, LabelReference, add_flags
from bayes_cannon.inference.reference import FitReference, log_snr, p_among

NAMES = ("LOGG", "FE_H")


def fitted(n, rng):
    """Reduced chi-square that grows with S/N, as of a model that is not exact; factors; log S/N."""
    snr = rng.uniform(np.log(50), np.log(500), n)
    chi2 = np.exp(0.8 * (snr - np.log(50)) + 0.1 * rng.standard_t(5, n))
    return chi2, rng.chisquare(10, n) * rng.lognormal(0, 0.3, n), snr


@pytest.fixture(scope="module")
def fit():
    return FitReference(*fitted(300, np.random.default_rng(1)))


def test_ranks_are_uniform_for_one_more_of_the_same_kind():
    rng = np.random.default_rng(2)
    p = np.array([p_among(rng.normal(size=1), rng.normal(size=99))[0] for _ in range(4000)])
    # 4000 stars: standard errors 0.0016 and 0.008.
    assert np.mean(p <= 0.01) == pytest.approx(0.01, abs=0.006)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.03)


def test_far_beyond_all_is_less_probable_than_just_beyond():
    known = np.random.default_rng(3).normal(size=300)
    just, far = p_among(known.max() + np.array([0.01, 5.0]), known)
    assert 1 / 301 >= just > 1 / 400
    assert far < 1e-5
    assert np.isnan(p_among(np.array([np.nan]), known))[0]
    assert np.isnan(p_among(np.array([1.0]), np.full(5, np.nan)))[0]


def test_ordinary_stars_of_any_signal_to_noise_are_flagged_at_the_rate(fit):
    chi2, square, snr = fitted(6000, np.random.default_rng(4))
    bright = snr > np.median(snr)
    p = fit.p_chi2(chi2, snr)
    # The rank among 300 is itself uncertain by 0.6 %.
    for stars in (bright, ~bright):
        assert 0.001 < np.mean(p[stars] <= 0.01) < 0.03
    assert 0.001 < np.mean(fit.p_factors(square) <= 0.01) < 0.03


def test_a_star_that_is_fitted_ill_for_its_signal_to_noise_stands_out(fit):
    faint, bright = np.log([60.0, 450.0])
    usual = np.exp(0.8 * (bright - np.log(50)))
    assert fit.p_chi2(np.array([usual]), np.array([bright]))[0] > 0.1
    assert fit.p_chi2(np.array([usual]), np.array([faint]))[0] < 1e-4


def test_growth_is_zero_for_usual_stars_and_half_a_logarithm_beyond():
    fit = FitReference(np.full(30, 2.0), np.linspace(4.0, 6.0, 31)[:30], np.full(30, 5.0))
    usual = np.median(fit.factors_square)
    assert fit.growth_terms == ("factors", "misfit")
    found = fit.log_growth(
        np.array([2.0, 8.0, 1.0, np.nan]), usual * np.array([1.0, 0.2, 9.0, np.nan]), np.full(4, 5)
    )
    expected = [[0, 0], [0, np.log(2)], [np.log(3), 0], [0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    without = FitReference(fit.chi2_reduced, np.full(30, np.nan), fit.log_snr)
    assert without.growth_terms == ("misfit",)
    assert without.log_growth(np.array([8.0]), np.array([np.nan]), np.array([5.0])).shape == (1, 1)


def test_signal_to_noise_of_used_pixels():
    ivar = np.array([[0.0, 100.0**2, 100.0**2, 4.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(np.exp(log_snr(ivar)), [100, np.nan])


def result(stats):
    dims, n = ("chain", "draw", "star"), 4
    coords = {"star": [f"s{i}" for i in range(n)]}
    draws = np.random.default_rng(5).normal(size=(2, 50, n, 2)) * 0.01
    draws[:, :, 3, 1] += 1.3
    stats = {k: ("star", np.asarray(v, dtype=float)) for k, v in stats.items()}
    stats["status"] = ("star", np.zeros(n, dtype=np.int32))
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {"LOGG": (dims, draws[..., 0]), "FE_H": (dims, draws[..., 1])}, coords
            ),
            "star_stats": xr.Dataset(stats, coords),
            "constant_data": xr.Dataset(
                {"prior_lower": ("label_name", [-9.0, -9.0]),
                 "prior_upper": ("label_name", [9.0, 9.0])},
                {"label_name": list(NAMES)},
            ),
        }
    )  # fmt: skip


def test_bits_follow_the_ranks_and_edges(fit):
    ell = np.random.default_rng(6).uniform(-1, 1, (500, 2))
    reference = LabelReference(NAMES, np.zeros(2), np.ones(2), ell, 100, fit)
    one = np.log(50.0)
    stats = add_flags(
        result(
            {
                "chi2": [100, 200, 400, 100], "independent_pixels": [100] * 4, "log_snr": [one] * 4,
                "factors_square": [10, 10, 10, 500], "used_pixels": [90] * 4,
                "chi2_p": [1e-9] * 4, "factors_p": [1e-9] * 4,
            }
        ),
        reference,
    )["star_stats"]  # fmt: skip
    flags = stats["label_flag"].values
    assert flags[0] == 0
    assert flags[1] == LabelFlag.POOR_CHI2
    assert flags[2] == LabelFlag.POOR_CHI2 | LabelFlag.UNLIKE_TRAINING
    assert flags[3] & LabelFlag.EXTREME_FACTORS
    assert flags[3] & LabelFlag.GRIDEDGE
    assert stats["chi2_rank"].values[0] < 0.9 < stats["chi2_rank"].values[1]
    edge = stats["grid_edge"].sel(label_name="FE_H").values
    assert edge.tolist() == [0, 0, 0, GridEdge.GRIDEDGE_BAD]
    outer = [[np.quantile(ell[:, 0], 0.995), np.quantile(ell[:, 1], 0.005)]]
    assert reference.grid_edge(np.array(outer)).tolist() == [
        [GridEdge.GRIDEDGE_WARN, GridEdge.GRIDEDGE_WARN]
    ]
