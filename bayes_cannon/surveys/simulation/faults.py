"""The faults of real spectra: what makes a simulated survey hard, each an option.

The clean survey has photon noise, flagged bad pixels and an imperfect continuum. Real spectra have
more: a rest frame that is off, noise that neighbouring pixels share, stray light, residuals of
telluric and sky lines that no mask knows, quoted errors that are wrong, stars that rotate, and
spectra that are the sum of two. Each fault has a random stream of its own: turning one on changes
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from astropy.table import Table
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter1d, map_coordinates

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.surveys.simulation.library import Library
from bayes_cannon.surveys.simulation.telescope import (
    DETECTORS,
    KMS_PER_PIXEL,
    N_PIXELS,
    PAD,
    observatory,
)

__all__ = [
    "StarFaults",
    "SurveyFaults",
    "draw_faults",
    "fault_cards",
    "fault_columns",
    "faults_as_text",
    "moved",
]


BROADENING = (4.0, 9.0)
"""Range of the broadening of a broadened star: standard deviation of a Gaussian, km/s."""
LIGHT = (0.1, 0.5)
"""Range of the second star's share of the light of a blend."""
GHOST_HEIGHT = (0.01, 0.06)
"""Range of the height of a ghost, as a share of the star's continuum."""
_GHOST_WIDTH = (80.0, 250.0)  # standard deviation, pixels
_VELOCITY_SPREAD, _VELOCITY_MAX = 20.0, 60.0  # radial velocity difference of a blend, km/s
_ALIKE = 0.1  # dex: the stars of a blend have nearly the same [Fe/H]
_SKY_WIDTH = 1.5  # sigma of an unresolved line, pixels
_N_SKY = 60  # faint sky lines that no mask knows
# One stream for each fault; `observe` and `library_labels` use the numbers below 10.
_SHIFT, _GHOST, _TELLURIC, _SKY, _ERROR, _BROAD, _BLEND = range(10, 17)


@dataclass(frozen=True)
class SurveyFaults:
    """How much of each fault of real spectra a simulated survey has; 0, the default, is none.

    Attributes
    ----------
    rest_frame : float
        Rms of the error of a star's rest frame, km/s, the same in all its visits.
    correlation : float
        The noise is white noise smoothed by the kernel (c, 1, c), with its variance kept; at
        c = 0.3 neighbours are correlated by 0.51 and pixels two apart by 0.08.
    ghosts : float
        Share of stars with stray light in the blue chip: an additive bump of 1 to 6 % of the
        continuum, a Gaussian of 80 to 250 pixels standard deviation, that no mask tells of.
    tellurics : float
        Rms of the residual at the centre of a telluric line, as a share of the star's flux.
    sky : float
        Rms of the residual at the centre of a sky line that no mask knows, in units of the
        error; 60 such lines stand still in the observatory's frame.
    error_scale : float
        Standard deviation of ln(quoted error / true error), one factor for each star.
    broadened : float
        Share of stars whose lines are broadened by a Gaussian of 4 to 9 km/s.
    blends : float
        Share of spectra that are the sum of two giants of nearly the same [Fe/H], the second
        with 10 to 50 % of the light and a radial velocity that differs by 20 km/s rms, at most
        60 km/s. The catalogue's labels are those of the first.

    Raises
    ------
    InvalidDataError
        If a value is negative or not finite, or a share is above 1.
    """

    rest_frame: float = 0.0
    correlation: float = 0.0
    ghosts: float = 0.0
    tellurics: float = 0.0
    sky: float = 0.0
    error_scale: float = 0.0
    broadened: float = 0.0
    blends: float = 0.0

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shares = ("ghosts", "broadened", "blends", "correlation")
        wrong = [n for n, v in values.items() if not 0 <= v < np.inf or (n in shares and v > 1)]
        if wrong:
            raise InvalidDataError(
                f"{', '.join(wrong)}: the faults of a survey must be finite and not negative, "
                f"and {', '.join(shares)} at most 1."
            )

    @classmethod
    def hard(cls) -> SurveyFaults:
        """All faults, as large as real surveys have them."""
        return cls(0.4, 0.3, 0.15, 0.01, 3.0, 0.2, 0.05, 0.03)

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) > 0 for f in fields(self))


def faults_as_text(faults: SurveyFaults) -> str:
    """One line with the faults there are, for the history of files.

    Parameters
    ----------
    faults
        Of a survey; with none the text is empty.
    """
    there = {f.name: getattr(faults, f.name) for f in fields(faults)}
    return ", ".join(f"{name}={value}" for name, value in there.items() if value)


