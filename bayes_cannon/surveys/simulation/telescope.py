"""What a telescope does to a spectrum: noise, bad pixels, residuals, and their masks.

All arrays are on the 8575-pixel apStar grid in the star's rest frame, one row for each exposure
("visit"), with the continuum at 1 unless said otherwise.

The simulated observatory: where its detectors, sky lines and telluric lines are.

Everything here stands still in the observatory's frame, while spectra are stored in the star's
rest frame: there, a pixel i of the 8575-pixel apStar grid sees position x = i + shift, with
shift = v / (4.1418 km/s) pixels for a topocentric radial velocity v. Positions and strengths
were measured in public DR17 apStar files.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.surveys.apogee.bits import PixelBits

if TYPE_CHECKING:
    from bayes_cannon.surveys.simulation.faults import StarFaults

__all__ = [
    "BAD_ERROR",
    "DEAD_BITS",
    "DETECTORS",
    "GHOST",
    "KMS_PER_PIXEL",
    "N_PIXELS",
    "PAD",
    "PERSISTENT",
    "WORN",
    "Exposures",
    "InstrumentSettings",
    "Observatory",
    "chip_limits",
    "combine",
    "expose",
    "observatory",
]


BAD_ERROR = 1e10
"""Error of a bad pixel, in units of the continuum."""
_LEVEL_1 = 0xFF | int(PixelBits.NOT_ENOUGH_PSF)  # bits that make the pipeline give a pixel up
_EDGE = 4  # pixels at the ends of a detector without an estimate of the sky


@dataclass(frozen=True)
class InstrumentSettings:
    """How much of each trouble the simulated telescope has; 0 switches one off.

    Attributes
    ----------
    background : float
        Noise of sky and detector as a share of the photon noise of the star's continuum.
    sky_residual : float
        What is left of a sky line after subtraction, in units of the quoted (enlarged) error.
    telluric_residual : float
        Rms of what is left of a telluric line, as a share of its depth.
    dead_pixels, cosmic_rays : float
        Mean number of bad places and of cosmic rays in one visit.
    persistence_share : float
        Share of visits on fibres whose detector region glows after bright exposures.
    velocity_error : float
        Rms of the radial-velocity error of a visit, in km/s.
    response, ripple : float
        Rms of the smooth error of the flux calibration of a detector, and of the part of it
        that a low-order polynomial cannot follow, as shares of the continuum.

    Raises
    ------
    InvalidDataError
        If a value is negative or not finite.
    """

    background: float = 0.05
    sky_residual: float = 1.0
    telluric_residual: float = 0.02
    dead_pixels: float = 15.0
    cosmic_rays: float = 2.0
    persistence_share: float = 0.3
    velocity_error: float = 0.05
    response: float = 0.03
    ripple: float = 0.001

    def __post_init__(self) -> None:
        wrong = [f.name for f in fields(self) if not 0 <= getattr(self, f.name) < np.inf]
        if wrong:
            raise InvalidDataError(f"{', '.join(wrong)} must be finite and not negative.")


@dataclass(frozen=True, eq=False)
class Exposures:
    """Spectra as a telescope leaves them, still in units of the continuum.

    Attributes
    ----------
    flux, err : (n, 8575) float64
        ``err`` is the quoted one: ten times larger in sky lines, 1e10 in bad pixels.
    clean_err : (n, 8575) float64
        The error before it was enlarged.
    mask : (n, 8575) int64
        APOGEE_PIXMASK.
    covered : (n, 8575) bool
        Pixels that fall on a detector; elsewhere flux, err and mask are 0.
    """

    flux: NDArray[np.float64]
    err: NDArray[np.float64]
    clean_err: NDArray[np.float64]
    mask: NDArray[np.int64]
    covered: NDArray[np.bool_]


def expose(
    flux: NDArray[np.floating],
    shift: ArrayLike,
    snr: ArrayLike,
    *,
    limits: NDArray[np.int64] | None = None,
    rng: np.random.Generator,
    settings: InstrumentSettings,
    faults: StarFaults | None = None,
) -> Exposures:
    """Take exposures of one star.

    Parameters
    ----------
    flux : (8575,) float
        Noise-free spectrum in the rest frame, continuum 1.
    shift : (n,) float
        Pixels between rest frame and detector, one for each exposure.
    snr : (n,) float
        Median signal-to-noise ratio per pixel of each exposure, before errors are enlarged.
    limits : (n, 3, 2) int64
        First and last pixel of each detector (`chip_limits`); left out, they follow from `shift`.
    rng, settings
        Source of noise, and how much of each trouble there is.
    faults
        Of a hard survey, beyond the instrument's usual troubles.
    """
    shift = np.atleast_1d(np.asarray(shift, dtype=np.float64))
    snr = np.atleast_1d(np.asarray(snr, dtype=np.float64))
    there = observatory()
    position = np.rint(shift).astype(np.intp)[:, None] + (PAD + np.arange(N_PIXELS))
    truth = _arriving(np.asarray(flux, dtype=np.float64), there, position, rng, settings)
    truth = truth if faults is None else faults.arriving(truth, position)
    noise = np.sqrt((truth + settings.background) / there.throughput[position])
    limits = chip_limits(shift) if limits is None else limits
    covered = _covered(limits)
    sharpness = np.array(
        [np.median(t[c] / s[c]) for t, s, c in zip(truth, noise, covered, strict=True)]
    )
    clean_err = noise * (sharpness / snr)[:, None] * (1 + there.sky[position])
    mask = there.flags[position]
    err = clean_err * np.where(mask & PixelBits.SIG_SKYLINE, 10.0, 1.0)
    left = settings.sky_residual * rng.normal(0.5, 1.0, (shift.size, there.sky_line.max() + 1))
    white = rng.normal(size=truth.shape)
    white = white if faults is None else faults.noise(white)
    seen = truth + white * clean_err
    seen += (
        np.take_along_axis(left, there.sky_line[position], 1) * there.sky[position] * 10 * clean_err
    )
    if faults is not None:
        seen += faults.unmasked_sky(position) * clean_err
        err *= faults.error_factor
        clean_err *= faults.error_factor
    if rng.random() < settings.persistence_share:
        _glow(position - PAD, mask, err)
    _flag_edges(limits, mask)
    _break_pixels(seen, mask, np.rint(shift).astype(np.intp), rng, settings)
    err[(mask & _LEVEL_1) != 0] = BAD_ERROR
    for array in (seen, err, clean_err, mask):
        array[~covered] = 0
    return Exposures(seen, err, clean_err, mask, covered)


def _arriving(
    flux: NDArray[np.float64],
    there: Observatory,
    position: NDArray[np.intp],
    rng: np.random.Generator,
    settings: InstrumentSettings,
) -> NDArray[np.float64]:
    """Flux before noise: shifted by the velocity error, with telluric residuals."""
    n = len(position)
    slip = rng.normal(0.0, settings.velocity_error / KMS_PER_PIXEL, n)
    shifted = flux - slip[:, None] * np.gradient(flux)
    left = rng.normal(0.0, settings.telluric_residual, (n, there.telluric_line.max() + 1))
    factor = np.take_along_axis(left, there.telluric_line[position], 1) * there.telluric[position]
    return np.maximum(shifted * (1 + factor), 1e-3)


def _covered(limits: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels on a detector, shape (n, 8575), from limits of shape (n, 3, 2)."""
    pixel = np.arange(N_PIXELS)
    inside = (pixel >= limits[..., :1]) & (pixel <= limits[..., 1:])
    return np.asarray(inside.any(axis=1))


