"""The two tables of results as the course report has them, ours beside what others published.

Table 1 is one star, table 2 the scatter over a set of stars. What others reached is in
`bayes_cannon.published`, with its sources; the labels of the report's own star are not known here,
so that table 1 has the formal errors that others quoted for such stars.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from astropy.table import Table

from bayes_cannon.arguments import KnownLabels, as_table
from bayes_cannon.catalogue import catalogue, comparison
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.label_units import known_labels, units_of_table
from bayes_cannon.labels import Labels
from bayes_cannon.published import PUBLISHED, PublishedResult

__all__ = ["row_of_star", "scatter_table", "star_table"]

_OURS_SIMULATED = "ours: SIMULATED stars, theirs: real ones, so that the tasks differ"


def row_of_star(table: Table, star: str | None) -> int:
    """Row of a star in a catalogue; of the only star where no name is given.

    Raises
    ------
    InvalidDataError
        If the star is not there, or none is named among several.
    """
    ids = np.asarray(table["APOGEE_ID"], dtype=np.str_)
    if star is None and ids.size == 1:
        return 0
    if star is None:
        raise InvalidDataError(f"there are {ids.size} stars; name one with star=.")
    place = np.flatnonzero(ids == star)
    if place.size == 0:
        raise InvalidDataError(f"no star {star!r} among {ids.size} ({', '.join(ids[:3])}, …).")
    return int(place[0])


def star_table(
    result: xr.DataTree | Table,
    star: str | None = None,
    *,
    aspcap: KnownLabels | None = None,
    published: Sequence[PublishedResult] = PUBLISHED,
) -> Table:
    """Table 1: the labels of one star beside ASPCAP's, with all errors.

    Parameters
    ----------
    result
        What `infer_labels` returned, a run's posteriors, or what `catalogue` made of them.
    star
        Its id; may be left out where there is one star only.
    aspcap
        The catalogue's labels, matched by star id; not needed with a table that has them.
    published
        Whose formal errors stand beside ours.

    Returns
    -------
    astropy.table.Table
        A row per label: ``LABEL``, ``UNIT``, ``OURS`` (posterior mean), ``ERR`` (calibrated, NaN
        where the model error was not measured), ``FORMAL_ERR``, ``ASPCAP``, ``ASPCAP_ERR``,
        ``DIFFERENCE`` of ours and ASPCAP's, ``PULL`` (over the joint error, ours calibrated where
        known), and ``FORMAL: name`` of each published result that has formal errors, whose
        description is its source. ``meta`` has the star and the sources.

    Raises
    ------
    InvalidDataError
        If the star is not there, or none is named among several.
    """
    given = as_table(result)
    table = catalogue(result, aspcap=aspcap) if given is None else given
    row = table[row_of_star(table, star)]
    names = table.meta["LABELS"].split(",")
    columns = {
        "OURS": "",
        "ERR": "_ERR",
        "FORMAL_ERR": "_FORMAL_ERR",
        "ASPCAP": "_ASPCAP",
        "ASPCAP_ERR": "_ASPCAP_ERR",
    }
    units = units_of_table(table, names)
    out = Table({"LABEL": names, "UNIT": [units[n] for n in names]})
    for column, suffix in columns.items():
        out[column] = [_number(row[f"{n}{suffix}"]) for n in names]
    theirs = known_labels(aspcap, units)
    if given is not None and theirs is not None:
        _put_catalogue(out, theirs, str(row["APOGEE_ID"]))
    out["DIFFERENCE"] = out["OURS"] - out["ASPCAP"]
    own = np.where(np.isfinite(out["ERR"]), out["ERR"], out["FORMAL_ERR"])
    out["PULL"] = out["DIFFERENCE"] / np.hypot(own, out["ASPCAP_ERR"])
    for other in published:
        if other.formal:
            _add_published(out, f"FORMAL: {other.name}", other, other.formal)
    _finish(out, table, published, STAR=str(row["APOGEE_ID"]))
    return out


def _put_catalogue(out: Table, aspcap: Labels, star: str) -> None:
    """Replace the catalogue's values by those given."""
    place = np.flatnonzero(aspcap.star_id == star)
    known = [n in aspcap.names and place.size > 0 for n in out["LABEL"]]
    for i, (name, found) in enumerate(zip(out["LABEL"], known, strict=True)):
        out["ASPCAP"][i] = aspcap[name][place[0]] if found else np.nan
        out["ASPCAP_ERR"][i] = aspcap.error(name)[place[0]] if found else np.nan


def scatter_table(
    result: xr.DataTree | Table,
    reference: KnownLabels,
    *,
    published: Sequence[PublishedResult] = PUBLISHED,
) -> Table:
    """Table 2: scatter of the labels of many stars about a reference, beside what others reached.

    Parameters
    ----------
    result
        What `infer_labels` returned, a run's posteriors, or what `catalogue` made of them; of stars
        that were not trained on.
    reference
        The catalogue's labels, or the truth of a simulation; matched by star id.
    published
        Whose scatter stands beside ours.

    Returns
    -------
    astropy.table.Table
        A row per label: what `comparison` gives (``N``, ``BIAS``, ``RMS``, ``ROBUST_SCATTER``,
        median ``FORMAL_ERR`` and ``ERR``), and the scatter of each published result under its
        name, whose description is the source; NaN where a label was not published. ``meta`` has
        the sources.

    Raises
    ------
    InvalidDataError
        If no star or no label is in both.
    """
    given = as_table(result)
    table = catalogue(result) if given is None else given
    out = comparison(table, reference)
    for other in published:
        _add_published(out, other.name, other, other.scatter)
    _finish(out, table, published)
    return out


def _add_published(out: Table, column: str, other: PublishedResult, values: object) -> None:
    known = dict(values)  # type: ignore[call-overload]
    out[column] = [float(known.get(str(n), np.nan)) for n in out["LABEL"]]
    out[column].description = other.source


def _finish(out: Table, table: Table, published: Sequence[PublishedResult], **meta: str) -> None:
    """Numbers of a readable length, and where everything comes from."""
    for name in out.colnames:
        if out[name].dtype.kind == "f":
            out[name].info.format = ".4g"
    simulated = bool(table.meta.get("SIMULATE"))
    sources = {other.name: other.source for other in published}
    notes = [_OURS_SIMULATED] if simulated else []
    out.meta.update(meta, SIMULATE=simulated, SOURCES=sources)
    out.meta["comments"] = [*notes, *(f"{name}: {text}" for name, text in sources.items())]


def _number(value: object) -> float:
    return float("nan") if np.ma.is_masked(value) else float(value)  # type: ignore[arg-type]
