r"""Objective and optimiser of the fast pass: one spectrum, one star or two, and where to begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.binaries.pair_priors import PairPrior
from bayes_cannon.inference.binaries.shifting import MOST_BROAD, filtered, taps
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.models.light.isochrone_light import IsochroneLight

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "FAR",
    "BinarySettings",
    "Point",
    "Search",
    "Star",
    "bounds_of",
    "fit_single",
    "minimise",
    "pair_point",
    "require_together",
    "single_point",
    "starts_of",
]

_STEP_KMS = 5.0
_TEMPLATES = 8
_STEPS, _TOLERANCE = 25, 0.1
FAR = 5.0
"""Bound of standardised labels."""


@dataclass(frozen=True)
class BinarySettings:
    """How second stars are looked for.

    Attributes
    ----------
    dv_max : float
        Largest radial velocity difference, km/s.
    light_max : float
        Largest share of the light that the second star may have.
    alike : float or None
        Standard deviation of the difference of the two stars' abundances, dex: stars of a pair
        come from one cloud. None leaves them free.
    rest_frame : float
        Standard deviation of the prior of the rest frame's error, km/s; `rest_frame_error` measures
        it. Of a pair either the first star or the light of both is at rest up to this error.
    inflate : float
        The prior of each star's labels is the normal distribution of the training labels, its
        standard deviations multiplied by this.
    n_starts : int
        Places from which the pair is fitted.
    light : 'free', 'tied' or 'isochrone'
        Whether the second star's share of the light is free, or follows from the labels of both:
        stars of equal mass that shine as black bodies (`log_light_ratio`), or stars on one
        isochrone (`IsochroneLight`).
    light_scatter : float
        Standard deviation of the logarithm of the ratio of the light about that, where it is tied:
        masses that differ, atmospheres that are no black bodies; isochrones that are not right.
    isochrones : IsochroneLight or None
        The isochrones of ``light='isochrone'``.

    Raises
    ------
    InvalidDataError
        On values that make no sense.
    """

    dv_max: float = 60.0
    light_max: float = 0.5
    alike: float | None = 0.1
    rest_frame: float = 0.5
    inflate: float = 1.5
    n_starts: int = 3
    light: Literal["free", "tied", "isochrone"] = "free"
    light_scatter: float = 0.15
    isochrones: IsochroneLight | None = None

    def __post_init__(self) -> None:
        positive = ("dv_max", "rest_frame", "inflate", "n_starts", "light_scatter")
        wrong = [name for name in positive if not 0 < getattr(self, name) < np.inf]
        wrong += [] if 0 < self.light_max <= 0.9 else ["light_max"]
        wrong += [] if self.alike is None or 0 < self.alike < np.inf else ["alike"]
        if wrong:
            raise InvalidDataError(
                f"{', '.join(wrong)}: settings of a search for binaries must be positive and "
                "finite, and light_max at most 0.9."
            )
        if self.light not in ("free", "tied", "isochrone"):
            raise InvalidDataError(
                f"light must be 'free', 'tied' or 'isochrone', got {self.light!r}."
            )
        require_together(self.light, self.isochrones)


def require_together(light: str, isochrones: object) -> None:
    """Raise `InvalidDataError` where light of isochrones is asked for without them, or they alone.

    Parameters
    ----------
    light
        As of `BinarySettings`.
    isochrones
        Of any kind, or None.
    """
    if (isochrones is not None) != (light == "isochrone"):
        raise InvalidDataError(
            "light = 'isochrone' and isochrones belong together: give MIST files of the "
            "stars' [Fe/H] (`read_mist`), or leave the light free or tied."
        )


@dataclass(frozen=True, eq=False)
class Search:
    """What all stars share: the model, its priors, and the templates of the scan."""

    model: TwoStarModel
    settings: BinarySettings
    templates: FloatArray
    velocities: FloatArray
    reference: FloatArray
    shifted: NDArray[np.float32]
    squares: NDArray[np.float32]
    prior: PairPrior

    @classmethod
    def prepare(
        cls, cannon: Cannon, settings: BinarySettings, second: Cannon | None = None
    ) -> Search:
        """Arrange the model and shift the templates.

        Parameters
        ----------
        cannon
            The trained model.
        settings
            Of the search.
        second
            The model of second stars; None: the same one.
        """
        model = TwoStarModel.from_cannon(
            cannon, dv_max=settings.dv_max, inflate=settings.inflate, second=second
        )
        first, other = model.first, model.second
        templates = _spread_out(other.training, _TEMPLATES)
        steps = int(settings.dv_max // _STEP_KMS) if model.resolved else 0
        velocities = _STEP_KMS * np.arange(-steps, steps + 1, dtype=np.float64)
        reference = first.basis.features(first.prior_mean) @ first.splines
        rows = other.basis.features(templates) @ other.splines
        start, kernel = taps(0.0)
        centre = filtered(reference[None], kernel[0], start, model.edges)[0]
        shifted = []
        for velocity in velocities:
            start, kernel = taps(velocity / model.kms_per_pixel)
            shifted.append(filtered(rows, kernel[0], start, model.edges) - centre)
        stack = np.stack(shifted, axis=1).reshape(-1, centre.size)
        stack[:, ~model.usable] = 0.0
        d = np.ascontiguousarray(stack, dtype=np.float32)
        prior = PairPrior.make(model, settings)
        return cls(model, settings, templates, velocities, centre, d, d**2, prior)


def _spread_out(ell: FloatArray, n: int) -> FloatArray:
    """Up to `n` training stars that are far from one another, first the one nearest the mean."""
    centre = ell.mean(axis=0)
    near = np.linalg.norm(ell - centre, axis=1) < 2.5 * np.sqrt(ell.shape[1] / 2)
    ell = ell[near] if near.sum() >= n else ell
    chosen = [int(np.argmin(np.linalg.norm(ell - centre, axis=1)))]
    distance = np.linalg.norm(ell - ell[chosen[0]], axis=1)
    while len(chosen) < min(n, len(ell)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(ell - ell[chosen[-1]], axis=1))
    return ell[chosen]


@dataclass(frozen=True, eq=False)
class Star:
    """Whitened spectrum of one star: r' S^-1 r = |root r|^2 - |Q' root r|^2."""

    search: Search
    flux: FloatArray
    ivar: FloatArray
    root: FloatArray
    Q: FloatArray
    chol: FloatArray

    @classmethod
    def make(cls, search: Search, flux: FloatArray, ivar: FloatArray, extra: FloatArray) -> Star:
        """Whiten one spectrum.

        Parameters
        ----------
        search
            What all stars share.
        flux, ivar, extra
            Flux, inverse variance (0: not used) and variance besides it, shape (n_all_pixels,).
        """
        model = search.model
        root = np.sqrt(ivar / (1 + ivar * extra) / model.independent.kappa(ivar[None])[0])
        U = model.loadings * root
        chol = np.linalg.cholesky(np.eye(len(U)) + U @ U.T)
        Q = np.linalg.solve(chol, U) if len(U) else U
        return cls(search, flux, ivar, root, Q, chol)

    def with_factors(self, flux: FloatArray) -> FloatArray:
        """Model flux with the most probable factors added."""
        q = self.Q @ (self.root * (self.flux - flux))
        z = np.linalg.solve(self.chol.T, q) if q.size else q
        return np.asarray(flux + z @ self.search.model.loadings)


@dataclass(frozen=True, eq=False)
class Point:
    """Objective, half of minus its slope, and its Gauss-Newton curvature."""

    theta: FloatArray
    value: float
    chi2: float
    slope: FloatArray
    curvature: FloatArray


def single_point(star: Star, theta: FloatArray) -> Point:
    """Objective of one star.

    Parameters
    ----------
    star
        Its spectrum.
    theta
        Standardised labels, shift (km/s) and broadening (pixels squared).
    """
    model, k = star.search.model, star.search.model.n_labels
    seen = model.single(theta[:k], theta[k], theta[k + 1])
    precision = np.zeros((k + 2, k + 2))
    precision[:k, :k] = model.first.prior_precision
    precision[k, k] = star.search.settings.rest_frame**-2
    off = theta - np.r_[model.first.prior_mean, 0, 0]
    pull = precision @ off
    return _point(star, theta, seen.flux, seen.slopes, (float(off @ pull), -pull, precision))


def pair_point(star: Star, theta: FloatArray) -> Point:
    """Objective of two stars.

    Parameters
    ----------
    star
        Their spectrum.
    theta
        Parameters as `TwoStarModel.pair` takes them.
    """
    seen = star.search.model.pair(theta, star.ivar)
    return _point(star, theta, seen.flux, seen.slopes, star.search.prior.at(theta))


def _point(
    star: Star, theta: FloatArray, flux: FloatArray, slopes: FloatArray,
    prior: tuple[float, FloatArray, FloatArray],
) -> Point:  # fmt: skip
    r = star.root * (star.flux - flux)
    J = slopes * star.root
    q, QJ = star.Q @ r, J @ star.Q.T
    chi2, (value, pull, curvature) = float(r @ r - q @ q), prior
    return Point(theta, chi2 + value, chi2, J @ r - QJ @ q + pull, J @ J.T - QJ @ QJ.T + curvature)


def minimise(
    evaluate: Callable[[FloatArray], Point],
    theta: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
) -> Point:
    """Levenberg-Marquardt within bounds.

    Parameters
    ----------
    evaluate
        Objective with its slope and curvature at a point.
    theta, lower, upper
        Start and bounds, shape (n_parameters,).
    """
    here, damping = evaluate(np.clip(theta, lower, upper)), 1e-3
    for _ in range(_STEPS):
        free = ~(
            ((here.theta <= lower) & (here.slope < 0)) | ((here.theta >= upper) & (here.slope > 0))
        )
        H = here.curvature[np.ix_(free, free)]
        H = H + np.diag(damping * np.diag(H) + 1e-12)
        step = np.zeros_like(theta)
        step[free] = np.linalg.solve(H, here.slope[free])
        there = evaluate(np.clip(here.theta + step, lower, upper))
        gain = here.value - there.value
        if gain >= 0:
            here, damping = there, max(damping / 10, 1e-6)
            if gain < _TOLERANCE:
                break
        else:
            damping *= 10
            if damping > 1e4 or step @ here.slope < _TOLERANCE / 10:
                break
    return here


def bounds_of(search: Search) -> tuple[FloatArray, FloatArray]:
    """Bounds of shift and broadening: 0 where velocities cannot be measured.

    Parameters
    ----------
    search
        What all stars share.

    Returns
    -------
    lower, upper : (2,) float64
    """
    if not search.model.resolved:
        return np.zeros(2), np.zeros(2)
    far = max(5 * search.settings.rest_frame, 0.5 * search.settings.dv_max)
    return np.array([-far, 0.0]), np.array([far, MOST_BROAD])


def fit_single(star: Star, ell: FloatArray) -> Point:
    """Fit one star.

    Parameters
    ----------
    star
        Its spectrum.
    ell
        Standardised labels to begin with.
    """
    (low, high), k = bounds_of(star.search), ell.size
    lower, upper = np.r_[np.full(k, -FAR), low], np.r_[np.full(k, FAR), high]
    return minimise(lambda t: single_point(star, t), np.r_[ell, 0.0, 0.0], lower, upper)


def starts_of(star: Star, one: Point) -> list[FloatArray]:
    """Starts of the pair, from a scan of templates and velocities to first order.

    Parameters
    ----------
    star
        The spectrum.
    one
        The best single star.
    """
    search, k = star.search, star.search.model.n_labels
    model, settings = search.model, search.settings
    seen = model.single(one.theta[:k], one.theta[k], one.theta[k + 1])
    root, weight = star.root, star.root**2
    G = seen.slopes * root
    r, f = root * (star.flux - seen.flux), root * (seen.flux - search.reference)
    tangent = G - (G @ star.Q.T) @ star.Q
    inner = one.curvature + 1e-9 * np.diag(np.diag(one.curvature))
    right = np.concatenate([[root * r, root * f], root * tangent, root * star.Q])
    E = (search.shifted @ right.T.astype(np.float32)).astype(np.float64)
    dd = (search.squares @ weight.astype(np.float32)).astype(np.float64) - 2 * E[:, 1] + f @ f
    # d' x for d = template - f, then what factors and tangent take away.
    m = len(G)
    qd, gd = E[:, 2 + m :] - star.Q @ f, E[:, 2 : 2 + m] - tangent @ f
    u = E[:, 0] - f @ r - qd @ (star.Q @ r)
    solved = np.linalg.solve(inner, gd.T).T
    u = u - solved @ one.slope
    curve = dd - np.sum(qd**2, axis=1) - np.sum(gd * solved, axis=1)
    curve = np.maximum(curve, 1e-6 * dd + 1e-12)
    w = u / curve
    if search.prior.light is not None:
        ratio = expit(search.prior.log_ratio(one.theta[:k], search.templates))
        w = np.repeat(ratio, len(search.velocities))
    w = np.clip(w, 0.0, settings.light_max)
    gain = (2 * w * u - w**2 * curve).reshape(len(search.templates), -1)
    w = w.reshape(gain.shape)
    starts, taken = [], list[float]()
    for flat in np.argsort(-gain, axis=None):
        t, v = np.unravel_index(flat, gain.shape)
        velocity = float(search.velocities[v])
        if any(abs(velocity - other) < 12 for other in taken):
            continue
        taken.append(velocity)
        faintest = 0.01 if search.prior.light is not None else 0.05
        light = float(np.clip(w[t, v], faintest, 0.8 * settings.light_max))
        starts.append(_start(search, one, search.templates[t], light, velocity))
        if len(starts) == settings.n_starts:
            break
    return starts


def _start(
    search: Search, one: Point, template: FloatArray, light: float, velocity: float
) -> FloatArray:
    """Start of a pair; the template takes the abundances of the star where they are tied."""
    k = search.model.n_labels
    tied = search.model.abundances & (np.diag(search.prior.tie) > 0)
    second = np.where(tied, search.prior.in_second(one.theta[:k]), template)
    return np.concatenate([one.theta[:k], second, [light, velocity], one.theta[k:]])
