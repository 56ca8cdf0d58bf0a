"""Numerical failures as errors of the package, with the stage in which they happened.

Intervals of quantities that cannot be negative; slopes that outliers do not turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import linregress, median_abs_deviation

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError

__all__ = [
    "interval_from_zero",
    "numerical_stage",
    "slope_of",
]

_GRID = 400


@contextmanager
def numerical_stage(stage: str, remedy: str) -> Iterator[None]:
    """Turn what linear algebra raises into a `FitError` that names the stage and the remedy.

    Parameters
    ----------
    stage
        What is being computed, for the message.
    remedy
        What to do about it.

    Raises
    ------
    FitError
        In place of `numpy.linalg.LinAlgError`, `FloatingPointError`, `ZeroDivisionError`.
    """
    try:
        yield
    except (np.linalg.LinAlgError, FloatingPointError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FitError(f"{stage} failed numerically ({reason}); {remedy}.") from error


def interval_from_zero(draws: ArrayLike, level: float) -> tuple[float, float]:
    """Highest-density interval of a quantity that cannot be negative, such as a scatter.

    It begins at zero where the density there is not lower than at its other end: a posterior that
    falls from zero on, or rises but little, has an upper limit in place of an interval. The
    density is that of a Gaussian kernel, reflected at zero.

    Parameters
    ----------
    draws : (n_draws,) float
        Of the posterior, none negative.
    level
        Probability in the interval, between 0 and 1.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> low, high = interval_from_zero(np.abs(rng.standard_normal(4000)), 0.95)
    >>> low, round(high, 1)
    (0.0, 2.0)
    >>> low, high = interval_from_zero(5 + rng.standard_normal(4000), 0.68)
    >>> round(low), round(high)
    (4, 6)
    """
    x: FloatArray = np.asarray(draws, dtype=np.float64).ravel()
    top = float(x.max())
    if not top > 0:
        return 0.0, top
    quarters = np.quantile(x, [0.25, 0.75])
    spread = min(float(x.std()), float(np.diff(quarters)[0]) / 1.349) or top
    width = 0.9 * spread * x.size**-0.2
    grid = np.linspace(0.0, top + width, _GRID)
    both = np.concatenate([x, -x])
    density = np.exp(-0.5 * ((grid[:, None] - both) / width) ** 2).sum(axis=1)
    order = np.argsort(-density, kind="stable")
    mass = np.cumsum(density[order]) / density.sum()
    inside = order[: int(np.searchsorted(mass, level)) + 1]
    return float(grid[inside.min()]), float(grid[inside.max()])


_OUTLIERS = 5.0
"""Robust standard deviations beyond which a difference does not count for a slope."""


def slope_of(x: ArrayLike, difference: ArrayLike) -> tuple[float, float]:
    """Slope of a line through differences and its standard error; NaN where there is none.

    Parameters
    ----------
    x, difference : (n,) float
        Finite. Differences beyond five robust standard deviations of their median do not count.

    Returns
    -------
    slope, error : float

    Examples
    --------
    >>> slope, error = slope_of(range(6), [0, 0.1, 0.2, 0.3, 0.4, 99.0])
    >>> round(slope, 3), error < 1e-6
    (0.1, True)
    """
    at, off = np.asarray(x, dtype=np.float64), np.asarray(difference, dtype=np.float64)
    if at.size < 3:
        return float("nan"), float("nan")
    spread = median_abs_deviation(off, scale="normal")
    near = np.abs(off - np.median(off)) <= _OUTLIERS * spread
    if near.sum() < 3 or np.ptp(at[near]) == 0:
        return float("nan"), float("nan")
    fit = linregress(at[near], off[near])
    return float(fit.slope), float(fit.stderr)
