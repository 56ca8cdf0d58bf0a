"""The posterior of a pair by NUTS, about the best pair of the fast pass."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.compiled.kept import compile_model
from bayes_cannon.base.parallel import one_blas_thread
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.inference.binaries.fast_pass import whitened_stars
from bayes_cannon.inference.binaries.search import BinarySettings, Search, Star, pair_point
from bayes_cannon.inference.binaries.shifting import filtered, taps
from bayes_cannon.inference.sampler import NutsSettings, Stage, star_seed
from bayes_cannon.models.two_stars import PairPriors, build_two_star_model

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "compress_pair",
    "sample_pair",
]

_compiled: dict[Any, Any] = {}
_lock = threading.Lock()
_EDGE = 0.02
"""Least distance of the expansion's light from its bounds, as a share of the largest."""


def compress_pair(star: Star, theta: FloatArray) -> dict[str, FloatArray]:
    """Compress a spectrum about a pair: ``A`` and ``b`` of `build_two_star_model`.

    Parameters
    ----------
    star
        The whitened spectrum.
    theta
        Parameters of the best pair as `TwoStarModel.pair` takes them.
    """
    model, k = star.search.model, star.search.model.n_labels
    light, dv, shift, broad = theta[2 * k :]
    parts = []
    for velocity, kind in ((shift, model.first), (shift + dv, model.second)):
        first, kernel = taps(velocity / model.kms_per_pixel, broad)
        # Half of the second derivative is the slope with respect to the broadening's variance.
        rows = (kernel[0], kernel[1], 2 * kernel[2])
        parts += [filtered(kind.splines, row, first, model.edges) for row in rows]
    columns = np.concatenate(parts)
    pair, one = model.pair(theta, star.ivar).flux, model.single(theta[:k], shift, broad).flux
    two = model.companion(theta[k : 2 * k], shift + dv, broad).flux
    plain = (1 - light) * one + light * two
    norm = np.where(model.usable & (np.abs(pair) > 1e-3), plain / np.where(pair == 0, 1, pair), 1.0)
    columns = columns * (star.root / norm)
    projected = columns @ star.Q.T
    r = star.root * star.flux
    return {
        "A": columns @ columns.T - projected @ projected.T,
        "b": columns @ r - projected @ (star.Q @ r),
    }


def sample_pair(
    cannon: Cannon,
    star_id: str,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    theta: FloatArray,
    settings: BinarySettings,
    *,
    second: Cannon | None = None,
    nuts: NutsSettings | None = None,
    seed: int | None = None,
) -> xr.DataTree:
    """Sample the labels of both stars, the light and the velocities of a pair.

    Parameters
    ----------
    cannon
        The trained model.
    star_id
        Name of the star, of which with `seed` its random numbers follow.
    flux, ivar
        Its spectrum, shape (n_pixels,); ivar 0: not used.
    theta
        Its row of `FastPass.theta`.
    settings, second
        Of the search, the rest frame's error with it, and its model of second stars.
    nuts
        Lengths of the chains.
    seed
        Of the random numbers; None takes a fresh one. It is in the attribute ``seed``.

    Returns
    -------
    xarray.DataTree
        Group ``posterior`` with ``labels_1``, ``labels_2`` (dim label_name, physical units),
        ``light``, ``dv`` and ``shift`` (km/s); ``sample_stats``. As ArviZ takes it.

    Raises
    ------
    InvalidDataError
        If the star has too few usable pixels, or velocities cannot be measured on its grid.
    FitError
        If the sampler cannot start.
    """
    import nutpie

    seed = as_seed(seed)
    nuts, search = nuts or NutsSettings(tune=400), Search.prepare(cannon, settings, second)
    if not search.model.resolved:
        raise InvalidDataError("a pair can be sampled only where its velocities can be measured.")
    with one_blas_thread():
        stars = whitened_stars(search, cannon, flux[None], ivar[None])
        if not stars:
            raise InvalidDataError(f"{star_id} has too few usable pixels.")
        star = stars[0][0]
        data = compress_pair(star, theta) | _whitening(star, theta)
    one, two = search.model.first, search.model.second
    priors = PairPriors(
        one.prior_mean, one.prior_precision, search.prior.tie, settings.light_max,
        settings.dv_max, settings.rest_frame, two.prior_mean, two.prior_precision,
        settings.light_scatter if settings.light == "tied" else None,
    )  # fmt: skip
    basis, other = one.basis, two.basis
    key = (basis.names, basis.degree, other.degree,
           *(x.tobytes() for b in (basis, other) for x in (b.center, b.scale)),
           *(repr(x).encode() if x is None else np.asarray(x).tobytes()
             for x in vars(priors).values()))  # fmt: skip
    with _lock:
        if key not in _compiled:
            model = build_two_star_model(
                basis, priors, data, kms_per_pixel=search.model.kms_per_pixel, second=other
            )
            _compiled.clear()  # that of another model
            _compiled[key] = compile_model(model)
        compiled = _compiled[key]
    number = int(star_seed(seed, star_id, Stage.PAIR).generate_state(1, np.uint64)[0] >> 1)
    try:
        result = nutpie.sample(
            compiled.with_data(**data), draws=nuts.draws, tune=nuts.tune, chains=nuts.chains,
            cores=1, seed=number, target_accept=nuts.target_accept, maxdepth=nuts.max_depth,
            progress_bar=False, save_warmup=False,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise FitError(f"{star_id}: the sampler could not start: {reason}.") from error
    groups = {str(name): node.to_dataset() for name, node in result.children.items()}
    groups["posterior"] = groups["posterior"].drop_vars("y", errors="ignore").assign_attrs(
        star=star_id, seed=seed, simulated=int(cannon.simulated)
    )  # fmt: skip
    return xr.DataTree.from_dict(groups)


def _whitening(star: Star, theta: FloatArray) -> dict[str, FloatArray]:
    """Mode and Cholesky factor of the covariance, from the second derivatives of the objective."""
    k, most = star.search.model.n_labels, star.search.settings.light_max
    point = pair_point(star, theta)
    curvature = point.curvature[:-1, :-1].copy()  # the broadening stays
    share = float(np.clip(theta[2 * k] / most, _EDGE, 1 - _EDGE))
    curvature[2 * k, 2 * k] += (0.3 * most) ** -2
    scale = np.ones(2 * k + 3)
    scale[2 * k] = most * share * (1 - share)
    curvature = curvature * np.outer(scale, scale)
    size = np.sqrt(np.diag(curvature))
    inner = np.linalg.inv(curvature / np.outer(size, size) + 1e-9 * np.eye(len(size)))
    chol = np.linalg.cholesky(0.5 * (inner + inner.T)) / size[:, None]
    mode = np.concatenate(
        [theta[: 2 * k], [np.log(share) - np.log1p(-share)], theta[2 * k + 1 : 2 * k + 3]]
    )
    return {"mode": mode, "chol": chol}
