"""A simulated survey in the layout of SDSS-V: mwmStar and mwmVisit files, astra's catalogue.

Stars, noise and labels are those of the survey in DR17's layout; only how they are written differs.
SDSS_IDs (from 900 000 000) and Gaia's names (from 9e18) are invented, beyond all real ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.base.progress import Tell
from bayes_cannon.surveys.apogee.bits import BAD_BITS
from bayes_cannon.surveys.apogee.layout import WAVELENGTH
from bayes_cannon.surveys.mwm.layout import star_folder
from bayes_cannon.surveys.simulation.catalogue import MARK, Measured, catalogue_rows
from bayes_cannon.surveys.simulation.faults import fault_cards
from bayes_cannon.surveys.simulation.files import Observed, observe_star
from bayes_cannon.surveys.simulation.layouts import layout_columns, make_hdu
from bayes_cannon.surveys.simulation.library import Library
from bayes_cannon.surveys.simulation.stars import SimulatedStar
from bayes_cannon.surveys.simulation.telescope import BAD_ERROR, InstrumentSettings

__all__ = [
    "ASTRA_FILE",
    "Sdss5Stars",
    "write_astra_catalogue",
    "write_mwm_spectra",
]

ASTRA_FILE = "astraAllStarASPCAP-0.6.0-simulated.fits"
_VERSIONS = {"V_ASTRA": "0.6.0", "CREATED": "invented"}
_APRED = "1.3"
_FIRST = {"star": 900_000_000, "decoy": 910_000_000, "mystery": 920_000_000}
_FIRST_GAIA = 9_000_000_000_000_000_000
_REPLACED = BAD_BITS["pipeline"]
_BAD_ERROR = 0.1 * BAD_ERROR
_STAR_BAD, _SUSPICIOUS, _TEFF_WARN = 1 << 23, 1 << 21, 1 << 5
_LABELS = {"teff": "TEFF", "logg": "LOGG", "v_micro": "VMICRO", "m_h_atm": "M_H",
           "alpha_m_atm": "ALPHA_M", "fe_h": "FE_H"}  # fmt: skip
_MISSING = -9999.0


class Sdss5Stars:
    """The stars of a simulated survey as SDSS-V would have them.

    A star that was observed in two fields has one SDSS_ID and one file there: its second
    observation is made from Las Campanas where the first was from Apache Point.

    Parameters
    ----------
    stars
        Of `draw_survey`.

    Attributes
    ----------
    stars : list of SimulatedStar
    sdss_id : list of int
    names : list of str
        As the reader of mwmStar files names them.
    """

    def __init__(self, stars: Sequence[SimulatedStar]) -> None:
        by_name: dict[str, tuple[int, str]] = {}
        numbers: Counter[str] = Counter()
        self.stars: list[SimulatedStar] = []
        self.sdss_id: list[int] = []
        for star in stars:
            known = by_name.get(star.apogee_id)
            if known is None:
                number = _FIRST[star.kind] + numbers[star.kind]
                numbers[star.kind] += 1
                by_name[star.apogee_id] = (number, star.telescope)
            else:
                number, first = known
                star = replace(star, telescope="apo25m" if first == "lco25m" else "lco25m")
            self.stars.append(star)
            self.sdss_id.append(number)
        times = Counter(self.sdss_id)
        self.names = [
            f"{star.telescope}/{_APRED}/{number}" if times[number] > 1 else str(number)
            for star, number in zip(self.stars, self.sdss_id, strict=True)
        ]


def write_mwm_spectra(
    folder: Path,
    given: Sdss5Stars,
    library: Library,
    settings: InstrumentSettings,
    tell: Tell,
) -> list[Measured]:
    """Observe all stars and write an mwmStar and an mwmVisit file for each SDSS_ID.

    Parameters
    ----------
    folder
        Of the survey.
    given
        Its stars, the mystery star the last.
    library
        True spectra.
    settings
        Of the instrument.
    tell
        Told of the progress.

    Returns
    -------
    list of Measured
        What the catalogue says about each spectrum.
    """
    of_star: dict[int, list[int]] = defaultdict(list)
    for k, number in enumerate(given.sdss_id):
        of_star[number].append(k)
    measured: dict[int, Measured] = {}
    for number, members in of_star.items():
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for k in members:
            star = given.stars[k]
            seen = observe_star(star, library, settings)
            measured[k] = seen.measured
            place = "LCO" if star.telescope == "lco25m" else "APO"
            rows[f"mwmStar {place}"].append(_row(star, number, seen))
            rows[f"mwmVisit {place}"] += _visit_rows(star, number, seen)
            tell(len(measured), len(given.stars), "simulating spectra")
        first = given.stars[members[0]]
        for product, kind in (("mwmStar", "star"), ("mwmVisit", "visit")):
            path = Path("spectra", kind, star_folder(number))
            path = folder / (Path("mystery") if first.kind == "mystery" else path)
            path.mkdir(parents=True, exist_ok=True)
            apo, lco = rows[f"{product} APO"], rows[f"{product} LCO"]
            content = _file(product, first, number, apo, lco)
            (path / f"{product}-0.6.0-{number}.fits").write_bytes(content)
    return [measured[k] for k in range(len(given.stars))]


def _file(
    product: str,
    star: SimulatedStar,
    number: int,
    apo: Sequence[Mapping[str, Any]],
    lco: Sequence[Mapping[str, Any]],
) -> bytes:
    j, h, k = star.magnitudes
    cards = _VERSIONS | {
        "SDSS_ID": number, "APOGEEID": star.apogee_id, "GAIA3_ID": _FIRST_GAIA + number,
        "RA": star.ra, "DEC": star.dec, "L": star.glon, "B": star.glat, "J_MAG": j, "H_MAG": h,
        "K_MAG": k, "N_BOSS": 0, "N_APOGEE": len(star.visits),
        "A_MINMJD": int(star.visits.mjd.min()), "A_MAXMJD": int(star.visits.mjd.max()),
    }  # fmt: skip
    history = [
        MARK,
        "places, velocities, magnitudes, dates and ids are invented",
        "bad pixels: flux and error interpolated as by SDSS-V, pixel_flags tell them",
    ]
    # The layout fixes the cards, so that faults go into the history.
    history += [f"{name} = {value}: {text}" for name, value, text in fault_cards(star.faults)]
    parts = [make_hdu(product, 0, cards=cards, history=history)]
    parts += [_empty(product, 1), _empty(product, 2)]
    for hdu, rows in ((3, apo), (4, lco)):
        parts.append(_table(product, hdu, rows) if rows else _empty(product, hdu))
    return b"".join(parts)


def _table(product: str, hdu: int, rows: Sequence[Mapping[str, Any]]) -> bytes:
    return make_hdu(product, hdu, rows, _VERSIONS, fitted=True, history=[MARK])


@cache
def _empty(product: str, hdu: int) -> bytes:
    """A table without rows, the same in all files of a product."""
    return _table(product, hdu, [])


def _row(star: SimulatedStar, number: int, seen: Observed) -> dict[str, Any]:
    """A row of a table of mwmStar: row 0 of an apStar file, in float32."""
    visits, measured = star.visits, seen.measured
    return {
        "spectrum_pk_id": number, "release": "sdss5", "filetype": "apstar", "v_astra": "0.6.0",
        "sdss_id": number, "apred": _APRED, "obj": star.apogee_id, "telescope": star.telescope,
        "min_mjd": int(visits.mjd.min()), "max_mjd": int(visits.mjd.max()),
        "n_entries": 1, "n_visits": len(visits), "n_good_visits": len(visits),
        "n_good_rvs": len(visits), "snr": measured.snr, "mean_fiber": float(visits.fiber.mean()),
        "spectrum_flags": star.star_flag, "v_rad": measured.vhelio, "e_v_rad": measured.verr,
        "std_v_rad": measured.vscatter, "n_components": 1, "doppler_flags": 0, "nmf_flags": 0,
        "wavelength": WAVELENGTH, "nmf_rectified_model_flux": np.nan, **_pixels(seen, 0),
    }  # fmt: skip


def _visit_rows(star: SimulatedStar, number: int, seen: Observed) -> list[dict[str, Any]]:
    """Rows of a table of mwmVisit; the only visit to a star is its combination."""
    visits, n = star.visits, len(star.visits)
    return [
        {
            "spectrum_pk_id": number, "release": "sdss5", "filetype": "apstar", "v_astra": "0.6.0",
            "sdss_id": number, "apred": _APRED, "obj": star.apogee_id, "telescope": star.telescope,
            "plate": str(visits.plate[k]), "fiber": int(visits.fiber[k]),
            "mjd": int(visits.mjd[k]), "jd": float(visits.mjd[k]) + 2400000.5,
            "field": star.field_name[:6], "snr": float(visits.snr[k]),
            "v_rad": float(visits.vhelio[k]), "v_rel": float(visits.vhelio[k] - visits.bc[k]),
            "e_v_rel": float(visits.verr[k]), "bc": float(visits.bc[k]), "n_components": 1,
            "spectrum_flags": star.star_flag, "doppler_flags": 0, "nmf_flags": 0, "valid": 1,
            "on_target": 1, "assigned": 1, **_pixels(seen, k + 2 if n > 1 else 0),
        }
        for k in range(n)
    ]  # fmt: skip


def _pixels(seen: Observed, row: int) -> dict[str, Any]:
    """Columns with a value for each pixel, of a row of an apStar file."""
    flux, err = _replaced(seen.flux[row], seen.err[row], seen.mask[row])
    ivar = np.zeros_like(err)
    known = np.isfinite(err) & (err > 0)
    ivar[known] = 1 / err[known] ** 2
    return {"flux": flux, "ivar": ivar, "pixel_flags": seen.mask[row], "continuum": np.nan}


def _replaced(
    flux: np.ndarray[Any, Any], err: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bad pixels as SDSS-V's pipeline leaves them: neighbours' flux and error in their place."""
    with np.errstate(invalid="ignore"):
        bad = np.isfinite(flux) & ((mask & _REPLACED) != 0)
        good = np.isfinite(flux) & ~bad & (err < _BAD_ERROR)
    if not good.any():
        return flux, err
    pixel = np.arange(flux.size)
    flux, err = flux.copy(), err.copy()
    for values in (flux, err):
        values[bad] = np.interp(pixel[bad], pixel[good], values[good])
    return flux, err


