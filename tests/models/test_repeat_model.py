"""The model of repeated visits against its closed form."""

import numpy as np
import pytensor
from pytensor.compile.mode import Mode
from scipy import stats

from bayes_cannon.models.repeat_model import (
    RepeatedLabels,
    build_repeat_model,
    core_width,
)

PYTHON = Mode(linker="py", optimizer=None)
NAMES = ("log_scale", "floor", "nu_excess")


def problem(seed=1):
    rng = np.random.default_rng(seed)
    there = np.arange(4) < np.array([2, 4, 3])[:, None]
    value, formal = rng.normal(size=(3, 4, 2)), rng.uniform(0.5, 2, (3, 4, 2))
    return RepeatedLabels(("a", "b"), value, formal, there)


def likelihood(data, point):
    model = build_repeat_model(data)
    given = [model[name] for name in NAMES]
    return float(pytensor.function(given, model["log_likelihood"], mode=PYTHON)(*point))


def test_likelihood_is_that_of_independent_differences():
    """SciPy's multivariate t of the differences from the first visit."""
    data = problem()

    def expected(point):
        log_scale, floor, excess = point
        total = 0.0
        for k, nu in enumerate(1 + excess):
            for i, row in enumerate(data.there):
                n = int(row.sum())
                formal = data.formal[i, :n, k]
                variance = np.exp(2 * log_scale[k]) * formal**2 + floor[k] ** 2
                contrast = np.concatenate([-np.ones((n - 1, 1)), np.eye(n - 1)], axis=1)
                scale = contrast * variance @ contrast.T / core_width(nu) ** 2
                difference = contrast @ data.value[i, :n, k]
                total += stats.multivariate_t.logpdf(difference, shape=scale, df=nu)
        return total

    rng = np.random.default_rng(2)
    for _ in range(3):
        point = [np.abs(rng.normal(1, 0.3, 2)) for _ in NAMES]
        np.testing.assert_allclose(likelihood(data, point), expected(point), rtol=1e-10)


def test_what_is_filled_up_does_not_count():
    data, point = problem(), [np.full(2, 0.2), np.full(2, 0.5), np.full(2, 9.0)]
    other = RepeatedLabels(
        data.names, np.where(data.there[:, :, None], data.value, 7.0),
        np.where(data.there[:, :, None], data.formal, 3.0), data.there,
    )  # fmt: skip
    np.testing.assert_allclose(likelihood(data, point), likelihood(other, point), rtol=1e-12)


def test_width_of_the_core_is_students():
    for nu in (2.0, 4.0, 30.0):
        np.testing.assert_allclose(core_width(nu), stats.t.ppf(stats.norm.cdf(1), nu), rtol=2.5e-3)