@dataclass(frozen=True, eq=False)
class StarFaults:
    """The faults of one star's spectra; made by `draw_faults`.

    Attributes
    ----------
    shift : float
        Velocity by which the spectrum is off its rest frame, km/s; positive to the red.
    correlation : float
        Weight of the neighbours in the noise.
    ghost : (float, float, float)
        Height (share of the continuum), centre and standard deviation (detector pixels).
    telluric : (n_lines,) float64
        Residual at the centre of each telluric line, as a share of the flux.
    sky : (n_sky,) float64
        Residual at the centre of each unmasked sky line, in units of the error.
    error_factor : float
        Quoted over true error.
    broadening : float
        Standard deviation of the Gaussian, km/s; 0 where the star is not broadened.
    second : int
        Number of the second star in the library; −1 where there is none.
    light : float
        The second star's share of the light.
    velocity : float
        Radial velocity of the second star less that of the first, km/s.
    """

    shift: float
    correlation: float
    ghost: tuple[float, float, float]
    telluric: NDArray[np.float64]
    sky: NDArray[np.float64]
    error_factor: float
    broadening: float
    second: int
    light: float
    velocity: float

    def spectrum(self, library: Library, index: int) -> NDArray[np.float64]:
        """The noise-free spectrum that arrives, in what is taken for the rest frame.

        Parameters
        ----------
        library
            Of the noise-free spectra.
        index
            The star, by its number.

        Returns
        -------
        (8575,) float64
            Continuum 1.
        """
        flux = library.flux[index].astype(np.float64)
        if self.second >= 0:
            other = moved(library.flux[self.second], self.velocity)
            flux = (1 - self.light) * flux + self.light * other
        if self.broadening:
            flux = gaussian_filter1d(flux, self.broadening / KMS_PER_PIXEL, mode="nearest")
        return moved(flux, self.shift) if self.shift else flux

    def arriving(
        self, truth: NDArray[np.float64], position: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Flux with telluric residuals and stray light.

        Parameters
        ----------
        truth : (n, 8575) float64
            Noise-free flux of each exposure.
        position : (n, 8575) int
            Place of each pixel in the arrays of the observatory.
        """
        there = observatory()
        profile = (
            there.telluric
            / np.array([there.telluric[place] for place in _centres()])[there.telluric_line]
        )
        height, centre, width = self.ghost
        place = np.arange(there.telluric.size, dtype=np.float64) - PAD
        bump = height * np.exp(-0.5 * ((place - centre) / width) ** 2)
        bump[place > DETECTORS[0][1]] = 0.0
        seen = truth * (1 + (self.telluric[there.telluric_line] * profile)[position])
        return np.asarray(seen + bump[position])

    def noise(self, white: NDArray[np.float64]) -> NDArray[np.float64]:
        """White noise of unit variance as neighbouring pixels share it, its variance kept.

        Parameters
        ----------
        white : (n, 8575) float64
            Independent, one row for each exposure.
        """
        if not self.correlation:
            return white
        kernel = np.array([self.correlation, 1.0, self.correlation])
        kernel /= np.sqrt(np.sum(kernel**2))
        return np.asarray(correlate1d(white, kernel, axis=1, mode="wrap"))

    def unmasked_sky(self, position: NDArray[np.intp]) -> NDArray[np.float64]:
        """Residuals of sky lines in units of the error, shaped like `position`.

        Parameters
        ----------
        position : (n, 8575) int
            Place of each pixel in the arrays of the observatory.
        """
        number, profile = _faint_sky()
        return np.asarray((self.sky[number] * profile)[position])


def moved(flux: NDArray[np.floating], velocity: float) -> NDArray[np.float64]:
    """A spectrum on the log-linear grid, Doppler-shifted; cubic splines between the pixels.

    Parameters
    ----------
    flux : (8575,) float
        Spectrum on the apStar grid.
    velocity
        km/s, positive to the red.

    Returns
    -------
    (8575,) float64
        Beyond the ends of the grid the last pixel is repeated.
    """
    place = np.arange(flux.size) - velocity / KMS_PER_PIXEL
    return np.asarray(map_coordinates(flux.astype(np.float64), [place], order=3, mode="nearest"))


@cache
def _centres() -> NDArray[np.intp]:
    """Place of the strongest pixel of each telluric line in the arrays of the observatory."""
    there = observatory()
    lines = range(int(there.telluric_line.max()) + 1)
    places = [np.flatnonzero(there.telluric_line == line) for line in lines]
    return np.array([own[there.telluric[own].argmax()] for own in places])


@cache
def _faint_sky() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Number of the nearest unmasked sky line of each position, and its profile there."""
    place = np.arange(-PAD, N_PIXELS + PAD, dtype=np.float64)
    # Spread evenly but irregularly (multiples of the golden section), the same for all surveys.
    lines = np.sort((np.arange(1, _N_SKY + 1) * 0.6180339887498949) % 1) * N_PIXELS
    number = np.abs(place[:, None] - lines).argmin(axis=1)
    return number, np.exp(-0.5 * ((place - lines[number]) / _SKY_WIDTH) ** 2)


def draw_faults(
    faults: SurveyFaults,
    library: Library,
    index: int,
    *,
    star: SeedSequence,
    pixels: SeedSequence,
    alone: bool = False,
) -> StarFaults | None:
    """Draw the faults of one star's spectra.

    Parameters
    ----------
    faults
        Of the survey.
    library
        Where second stars are taken from.
    index
        The star, by its number in the library.
    star, pixels
        Streams of the star (broadening, second star) and of its exposures (the rest).
    alone
        Whether the star is neither blended nor broadened.

    Returns
    -------
    StarFaults or None
        None where the survey has no faults.
    """
    if not faults:
        return None
    shift, ghost, telluric, sky, error = (
        _stream(pixels, k) for k in (_SHIFT, _GHOST, _TELLURIC, _SKY, _ERROR)
    )
    broad, blend = _stream(star, _BROAD), _stream(star, _BLEND)
    second, light, velocity = _draw_second(library, index, faults.blends, blend)
    is_broad, broadening = broad.random() < faults.broadened, broad.uniform(*BROADENING)
    has_ghost, height = ghost.random() < faults.ghosts, ghost.uniform(*GHOST_HEIGHT)
    n_lines = int(observatory().telluric_line.max()) + 1
    return StarFaults(
        shift=faults.rest_frame * float(shift.normal()),
        correlation=faults.correlation,
        ghost=(
            height if has_ghost else 0.0,
            float(ghost.uniform(*DETECTORS[0])),
            float(ghost.uniform(*_GHOST_WIDTH)),
        ),
        telluric=faults.tellurics * telluric.normal(size=n_lines),
        sky=faults.sky * sky.normal(size=_N_SKY),
        error_factor=float(np.exp(faults.error_scale * error.normal())),
        broadening=broadening if is_broad and not alone else 0.0,
        second=-1 if alone else second,
        light=0.0 if alone else light,
        velocity=0.0 if alone else velocity,
    )


def _stream(seed: SeedSequence, number: int) -> Generator:
    """A stream of its own below `seed`, which stays as it is."""
    below = SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))
    return np.random.default_rng(below)


