"""Compiled models on disk against nutpie's own."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import nutpie
import pymc as pm
import pytest

from bayes_cannon.base.compiled.kept import compile_model


def a_model() -> pm.Model:
    """Scalars and vectors, bounded and not, data of three shapes, and a deterministic variable."""
    with pm.Model(coords={"part": ["a", "b"]}) as model:
        x = pm.Data("x", np.arange(6.0).reshape(3, 2))
        y = pm.Data("y", np.array([0.5, 1.0, 4.0]))
        offset = pm.Data("offset", np.array(0.25))
        slope = pm.Normal("slope", dims="part")
        sd = pm.HalfNormal("sd")
        pm.Deterministic("twice", 2 * slope, dims="part")
        pm.Normal("flux", x @ slope + offset, sd, observed=y)
    return model


@pytest.fixture(scope="module")
def ours():
    """The model compiled by the package."""
    return compile_model(a_model())


def test_same_draws_as_nutpies_own_wrapper(ours) -> None:
    theirs = dataclasses.replace(
        nutpie.compile_pymc_model(a_model(), backend="numba"),
        initial_point_func=ours.initial_point_func,
    )
    data = {"x": np.arange(10.0).reshape(5, 2), "y": np.arange(5.0), "offset": np.array(-1.0)}
    draws = [
        nutpie.sample(
            compiled.with_data(**data), draws=50, tune=100, chains=2, cores=1, seed=3,
            progress_bar=False,
        )["posterior"].to_dataset()
        for compiled in (ours, theirs)
    ]  # fmt: skip
    assert set(draws[0]) == set(draws[1])
    for name in ("slope", "sd", "twice"):
        assert draws[0][name].dims == draws[1][name].dims
        np.testing.assert_array_equal(draws[0][name], draws[1][name])
    np.testing.assert_array_equal(draws[0]["twice"], 2 * draws[0]["slope"])
    assert list(draws[0]["part"].values) == ["a", "b"]


def test_another_compilation_reads_the_disk(ours) -> None:
    again = compile_model(a_model())
    assert again.compiled_logp_func.cache_hits == 1
    assert again.compiled_expand_func.cache_hits == 1


def test_a_start_of_ones_own(ours) -> None:
    compiled = compile_model(a_model(), lambda seed: np.full(3, float(seed)))
    np.testing.assert_array_equal(compiled.initial_point_func(2), [2.0, 2.0, 2.0])


def test_densities_that_are_not_finite_are_refused(ours) -> None:
    point = np.zeros(3)
    assert status(ours, point) == 0
    assert status(ours, point * np.nan) == 3
    assert status(ours, np.zeros(2)) == -1


def status(compiled, point) -> int:
    """What the compiled log density answers nutpie."""
    words = ctypes.c_uint64
    function = ctypes.CFUNCTYPE(ctypes.c_int64, words, *[ctypes.c_void_p] * 4)(
        compiled.compiled_logp_func.address
    )
    gradient, value = np.empty(3), np.empty(1)
    return function(
        point.size, *(a.ctypes.data for a in (point, gradient, value, compiled.user_data))
    )
