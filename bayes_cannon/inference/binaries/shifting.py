r"""Shifted and broadened model spectra: cubic splines between the pixels, exactly differentiable.

A spectrum given by its cubic B-spline coefficients c on the pixels of a chip, moved by delta pixels
and broadened by a Gaussian of variance s pixels squared, is

    F_i = sum_m c_(i - m) k(m - delta; s) ,    k = B_3 * Normal(0, s) ,

and its derivatives with respect to delta and s are the same sums with those of k. For s = 0 the
kernel is the B-spline itself; else it is summed up from its Fourier transform,
``sinc(omega / 2)^4 exp(-s omega^2 / 2)``, aliases included. Chips are kept apart: beyond an end the
last coefficient is repeated, and such pixels are to be left out (`TwoStarModel` does).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter1d

from bayes_cannon.base.compiled.loops import compile_loop
from bayes_cannon.base.typing import FloatArray

__all__ = [
    "MOST_BROAD",
    "Taps",
    "filtered",
    "spline_coefficients",
    "taps",
]

MOST_BROAD = 9.0
"""Largest variance of the broadening, pixels squared."""
_ALIASES = np.arange(-8, 9)
_PERIOD = 64
_FREQUENCY = 2 * np.pi * (np.fft.fftfreq(_PERIOD)[None] + _ALIASES[:, None])
_SINC4 = np.sinc(_FREQUENCY / (2 * np.pi)) ** 4

Taps = tuple[int, FloatArray]
"""First offset m, and the kernel at m, m + 1, …: rows are k, dk/d delta and dk/ds."""


def spline_coefficients(curves: FloatArray, chips: tuple[tuple[int, int], ...]) -> FloatArray:
    """Cubic B-spline coefficients of curves, chip by chip.

    Parameters
    ----------
    curves
        Shape (n_curves, n_pixels).
    chips
        Pixel ranges.

    Returns
    -------
    (n_curves, n_pixels) float64
    """
    out = np.array(curves, dtype=np.float64)
    for start, stop in chips:
        if stop - start > 1:
            out[:, start:stop] = spline_filter1d(curves[:, start:stop], axis=1, mode="nearest")
    return out


def taps(delta: float, s: float = 0.0) -> Taps:
    """Kernel of a shift and a broadening.

    Parameters
    ----------
    delta
        Shift in pixels; positive moves features to larger pixel numbers.
    s
        Variance of the Gaussian in pixels squared.

    Returns
    -------
    first : int
        Offset m of the first tap.
    values : (3, n) float64
        k, its derivative with respect to delta, and that with respect to s.
    """
    whole = int(np.floor(delta))
    part = delta - whole
    if s <= 1e-4:
        first, x = -1, np.arange(-1, 3, dtype=np.float64) - part
        return whole + first, np.stack(_b_spline(x))
    reach = min(2 + int(np.ceil(4.5 * np.sqrt(s))), _PERIOD // 2 - 1)
    gain = _SINC4 * np.exp(-0.5 * s * _FREQUENCY**2) * np.exp(-1j * _FREQUENCY * part)
    transforms = np.stack([gain, -1j * _FREQUENCY * gain, -0.5 * _FREQUENCY**2 * gain]).sum(axis=1)
    ring = np.fft.ifft(transforms, axis=1).real
    offsets = np.arange(-reach, reach + 2)
    return whole - reach, ring[:, offsets % _PERIOD]


def _b_spline(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """B_3(x), minus its derivative (for x = m - delta), and half of its second derivative."""
    a = np.abs(x)
    near, far = a < 1, (a >= 1) & (a < 2)
    value = np.where(near, 2 / 3 - a**2 + a**3 / 2, np.where(far, (2 - a) ** 3 / 6, 0.0))
    slope = np.where(near, -2 * a + 1.5 * a**2, np.where(far, -0.5 * (2 - a) ** 2, 0.0))
    bend = np.where(near, -2 + 3 * a, np.where(far, 2 - a, 0.0))
    return value, -np.sign(x) * slope, 0.5 * bend


def filtered(
    coefficients: FloatArray, kernel: FloatArray, first: int, edges: NDArray[np.int64]
) -> FloatArray:
    """Sums of coefficients with one kernel, chip by chip.

    Parameters
    ----------
    coefficients
        Shape (n_curves, n_pixels).
    kernel
        Shape (n_taps,).
    first
        Offset of the first tap.
    edges
        Pixel ranges of the chips, shape (n_chips, 2).

    Returns
    -------
    (n_curves, n_pixels) float64
        0 outside the chips.
    """
    out = np.zeros_like(coefficients)
    _filter(coefficients, kernel, first, edges, out)
    return out


@compile_loop
def _filter(c: Any, kernel: Any, first: int, edges: Any, out: Any) -> None:
    """Add kernel[t] c[i - first - t] to out[i] within each chip, ends repeated."""
    for e in range(edges.shape[0]):
        start, stop = edges[e, 0], edges[e, 1]
        for row in range(c.shape[0]):
            for t in range(kernel.size):
                k, m = kernel[t], first + t
                low, high = max(start, start + m), min(stop, stop + m)
                for i in range(low, high):
                    out[row, i] += k * c[row, i - m]
                for i in range(start, min(low, stop)):
                    out[row, i] += k * c[row, start]
                for i in range(max(high, start), stop):
                    out[row, i] += k * c[row, stop - 1]
