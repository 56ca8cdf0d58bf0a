r"""Simulation-based calibration of the training model on a handful of pixels.

Hyperparameters, coefficients and scatters are drawn from their priors and fluxes from them, all in
NumPy; the PyMC model is compiled once, its fluxes are swapped, and NUTS draws its posterior.

Calibration of the training model's closed forms: exact where they say so.

Draws from the training model's priors in plain NumPy, apart from its definition in PyMC.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import chi2

from bayes_cannon.analysis.sbc.ranks import LONGER, N_KEPT, Ranks, effective_draws, thinned_rank
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.compiled.kept import compile_model
from bayes_cannon.base.packing import unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError
from bayes_cannon.inference.sampler import NutsSettings
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.models.training_model import build_training_model
from bayes_cannon.training.pixels.fit import Design, PixelFit, fit_pixels, log_marginal
from bayes_cannon.training.pixels.population import PixelPrior

__all__ = [
    "TrainingSampler",
    "closed_form_pits",
    "draw_correlation",
    "draw_hyperparameters",
    "draw_pixels",
    "sbc_pixels",
    "sbc_training",
]

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
        """Build and compile the model (ten seconds and more).

        Parameters
        ----------
        features : (n_stars, n_terms) float64
            Terms of the polynomial.
        ivar : (n_stars, n_pixels) float64
            Inverse variance.
        priors, hyper
            Of the hyperparameters, or their values.
        """
        flux = np.ones_like(ivar)
        model = build_training_model(flux, ivar, features, priors=priors, hyper=hyper)
        compiled = compile_model(model)
        return cls(features, ivar, priors or TrainingPriors(), hyper, compiled)

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return int(self.features.shape[1])

    def simulate(self, rng: np.random.Generator) -> tuple[dict[str, FloatArray], FloatArray]:
        """Draw parameters, by the names of the model's variables, and fluxes like `ivar`.

        Parameters
        ----------
        rng
            Of the draws.
        """
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
        """Draw the posterior: variables by name, each (n_chains, n_draws, …).

        Parameters
        ----------
        flux, ivar : (n_stars, n_pixels) float64
            Flux and inverse variance.
        seed, settings
            Of the sampler.
        """
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

        Parameters
        ----------
        flux, ivar
            Of a simulated training set, shape (n_stars, n_pixels).
        seed, settings
            Of the sampler.

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
            f"{count_text(settings.chains * n_draws, 'draw')} of a simulated training set are "
            f"worth {worth:.0f}, fewer than {N_KEPT}."
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
    settings: NutsSettings | None = None,
    cores: int = 2,
    seed: int | None = None,
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
        Lengths (None: 4 chains of 200 draws after 300 steps); longer ones follow where the draws
        are not worth enough.
    cores
        Threads.
    seed
        Of everything; None takes a fresh one, which the result holds.

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
        found = sampler.sample_enough(flux, told, int(rng.integers(2**62)), lengths)
        values, draws = _first_pixel(truth), _first_pixel(found)
        return values, thinned_rank(draws, values), draws.std(axis=(0, 1))

    seed, lengths = as_seed(seed), settings or _SETTINGS
    seeds = np.random.SeedSequence(seed).spawn(n_simulations)
    with ThreadPoolExecutor(cores) as pool:
        columns = [np.array(part) for part in zip(*pool.map(work, seeds), strict=True)]
    return replace(Ranks.from_draws(names, *columns), seed=seed)


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
    settings: NutsSettings | None = None,
    seed: int | None = None,
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
    seed, settings = as_seed(seed), settings or _SETTINGS
    rng = np.random.default_rng(seed)
    truth, flux = sampler.simulate(rng)
    told = sampler.ivar if told_ivar is None else told_ivar
    found = sampler.sample_enough(flux, told, int(rng.integers(2**62)), settings)
    values, draws = (
        np.concatenate([a["theta"], a["log_s"][..., None]], axis=-1) for a in (truth, found)
    )
    ranks = [thinned_rank(draws[:, :, p], row) for p, row in enumerate(values)]
    names = (*(f"theta[{k}]" for k in range(sampler.n_terms)), "log_s")
    ranked = Ranks.from_draws(names, values, np.stack(ranks), draws.std(axis=(0, 1)))
    return replace(ranked, seed=seed)


def closed_form_pits(
    hyper: Hyperparameters, features: FloatArray, ivar: FloatArray, *, seed: int | None = None
) -> Mapping[str, FloatArray]:
    """Probabilities below the true values by the closed forms, hyperparameters known.

    Every pixel is a simulation of its own. What the closed forms claim exactly is that the
    coefficients are Gaussian given the scatter, and the marginal posterior of log s; that one
    is integrated on a grid. The Gaussian at its mode, ``log_s laplace``, and coefficients at the
    mode of the scatter, ``theta[k] at mode``, are approximations.

    Parameters
    ----------
    hyper
        Known hyperparameters.
    features
        Shape (n_stars, n_terms).
    ivar
        Shape (n_stars, n_pixels); 0: not used.
    seed
        Of the simulated pixels; None takes a fresh one.

    Returns
    -------
    mapping of str to (n_pixels,) float64
        ``theta[k]`` for every term and ``theta joint`` (chi-square of the whole vector) given the
        true scatter; ``log_s``; and the approximations.
    """
    rng = np.random.default_rng(as_seed(seed))
    theta, log_s, flux = draw_pixels(hyper, features, ivar, rng)
    design = Design.exact(features)
    prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)
    # One step without the last pass: what is returned was evaluated at the start, the true scatter.
    given = fit_pixels(flux, ivar, design, prior, log_s, max_steps=1, finish=False)
    fitted = fit_pixels(flux, ivar, design, prior, np.full(log_s.shape, hyper.mu_s))
    z, joint = _standardised(given, theta)
    pits = {f"theta[{k}]": ndtr(column) for k, column in enumerate(z.T)}
    pits["theta joint"] = chi2.cdf(joint, theta.shape[1])
    pits["log_s"] = _grid_pit(flux, ivar, design, prior, fitted, log_s)
    middle = fitted.log_scatter + fitted.skewness_shift
    pits["log_s laplace"] = ndtr((log_s - middle) / fitted.log_scatter_sd)
    at_mode = _standardised(fitted, theta)[0]
    return pits | {f"theta[{k}] at mode": ndtr(column) for k, column in enumerate(at_mode.T)}


def _standardised(fit: PixelFit, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients in posterior standard deviations, and their joint chi-square."""
    cov = unpack(np.asarray(fit.cov, dtype=np.float64))
    off = theta - fit.mean
    off[:, 0] -= 1  # the fit is one of flux - 1
    solved = np.linalg.solve(cov, off[:, :, None])[:, :, 0]
    sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    return off / sd, np.sum(off * solved, axis=1)


