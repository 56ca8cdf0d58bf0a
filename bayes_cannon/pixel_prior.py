r"""Prior of the coefficients and the log scatter of a block of pixels.

    c[p] ~ Normal(0, T) ,     log s[p] ~ Normal(mu, omega) .

`T` has the covariances between terms as well as their variances: lines that grow with [Fe/H]
weaken with Teff, and a prior that knows it keeps the noise of the coefficients from adding up
over thousands of pixels (see `training_priors`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["PixelPrior"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PixelPrior:
    """Prior of a block of pixels.

    Attributes
    ----------
    covariance : (n_coef, n_coef) float64
        T, positive definite.
    log_scatter_mean, log_scatter_sd : float
        Population of log s.
    free : (n_pixels, n_coef) bool or None
        False where a coefficient is held at zero; the prior of the others is then their part
        of T. None: all are free.
    """

    covariance: FloatArray
    log_scatter_mean: float
    log_scatter_sd: float
    free: NDArray[np.bool_] | None = None

    def rows(self, pixels: slice | NDArray[np.intp]) -> PixelPrior:
        """Return the prior of some pixels."""
        if self.free is None:
            return self
        return PixelPrior(
            self.covariance, self.log_scatter_mean, self.log_scatter_sd, self.free[pixels]
        )

    @cached_property
    def patterns(self) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Which coefficients are free: the different cases (m, n_coef), and the case of each pixel.

        Where all are free in all pixels there is one case, and the second array is empty.
        """
        if self.free is None or self.free.all():
            n_coef = len(self.covariance)
            return np.ones((1, n_coef), dtype=bool), np.zeros(0, dtype=np.intp)
        cases, which = np.unique(self.free, axis=0, return_inverse=True)
        return cases, which.reshape(-1)

    @cached_property
    def _inverses(self) -> tuple[FloatArray, FloatArray]:
        """Of each pattern: T^-1 of the free coefficients (unit diagonal elsewhere) and log |T|."""
        cases, _ = self.patterns
        inverse = np.zeros((len(cases), *self.covariance.shape))
        log_det = np.zeros(len(cases))
        for m, free in enumerate(cases):
            part = self.covariance[np.ix_(free, free)]
            scale = np.sqrt(np.diag(part))
            correlation = part / np.outer(scale, scale)
            inverse[m][np.ix_(free, free)] = np.linalg.inv(correlation) / np.outer(scale, scale)
            inverse[m][~free, ~free] = 1.0
            log_det[m] = np.linalg.slogdet(correlation)[1] + 2 * np.sum(np.log(scale))
        return inverse, log_det

    @cached_property
    def precision(self) -> FloatArray:
        """T^-1 of the pixels, shape (n_pixels or 1, n_coef, n_coef).

        Rows and columns of coefficients held at zero are those of the unit matrix.
        """
        which = self.patterns[1]
        inverse = self._inverses[0]
        return inverse[which] if which.size else inverse

    @cached_property
    def log_det(self) -> FloatArray:
        """Log |T| of the free coefficients, shape (n_pixels or 1,)."""
        which = self.patterns[1]
        log_det = self._inverses[1]
        return log_det[which] if which.size else log_det
