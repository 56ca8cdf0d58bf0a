"""Stellar labels of many stars, in physical units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.errors import LabelError
from bayes_cannon.spectra import name_some

__all__ = ["DEFAULT_LABELS", "Labels", "label_tex", "label_unit", "two_digits"]

DEFAULT_LABELS = ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE")
"""The five labels of the package: names of the allStar catalogue's columns."""

_ELEMENT_CASE = {"FE": "Fe", "MG": "Mg", "SI": "Si", "NA": "Na", "AL": "Al", "CA": "Ca",
                 "TI": "Ti", "MN": "Mn", "NI": "Ni", "CR": "Cr", "CO": "Co", "CE": "Ce",
                 "CU": "Cu", "ND": "Nd", "YB": "Yb", "ALPHA": r"\alpha"}  # fmt: skip
_PLAIN = {
    "TEFF": (r"$T_\mathrm{eff}$", "K"),
    "LOGG": (r"$\log g$", "dex"),
    "VMICRO": (r"$v_\mathrm{micro}$", "km/s"),
    "VMACRO": (r"$v_\mathrm{macro}$", "km/s"),
    "VSINI": (r"$v\,\sin i$", "km/s"),
    "AK_TARG": (r"$A_K$", "mag"),
}


def label_unit(name: str) -> str:
    """Unit of a catalogue label: ``'K'``, ``'km/s'``, ``'mag'`` or ``'dex'``."""
    return _PLAIN.get(name.upper(), ("", "dex"))[1]


def two_digits(value: float) -> str:
    """An error as text: two digits, or all of those before the point.

    >>> two_digits(0.01234), two_digits(123.4)
    ('0.012', '123')
    """
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"


def label_tex(name: str) -> str:
    """Name of a label for figures, e.g. ``'[Mg/Fe]'``; without its unit.

    >>> label_tex("MG_FE"), label_tex("M_H")
    ('[Mg/Fe]', '[M/H]')
    """
    upper = name.upper()
    if upper in _PLAIN:
        return _PLAIN[upper][0]
    top, _, bottom = upper.partition("_")
    if not bottom or not top or "_" in bottom:
        return name
    text = f"[{_ELEMENT_CASE.get(top, top)}/{_ELEMENT_CASE.get(bottom, bottom)}]"
    return f"${text}$" if "\\" in text else text


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of many stars.

    Attributes
    ----------
    names : tuple of str
        Names of the labels, those of the catalogue's columns.
    values : (n_stars, n_labels) float64
        In physical units (K, dex); NaN where a label is missing.
    errors : (n_stars, n_labels) float64
        One standard deviation in the same units; NaN where unknown.
    star_id : (n_stars,) str
    units : tuple of str
        Unit of each label; worked out from the names where left out.

    Raises
    ------
    LabelError
        On shapes that do not match, repeated names, infinite values, errors that are not positive.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    star_id: NDArray[np.str_]
    units: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        names = tuple(str(n) for n in self.names)
        star_id = np.atleast_1d(np.asarray(self.star_id, dtype=np.str_))
        values = np.asarray(self.values, dtype=np.float64)
        shape = (star_id.size, len(names))
        if values.shape != shape:
            raise LabelError(f"label values have shape {values.shape}, expected {shape}.")
        errors = np.broadcast_to(np.asarray(self.errors, dtype=np.float64), shape).copy()
        if len(set(names)) != len(names) or not names:
            raise LabelError(f"label names must be given once each, got {names}.")
        wrong = (
            np.isinf(values).any(axis=1) | np.isinf(errors).any(axis=1) | (errors <= 0).any(axis=1)
        )
        if wrong.any():
            raise LabelError(
                f"{wrong.sum()} stars ({name_some(star_id[wrong])}) have infinite labels or errors "
                "that are not positive; use NaN for what is unknown."
            )
        units = tuple(self.units) or tuple(label_unit(n) for n in names)
        if len(units) != len(names):
            raise LabelError(f"{len(names)} labels but {len(units)} units.")
        for key, value in (
            ("names", names), ("values", values), ("errors", errors),
            ("star_id", star_id), ("units", units),
        ):  # fmt: skip
            object.__setattr__(self, key, value)

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return int(self.star_id.size)

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.names)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Stars with every label known, shape (n_stars,)."""
        return np.isfinite(self.values).all(axis=1)

    def __len__(self) -> int:
        return self.n_stars

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Values of one label, shape (n_stars,)."""
        return self.values[:, self.column(name)]

    def error(self, name: str) -> NDArray[np.float64]:
        """Errors of one label, shape (n_stars,)."""
        return self.errors[:, self.column(name)]

    def column(self, name: str) -> int:
        """Position of a label among `names`."""
        if name not in self.names:
            raise LabelError(f"unknown label {name!r}; there are {', '.join(self.names)}.")
        return self.names.index(name)

    def select(self, stars: ArrayLike) -> Labels:
        """Return the labels of some stars, by integer indices or by a boolean mask."""
        index = np.arange(self.n_stars)[np.asarray(stars)]
        return Labels(
            self.names, self.values[index], self.errors[index], self.star_id[index], self.units
        )

    def only(self, names: Sequence[str]) -> Labels:
        """Return some of the labels, in the order asked for."""
        columns = [self.column(n) for n in names]
        return Labels(
            tuple(names), self.values[:, columns], self.errors[:, columns], self.star_id,
            tuple(self.units[c] for c in columns),
        )  # fmt: skip
