"""Pseudo-continuum: Chebyshev fit per chip to the continuum pixels, and division.

The continuum c of star n in one chip is a Chebyshev series in x, the wavelength scaled to [-1, 1]
over the chip's pixel range, fitted by weighted least squares to the chip's continuum pixels that
are good in that star:

    minimise  sum_p ivar[n, p] (flux[n, p] - sum_k a[n, k] T_k(x_p))²

that is NumPy's ``Chebyshev.fit(..., w=1/sigma)`` (not ``1/sigma**2``, a slip found in several
published codes). Beyond a chip's outermost continuum pixels the polynomial extrapolates: 100 to
220 pixels at each edge with the published list, one reason why the degree ends at 5.

The published pixels are those of Ness et al. 2015 (ApJ 808, 16) as distributed with The Payne
(Ting et al. 2019, ApJ 879, 69); `bayes_cannon.training.continuum_pixels` repeats their selection.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import numbers_of, whole_number
from bayes_cannon.base.resources import data_path
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError
from bayes_cannon.spectra.air import in_medium
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra, name_some

__all__ = [
    "STARS_AT_ONCE",
    "ContinuumFit",
    "ContinuumSettings",
    "divide_by_continuum",
    "divide_rows",
    "match_pixels",
    "normalize",
    "normalized_like",
    "published_pixels",
    "published_wavelengths",
    "warn_masked",
]


STARS_AT_ONCE = 256
"""Bounds the float64 copies: 256 x 3100 pixels are 6 MB."""

_LARGEST_CONDITION = 1e12
_SHALLOWEST = 1e-3
"""Fraction of its maximum in a chip to which a continuum may fall: closer to zero the division
makes fluxes of any size."""


def published_pixels() -> NDArray[np.int64]:
    """Return the 529 published continuum pixels: 0-based indices on the 8575-pixel grid.

    Returns
    -------
    (529,) int64
    """
    return _published()[:, 0].astype(np.int64)


def published_wavelengths() -> FloatArray:
    """Return the vacuum wavelengths of the 529 published continuum pixels, Å, shape (529,)."""
    return _published()[:, 1]


def _published() -> FloatArray:
    """Index on the 8575-pixel grid and vacuum wavelength of each, shape (529, 2)."""
    return np.loadtxt(data_path("continuum_pixels_529.txt"), dtype=np.float64, encoding="utf-8")


@dataclass(frozen=True)
class ContinuumSettings:
    """How the continuum is fitted.

    Attributes
    ----------
    degree : int
        Degree of the Chebyshev series, 2 to 5.
    pixels : str or tuple of float
        ``"published"``, or wavelengths (Å, in vacuum or air as the grid) of continuum pixels.
        Each is matched to the nearest pixel of a spectrum's grid, so that other grids work.
    min_pixels : int or None
        A chip with fewer good continuum pixels than this is masked in that star;
        None stands for ``3 * (degree + 1)``.

    Raises
    ------
    InvalidDataError
        On a degree out of range, a `min_pixels` that does not determine the polynomial, or
        wavelengths that are not positive numbers.
    """

    degree: int = 4
    pixels: str | tuple[float, ...] = "published"
    min_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.degree not in (2, 3, 4, 5):
            raise InvalidDataError(
                f"the degree of the continuum must be 2 to 5, not {self.degree}: a higher one "
                "runs away at the edges of the chips."
            )
        object.__setattr__(self, "degree", int(self.degree))
        if self.min_pixels is not None:
            object.__setattr__(self, "min_pixels", whole_number(self.min_pixels, "min_pixels"))
        if self.min_pixels is not None and self.min_pixels <= self.degree:
            raise InvalidDataError(
                f"min_pixels is {self.min_pixels}, but a continuum of degree {self.degree} needs "
                f"at least {self.degree + 1} pixels."
            )
        if isinstance(self.pixels, str):
            if self.pixels != "published":
                raise InvalidDataError(
                    f"continuum pixels are 'published' or wavelengths, not {self.pixels!r}."
                )
            return
        given = numbers_of(self.pixels, "continuum pixels")
        wavelengths = np.atleast_1d(given.values * given.factor_to("Angstrom", "continuum pixels"))
        if wavelengths.ndim != 1:
            raise InvalidDataError("continuum pixels must be a list of wavelengths (Å).")
        pixels = tuple(float(w) for w in wavelengths)
        if not pixels or not all(math.isfinite(w) and w > 0 for w in pixels):
            raise InvalidDataError("continuum pixels must be one or more positive wavelengths (Å).")
        object.__setattr__(self, "pixels", pixels)

    @property
    def fewest(self) -> int:
        """Fewest good continuum pixels that a chip may have."""
        return 3 * (self.degree + 1) if self.min_pixels is None else self.min_pixels

    @property
    def wavelengths(self) -> FloatArray:
        """Wavelengths of the continuum pixels, Å: the published ones in vacuum."""
        if isinstance(self.pixels, str):
            return published_wavelengths()
        return np.asarray(self.pixels)

    def wavelengths_in(self, medium: str) -> FloatArray:
        """`wavelengths` for a grid in vacuum or air: those of a user are as the grid.

        Parameters
        ----------
        medium
            ``'vacuum'`` or ``'air'``.

        Returns
        -------
        (n,) float64
            Å.
        """
        given = self.wavelengths
        return in_medium(given, medium) if isinstance(self.pixels, str) else given


@dataclass(frozen=True, eq=False)
class ContinuumFit:
    """Continua of many stars.

    Attributes
    ----------
    star_id : (n_stars,) str
    wavelength : (n_pixels,) float64
        Vacuum Å.
    chips : tuple of (start, stop)
        Pixel ranges, each with a series of its own.
    coefficients : (n_stars, n_chips, degree + 1) float64
        Chebyshev coefficients in the unit of the flux; NaN where there is no fit.
    n_pixels_used : (n_stars, n_chips) int
        Continuum pixels that were good, and so entered the fit.
    masked_chips : (n_stars, n_chips) bool
        Chips that have good pixels but no usable continuum; all their pixels became bad.
    empty_chips : (n_stars, n_chips) bool
        Chips without a single good pixel: no data, nothing to fit.
    """

    star_id: NDArray[np.str_]
    wavelength: FloatArray
    chips: tuple[tuple[int, int], ...]
    coefficients: FloatArray
    n_pixels_used: NDArray[np.int64]
    masked_chips: NDArray[np.bool_]
    empty_chips: NDArray[np.bool_]

    def continuum(self, star: int) -> FloatArray:
        """Continuum of one star (row number), shape (n_pixels,); NaN where there is none.

        Parameters
        ----------
        star
            Row of the star.

        Returns
        -------
        (n_pixels,) float64
            In the unit of the flux.
        """
        curve = np.full(self.wavelength.size, np.nan)
        for (start, stop), coefficients in zip(self.chips, self.coefficients[star], strict=True):
            x = _scaled(self.wavelength[start:stop])
            curve[start:stop] = chebyshev.chebval(x, coefficients)
        return curve


def match_pixels(wavelength: ArrayLike, targets: ArrayLike) -> NDArray[np.intp]:
    """Return the pixels nearest to some wavelengths, sorted, each once.

    Targets farther than 0.6 pixel from the grid (outside it, or in a gap) are left out.

    Parameters
    ----------
    wavelength
        Grid, shape (n_pixels,), increasing, Å.
    targets
        Wavelengths to find, Å.
    """
    grid = np.asarray(wavelength, dtype=np.float64)
    wanted = np.asarray(targets, dtype=np.float64)
    if grid.size < 2:
        return np.empty(0, dtype=np.intp)
    after = np.clip(np.searchsorted(grid, wanted), 1, grid.size - 1)
    nearest = np.where(wanted - grid[after - 1] < grid[after] - wanted, after - 1, after)
    steps = np.diff(grid)
    # The smaller of the two neighbouring steps: the larger may be a gap between chips.
    step = np.minimum(np.append(steps, np.inf), np.append(np.inf, steps))
    return np.unique(nearest[np.abs(grid[nearest] - wanted) <= 0.6 * step[nearest]])


def normalize(
    spectra: ObservedSpectra, settings: ContinuumSettings | None = None
) -> tuple[NormalizedSpectra, ContinuumFit]:
    """Divide spectra by their continuum; warn once about chips that had to be masked.

    Parameters
    ----------
    spectra
        With `chips`, the pixel ranges that are normalised each on its own. Pixels outside every
        chip become bad.
    settings
        Default: degree 4 on the published pixels.

    Returns
    -------
    NormalizedSpectra
        flux / continuum and ivar * continuum²; bad pixels have ivar 0 and flux 1.
    ContinuumFit

    Raises
    ------
    InvalidDataError
        If none of the continuum pixels lies on the spectra's grid.
    """
    normalized, fit = divide_by_continuum(spectra, settings)
    warn_masked(fit.star_id, fit.masked_chips)
    return normalized, fit


def warn_masked(star_id: NDArray[np.str_], masked_chips: NDArray[np.bool_]) -> None:
    """Say in one `BayesCannonWarning` which stars lost chips; nothing where none did.

    Parameters
    ----------
    star_id : (n_stars,) str
    masked_chips : (n_stars, n_chips) bool
        Chips without a usable continuum.
    """
    stars = masked_chips.any(axis=1)
    if not stars.any():
        return
    counts = ", ".join(f"{n} in chip {c}" for c, n in enumerate(masked_chips.sum(axis=0)) if n)
    warnings.warn(
        f"{stars.sum()} of {count_text(stars.size, 'star')} ({name_some(star_id[stars])}) have "
        f"too few good continuum pixels or a continuum that is not positive ({counts}); these "
        "chips are masked in them. Drop the stars, lower min_pixels, or use a lower degree.",
        BayesCannonWarning,
        stacklevel=3,
    )


def divide_by_continuum(
    spectra: ObservedSpectra, settings: ContinuumSettings | None = None
) -> tuple[NormalizedSpectra, ContinuumFit]:
    """Do what `normalize` does, without the warning.

    Parameters
    ----------
    spectra
        Observed, with their chips.
    settings
        Default: degree 4 on the published pixels.

    Returns
    -------
    NormalizedSpectra
    ContinuumFit

    Raises
    ------
    InvalidDataError
        If no continuum pixel lies on the grid inside a chip.
    """
    settings = settings or ContinuumSettings()
    pixels = match_pixels(spectra.wavelength, settings.wavelengths_in(spectra.medium))
    inside = [pixels[(pixels >= a) & (pixels < b)] for a, b in spectra.chips]
    if not any(p.size for p in inside):
        raise InvalidDataError(
            f"none of the {settings.wavelengths.size} continuum pixels lies on the grid "
            f"{spectra.wavelength[0]:.1f}-{spectra.wavelength[-1]:.1f} Å inside a chip; "
            "give ContinuumSettings wavelengths (Å) of this grid."
        )
    shape = (spectra.n_stars, len(spectra.chips))
    fit = ContinuumFit(
        star_id=spectra.star_id,
        wavelength=spectra.wavelength,
        chips=spectra.chips,
        coefficients=np.full((*shape, settings.degree + 1), np.nan),
        n_pixels_used=np.zeros(shape, dtype=np.int64),
        masked_chips=np.zeros(shape, dtype=np.bool_),
        empty_chips=np.zeros(shape, dtype=np.bool_),
    )
    flux, ivar = np.ones_like(spectra.flux), np.zeros_like(spectra.ivar)
    for first in range(0, spectra.n_stars, STARS_AT_ONCE):
        rows = slice(first, min(first + STARS_AT_ONCE, spectra.n_stars))
        for chip, chip_pixels in enumerate(inside):
            _divide_chip(spectra, rows, chip, chip_pixels, settings, fit, flux, ivar)
    return normalized_like(spectra, flux, ivar), fit


def _divide_chip(
    spectra: ObservedSpectra,
    rows: slice,
    chip: int,
    pixels: NDArray[np.intp],
    settings: ContinuumSettings,
    fit: ContinuumFit,
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
) -> None:
    """Fill the rows of `fit`, `flux` and `ivar` that belong to one chip."""
    start, stop = spectra.chips[chip]
    x = _scaled(spectra.wavelength[start:stop])
    basis = np.asarray(chebyshev.chebvander(x, settings.degree), dtype=np.float64)
    weight = spectra.ivar[rows, pixels].astype(np.float64)
    target = spectra.flux[rows, pixels].astype(np.float64)
    used = np.count_nonzero(weight, axis=1)
    coefficients, solved = _solve(basis[pixels - start], weight, target, used >= settings.fewest)
    curve = coefficients @ basis.T
    good = spectra.ivar[rows, start:stop] > 0
    empty = ~good.any(axis=1)
    top = np.max(curve, axis=1, where=good & np.isfinite(curve), initial=0.0)
    fine = solved & ~empty & np.all((curve > _SHALLOWEST * top[:, None]) | ~good, axis=1)
    coefficients[~fine] = np.nan
    fit.coefficients[rows, chip] = coefficients
    fit.n_pixels_used[rows, chip] = used
    fit.masked_chips[rows, chip] = ~fine & ~empty
    fit.empty_chips[rows, chip] = empty
    divide_rows(spectra, rows, start, stop, curve, good & fine[:, None], flux, ivar)


def _solve(
    basis: FloatArray, weight: FloatArray, target: FloatArray, wanted: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Weighted least squares of many stars at once by their normal equations.

    In Chebyshev polynomials on [-1, 1] the equations are well conditioned, so nothing is lost
    against an orthogonal decomposition.
    """
    n_terms = basis.shape[1]
    largest = weight.max(axis=1, initial=0.0)
    weight = weight / np.where(largest > 0, largest, 1.0)[:, None]
    products = (basis[:, :, None] * basis[:, None, :]).reshape(basis.shape[0], -1)
    gram = (weight @ products).reshape(-1, n_terms, n_terms)
    gram[~wanted] = np.eye(n_terms)
    values = np.linalg.eigvalsh(gram)
    solved = wanted & (values[:, 0] * _LARGEST_CONDITION > values[:, -1])
    gram[~solved] = np.eye(n_terms)
    right = (weight * target) @ basis
    return np.linalg.solve(gram, right[..., None])[..., 0], solved


