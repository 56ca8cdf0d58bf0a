r"""Automatic differentiation variational inference of the training model.

PyMC's mean-field ADVI in the coordinates of `whitened_model`, in which the posterior is near
N(0, I): chunks of pixels, one compiled step (`advi_step`), the data swapped between chunks.

Where there are factors, ``[v, E z]`` is treated as the known design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from bayes_cannon.advi_step import AdviSettings, Stepper, run_chunk
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.map_fit import MapFit
from bayes_cannon.packing import pack_outer, packed_size
from bayes_cannon.pixel_fit import Design
from bayes_cannon.pixel_prior import PixelPrior
from bayes_cannon.training_priors import Hyperparameters
from bayes_cannon.whitened_model import build_whitened_model, set_block
from bayes_cannon.whitening import Moments, Whitening, whiten

__all__ = ["AdviFit", "AdviSettings", "fit_advi"]

AnyArray = NDArray[Any]
FloatArray = NDArray[np.float64]
Progress = Callable[[str, float], None]


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
    """

    mean: FloatArray
    cov: NDArray[np.float32]
    log_scatter: FloatArray
    log_scatter_sd: FloatArray
    elbo: FloatArray
    steps: NDArray[np.int64]
    converged: NDArray[np.bool_]
    chunk_size: int

    @property
    def scatter(self) -> FloatArray:
        """Exp of the posterior mean of log s, shape (n_pixels,)."""
        return np.exp(self.log_scatter)


def _check(flux: NDArray[Any], ivar: NDArray[Any], design: Design, start: MapFit) -> None:
    n_stars, n_pixels = flux.shape
    if ivar.shape != flux.shape:
        raise InvalidDataError(f"ivar has shape {ivar.shape}, flux has shape {flux.shape}.")
    if len(design.mean) != n_stars:
        raise InvalidDataError(f"the design has {len(design.mean)} stars, flux has {n_stars}.")
    if start.mean.shape != (n_pixels, design.n_coef):
        raise InvalidDataError(
            f"the starting fit has {start.mean.shape[0]} pixels and {start.mean.shape[1]} "
            f"coefficients, data and design have {n_pixels} and {design.n_coef}."
        )
    broken = np.flatnonzero(((ivar > 0) & ~np.isfinite(flux)).any(axis=0))
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


def _chunks(
    flux: NDArray[Any], ivar: NDArray[Any], design: Design, start: MapFit, size: int
) -> Iterator[_Chunk]:
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
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    start: MapFit,
    *,
    settings: AdviSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> AdviFit:
    """Fit the training model by ADVI, hyperparameters fixed at those of the starting fit.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels).
    design
        Known features, `Design.exact`; where there are factors, of ``[v, E z]``.
    start
        Fit by closed form: gives hyperparameters, a first guess of the scatter, and which
        coefficients are held at zero (those with no variance).
    settings
        How the fit is run.
    seed
        Of the draws.
    progress
        Called with what is being done and the fraction done.

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
    settings = settings or AdviSettings()
    flux, ivar = np.asarray(flux), np.asarray(ivar)
    _check(flux, ivar, design, start)
    n_pixels, n = start.mean.shape
    size = min(settings.chunk_size, n_pixels)
    n_chunks = -(-n_pixels // size)
    mean, cov = np.empty((n_pixels, n)), np.empty((n_pixels, packed_size(n)), dtype=np.float32)
    log_s, log_s_sd = np.empty(n_pixels), np.empty(n_pixels)
    histories, converged = [], np.zeros(n_chunks, dtype=bool)
    compiled: tuple[pm.Model, Stepper] | None = None
    for c, chunk in enumerate(_chunks(flux, ivar, design, start, size)):
        if progress is not None:
            progress("advi", c / n_chunks)
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
    return AdviFit(mean, cov, log_s, log_s_sd, elbo, steps, converged, size)


def _compile(
    chunk: _Chunk, design: Design, hyper: Hyperparameters, settings: AdviSettings, seed: int
) -> tuple[pm.Model, Stepper]:
    """Model of the first chunk and its step; both serve all chunks."""
    model = build_whitened_model(chunk.flux, chunk.ivar, design.mean, hyper, chunk.whitening)
    return model, Stepper(model, settings, seed)
