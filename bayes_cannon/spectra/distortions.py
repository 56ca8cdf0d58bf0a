r"""Known terms: what small distortions of known form do to a spectrum.

To first order a distortion of amplitude a adds ``a G(f)`` to the spectrum f of the star, with G a
linear operator (x = c ln(wavelength), in km/s; t from -1 to 1 along a chip; T_m Chebyshev):

    shift        -df/dx                 a is how far the lines are off to the red, km/s
    broadening   (d2f/dx2) / 2          a is the variance of the broadening, (km/s)^2
    ghost        (1 - f) T_m(t)         stray light that dilutes the lines, chip by chip, m = 0 to 2
    continuum    f T_m(t)               what is left of the continuum, chip by chip, m = 0 to 4

Derivatives are those of cubic splines through the pixels of a chip. The templates follow the
labels: with ``f = Theta v(l)``, ``G(f) = G(Theta) v(l)``. Amplitudes of stars are
``a ~ Normal(0, scale)``, of scales that are learnt (`bayes_cannon.training.pixels.amplitudes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "KNOWN_TERMS",
    "KnownTerms",
    "Templates",
    "TermColumn",
    "known_term_names",
]

KNOWN_TERMS = ("shift", "ghost", "continuum", "broadening")
"""Names of the known terms."""
SPEED_OF_LIGHT = 299792.458
"""km/s."""
_ORDERS = {"ghost": 3, "continuum": 5}
"""Chebyshev polynomials of each chip."""
_ADDED = {"ghost": 0.05, "continuum": 0.02}
"""HalfNormal scales of the amplitudes' scale, as a share of the continuum."""
_IN_PIXELS = {"shift": (0.25, 1), "broadening": (1.0, 2)}
"""The same in pixels, and the power of the pixel's width that makes them km/s."""
_UNITS = {"shift": "km/s", "broadening": "km²/s²"}
_FEWEST = 4
"""Pixels of a chip that a cubic spline needs."""


class TermColumn(NamedTuple):
    """One amplitude of a star.

    Attributes
    ----------
    name : str
        Of the term.
    chip : int
        Number of the chip, -1 for all.
    order : int
        Of the polynomial along the chip.
    """

    name: str
    chip: int
    order: int


