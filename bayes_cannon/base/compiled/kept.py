"""PyMC models compiled for nutpie, with all of the machine code kept on disk.

PyTensor keeps the log density of a model on disk. nutpie compiles a wrapper about it, with the
data's addresses and a name drawn at random in it, so that every process compiles it anew (some
seconds for the smallest model, and the log density with it). The wrappers here read what nutpie
gives them from plain words of memory, so that Numba can keep them beside PyTensor's functions.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numba
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic
from pymc.pytensorf import compile as compile_function
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.link.numba.cache import CACHED_SRC_FUNCTIONS, compile_numba_function_src

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "compile_model",
]

_LOCK = threading.Lock()
_Shape = tuple[int, ...]

_DOUBLES = numba.types.CPointer(numba.types.double)
_WORD = numba.types.uint64
_DENSITY = numba.types.int64(_WORD, _DOUBLES, _DOUBLES, _DOUBLES, numba.types.voidptr)
_EXPAND = numba.types.int64(_WORD, _WORD, _DOUBLES, _DOUBLES, numba.types.voidptr)


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return numba.types.voidptr(address), code


_DENSITY_SOURCE = """
def wrapped_density(dim, x_, gradient_, value_, words_):
    if dim != {n_dim}:
        return -1
    try:
        words = carray(words_, ({n_words},), uint64)
        value, gradient = inner(carray(x_, ({n_dim},)){arguments})
        out = carray(gradient_, ({n_dim},))
        out[...] = gradient
        carray(value_, (1,))[0] = value.item()
        if not np.all(np.isfinite(out)):
            return 3
        if not np.isfinite(value.item()):
            return 4
    except Exception:
        return 1
    return 0
"""

_EXPAND_SOURCE = """
def wrapped_expand(dim, expanded, x_, out_, words_):
    if dim != {n_dim} or expanded != {n_expanded}:
        return -1
    try:
        words = carray(words_, ({n_words},), uint64)
        (values,) = inner(carray(x_, ({n_dim},)){arguments})
        carray(out_, ({n_expanded},))[...] = values
    except Exception:
        return -2
    return 0
