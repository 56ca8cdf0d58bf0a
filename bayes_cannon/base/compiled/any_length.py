"""A PyMC model compiled once for data of any length, sampled by nutpie.

nutpie compiles a model for the sizes at hand: with a variable per star, another number of stars is
another model, some seconds of compilation that no cache on disk can save. Here the last variable
may be as long as the data ask for, and its compiled log density is what PyTensor keeps on disk, so
that another process, too, starts at once. The shapes of the other variables are handed to it like
data: models that differ in nothing else share the machine code on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.pytensorf import compile as compile_function
from pytensor.compile.mode import NUMBA, Mode
from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.linker import NumbaLinker

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "AnyLengthModel",
]


class _UnlockedLinker(NumbaLinker):
    """Numba's, of functions that release the interpreter's lock: chains run side by side."""

    def jit_compile(self, fn_and_cache: Any) -> Any:
        """Compile the whole function."""
        function, key = fn_and_cache
        return numba_njit(function.py_func, final_function=True, cache=key is not None, nogil=True)


_MODE = Mode(linker=_UnlockedLinker(), optimizer=NUMBA.provided_optimizer)


@dataclass(frozen=True, eq=False)
class AnyLengthModel:
    """The compiled log density of a model whose last variable has a symbolic length.

    Attributes
    ----------
    log_density : callable
        Of the unconstrained variables in one vector (n_variables,) and the data: the value and its
        gradient (n_variables,).
    data : dict
        Values of the `pm.Data`, and of the lengths of dimensions, that it takes, in its order.
    shapes : dict
        Of the variables but the last, in the order of the vector.
    positive : frozenset of str
        Variables of which the vector holds the logarithm.
    start : (n_fixed,) float64
        Where chains start before jitter, the last variable (which starts at 0) left out.
    """

    log_density: Any
    data: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    positive: frozenset[str]
    start: FloatArray

    @classmethod
    def compile(cls, model: pm.Model) -> AnyLengthModel:
        """Compile (some seconds, or a moment where it is on disk).

        Parameters
        ----------
        model
            All its variables are unbounded or positive, the last one is an unbounded vector.

        Raises
        ------
        TypeError
            If a variable is bounded in another way.
        """
        variables = [model.rvs_to_values[rv] for rv in model.free_RVs]
        names = [str(rv.name) for rv in model.free_RVs]
        transforms = {rv.name: model.rvs_to_transforms[rv] for rv in model.free_RVs}
        positive = {
            n for n, t in transforms.items() if isinstance(t, pm.logprob.transforms.LogTransform)
        }
        odd = [n for n, t in transforms.items() if t is not None and n not in positive]
        if odd or names[-1] in positive:
            raise TypeError(f"neither unbounded nor positive: {', '.join(odd) or names[-1]}")
        initial = model.initial_point()
        fixed = [np.asarray(initial[v.name], dtype=np.float64) for v in variables[:-1]]
        shapes = {name: value.shape for name, value in zip(names, fixed, strict=False)}
        joined = pt.dvector("unconstrained")
        ends = np.cumsum([0, *(value.size for value in fixed)])
        places: Any = pytensor.shared(ends, name="_places", shape=(None,))
        parts = {}
        for i, (variable, value) in enumerate(zip(variables, fixed, strict=False)):
            part = joined[places[i] : places[i + 1]]
            if value.ndim != 1:
                shape = pytensor.shared(np.array(value.shape, dtype=np.int64), name=f"_shape_{i}")
                part = part.reshape(shape, ndim=value.ndim) if value.ndim else joined[places[i]]
            parts[variable] = part
        parts[variables[-1]] = joined[places[len(fixed)] :]
        density = model.logp()
        gradients: Any = pytensor.grad(density, variables)
        gradient = pt.concatenate([g.ravel() for g in gradients])
        with model:
            function = compile_function(
                [joined], [density, gradient], givens=list(parts.items()), mode=_MODE
            )
        return cls(
            function.vm.jit_fn, {v.name: v.get_value() for v in function.get_shared()}, shapes,
            frozenset(positive), np.concatenate([v.ravel() for v in fixed]),
        )  # fmt: skip

    def with_data(self, data: Mapping[str, FloatArray], length: int) -> Any:
        """The model with these data, for `nutpie.sample`; its last variable is not kept.

        Parameters
        ----------
        data
            Values of the `pm.Data`, by name.
        length
            Of the last variable.
        """
        from nutpie.compiled_pyfunc import from_pyfunc

        given = self.arguments(data)
        n = self.start.size + length

        def start(seed: int) -> FloatArray:
            point = np.random.default_rng(seed).uniform(-1.0, 1.0, n)
            point[: self.start.size] += self.start
            return point

        def log_density(x: FloatArray) -> tuple[float, FloatArray]:
            value, gradient = self.log_density(np.asarray(x), *given)
            return float(value), gradient

        return from_pyfunc(
            n, lambda: log_density, lambda *_: self.constrained,
            [np.dtype(np.float64)] * len(self.shapes), list(self.shapes.values()),
            list(self.shapes), make_initial_point_fn=start,
        )  # fmt: skip

    def arguments(self, data: Mapping[str, FloatArray]) -> list[Any]:
        """What `log_density` takes beside the vector.

        Parameters
        ----------
        data
            Values of the `pm.Data`, by name.
        """
        # In one order of memory, which the machine code depends on.
        new = {n: np.array(v, dtype=np.float64, order="C") for n, v in data.items()}
        given = dict(self.data) | new
        return list(given.values())

    def constrained(self, x: FloatArray) -> dict[str, FloatArray]:
        """Variables of a vector, without the last.

        Parameters
        ----------
        x : (n_variables,) float64
            Unconstrained.
        """
        found, place = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            value = np.array(x[place : place + size]).reshape(shape)
            found[name] = np.asarray(np.exp(value) if name in self.positive else value)
            place += size
        return found
