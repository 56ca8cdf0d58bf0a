"""Rows of labels that a figure goes through: metallicities of one star, stars up a giant branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.analysis.isochrones import Isochrone, packaged_isochrones
from bayes_cannon.base.cards import Carded, Row, count_text, range_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.inference.flags import LabelReference
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.label_kinds import label_kind, label_number, label_tex, label_unit

__all__ = [
    "GIANT_BRANCH",
    "METALLICITIES",
    "LabelSequence",
    "isochrone_sequence",
    "metallicity_sequence",
    "ridge_sequence",
]

METALLICITIES = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)
"""[Fe/H] (dex) of the metallicity sequence."""
GIANT_BRANCH = (3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5)
"""log g (dex) of the sequence up the giant branch."""
_SIX_GYR = float(np.log10(6e9))
_RIDGE_TERMS = 6


@dataclass(frozen=True, eq=False, repr=False)
class LabelSequence(Carded):
    """Labels of some stars in order, and which of them the model was not trained for.

    Attributes
    ----------
    title : str
        What the sequence is, for figures.
    names : tuple of str
        Labels, in the model's order.
    varies : tuple of str
        Labels that change along it; the first gives the order.
    values : (n, n_labels) float64
        In physical units.
    outside : (n,) bool
        Farther from the training labels than 99.9 % of the training stars are from one another
        (see `LabelReference` of `bayes_cannon.inference.flags`), or beyond their smallest or
        largest value of a label that varies.
    source : str
        What to cite; empty where there is nothing.
    units : tuple of str
        Of the labels; worked out from their names where left out.

    Raises
    ------
    InvalidDataError
        On no star, shapes that do not match, or values that are not finite.
    """

    title: str
    names: tuple[str, ...]
    varies: tuple[str, ...]
    values: FloatArray
    outside: NDArray[np.bool_]
    source: str = ""
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        outside = np.array(self.outside, dtype=np.bool_)
        shape = (outside.size, len(self.names))
        if values.shape != shape or outside.ndim != 1 or outside.size == 0:
            raise InvalidDataError(f"values have shape {values.shape}, expected {shape}.")
        if not np.isfinite(values).all():
            raise InvalidDataError("the labels of a sequence must be finite.")
        units = tuple(self.units) or tuple(label_unit(n) for n in self.names)
        object.__setattr__(self, "units", units)
        for name, array in (("values", values), ("outside", outside)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return int(self.outside.size)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame, a row a star of the sequence: its labels, and ``OUTSIDE``."""
        columns = {name: self.values[:, k] for k, name in enumerate(self.names)}
        frame = pd.DataFrame(columns | {"OUTSIDE": self.outside})
        frame.attrs["label_units"] = dict(zip(self.names, self.units, strict=True))
        return frame

    def _facts(self) -> tuple[str, list[Row]]:
        rows = [
            (name, range_text(self.values[:, k], label_kind(name).digits, self.units[k]))
            for k, name in enumerate(self.names)
        ]
        outside = int(self.outside.sum())
        note = f"{outside} of {len(self)} outside the training labels" if outside else ""
        return self.title, [*rows, ("note", note), ("source", self.source)]

    def text(self, row: int) -> str:
        """Values of the labels that vary, e.g. ``'log g = 2.50, Teff = 4700 K'``.

        Parameters
        ----------
        row
            Which star of the sequence, from 0.
        """
        parts = []
        for name in self.varies:
            k = self.names.index(name)
            number = label_number(name, self.values[row, k], self.units[k], dex=False)
            parts.append(f"{label_tex(name)} = {number}")
        return ", ".join(parts)

    @property
    def rest(self) -> str:
        """Labels that stay the same, with their values; empty where all vary."""
        return ", ".join(
            f"{label_tex(name)} = {label_number(name, self.values[0, k], self.units[k])}"
            for k, name in enumerate(self.names)
            if name not in self.varies
        )


def metallicity_sequence(
    cannon: GivenModel, feh: ArrayLike = METALLICITIES, *, at: ArrayLike | None = None
) -> LabelSequence:
    """One star with different [Fe/H], all its other labels the same.

    Parameters
    ----------
    cannon
        A model with the label FE_H, its file, or a run.
    feh : (n,) float
        Dex.
    at : (n_labels,) float
        The other labels, in the model's order (that of FE_H is not used); left out, the median of
        the training stars.

    Raises
    ------
    LabelError
        If the model does not have FE_H.
    InvalidDataError
        On a wrong number of labels, or values that are not finite.
    """
    cannon = as_model(cannon)
    k = _column(cannon, "FE_H")
    steps = np.atleast_1d(np.asarray(feh, dtype=np.float64))
    values = np.tile(_start(cannon, at), (steps.size, 1))
    values[:, k] = steps
    return _sequence(cannon, "Model spectra for different [Fe/H]", ("FE_H",), values)