"""


def compile_model(model: pm.Model, start: Callable[[int], FloatArray] | None = None) -> Any:
    """Compile a model for `nutpie.sample` as `nutpie.compile_pymc_model` does, kept on disk.

    Parameters
    ----------
    model
        Its data (`pm.Data`) can be swapped by ``with_data``, of the same number of dimensions.
    start
        Of a seed: where a chain starts, unconstrained (n_dim,). None: at the support points,
        each moved by up to one unit (PyMC's own way).

    Returns
    -------
    nutpie.compile_pymc.CompiledPyMCModel
        As nutpie's own, and with the same posterior.
    """
    from nutpie.compile_pymc import CompiledPyMCModel, make_user_data

    with _LOCK:
        values = [model.rvs_to_values[rv] for rv in model.free_RVs]
        others = [v for v in model.unobserved_value_vars if v not in values]
        shapes = _shapes(model, [*values, *others])
        sizes = [int(np.prod(s, dtype=int)) for s in shapes]
        n_dim, n_expanded = sum(sizes[: len(values)]), sum(sizes)
        density, expand = _functions(model, values, others, shapes, n_dim)
        shared = list(dict.fromkeys([*density.get_shared(), *expand.get_shared()]))
        keys = {variable: f"data_{i}" for i, variable in enumerate(shared)}
        data = {keys[v]: np.array(v.get_value(), order="C", copy=True) for v in shared}
        for array in data.values():
            array.flags.writeable = False
        sized = {"n_dim": n_dim, "n_expanded": n_expanded}
        wrapped = _wrap(density, _DENSITY_SOURCE, "wrapped_density", _DENSITY, shared, sized)
        expanded = _wrap(expand, _EXPAND_SOURCE, "wrapped_expand", _EXPAND, shared, sized)
        names = [str(v.name) for v in (*values, *others)]
        return CompiledPyMCModel(
            dims=dict(model.named_vars_to_dims),
            compiled_logp_func=wrapped, compiled_expand_func=expanded,
            initial_point_func=start or _near_support(model, values),
            shared_data=data, shared_var_keys=keys, user_data=make_user_data(keys, data),
            n_expanded=n_expanded, shape_info=(names, _slices(sizes), shapes),
            logp_func=density, expand_func=expand, _n_dim=n_dim,
            _shapes=dict(zip(names, shapes, strict=True)),
            _coords=_coordinates(model, names[: len(values)], shapes),
            reparameterized_names=[
                model.rvs_to_values[rv].name for rv in model.free_RVs
                if model.rvs_to_transforms.get(rv) is not None
            ],
        )  # fmt: skip


def _slices(sizes: Iterable[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def _shapes(model: pm.Model, variables: Sequence[Any]) -> list[_Shape]:
    """Shapes of the variables in terms of the unconstrained ones."""
    static = [v.type.shape for v in variables]
    if all(None not in s for s in static):
        return [tuple(map(int, s)) for s in static]
    point = model.initial_point()
    given = [(v, pt.constant(point[v.name])) for v in model.value_vars]
    evaluate = pytensor.function(
        [], [v.shape for v in variables], givens=given, mode="FAST_COMPILE",
        on_unused_input="ignore",
    )  # fmt: skip
    return [tuple(map(int, s)) for s in evaluate()]


def _functions(
    model: pm.Model, values: Sequence[Any], others: Sequence[Any], shapes: Sequence[_Shape], n: int
) -> tuple[Any, Any]:
    """Log density with gradient, and all variables, of the unconstrained ones in one vector."""
    rewrites = ["canonicalize", "stabilize"]
    if not model.check_bounds:
        rewrites.append("local_remove_check_parameter")
    density: Any = rewrite_graph(model.logp(), include=rewrites)
    gradients: Any = pytensor.grad(density, list(values))
    gradient = pt.concatenate([g.ravel() for g in gradients])
    joined = pt.dvector("unconstrained", shape=(n,))
    sizes = [int(np.prod(s, dtype=int)) for s in shapes[: len(values)]]
    parts = {
        v: joined[place].reshape(shape).astype(v.dtype)
        for v, place, shape in zip(values, _slices(sizes), shapes, strict=False)
    }
    replaced: Any = clone_replace([density, gradient, *others], parts)
    everything = pt.concatenate([joined, *(v.ravel().astype("float64") for v in replaced[2:])])
    with model:
        return (
            compile_function([joined], replaced[:2], mode="NUMBA"),
            compile_function([joined], [everything], mode="NUMBA"),
        )


def _wrap(
    function: Any, source: str, name: str, signature: Any, shared: Sequence[Any],
    sized: Mapping[str, int],
) -> Any:  # fmt: skip
    """The function as nutpie calls it, from the words of `nutpie.compile_pymc.make_user_data`.

    Those are, for each of the shared data in turn, its address; then its size; then its shape.
    """
    place, places = 2 * len(shared), {}
    for variable in shared:
        places[variable] = place
        place += variable.type.ndim
    arguments = ""
    for variable in function.get_shared():
        at, first = shared.index(variable), places[variable]
        shape = "".join(f"int(words[{first + i}]), " for i in range(variable.type.ndim))
        arguments += f", carray(_pointer(words[{at}]), ({shape}), {variable.type.dtype})"
    inner = function.vm.jit_fn
    text = source.format(**sized, n_words=max(place, 1), arguments=arguments)
    inside = CACHED_SRC_FUNCTIONS.get(inner.py_func)
    key = None
    if inside is not None:
        key = hashlib.sha256(f"{inside}\n{text}\n{signature}".encode()).hexdigest()
    environment = {
        "__name__": __name__, "np": np, "carray": carray, "inner": inner,
        "_pointer": _pointer,
        **{t: getattr(np, t) for t in ("uint64", *{v.type.dtype for v in shared})},
    }  # fmt: skip
    wrapper = compile_numba_function_src(text, name, environment, cache_key=key)
    return numba.cfunc(signature, cache=key is not None)(wrapper)


def _near_support(model: pm.Model, values: Sequence[Any]) -> Callable[[int], FloatArray]:
    """PyMC's own places to start from."""
    point = model.initial_point()
    center = np.concatenate([np.ravel(point[v.name]).astype(np.float64) for v in values])

    def start(seed: int) -> FloatArray:
        return center + np.random.default_rng(seed).uniform(-1.0, 1.0, center.size)

    return start


def _coordinates(model: pm.Model, names: Sequence[str], shapes: Sequence[_Shape]) -> dict[str, Any]:
    """Those of the model, and the names of the unconstrained numbers as nutpie wants them."""
    coordinates: dict[str, Any] = {
        name: pd.Index(range(int(model.dim_lengths[name].eval())) if given is None else given)
        for name, given in model.coords.items()
    }
    flat = [
        f"{name}_{'.'.join(map(str, place))}" if place else name
        for name, shape in zip(names, shapes, strict=False)
        for place in np.ndindex(*shape)
    ]
    return coordinates | {"unconstrained_parameter": pd.Index(flat)}
