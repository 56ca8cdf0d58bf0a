"""Catalogues of SDSS-V: astra's of ASPCAP's labels, and the pipeline's own list of stars.

``astraAllStarASPCAP-0.6.0.fits.gz`` of DR19 has 1.1 million rows of 2 kB: it is read once from
beginning to end, in small pieces of which only the columns in use are kept, and compared with its
checksums meanwhile. DR20 has the same file.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import LabelError
from bayes_cannon.spectra.label_kinds import known_unit
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee.allstar import FitsTable
from bayes_cannon.surveys.apogee.names import unique_star_ids
from bayes_cannon.surveys.catalogue import Catalogue
from bayes_cannon.surveys.fits import FitsFile, card_text, is_simulated, open_fits
from bayes_cannon.surveys.mwm.columns import (
    find_stars,
    first_known,
    lower_case,
    numbers_as_text,
    read_stars,
    star_names,
    text_of,
    truth_of,
)

__all__ = [
    "DERIVED",
    "FLAG_BAD_BITS",
    "read_astra_catalogue",
    "read_drp_allstar",
]

_log = logging.getLogger(__name__)

FLAG_BAD_BITS = (0, 1, 2, 3, 4, 6, 8, *range(21, 28))
"""Bits of astra's result_flags that make its flag_bad."""
_VALUE_BAD = 0x1FF
"""Bits of X_h_flags of what is no measurement: upper limits 0-4, censored 5 and 6, unphysical 7,
beyond the grid 8."""
DERIVED = "DERIVED"
"""Key of a table's meta data with the labels that were made of others, and how."""
_RELEASES = {"0.6.0": "dr19"}
_OWN_NAMES = {
    "VMICRO": "V_MICRO", "VSINI": "V_SINI", "M_H": "M_H_ATM", "ALPHA_M": "ALPHA_M_ATM",
    "C_M": "C_M_ATM", "N_M": "N_M_ATM", "CI_H": "C_1_H", "TIII_H": "TI_2_H",
    "C12_C13": "C_12_13",
}  # fmt: skip
_CUT_LABELS = ("TEFF", "LOGG", "FE_H")
_DRP_ERRORS = {f"RV_{name}": f"RV_{name}ERR" for name in ("TEFF", "LOGG", "FEH")}
_ASTRA = {  # column here: kind, columns there
    "SNR": ("number", "SNR"), "STARFLAG": ("flag", "SPECTRUM_FLAGS"),
    "RESULT_FLAGS": ("flag", "RESULT_FLAGS"), "RA": ("number", "RA"), "DEC": ("number", "DEC"),
    "J": ("number", "J_MAG"), "H": ("number", "H_MAG"), "K": ("number", "K_MAG"),
    "NVISITS": ("count", "N_VISITS"), "VHELIO_AVG": ("number", "V_RAD"),
    "VERR": ("number", "E_V_RAD"), "VSCATTER": ("number", "STD_V_RAD"),
}  # fmt: skip
_DRP = {
    "SNR": ("number", "SNR"), "STARFLAG": ("flag", "STARFLAG"), "ANDFLAG": ("flag", "ANDFLAG"),
    "RA": ("number", "RA"), "DEC": ("number", "DEC"), "J": ("number", "JMAG"),
    "H": ("number", "HMAG"), "K": ("number", "KMAG"), "NVISITS": ("count", "NVISITS"),
    "VHELIO_AVG": ("number", "VRAD"), "VERR": ("number", "VERR"),
    "VSCATTER": ("number", "VSCATTER"), "FILE": ("text", "FILE"), "URI": ("text", "URI"),
}  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """Where a label is in a file: columns of value, error and flags, and what is subtracted."""

    value: str
    error: str
    flags: str
    less: str = ""
    less_error: str = ""
    less_flags: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(filter(None, vars(self).values()))