def _glow(x: NDArray[np.intp], mask: NDArray[np.int64], err: NDArray[np.float64]) -> None:
    """Flag the persistence regions and enlarge their errors, in place."""
    for start, stop, bit, factor in PERSISTENT:
        region = (x >= start) & (x < stop)
        mask[region] |= bit
        err[region] *= np.sqrt(factor)


def _flag_edges(limits: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
    """Flag the ends of the detectors, where there is no estimate of the sky, in place."""
    bits = PixelBits.BADPIX | PixelBits.NOSKY
    for row, chips in zip(mask, limits, strict=True):
        for first, last in chips:
            row[first : first + _EDGE] |= bits
            row[last + 1 - _EDGE : last + 1] |= bits


def _break_pixels(
    seen: NDArray[np.float64],
    mask: NDArray[np.int64],
    shift: NDArray[np.intp],
    rng: np.random.Generator,
    settings: InstrumentSettings,
) -> None:
    """Put dead places and cosmic rays into each exposure, in place.

    Half of the dead places belong to the detectors where a star usually falls, and are the same
    in all its exposures.
    """
    lasting = rng.integers(N_PIXELS, size=rng.poisson(settings.dead_pixels / 2))
    for row, row_mask, step in zip(seen, mask, shift, strict=True):
        passing, n_rays = rng.poisson((settings.dead_pixels / 2, settings.cosmic_rays))
        dead = np.r_[lasting - step, rng.integers(N_PIXELS, size=passing)]
        dead = dead[(dead >= 0) & (dead < N_PIXELS)]
        length = rng.integers(3, 8, dead.size)
        kind = rng.choice(3, dead.size, p=(0.6, 0.3, 0.1))
        for a, b, k in zip(dead, dead + length, kind, strict=True):
            row[a:b] *= rng.normal(1.0, 0.2, row[a:b].size)
            row_mask[a:b] |= DEAD_BITS[k]
        for a in rng.integers(N_PIXELS - 3, size=n_rays):
            row[a : a + 3] += rng.exponential(1.0, 3)
            row_mask[a : a + 3] |= PixelBits.CRPIX | PixelBits.NOT_ENOUGH_PSF


def combine(
    exposures: Exposures, continuum: NDArray[np.float64], snr: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Combine visits into the rows of a DR17 apStar file.

    Row 0 is weighted pixel by pixel and finite only where every visit has data; its mask is the
    AND of the visits' masks and is 0 in the gaps, where flux and error are NaN. Row 1 is weighted
    visit by visit, with errors as they were before they were enlarged. Rows 2… are the visits.
    With one visit there are two rows, and row 1 is zero.

    Parameters
    ----------
    exposures : n visits
    continuum : (n, 8575) float64
        Continuum of each visit, in the unit wanted for the result.
    snr : (n,) float64
        Weight of each visit in row 1.

    Returns
    -------
    flux, err : (rows, 8575) float64
    mask : (rows, 8575) int64
    """
    n = len(exposures.flux)
    rows = n + 2 if n > 1 else 2
    flux, err = np.zeros((2, rows, N_PIXELS))
    mask = np.zeros((rows, N_PIXELS), dtype=np.int64)
    everywhere = exposures.covered.all(axis=0)
    middle = np.where(everywhere, np.median(continuum, axis=0), np.nan)
    weight = 1 / np.where(everywhere, exposures.err, 1.0) ** 2
    total = weight.sum(axis=0)
    flux[0] = (weight * exposures.flux).sum(axis=0) / total * middle
    err[0] = middle / np.sqrt(total)
    mask[0] = np.where(everywhere, np.bitwise_and.reduce(exposures.mask, axis=0), 0)
    if n > 1:
        share = (snr**2 / np.sum(snr**2))[:, None]
        flux[1] = (share * exposures.flux).sum(axis=0) * middle
        err[1] = np.sqrt(((share * exposures.clean_err) ** 2).sum(axis=0)) * middle
        flux[2:], err[2:] = exposures.flux * continuum, exposures.err * continuum
        mask[2:] = exposures.mask
    return flux, err, mask


N_PIXELS = 8575
KMS_PER_PIXEL = 299792.458 * (10**6e-6 - 1)
"""Width of one pixel as a velocity: 4.1418 km/s."""
DETECTORS = ((198.4, 3320.6), (3533.9, 6126.7), (6291.6, 8378.4))
"""First and last position that each detector (blue, green, red) sees, inclusive."""
PAD = 400
"""Pixels known on either side of the grid: room for velocities up to 1600 km/s."""
_SKY = (
    (412.3, 7), (668.8, 9), (890.6, 6), (1101.7, 9), (1398.3, 6), (1571.3, 10), (1934.0, 6),
    (2077.0, 11), (2103.8, 7), (2215.4, 5), (2342.8, 8), (2500.3, 6), (2609.8, 11), (2827.8, 5),
    (4062.6, 7), (4326.0, 9), (4546.5, 8), (4766.3, 11), (5061.7, 8), (5243.6, 11), (5607.6, 6),
    (5758.5, 11), (5923.5, 7), (6321.5, 8), (6424.0, 8), (6650.0, 5), (7239.5, 5), (7253.5, 9),
    (7324.3, 9), (7892.5, 6), (8163.5, 9),
)  # fmt: skip
"""Lines of the night sky: position and number of pixels flagged."""
_TELLURIC = (
    (200, .13), (228, .23), (297, .35), (323, .30), (360, .34), (397, .18), (422, .18), (435, .23),
    (495, .18), (563, .16), (691, .14), (796, .15), (825, .15), (1013, .13), (2817, .17),
    (2829, .18), (2842, .22), (2855, .24), (2868, .27), (2882, .28), (2895, .29), (2910, .31),
    (2924, .33), (2939, .33), (2955, .31), (2970, .31), (2986, .30), (3002, .26), (3019, .22),
    (3036, .15), (3098, .18), (3117, .25), (3136, .27), (3155, .28), (3175, .30), (3195, .31),
    (3215, .31), (3236, .30), (3257, .28), (3278, .26), (3300, .24), (3319, .11), (4190, .15),
    (4203, .19), (4216, .21), (4229, .23), (4243, .26), (4257, .28), (4272, .30), (4286, .31),
    (4301, .32), (4317, .32), (4332, .31), (4349, .30), (4365, .29), (4382, .26), (4399, .21),
    (4416, .15), (4480, .18), (4499, .23), (4518, .27), (4537, .28), (4557, .31), (4577, .30),
    (4598, .30), (4619, .30), (4640, .29), (4662, .27), (4684, .24), (4706, .22), (4728, .20),
    (4751, .17), (5772, .20), (5872, .16), (5990, .22), (6103, .33), (6336, .32), (6456, .37),
    (6577, .32), (6701, .18), (7111, .34), (7121, .26), (7133, .20), (7147, .17), (7479, .20),
    (7615, .25), (7753, .19), (7892, .33), (8033, .19), (8173, .20), (8214, .12),
)  # fmt: skip
"""Telluric lines (H2O, CO2, CH4): position and depth."""
_THROUGHPUT = ((0.77, 1.0, 1.02), (0.98, 1.04, 0.90), (0.74, 0.60, 0.27))
"""Relative throughput of each detector at its start, middle and end."""
GHOST = (4372, 4434)
"""The Littrow ghost: [start, stop)."""
PERSISTENT = ((3541, 3640, PixelBits.PERSIST_LOW, 3.0), (5520, 5725, PixelBits.PERSIST_LOW, 3.0),
               (5725, 6125, PixelBits.PERSIST_MED, 4.0))  # fmt: skip
"""Regions that glow after bright exposures: [start, stop), bit, factor on the variance."""
WORN = (3298, 3314)
"""The end of the blue detector is bad in every exposure: [start, stop)."""
DEAD_BITS = (
    PixelBits.BADPIX | PixelBits.BADDARK | PixelBits.BADFLAT | PixelBits.NOT_ENOUGH_PSF,
    PixelBits.BADPIX | PixelBits.BADFLAT | PixelBits.NOT_ENOUGH_PSF,
    PixelBits.BADPIX | PixelBits.UNFIXABLE | PixelBits.NOT_ENOUGH_PSF,
)
"""Bits that a dead place of a detector sets, the commonest first."""
_LINE_WIDTH = 1.5  # sigma of an unresolved line, pixels


@dataclass(frozen=True, eq=False)
class Observatory:
    """What a position sees; all arrays have shape (`PAD` + 8575 + `PAD`,).

    Attributes
    ----------
    throughput : float64
        Relative number of photons for a flat spectrum.
    sky : float64
        Profile of the night-sky lines, at most 1.5.
    telluric : float64
        Depth of telluric absorption.
    sky_line, telluric_line : int
        Number of the nearest line.
    flags : int64
        Bits that the position sets in every exposure.
    """

    throughput: NDArray[np.float64]
    sky: NDArray[np.float64]
    telluric: NDArray[np.float64]
    sky_line: NDArray[np.intp]
    telluric_line: NDArray[np.intp]
    flags: NDArray[np.int64]


@cache
def observatory() -> Observatory:
    """The observatory of all simulations."""
    x = np.arange(-PAD, N_PIXELS + PAD, dtype=np.float64)
    sky_line, sky_distance, width = _nearest(x, _SKY)
    telluric_line, distance, depth = _nearest(x, _TELLURIC)
    half_width = (width - 2) / 2
    # A line is flagged as far as it matters: what it leaves outside is a third of the noise.
    strength = np.minimum(1.5, 0.03 * np.exp(0.5 * (half_width / _LINE_WIDTH) ** 2))
    flags = np.zeros(x.size, dtype=np.int64)
    flags[sky_distance <= half_width] |= PixelBits.SIG_SKYLINE
    flags[distance <= 3.5] |= PixelBits.SIG_TELLURIC
    flags[PAD + GHOST[0] : PAD + GHOST[1]] |= PixelBits.LITTROW_GHOST
    flags[PAD + WORN[0] : PAD + WORN[1]] |= DEAD_BITS[0]
    return Observatory(
        throughput=_throughput(x),
        sky=strength * np.exp(-0.5 * (sky_distance / _LINE_WIDTH) ** 2),
        telluric=depth * np.exp(-0.5 * (distance / 2.0) ** 2),
        sky_line=sky_line,
        telluric_line=telluric_line,
        flags=flags,
    )


def _nearest(
    x: NDArray[np.float64], lines: tuple[tuple[float, float], ...]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Number of the line nearest to each position, its distance and its second figure."""
    centre, figure = np.array(lines).T
    number = np.abs(x[:, None] - centre).argmin(axis=1)
    return number, np.abs(x - centre[number]), figure[number]


def _throughput(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A parabola for each detector, held constant beyond its ends."""
    middle = np.argmin([np.abs(x - (low + high) / 2) / (high - low) for low, high in DETECTORS], 0)
    result = np.empty(x.size)
    for k, (low, high) in enumerate(DETECTORS):
        place = np.clip((x[middle == k] - low) / (high - low), 0, 1)
        result[middle == k] = np.polyval(np.polyfit([0.0, 0.5, 1.0], _THROUGHPUT[k], 2), place)
    return result


def chip_limits(shift: NDArray[np.float64]) -> NDArray[np.int64]:
    """First and last pixel, inclusive, of each detector for each visit.

    Parameters
    ----------
    shift : (n,) float64
        Pixels between the star's rest frame and the detector.

    Returns
    -------
    (n, 3, 2) int64
        0-based, blue to red.
    """
    edges = np.array(DETECTORS)[None] - np.asarray(shift, dtype=np.float64)[:, None, None]
    limits = np.stack([np.ceil(edges[..., 0]), np.floor(edges[..., 1])], axis=-1)
    return np.asarray(np.clip(limits, 0, N_PIXELS - 1), dtype=np.int64)
