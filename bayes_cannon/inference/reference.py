"""How well the model fits stars that it has not seen, against which new stars are judged.

A model is never exact, so that chi-square exceeds the number of pixels for every star of high
signal-to-noise ratio, and a p-value against the chi-square distribution calls all of them odd. What
is odd is a star that the model fits worse than it fits the stars of its own kind: cross-validation
tells how it fits those of the training set, each left out of the training. `FitReference` ranks a
star among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from scipy.stats import median_abs_deviation

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.cannon import Cannon

__all__ = [
    "LEAST_STARS",
    "FitReference",
    "log_snr",
    "reduced_chi2",
]

LEAST_STARS = 20
"""Left-out stars below which nobody is ranked among them."""
_NAMES = ("chi2_reduced", "factors_square", "log_snr")
_TAIL = 0.1
"""Part of the left-out stars whose excesses an exponential is fitted to, for ranks beyond all."""


def log_snr(ivar: FloatArray) -> FloatArray:
    """Logarithm of the median S/N of continuum pixels of normalised spectra.

    Parameters
    ----------
    ivar
        Inverse variances, shape (n_stars, n_pixels); 0: not used.

    Returns
    -------
    (n_stars,) float64
        NaN without a usable pixel.
    """
    with np.errstate(invalid="ignore"):
        seen = np.where(ivar > 0, ivar, np.nan).astype(np.float64)
        some = np.isfinite(seen).any(axis=1)
        out = np.full(len(seen), np.nan)
        out[some] = 0.5 * np.log(np.nanmedian(seen[some], axis=1))
    return out


def reduced_chi2(stats: xr.Dataset) -> FloatArray:
    """Chi-square at the mode per independent pixel, shape (n_stars,).

    Parameters
    ----------
    stats
        Group ``star_stats`` of a result.
    """
    return np.asarray(stats["chi2"].values / stats["independent_pixels"].values)


@dataclass(frozen=True, eq=False)
class FitReference:
    """How well left-out training stars are fitted.

    Attributes
    ----------
    chi2_reduced : (n_stars,) float64
        Chi-square at the mode per independent pixel.
    factors_square : (n_stars,) float64
        Sum of squares of the nuisance factors at the mode; NaN for a model without.
    log_snr : (n_stars,) float64
        See `log_snr`.
    """

    chi2_reduced: FloatArray
    factors_square: FloatArray
    log_snr: FloatArray

    @classmethod
    def from_cannon(cls, cannon: Cannon) -> FitReference | None:
        """Take it from a trained model; None for one that was not cross-validated.

        Parameters
        ----------
        cannon
            Trained model.
        """
        tree = getattr(cannon, "model_error", None)
        if tree is None or "differences" not in tree.children:
            return None
        known = tree["differences"].to_dataset()
        if not set(_NAMES) <= set(known.data_vars):
            return None
        found = cls.from_dataset(known)
        return found if found.n_stars >= LEAST_STARS else None

    @classmethod
    def from_dataset(cls, known: xr.Dataset) -> FitReference:
        """Inverse of `to_variables`.

        Parameters
        ----------
        known
            Dataset with those variables.
        """
        return cls(*(np.asarray(known[n].values, dtype=np.float64) for n in _NAMES))

    @property
    def n_stars(self) -> int:
        """Stars that were fitted."""
        return int(np.isfinite(self._excess).sum())

    @cached_property
    def _trend(self) -> FloatArray:
        """Coefficients of log reduced chi-square against log S/N, a parabola at most."""
        x, y = self.log_snr, np.log(np.maximum(self.chi2_reduced, 1e-300))
        good = np.isfinite(x) & np.isfinite(y)
        if not good.any():
            return np.zeros(1)
        degree = 2 if np.ptp(x[good]) > 0.3 and good.sum() >= 2 * LEAST_STARS else 0
        for _ in range(10):  # stars far from the others do not bend it
            found = np.polyfit(x[good], y[good], degree)
            off = y - np.polyval(found, x)
            spread = float(median_abs_deviation(off[good], scale="normal"))
            kept = np.isfinite(off) & (np.abs(off) <= 3 * max(spread, 1e-9))
            if np.array_equal(kept, good) or kept.sum() < LEAST_STARS:
                break
            good = kept
        return np.asarray(found)

    def excess(self, chi2_reduced: FloatArray, snr: FloatArray) -> FloatArray:
        """Logarithm of reduced chi-square (n,) over that of left-out stars at log S/N (n,).

        Parameters
        ----------
        chi2_reduced
            Chi-square per independent pixel, shape (n,).
        snr
            Natural logarithm of S/N per pixel, shape (n,).

        Returns
        -------
        (n,) float64
            0 for a typical star.
        """
        low, high = np.nanmin(self.log_snr), np.nanmax(self.log_snr)
        usual = np.polyval(self._trend, np.clip(snr, low, high))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(chi2_reduced) - usual)

    @cached_property
    def _excess(self) -> FloatArray:
        with np.errstate(invalid="ignore"):
            return self.excess(self.chi2_reduced, self.log_snr)

    def p_chi2(self, chi2_reduced: FloatArray, snr: FloatArray) -> FloatArray:
        """Probability (n,) of a left-out star to be fitted no better, at the same S/N.

        Parameters
        ----------
        chi2_reduced, snr
            As for `excess`.
        """
        return p_among(self.excess(chi2_reduced, snr), self._excess)

    def p_factors(self, factors_square: FloatArray) -> FloatArray:
        """Probability (n,) of a left-out star to have no smaller nuisance factors; NaN: none.

        Parameters
        ----------
        factors_square
            Sum of squares of the factors, shape (n,).
        """
        with np.errstate(divide="ignore"):
            return p_among(np.log(factors_square), np.log(self.factors_square))

    @property
    def growth_terms(self) -> tuple[str, ...]:
        """Names of the columns of `log_growth`."""
        return ("factors", "misfit") if self._has_factors else ("misfit",)

    @cached_property
    def _has_factors(self) -> bool:
        return bool(np.nansum(self.factors_square) > 0)

    def log_growth(
        self, chi2_reduced: FloatArray, factors_square: FloatArray, snr: FloatArray
    ) -> FloatArray:
        """How unusual stars are, as the model error takes it, (n, n_terms), none negative.

        Half the logarithm of the sum of squared factors over its median, and of reduced chi-square
        over that of left-out stars at the same S/N; 0 where that is negative or not known.

        Parameters
        ----------
        chi2_reduced, factors_square, snr
            Of the stars, shape (n,), as the attributes; `snr` is its logarithm.
        """
        columns = [self.excess(chi2_reduced, snr)]
        if self._has_factors:
            with np.errstate(divide="ignore"):
                columns.insert(0, np.log(factors_square / np.nanmedian(self.factors_square)))
        return np.asarray(0.5 * np.stack([np.fmax(c, 0.0) for c in columns], axis=1))

    def to_variables(self) -> dict[str, tuple[str, FloatArray]]:
        """Variables by name, as `from_cannon` reads them."""
        return {n: ("star", getattr(self, n)) for n in _NAMES}


def p_among(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Probability of a value of the reference to be as large, (n,); NaN for NaN.

    Their rank, (1 + number as large) / (1 + number of all), which is exact for one more of the
    same kind; beyond all of them, where it says no more, the tail of an exponential fitted to the
    excesses of the largest tenth.

    Parameters
    ----------
    values
        Shape (n,).
    reference
        Values of the left-out stars, in any order, shape (m,).

    Examples
    --------
    >>> p_among(np.array([3.5]), np.arange(9.0)).round(3).tolist()
    [0.6]
    """
    known = np.sort(reference[np.isfinite(reference)])
    out = np.full(values.shape, np.nan)
    good = ~np.isnan(values)
    if known.size == 0:
        return out
    as_large = known.size - np.searchsorted(known, values[good], side="left")
    p = (1 + as_large) / (1 + known.size)
    start = float(np.quantile(known, 1 - _TAIL))
    mean = float(np.mean(known[known >= start]) - start)
    beyond = as_large == 0
    if mean > 0 and beyond.any():
        tail = np.exp(-(values[good][beyond] - known[-1]) / mean)
        p[beyond] = np.minimum(p[beyond], p[beyond] * tail)
    out[good] = p
    return out
