"""The polynomial in the labels that predicts the flux of a pixel.

`PolynomialBasis` is the only place that knows how labels are scaled. Labels l in physical units
become ``ell = (l - center) / scale``, and ``v(ell)`` holds every monomial up to `degree`
(21 for five labels and degree 2, as in Ness et al. 2015, ApJ 808, 16, equation 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import LabelError
from bayes_cannon.spectra.labels import Labels, check_label_names

__all__ = [
    "PolynomialBasis",
]


@dataclass(frozen=True, eq=False)
class PolynomialBasis:
    """Scaling of the labels and the monomials built from them.

    Attributes
    ----------
    names, units : tuple of str
        The labels.
    center, scale : (n_labels,) float64
        In the labels' units; the training set's mean and standard deviation.
    degree : int
        Highest total degree, 1 to 3.

    Raises
    ------
    LabelError
        If the degree is not 1 to 3, or a scale is not positive and finite.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    center: FloatArray
    scale: FloatArray
    degree: int = 2

    def __post_init__(self) -> None:
        center = np.asarray(self.center, dtype=np.float64)
        scale = np.asarray(self.scale, dtype=np.float64)
        if self.degree not in (1, 2, 3):
            raise LabelError(f"the degree of the polynomial must be 1, 2 or 3, not {self.degree}.")
        if not len(self.names) == len(self.units) == center.size == scale.size > 0:
            raise LabelError("names, units, center and scale must have one entry per label.")
        bad = ~(np.isfinite(scale) & (scale > 0) & np.isfinite(center))
        if bad.any():
            names = ", ".join(n for n, b in zip(self.names, bad, strict=True) if b)
            raise LabelError(
                f"cannot scale {names}: the label is the same for all training stars, or unknown; "
                "leave it out or add stars."
            )
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "scale", scale)

    @classmethod
    def from_labels(cls, labels: Labels, degree: int = 2) -> PolynomialBasis:
        """Take center and scale from the mean and standard deviation of `labels` (NaN left out).

        Parameters
        ----------
        labels
            Of the training stars, physical units; NaN where unknown.
        degree
            Of the polynomial, from 1.

        Raises
        ------
        LabelError
            If a label has no spread, or no value.
        """
        check_label_names(labels.names)
        known = np.isfinite(labels.values).sum(axis=0)
        if (known < 2).any():
            names = ", ".join(n for n, k in zip(labels.names, known, strict=True) if k < 2)
            raise LabelError(f"fewer than two stars have a value of {names}; it cannot be trained.")
        center = np.nanmean(labels.values, axis=0)
        spread = np.nanstd(labels.values, axis=0)
        # Against the values, not against 1: a label may be of the order of 1e-9.
        size = np.nanmax(np.abs(labels.values), axis=0)
        scale = np.where(spread > 1e-9 * size, spread, 0.0)
        return cls(labels.names, labels.units, center, scale, degree)

    @cached_property
    def terms(self) -> tuple[tuple[int, ...], ...]:
        """Labels multiplied in each term: ``()`` for the constant, ``(0, 2)`` for ell_0 ell_2."""
        numbers = range(len(self.names))
        return tuple(
            t for d in range(self.degree + 1) for t in combinations_with_replacement(numbers, d)
        )

    @cached_property
    def recurrence(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each term as an earlier term times one label: arrays (parent, label) of length n_terms.

        The constant term has parent and label 0 and is not to be used.
        """
        place = {t: i for i, t in enumerate(self.terms)}
        parent = [0] + [place[t[:-1]] for t in self.terms[1:]]
        label = [0] + [t[-1] for t in self.terms[1:]]
        return np.array(parent, dtype=np.int64), np.array(label, dtype=np.int64)

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.names)

    @property
    def n_terms(self) -> int:
        """Number of monomials, the constant included."""
        return len(self.terms)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names such as ``'1'``, ``'TEFF'``, ``'TEFF*LOGG'``."""
        return tuple("*".join(self.names[k] for k in t) or "1" for t in self.terms)

    def standardize(self, values: ArrayLike) -> FloatArray:
        """Physical label values (..., n_labels) to ell, free of units.

        Parameters
        ----------
        values
            In physical units, shape (..., n_labels).

        Returns
        -------
        (..., n_labels) float64
            (values - center) / scale.
        """
        return (np.asarray(values, dtype=np.float64) - self.center) / self.scale

    def unstandardize(self, ell: ArrayLike) -> FloatArray:
        """Inverse of `standardize`.

        Parameters
        ----------
        ell
            Standardised labels, shape (..., n_labels).

        Returns
        -------
        (..., n_labels) float64
            In physical units.
        """
        return self.center + self.scale * np.asarray(ell, dtype=np.float64)

    def __call__(self, values: ArrayLike) -> FloatArray:
        """Features (..., n_terms) of physical label values (..., n_labels)."""
        return self.features(self.standardize(values))

    def features(self, ell: ArrayLike) -> FloatArray:
        """Features v(ell), shape (..., n_terms), of standardised labels (..., n_labels)."""
        ell = np.asarray(ell, dtype=np.float64)
        parent, label = self.recurrence
        v = np.ones((*ell.shape[:-1], self.n_terms))
        for t in range(1, self.n_terms):
            v[..., t] = v[..., parent[t]] * ell[..., label[t]]
        return v

    def jacobian(self, ell: ArrayLike) -> FloatArray:
        """Derivatives dv/dell, shape (..., n_terms, n_labels).

        Parameters
        ----------
        ell
            Standardised labels, shape (..., n_labels).
        """
        ell = np.asarray(ell, dtype=np.float64)
        v = self.features(ell)
        parent, label = self.recurrence
        dv = np.zeros((*v.shape, self.n_labels))
        for t in range(1, self.n_terms):
            dv[..., t, :] = dv[..., parent[t], :] * ell[..., label[t], None]
            dv[..., t, label[t]] += v[..., parent[t]]
        return dv

    def hessian(self, ell: ArrayLike) -> FloatArray:
        """Second derivatives of v, shape (..., n_terms, n_labels, n_labels).

        Parameters
        ----------
        ell
            Standardised labels, shape (..., n_labels).
        """
        ell = np.asarray(ell, dtype=np.float64)
        dv = self.jacobian(ell)
        parent, label = self.recurrence
        d2v = np.zeros((*dv.shape, self.n_labels))
        for t in range(1, self.n_terms):
            p, k = parent[t], label[t]
            d2v[..., t, :, :] = d2v[..., p, :, :] * ell[..., k, None, None]
            d2v[..., t, k, :] += dv[..., p, :]
            d2v[..., t, :, k] += dv[..., p, :]
        return d2v

    def symbolic(self, ell: Any) -> Any:
        """Features of a PyTensor vector (n_labels,) or matrix (n_stars, n_labels).

        Built from products, never powers: the gradient of ``ell**0`` at 0 is NaN.

        Parameters
        ----------
        ell
            Standardised labels.

        Returns
        -------
        TensorVariable
            Shape (n_terms,) or (n_stars, n_terms).
        """
        import pytensor.tensor as pt

        parent, label = self.recurrence
        columns = [pt.ones_like(ell[..., 0])]
        for t in range(1, self.n_terms):
            factor = ell[..., int(label[t])]
            columns.append(factor if parent[t] == 0 else columns[int(parent[t])] * factor)
        return pt.stack(columns, axis=-1)

    def only(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Return the terms that contain any of the named labels.

        Parameters
        ----------
        names
            Labels of the basis.

        Returns
        -------
        (n,) int
            Numbers of the terms.
        """
        wanted = {self.names.index(n) for n in names}
        return np.array([i for i, t in enumerate(self.terms) if wanted & set(t)], dtype=np.intp)