def isochrone_sequence(
    cannon: GivenModel,
    log_g: ArrayLike = GIANT_BRANCH,
    *,
    isochrone: Isochrone | None = None,
    at: ArrayLike | None = None,
) -> LabelSequence:
    """Stars up the giant branch of an isochrone.

    Parameters
    ----------
    cannon
        A model with the labels TEFF and LOGG, its file, or a run.
    log_g : (n,) float
        Dex, inside the isochrone's giant branch.
    isochrone
        Left out, the packaged one nearest to 6 Gyr and to [Fe/H] = 0.
    at : (n_labels,) float
        The other labels, in the model's order; left out, the median of the training stars. [Fe/H]
        is the isochrone's.

    Raises
    ------
    LabelError
        If the model does not have TEFF and LOGG.
    InvalidDataError
        If a gravity is outside the giant branch, or `at` has another number of labels.
    """
    cannon = as_model(cannon)
    one = isochrone or packaged_isochrones().select(log10_age=_SIX_GYR, feh=0.0)
    steps = np.atleast_1d(np.asarray(log_g, dtype=np.float64))
    values = np.tile(_start(cannon, at), (steps.size, 1))
    values[:, _column(cannon, "LOGG")] = steps
    values[:, _column(cannon, "TEFF")] = one.ridge(steps)
    name, what = one.source.partition(" (")[0], one.label
    if "FE_H" in cannon.names:
        values[:, cannon.names.index("FE_H")] = one.feh
        what = f"{one.age_gyr:.3g} Gyr"
    title = f"Model spectra up the giant branch of {name}, {what}"
    return _sequence(cannon, title, ("LOGG", "TEFF"), values, one.source)


def ridge_sequence(
    cannon: GivenModel, log_g: ArrayLike = GIANT_BRANCH, *, at: ArrayLike | None = None
) -> LabelSequence:
    """Stars up the ridge line of the training labels: their mean Teff at a log g and [Fe/H].

    Teff is a quadratic in log g and [Fe/H] (in log g alone where the model lacks [Fe/H]), fitted
    to the training stars by least squares twice, the second time without those that are more than
    three times the robust scatter away.

    Parameters
    ----------
    cannon
        A model with the labels TEFF and LOGG, its file, or a run.
    log_g : (n,) float
        Dex.
    at : (n_labels,) float
        The other labels, in the model's order; left out, the median of the training stars.

    Raises
    ------
    LabelError
        If the model does not have TEFF and LOGG.
    InvalidDataError
        If there are too few training stars, or `at` has another number of labels.
    """
    cannon = as_model(cannon)
    steps = np.atleast_1d(np.asarray(log_g, dtype=np.float64))
    values = np.tile(_start(cannon, at), (steps.size, 1))
    values[:, _column(cannon, "LOGG")] = steps
    used = [k for k, name in enumerate(cannon.names) if name in ("TEFF", "LOGG", "FE_H")]
    known = cannon.training.values
    known = known[np.isfinite(known[:, used]).all(axis=1)]
    if len(known) < 2 * _RIDGE_TERMS:
        raise InvalidDataError(
            f"{count_text(len(known), 'training star')} with "
            f"{', '.join(cannon.names[k] for k in used)} are too few for a ridge line; "
            f"{2 * _RIDGE_TERMS} are needed."
        )
    terms, teff = _ridge_terms(cannon, known), known[:, _column(cannon, "TEFF")]
    coef = np.linalg.lstsq(terms, teff, rcond=None)[0]
    off = teff - terms @ coef
    near = np.abs(off - np.median(off)) <= 3 * median_abs_deviation(off, scale="normal")
    if near.sum() >= 2 * terms.shape[1]:
        coef = np.linalg.lstsq(terms[near], teff[near], rcond=None)[0]
    values[:, _column(cannon, "TEFF")] = _ridge_terms(cannon, values) @ coef
    title = "Model spectra up the ridge line of the training stars"
    return _sequence(cannon, title, ("LOGG", "TEFF"), values)


def _ridge_terms(cannon: Cannon, labels: FloatArray) -> FloatArray:
    """Monomials to degree 2 in standardised log g and, where the model has it, [Fe/H]."""
    ell = cannon.basis.standardize(labels)
    g = ell[:, _column(cannon, "LOGG")]
    columns = [np.ones_like(g), g, g**2]
    if "FE_H" in cannon.names:
        m = ell[:, cannon.names.index("FE_H")]
        columns += [m, m**2, g * m]
    return np.stack(columns, axis=1)


def _column(cannon: Cannon, name: str) -> int:
    if name not in cannon.names:
        raise LabelError(
            f"the sequence needs the label {name}; the model has {', '.join(cannon.names)}."
        )
    k = cannon.names.index(name)
    if name == "TEFF" and cannon.basis.units[k] != "K":
        unit = cannon.basis.units[k] or "no unit"
        raise LabelError(f"the sequence needs TEFF in K; the model has it in {unit}.")
    return k


def _start(cannon: Cannon, at: ArrayLike | None) -> FloatArray:
    if at is None:
        return np.asarray(np.nanmedian(cannon.training.values, axis=0))
    values = np.asarray(at, dtype=np.float64)
    if values.shape != (len(cannon.names),):
        raise InvalidDataError(
            f"labels have shape {values.shape}; give one value for each of "
            f"{', '.join(cannon.names)}."
        )
    return values


def _sequence(
    cannon: Cannon, title: str, varies: Sequence[str], values: FloatArray, source: str = ""
) -> LabelSequence:
    """Put a sequence together and find out what is outside."""
    if not np.isfinite(values).all():
        raise InvalidDataError("the labels of a sequence must be finite.")
    reference = LabelReference.from_cannon(cannon)
    outside = np.zeros(len(values), dtype=np.bool_)
    for distance, limit in zip(reference.distances(values), reference.limits, strict=True):
        outside |= distance > limit
    low, high = cannon.label_range
    for name in varies:
        k = cannon.names.index(name)
        outside |= (values[:, k] < low[k]) | (values[:, k] > high[k])
    return LabelSequence(
        title, cannon.names, tuple(varies), values, outside, source, cannon.basis.units
    )
