"""The stars of a simulated survey: which they are, where, how bright, and how often observed.

What a simulated survey is like.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from numpy.random import SeedSequence
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import whole_number
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.surveys.apogee.names import spectrum_file
from bayes_cannon.surveys.simulation.faults import (
    StarFaults,
    SurveyFaults,
    draw_faults,
    faults_as_text,
)
from bayes_cannon.surveys.simulation.library import Library
from bayes_cannon.surveys.simulation.telescope import InstrumentSettings

__all__ = [
    "DECOY_REASONS",
    "SimulatedStar",
    "SimulationSettings",
    "Visits",
    "draw_survey",
    "settings_as_text",
]


@dataclass(frozen=True)
class _Field:
    """A field on the sky: real name and place, invented content. Angles in degrees, km/s."""

    name: str
    location_id: int
    ra: float
    dec: float
    share: float
    lco_share: float
    velocity: tuple[float, float]
    extinction: float


_FIELDS = (
    _Field("M15", 9001, 322.493, 12.167, 0.30, 0.3, (-107.0, 35.0), 0.04),
    _Field("N6791", 9002, 290.221, 37.772, 0.25, 0.0, (-47.0, 25.0), 0.06),
    _Field("K2_C4_168-21", 9003, 59.708, 25.050, 0.20, 0.0, (15.0, 35.0), 0.10),
    _Field("060+00", 9004, 295.976, 23.890, 0.25, 0.0, (5.0, 45.0), 0.40),
)


@dataclass(frozen=True, eq=False)
class Visits:
    """The visits to one star; every array has shape (n,).

    Attributes
    ----------
    snr : float64
        Signal-to-noise ratio per pixel aimed at.
    vhelio, verr, bc : float64
        Barycentric velocity, its error, and the barycentric correction, km/s.
    plate, mjd, fiber : int64
    """

    snr: NDArray[np.float64]
    vhelio: NDArray[np.float64]
    verr: NDArray[np.float64]
    bc: NDArray[np.float64]
    plate: NDArray[np.int64]
    mjd: NDArray[np.int64]
    fiber: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.snr.size)


@dataclass(frozen=True, eq=False)
class SimulatedStar:
    """One entry of a simulated survey: a spectrum of the library in an invented place.

    Attributes
    ----------
    kind : str
        'star', 'decoy' or 'mystery'.
    reason : str
        What is wrong with a decoy.
    library_index : int
    apogee_id : str
        ``2S`` and invented coordinates, in the form of the ``2M…`` ids of real stars.
    telescope, field_name, location_id
    ra, dec, glon, glat : float
        Degrees.
    magnitudes : (float, float, float)
        J, H, K.
    extinction : float
        A_K in magnitudes.
    visits : Visits
    star_flag, aspcap_flag, extra_targ : int
        The catalogue's STARFLAG, ASPCAPFLAG and EXTRATARG.
    pixel_seed, label_seed : SeedSequence
        Streams for the noise of the spectrum and of the labels.
    fault_seed : SeedSequence
        Stream for what belongs to the star itself: broadening, a second star.
    faults : StarFaults or None
        None in a clean survey.
    """

    kind: str
    reason: str
    library_index: int
    apogee_id: str
    telescope: str
    field_name: str
    location_id: int
    ra: float
    dec: float
    glon: float
    glat: float
    magnitudes: tuple[float, float, float]
    extinction: float
    visits: Visits
    star_flag: int
    aspcap_flag: int
    extra_targ: int
    pixel_seed: SeedSequence
    label_seed: SeedSequence
    fault_seed: SeedSequence
    faults: StarFaults | None = None

    @property
    def file_name(self) -> str:
        """Name of the spectrum's file, as in the archive."""
        return spectrum_file(self.telescope, "dr17", self.apogee_id)


