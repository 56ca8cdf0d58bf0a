r"""The fast pass: one star against two, by Gauss-Newton over all pixels from several starts.

For every star the best single star and the best pair are found under the same weights, with the
factors integrated out,

    objective = r' S^-1 r - 2 log prior ,    S = D kappa + U U' ,

for the single star over its labels, the error of its rest frame and its broadening, for the pair
over the labels of both, w, dv, and the same two. A companion that the rest frame or the rotation of
one star explains as well is none. The pair starts where a scan says that light of another star
helps most: for each of a few template giants and each dv the gain is worked out to first order,
with labels and factors of the first star free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation, truncnorm

from bayes_cannon.base.engines.shared import Shared, sharing
from bayes_cannon.base.parallel import as_executor, in_order, one_blas_thread, threads_here
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.binaries.search import (
    FAR,
    BinarySettings,
    Point,
    Search,
    Star,
    bounds_of,
    fit_single,
    minimise,
    pair_point,
    starts_of,
)
from bayes_cannon.inference.likelihood.pixels import extra_variance, pixels_needed
from bayes_cannon.inference.modes import ModeSettings, fit_laplace
from bayes_cannon.models.model_priors import priors_of
from bayes_cannon.spectra.spectra import name_some

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "FastPass",
    "fast_pass",
    "rest_frame_error",
    "whitened_stars",
]

_LOG = logging.getLogger(__name__)
_REGULAR = 3.0  # standardised labels and factors beyond which weights are not evaluated
_BLOCK = 64
_DARKEST = 1e-3
"""Least light of a second star where it is tied to the labels."""
_OF_ONE_STAR = (np.linalg.LinAlgError, ArithmeticError, ValueError)
_ANY_FRAME, _BEST_FRAME = 2.0, 0.05  # km/s


@dataclass(frozen=True, eq=False)
class FastPass:
    """What the fast pass found; NaN for a star with too few usable pixels, or that failed.

    Attributes
    ----------
    star_id : (n_stars,) str
    single, primary, secondary : (n_stars, n_labels) float64
        Labels of the single star, and of the two stars of the pair; physical units.
    single_sd, primary_sd, secondary_sd : (n_stars, n_labels) float64
        Standard deviations from the second derivatives.
    light, dv, light_sd, dv_sd : (n_stars,) float64
        Second star's share of the light, and its radial velocity less the first's (km/s). Of the
        pair these are means of the normal distribution about the best pair within the bounds of
        the light, as are its labels; the best pair is in `theta`.
    shift, broadening : (n_stars,) float64
        Of the pair: what the rest frame is off, km/s, and the standard deviation of the
        broadening, km/s.
    delta_chi2 : (n_stars,) float64
        Objective of the single star less that of the pair, in units of independent pixels.
    improvement : (n_stars,) float64
        Improvement fraction of El-Badry et al. (2018), sum of (|f_s - f| - |f_b - f|) / sigma over
        that of |f_s - f_b| / sigma, with the factors of each model in f_s and f_b.
    chi2_single, chi2_pair : (n_stars,) float64
        Chi-square of each without priors.
    independent_pixels : (n_stars,) float64
    log_snr : (n_stars,) float64
    n_starts : (n_stars,) int
        Starts from which the best pair was reached (to 1 in the objective).
    mode_gap, other_light, other_dv : (n_stars,) float64
        Objective of the next best of other pairs less that of the best, and its light and dv; NaN
        where all starts led to one pair.
    theta : (n_stars, 2 n_labels + 4) float64
        Parameters of the pair as `TwoStarModel.pair` takes them.
    """

    star_id: NDArray[np.str_]
    single: FloatArray
    primary: FloatArray
    secondary: FloatArray
    single_sd: FloatArray
    primary_sd: FloatArray
    secondary_sd: FloatArray
    light: FloatArray
    dv: FloatArray
    light_sd: FloatArray
    dv_sd: FloatArray
    shift: FloatArray
    broadening: FloatArray
    delta_chi2: FloatArray
    improvement: FloatArray
    chi2_single: FloatArray
    chi2_pair: FloatArray
    independent_pixels: FloatArray
    log_snr: FloatArray
    n_starts: NDArray[np.int64]
    mode_gap: FloatArray
    other_light: FloatArray
    other_dv: FloatArray
    theta: FloatArray

    def select(self, rows: Any) -> FastPass:
        """Return some of the stars.

        Parameters
        ----------
        rows
            Indices, mask or slice of the stars.
        """
        return FastPass(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def fast_pass(
    cannon: Cannon,
    star_id: NDArray[np.str_],
    flux: NDArray[Any],
    ivar: NDArray[Any],
    settings: BinarySettings | None = None,
    *,
    second: Cannon | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> FastPass:
    """Fit one star and two to every spectrum.

    Parameters
    ----------
    cannon
        The trained model.
    star_id
        Names, shape (n_stars,).
    flux, ivar
        All pixels of the model, shape (n_stars, n_pixels); ivar 0: not used.
    settings
        Of the search.
    second
        The model of second stars, of dwarfs and subgiants say; None: the same one.
    threads
        Stars at a time; None: as many as there are cores.
    executor
        Does blocks of stars side by side, see `bayes_cannon.inference.infer_labels`; the result is
        the same to the last bit.
    progress
        Called with the number of stars that are done.

    Returns
    -------
    FastPass

    Raises
    ------
    FitError
        If the executor fails.
    """
    executor = as_executor(executor)
    search = Search.prepare(cannon, settings or BinarySettings(), second)
    n, k = len(star_id), search.model.n_labels
    shapes = {"single": k, "primary": k, "secondary": k, "single_sd": k, "primary_sd": k,
              "secondary_sd": k, "theta": 2 * k + 4}  # fmt: skip
    out: dict[str, Any] = {
        f.name: np.full((n, shapes[f.name]) if f.name in shapes else n, np.nan)
        for f in fields(FastPass) if f.name not in ("star_id", "n_starts")
    }  # fmt: skip
    out |= {"star_id": np.asarray(star_id, np.str_), "n_starts": np.zeros(n, np.int64)}
    blocks = [slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)]
    done = 0

    def add(number: int) -> None:
        nonlocal done
        done += blocks[number].stop - blocks[number].start
        if progress is not None:
            progress(done)

    with sharing(executor, _Common(search, cannon, threads)) as shared:
        tasks = (_Block(star_id[rows], flux[rows], ivar[rows], shared) for rows in blocks)
        results = in_order(executor, _fit_block, tasks, named=_names, finished=add)
        for rows, fits in zip(blocks, results, strict=True):
            for i, found in fits.items():
                for name, value in found.items():
                    out[name][rows.start + i] = value
    return FastPass(**out)


@dataclass(frozen=True, eq=False)
class _Common:
    """What all blocks need."""

    search: Search
    cannon: Cannon
    threads: int | None


@dataclass(frozen=True, eq=False)
class _Block:
    """What an executor is sent to fit a block of stars."""

    star_id: NDArray[np.str_]
    flux: NDArray[Any]
    ivar: NDArray[Any]
    common: Shared[_Common]


def _names(block: _Block) -> str:
    return name_some(block.star_id)


def _fit_block(block: _Block) -> dict[int, dict[str, Any]]:
    """Fit one star and two to each spectrum of a block, by row."""
    common, names = block.common.value, block.star_id
    with one_blas_thread(), ThreadPoolExecutor(common.threads or threads_here()) as pool:
        stars = _each_whitened(common.search, common.cannon, block.flux, block.ivar, names)
        work = ((names[i], *star) for i, star in stars.items())
        return dict(zip(stars, pool.map(_try_star, work), strict=True))


def rest_frame_error(
    cannon: Cannon, flux: NDArray[Any], ivar: NDArray[Any], settings: BinarySettings | None = None
) -> float:
    """Rms by which the rest frames of single stars are off, km/s, robustly and at least 0.05.

    Parameters
    ----------
    cannon
        The trained model.
    flux, ivar
        All pixels of the model, shape (n_stars, n_pixels), of stars most of which are single.
    settings
        Of the search; its `rest_frame` is not looked at.
    """
    settings = replace(settings or BinarySettings(), rest_frame=_ANY_FRAME)
    search = Search.prepare(cannon, settings)
    if not search.model.resolved:
        return settings.rest_frame
    shifts = []
    with one_blas_thread():
        for start in range(0, len(flux), _BLOCK):
            rows = slice(start, start + _BLOCK)
            stars = whitened_stars(search, cannon, flux[rows], ivar[rows])
            shifts += [fit_single(star, ell).theta[-2] for star, ell in stars.values()]
    if len(shifts) < 2:
        return _ANY_FRAME
    return float(max(median_abs_deviation(shifts, scale="normal"), _BEST_FRAME))


def whitened_stars(
    search: Search, cannon: Cannon, flux: NDArray[Any], ivar: NDArray[Any]
) -> dict[int, tuple[Star, FloatArray]]:
    """Whiten the spectra of stars with enough pixels.

    Parameters
    ----------
    search
        What all stars share.
    cannon
        The trained model.
    flux, ivar
        All pixels, shape (n_stars, n_pixels); ivar 0: not used.

    Returns
    -------
    dict
        By row: the spectrum, and the standardised labels that a single star begins with.
    """
    model, pixels = search.model, search.model.pixels
    ivar = np.where(model.usable, ivar, 0.0).astype(np.float64)
    enough = np.sum(ivar > 0, axis=1) >= pixels_needed(int(model.usable.sum()))
    rows = np.flatnonzero(enough)
    if rows.size == 0:
        return {}
    laplace, _ = fit_laplace(
        pixels, priors_of(cannon, None), pixels.take(flux[rows]), pixels.take(ivar[rows]),
        ModeSettings(n_starts=2),
    )  # fmt: skip
    ell = np.clip(pixels.basis.standardize(laplace.labels), -_REGULAR, _REGULAR)
    z = np.clip(laplace.factors, -_REGULAR, _REGULAR)
    extra = np.zeros((rows.size, pixels.used.size))
    extra[:, pixels.used] = extra_variance(
        pixels, np.concatenate([pixels.basis.features(ell), z], axis=1)
    )
    return {
        int(row): (
            Star.make(search, np.asarray(flux[row], np.float64), ivar[row], extra[i]), ell[i]
        )
        for i, row in enumerate(rows)
    }  # fmt: skip


def _each_whitened(
    search: Search, cannon: Cannon, flux: NDArray[Any], ivar: NDArray[Any],
    star_id: NDArray[np.str_],
) -> dict[int, tuple[Star, FloatArray]]:  # fmt: skip
    """`whitened_stars`; a star that fails costs itself, not its block."""
    try:
        return whitened_stars(search, cannon, flux, ivar)
    except _OF_ONE_STAR:
        out = dict[int, tuple[Star, FloatArray]]()
        for i in range(len(flux)):
            try:
                one = whitened_stars(search, cannon, flux[i : i + 1], ivar[i : i + 1])
                if one:
                    out[i] = one[0]
            except _OF_ONE_STAR as error:
                _LOG.warning("%s: not searched for a second star: %s", star_id[i], error)
        return out


def _try_star(work: tuple[str, Star, FloatArray]) -> dict[str, Any]:
    """`_fit_star`; nothing for a star that cannot be fitted."""
    name, star, ell = work
    try:
        return _fit_star((star, ell))
    except _OF_ONE_STAR as error:
        _LOG.warning("%s: not searched for a second star: %s", name, error)
        return {}


def _fit_star(work: tuple[Star, FloatArray]) -> dict[str, Any]:
    """Fit one star and two."""
    star, ell = work
    one, k, settings = fit_single(star, ell), ell.size, star.search.settings
    low, high = bounds_of(star.search)
    dv = settings.dv_max if star.search.model.resolved else 0.0
    darkest = 0.0 if star.search.prior.light is None else _DARKEST
    lower = np.r_[np.full(2 * k, -FAR), darkest, -dv, low]
    upper = np.r_[np.full(2 * k, FAR), settings.light_max, dv, high]
    pairs = [
        minimise(lambda t: pair_point(star, t), start, lower, upper)
        for start in starts_of(star, one)
    ]
    two = min(pairs, key=lambda p: p.value)
    same = sum(p.value < two.value + 1 for p in pairs)
    return _summary(star, one, two, same) | _other_pair(pairs, two, k)


def _other_pair(pairs: list[Point], best: Point, k: int) -> dict[str, float]:
    """The next best pair that is another one: of other light or velocity."""
    sd = np.maximum(_deviations(best)[2 * k : 2 * k + 2], [0.02, 1.0])
    place = slice(2 * k, 2 * k + 2)
    others = [p for p in pairs if np.any(np.abs(p.theta - best.theta)[place] > 3 * sd)]
    if not others:
        return {"mode_gap": np.nan, "other_light": np.nan, "other_dv": np.nan}
    other = min(others, key=lambda p: p.value)
    light, dv = other.theta[place]
    return {"mode_gap": other.value - best.value, "other_light": light, "other_dv": dv}


def _summary(star: Star, one: Point, two: Point, n_starts: int) -> dict[str, Any]:
    search, k = star.search, star.search.model.n_labels
    model, basis, other = search.model, search.model.first.basis, search.model.second.basis
    sd = _deviations(one)
    mean, sds = _within_light(two, 2 * k, star.search.settings.light_max)
    single = star.with_factors(model.single(one.theta[:k], one.theta[k], one.theta[k + 1]).flux)
    pair = star.with_factors(model.pair(two.theta, star.ivar).flux)
    change = np.sum(star.root * np.abs(single - pair))
    better = np.sum(star.root * (np.abs(single - star.flux) - np.abs(pair - star.flux)))
    good = star.root > 0
    return {
        "single": basis.unstandardize(one.theta[:k]),
        "primary": basis.unstandardize(mean[:k]),
        "secondary": other.unstandardize(mean[k : 2 * k]),
        "single_sd": sd[:k] * basis.scale,
        "primary_sd": sds[:k] * basis.scale,
        "secondary_sd": sds[k : 2 * k] * other.scale,
        "light": mean[2 * k],
        "dv": mean[2 * k + 1],
        "light_sd": sds[2 * k],
        "dv_sd": sds[2 * k + 1],
        "shift": two.theta[2 * k + 2],
        "broadening": np.sqrt(two.theta[2 * k + 3]) * model.kms_per_pixel,
        "delta_chi2": max(one.value - two.value, 0.0),
        "improvement": better / change if change > 0 else 0.0,
        "chi2_single": one.chi2,
        "chi2_pair": two.chi2,
        "independent_pixels": float(np.sum(1 / model.independent.kappa(star.ivar[None])[0, good])),
        "log_snr": 0.5 * float(np.log(np.median(star.ivar[star.ivar > 0]))),
        "n_starts": n_starts,
        "theta": two.theta,
    }


def _covariance(point: Point) -> FloatArray:
    """Covariance from the curvature."""
    scale = np.sqrt(np.maximum(np.diag(point.curvature), 1e-12))
    matrix = point.curvature / np.outer(scale, scale) + 1e-10 * np.eye(scale.size)
    return np.asarray(np.linalg.inv(matrix) / np.outer(scale, scale))


def _deviations(point: Point) -> FloatArray:
    """Standard deviations from the curvature."""
    return np.asarray(np.sqrt(np.maximum(np.diag(_covariance(point)), 0.0)))


def _within_light(point: Point, place: int, most: float) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations about the best pair, its light between 0 and `most`.

    Where the velocities are alike, the light is hardly known and the labels of both stars go with
    it. The best pair may then have a light at its bound, which is no place for its mean: the normal
    distribution of all parameters is cut off there,

        E[x] = x_best + c (E[w] - w_best) / v ,   var x = C - (c / v)^2 (v - var w) ,

    with v the variance of w, c its covariances, and the moments of w those of a truncated normal.
    """
    covariance, best = _covariance(point), point.theta
    variance = max(float(covariance[place, place]), 1e-12)
    width, centre = np.sqrt(variance), float(best[place])
    if centre <= 0 or centre >= most:  # the slope leads on, to where the maximum would be
        centre += variance * float(point.slope[place])
    low, high = (np.clip((x - centre) / width, -30, 30) for x in (0.0, most))
    mean, cut = truncnorm.stats(low, high, loc=centre, scale=width, moments="mv")
    if not (np.isfinite(mean) and 0 <= mean <= most and 0 <= cut <= variance):
        mean, cut = best[place], 0.0  # held by its bound
    gain = covariance[place] / variance
    left = np.maximum(np.diag(covariance) - gain**2 * (variance - float(cut)), 0.0)
    return best + gain * (float(mean) - best[place]), np.sqrt(left)