def _grid_pit(
    flux: FloatArray,
    ivar: FloatArray,
    design: Design,
    prior: PixelPrior,
    fit: PixelFit,
    log_s: FloatArray,
) -> FloatArray:
    """Part of the marginal posterior of log s below the true value, by the trapezium rule."""
    wide = 8 * prior.log_scatter_sd
    low = np.minimum(prior.log_scatter_mean - wide, log_s)
    high = np.maximum(prior.log_scatter_mean + wide, log_s)
    narrow = 8 * fit.log_scatter_sd
    low = np.maximum(low, np.minimum(fit.log_scatter - 3 * narrow, log_s - narrow))
    high = np.minimum(high, np.maximum(fit.log_scatter + narrow, log_s + narrow))
    below, above = np.linspace(low, log_s, 200), np.linspace(log_s, high, 200)
    grids = np.concatenate([below, above])
    density = np.stack([log_marginal(flux, ivar, design, prior, u) for u in grids])
    density = np.exp(density - density.max(axis=0))
    left, right = (
        np.trapezoid(density[part], grids[part], axis=0) for part in (slice(200), slice(200, None))
    )
    return np.asarray(left / (left + right))


def draw_correlation(n: int, shape: float, rng: np.random.Generator) -> FloatArray:
    """Draw a correlation matrix from the LKJ distribution by its canonical partial correlations.

    Lewandowski, Kurowicka & Joe (2009), J. Multivar. Anal. 100, 1989: that of row i with column j
    is 2 Beta(b, b) - 1 with b = shape + (n - 2 - j) / 2.

    Parameters
    ----------
    n
        Rows.
    shape
        1: uniform over correlation matrices; larger ones are closer to the identity.
    rng
        Random numbers.
    """
    chol = np.eye(n)
    for i in range(1, n):
        left = 1.0
        for j in range(i):
            b = shape + 0.5 * (n - 2 - j)
            partial = 2 * rng.beta(b, b) - 1
            chol[i, j] = partial * np.sqrt(left)
            left *= 1 - partial**2
        chol[i, i] = np.sqrt(left)
    return np.asarray(chol @ chol.T)


def draw_hyperparameters(
    priors: TrainingPriors, n_terms: int, rng: np.random.Generator
) -> Hyperparameters:
    """Draw what the pixels share from its priors.

    Parameters
    ----------
    priors
        Of the hyperparameters.
    n_terms
        Coefficients of a pixel.
    rng
        Source of random numbers.
    """
    tau = np.abs(priors.coef_scale * rng.standard_normal(n_terms))
    correlation = draw_correlation(n_terms, priors.correlation_shape, rng)
    mu_s = rng.normal(priors.log_scatter_mean, priors.log_scatter_mean_sd)
    omega_s = abs(priors.log_scatter_spread * rng.standard_normal())
    return Hyperparameters(correlation * np.outer(tau, tau), float(mu_s), float(omega_s))


def draw_pixels(
    hyper: Hyperparameters, features: FloatArray, ivar: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Draw coefficients (n_pixels, n_terms), log scatters (n_pixels,) and fluxes like `ivar`.

    Parameters
    ----------
    hyper
        What the pixels share.
    features
        Of the stars, shape (n_stars, n_terms).
    ivar
        Inverse variances of the noise, shape (n_stars, n_pixels).
    rng
        Source of random numbers.
    """
    n_pixels, n_terms = ivar.shape[1], features.shape[1]
    root = np.linalg.cholesky(hyper.covariance)
    theta = rng.standard_normal((n_pixels, n_terms)) @ root.T
    theta[:, 0] += 1
    log_s = hyper.mu_s + hyper.omega_s * rng.standard_normal(n_pixels)
    variance = 1 / np.where(ivar > 0, ivar, 1.0) + np.exp(2 * log_s)
    noise = np.sqrt(variance) * rng.standard_normal(ivar.shape)
    return theta, np.asarray(log_s), np.asarray(features @ theta.T + noise)