def _draw_second(
    library: Library, index: int, share: float, rng: Generator
) -> tuple[int, float, float]:
    """Draw the second star, its share of the light and its velocity; (−1, 0, 0) if single."""
    blended, light = rng.random() < share, rng.uniform(*LIGHT)
    velocity = float(np.clip(_VELOCITY_SPREAD * rng.normal(), -_VELOCITY_MAX, _VELOCITY_MAX))
    metals = library.values("FE_H")
    alike = np.flatnonzero(np.abs(metals - metals[index]) < _ALIKE)
    alike = alike[alike != index]
    if not (blended and alike.size):
        return -1, 0.0, 0.0
    return int(rng.choice(alike)), float(light), velocity


def fault_cards(drawn: StarFaults | None) -> list[tuple[str, object, str]]:
    """Cards of a spectrum's header that tell its faults; none for a clean survey.

    Parameters
    ----------
    drawn
        Faults of the star.
    """
    if drawn is None:
        return []
    return [
        ("SIMSHIFT", drawn.shift, "rest frame is off by, km/s"),
        ("SIMGHOST", drawn.ghost[0], "height of the ghost, of the continuum"),
        ("SIMERROR", drawn.error_factor, "quoted error / true error"),
        ("SIMBROAD", drawn.broadening, "broadened by, km/s (sigma)"),
        ("SIMBLEND", drawn.second >= 0, "sum of two giants"),
        ("SIMLIGHT", drawn.light, "light of the second giant"),
        ("SIMDV", drawn.velocity, "its radial velocity less the first's, km/s"),
        ("SIMSECND", drawn.second, "its number in the library"),
    ]


def fault_columns(drawn: Sequence[StarFaults | None], library: Library) -> Table:
    """Columns that name the faults of every star: a part of ``truth.ecsv``.

    Parameters
    ----------
    drawn
        Faults of the stars, none of them None.
    library
        Knows the labels of the second stars.

    Returns
    -------
    astropy.table.Table
        ``SHIFT`` (km/s), ``GHOST`` (height), ``ERROR_FACTOR``, ``BROADENING`` (km/s), ``BLEND``,
        ``BLEND_W``, ``BLEND_DV`` (km/s), ``BLEND_INDEX`` and ``BLEND_<label>`` for every label
        of the library, NaN where there is no second star.

    Raises
    ------
    InvalidDataError
        If a star has no faults drawn.
    """
    there = [star for star in drawn if star is not None]
    if len(there) != len(drawn):
        raise InvalidDataError("a star has no faults drawn; take those of `draw_faults`.")
    second = np.array([star.second for star in there], dtype=np.int64)
    table = Table({
        "SHIFT": np.array([star.shift for star in there]),
        "GHOST": np.array([star.ghost[0] for star in there]),
        "ERROR_FACTOR": np.array([star.error_factor for star in there]),
        "BROADENING": np.array([star.broadening for star in there]),
        "BLEND": second >= 0,
        "BLEND_W": np.array([star.light for star in there]),
        "BLEND_DV": np.array([star.velocity for star in there]),
        "BLEND_INDEX": second,
    })  # fmt: skip
    for name in library.names:
        table[f"BLEND_{name}"] = np.where(second >= 0, library.values(name)[second], np.nan)
    return table
