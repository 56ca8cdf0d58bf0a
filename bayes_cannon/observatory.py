"""The simulated observatory: where its detectors, sky lines and telluric lines are.

Everything here stands still in the observatory's frame, while spectra are stored in the star's
rest frame: there, a pixel i of the 8575-pixel apStar grid sees position x = i + shift, with
shift = v / (4.1418 km/s) pixels for a topocentric radial velocity v. Positions and strengths
were measured in public DR17 apStar files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.bits import PixelBits

__all__ = [
    "DEAD_BITS", "DETECTORS", "GHOST", "KMS_PER_PIXEL", "N_PIXELS", "PAD", "PERSISTENT", "WORN",
    "Observatory", "chip_limits", "observatory",
]  # fmt: skip

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