def write_astra_catalogue(
    path: Path,
    given: Sdss5Stars,
    measured: Sequence[Measured],
    library: Library,
    *,
    error_scale: float,
    history: Sequence[str],
) -> None:
    """Write the catalogue of all stars but the mystery star, with the labels of DR17's.

    Parameters
    ----------
    path
        File to write.
    given, measured
        Of all stars.
    library
        Knows the true labels.
    error_scale
        Multiplies label errors, true and quoted.
    history
        Lines for all headers.
    """
    sdss_id = {s.apogee_id: n for s, n in zip(given.stars, given.sdss_id, strict=True)}
    rows = [
        _astra_row(row, sdss_id[row["APOGEE_ID"]])
        for row in catalogue_rows(given.stars[:-1], measured[:-1], library, error_scale)
    ]
    product = "astraAllStarASPCAP"
    path.write_bytes(
        b"".join(
            make_hdu(product, hdu, rows if hdu == 2 else (), _VERSIONS, history=history)
            for hdu in range(3)
        )
    )


def _astra_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row of astra's catalogue from one of DR17's: [X/H] is [X/Fe] + [Fe/H]."""
    bad = bool(row["ASPCAPFLAG"] & _STAR_BAD)
    warned = bool(row["ASPCAPFLAG"])
    out: dict[str, Any] = {
        "sdss_id": number, "sdss4_apogee_id": row["APOGEE_ID"], "obj": row["APOGEE_ID"],
        "gaia_dr3_source_id": _FIRST_GAIA + number, "ra": row["RA"], "dec": row["DEC"],
        "l": row["GLON"], "b": row["GLAT"], "j_mag": row["J"], "h_mag": row["H"],
        "k_mag": row["K"], "release": "sdss5", "filetype": "apstar", "apred": _APRED,
        "v_astra": "0.6.0", "telescope": row["TELESCOPE"], "n_visits": row["NVISITS"],
        "n_apogee_visits": row["NVISITS"], "n_boss_visits": 0, "snr": row["SNR"],
        "spectrum_flags": row["STARFLAG"], "v_rad": row["VHELIO_AVG"], "e_v_rad": row["VERR"],
        "std_v_rad": row["VSCATTER"], "result_flags": _SUSPICIOUS * bad | _TEFF_WARN * warned,
        "flag_bad": bad, "flag_warn": warned,
    }  # fmt: skip
    for name, label in _LABELS.items():
        out[name], out[f"e_{name}"] = _filled(row[label]), row.get(f"{label}_ERR", np.nan)
    columns = layout_columns("astraAllStarASPCAP", 2)
    for label in row:
        name = f"{label[:-3].lower()}_h"
        if not label.endswith("_FE") or name not in columns:
            continue
        out[f"{name}_flags"] = 0
        both = row[label] > _MISSING and row["FE_H"] > _MISSING
        out[name] = row[label] + row["FE_H"] if both else _filled(row[label])
        squares = row[f"{label}_ERR"] ** 2 - row["FE_H_ERR"] ** 2
        out[f"e_{name}"] = np.sqrt(max(squares, 0.0))
    out["fe_h_flags"] = 0
    return out


def _filled(value: float) -> float:
    return _MISSING if value <= _MISSING else value
