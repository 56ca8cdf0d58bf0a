"""What is known of the columns of a catalogue: what they mean, how they are shown, their UCDs.

UCDs are words of the UCD1+ vocabulary (https://www.ivoa.net/documents/UCD1+/), by which TOPCAT,
Aladin and other tools of the virtual observatory know what a column is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.spectra.label_kinds import label_kind

__all__ = [
    "FACTS",
    "ColumnFacts",
    "display_of",
    "name_of_correlation",
    "null_of",
    "typed",
    "ucd_of",
    "ucd_of_label",
]

_UNKNOWN = -1
"""Integer of what is not known; ``TNULL`` of its column."""


@dataclass(frozen=True)
class ColumnFacts:
    """A column that all catalogues may have.

    Attributes
    ----------
    text : str
        What it is.
    ucd : str
        Words of UCD1+.
    kind : {"text", "number", "integer"}
    unit : str
        '' for a plain number.
    display : str
        Format of FITS (``TDISPn``); '' for text.
    """

    text: str
    ucd: str
    kind: Literal["text", "number", "integer"] = "number"
    unit: str = ""
    display: str = ""


FACTS: Mapping[str, ColumnFacts] = MappingProxyType({
    "STAR_ID": ColumnFacts("name of the spectrum, unique in the run", "meta.id;meta.main", "text"),
    "APOGEE_ID": ColumnFacts("name of the star in APOGEE, of 2MASS kind", "meta.id", "text"),
    "GAIA_ID": ColumnFacts("source_id of Gaia (DR3; EDR3 in DR17's allStar)", "meta.id", "text"),
    "RA": ColumnFacts("right ascension (ICRS)", "pos.eq.ra;meta.main", "number", "deg", "F11.6"),
    "DEC": ColumnFacts("declination (ICRS)", "pos.eq.dec;meta.main", "number", "deg", "F11.6"),
    "TELESCOPE": ColumnFacts("telescope", "meta.id;instr.tel", "text"),
    "FIELD": ColumnFacts("field of the survey", "meta.id;obs.field", "text"),
    "NVISITS": ColumnFacts("number of visits", "meta.number;obs", "integer", "", "I6"),
    "SNR": ColumnFacts("signal-to-noise ratio per pixel", "stat.snr;spect", "number", "", "F9.1"),
    "STARFLAG": ColumnFacts("the survey's bit mask of the spectrum", "meta.code.qual",
                            "integer", "", "I12"),
    "ASPCAPFLAG": ColumnFacts("ASPCAP's bit mask of its labels", "meta.code.qual",
                              "integer", "", "I12"),
    "SIMULATED": ColumnFacts("yes: a simulated spectrum, no observation", "meta.note", "text"),
    "REDUCTION": ColumnFacts("version of the survey's pipeline that made the spectrum",
                             "meta.version", "text"),
    "RHAT_MAX": ColumnFacts("largest R-hat of the labels", "stat.value", display="F8.4"),
    "ESS_MIN": ColumnFacts("smallest effective sample size of the labels, bulk or tail",
                           "meta.number", display="F9.1"),
    "DIVERGENCES": ColumnFacts("divergent transitions after warm-up; null: not sampled",
                               "meta.number", "integer", "", "I6"),
    "CHI2": ColumnFacts("chi-square at the mode", "stat.fit.chi2", display="F10.1"),
    "CHI2_RED": ColumnFacts("chi-square at the mode per independent pixel", "stat.fit.chi2",
                            display="F8.3"),
    "CHI2_P": ColumnFacts("posterior predictive p-value of chi-square, were the model exact; "
                          "only small values mean something", "stat.probability",
                          display="F8.4"),
    "CHI2_RANK": ColumnFacts("fraction of left-out training stars of its S/N that are fitted "
                             "better", "stat.rank", display="F8.4"),
    "SHIFT": ColumnFacts("rest frame of the spectrum is off by, to the red", "spect.dopplerVeloc",
                         "number", "km/s", "F9.3"),
    "SHIFT_ERR": ColumnFacts("formal standard deviation of SHIFT",
                             "stat.error;spect.dopplerVeloc", "number", "km/s", "F9.3"),
    "KHAT": ColumnFacts("Pareto k-hat of the posterior's approximation; above 0.7 draws are "
                        "doubtful",
                        "stat.value", display="F8.3"),
    "MAHALANOBIS": ColumnFacts("Mahalanobis distance from the training labels", "stat.value",
                               display="F8.3"),
    "N_PIXELS": ColumnFacts("number of pixels used", "meta.number", "integer", "", "I6"),
    "LABEL_FLAG": ColumnFacts("quality bit mask (0: no remark)", "meta.code.qual", "integer",
                              "", "I10"),
    "LABEL_COV": ColumnFacts("covariance of the labels", "stat.covariance"),
})  # fmt: skip
"""By the name of the column."""

_OF_LABEL: Mapping[str, str] = MappingProxyType({
    "TEFF": "phys.temperature.effective", "LOGG": "phys.gravity", "FE_H": "phys.abund.Fe",
    "M_H": "phys.abund.Z", "VMICRO": "phys.veloc.microTurb", "VMACRO": "phys.veloc",
    "VSINI": "phys.veloc.rotat", "AK_TARG": "phys.absorption", "AGE": "time.age",
    "MASS": "phys.mass", "RADIUS": "phys.size.radius",
})  # fmt: skip
_OF_SUFFIX: Mapping[str, str] = MappingProxyType({
    "": "{}", "_ERR": "stat.error;{}", "_FORMAL_ERR": "stat.error;{}", "_Q16": "{};stat.min",
    "_Q50": "{};stat.median", "_Q84": "{};stat.max", "_FLAG": "meta.code.qual;{}",
})  # fmt: skip
"""As the catalogues of Gaia have it: quantiles are the minimum and maximum of an interval."""


def ucd_of_label(name: str) -> str:
    """UCD of a label: abundances are those of their kind, what is not known is a plain parameter.

    Parameters
    ----------
    name
        Name of the label.

    Examples
    --------
    >>> ucd_of_label("TEFF"), ucd_of_label("MG_FE"), ucd_of_label("MY_INDEX")
    ('phys.temperature.effective', 'phys.abund', 'stat.param')
    """
    known = _OF_LABEL.get(name.upper())
    if known is not None:
        return known
    return "phys.abund" if name.upper().endswith(("_FE", "_H", "_M")) else "stat.param"


def name_of_correlation(first: str, second: str) -> str:
    """Name of the column with the correlation of two labels.

    Parameters
    ----------
    first, second
        Names of the labels.
    """
    return f"{first}_{second}_CORR"


def _label_and_rest(column: str, labels: Sequence[str]) -> tuple[str, str]:
    """The label that a column is of, and the rest of its name; '' for none."""
    for label in sorted(labels, key=len, reverse=True):
        if column == label or column.startswith(f"{label}_"):
            return label, column[len(label) :]
    return "", column


def ucd_of(column: str, labels: Sequence[str] = (), key: str = "STAR_ID") -> str:
    """UCD of a column of a catalogue.

    Parameters
    ----------
    column
        Its name.
    labels
        Names of the labels.
    key
        Name of the column with the stars' names, the main one.

    Examples
    --------
    >>> ucd_of("FE_H_ERR", ["TEFF", "FE_H"]), ucd_of("FE_H_ASPCAP", ["FE_H"])
    ('stat.error;phys.abund.Fe', 'phys.abund.Fe')
    >>> ucd_of("TEFF_FE_H_CORR", ["TEFF", "FE_H"])
    'stat.correlation;phys.temperature.effective;phys.abund.Fe'
    """
    if column == key:
        return "meta.id;meta.main"
    label, rest = _label_and_rest(column, labels)
    if column in FACTS and not (label and rest in _OF_SUFFIX):
        return FACTS[column].ucd
    if not label:
        return "meta.note"
    own = ucd_of_label(label)
    if rest in _OF_SUFFIX:
        return _OF_SUFFIX[rest].format(own)
    other = rest.removeprefix("_").removesuffix("_CORR")
    if rest.endswith("_CORR") and other in labels:
        return f"stat.correlation;{own};{ucd_of_label(other)}"
    return f"stat.error;{own}" if rest.endswith("_ERR") else own


def display_of(column: str, labels: Sequence[str] = (), unit: str = "") -> str:
    """Format in which tools show a column (``TDISPn`` of FITS); '' for text.

    Parameters
    ----------
    column
        Its name.
    labels
        Names of the labels.
    unit
        Of the column.

    Examples
    --------
    >>> display_of("TEFF", ["TEFF"], "K"), display_of("MG_FE_ERR", ["MG_FE"], "dex")
    ('F10.1', 'F10.4')
    """
    label, rest = _label_and_rest(column, labels)
    if rest == "_FLAG":
        return "I4"
    if rest.endswith("_CORR"):
        return "F7.3"
    if label:
        return f"F10.{label_kind(label, unit).digits + 1}"
    return FACTS[column].display if column in FACTS else ""


def null_of(column: str) -> int | None:
    """Integer of a column that stands for an unknown value; None where it has none.

    Parameters
    ----------
    column
        Its name.
    """
    return _UNKNOWN if column in ("DIVERGENCES", "NVISITS", "STARFLAG", "ASPCAPFLAG") else None


def typed(name: str, texts: NDArray[np.str_]) -> NDArray[Any]:
    """Values of a column that is kept as text: numbers where its kind is, NaN or null without.

    Parameters
    ----------
    name
        Of the column.
    texts : (n_stars,) str
        '' where unknown.

    Examples
    --------
    >>> typed("NVISITS", np.array(["3", ""])), typed("RA", np.array(["10.5", ""]))
    (array([ 3, -1]), array([10.5,  nan]))
    """
    kind = FACTS[name].kind if name in FACTS else "text"
    if kind == "text":
        return texts
    values = np.full(texts.shape, np.nan)
    for place in np.flatnonzero(texts != "").tolist():
        try:
            values[place] = float(texts[place])
        except ValueError:
            continue
    if kind == "number":
        return values
    return np.where(np.isfinite(values), values, _UNKNOWN).astype(np.int64)
