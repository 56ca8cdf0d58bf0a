"""The stars of a report, linked: a table, a scatter plot and a panel for each star.

What the page's script needs is written into the page as JSON: labels and errors, those of the
catalogue and of a simulation, flags with advice, and a small picture of each star's corner plot.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bayes_cannon.base.parallel import available_cores
from bayes_cannon.base.rounding import value_with_error
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.flags import ADVICE, MEANINGS, LabelFlag, severity
from bayes_cannon.inference.units import with_unit
from bayes_cannon.runs.corners import corner_files
from bayes_cannon.runs.report.inputs import ReportInputs, column
from bayes_cannon.runs.report.page import (
    Cell,
    Column,
    Explorer,
    Grid,
    Text,
    measured,
    plain,
    probability,
)
from bayes_cannon.runs.report.parts import Item
from bayes_cannon.runs.report.registry import section
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.star_ids import rows_of

__all__ = ["all_stars", "links_of", "small_pictures"]


_MOST_ROWS = 1500
_MOST_PICTURES = 500
"""Stars whose corner plots are in the page, small; of more there are links to the files."""
_BYTES = 8_000_000
"""All small pictures together, as they stand in the page; figures and tables need the rest."""
_WIDTHS = (640, 560, 480, 420, 360, 300)
"""Widths of the small pictures, pixels: the first one with which all of them find room."""
_TRIED = 6
_DESIGNATION = re.compile(r"2M(?P<ra>\d{8})(?P<dec>[+-]\d{7})")
"""A name after 2MASS: right ascension HHMMSSss and declination DDMMSSs."""


@section(
    "stars", "All stars",
    "Every star of the run in one table, linked with a plot. Move over a point to read the star's "
    "name; click a point or a name for its labels, flags, corner plot and links. Click a header "
    "to sort; click again to reverse.",
    order=15,
)  # fmt: skip
def all_stars(inputs: ReportInputs) -> Iterator[Item]:
    """Every star with its labels and what was found about it."""
    n = min(len(inputs.table), _MOST_ROWS)
    cut = f" The first {n:,} of {len(inputs.table):,}." if n < len(inputs.table) else ""
    yield Explorer(_data(inputs, n), _grid(inputs, n, cut))
    yield Text(
        "All columns, with formal errors, quantiles and covariances, are in catalogue.fits and "
        "catalogue.ecsv of the run."
    )


def _grid(inputs: ReportInputs, n: int, cut: str) -> Grid:
    others = [k for k in ("APOGEE_ID", "GAIA_ID", "REDUCTION") if k in inputs.table.colnames]
    key = inputs.table.meta.get("ID")
    # Names of spectra that were made unique hold the star's name.
    others = [n for n in others if n != key and not (n == "APOGEE_ID" and key == "STAR_ID")]
    columns = [Column("star", kind="id"), *(Column(name) for name in others), Column("S/N", ".0f")]
    columns += [Column(with_unit(shown_label(k), u), "g") for k, u in inputs.units.items()]
    columns += [Column("χ² p", "g"), Column("ESS", ".0f"), Column("flags", kind="wide")]
    values, errors = inputs.values(), inputs.errors
    p, ess = (column(inputs.table, name) for name in ("CHI2_P", "ESS_MIN"))
    rows: list[list[object]] = []
    for i in range(n):
        cells: list[Cell] = list(map(measured, values[i], errors[i]))
        flags = ", ".join(_flag_names(int(inputs.table["LABEL_FLAG"][i])))
        rows.append(
            [
                inputs.star_id[i],
                *(plain(str(inputs.table[name][i])) for name in others),
                float(inputs.snr[i]),
                *cells,
                probability(float(p[i])),
                float(ess[i]),
                flags,
            ]
        )
    return Grid(f"Mean and {inputs.kind} error of every label.{cut}", columns, rows)


def _flag_names(flag: int) -> list[str]:
    return [str(bit.name) for bit in LabelFlag if flag & bit]


def _data(inputs: ReportInputs, n: int) -> dict[str, Any]:
    """What the script of the page is given."""
    names = inputs.names
    references = {}
    if inputs.aspcap is not None:
        references[inputs.catalogue] = (inputs.aspcap.values, inputs.aspcap.errors)
    if inputs.truth is not None and set(names) <= set(inputs.truth.names):
        rows = rows_of(inputs.truth.star_id, inputs.star_id)
        true = np.where((rows >= 0)[:, None], inputs.truth.only(names).values[rows], np.nan)
        references["truth"] = (true, np.full(true.shape, np.nan))
    return {
        "labels": [
            {"name": k, "title": shown_label(k), "unit": u} for k, u in inputs.units.items()
        ],
        "kind": inputs.kind,
        "beside": True,
        "kiel": {"TEFF", "LOGG"} <= set(names),
        "references": list(references),
        "flags": [
            {"bit": int(b), "name": str(b.name), "severity": severity(int(b)),
             "text": f"{MEANINGS[b]}. {ADVICE[b]}"}
            for b in LabelFlag
        ],
        "stars": _stars(inputs, n, list(references.values())),
    }  # fmt: skip


def _stars(
    inputs: ReportInputs, n: int, references: Sequence[tuple[FloatArray, FloatArray]]
) -> list[dict[str, Any]]:
    values, errors, formal = inputs.values(), inputs.errors, inputs.values("_FORMAL_ERR")
    p = column(inputs.table, "CHI2_P")
    files = corner_files(inputs.star_id.tolist(), inputs.folder / "figures")
    there = {star: path for star, path in files.items() if path.is_file()}
    few = list(there)[:n] if len(inputs.table) <= _MOST_PICTURES else []
    pictures = dict(zip(few, small_pictures([there[s] for s in few]), strict=True))
    mixed = not inputs.simulated_stars.all()
    stars = []
    for i, star in enumerate(inputs.star_id[:n].tolist()):
        found: dict[str, Any] = {
            "id": plain(star), "flag": int(inputs.table["LABEL_FLAG"][i]),
            "snr": _short(inputs.snr[i]), "p": _short(p[i]),
            "v": _shorts(values[i]), "e": _shorts(errors[i]), "f": _shorts(formal[i]),
            "t": [value_with_error(float(v), float(e)) if np.isfinite(v) else "–"
                  for v, e in zip(values[i], errors[i], strict=True)],
            "r": [{"v": _shorts(v[i]), "e": _shorts(e[i]), "t": _theirs(v[i], e[i], errors[i])}
                  for v, e in references],
        }  # fmt: skip
        if star in there:
            found["file"] = there[star].name
        if pictures.get(star):
            found["corner"] = pictures[star]
        if mixed and inputs.simulated_stars[i]:
            found["mark"] = "SIMULATED"
        if not inputs.simulated_stars[i]:
            named = "APOGEE_ID" in inputs.table.colnames
            name = str(inputs.table["APOGEE_ID"][i]) if named else star
            found["links"] = links_of(name, _release(inputs))
        stars.append(found)
    return stars


def _release(inputs: ReportInputs) -> str:
    made_of = (inputs.summary.get("model") or {}).get("dataset") or {}
    return str(made_of.get("release", ""))


def _theirs(values: FloatArray, errors: FloatArray, ours: FloatArray) -> list[str]:
    """Values of a reference as text; without errors of their own, to the digits of ours."""
    out = []
    for value, error, our in zip(values.tolist(), errors.tolist(), ours.tolist(), strict=True):
        text = value_with_error(value, error if np.isfinite(error) else our)
        known = text if np.isfinite(error) else text.partition(" ±")[0]
        out.append(known if np.isfinite(value) else "–")
    return out


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _shorts(values: FloatArray) -> list[float | None]:
    return [_short(v) for v in values.tolist()]


def links_of(star: str, release: str = "") -> list[tuple[str, str]]:
    """Pages about a real star: title and address; none for a name that is not after 2MASS.

    Parameters
    ----------
    star
        Name of the star, with or without telescope and field.
    release
        Of the spectra: ``dr16`` and ``dr17`` have a viewer of spectra.

    Examples
    --------
    >>> [title for title, _ in links_of("2M16333217+3942519", "dr17")]
    ['SDSS spectrum', 'SIMBAD', 'Aladin']
    >>> links_of("HD 1")
    []
    """
    name = star.rpartition("/")[2].partition("#")[0]
    found = _DESIGNATION.fullmatch(name)
    if found is None:
        return []
    ra, dec = found["ra"], found["dec"].replace("+", "%2B")
    viewer = f"https://{release}.sdss.org/infrared/spectrum/view/stars"
    h, m, s = ra[:2], ra[2:4], f"{ra[4:6]}.{ra[6:]}"
    sign, d = ("-" if dec.startswith("-") else "%2B"), found["dec"][1:]
    place = f"{h}%20{m}%20{s}%20{sign}{d[:2]}%20{d[2:4]}%20{d[4:6]}.{d[6:]}"
    links = [
        ("SIMBAD", f"https://simbad.cds.unistra.fr/simbad/sim-id?Ident=2MASS%20J{ra}{dec}"),
        ("Aladin", f"https://aladin.cds.unistra.fr/AladinLite/?target={place}&fov=0.1"),
    ]
    if release in ("dr16", "dr17"):
        address = f"{viewer}?apogee_id=2M{ra}{dec}&action=search"
        links.insert(0, ("SDSS spectrum", address))
    return links


def small_pictures(files: Sequence[Path]) -> list[str]:
    """Corner plots as small WebP pictures in base64, all together within a fixed size.

    Parameters
    ----------
    files
        The PNG files.

    Returns
    -------
    list of str
        One a file; empty for one that cannot be read, or that finds no room any more.
    """
    if not files:
        return []
    tried = list(files[:: max(1, len(files) // _TRIED)])[:_TRIED]
    for width in _WIDTHS:
        sizes = [len(_small(path, width)) for path in tried]
        if len(files) * np.mean(sizes) < 0.95 * _BYTES:
            break
    with ThreadPoolExecutor(available_cores()) as pool:
        made = list(pool.map(lambda path: _small(path, width), files))
    total, out = 0, []
    for text in made:
        total += len(text)
        out.append(text if total <= _BYTES else "")
    return out


def _small(path: Path, width: int) -> str:
    """One picture; empty where the file is no picture."""
    try:
        with Image.open(path) as image:
            height = max(1, round(image.height * width / image.width))
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    except OSError:
        return ""
    webp = io.BytesIO()
    small.save(webp, format="webp", quality=40, method=2)
    return base64.b64encode(webp.getvalue()).decode()
