r"""Automatic differentiation variational inference of the training model.

PyMC's mean-field ADVI in the coordinates of `whitened_model`, in which the posterior is near
N(0, I): chunks of pixels, one compiled step (`advi_step`), the data swapped between chunks.

Where there are factors, ``[v, E z]`` is treated as the known design.

Steps of ADVI on one chunk of pixels, and the test of convergence.

The gradient of the evidence lower bound is that of Roeder, Wu & Duvenaud (2017,
arXiv:1703.09194), which leaves out the score of q. Its expectation is the same, and its
noise vanishes as q comes to equal the posterior; that of PyMC's default stays near one posterior
standard deviation per step, however good q is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.variational import KLqp
from pymc.variational.approximations import MeanFieldGroup, SingleGroupApproximation
from pymc.variational.opvi import node_property
from pymc.variational.updates import adam
from pytensor.gradient import disconnected_grad

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.packing import pack_outer, packed_size
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.training.map_fit import MapFit
from bayes_cannon.training.pixels.columns import pixel_blocks
from bayes_cannon.training.pixels.fit import Design
from bayes_cannon.training.pixels.population import PixelPrior
from bayes_cannon.training.whitening import (
    Moments,
    Whitening,
    build_whitened_model,
    set_block,
    whiten,
)

__all__ = [
    "AdviFit",
    "AdviSettings",
    "Stepper",
    "fit_advi",
    "run_chunk",
]


@dataclass(frozen=True, eq=False)
class AdviFit:
    """Result of `fit_advi`.

    Attributes
    ----------
    mean : (n_pixels, n_coef) float64
        Posterior mean of the coefficients of ``flux - 1``.
    cov : (n_pixels, n_coef (n_coef + 1) / 2) float32
        Their packed covariance, the scatter integrated over.
    log_scatter, log_scatter_sd : (n_pixels,) float64
        Posterior mean (not mode) and standard deviation of log s.
    elbo : (n_chunks, n_steps) float64
        One-step estimates of the evidence lower bound, in nats; NaN after a chunk's last step.
    steps : (n_chunks,) int
    converged : (n_chunks,) bool
    chunk_size : int
        Pixels ``c * chunk_size`` to ``(c + 1) * chunk_size`` are chunk c.
    seed : int
        Of the draws.
    """

    mean: FloatArray
    cov: NDArray[np.float32]
    log_scatter: FloatArray
    log_scatter_sd: FloatArray
    elbo: FloatArray
    steps: NDArray[np.int64]
    converged: NDArray[np.bool_]
    chunk_size: int
    seed: int

    @property
    def scatter(self) -> FloatArray:
        """Exp of the posterior mean of log s, shape (n_pixels,)."""
        return np.exp(self.log_scatter)


def _check(flux: Any, ivar: Any, design: Design, start: MapFit) -> None:
    n_stars, n_pixels = flux.shape
    if ivar.shape != flux.shape:
        raise InvalidDataError(f"ivar has shape {ivar.shape}, flux has shape {flux.shape}.")
    if len(design.mean) != n_stars:
        raise InvalidDataError(
            f"the design has {count_text(len(design.mean), 'star')}, flux has {n_stars}."
        )
    if start.mean.shape != (n_pixels, design.n_coef):
        raise InvalidDataError(
            f"the starting fit has {start.mean.shape[0]} pixels and {start.mean.shape[1]} "
            f"coefficients, data and design have {n_pixels} and {design.n_coef}."
        )
    blocks = pixel_blocks(n_stars, n_pixels)
    wild = [((ivar[:, b] > 0) & ~np.isfinite(flux[:, b])).any(axis=0) for b in blocks]
    broken = np.flatnonzero(np.concatenate(wild))
    if broken.size:
        raise InvalidDataError(
            f"{broken.size} of {n_pixels} pixels ({', '.join(map(str, broken[:3]))}) have fluxes "
            "that are not finite; set their ivar to 0."
        )
    if not np.allclose(design.second, pack_outer(design.mean), rtol=1e-6, atol=1e-9):
        raise InvalidDataError(
            "ADVI treats the design as known; use Design.exact(design.mean), which leaves out the "
            "uncertainty of factors and labels."
        )


def _held(start: MapFit) -> NDArray[np.bool_]:
    """Coefficients held at zero by the starting fit: no variance at all."""
    n = start.mean.shape[1]
    return np.asarray(start.cov[:, np.cumsum(np.arange(1, n + 1)) - 1] == 0)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Data of one chunk, padded with pixels that no star has observed."""

    flux: FloatArray
    ivar: FloatArray
    whitening: Whitening
    n_pixels: int


def _chunks(flux: Any, ivar: Any, design: Design, start: MapFit, size: int) -> Iterator[_Chunk]:
    """Yield the chunks in order, all of `size` pixels."""
    hyper = start.hyper
    for a in range(0, flux.shape[1], size):
        part = slice(a, min(a + size, flux.shape[1]))
        n = part.stop - a
        pad = ((0, 0), (0, size - n))
        i = np.pad(np.asarray(ivar[:, part], dtype=np.float64), pad)
        f = np.pad(np.asarray(flux[:, part], dtype=np.float64), pad)
        f = np.where(i > 0, f, 1.0)
        free = np.pad(~_held(start)[part], ((0, size - n), (0, 0)), constant_values=True)
        prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s, free)
        u = np.pad(start.log_scatter[part], (0, size - n), constant_values=hyper.mu_s)
        yield _Chunk(f, i, whiten(f, i, design, prior, u), n)


