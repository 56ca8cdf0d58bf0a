r"""Simulation-based calibration of the training model on a handful of pixels.

Hyperparameters, coefficients and scatters are drawn from their priors and fluxes from them, all in
NumPy; the PyMC model is compiled once, its fluxes are swapped, and NUTS draws its posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.errors import FitError
from bayes_cannon.label_sampler import NutsSettings
from bayes_cannon.sbc import LONGER, N_KEPT, Ranks, effective_draws, thinned_rank
from bayes_cannon.training_draws import draw_hyperparameters, draw_pixels
from bayes_cannon.training_model import build_training_model
from bayes_cannon.training_priors import Hyperparameters, TrainingPriors

__all__ = ["TrainingSampler", "sbc_pixels", "sbc_training"]

FloatArray = NDArray[np.float64]
_SETTINGS = NutsSettings(draws=200, tune=300, chains=4, target_accept=0.95)


@dataclass(frozen=True, eq=False)
class TrainingSampler:
    """The training model of a few pixels, compiled; fluxes are given with each call.

    Attributes
    ----------
    features : (n_stars, n_terms) float64
    ivar : (n_stars, n_pixels) float64
        0 where a pixel is not used.
    priors : TrainingPriors
    hyper : Hyperparameters or None
        At which the hyperparameters are fixed; None: they are free.
    compiled : object
        nutpie's compiled model.
    """

    features: FloatArray
    ivar: FloatArray
    priors: TrainingPriors
    hyper: Hyperparameters | None
    compiled: Any

    @classmethod
    def compile(
        cls,
        features: FloatArray,
        ivar: FloatArray,
        *,
        priors: TrainingPriors | None = None,
        hyper: Hyperparameters | None = None,
    ) -> TrainingSampler:
        """Build and compile the model (ten seconds and more)."""
        import nutpie

        priors = priors or TrainingPriors()
        flux = np.ones_like(ivar)
        model = build_training_model(flux, ivar, features, priors=priors, hyper=hyper)
        compiled = nutpie.compile_pymc_model(model, backend="numba")
        return cls(features, ivar, priors, hyper, compiled)

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return int(self.features.shape[1])

    def simulate(self, rng: np.random.Generator) -> tuple[dict[str, FloatArray], FloatArray]:
        """Draw parameters, by the names of the model's variables, and fluxes like `ivar`."""
        hyper = self.hyper or draw_hyperparameters(self.priors, self.n_terms, rng)
        theta, log_s, flux = draw_pixels(hyper, self.features, self.ivar, rng)
        truth = {"theta": theta, "log_s": log_s}
        if self.hyper is None:
            truth |= {
                "population_stds": hyper.tau, "population_corr": hyper.correlation,
                "mu_s": np.array(hyper.mu_s), "omega_s": np.array(hyper.omega_s),
            }  # fmt: skip
        return truth, flux

    def sample(
        self, flux: FloatArray, ivar: FloatArray, seed: int, settings: NutsSettings
    ) -> dict[str, FloatArray]:
        """Draw the posterior: variables by name, each (n_chains, n_draws, …)."""
        import nutpie

        good = np.nonzero(self.ivar > 0)
        trace = nutpie.sample(
            self.compiled.with_data(observed_flux=flux[good], variance=1 / ivar[good]),
            draws=settings.draws, tune=settings.tune, chains=settings.chains, cores=1, seed=seed,
            target_accept=settings.target_accept, progress_bar=False, save_warmup=False,
            return_raw_trace=True,
        )  # fmt: skip
        shapes: dict[str, tuple[int, ...]] = {
            "theta": (self.ivar.shape[1], self.n_terms), "log_s": (self.ivar.shape[1],)
        }  # fmt: skip
        if self.hyper is None:
            shapes |= {
                "population_stds": (self.n_terms,), "population_corr": (self.n_terms,) * 2,
                "mu_s": (), "omega_s": (),
            }  # fmt: skip
        chains = trace.get_arrow_trace()[0]
        return {
            name: np.stack([_column(batch, name, settings.tune, shape) for batch in chains])
            for name, shape in shapes.items()
        }

    def sample_enough(
        self, flux: FloatArray, ivar: FloatArray, seed: int, settings: NutsSettings
    ) -> dict[str, FloatArray]:
        """As `sample`, longer until the draws of all parameters are worth 99 independent ones.

        Raises
        ------
        FitError
            If they are not even at sixteen times the length.
        """
        for longer in LONGER:
            n_tune, n_draws = longer * settings.tune, longer * settings.draws
            now = replace(settings, tune=n_tune, draws=n_draws)
            found = self.sample(flux, ivar, seed, now)
            flat = [a.reshape(*a.shape[:2], -1) for a in found.values()]
            if (worth := effective_draws(np.concatenate(flat, axis=-1))) >= N_KEPT:
                return found
        raise FitError(
            f"{settings.chains * n_draws} draws of a simulated training set are worth "
            f"{worth:.0f}, fewer than {N_KEPT}."
        )


