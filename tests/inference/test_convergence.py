"""R-hat and effective sample sizes are ArviZ's."""

import warnings

import numpy as np
import pytest
from arviz_stats.base.array import array_stats

from bayes_cannon.inference.summaries.convergence import rank_diagnostics


@pytest.mark.parametrize("n_draws", [4, 7, 101])
@pytest.mark.parametrize("n_chains", [1, 2, 4])
@pytest.mark.parametrize("kind", ["free", "slow", "alternating", "ties", "apart", "still"])
def test_diagnostics_are_those_of_arviz(kind, n_chains, n_draws):
    rng = np.random.default_rng(n_draws)
    draws = rng.standard_normal((3, n_chains, n_draws))
    for t in range(1, n_draws):
        draws[:, :, t] += {"slow": 0.95, "alternating": -0.7}.get(kind, 0) * draws[:, :, t - 1]
    if kind == "ties":
        draws = np.round(draws)
    if kind == "apart":
        draws[:, 0] += 1
    if kind == "still":
        draws[0] = 1.0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = (
            array_stats.rhat(draws),
            array_stats.ess(draws, method="bulk"),
            array_stats.ess(draws, method="tail", prob=(0.05, 0.95)),
        )
    for found, right in zip(rank_diagnostics(draws), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9)


def test_draws_that_are_not_finite_have_no_diagnostics():
    draws = np.random.default_rng(1).standard_normal((2, 4, 50))
    draws[1, 2, 3] = np.nan
    for found in rank_diagnostics(draws):
        assert np.isfinite(found).tolist() == [True, False]