def known_term_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of known terms, each once, in the order of `KNOWN_TERMS`.

    Parameters
    ----------
    given
        Names.

    Raises
    ------
    InvalidDataError
        If one of them is none.

    Examples
    --------
    >>> known_term_names(["ghost", "shift"])
    ('shift', 'ghost')
    """
    if isinstance(given, str):
        given = (given,)
    if unknown := [name for name in given if name not in KNOWN_TERMS]:
        raise InvalidDataError(
            f"there is no known term {unknown[0]!r}; there are {', '.join(KNOWN_TERMS)}."
        )
    return tuple(name for name in KNOWN_TERMS if name in given)


@dataclass(frozen=True, eq=False)
class Templates:
    """Templates of the known terms under given coefficients.

    Attributes
    ----------
    columns : tuple of TermColumn
    theta, slope, bend : (n_pixels, n_terms) float64
        Coefficients of the flux, and of minus its first and half its second derivative.
    shapes : (n_columns, n_pixels) float64
        Polynomials along the chips; unused for shift and broadening.
    scale : (n_columns,) float64
        Standard deviation of the amplitudes.
    """

    columns: tuple[TermColumn, ...]
    theta: FloatArray
    slope: FloatArray
    bend: FloatArray
    shapes: FloatArray
    scale: FloatArray

    def scaled(self, v: FloatArray) -> FloatArray:
        """Templates in units of the scales, shape (n_stars, n_columns, n_pixels); see `at`.

        Parameters
        ----------
        v
            Features of the stars, shape (n_stars, n_terms).
        """
        return np.asarray(self.at(v) * self.scale[:, None])

    def at(self, v: FloatArray) -> FloatArray:
        """Templates of stars, shape (n_stars, n_columns, n_pixels), in units of the amplitudes.

        Parameters
        ----------
        v
            Features of the stars, shape (n_stars, n_terms).
        """
        names = [column.name for column in self.columns]
        flux = self._times(v, self.theta) if {"ghost", "continuum"} & set(names) else np.zeros(0)
        out = np.empty((len(v), len(names), len(self.theta)))
        for c, name in enumerate(names):
            if name == "shift":
                out[:, c] = self._times(v, self.slope)
            elif name == "broadening":
                out[:, c] = self._times(v, self.bend)
            else:
                out[:, c] = (flux if name == "continuum" else 1 - flux) * self.shapes[c]
        return out

    def matrices(self) -> list[tuple[FloatArray, FloatArray]]:
        """Of each column: what multiplies the features, (n_pixels, n_terms), and a constant.

        In units of the scales; the constant has shape (n_pixels,).
        """
        out = []
        for c, (column, scale) in enumerate(zip(self.columns, self.scale, strict=True)):
            shape, none = scale * self.shapes[c], np.zeros(len(self.theta))
            if column.name == "ghost":
                out.append((-shape[:, None] * self.theta, shape))
            elif column.name == "continuum":
                out.append((shape[:, None] * self.theta, none))
            else:
                derivative = self.slope if column.name == "shift" else self.bend
                out.append((scale * derivative, none))
        return out

    @staticmethod
    def _times(v: FloatArray, coefficients: FloatArray) -> FloatArray:
        """Sums of a star must not depend on the stars beside it: one product for each."""
        return np.stack([coefficients @ row for row in v])


@dataclass(frozen=True, eq=False)
class KnownTerms:
    """Which known terms there are, on which pixels, and how large their amplitudes are.

    Attributes
    ----------
    names : tuple of str
        Of `KNOWN_TERMS`.
    velocity : (n_pixels,) float64
        c ln(wavelength), km/s, rising along each chip.
    chip : (n_pixels,) int
        Number of each pixel's chip.
    place : (n_pixels,) float64
        Place along the chip, -1 to 1.
    n_chips : int
    scale : (n_columns,) float64
        Standard deviation of the amplitudes over stars.
    """

    names: tuple[str, ...]
    velocity: FloatArray
    chip: NDArray[np.int64]
    place: FloatArray
    n_chips: int
    scale: FloatArray

    @classmethod
    def on(
        cls,
        names: Sequence[str],
        wavelength: FloatArray,
        chips: Sequence[tuple[int, int]],
        scale: FloatArray | None = None,
    ) -> KnownTerms:
        """Known terms on the pixels of spectra.

        Parameters
        ----------
        names
            Of `KNOWN_TERMS`.
        wavelength
            Shape (n_pixels,), Å.
        chips
            Pixel ranges.
        scale
            Of the amplitudes, shape (n_columns,); None: a first guess.

        Raises
        ------
        InvalidDataError
            If there is no such term, or as many scales as columns are not given.
        """
        velocity = SPEED_OF_LIGHT * np.log(np.asarray(wavelength, dtype=np.float64))
        chip, place = np.zeros(velocity.size, dtype=np.int64), np.zeros(velocity.size)
        for c, (start, stop) in enumerate(chips):
            chip[start:stop] = c
            x = velocity[start:stop]
            if x.size > 1:
                place[start:stop] = 2 * (x - x[0]) / (x[-1] - x[0]) - 1
        out = cls(known_term_names(names), velocity, chip, place, len(chips), np.zeros(0))
        scale = 0.3 * out.widest if scale is None else np.asarray(scale, dtype=np.float64)
        if scale.shape != (len(out.columns),):
            raise InvalidDataError(
                f"{', '.join(out.names)}: {len(out.columns)} scales are needed, not {scale.size}."
            )
        return replace(out, scale=scale)

    @cached_property
    def columns(self) -> tuple[TermColumn, ...]:
        """What each amplitude is."""
        out = []
        for name in self.names:
            if name in _ORDERS:
                several = [(c, m) for c in range(self.n_chips) for m in range(_ORDERS[name])]
                out += [TermColumn(name, c, m) for c, m in several]
            else:
                out.append(TermColumn(name, -1, 0))
        return tuple(out)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of the group, of one scale, of each column: a term, chip by chip."""
        keys = [(column.name, column.chip) for column in self.columns]
        order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return np.array([order[key] for key in keys], dtype=np.int64)

    @property
    def widest(self) -> FloatArray:
        """HalfNormal scale of each column's `scale`, shape (n_columns,)."""
        near = np.diff(self.velocity)[np.diff(self.chip) == 0]
        pixel = float(np.median(np.abs(near))) if near.size else 1.0
        sizes = {name: size * pixel**power for name, (size, power) in _IN_PIXELS.items()}
        return np.array([(_ADDED | sizes)[column.name] for column in self.columns])

    def __str__(self) -> str:
        """Scales of the terms, chip by chip where they have several."""
        parts = []
        for name in self.names:
            groups = dict.fromkeys(c[:2] for c in self.columns if c.name == name)
            own = [self.scale[[c[:2] for c in self.columns].index(group)] for group in groups]
            text = ", ".join(f"{scale:.2g}" for scale in own)
            parts.append(f"{name} {text} {_UNITS.get(name, '')}".rstrip())
        return "; ".join(parts)

    def named(self, names: Sequence[str]) -> KnownTerms:
        """Return some of the terms, with their scales.

        Parameters
        ----------
        names
            Of the terms that stay.
        """
        keep = np.array([column.name in names for column in self.columns], dtype=bool)
        left = tuple(name for name in self.names if name in names)
        return replace(self, names=left, scale=self.scale[keep])

    def only(self, pixels: slice | NDArray[np.intp] | NDArray[np.bool_]) -> KnownTerms:
        """Return the terms on some of the pixels.

        Parameters
        ----------
        pixels
            Which.
        """
        parts = {name: getattr(self, name)[pixels] for name in ("velocity", "chip", "place")}
        return replace(self, **parts)

    def templates(self, theta: FloatArray, good: NDArray[np.bool_] | None = None) -> Templates:
        """Templates under coefficients of the flux.

        Parameters
        ----------
        theta
            Coefficients of the flux (not of flux - 1) in the terms, shape (n_pixels, n_terms).
        good
            Pixels whose coefficients are known, shape (n_pixels,); None: all. Derivatives are
            those of splines through these.
        """
        from scipy.interpolate import CubicSpline

        theta = np.asarray(theta, dtype=np.float64)
        slope, bend = np.zeros_like(theta), np.zeros_like(theta)
        if {"shift", "broadening"} & set(self.names):
            for c in range(self.n_chips):
                own = np.flatnonzero((self.chip == c) & (True if good is None else good))
                if own.size >= _FEWEST:
                    x = self.velocity[own]
                    spline = CubicSpline(x, theta[own], axis=0, bc_type="natural")
                    slope[own], bend[own] = -spline(x, 1), 0.5 * spline(x, 2)
        return Templates(self.columns, theta, slope, bend, self.shapes, self.scale)

    def operators(self) -> list[tuple[FloatArray, FloatArray]]:
        """Of each column, G(f) = M f + constant: shapes (n_pixels, n_pixels) and (n_pixels,).

        In units of the amplitudes; large, for few pixels.
        """
        found = replace(self, scale=np.ones(self.scale.size)).templates(np.eye(self.velocity.size))
        out = []
        for c, column in enumerate(self.columns):
            if column.chip < 0:
                matrix = found.slope if column.name == "shift" else found.bend
                out.append((matrix, np.zeros(len(matrix))))
            else:
                sign = -1 if column.name == "ghost" else 1
                out.append((np.diag(sign * self.shapes[c]), (1 - sign) / 2 * self.shapes[c]))
        return out

    @cached_property
    def shapes(self) -> FloatArray:
        """Polynomial of each column along its chip, shape (n_columns, n_pixels)."""
        out = np.zeros((len(self.columns), self.velocity.size))
        for i, column in enumerate(self.columns):
            if column.chip >= 0:
                own = self.chip == column.chip
                unit = np.eye(column.order + 1)[column.order]
                out[i, own] = np.polynomial.chebyshev.chebval(self.place[own], unit)
        return out
