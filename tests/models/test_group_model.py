"""The model of a group of stars against its closed form."""

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from scipy import stats

from bayes_cannon.models.group_model import GroupLabels, SumOfCovariances, build_group_model

PYTHON = Mode(linker="py", optimizer=None)


def test_density_is_that_of_normals_with_both_covariances():
    rng, n, k, nu = np.random.default_rng(1), 5, 3, 6.0
    a = rng.standard_normal((n, k, k))
    data = GroupLabels(
        ("a", "b", "c"), np.arange(n).astype(str), rng.normal(size=(n, k)),
        0.3 * a @ a.transpose(0, 2, 1) + 0.1 * np.eye(k), nu,
    )  # fmt: skip
    model = build_group_model(data)
    names = ["mean", "sd", "factor_diagonal", "factor_lower", "scaled_log_u"]
    values = [np.abs(rng.normal(1, 0.3, shape)) for shape in (k, k, k, 3, n)]
    both = [model["u_prior"], model["log_likelihood"]]
    prior, likelihood = pytensor.function([model[v] for v in names], both, mode=PYTHON)(*values)
    mean, sd, diagonal, lower, scaled = values
    u = np.exp(scaled / np.sqrt(nu / 2))
    triangle = np.diag(np.sqrt(diagonal))
    triangle[np.tril_indices(k, -1)] = lower
    root = sd[:, None] * triangle / np.linalg.norm(triangle, axis=1, keepdims=True)
    expected = sum(
        stats.multivariate_normal.logpdf(data.center[i], mean, root @ root.T + data.scale[i] / u[i])
        for i in range(n)
    )
    np.testing.assert_allclose(likelihood, expected, rtol=1e-9)
    density = stats.gamma.logpdf(u, nu / 2, scale=2 / nu) + np.log(u)
    constant = n * stats.gamma.logpdf(1.0, nu / 2, scale=2 / nu) + n * nu / 2
    np.testing.assert_allclose(prior, density.sum() - constant, rtol=1e-9)


def test_gradients_are_finite_differences():
    rng, n, k = np.random.default_rng(3), 4, 3
    a = rng.standard_normal((n, k, k))
    arrays = [
        rng.normal(size=(n, k)), 0.3 * a @ a.transpose(0, 2, 1) + 0.1 * np.eye(k),
        0.3 * rng.standard_normal(n), np.cov(rng.standard_normal((k, 12))),
    ]  # fmt: skip
    given = [pt.dmatrix(), pt.dtensor3(), pt.dvector(), pt.dmatrix()]
    value = SumOfCovariances()(*given)[0]
    ways = (0, 2, 3)
    gradients = pt.grad(2 * value, [given[i] for i in ways])
    function = pytensor.function(given, [value, *gradients], mode=PYTHON)
    step = 1e-6
    for position, gradient in zip(ways, function(*arrays)[1:], strict=True):
        way = rng.standard_normal(arrays[position].shape)
        way = way + way.T if position == 3 else way
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[position] = moved[position] + sign * step * way
            ends.append(2 * function(*moved)[0])
        np.testing.assert_allclose(
            np.sum(gradient * way), (ends[0] - ends[1]) / (2 * step), rtol=1e-6
        )
