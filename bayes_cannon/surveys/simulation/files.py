"""One simulated star as an apStar file with the layout of DR17."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from bayes_cannon.surveys.simulation.catalogue import MARK, Measured
from bayes_cannon.surveys.simulation.faults import fault_cards
from bayes_cannon.surveys.simulation.library import Library
from bayes_cannon.surveys.simulation.stars import SimulatedStar
from bayes_cannon.surveys.simulation.telescope import (
    DETECTORS,
    KMS_PER_PIXEL,
    N_PIXELS,
    InstrumentSettings,
    chip_limits,
    combine,
    expose,
)

__all__ = [
    "Observed",
    "observe_star",
    "write_apstar",
]


_FLUX_OF_H0 = 1.133e7  # flux at H = 0 in 1e-17 erg/s/cm²/Å
_WAVE_CARDS = (
    ("CRVAL1", 4.179, "Start log10(wavelength)"),
    ("CDELT1", 6e-6, "Dispersion in log10(wavelength)"),
    ("CRPIX1", 1, "Pixel of starting wavelength"),
    ("CTYPE1", "LOG-LINEAR", "Logarithmic wavelength scale"),
)
_IMAGES = (
    "Flux (10^-17 erg/s/cm^2/Ang)", "Err (10^-17 erg/s/cm^2/Ang)", "Pixel bitmask",
    "Sky (10^-17 erg/s/cm^2/Ang)", "Sky error (10^-17 erg/s/cm^2/Ang)", "Telluric",
    "Telluric error",
)  # fmt: skip
_VELOCITY_TYPE = np.dtype([
    ("filename", "S72"), *((name, ">f8") for name in (
        "jd", "snr", "vhelio", "vrel", "vrelerr", "teff", "tefferr", "logg", "loggerr", "feh",
        "feherr", "chisq", "bc", "xcorr_vrel", "xcorr_vrelerr", "xcorr_vhelio", "ccpfwhm",
        "autofwhm",
    )),
])  # fmt: skip


@dataclass(frozen=True, eq=False)
class Observed:
    """A star's combined spectrum and those of its visits.

    Attributes
    ----------
    flux, err, mask : (n_rows, 8575)
        As in an apStar file of DR17.
    limits : (n_visits, 3, 2) int64
        First and last pixel of each detector.
    measured : Measured
        What the catalogue says about the spectrum.
    rng : numpy.random.Generator
        As the observation left it.
    """

    flux: NDArray[np.float64]
    err: NDArray[np.float64]
    mask: NDArray[np.int64]
    limits: NDArray[np.int64]
    measured: Measured
    rng: np.random.Generator


def observe_star(star: SimulatedStar, library: Library, settings: InstrumentSettings) -> Observed:
    """Observe one star and combine its visits.

    Parameters
    ----------
    star
        Place, visits and noise of the star.
    library
        Its true spectrum.
    settings
        Of the instrument.
    """
    rng = np.random.default_rng(star.pixel_seed)
    visits = star.visits
    shift = (visits.vhelio - visits.bc) / KMS_PER_PIXEL
    # A fibre's place along the slit moves its spectrum on the detectors by a few pixels.
    limits = chip_limits(shift + (visits.fiber - 150) / 50)
    faults, index = star.faults, star.library_index
    truth = library.flux[index] if faults is None else faults.spectrum(library, index)
    exposures = expose(
        truth, shift, visits.snr, limits=limits, rng=rng, settings=settings, faults=faults
    )
    continuum = _continuum(star, library, shift, rng, settings)
    flux, err, mask = combine(exposures, continuum, visits.snr)
    measured = _measure(star, library.wavelength, flux[0], err[0])
    return Observed(flux, err, mask, limits, measured, rng)


def write_apstar(
    path: Path,
    star: SimulatedStar,
    library: Library,
    *,
    settings: InstrumentSettings,
    history: Sequence[str],
) -> Measured:
    """Observe one star, combine its visits and write the file.

    Parameters
    ----------
    star
        Place, visits and noise of the star.
    library
        Its true spectrum.
    settings
        Of the instrument.
    path
        File to write, in a folder that exists.
    history
        Lines that mark every HDU as simulated.

    Returns
    -------
    Measured
        What the catalogue says about the spectrum.
    """
    seen = observe_star(star, library, settings)
    measured = seen.measured
    header = _primary_header(star, library, measured, seen.limits, history)
    with path.open("wb") as stream:
        stream.write(header.tostring().encode("ascii"))
        for unit, image in zip(_IMAGES, (seen.flux, seen.err, seen.mask), strict=False):
            _write_hdu(stream, _image_header(unit, len(image), image.dtype.str[1:]), image)
        for unit in (*_IMAGES[3:], ""):
            stream.write(_image_header(unit, 0, ""))
        for table in _velocity_tables(star, library, measured, seen.rng):
            _write_hdu(stream, _table_header(len(table)), table)
    return measured


def _write_hdu(stream: BinaryIO, header: bytes, data: NDArray[Any]) -> None:
    """Write header and data of an HDU, big-endian, the data filled up to full blocks."""
    stream.write(header)
    content = data.astype(data.dtype.newbyteorder(">")).tobytes()
    stream.write(content + bytes(-len(content) % 2880))


# Only the primary header and the data differ from star to star: the other headers are made by
# astropy once for each shape, which makes writing a survey several times faster.


@cache
def _image_header(unit: str, rows: int, dtype: str) -> bytes:
    """Header of an image of shape (rows, 8575), or of an empty one."""
    cards = [*_WAVE_CARDS, ("BUNIT", unit, "")] if unit else []
    data = np.zeros((rows, N_PIXELS), dtype=dtype) if rows else None
    hdu = fits.ImageHDU(data, header=_marked(cards, [MARK]))
    return bytes(hdu.header.tostring().encode("ascii"))


@cache
def _table_header(rows: int) -> bytes:
    """Header of a table of velocities."""
    hdu = fits.BinTableHDU(np.zeros(rows, dtype=_VELOCITY_TYPE), header=_marked([], [MARK]))
    return bytes(hdu.header.tostring().encode("ascii"))


@cache
def _chip_terms() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Detector nearest to each pixel, and its place there from -1 to 1."""
    pixel = np.arange(N_PIXELS)
    place = np.array([2 * (pixel - low) / (high - low) - 1 for low, high in DETECTORS])
    chip = np.abs(place).argmin(axis=0)
    return chip, place[chip, pixel]