def divide_rows(
    spectra: ObservedSpectra,
    rows: slice,
    start: int,
    stop: int,
    curve: FloatArray,
    good: NDArray[np.bool_],
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
) -> None:
    """Fill pixels start to stop of some rows of `flux` and `ivar`: divided by `curve` where good.

    `curve` and `good` are of shape (n_rows, stop - start); the other pixels become bad.

    Parameters
    ----------
    spectra
        Observed.
    rows, start, stop
        Stars and pixels that are filled.
    curve : (n_rows, stop - start) float
        Continuum, in the unit of the flux.
    good : (n_rows, stop - start) bool
        Pixels that are good and have a continuum.
    flux, ivar : (n_stars, n_pixels) float32
        Where the result goes.
    """
    curve = np.where(good, curve, 1.0)
    flux[rows, start:stop] = np.where(good, spectra.flux[rows, start:stop] / curve, 1.0)
    ivar[rows, start:stop] = np.where(good, spectra.ivar[rows, start:stop] * curve**2, 0.0)


def normalized_like(
    spectra: ObservedSpectra, flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> NormalizedSpectra:
    """Return other flux and ivar of the same stars on the same grid.

    Parameters
    ----------
    spectra
        Tell stars, grid and chips.
    flux, ivar : (n_stars, n_pixels) float32
        Normalised; ivar 0 where a pixel is bad.
    """
    return NormalizedSpectra(
        star_id=spectra.star_id,
        wavelength=spectra.wavelength,
        flux=flux,
        ivar=ivar,
        snr=spectra.snr,
        chips=spectra.chips,
        simulated=spectra.simulated,
        medium=spectra.medium,
        id_name=spectra.id_name,
        notes=spectra.notes,
    )


def _scaled(wavelength: FloatArray) -> FloatArray:
    """Wavelengths of a chip on [-1, 1]."""
    low, high = wavelength[0], wavelength[-1]
    return np.asarray((2.0 * wavelength - low - high) / max(high - low, 1e-300))
