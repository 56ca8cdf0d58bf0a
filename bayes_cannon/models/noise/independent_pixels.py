"""How many of the pixels of a spectrum are independent, by its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "IndependentPixels",
    "chip_of_pixels",
    "kappa_of_chips",
]


def chip_of_pixels(chips: Sequence[tuple[int, int]], n_pixels: int) -> NDArray[np.int64]:
    """Number of the chip of every pixel, shape (n_pixels,).

    Parameters
    ----------
    chips
        Half-open ranges of pixels.
    n_pixels
        Number of pixels.
    """
    number = np.zeros(n_pixels, dtype=np.int64)
    for c, (start, stop) in enumerate(chips):
        number[start:stop] = c
    return number


def kappa_of_chips(scatter: FloatArray, noise: FloatArray, shares: FloatArray) -> FloatArray:
    """Pixels of each chip per independent one, shape (n_chips, n_stars).

    Parameters
    ----------
    scatter, noise : (n_chips,) float64
        Of scatter and of photon noise alone.
    shares : (n_chips, n_stars) float64
        Mean share of the scatter in the variance.
    """
    return np.asarray(noise[:, None] + (scatter - noise)[:, None] * shares)


@dataclass(frozen=True, eq=False)
class IndependentPixels:
    """Pixels of a chip per independent one, by a spectrum's noise.

    Photon noise and intrinsic scatter are shared by neighbours each in its own way; a chip of a
    star lies between the two by its mean share of scatter in the variance,

        kappa = kappa_noise + (kappa_scatter - kappa_noise) mean(s^2 / (s^2 + sigma^2)) .

    It does not depend on the star's labels, so that a log likelihood divided by it is as exact.

    Attributes
    ----------
    scatter, noise : (n_chips,) float64
        kappa of a chip of scatter and of photon noise alone.
    chip : (n_pixels,) int
        Number of each pixel's chip.
    scatter2 : (n_pixels,) float64
        Square of the intrinsic scatter s.
    """

    scatter: FloatArray
    noise: FloatArray
    chip: NDArray[np.int64]
    scatter2: FloatArray

    def only(self, pixels: NDArray[np.bool_]) -> IndependentPixels:
        """Of some of the pixels.

        Parameters
        ----------
        pixels
            Which, shape (n_pixels,).
        """
        return replace(self, chip=self.chip[pixels], scatter2=self.scatter2[pixels])

    @property
    def trivial(self) -> bool:
        """Whether all pixels are independent."""
        return bool(np.all(self.scatter == 1) and np.all(self.noise == 1))

    def shares(self, ivar: NDArray[Any]) -> FloatArray:
        """Mean share of the scatter in the variance of a chip, shape (n_chips, n_stars).

        Parameters
        ----------
        ivar
            Inverse variances, shape (n_stars, n_pixels); 0: not used.
        """
        share = ivar * self.scatter2
        share = share / (1 + share)
        good = ivar > 0
        out = np.zeros((self.scatter.size, len(ivar)))
        for c in range(self.scatter.size):
            here = self.chip == c
            counted = np.maximum(good[:, here].sum(axis=1), 1)
            out[c] = share[:, here].sum(axis=1, dtype=np.float64) / counted
        return out

    def kappa(self, ivar: NDArray[Any]) -> FloatArray:
        """Pixels per independent one at each pixel, shape (n_stars, n_pixels).

        Parameters
        ----------
        ivar
            Inverse variances, shape (n_stars, n_pixels); 0: not used.
        """
        by_chip = kappa_of_chips(self.scatter, self.noise, self.shares(ivar))
        return np.asarray(by_chip.T[:, self.chip])