def _continuum(
    star: SimulatedStar,
    library: Library,
    shift: NDArray[np.float64],
    rng: np.random.Generator,
    settings: InstrumentSettings,
) -> NDArray[np.float64]:
    """Continuum of each visit, shape (n, 8575), in 1e-17 erg s⁻¹ cm⁻² Å⁻¹.

    A black body behind dust (A ∝ λ^-1.61), times what the flux calibration of each detector gets
    wrong: a cubic that is partly the same in all visits, and a ripple.
    """
    micron = library.wavelength / 1e4
    teff = library.values("TEFF")[star.library_index]
    planck = micron**-5 / np.expm1(14387.77 / (micron * teff))
    dust = 10 ** (-0.4 * star.extinction * (micron / 2.16) ** -1.61)
    shape = planck * dust
    level = _FLUX_OF_H0 * 10 ** (-0.4 * star.magnitudes[1]) / shape[N_PIXELS // 2]
    chip, place = _chip_terms()
    n = len(star.visits)
    size = settings.response * np.array([1.0, 0.8, 0.5, 0.3])
    coefficients = rng.normal(size=(1, 3, 4)) * size * 0.8 + rng.normal(size=(n, 3, 4)) * size * 0.6
    powers = np.polynomial.chebyshev.chebvander(place, 3)
    response = 1 + np.einsum("npk,pk->np", coefficients[:, chip], powers)
    waves = rng.uniform(1.5, 3.5, (1, 3))[:, chip] * np.pi * place
    phase = rng.uniform(0, 2 * np.pi, (1, 3))[:, chip] + 0.05 * shift[:, None]
    response += np.sqrt(2) * settings.ripple * np.sin(waves + phase)
    scale = level * np.exp(0.1 * rng.normal(size=(n, 1)))
    return np.asarray(scale * shape * np.maximum(response, 0.1))


def _measure(
    star: SimulatedStar,
    wavelength: NDArray[np.float64],
    flux: NDArray[np.float64],
    err: NDArray[np.float64],
) -> Measured:
    """Median S/N of the combined spectrum, and the mean velocity."""
    snr = flux / err
    green = (wavelength > 15850) & (wavelength < 16440)
    visits = star.visits
    weight = 1 / visits.verr**2
    return Measured(
        snr=float(np.float32(np.nanmedian(snr))),  # what every layout can hold
        snrev=float(np.nanmedian(snr[green])),
        vhelio=float(np.average(visits.vhelio, weights=weight)),
        vscatter=float(visits.vhelio.std(ddof=1)) if len(visits) > 1 else 0.0,
        verr=float(1 / np.sqrt(weight.sum())),
    )


def _marked(cards: Sequence[tuple[str, object, str]], history: Sequence[str]) -> fits.Header:
    """A header that says that the data are simulated."""
    mark = ("SIMULATE", True, "simulated, not observed")
    return fits.Header([*cards, mark, *(("HISTORY", line) for line in history)])


def _primary_header(
    star: SimulatedStar,
    library: Library,
    measured: Measured,
    limits: NDArray[np.int64],
    history: Sequence[str],
) -> fits.Header:
    """The primary header, with the keys of DR17."""
    j, h, k = star.magnitudes
    visits = star.visits
    teff, logg, feh = _template(star, library)
    cards: list[tuple[str, object, str]] = [
        ("SIMPLE", True, "conforms to FITS standard"), ("BITPIX", 8, ""), ("NAXIS", 0, ""),
        ("EXTEND", True, ""), *_WAVE_CARDS, ("DC-FLAG", 1, "Logarithmic wavelength scale"),
        ("NWAVE", N_PIXELS, "Number of wavelengths"),
        ("FIELD", star.field_name, "APOGEE field name"),
        ("OBJID", star.apogee_id, "invented: 2S and coordinates"),
        ("SNR", measured.snr, "Median S/N per apStar pixel"),
        ("SNREV", measured.snrev, "Median S/N per apStar pixel in middle chip"),
        ("RA", star.ra, "right ascension, deg, J2000"),
        ("DEC", star.dec, "declination, deg, J2000"),
        ("GLON", star.glon, "Galactic longitude"), ("GLAT", star.glat, "Galactic latitude"),
        ("J", j, "J magnitude"), ("J_ERR", 0.024, ""), ("H", h, "H magnitude"),
        ("H_ERR", 0.023, ""), ("K", k, "K magnitude"), ("K_ERR", 0.021, ""),
        ("AKTARG", star.extinction, "Extinction A_K"),
        ("SFD_EBV", -9999.99, "SFD E(B-V)"), ("MIN_H", -9999.99, "minimum H mag of cohort"),
        ("NVISITS", len(visits), "Number of visit spectra combined"),
        ("STARFLAG", star.star_flag, "bitwise OR of visit flags"),
        ("ANDFLAG", star.star_flag, "bitwise AND of visit flags"),
        ("N_COMP", 1, "components in the RV CCFs"),
        ("VHELIO", measured.vhelio, "weighted mean barycentric RV, km/s"),
        ("VSCATTER", measured.vscatter, "standard deviation of visit RVs"),
        ("VERR", measured.verr, "error of VHELIO"),
        ("VERR_MED", float(np.median(visits.verr)), "median visit error"),
        ("RV_TEFF", teff, "of the RV template"), ("RV_LOGG", logg, ""), ("RV_FEH", feh, ""),
        ("MEANFIB", float(visits.fiber.mean()), "mean fiber number"),
        ("NRES", " 5.00 4.25 3.50", "pixels/resolution used for sinc"),
        *_limit_cards(limits), *_visit_cards(star), *fault_cards(star.faults),
    ]  # fmt: skip
    return _marked(cards, history)


def _limit_cards(limits: NDArray[np.int64]) -> list[tuple[str, object, str]]:
    """First and last pixels of the chips, over any and over all visits."""
    cards: list[tuple[str, object, str]] = []
    for k, chip in ((2, "R"), (1, "G"), (0, "B")):
        first, last = limits[:, k].T
        cards += [
            (f"{chip}MIN", int(first.min()), "first pixel of chip, any visit"),
            (f"{chip}MAX", int(last.max()), "last pixel of chip, any visit"),
            (f"{chip}OVERMIN", int(first.max()), "first pixel of chip, all visits"),
            (f"{chip}OVERMAX", int(last.min()), "last pixel of chip, all visits"),
        ]
    return cards


def _visit_cards(star: SimulatedStar) -> list[tuple[str, object, str]]:
    """Keys of each visit; DR17 leaves the S/N of a single visit at 0."""
    cards: list[tuple[str, object, str]] = []
    visits = star.visits
    for n in range(len(visits)):
        day = datetime(1858, 11, 17) + timedelta(days=int(visits.mjd[n]))
        cards += [
            (f"SFILE{n + 1}", _visit_file(star, n), "visit spectrum"),
            (f"DATE{n + 1}", f"{day:%Y-%m-%d}T00:00:00.000", "invented"),
            (f"JD{n + 1}", float(visits.mjd[n]) + 2400000.5, "Julian date"),
            (f"FIBER{n + 1}", int(visits.fiber[n]), "fiber"),
            (f"BC{n + 1}", float(visits.bc[n]), "barycentric correction, km/s"),
            (f"VRAD{n + 1}", float(visits.vhelio[n] - visits.bc[n]), "radial velocity, km/s"),
            (f"VERR{n + 1}", float(visits.verr[n]), "its error, km/s"),
            (f"VHELIO{n + 1}", float(visits.vhelio[n]), "barycentric velocity, km/s"),
            (f"SNRVIS{n + 1}", float(visits.snr[n]) if len(visits) > 1 else 0.0, "Median S/N"),
            (f"FLAG{n + 1}", star.star_flag, "STARFLAG of the visit"),
        ]
    return cards


def _visit_file(star: SimulatedStar, n: int) -> str:
    visits = star.visits
    prefix = "asVisit" if star.telescope == "lco25m" else "apVisit"
    return f"{prefix}-dr17-{visits.plate[n]}-{visits.mjd[n]}-{visits.fiber[n]:03d}.fits"


def _template(star: SimulatedStar, library: Library) -> tuple[float, float, float]:
    """Parameters of the nearest coarse RV template: 500 K, 1 dex and 0.5 dex apart."""
    teff, logg, feh = (library.values(n)[star.library_index] for n in ("TEFF", "LOGG", "FE_H"))
    return 500.0 * round(teff / 500), float(round(logg)), 0.5 * round(feh / 0.5)


def _velocity_tables(
    star: SimulatedStar, library: Library, measured: Measured, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Velocities of the visits and of the combination: DR17's columns without the CCFs."""
    visits = star.visits
    n = len(visits)
    each, whole = np.zeros(n, dtype=_VELOCITY_TYPE), np.zeros(1, dtype=_VELOCITY_TYPE)
    each["filename"] = [_visit_file(star, k) for k in range(n)]
    each["jd"], whole["jd"] = visits.mjd + 2400000.5, np.nan
    each["snr"], whole["snr"] = visits.snr, measured.snr
    each["vhelio"], whole["vhelio"] = visits.vhelio, measured.vhelio
    each["bc"] = visits.bc
    for table, error in ((each, visits.verr), (whole, measured.verr)):
        table["vrel"] = table["vhelio"] - table["bc"]
        table["vrelerr"] = table["xcorr_vrelerr"] = error
        table["xcorr_vrel"] = table["vrel"] + rng.normal(0, 0.1, len(table))
        table["xcorr_vhelio"] = table["xcorr_vrel"] + table["bc"]
        table["teff"], table["logg"], table["feh"] = _template(star, library)
        table["tefferr"], table["loggerr"], table["feherr"] = 250.0, 0.5, 0.25
        table["chisq"], table["ccpfwhm"], table["autofwhm"] = 3.0, 18.0, 16.0
    return each, whole
