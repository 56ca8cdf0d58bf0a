"""Members of a group: a list of stars however it is given, and what their posteriors say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import names_of
from bayes_cannon.base.packing import unpack
from bayes_cannon.base.paths import is_fits_name, user_path
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FileFormatError, InvalidDataError, NoStarsError
from bayes_cannon.inference.flags import BAD, describe_flag
from bayes_cannon.inference.posterior import (
    group_of,
    holds_moments,
    id_name_of,
    moments_group,
    moments_of,
)
from bayes_cannon.inference.summaries.students import Students, fit_students, without_prior
from bayes_cannon.models.group_model import GroupLabels
from bayes_cannon.spectra.own_labels import columns_of, take_ids
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.spectra.star_ids import ID_NAMES, rows_of
from bayes_cannon.spectra.tables import read_table

__all__ = [
    "Members",
    "choose_members",
    "labels_of_members",
    "read_members",
]

FEWEST_STARS = 3
USED = "used"
_SEVERAL = -2


def read_members(stars: Any) -> NDArray[np.str_]:
    """Names of a group's stars, each once, in the order given.

    Parameters
    ----------
    stars
        Names; or a table with them in APOGEE_ID, SDSS_ID or STAR_ID (or the named index of a
        DataFrame); or the path of a file of such a table, or of a text with one name a line.

    Returns
    -------
    (n,) str

    Raises
    ------
    FileFormatError
        If a file is not there or holds no names.
    InvalidDataError
        If there are no names.
    """
    if isinstance(stars, str | os.PathLike):
        path = user_path(stars)
        if not path.is_file():
            raise FileFormatError(
                f"{path} is not a file; give a list of the stars' names, a table of them, or the "
                "path of a file."
            )
        listed = None if is_fits_name(path.name) else _lines_of(path)
        return read_members(read_table(path) if listed is None else listed)
    if isinstance(stars, Table) or hasattr(stars, "columns"):
        columns = columns_of(stars, "stars")
        ids, _ = take_ids(stars, columns)
        if ids is None:
            raise InvalidDataError(
                f"the table of stars has no column with their names ({', '.join(ID_NAMES)}; it has "
                f"{', '.join(list(columns)[:8])})."
            )
        stars = ids
    names = np.char.strip(names_of(stars, "stars"))
    names = names[names != ""]
    if names.size == 0:
        raise InvalidDataError("the list of stars is empty.")
    return np.array(list(dict.fromkeys(names.tolist())), dtype=np.str_)


def _lines_of(path: Path) -> list[str] | None:
    """Names in a text of one name a line; None where it is a table."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    every = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in every if not line.startswith("#")]
    # A header names the column among others; without one, a blank is part of a name (HD 122563).
    header = any(set(ID_NAMES) & set(line.strip("#").upper().split()) for line in every[:2])
    single = all(len(line.split()) == 1 for line in lines)
    table = any("," in line or "\t" in line for line in lines) or text.startswith("# %ECSV")
    if not lines or table or (header and not single):
        return None
    return lines[1:] if lines[0].upper() in ID_NAMES else lines


@dataclass(frozen=True, eq=False)
class Members:
    """Which stars of a list make up the group, and why others do not.

    Attributes
    ----------
    star_id : (n,) str
        As listed.
    fate : (n,) str
        ``'used'``, ``'not in the run'``, ``'several spectra in the run'``, ``'no posterior'`` or
        ``'flagged: …'`` with the meaning of its flags.
    rows : (n,) int
        Place in the run, -1 where it is not.
    """

    star_id: NDArray[np.str_]
    fate: NDArray[np.str_]
    rows: NDArray[np.intp]

    @property
    def used(self) -> NDArray[np.bool_]:
        """Stars of the group, shape (n,)."""
        return np.asarray(self.fate == USED)

    def told(self) -> str:
        """How many stars are used, and what became of the others, in one line."""
        others = [f.partition(":")[0] for f in self.fate.tolist() if f != USED]
        counts = {why: others.count(why) for why in dict.fromkeys(others)}
        rest = "".join(f", {n} {why}" for why, n in counts.items())
        return f"{int(self.used.sum())} of {count_text(self.star_id.size, 'star')} used{rest}"


