"""Stellar labels of many stars, in physical units."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import Carded, Row, count_text, range_text
from bayes_cannon.base.columns import is_fill_value, names_of, numbers_of, one_or_more
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.label_kinds import label_kind, label_unit, two_digits
from bayes_cannon.spectra.spectra import index_of, name_some
from bayes_cannon.spectra.star_ids import DEFAULT_ID, check_id_name

__all__ = [
    "DEFAULT_LABELS",
    "Labels",
    "check_label_names",
]


_log = logging.getLogger(__name__)

_SHOWN = 4
"""Labels that a card shows with their ranges."""
DEFAULT_LABELS = ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE")
"""The five labels of the package: names of the allStar catalogue's columns."""

_RESERVED = frozenset({
    "star", "chain", "draw", "sample", "pixel", "term", "coef", "factor", "label", "label_name",
    "star_id", "apogee_id", "sdss_id", "path", "rhat_max", "ess_min", "divergences", "chi2_p",
    "label_flag", "label_cov", "chi2_red", "chi2_rank", "n_pixels",
})  # fmt: skip
_ENDINGS = ("_ERR", "_FORMAL_ERR", "_Q16", "_Q50", "_Q84", "_FLAG", "_ASPCAP", "_ASPCAP_ERR")


def check_label_names(names: Sequence[str]) -> None:
    """Refuse names of labels that results and tables use for something else.

    Parameters
    ----------
    names
        Of all labels.

    Raises
    ------
    LabelError
        On a reserved name (``star``, ``draw``, …), names equal but for capitals, and a name that
        is that of another label and ``_ERR`` or another ending of the catalogue's columns.
    """
    lower = [name.lower() for name in names]
    reserved = [name for name in names if name.lower() in _RESERVED]
    if reserved:
        raise LabelError(
            f"a label cannot be named {', '.join(reserved)}: results use that name; choose another."
        )
    if len(set(lower)) != len(lower) or not lower:
        raise LabelError(f"label names must be given once each, got {tuple(names)}.")
    columns = {f"{name}{ending}".lower() for name in names for ending in _ENDINGS}
    clashing = [name for name in names if name.lower() in columns]
    if clashing:
        raise LabelError(
            f"{', '.join(clashing)} cannot be labels beside the label of that beginning: the "
            "catalogue has columns of that name; give errors as errors, or choose another name."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Carded):
    """Labels of many stars.

    Attributes
    ----------
    names : tuple of str
        Names of the labels, those of the catalogue's columns.
    values : (n_stars, n_labels) float64
        In physical units (K, dex); NaN where a label is missing: masked values and fill values
        (see `bayes_cannon.base.columns`) become NaN.
    errors : (n_stars, n_labels) float64
        One standard deviation in the same units; NaN where unknown.
    star_id : (n_stars,) str
    units : tuple of str
        Unit of each label; worked out from the names where left out.
    id_name : str
        What the column of the stars' names is called in tables.

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
    id_name: str = DEFAULT_ID

    def __post_init__(self) -> None:
        try:
            names, star_id = one_or_more(self.names), names_of(self.star_id)
            values = numbers_of(self.values, "label values")
            errors = numbers_of(self.errors, "label errors")
        except InvalidDataError as error:
            raise LabelError(str(error)) from error
        if (unit := values.unit or errors.unit) is not None:
            raise LabelError(
                f"label values or errors have the unit {unit}; give plain numbers in the units of "
                "the labels (training_set_from_arrays converts units)."
            )
        shape = (star_id.size, len(names))
        table = values.values
        if len(names) == 1 and table.shape == star_id.shape:
            table = table[:, None]
        if table.shape != shape:
            raise LabelError(f"label values have shape {table.shape}, expected {shape}.")
        spreads = errors.values
        if len(names) == 1 and spreads.shape == star_id.shape:
            spreads = spreads[:, None]
        try:
            spreads = np.broadcast_to(spreads, shape).copy()
        except ValueError:
            raise LabelError(
                f"label errors have shape {spreads.shape}, expected {shape}."
            ) from None
        check_label_names(names)
        table, spreads = _without_fill_values(names, star_id, table, spreads)
        wrong = np.isinf(table).any(axis=1) | np.isinf(spreads).any(axis=1)
        wrong |= (spreads <= 0).any(axis=1)
        if wrong.any():
            raise LabelError(
                f"{wrong.sum()} of {count_text(wrong.size, 'star')} ({name_some(star_id[wrong])}) "
                "have infinite labels or errors that are not positive; use NaN for what is "
                "unknown."
            )
        object.__setattr__(self, "id_name", check_id_name(self.id_name))
        units = one_or_more(self.units) or tuple(label_unit(n) for n in names)
        if len(units) != len(names):
            raise LabelError(f"{count_text(len(names), 'label')} but {len(units)} units.")
        for key, value in (
            ("names", names), ("values", table), ("errors", spreads),
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

    def _facts(self) -> tuple[str, list[Row]]:
        shown = [(name, self._about(name)) for name in self.names[:_SHOWN]]
        others = ", ".join(self.names[_SHOWN:])
        return f"Labels of {count_text(self.n_stars, 'star')}", [*shown, ("others", others)]

    def _about(self, name: str) -> str:
        """Range of a label, its usual error, and how many stars lack it."""
        k = self.column(name)
        kind = label_kind(name, self.units[k])
        error = self.errors[np.isfinite(self.errors[:, k]), k]
        lacking = int(np.isnan(self.values[:, k]).sum())
        parts = [range_text(self.values[:, k], max(kind.digits - 1, 0), self.units[k])]
        parts += [f"error {two_digits(float(np.median(error)))}"] if error.size else []
        parts += [f"unknown in {count_text(lacking, 'star')}"] if lacking else []
        return ", ".join(filter(None, parts))

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Values of one label, shape (n_stars,)."""
        return self.values[:, self.column(name)]

    def error(self, name: str) -> NDArray[np.float64]:
        """Errors of one label, shape (n_stars,).

        Parameters
        ----------
        name
            Of the label.

        Raises
        ------
        LabelError
            If there is no such label.
        """
        return self.errors[:, self.column(name)]

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row a star: each label ``NAME``, and its error ``NAME_ERR``.

        Its index holds the stars' names and is called `id_name`; ``attrs["label_units"]`` has the
        unit of each label. `bayes_cannon.training_set_from_arrays` takes it back.

        Examples
        --------
        >>> labels = Labels(("TEFF",), [[4500.0], [4600.0]], 50.0, ["a", "b"])
        >>> labels.to_pandas().loc["b", "TEFF"].item()
        4600.0
        """
        columns = {}
        for k, name in enumerate(self.names):
            columns[name] = self.values[:, k]
            columns[f"{name}_ERR"] = self.errors[:, k]
        frame = pd.DataFrame(columns, index=pd.Index(self.star_id, name=self.id_name, dtype=object))
        frame.attrs["label_units"] = dict(zip(self.names, self.units, strict=True))
        return frame

    def column(self, name: str) -> int:
        """Position of a label among `names`.

        Parameters
        ----------
        name
            Of the label.

        Raises
        ------
        LabelError
            If there is no such label.
        """
        if name not in self.names:
            raise LabelError(f"unknown label {name!r}; there are {', '.join(self.names)}.")
        return self.names.index(name)

    def select(self, stars: ArrayLike) -> Labels:
        """Return the labels of some stars, by integer indices, a boolean mask, or ids.

        Parameters
        ----------
        stars
            Row numbers, a mask of shape (n_stars,), or names.

        Raises
        ------
        InvalidDataError
            If one of them is not there.
        """
        index = index_of(self.star_id, stars)
        return Labels(
            self.names, self.values[index], self.errors[index], self.star_id[index], self.units,
            self.id_name,
        )  # fmt: skip

    def only(self, names: Sequence[str]) -> Labels:
        """Return some of the labels, in the order asked for.

        Parameters
        ----------
        names
            Of the labels.

        Raises
        ------
        LabelError
            If one of them is not there.
        """
        wanted = one_or_more(names)
        columns = [self.column(n) for n in wanted]
        return Labels(
            wanted, self.values[:, columns], self.errors[:, columns], self.star_id,
            tuple(self.units[c] for c in columns), self.id_name,
        )  # fmt: skip


def _without_fill_values(
    names: Sequence[str],
    star_id: NDArray[np.str_],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and errors with NaN in place of fill values; how many there were is logged."""
    found = [
        np.stack([label_kind(name).is_fill(values[:, k]) for k, name in enumerate(names)], axis=1),
        is_fill_value(errors),
    ]
    for what, fill in zip(("values", "errors"), found, strict=True):
        stars = fill.any(axis=1)
        if stars.any():
            _log.warning(
                "%d label %s of %d stars (%s) are fill values (such as -9999) and taken as unknown",
                fill.sum(), what, stars.sum(), name_some(star_id[stars]),
            )  # fmt: skip
    return np.where(found[0], np.nan, values), np.where(found[1], np.nan, errors)