def _column(batch: Any, name: str, tune: int, shape: tuple[int, ...]) -> FloatArray:
    """Draws of one variable of one chain after warm-up."""
    import pyarrow  # type: ignore[import-untyped]

    column = pyarrow.array(batch.column(name))
    flat = column.flatten() if pyarrow.types.is_nested(column.type) else column
    values = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float64)
    return values.reshape(batch.num_rows, *shape)[tune:]


def sbc_training(
    sampler: TrainingSampler,
    n_simulations: int,
    *,
    told_ivar: FloatArray | None = None,
    settings: NutsSettings = _SETTINGS,
    cores: int = 2,
    seed: int,
) -> Ranks:
    """Rank hyperparameters and those of the first pixel among NUTS draws of their posterior.

    Parameters
    ----------
    sampler
        The compiled model with free hyperparameters; its `ivar` is what the noise is drawn with.
    n_simulations
        Simulations: training sets, each with hyperparameters of its own.
    told_ivar
        Inverse variances that the posterior is told, like the sampler's, where they are to be
        wrong on purpose: to see that the ranks show it.
    settings
        Lengths; longer ones follow where the draws are not worth enough.
    cores
        Threads.
    seed
        Of everything.

    Raises
    ------
    FitError
        If the draws of a simulation are not worth 99 independent ones; it is not left out, for
        that would bias the ranks.
    """
    told = sampler.ivar if told_ivar is None else told_ivar
    names = _names(sampler.n_terms)

    def work(own: np.random.SeedSequence) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
        rng = np.random.default_rng(own)
        truth, flux = sampler.simulate(rng)
        found = sampler.sample_enough(flux, told, int(rng.integers(2**62)), settings)
        values, draws = _first_pixel(truth), _first_pixel(found)
        return values, thinned_rank(draws, values), draws.std(axis=(0, 1))

    seeds = np.random.SeedSequence(seed).spawn(n_simulations)
    with ThreadPoolExecutor(cores) as pool:
        columns = [np.array(part) for part in zip(*pool.map(work, seeds), strict=True)]
    return Ranks.from_draws(names, *columns)


def _names(n_terms: int) -> tuple[str, ...]:
    terms = range(n_terms)
    shared = (*(f"tau[{k}]" for k in terms), *(f"corr[{i},{j}]" for i in terms for j in range(i)))
    return (*shared, "mu_s", "omega_s", *(f"theta[0,{k}]" for k in terms), "log_s[0]")


def _first_pixel(values: Mapping[str, FloatArray]) -> FloatArray:
    """Parameters in the order of `_names` along the last axis."""
    rows, columns = np.tril_indices(values["population_stds"].shape[-1], -1)
    parts = [
        values["population_stds"], values["population_corr"][..., rows, columns],
        values["mu_s"][..., None], values["omega_s"][..., None],
        values["theta"][..., 0, :], values["log_s"][..., :1],
    ]  # fmt: skip
    return np.concatenate(parts, axis=-1)


def sbc_pixels(
    sampler: TrainingSampler,
    *,
    told_ivar: FloatArray | None = None,
    settings: NutsSettings = _SETTINGS,
    seed: int,
) -> Ranks:
    """Rank coefficients and scatters of many pixels in one run, hyperparameters known.

    Pixels are then independent, so that each is a simulation of its own.

    Parameters
    ----------
    sampler
        The compiled model with fixed hyperparameters.
    told_ivar, settings, seed
        As for `sbc_training`.

    Raises
    ------
    FitError
        If the draws are not worth 99 independent ones of every parameter.
    """
    rng = np.random.default_rng(seed)
    truth, flux = sampler.simulate(rng)
    told = sampler.ivar if told_ivar is None else told_ivar
    found = sampler.sample_enough(flux, told, int(rng.integers(2**62)), settings)
    values, draws = (
        np.concatenate([a["theta"], a["log_s"][..., None]], axis=-1) for a in (truth, found)
    )
    ranks = [thinned_rank(draws[:, :, p], row) for p, row in enumerate(values)]
    names = (*(f"theta[{k}]" for k in range(sampler.n_terms)), "log_s")
    return Ranks.from_draws(names, values, np.stack(ranks), draws.std(axis=(0, 1)))