def read_astra_catalogue(
    path: str | os.PathLike[str],
    labels: str | Sequence[str] = DEFAULT_LABELS,
    *,
    sdss_ids: Collection[str] | None = None,
) -> Catalogue:
    """Read labels and what else is in use from an astraAllStarASPCAP file, gzipped or not.

    Labels have the names of DR17. The file has [X/H] alone: [X/Fe] is [X/H] − [Fe/H], its error
    their errors in quadrature, as no covariance is given; the table's meta data list such labels
    (``DERIVED``). A value whose flags (``x_h_flags``, bits 0-8) say that it is an upper limit,
    censored, unphysical or beyond the grid is missing. Columns of the result, besides labels,
    ``NAME_ERR`` and ``NAME_FLAG``: SDSS_ID, APOGEE_ID, GAIA_ID (DR3), TELESCOPE, RELEASE
    (``sdss5``, ``dr17``), REDUCTION (``1.3``, ``dr17``), SNR, STARFLAG (``spectrum_flags``),
    RESULT_FLAGS, FLAG_BAD, magnitudes and velocities.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.
    labels
        Labels that the file must have: names of DR17 (``MG_FE``), or of a column (``MG_H``,
        ``RAW_TEFF``).
    sdss_ids
        Stars whose rows are kept; left out, all.

    Returns
    -------
    Catalogue
        A star that was observed twice has two rows, named TELESCOPE/REDUCTION/SDSS_ID.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged (checksums are compared), or holds no such table.
    LabelError
        If it lacks one of the labels.
    """
    wanted = tuple(name.upper() for name in one_or_more(labels))
    with open_fits(path) as file:
        source, number = find_stars(file, "TEFF")
        sources = _sources(source, wanted)
        texts = {
            "SDSS_ID": "SDSS_ID", "OBJ": "OBJ", "SDSS4": "SDSS4_APOGEE_ID",
            "GAIA": "GAIA_DR3_SOURCE_ID", "TELESCOPE": "TELESCOPE", "RELEASE": "RELEASE",
            "APRED": "APRED", "BAD": "FLAG_BAD",
        }  # fmt: skip
        raw = read_stars(file, source, number, [*texts.values(), *_columns(_ASTRA), *(
            column for s in sources.values() for column in s.columns
        )], sdss_ids)  # fmt: skip
        table = Table()
        table["SDSS_ID"] = star_names(source, raw, "SDSS_ID", "OBJ")
        table["APOGEE_ID"] = first_known(source, raw, "SDSS4_APOGEE_ID", "OBJ")
        table["GAIA_ID"] = numbers_as_text(raw, "GAIA_DR3_SOURCE_ID", len(table))
        table["TELESCOPE"] = text_of(source, raw, "TELESCOPE", len(table))
        table["RELEASE"] = lower_case(text_of(source, raw, "RELEASE", len(table)))
        apred = lower_case(text_of(source, raw, "APRED", len(table)))
        table["REDUCTION"] = np.where(apred != "", apred, table["RELEASE"])
        _add(table, source, raw, _ASTRA)
        if "FLAG_BAD" in raw:
            table["FLAG_BAD"] = truth_of(raw["FLAG_BAD"])
        _add_labels(table, source, raw, sources)
        v_astra = _version(file, source)
        marked = any(is_simulated(h) for h in (file.hdus[0].header, source.hdu.header))
    release = _RELEASES.get(v_astra, f"astra {v_astra}" if v_astra else "")
    return Catalogue(
        table, release, file.path, marked,
        unique_star_ids(table["SDSS_ID"], table["TELESCOPE"], table["REDUCTION"]),
        id_name="SDSS_ID", name=f"ASPCAP {release.upper()}".strip(),
    )  # fmt: skip


def read_drp_allstar(
    path: str | os.PathLike[str],
    labels: str | Sequence[str] = (),
    *,
    sdss_ids: Collection[str] | None = None,
) -> Catalogue:
    """Read the pipeline's list of stars of SDSS-V, ``allStar-1.3-apo25m.fits``.

    It holds no labels of ASPCAP, only those of the template of the radial velocity (``RV_TEFF``,
    ``RV_LOGG``, ``RV_FEH``). ``FILE`` and ``URI`` say where the spectra are.

    Parameters
    ----------
    path, sdss_ids
        As for `read_astra_catalogue`.
    labels
        Labels that the file must have.

    Raises
    ------
    FileFormatError, LabelError
        As `read_astra_catalogue`.
    """
    wanted = tuple(name.upper() for name in one_or_more(labels)) if labels else ()
    with open_fits(path) as file:
        source, number = find_stars(file, "APRED_VERS")
        if unknown := [n for n in wanted if n not in source.names]:
            raise LabelError(
                f"{source.path} has no column {', '.join(unknown)}: the pipeline's list of stars "
                f"holds no labels of ASPCAP, only {', '.join(_DRP_ERRORS)}; put the catalogue "
                "astraAllStarASPCAP beside it."
            )
        texts = ("SDSS_ID", "APOGEE_ID", "GAIA_SOURCEID", "TELESCOPE", "APRED_VERS")
        errors = {n: _DRP_ERRORS.get(n, f"{n}ERR") for n in wanted}
        raw = read_stars(
            file, source, number,
            [*texts, *_columns(_DRP), *wanted, *errors.values()], sdss_ids,
        )  # fmt: skip
        table = Table()
        table["SDSS_ID"] = star_names(source, raw, "SDSS_ID", "APOGEE_ID")
        table["APOGEE_ID"] = first_known(source, raw, "APOGEE_ID")
        table["GAIA_ID"] = numbers_as_text(raw, "GAIA_SOURCEID", len(table))
        table["TELESCOPE"] = text_of(source, raw, "TELESCOPE", len(table))
        table["REDUCTION"] = lower_case(text_of(source, raw, "APRED_VERS", len(table)))
        _add(table, source, raw, _DRP)
        for name in wanted:
            table[name] = source.convert(name, "number", raw[name])
            error = raw.get(errors[name])
            missing = np.full(len(table), np.nan)
            table[f"{name}_ERR"] = (
                missing if error is None else source.convert(errors[name], "error", error)
            )
        marked = any(is_simulated(h) for h in (file.hdus[0].header, source.hdu.header))
    return Catalogue(
        table, "dr19", file.path, marked,
        unique_star_ids(table["SDSS_ID"], table["TELESCOPE"], table["REDUCTION"]),
        id_name="SDSS_ID", name="APOGEE DRP",
    )  # fmt: skip