def _moments(q: FloatArray, order: dict[str, slice], whitening: Whitening) -> Moments:
    """Moments of coefficients and scatter under q, given as means and log standard deviations."""
    mean, sd = q[0], np.exp(q[1])
    shape = whitening.free.shape
    w, e = order["w"], order["e"]
    return whitening.moments(mean[w].reshape(shape), sd[w].reshape(shape), mean[e], sd[e])


def fit_advi(
    flux: Any,
    ivar: Any,
    design: Design,
    start: MapFit,
    *,
    settings: AdviSettings | None = None,
    seed: int | None = None,
    progress: Progress = None,
) -> AdviFit:
    """Fit the training model by ADVI, hyperparameters fixed at those of the starting fit.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels): arrays, or
        what is read block by block (`bayes_cannon.training.pixels.columns`); a chunk of pixels is
        in memory at a time, in double precision.
    design
        Known features, `Design.exact`; where there are factors, of ``[v, E z]``.
    start
        Fit by closed form: gives hyperparameters, a first guess of the scatter, and which
        coefficients are held at zero (those with no variance).
    settings
        How the fit is run.
    seed
        Of the draws; None takes a fresh one, which the result holds.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Returns
    -------
    AdviFit
        ``converged`` is False for a chunk that used up its steps; its values are still the
        averages over its last steps.

    Raises
    ------
    InvalidDataError
        If shapes do not match or the design is uncertain.
    FitError
        If the bound of a chunk stops being finite.
    """
    settings, seed = settings or AdviSettings(), as_seed(seed)
    _check(flux, ivar, design, start)
    n_pixels, n = start.mean.shape
    size = min(settings.chunk_size, n_pixels)
    n_chunks = -(-n_pixels // size)
    mean, cov = np.empty((n_pixels, n)), np.empty((n_pixels, packed_size(n)), dtype=np.float32)
    log_s, log_s_sd = np.empty(n_pixels), np.empty(n_pixels)
    histories, converged = [], np.zeros(n_chunks, dtype=bool)
    compiled: tuple[pm.Model, Stepper] | None = None
    with as_progress(progress) as tell:
        for c, chunk in enumerate(_chunks(flux, ivar, design, start, size)):
            tell(c, n_chunks, "advi")
            if compiled is None:
                compiled = _compile(chunk, design, start.hyper, settings, seed)
            model, stepper = compiled
            set_block(model, chunk.flux, chunk.ivar, chunk.whitening)
            part = slice(c * size, c * size + chunk.n_pixels)
            try:
                q, bound, converged[c] = run_chunk(stepper, settings)
            except FitError as error:
                raise FitError(
                    f"pixels {part.start} to {part.stop - 1}: {error}; lower the learning rate."
                ) from error
            found = _moments(q, stepper.order, chunk.whitening)
            mean[part], cov[part] = found.mean[: chunk.n_pixels], found.cov[: chunk.n_pixels]
            log_s[part] = found.log_scatter[: chunk.n_pixels]
            log_s_sd[part] = found.log_scatter_sd[: chunk.n_pixels]
            histories.append(bound)
        steps = np.array([len(h) for h in histories], dtype=np.int64)
        elbo = np.full((n_chunks, int(steps.max())), np.nan)
        for row, history in zip(elbo, histories, strict=True):
            row[: len(history)] = history
    return AdviFit(mean, cov, log_s, log_s_sd, elbo, steps, converged, size, seed)


def _compile(
    chunk: _Chunk, design: Design, hyper: Hyperparameters, settings: AdviSettings, seed: int
) -> tuple[pm.Model, Stepper]:
    """Model of the first chunk and its step; both serve all chunks."""
    model = build_whitened_model(chunk.flux, chunk.ivar, design.mean, hyper, chunk.whitening)
    return model, Stepper(model, settings, seed)


_MODE = "NUMBA"
"""PyTensor's mode: two to three times faster than C here, and compiled in seconds."""


@dataclass(frozen=True)
class AdviSettings:
    """How the fit is run.

    Attributes
    ----------
    chunk_size : int
        Pixels fitted together.
    window : int
        Convergence is looked for every four windows; averages are over whole windows.
    max_steps : int
        Limit on the steps of a chunk.
    learning_rate, decay_steps : float
        Step t of Adam has the rate ``learning_rate / (1 + t / decay_steps)``.
    n_samples : int
        Draws of q per step.
    tolerance : float
        A chunk has converged when from the third to the last quarter of its steps the bound
        rises by less than twice its noise, no mean moves by more than this fraction of its standard
        deviation, and no log standard deviation by more than this.
    """

    chunk_size: int = 512
    window: int = 25
    max_steps: int = 1000
    learning_rate: float = 0.1
    decay_steps: float = 50.0
    n_samples: int = 1
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        for name in ("chunk_size", "max_steps", "n_samples"):
            if getattr(self, name) < 1:
                raise InvalidDataError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.window < 2:
            raise InvalidDataError(f"window must be at least 2 steps, not {self.window}.")
        for name in ("learning_rate", "decay_steps", "tolerance"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InvalidDataError(f"{name} must be positive and finite, not {value}.")


class _PathwiseGroup(MeanFieldGroup):  # type: ignore[misc]
    """Mean-field normal whose log density is differentiated through the draw alone."""

    @node_property  # type: ignore[untyped-decorator]
    def symbolic_logq_not_scaled(self) -> Any:
        mean, std = disconnected_grad(self.mean), disconnected_grad(self.std)
        z = (self.symbolic_random - mean) / std
        return pt.sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - pt.log(std), axis=1)


class _PathwiseMeanField(SingleGroupApproximation):  # type: ignore[misc]
    _group_class = _PathwiseGroup


class Stepper:
    """The compiled step of a model, with the shared variables it changes."""

    def __init__(self, model: pm.Model, settings: AdviSettings, seed: int) -> None:
        self.rate = pytensor.shared(settings.learning_rate, "learning_rate")
        self.settings = settings
        update = adam(learning_rate=self.rate)
        changed: list[Any] = []

        def optimizer(gradients: Any, params: Any) -> Any:
            updates = update(gradients, params)
            changed.extend(updates)
            return updates

        with model:
            inference = KLqp(_PathwiseMeanField(random_seed=seed))
            self.step = inference.objective.step_function(
                obj_n_mc=settings.n_samples,
                obj_optimizer=optimizer,
                score=True,
                compile_kwargs={"mode": _MODE},
            )
        params = inference.approx.groups[0].shared_params
        self.mu, self.rho = params["mu"], params["rho"]
        self.order = {name: part[1] for name, part in inference.approx.groups[0].ordering.items()}
        self.first = [(shared, shared.get_value()) for shared in changed]

    def reset(self) -> None:
        """Go back to the first values of q and of the optimizer."""
        for shared, value in self.first:
            shared.set_value(value.copy())

    def advance(self, t: int) -> float:
        """Take step number `t`; returns the estimate of the bound before it.

        Parameters
        ----------
        t
            Number of the step, from 0; the learning rate falls with it.
        """
        self.rate.set_value(self.settings.learning_rate / (1 + t / self.settings.decay_steps))
        return -float(self.step())

    def parameters(self) -> FloatArray:
        """Mean and log standard deviation of q, shape (2, n_variables)."""
        return np.stack([self.mu.get_value(), np.log(np.logaddexp(0.0, self.rho.get_value()))])


def _quarters(blocks: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Averages over the third and the last quarter of the blocks."""
    quarter = len(blocks) // 4
    late, early = blocks[-quarter:], blocks[-2 * quarter : -quarter]
    return np.mean(early, axis=0), np.mean(late, axis=0)


def _settled(bound: list[float], blocks: list[FloatArray], settings: AdviSettings) -> bool:
    """Whether the bound rises no more than its noise and the parameters have stopped moving.

    Compares the last quarter of the steps with the one before. The quarters grow, so that the
    noise of the averages falls until a movement of `tolerance` would be seen.
    """
    quarter = len(blocks) // 4 * settings.window
    late, early = np.array(bound[-quarter:]), np.array(bound[-2 * quarter : -quarter])
    noise = np.sqrt((late.var(ddof=1) + early.var(ddof=1)) / quarter)
    level = late.mean() - early.mean() <= 2 * noise
    before, last = _quarters(blocks)
    moved = np.abs(last - before)
    moved[0] /= np.exp(last[1])
    return bool(level and moved.max() <= settings.tolerance)


def run_chunk(stepper: Stepper, settings: AdviSettings) -> tuple[FloatArray, list[float], bool]:
    """Fit one chunk; returns the averaged parameters of q, the bound's history and convergence.

    The average is over the last half of the steps, in whole windows.

    Parameters
    ----------
    stepper
        The compiled steps, with the chunk's data.
    settings
        Of the optimiser.

    Raises
    ------
    FitError
        If the bound stops being finite.
    """
    stepper.reset()
    bound: list[float] = []
    blocks: list[FloatArray] = []
    total, count, converged = np.zeros(()), 0, False
    for t in range(settings.max_steps):
        bound.append(stepper.advance(t))
        if not np.isfinite(bound[-1]):
            raise FitError(f"the evidence lower bound became {bound[-1]} at step {t + 1}")
        total, count = total + stepper.parameters(), count + 1
        if count < settings.window:
            continue
        blocks.append(total / count)
        total, count = np.zeros(()), 0
        if len(blocks) >= 4 and len(blocks) % 4 == 0 and _settled(bound, blocks, settings):
            converged = True
            break
    if len(blocks) < 2:
        return (total / count if count else blocks[0]), bound, converged
    return np.mean(blocks[-(len(blocks) // 2) :], axis=0), bound, converged
