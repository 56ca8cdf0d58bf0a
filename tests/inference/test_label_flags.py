"""LABEL_FLAG: every bit is set where it should be, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.inference.checks import StarStatus, factors_p
from bayes_cannon.inference.flags import (
    ADVICE,
    BAD,
    MEANINGS,
    REMARKS,
    LabelFlag,
    LabelReference,
    add_flags,
    describe_flag,
)

NAMES = ("LOGG", "FE_H")
STARS = np.array(["fine", "edge", "chi2", "outside", "sparse", "pixels", "factors", "failed"])


@pytest.fixture(scope="module")
def reference():
    """Two crowds of training stars with nothing between them."""
    rng = np.random.default_rng(1)
    ell = rng.normal(scale=0.1, size=(200, 2))
    ell[:100, 0] += 2
    ell[100:, 0] -= 2
    return LabelReference(NAMES, np.array([2.5, 0.0]), np.array([1.0, 0.5]), ell, 1000)


def result():
    rng = np.random.default_rng(2)
    n = STARS.size
    mean = np.tile([4.5, 0.0], (n, 1))
    mean[1] = [4.5, 1.99]
    mean[3] = [4.5, 1.5]
    mean[4] = [2.5, 0.0]
    draws = mean + 0.01 * rng.normal(size=(4, 50, n, 2))
    draws[..., 7, :] = np.nan
    chi2_p, factors = np.full(n, 0.5), np.full(n, 0.5)
    chi2_p[2], factors[6], chi2_p[7] = 1e-4, 1e-8, np.nan
    used, status = np.full(n, 900), np.zeros(n, dtype=np.int32)
    used[5] = 499
    status[7] = StarStatus.FAILED
    status[0] = StarStatus.SAMPLED_AGAIN
    dims = ("chain", "draw", "star")
    coords = {"star": STARS}
    return xr.DataTree.from_dict(
        {
            # As read from Zarr, in alphabetical order.
            "posterior": xr.Dataset(
                {"FE_H": (dims, draws[..., 1]), "LOGG": (dims, draws[..., 0])}, coords
            ),
            "star_stats": xr.Dataset(
                {
                    "chi2_p": ("star", chi2_p), "factors_p": ("star", factors),
                    "used_pixels": ("star", used), "status": ("star", status),
                },
                coords,
            ),
            "constant_data": xr.Dataset(
                {"prior_lower": ("label_name", [0.0, -2.0]),
                 "prior_upper": ("label_name", [10.0, 2.0])},
                {"label_name": list(NAMES)},
            ),
        }
    )  # fmt: skip


def test_status_keeps_its_bits():
    for bit in StarStatus:
        assert LabelFlag[str(bit.name)] == int(bit)
    assert len({int(bit) for bit in LabelFlag}) == len(LabelFlag)
    assert all(int(bit).bit_count() == 1 for bit in LabelFlag)


def test_every_bit_has_a_meaning():
    assert set(MEANINGS) == set(LabelFlag)
    assert set(ADVICE) == set(LabelFlag)
    assert not BAD & REMARKS
    assert describe_flag(0) == []
    assert describe_flag(LabelFlag.RHAT | LabelFlag.LAPLACE) == [
        MEANINGS[LabelFlag.RHAT], MEANINGS[LabelFlag.LAPLACE],
    ]  # fmt: skip


def test_bits_are_set_where_they_should_be(reference):
    before = result()
    stats = add_flags(before, reference)["star_stats"]
    flags = dict(zip(STARS.tolist(), stats["label_flag"].values.tolist(), strict=True))
    assert flags["fine"] == LabelFlag.SAMPLED_AGAIN
    assert flags["edge"] & LabelFlag.PRIOR_EDGE
    assert flags["chi2"] == LabelFlag.POOR_CHI2
    beyond = LabelFlag.OUTSIDE_LABELS | LabelFlag.SPARSE_LABELS | LabelFlag.GRIDEDGE
    assert flags["outside"] == beyond
    assert flags["sparse"] == LabelFlag.SPARSE_LABELS
    assert flags["pixels"] == LabelFlag.FEW_PIXELS
    assert flags["factors"] == LabelFlag.EXTREME_FACTORS
    assert flags["failed"] == LabelFlag.FAILED
    assert np.isnan(stats["mahalanobis"].values[-1])
    assert stats["neighbour_distance"].values[4] == pytest.approx(1.9, abs=0.15)
    assert "label_flag" not in before["star_stats"]


def test_attributes_say_what_bits_mean(reference):
    attrs = add_flags(result(), reference)["star_stats"]["label_flag"].attrs
    meanings = attrs["flag_meanings"].split()
    assert dict(zip(meanings, attrs["flag_masks"].tolist(), strict=True)) == {
        str(bit.name): int(bit) for bit in LabelFlag
    }


def test_training_stars_are_inside_but_for_one_in_a_thousand(reference):
    labels = reference.ell * reference.scale + reference.center
    mahalanobis, _ = reference.distances(labels)
    assert np.sum(mahalanobis > reference.limits[0]) <= 1


def test_probability_of_factors():
    assert factors_p(np.zeros(3)) == 1
    assert factors_p(np.array([3.0])) == pytest.approx(0.0027, rel=1e-2)
    assert np.isnan(factors_p(np.zeros(0)))


def test_stars_that_lack_a_label_count_for_the_mahalanobis_distance():
    rng = np.random.default_rng(3)
    ell = rng.normal(size=(400, 2))
    ell[:200, 0] = np.nan
    ell[200:, 1] = np.nan
    reference = LabelReference(NAMES, np.zeros(2), np.ones(2), ell, 100)
    near, far = reference.distances(np.array([[0.5, 0.5], [5.0, 5.0]]))[0]
    limit, sparse = reference.limits
    assert near == pytest.approx(np.sqrt(0.5), rel=0.1)
    assert far > limit == pytest.approx(np.sqrt(13.816), rel=1e-3)
    # No star has both labels: there is no nearest one.
    assert np.isnan(sparse)
    assert np.isnan(reference.distances(np.array([[0.5, 0.5]]))[1]).all()


@pytest.mark.parametrize("n_complete", [1, 2, 3, 4, 10])
def test_few_stars_with_all_labels_give_flags_or_none(n_complete):
    rng = np.random.default_rng(n_complete)
    ell = rng.normal(size=(60, 2))
    ell[n_complete:, 0] = np.where(np.arange(60 - n_complete) % 2, np.nan, ell[n_complete:, 0])
    ell[n_complete:, 1] = np.where(np.isnan(ell[n_complete:, 0]), ell[n_complete:, 1], np.nan)
    reference = LabelReference(NAMES, np.zeros(2), np.ones(2), ell, 100)
    mahalanobis, neighbour = reference.distances(np.array([[0.0, 0.0], [8.0, -8.0]]))
    assert mahalanobis[0] < reference.limits[0] < mahalanobis[1]
    assert reference.judges_neighbours == (n_complete >= 4)
    if n_complete >= 4:
        assert neighbour[1] > reference.limits[1] > 0
    else:
        assert np.isnan(neighbour).all()


def test_that_neighbours_are_not_judged_is_said(caplog):
    from bayes_cannon.training.pipeline import train
    from bayes_cannon.training.settings import TrainingSettings
    from tests.training.test_train import make_set

    data, *_ = make_set(n_stars=40, n_pixels=60)
    values = data.labels.values.copy()
    values[::2, 0], values[1::2, 2] = np.nan, np.nan
    lacking = replace(data, labels=replace(data.labels, values=values))
    cannon = train(lacking, settings=TrainingSettings(n_factors=0, folds=0), seed=0)
    with caplog.at_level("WARNING"):
        LabelReference.from_cannon(cannon)
    assert "0 training stars have all of TEFF, LOGG, FE_H" in caplog.text
    assert np.isfinite(cannon.label_cov).all()
    assert np.linalg.eigvalsh(cannon.label_cov)[0] > 0