def draw_survey(
    library: Library, n_stars: int | None, *, seed: int, settings: SimulationSettings
) -> list[SimulatedStar]:
    """Draw the stars of a survey, its decoys, and last its mystery star.

    Each star has its own random stream, so that star k is the same whatever `n_stars` is.

    Parameters
    ----------
    library
        The stars there are.
    seed
        Of all random numbers.
    settings
        Of stars, decoys and instrument.
    n_stars
        Number of survey stars; None for all of the library but the mystery star.

    Raises
    ------
    InvalidDataError
        If the library does not have that many stars.
    """
    available = library.n_stars - 1
    wanted = available if n_stars is None else whole_number(n_stars, "n_stars")
    if not 1 <= wanted <= available:
        raise InvalidDataError(
            f"n_stars = {wanted}, but the library can give 1 to {count_text(available, 'star')} "
            "(one more is kept as the mystery star); leave n_stars out to take them all."
        )
    order = np.random.default_rng(SeedSequence(seed, spawn_key=(3,))).permutation(library.n_stars)
    mystery = _central(library, order)
    order = order[order != mystery]
    stars = [
        _draw("star", "", int(order[k]), SeedSequence(seed, spawn_key=(0, k)), settings)
        for k in range(wanted)
    ]
    for d in range(len(DECOY_REASONS) * settings.decoys_per_cut):
        reason = DECOY_REASONS[d % len(DECOY_REASONS)]
        streams = SeedSequence(seed, spawn_key=(1, d))
        if reason == "DUPLICATE":
            stars.append(_again(stars[(d // len(DECOY_REASONS)) % wanted], streams))
        else:
            stars.append(_draw("decoy", reason, int(order[-1 - d % available]), streams, settings))
    streams = SeedSequence(seed, spawn_key=(2, 0))
    stars.append(replace(_draw("mystery", "", mystery, streams, settings), telescope="apo25m"))
    return [
        replace(
            star,
            faults=draw_faults(
                settings.faults, library, star.library_index, star=star.fault_seed,
                pixels=star.pixel_seed, alone=star.kind == "mystery",
            ),
        )
        for star in _placed(stars)
    ]  # fmt: skip


def _central(library: Library, order: NDArray[np.intp]) -> int:
    """First star of `order` that lies well inside the library in the three main labels."""
    inside = np.ones(library.n_stars, dtype=bool)
    for name in ("TEFF", "LOGG", "FE_H"):
        values = library.values(name)
        low, high = np.percentile(values, (20, 80))
        inside &= (values >= low) & (values <= high)
    return int(order[inside[order]][0])


def _draw(
    kind: str, reason: str, index: int, streams: SeedSequence, settings: SimulationSettings
) -> SimulatedStar:
    """Draw place, brightness and visits of one star."""
    own, pixel_seed, label_seed = streams.spawn(3)
    rng = np.random.default_rng(own)
    place = _FIELDS[rng.choice(len(_FIELDS), p=[f.share for f in _FIELDS])]
    telescope = "lco25m" if rng.random() < place.lco_share else "apo25m"
    radius, angle = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    radius *= 0.9 if telescope == "lco25m" else 1.4
    dec = place.dec + radius * np.sin(angle)
    ra = place.ra + radius * np.cos(angle) / np.cos(np.radians(dec))
    snr = float(
        np.clip(
            settings.snr_median * np.exp(settings.snr_sigma * rng.normal()), *settings.snr_range
        )
    )
    snr = float(rng.uniform(20, 45)) if reason == "SNR" else snr
    visits = _draw_visits(snr, place, settings, rng)
    # An hour on a star of H = 12.2 gives S/N 58: three visits bring it to 100.
    h = 12.2 - 5 * np.log10(snr / (58 * np.sqrt(len(visits)))) + 0.2 * rng.normal()
    extinction = place.extinction * np.exp(0.3 * rng.normal())
    star_flag, aspcap_flag, extra_targ = _draw_flags(reason, rng)
    colours = rng.normal((0.62, 0.12), 0.03) + extinction * np.array((1.0, 0.55))
    return SimulatedStar(
        kind=kind,
        reason=reason,
        library_index=index,
        apogee_id="",
        telescope=telescope,
        field_name=place.name,
        location_id=place.location_id,
        ra=float(ra),
        dec=float(dec),
        glon=np.nan,
        glat=np.nan,
        magnitudes=(float(h + colours[0]), float(h), float(h - colours[1])),
        extinction=float(extinction),
        visits=visits,
        star_flag=star_flag,
        aspcap_flag=aspcap_flag,
        extra_targ=extra_targ,
        pixel_seed=pixel_seed,
        label_seed=label_seed,
        fault_seed=streams,
    )


def _draw_visits(
    snr: float, place: _Field, settings: SimulationSettings, rng: np.random.Generator
) -> Visits:
    """Share the S/N out over some visits, with velocities and dates."""
    n = 1 + int(rng.choice(len(settings.visit_shares), p=settings.visit_shares))
    share = rng.dirichlet(np.full(n, 8.0))
    verr = 0.03 * (150 / snr) * np.sqrt(1 / (n * share)) * np.exp(0.2 * rng.normal(size=n))
    return Visits(
        snr=snr * np.sqrt(share),
        vhelio=rng.normal(*place.velocity) + rng.normal(0, 0.08, n),
        verr=verr,
        bc=rng.uniform(-22, 22) + rng.normal(0, 6, n),
        plate=rng.integers(5000, 10000, n),
        mjd=np.sort(56000 + rng.choice(2500, n, replace=False)),
        fiber=rng.integers(1, 301, n),
    )


def _draw_flags(reason: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw STARFLAG, ASPCAPFLAG and EXTRATARG: a few harmless bits, and those of decoys."""
    star_flag = int(rng.choice([0, 1 << 2, 1 << 11], p=[0.7, 0.1, 0.2]))
    aspcap_flag = int(rng.choice([0, 1 << 7, 1 << 8], p=[0.9, 0.05, 0.05]))
    if reason.startswith("STARFLAG_"):
        star_flag |= 1 << int(reason.removeprefix("STARFLAG_"))
    elif reason == "STAR_BAD":
        aspcap_flag |= 1 << 23 | 1 << 41
    return star_flag, aspcap_flag, int(rng.random() < 0.2)


def _again(star: SimulatedStar, streams: SeedSequence) -> SimulatedStar:
    """The same star observed in another field, which the catalogue marks as a duplicate."""
    other = next(f for f in _FIELDS if f.name != star.field_name)
    _, pixel_seed, label_seed = streams.spawn(3)
    return replace(
        star, kind="decoy", reason="DUPLICATE", telescope="apo25m", field_name=other.name,
        location_id=other.location_id, extra_targ=star.extra_targ | 1 << 4, pixel_seed=pixel_seed,
        label_seed=label_seed,
    )  # fmt: skip


def _placed(stars: list[SimulatedStar]) -> list[SimulatedStar]:
    """Add Galactic coordinates, and unique names; a duplicate keeps the name of its star."""
    ra, dec = np.array([(star.ra, star.dec) for star in stars]).T
    galactic = SkyCoord(ra, dec, unit=units.deg, frame="icrs").galactic
    named: list[SimulatedStar] = []
    by_place: dict[tuple[float, float], str] = {}
    taken: set[str] = set()
    for k, star in enumerate(stars):
        place = (star.ra, star.dec)
        step = 0
        while place not in by_place:
            name = _name(star.ra, star.dec, step)
            step += 1
            if name not in taken:
                by_place[place] = name
                taken.add(name)
        glon, glat = float(galactic.l.deg[k]), float(galactic.b.deg[k])
        named.append(replace(star, apogee_id=by_place[place], glon=glon, glat=glat))
    return named


def _name(ra: float, dec: float, step: int) -> str:
    """An id like 2MASS's: hhmmss.ss and ±ddmmss.s without the points, 18 characters."""
    hours = int((ra % 360) / 15 * 360000)
    degrees = int(abs(dec) * 36000) + step
    sign = "-" if dec < 0 else "+"
    ra_text = f"{hours // 360000:02d}{hours // 6000 % 60:02d}{hours % 6000:04d}"
    return f"2S{ra_text}{sign}{degrees // 36000:02d}{degrees // 600 % 60:02d}{degrees % 600:03d}"


DECOY_REASONS = (
    "SNR", "LOGG", "TEFF", "FE_H", "STAR_BAD", "STARFLAG_0", "STARFLAG_3", "STARFLAG_18",
    "STARFLAG_22", "DUPLICATE", "MISSING_LABEL",
)  # fmt: skip
"""What is wrong with a decoy: one reason for each cut of a survey."""


@dataclass(frozen=True)
class SimulationSettings:
    """What a simulated survey is like.

    Attributes
    ----------
    snr_median, snr_sigma : float
        Median of the log-normal distribution of the S/N per pixel of combined spectra, and its
        standard deviation in ln(S/N).
    snr_range : (float, float)
        Ends of that distribution.
    visit_shares : tuple of float
        Share of stars with 1, 2, 3, … visits.
    label_error_scale : float
        Multiplies the true errors of catalogue labels and the quoted ones alike. At 0 the
        labels are exact, and the quoted errors are a millionth of the usual ones.
    decoys_per_cut : int
        Number of stars that each cut must remove (see `DECOY_REASONS`).
    instrument : InstrumentSettings
    faults : SurveyFaults
        Of real spectra; none by default. The mystery star has those of the telescope, but is
        neither blended nor broadened.

    Raises
    ------
    InvalidDataError
        On values that make no sense together.
    """

    snr_median: float = 150.0
    snr_sigma: float = 0.5
    snr_range: tuple[float, float] = (56.0, 500.0)
    visit_shares: tuple[float, ...] = (0.50, 0.22, 0.18, 0.10)
    label_error_scale: float = 1.0
    decoys_per_cut: int = 5
    instrument: InstrumentSettings = field(default_factory=InstrumentSettings)
    faults: SurveyFaults = field(default_factory=SurveyFaults)

    def __post_init__(self) -> None:
        low, high = self.snr_range
        shares = np.asarray(self.visit_shares, dtype=np.float64)
        wrong = {
            "snr_range and snr_median": not 0 < low < self.snr_median < high < np.inf,
            "snr_sigma": not 0 <= self.snr_sigma < np.inf,
            "visit_shares": not (
                shares.size and np.all(shares >= 0) and abs(shares.sum() - 1) < 1e-9
            ),
            "label_error_scale": not 0 <= self.label_error_scale < np.inf,
            "decoys_per_cut": self.decoys_per_cut != int(self.decoys_per_cut)
            or self.decoys_per_cut < 0,
        }
        if any(wrong.values()):
            raise InvalidDataError(
                f"{', '.join(name for name, bad in wrong.items() if bad)} of the simulation "
                "cannot be used: S/N must be positive with low < median < high, shares of visits "
                "must add up to 1, and nothing may be negative."
            )


def settings_as_text(settings: SimulationSettings) -> str:
    """One line with every setting, for the history of files.

    Parameters
    ----------
    settings
        Of the simulation.
    """
    text = ", ".join(
        f"{f.name}={getattr(part, f.name)}"
        for part in (settings, settings.instrument)
        for f in fields(part)
        if f.name not in ("instrument", "faults")
    )
    return f"{text}, faults: {faults_as_text(settings.faults)}" if settings.faults else text