def choose_members(
    result: xr.DataTree, stars: Any, *, flagged: Literal["exclude", "keep"] = "exclude"
) -> Members:
    """Find the stars of a list in a result, by their names or by their plain ids.

    Of a star with several spectra (TELESCOPE/FIELD/ID, ID#2) one must be named in full: its errors
    are not independent, and it would count twice.

    Parameters
    ----------
    result
        What inference returned.
    stars
        See `read_members`.
    flagged
        ``'exclude'`` leaves stars with a flag of severity BAD out, ``'keep'`` does not.

    Raises
    ------
    NoStarsError
        If fewer than three stars are left.
    InvalidDataError
        If `flagged` is something else.
    """
    if flagged not in ("exclude", "keep"):
        raise InvalidDataError(f"flagged must be 'exclude' or 'keep', got {flagged!r}.")
    listed = read_members(stars)
    posterior = group_of(result, "posterior")
    known = posterior["star"].values.astype(np.str_)
    rows = _rows_of_names(known, listed)
    finite = np.ones(known.size, np.bool_)
    if holds_moments(posterior):
        finite &= np.isfinite(posterior["mean"].values).all(axis=1)
    else:
        for name in [str(n) for n, v in posterior.data_vars.items() if "star" in v.dims]:
            finite &= np.isfinite(posterior[name].isel(chain=0, draw=0).values)
    stats = group_of(result, "star_stats") if "star_stats" in result.children else xr.Dataset()
    flags = np.zeros(known.size, np.int64)
    if "label_flag" in stats:
        flags = stats["label_flag"].values.astype(np.int64)
    fate = []
    for row in rows.tolist():
        bad = int(flags[row]) & int(BAD)
        if row == _SEVERAL:
            fate.append("several spectra in the run")
        elif row < 0:
            fate.append("not in the run")
        elif not finite[row]:
            fate.append("no posterior")
        elif bad and flagged == "exclude":
            fate.append(f"flagged: {'; '.join(describe_flag(bad))}")
        else:
            fate.append(USED)
    found = Members(listed, np.array(fate, dtype=np.str_), np.maximum(rows, -1))
    if found.used.sum() < FEWEST_STARS:
        raise NoStarsError(
            f"a group needs {FEWEST_STARS} stars, and of this list {found.told()} "
            f"({name_some(listed)}; {id_name_of(result)} of the run: {name_some(known)})."
        )
    return found


def _rows_of_names(known: NDArray[np.str_], listed: NDArray[np.str_]) -> NDArray[np.intp]:
    """Rows of listed stars, -1 where there is none, `_SEVERAL` where one must be chosen.

    A star that was observed in several places is TELESCOPE/FIELD/ID in a run; its plain id finds it
    where the run has one spectrum of it only.
    """
    rows = rows_of(known, listed)
    plain: dict[str, list[int]] = {}
    for row, name in enumerate(known.tolist()):
        plain.setdefault(name.rpartition("/")[2].partition("#")[0], []).append(row)
    for i in np.flatnonzero(rows < 0).tolist():
        places = plain.get(str(listed[i]), [])
        rows[i] = places[0] if len(places) == 1 else _SEVERAL if places else -1
    return rows


def labels_of_members(
    result: xr.DataTree, members: Members, names: tuple[str, ...]
) -> tuple[GroupLabels, FloatArray]:
    """What the calibrated posteriors of the members say, as multivariate Student t's.

    The priors under which a star's labels were inferred are taken out again: uniform ones need
    nothing, of normal ones the precision is subtracted from that of the formal posterior.

    Parameters
    ----------
    result
        What inference returned; its formal posteriors stand in where there are no calibrated ones.
    members
        Stars.
    names
        Labels.

    Returns
    -------
    labels : GroupLabels
        In the labels' units.
    sd : (n_stars, n_labels) float64
        Standard deviations of the posteriors.

    Raises
    ------
    InvalidDataError
        If a prior says more of a star than its spectrum.
    """
    rows = members.rows[members.used]
    calibrated = "calibrated_posterior" in result.children
    group = moments_group(result, "calibrated_posterior" if calibrated else "posterior")
    found = _students(group.isel(star=rows), names)
    center, scale = found.center, found.scale
    constant = group_of(result, "constant_data") if "constant_data" in result.children else None
    if constant is not None and "prior_sd" in constant:
        order = [constant["label_name"].values.tolist().index(n) for n in names]
        prior_sd = constant["prior_sd"].values[order]
        if np.isfinite(prior_sd).any():
            formal = moments_of(moments_group(result, "posterior").isel(star=rows), names)
            mean, cov = without_prior(
                formal.mean, formal.cov, constant["prior_mean"].values[order], prior_sd
            )
            center = center + mean - formal.mean
            scale = scale + (cov - formal.cov) * (found.nu - 2) / found.nu
    stars = members.star_id[members.used]
    sd = np.sqrt(np.diagonal(scale, axis1=1, axis2=2) * found.nu / (found.nu - 2))
    return GroupLabels(names, stars, center, scale, found.nu), np.asarray(sd)


_NORMAL = 200.0
"""Degrees of freedom of a formal posterior of which moments were kept."""


def _students(group: xr.Dataset, names: tuple[str, ...]) -> Students:
    """Student t's of the stars of a group: fitted to draws, or as they were kept."""
    if not holds_moments(group):
        part = group[list(names)].transpose("star", "chain", "draw")
        draws = np.stack([part[n].values for n in names], axis=-1).astype(np.float64)
        return fit_students(draws.reshape(part.sizes["star"], -1, len(names)))
    if "scale" not in group:
        moments = moments_of(group, names)
        return Students(moments.mean, moments.cov * (_NORMAL - 2) / _NORMAL, _NORMAL)
    order = [group["label_name"].values.tolist().index(n) for n in names]
    scale = unpack(group["scale"].values.astype(np.float64))[:, order][:, :, order]
    center = group["center"].values.astype(np.float64)[:, order]
    return Students(center, scale, float(group.attrs["nu"]))
