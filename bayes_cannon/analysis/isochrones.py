"""Isochrones for the Kiel diagram: the extract that comes with the package and MIST files.

MIST is Choi et al. 2016, ApJ 823, 102, and Dotter 2016, ApJS 222, 8, whose equivalent evolutionary
points (EEPs) number the points of an isochrone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from bayes_cannon.analysis.mist import read_mist_blocks
from bayes_cannon.base.cards import Carded, Row, count_text, range_text
from bayes_cannon.base.resources import data_path
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import BayesCannonWarning, FileFormatError, InvalidDataError

__all__ = [
    "MIST_CITATION",
    "Isochrone",
    "IsochroneSet",
    "packaged_isochrones",
    "read_mist",
]


MIST_CITATION = "Choi et al. 2016, ApJ 823, 102; Dotter 2016, ApJS 222, 8"
"""The papers to cite wherever MIST isochrones are shown."""

_GIANT_BRANCH = (454, 605)  # EEPs: end of the main sequence to tip of the red giant branch
_RED_CLUMP = (631, 707)  # core helium burning
_PHASE_STARTS = (202, 454, 605, 707, 808, 1409)  # EEPs
_PHASES = np.array([-1, 0, 2, 3, 4, 5, 6])  # between those EEPs
_COLUMNS = ("eep", "initial_mass", "log_Teff", "log_g", "phase")
_BRIGHTNESS = ("log_L", "H")
_FAR_FEH, _FAR_AGE = 0.13, 0.1  # dex: half the steps of a coarse grid


@dataclass(frozen=True, eq=False)
class Isochrone:
    """Stars of one age and composition, ordered by evolution.

    Attributes
    ----------
    feh : float
        [Fe/H] of the initial composition, dex.
    alpha_fe : float or None
        [α/Fe], dex; None where the source does not say.
    log10_age : float
        log10 of the age in years.
    eep : (n_points,) int64
        Equivalent evolutionary points, strictly increasing.
    initial_mass : (n_points,) float64
        Solar masses.
    log_Teff, log_g : (n_points,) float64
        log10 of the effective temperature in K and of the surface gravity in cm/s².
    phase : (n_points,) int64
        −1 pre-main sequence, 0 main sequence, 2 subgiants and red giants, 3 core helium burning,
        4 and 5 asymptotic giants, 6 later, 9 Wolf-Rayet.
    source : str
        What to cite in a figure.
    log_L, H : (n_points,) float64 or None
        log10 of the luminosity in suns, and absolute 2MASS H magnitude (NaN where there is none);
        None where the source has no such column.

    Raises
    ------
    InvalidDataError
        On no points, lengths that differ, values that are not finite, or EEPs that do not increase.
    """

    feh: float
    alpha_fe: float | None
    log10_age: float
    eep: NDArray[np.int64]
    initial_mass: FloatArray
    log_Teff: FloatArray  # noqa: N815
    log_g: FloatArray
    phase: NDArray[np.int64]
    source: str
    log_L: FloatArray | None = None  # noqa: N815
    H: FloatArray | None = None

    def __post_init__(self) -> None:
        there = [name for name in _BRIGHTNESS if getattr(self, name) is not None]
        for name in (*_COLUMNS, *there):
            dtype = np.int64 if name in ("eep", "phase") else np.float64
            array = np.array(getattr(self, name), dtype=dtype)
            if array.ndim != 1 or array.size == 0 or array.shape != np.shape(self.eep):
                raise InvalidDataError(
                    f"{name} of an isochrone has shape {array.shape}; all columns must be "
                    "one-dimensional, of one length and not empty."
                )
            if name != "H" and not np.isfinite(array).all():
                raise InvalidDataError(f"{name} of an isochrone has values that are not finite.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if not (np.diff(self.eep) > 0).all():
            raise InvalidDataError("the EEPs of an isochrone must increase.")

    @property
    def teff(self) -> FloatArray:
        """Effective temperature, K, shape (n_points,)."""
        return np.asarray(10**self.log_Teff)

    @property
    def age_gyr(self) -> float:
        """Age in Gyr."""
        return float(10 ** (self.log10_age - 9))

    @property
    def label(self) -> str:
        """Age and composition in words, e.g. ``'6.3 Gyr, [Fe/H] = −1.00'``."""
        text = f"{self.age_gyr:.3g} Gyr, [Fe/H] = {self.feh:.2f}"
        if self.alpha_fe:
            text += f", [α/Fe] = {self.alpha_fe:.2f}"
        return text.replace("-", "−")

    def __len__(self) -> int:
        return int(self.eep.size)

    def giant_branch(self) -> Isochrone:
        """Return the subgiants and red giants: phase 2, EEP 454 to 605.

        Raises
        ------
        InvalidDataError
            If the isochrone has none.
        """
        return self._part("giant branch", 2, _GIANT_BRANCH)

    def red_clump(self) -> Isochrone:
        """Return the core helium burning stars: phase 3, EEP 631 to 707.

        Raises
        ------
        InvalidDataError
            If the isochrone has none.
        """
        return self._part("red clump", 3, _RED_CLUMP)

    def _part(self, name: str, phase: int, eeps: tuple[int, int]) -> Isochrone:
        keep = (self.phase == phase) & (self.eep >= eeps[0]) & (self.eep <= eeps[1])
        if not keep.any():
            raise InvalidDataError(
                f"the isochrone of {self.label} has no {name} (phase {phase}, EEP {eeps[0]} to "
                f"{eeps[1]}): it holds EEP {self.eep[0]} to {self.eep[-1]}; choose another age."
            )
        there = [name for name in _BRIGHTNESS if getattr(self, name) is not None]
        columns = {name: getattr(self, name)[keep] for name in (*_COLUMNS, *there)}
        return replace(self, **columns)

    def ridge(self, log_g: ArrayLike) -> FloatArray:
        """Return Teff along the giant branch.

        Monotone cubic interpolation (PCHIP) of log Teff in log g. Where log g rises for a while
        with age, at the bump of the giant branch, only points below all earlier ones count.

        Parameters
        ----------
        log_g : (...) float
            Surface gravities, log10 of cm/s².

        Returns
        -------
        (...) float64
            Effective temperatures, K.

        Raises
        ------
        InvalidDataError
            If a gravity is outside the giant branch.
        """
        branch = self.giant_branch()
        lowest = np.minimum.accumulate(branch.log_g)
        falling = np.append(True, branch.log_g[1:] < lowest[:-1])
        x, y = branch.log_g[falling][::-1], branch.log_Teff[falling][::-1]
        grid = np.asarray(log_g, dtype=np.float64)
        wrong = ~((grid >= x[0]) & (grid <= x[-1]))
        if wrong.any() or x.size < 2:
            raise InvalidDataError(
                f"{wrong.sum()} of {count_text(grid.size, 'gravity')} are outside the giant branch "
                f"of {self.label}, which runs from log g {x[-1]:.2f} to {x[0]:.2f}."
            )
        return np.asarray(10 ** PchipInterpolator(x, y)(grid))


@dataclass(frozen=True, eq=False, repr=False)
class IsochroneSet(Carded):
    """Isochrones of several ages and compositions.

    Attributes
    ----------
    isochrones : tuple of Isochrone

    Raises
    ------
    InvalidDataError
        If there are none.
    """

    isochrones: tuple[Isochrone, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "isochrones", tuple(self.isochrones))
        if not self.isochrones:
            raise InvalidDataError("a set of isochrones needs at least one.")

    @property
    def source(self) -> str:
        """What to cite in a figure."""
        return "; ".join(dict.fromkeys(one.source for one in self.isochrones))

    def __len__(self) -> int:
        return len(self.isochrones)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame, a row a point: ``feh``, ``log10_age`` and columns of `Isochrone`."""
        parts = [
            pd.DataFrame({"feh": one.feh, "log10_age": one.log10_age}
                         | {name: getattr(one, name) for name in _COLUMNS})
            for one in self.isochrones
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def _facts(self) -> tuple[str, list[Row]]:
        ages = [one.age_gyr for one in self.isochrones]
        return count_text(len(self), "isochrone"), [
            ("[Fe/H]", range_text([one.feh for one in self.isochrones], 2, "dex")),
            ("age", range_text(ages, 1, "Gyr")),
            ("source", self.source),
        ]

    def __iter__(self) -> Iterator[Isochrone]:
        return iter(self.isochrones)

    def ridge(self, log_g: ArrayLike, feh: ArrayLike, *, log10_age: float) -> FloatArray:
        """Return Teff along the giant branches, interpolated linearly in [Fe/H].

        Parameters
        ----------
        log_g, feh : (n,) float
            Surface gravity, log10 of cm/s², and [Fe/H], dex.
        log10_age
            log10 of years; the nearest age there is.

        Returns
        -------
        (n,) float64
            Effective temperatures, K; NaN beyond the isochrones in either.
        """
        gravity, metal = (np.asarray(a, dtype=np.float64) for a in (log_g, feh))
        grid = np.unique([one.feh for one in self])
        ones = [self.select(log10_age=log10_age, feh=float(value)) for value in grid]
        teff = np.stack([_ridge_within(one, gravity) for one in ones])
        out = np.full(gravity.shape, np.nan)
        for i in range(len(grid) - 1):
            low, high = grid[i], grid[i + 1]
            between = (metal >= low) & (metal <= high)
            share = (metal - low) / (high - low)
            out[between] = ((1 - share) * teff[i] + share * teff[i + 1])[between]
        return out

    def select(self, *, log10_age: float, feh: float, alpha_fe: float | None = None) -> Isochrone:
        """Return the nearest isochrone: nearest in [Fe/H], among those in [α/Fe], then in age.

        Nothing is interpolated: `Isochrone.label` of the result says what it really is.

        Parameters
        ----------
        log10_age
            log10 of the age in years (6 Gyr is 9.778).
        feh
            [Fe/H], dex.
        alpha_fe
            [α/Fe], dex; left out, nearest to 0. Unknown ones count as 0.

        Warns
        -----
        BayesCannonWarning
            If the nearest is further than 0.13 dex in [Fe/H] or 0.1 dex in age.
        """
        wanted = alpha_fe or 0.0
        rest = _nearest(self.isochrones, lambda one: abs(one.feh - feh))
        rest = _nearest(rest, lambda one: abs((one.alpha_fe or 0.0) - wanted))
        best = _nearest(rest, lambda one: abs(one.log10_age - log10_age))[0]
        if abs(best.feh - feh) > _FAR_FEH or abs(best.log10_age - log10_age) > _FAR_AGE:
            warnings.warn(
                f"no isochrone near {10 ** (log10_age - 9):.3g} Gyr, [Fe/H] = {feh:.2f}; "
                f"the nearest is {best.label}.",
                BayesCannonWarning,
                stacklevel=2,
            )
        return best


def _ridge_within(one: Isochrone, log_g: FloatArray) -> FloatArray:
    """Teff along a giant branch, NaN beyond its ends."""
    branch = one.giant_branch()
    low, high = float(branch.log_g.min()), float(branch.log_g.max())
    out = np.full(log_g.shape, np.nan)
    inside = (log_g > low) & (log_g < high)
    if inside.any():
        out[inside] = one.ridge(log_g[inside])
    return out


def _nearest(
    isochrones: Sequence[Isochrone], distance: Callable[[Isochrone], float]
) -> list[Isochrone]:
    least = min(distance(one) for one in isochrones)
    return [one for one in isochrones if distance(one) <= least + 1e-9]


def packaged_isochrones() -> IsochroneSet:
    """Read the isochrones that come with the package: MIST 2.5 at 6.3 Gyr, [Fe/H] from −1 to 0.5.

    They run from the turn-off (EEP 454) to the end of core helium burning (EEP 706), with
    [α/Fe] = 0 and v/vcrit = 0.4. Show `IsochroneSet.source` in the figure.

    Raises
    ------
    FileFormatError
        If the package's own file is missing or damaged.
    """
    return _read_table(data_path("mist_giants.ecsv"), f"MIST 2.5 ({MIST_CITATION})")


def _read_table(path: Path, source: str) -> IsochroneSet:
    """Read the package's own form: an ECSV table, a row a point."""
    try:
        table = Table.read(path, format="ascii.ecsv")
        keys = zip(*(np.asarray(table[name], np.float64) for name in ("feh", "log10_age")),
                   strict=True)  # fmt: skip
        groups: dict[tuple[float, float], list[int]] = {}
        for row, key in enumerate(keys):
            groups.setdefault(key, []).append(row)
        isochrones = []
        for (feh, age), rows in groups.items():
            eep, mass, log_Teff, log_g, phase = (np.asarray(table[n])[rows] for n in _COLUMNS)
            log_L = np.asarray(table["log_L"])[rows] if "log_L" in table.colnames else None
            one = Isochrone(feh, 0.0, age, eep, mass, log_Teff, log_g, phase, source, log_L)
            isochrones.append(one)
    except Exception as error:  # astropy's readers raise of many kinds
        raise FileFormatError(
            f"{path.name} is damaged ({error!r}); install bayes_cannon again."
        ) from error
    if not isochrones:
        raise FileFormatError(f"{path.name} holds no isochrone; install bayes_cannon again.")
    return IsochroneSet(tuple(isochrones))


def read_mist(*paths: str | Path) -> IsochroneSet:
    """Read MIST isochrone files, version 1 or 2.

    Parameters
    ----------
    *paths
        ``.iso`` or ``.iso.cmd`` files with any number of ages, for example one for each [Fe/H];
        also packed as ``.gz`` or ``.zip``.

    Returns
    -------
    IsochroneSet
        All isochrones in the order of the files. Where a file has no column ``phase``, phases
        follow from the primary EEPs of low-mass stars.

    Raises
    ------
    FileFormatError
        If a file is missing, truncated or something else; with the number of the line.
    InvalidDataError
        Without a path.
    """
    isochrones = []
    for path in map(Path, paths):
        for block in read_mist_blocks(path):
            eep = block.columns["EEP"]
            by_eep = _PHASES[np.searchsorted(_PHASE_STARTS, eep, side="right")]
            try:
                one = Isochrone(
                    feh=block.feh,
                    alpha_fe=block.alpha_fe,
                    log10_age=block.log10_age,
                    eep=eep.astype(np.int64),
                    initial_mass=block.columns["initial_mass"],
                    log_Teff=block.columns["log_Teff"],
                    log_g=block.columns["log_g"],
                    phase=block.columns.get("phase", by_eep).astype(np.int64),
                    source=f"MIST {block.version} ({MIST_CITATION})",
                    log_L=block.columns.get("log_L"),
                    H=block.columns.get("2MASS_H"),
                )
            except InvalidDataError as error:
                raise FileFormatError(f"{path.name} is damaged: {error}") from error
            isochrones.append(one)
    return IsochroneSet(tuple(isochrones))
