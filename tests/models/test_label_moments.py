"""Moments of labels of which some are missing, and labels that follow from one another."""

import numpy as np
import pytest

from bayes_cannon.errors import LabelError
from bayes_cannon.models.label_moments import label_moments, require_independent, safe_inverse

COV = np.array([[1.0, 0.8, 0.3], [0.8, 1.0, 0.1], [0.3, 0.1, 1.0]])


def labels(n=4000, seed=1):
    return np.random.default_rng(seed).multivariate_normal([1.0, -1.0, 0.5], COV, size=n)


def test_complete_labels_have_their_plain_moments():
    ell = labels(50)
    mean, cov = label_moments(ell)
    np.testing.assert_array_equal(mean, ell.mean(axis=0))
    np.testing.assert_array_equal(cov, np.cov(ell, rowvar=False))


def test_missing_labels_are_made_up_for_by_the_others():
    # The third label is missing where the first is high: its mean over the rest is biased.
    ell = labels()
    ell[ell[:, 0] > 1, 2] = np.nan
    ell[::7, 1] = np.nan
    mean, cov = label_moments(ell)
    np.testing.assert_allclose(mean, [1.0, -1.0, 0.5], atol=0.06)
    np.testing.assert_allclose(cov, COV, atol=0.07)
    assert abs(np.nanmean(ell[:, 2]) - 0.5) > 0.15


def test_labels_that_no_star_has_together_count_as_uncorrelated():
    ell = labels(200)[:, :2]
    ell[:100, 0] = np.nan
    ell[100:, 1] = np.nan
    mean, cov = label_moments(ell)
    np.testing.assert_allclose(mean, np.nanmean(ell, axis=0), atol=1e-6)
    assert abs(cov[0, 1]) < 1e-12
    np.testing.assert_allclose(np.diag(cov), np.nanvar(ell, axis=0), rtol=0.05)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_few_stars_with_all_labels_still_give_a_covariance(together):
    ell = labels(60)
    ell[together:30, 0] = np.nan
    ell[30:, 1] = np.nan
    cov = label_moments(ell)[1]
    scale = np.sqrt(np.diag(cov))
    assert np.linalg.eigvalsh(cov / np.outer(scale, scale))[0] > 1e-3


def test_inverse_of_a_singular_covariance_is_finite():
    np.testing.assert_allclose(safe_inverse(COV), np.linalg.inv(COV))
    singular = np.array([[1e6, 1e3], [1e3, 1.0]])
    inverse = safe_inverse(singular)
    assert np.isfinite(inverse).all()
    assert np.linalg.eigvalsh(inverse)[0] >= 0


def test_a_sum_of_labels_is_found_and_named():
    ell = np.c_[labels(40), np.zeros(40)]
    ell[:, 3] = ell[:, 0] + ell[:, 2]
    with pytest.raises(LabelError, match="FE_H, MG_FE and MG_H follow from one another in the 40"):
        require_independent(("FE_H", "TEFF", "MG_FE", "MG_H"), ell)
    ell[:, 3] += 0.01 * np.random.default_rng(2).normal(size=40)
    require_independent(("FE_H", "TEFF", "MG_FE", "MG_H"), ell)
