"""NUTS for one star after another with one compiled label model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.compiled.kept import compile_model
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.inference.likelihood.kinds import GAUSSIAN, Likelihood
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_model import build_label_model, coordinates
from bayes_cannon.models.label_priors import LabelPriors

__all__ = [
    "STATISTICS",
    "Draws",
    "LabelSampler",
    "NutsSettings",
    "Stage",
    "star_seed",
]


@dataclass(frozen=True)
class Statistic:
    """A statistic of every draw: nutpie's name, the type while working and the type kept."""

    column: str
    working: np.dtype[Any]
    kept: np.dtype[Any]


def _statistic(column: str, working: str, kept: str) -> Statistic:
    return Statistic(column, np.dtype(working), np.dtype(kept))


STATISTICS = {
    "diverging": _statistic("diverging", "bool", "bool"),
    "energy": _statistic("energy", "float64", "float32"),
    "lp": _statistic("logp", "float64", "float32"),
    "tree_depth": _statistic("depth", "int64", "int8"),
    "n_steps": _statistic("n_steps", "int64", "int16"),
    "step_size": _statistic("step_size", "float64", "float32"),
    "acceptance_rate": _statistic("mean_tree_accept", "float64", "float32"),
}
"""Statistics kept of each draw, by ArviZ's name."""


@dataclass(frozen=True)
class NutsSettings:
    """How a star is sampled.

    Attributes
    ----------
    draws, tune, chains : int
        Draws kept and warm-up steps of each chain, and chains.
    target_accept : float
    max_depth : int
        Largest depth of a trajectory's tree.
    """

    draws: int = 500
    tune: int = 100
    chains: int = 4
    target_accept: float = 0.8
    max_depth: int = 10

    def __post_init__(self) -> None:
        for name, least in (("draws", 4), ("tune", 10), ("chains", 1), ("max_depth", 1)):
            if getattr(self, name) < least:
                raise InvalidDataError(f"{name} must be at least {least}.")
        if not 0.1 < self.target_accept < 1:
            raise InvalidDataError("target_accept must lie between 0.1 and 1.")


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of one star.

    Attributes
    ----------
    labels : (n_chains, n_draws, n_labels) float64
        Physical units.
    statistics : dict of str to (n_chains, n_draws)
        See `STATISTICS`; empty for draws of the Gaussian. ``lp`` and ``energy`` lack the
        constant of the compressed likelihood.
    """

    labels: FloatArray
    statistics: dict[str, NDArray[Any]]


@unique
class Stage(IntEnum):
    """What a star's random numbers are for; each use has its own, and this is their one list."""

    FIRST = 0
    """The chains of its labels."""
    AGAIN = 1
    """Its chains where the first did not pass the checks."""
    CALIBRATED = 100
    """Its calibrated draws."""
    JOINT = 200
    """Errors of the reference, for the level of the joint region that holds it."""
    PAIR = 300
    """The chains of two stars."""


def star_seed(seed: int, star_id: str, stage: int = Stage.FIRST) -> np.random.SeedSequence:
    """Seed of one star: the same whatever other stars are sampled with it.

    Parameters
    ----------
    seed
        Of the whole inference.
    star_id
        Id of the star.
    stage
        What for: a `Stage`.
    """
    digest = hashlib.sha256(star_id.encode("utf-8")).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12)]
    return np.random.SeedSequence([int(seed) & (2**63 - 1), int(stage), *words])