def _sources(source: FitsTable, labels: Sequence[str]) -> dict[str, _Source]:
    """Where the labels are, and those that cuts need."""
    found, unknown = {}, []
    for label in dict.fromkeys((*_CUT_LABELS, *labels)):
        where = _source(source.names, label)
        if where is not None:
            found[label] = where
        elif label in labels:
            unknown.append(label)
    if unknown:
        numbers = [n for n in source.names if f"E_{n}" in source.names]
        close = [m for n in unknown for m in difflib.get_close_matches(n, numbers, n=2)]
        hint = f"did you mean {' or '.join(dict.fromkeys(close))}? " if close else ""
        raise LabelError(
            f"{source.path} has no label {', '.join(unknown)}; {hint}Its labels with errors are "
            f"{', '.join(numbers) or 'none'}, and [X/Fe] of each [X/H], like MG_FE."
        )
    return found


def _source(names: Mapping[str, str], label: str) -> _Source | None:
    own = _OWN_NAMES.get(label, label)
    if own in names:
        error = f"RAW_E_{own[4:]}" if own.startswith("RAW_") else f"E_{own}"
        # The flags of IRFM_TEFF and others have other meanings than those of abundances.
        flags = f"{own}_FLAGS" if own.endswith("_H") or own == "C_12_13" else ""
        return _Source(own, _if(names, error), _if(names, flags))
    if label.endswith("_FE"):
        over_h, iron = _source(names, f"{label[:-3]}_H"), _source(names, "FE_H")
        if over_h is not None and iron is not None:
            return _Source(
                over_h.value, over_h.error, over_h.flags, iron.value, iron.error, iron.flags
            )
    return None


def _if(names: Mapping[str, str], name: str) -> str:
    return name if name in names else ""


def _columns(wanted: Mapping[str, tuple[str, str]]) -> list[str]:
    return [column for _, column in wanted.values()]


def _add(
    table: Table,
    source: FitsTable,
    raw: Mapping[str, NDArray[Any]],
    wanted: Mapping[str, tuple[str, str]],
) -> None:
    for name, (kind, column) in wanted.items():
        if column in raw:
            table[name] = source.convert(column, kind, raw[column])


def _add_labels(
    table: Table,
    source: FitsTable,
    raw: Mapping[str, NDArray[Any]],
    sources: Mapping[str, _Source],
) -> None:
    """Labels, their errors and flags; what is no measurement is missing."""
    derived = []
    for name, where in sources.items():
        values = source.convert(where.value, "number", raw[where.value])
        errors = _errors(source, raw, where.error, len(table))
        flags = _flags(source, raw, where.flags, len(table))
        if where.less:
            values = values - source.convert(where.less, "number", raw[where.less])
            errors = np.hypot(errors, _errors(source, raw, where.less_error, len(table)))
            flags = flags | _flags(source, raw, where.less_flags, len(table))
            derived.append(f"{name} = {where.value} - {where.less}")
        bad = (flags & _VALUE_BAD) != 0
        if n := int((bad & np.isfinite(values)).sum()):
            _log.info(
                "%s: %d values of %s are upper limits, censored, unphysical or beyond the grid "
                "(flag bits 0-8) and count as missing", source.path, n, name,
            )  # fmt: skip
        table[name], table[f"{name}_ERR"] = np.where(bad, np.nan, values), errors
        table[name].unit = known_unit(name) or None
        if where.less:
            table[name].description = (
                f"{where.value} - {where.less} of the catalogue; error in quadrature, no "
                "covariance is given"
            )
        if where.flags:
            table[f"{name}_FLAG"] = flags
    if derived:
        table.meta[DERIVED] = "; ".join(derived)
        _log.info(
            "%s has [X/H] alone: %s, with errors in quadrature", source.path, "; ".join(derived)
        )


def _errors(
    source: FitsTable, raw: Mapping[str, NDArray[Any]], name: str, n_rows: int
) -> FloatArray:
    if not name:
        return np.full(n_rows, np.nan)
    return np.asarray(source.convert(name, "error", raw[name]))


def _flags(
    source: FitsTable, raw: Mapping[str, NDArray[Any]], name: str, n_rows: int
) -> NDArray[np.int64]:
    if not name:
        return np.zeros(n_rows, dtype=np.int64)
    return np.ma.filled(source.convert(name, "flag", raw[name]), 0)


def _version(file: FitsFile, source: FitsTable) -> str:
    """Version of astra: of the headers, else of the file's name."""
    for header in (source.hdu.header, file.hdus[0].header):
        if text := card_text(header, "V_ASTRA"):
            return text
    found = re.search(r"astraAllStarASPCAP-([^-]+?)(\.fits|$)", file.path.name)
    return found[1] if found else ""
