"""The catalogue of a simulated survey: labels with errors, flags, and the truth behind them.

The true labels of a simulated survey, ``truth.ecsv``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import FileFormatError
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.surveys.simulation.faults import fault_columns
from bayes_cannon.surveys.simulation.library import ELEMENTS, Library
from bayes_cannon.surveys.simulation.stars import SimulatedStar

__all__ = [
    "MARK",
    "Measured",
    "allstar_hdus",
    "catalogue_rows",
    "label_error",
    "read_truth",
    "truth_table",
]


MARK = "SIMULATED: made by bayes_cannon from synthetic spectra, not observed"
"""What every simulated file says in its HISTORY."""

_ERROR_AT_150 = {
    "TEFF": 12.0, "LOGG": 0.034, "FE_H": 0.0104, "C_FE": 0.022, "N_FE": 0.026, "O_FE": 0.026,
    "NA_FE": 0.11, "MG_FE": 0.018, "AL_FE": 0.030, "SI_FE": 0.021, "S_FE": 0.070, "K_FE": 0.052,
    "CA_FE": 0.024, "TI_FE": 0.032, "V_FE": 0.12, "MN_FE": 0.025, "NI_FE": 0.020,
    "VMICRO": 0.05, "VMACRO": 0.20, "RESOLUTION": 300.0,
}  # fmt: skip
_NO_QUOTED_ERROR = ("VMICRO", "VMACRO")
_ALPHA = ("O", "MG", "SI", "S", "CA", "TI")
_MISSING = -9999.99


def label_error(name: str, snr: ArrayLike) -> NDArray[np.float64]:
    """Error of a catalogue label as DR17 quotes it for giants of a given S/N.

    ASPCAP's errors follow ln σ = a + c·S/N with S/N capped at 200. Here c = −0.003, as in DR17's
    TEFF_ERR (16.7 K below S/N 80, 10 K above 250), and a gives the median errors of DR17 giants
    at S/N 150: 12 K, 0.034, 0.0104, 0.018 and 0.021 for TEFF, LOGG, FE_H, MG_FE and SI_FE.

    Parameters
    ----------
    name
        Of the label.
    snr : (...) float
        Signal-to-noise ratio per pixel of the combined spectrum.

    Returns
    -------
    (...) float64
        One standard deviation, in the label's unit.
    """
    bright = np.minimum(np.asarray(snr, dtype=np.float64), 200.0)
    return np.asarray(_ERROR_AT_150[name] * np.exp(-0.003 * (bright - 150.0)))


@dataclass(frozen=True)
class Measured:
    """What is measured on a star's combined spectrum.

    Attributes
    ----------
    snr, snrev : float
        Median S/N per pixel of row 0, over all of it and over 15850–16440 Å.
    vhelio, vscatter, verr : float
        Mean barycentric velocity, scatter of the visits' and error of the mean, km/s.
    """

    snr: float
    snrev: float
    vhelio: float
    vscatter: float
    verr: float


def _observed_labels(
    star: SimulatedStar, library: Library, snr: float, scale: float
) -> dict[str, float]:
    """Labels as the catalogue has them: true values, errors, and what is wrong with a decoy."""
    rng = np.random.default_rng(star.label_seed)
    row: dict[str, float] = {}
    for name in _ERROR_AT_150:  # a fixed order, so that each label has its own draw
        usual = float(label_error(name, snr))
        value = library.values(name)[star.library_index] + scale * usual * rng.normal()
        if name != "RESOLUTION":
            row[name] = float(value)
        if name != "RESOLUTION" and name not in _NO_QUOTED_ERROR:
            row[f"{name}_ERR"] = max(scale, 1e-6) * usual
            row[f"{name}_FLAG"] = 0
    _spoil(star.reason, row, rng)
    row["M_H"], row["M_H_ERR"] = row["FE_H"], row["FE_H_ERR"]
    alpha = [row[f"{element}_FE"] for element in _ALPHA]
    row["ALPHA_M"], row["ALPHA_M_ERR"] = float(np.mean(alpha)), row["MG_FE_ERR"]
    return row


def _spoil(reason: str, row: dict[str, float], rng: np.random.Generator) -> None:
    """Give a decoy the label that its cut must notice, in place."""
    if reason == "LOGG":
        row["LOGG"] = rng.uniform(4.15, 4.7)
    elif reason == "TEFF":
        row["TEFF"] = rng.uniform(5800, 6400)
    elif reason == "FE_H":
        row["FE_H"] = rng.uniform(-2.2, -1.1)
    elif reason == "MISSING_LABEL":
        name = ("MG_FE", "SI_FE", "FE_H")[rng.integers(3)]
        row[name] = (np.nan, _MISSING)[rng.integers(2)]
        row[f"{name}_FLAG"] = 2


def _row(star: SimulatedStar, measured: Measured) -> dict[str, object]:
    """Columns of one star that are not labels."""
    j, h, k = star.magnitudes
    return {
        "FILE": star.file_name, "APOGEE_ID": star.apogee_id, "TELESCOPE": star.telescope,
        "LOCATION_ID": star.location_id, "FIELD": star.field_name, "RA": star.ra, "DEC": star.dec,
        "GLON": star.glon, "GLAT": star.glat, "J": j, "J_ERR": 0.024, "H": h, "H_ERR": 0.023,
        "K": k, "K_ERR": 0.021, "AK_TARG": star.extinction, "SFD_EBV": _MISSING,
        "MIN_H": _MISSING, "MAX_H": -_MISSING, "MIN_JK": _MISSING, "MAX_JK": -_MISSING,
        "STARFLAG": star.star_flag, "ANDFLAG": star.star_flag, "ASPCAPFLAG": star.aspcap_flag,
        "EXTRATARG": star.extra_targ, "NVISITS": len(star.visits),
        "SNR": measured.snr, "SNREV": measured.snrev, "VHELIO_AVG": measured.vhelio,
        "VSCATTER": measured.vscatter, "VERR": measured.verr, "RV_FLAG": 0, "N_COMPONENTS": 1,
        "MEANFIB": float(star.visits.fiber.mean()),
        "VSINI": np.nan, "ASPCAP_GRID": "GKg_d", "MEMBERFLAG": 0, "MEMBER": "",
        "SURVEY": "simulated", "SIMULATED": True,
    }  # fmt: skip


_INT32 = ("LOCATION_ID", "NVISITS", "EXTRATARG", "RV_FLAG", "N_COMPONENTS")
_INT64 = ("STARFLAG", "ANDFLAG", "ASPCAPFLAG", "MEMBERFLAG")
_FLOAT64 = ("RA", "DEC", "GLON", "GLAT")
_WIDTH = {"FILE": 64, "APOGEE_ID": 30, "TELESCOPE": 6, "FIELD": 20, "MEMBER": 10}


def _dtype(name: str, value: object) -> str:
    """Type of a column as in DR17."""
    if isinstance(value, str):
        return f"S{_WIDTH.get(name, 32)}"
    if isinstance(value, bool):
        return "?"
    if name in _FLOAT64 or name in _INT64:
        return "f8" if name in _FLOAT64 else "i8"
    return "i4" if name in _INT32 or name.endswith("_FLAG") else "f4"


def catalogue_rows(
    stars: Sequence[SimulatedStar],
    measured: Sequence[Measured],
    library: Library,
    error_scale: float,
) -> list[dict[str, Any]]:
    """Rows of the catalogue by the names of DR17, sorted by APOGEE_ID.

    Parameters
    ----------
    stars, measured
        Survey stars and decoys, without the mystery star.
    library
        Knows the true labels.
    error_scale
        Multiplies label errors, true and quoted.
    """
    rows: list[dict[str, Any]] = [
        _row(star, seen) | _observed_labels(star, library, seen.snr, error_scale)
        for star, seen in zip(stars, measured, strict=True)
    ]
    rows.sort(key=lambda row: (row["APOGEE_ID"], row["FIELD"]))
    return rows


def allstar_hdus(
    stars: Sequence[SimulatedStar],
    measured: Sequence[Measured],
    library: Library,
    *,
    error_scale: float,
    history: Sequence[str],
) -> fits.HDUList:
    """The allStar table of a survey, sorted by APOGEE_ID, with the columns of DR17.

    Parameters
    ----------
    library
        Knows the true labels.
    stars, measured
        Survey stars and decoys, without the mystery star.
    error_scale
        Multiplies label errors, true and quoted.
    history
        Lines for both headers.
    """
    rows = catalogue_rows(stars, measured, library, error_scale)
    table = Table({
        name: np.array([row[name] for row in rows], dtype=_dtype(name, value))
        for name, value in rows[0].items()
    })  # fmt: skip
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)])
    for hdu in hdus:
        hdu.header["SIMULATE"] = (True, "simulated, not observed")
        for line in history:
            hdu.header["HISTORY"] = line
    return hdus


def truth_table(
    stars: Sequence[SimulatedStar],
    measured: Sequence[Measured],
    library: Library,
    *,
    error_scale: float,
    history: Sequence[str],
    names: Sequence[str] | None = None,
) -> Table:
    """True labels of every spectrum, with what it is and how its catalogue labels were made.

    ``NAME_ERR`` is the standard deviation of the error put into the catalogue's NAME (NaN for the
    mystery star, which is not in the catalogue). ``STAR_ID`` names a star as the catalogue reader
    does: APOGEE_ID, or TELESCOPE/FIELD/APOGEE_ID where that occurs more than once. A hard survey's
    table also names the faults of every star (see `fault_columns`).

    Parameters
    ----------
    stars, measured
        All stars of the survey.
    library
        Knows the true labels.
    error_scale
        Multiplies label errors.
    history
        Lines of the table's meta data.
    names
        Of the stars as another reader than that of DR17 has them.

    Returns
    -------
    astropy.table.Table
    """
    times = Counter(star.apogee_id for star in stars)
    unique = [
        s.apogee_id if times[s.apogee_id] == 1 else f"{s.telescope}/{s.field_name}/{s.apogee_id}"
        for s in stars
    ]
    index = np.array([star.library_index for star in stars])
    snr = np.array([seen.snr for seen in measured])
    in_catalogue = np.array([star.kind != "mystery" for star in stars])
    table = Table({
        "STAR_ID": unique if names is None else list(names),
        "APOGEE_ID": [star.apogee_id for star in stars],
        "TELESCOPE": [star.telescope for star in stars],
        "FIELD": [star.field_name for star in stars],
        "KIND": [star.kind for star in stars],
        "REASON": [star.reason for star in stars],
        "LIBRARY_INDEX": index,
        "SNR": snr,
        "NVISITS": [len(star.visits) for star in stars],
    })  # fmt: skip
    for name in library.names:
        table[name] = library.values(name)[index]
        if name != "RESOLUTION":
            used = error_scale * label_error(name, snr)
            table[f"{name}_ERR"] = np.where(in_catalogue, used, np.nan)
    if any(star.faults is not None for star in stars):
        faults = fault_columns([star.faults for star in stars], library)
        for name in faults.colnames:
            table[name] = faults[name]
    table.meta["comments"] = [*history, f"elements: {', '.join(ELEMENTS)}"]
    return table


def read_truth(path: str | os.PathLike[str], names: Sequence[str] = DEFAULT_LABELS) -> Labels:
    """Read true labels.

    Parameters
    ----------
    path
        ECSV table with ``STAR_ID`` and a column per label in K or dex, as `simulate_survey` writes
        it; or the folder of a simulated survey.
    names
        Labels to read; those the table lacks are left out.

    Returns
    -------
    Labels
        Without errors: true labels have none.

    Raises
    ------
    FileFormatError
        If the file is missing or is not such a table.
    """
    file = user_path(path)
    file = file / "truth.ecsv" if file.is_dir() else file
    try:
        table = Table.read(file, format="ascii.ecsv")
    except FileNotFoundError as error:
        raise FileFormatError(f"{file} does not exist; give the truth.ecsv of a survey.") from error
    except Exception as error:
        raise FileFormatError(
            f"{file} cannot be read as an ECSV table ({type(error).__name__})."
        ) from error
    found = [n for n in names if n in table.colnames]
    if "STAR_ID" not in table.colnames or not found:
        raise FileFormatError(
            f"{file} holds no true labels: STAR_ID and one of {', '.join(names)} are needed."
        )
    star_id = np.asarray(table["STAR_ID"], dtype=np.str_)
    try:
        columns = [plain_numbers(table[n]) for n in found]
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{file}: a label that is not a number ({error}).") from error
    values = np.stack(columns, axis=1)
    return Labels(tuple(found), values, np.full(values.shape, np.nan), star_id)