@dataclass(frozen=True, eq=False)
class LabelSampler:
    """The label model, compiled; whose data are a star's is chosen per call.

    Attributes
    ----------
    basis : PolynomialBasis
    priors : LabelPriors
    compiled : object
        nutpie's compiled model. Depends on the number of labels, the degree, the priors, the
        likelihood and the shapes of its data, and not on the scaling of the labels, which goes in
        with each star.
    """

    basis: PolynomialBasis
    priors: LabelPriors
    compiled: Any
    _cache: ClassVar[dict[Any, Any]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def compile(
        cls,
        basis: PolynomialBasis,
        priors: LabelPriors,
        likelihood: Likelihood = GAUSSIAN,
        data: Mapping[str, FloatArray] | None = None,
    ) -> LabelSampler:
        """Compile the model, or take it from earlier compilations of this process or on disk.

        Parameters
        ----------
        basis, priors
            Of the labels.
        likelihood
            Of the pixels.
        data
            What it takes of some star (`Likelihood.data`); may be left out for the Gaussian.

        Raises
        ------
        InvalidDataError
            If the data of another likelihood than the Gaussian are left out.
        """
        if data is None and likelihood != GAUSSIAN:
            raise InvalidDataError(f"the likelihood {likelihood.name!r} needs data of some star.")
        t = basis.n_terms
        given = data or {"A": np.zeros((t, t)), "b": np.zeros(t)}
        shapes = tuple(sorted((name, np.shape(a)) for name, a in given.items()))
        key = (basis.names, basis.degree, priors.names, priors.priors, likelihood, shapes)
        with cls._lock:
            if key not in cls._cache:
                model = build_label_model(basis, priors, term=likelihood.term, data=given)
                k = basis.n_labels
                cls._cache[key] = compile_model(
                    model, lambda seed: np.random.default_rng(seed).standard_normal(k)
                )
        return cls(basis, priors, cls._cache[key])

    def log_density(
        self, data: Mapping[str, FloatArray], mean: FloatArray, chol: FloatArray, y: FloatArray
    ) -> tuple[float, FloatArray]:
        """Compiled log density of whitened coordinates y (n_labels,) and its gradient.

        Parameters
        ----------
        data
            What the likelihood takes of the star, by name: ``A`` and ``b`` of the Gaussian.
        mean, chol
            Whitening, see `sample`.
        """
        shared = {**data, "coordinates": coordinates(self.basis, self.priors, mean, chol)}
        function = self.compiled.logp_func
        arguments = [shared[v.name] for v in function.get_shared()]
        value, gradient = function.vm.jit_fn(np.asarray(y, dtype=np.float64), *arguments)
        return float(value), np.asarray(gradient)

    def sample(
        self,
        data: Mapping[str, FloatArray],
        mean: FloatArray,
        chol: FloatArray,
        settings: NutsSettings,
        seed: np.random.SeedSequence,
    ) -> Draws:
        """Sample one star with NUTS on one core; threads may call this side by side.

        Parameters
        ----------
        data
            What the likelihood takes of the star, by name: ``A`` and ``b`` of the Gaussian.
        mean, chol
            Laplace approximation in unconstrained coordinates: the whitening. Chains start from it.
        settings
            Lengths.
        seed
            Of the star.

        Raises
        ------
        FitError
            If no chain finds a place to start from.
        """
        import nutpie

        place = coordinates(self.basis, self.priors, mean, chol)
        compiled = self.compiled.with_data(**data, coordinates=place)
        try:
            trace = nutpie.sample(
                compiled, draws=settings.draws, tune=settings.tune, chains=settings.chains,
                cores=1, seed=int(seed.generate_state(1, np.uint64)[0] >> 1),
                target_accept=settings.target_accept, maxdepth=settings.max_depth,
                progress_bar=False, save_warmup=False, return_raw_trace=True,
            )  # fmt: skip
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise FitError(f"the sampler could not start: {reason}.") from error
        return _unpack(trace, settings, self.basis.n_labels)


def _unpack(trace: Any, settings: NutsSettings, n_labels: int) -> Draws:
    """Draws after warm-up from nutpie's Arrow tables, without the detour over a DataTree."""
    import pyarrow  # type: ignore[import-untyped]

    draws, statistics = trace.get_arrow_trace()
    first = settings.tune
    shape = (settings.chains, settings.draws)
    labels = np.empty((*shape, n_labels))
    stats: dict[str, NDArray[Any]] = {n: np.empty(shape, s.working) for n, s in STATISTICS.items()}
    for chain, (batch, table) in enumerate(zip(draws, statistics, strict=True)):
        if batch.num_rows != first + settings.draws:
            raise FitError(f"chain {chain} ended after {batch.num_rows} steps.")
        values = pyarrow.array(batch.column("labels")).flatten().to_numpy()
        labels[chain] = values.reshape(-1, n_labels)[first:]
        for name, statistic in STATISTICS.items():
            array = pyarrow.array(table.column(statistic.column)).to_numpy(zero_copy_only=False)
            stats[name][chain] = array[first:]
    return Draws(labels, stats)
