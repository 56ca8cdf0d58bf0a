"""What the model error depends on: distance from the training labels, and terms of the bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_moments import label_moments, safe_inverse
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "ErrorTerms",
]

_STARS_PER_TERM = 4
"""Terms of the bias are used up to one per this many stars."""


@dataclass(frozen=True, eq=False)
class ErrorTerms:
    """Functions of the predicted labels of a star, fixed by the training stars.

    Attributes
    ----------
    center, scale : (n_labels,) float64
        Scaling of the labels.
    mean : (n_labels,) float64
        Mean of the standardised training labels.
    precision : (n_labels, n_labels) float64
        Inverse of their covariance.
    reach : float
        Largest Mahalanobis distance among the predictions the error was learnt from.
    degree : (n_features,) int64
        Of each feature: 1, then 2.
    feature_mean : (n_features,) float64
    feature_root : (n_features, n_features) float64
        Lower triangular; makes the features uncorrelated.
    log_typical : float
        Mean of log(1 + distance**2 / n_labels) / 2.
    """

    center: FloatArray
    scale: FloatArray
    mean: FloatArray
    precision: FloatArray
    reach: float
    degree: NDArray[np.int64]
    feature_mean: FloatArray
    feature_root: FloatArray
    log_typical: float

    @classmethod
    def learn(cls, basis: PolynomialBasis, training: Labels, predicted: FloatArray) -> ErrorTerms:
        """Fix the terms from training labels and predictions (n_stars, n_labels), physical units.

        With few stars the bias keeps its linear terms, or its constant alone.

        Parameters
        ----------
        basis
            Scaling of the labels.
        training
            Labels of the training stars.
        predicted
            Predictions for them, shape (n_stars, n_labels), physical units.
        """
        k, n = basis.n_labels, len(predicted)
        mean, cov = label_moments(basis.standardize(training.values))
        precision = safe_inverse(cov)
        quadratic = np.repeat([1, 2], [k, k * (k + 1) // 2])
        linear = quadratic[:k]
        degree = next((d for d in (quadratic, linear) if n >= _STARS_PER_TERM * d.size), linear[:0])
        first = cls(
            basis.center, basis.scale, mean, precision, np.inf, degree, np.zeros(degree.size),
            np.eye(degree.size), 0.0,
        )  # fmt: skip
        raw = first._monomials(basis.standardize(predicted))
        centred = raw - raw.mean(axis=0)
        root = np.linalg.cholesky(centred.T @ centred / n + 1e-9 * np.eye(degree.size))
        distance = first.distance(predicted)
        return cls(
            basis.center, basis.scale, mean, precision, float(distance.max()), degree,
            raw.mean(axis=0), root, float(np.mean(0.5 * np.log1p(distance**2 / k))),
        )  # fmt: skip

    def _monomials(self, ell: FloatArray) -> FloatArray:
        rows, columns = np.tril_indices(ell.shape[1])
        both = np.concatenate([ell, ell[:, rows] * ell[:, columns]], axis=1)
        return both[:, : self.degree.size]

    def distance(self, labels: FloatArray) -> FloatArray:
        """Mahalanobis distance (n,) of labels (n, n_labels) from the training labels' mean."""
        off = (labels - self.center) / self.scale - self.mean
        return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", off, self.precision, off)))

    def log_growth(self, labels: FloatArray) -> FloatArray:
        """Logarithm of the error's scale for growth = 1, shape (n,); 0 for a typical star.

        Parameters
        ----------
        labels
            Shape (n, n_labels), in their units.
        """
        k = labels.shape[1]
        return np.asarray(0.5 * np.log1p(self.distance(labels) ** 2 / k) - self.log_typical)

    def features(self, labels: FloatArray) -> FloatArray:
        """Features of the bias (n, n_features): those at the edge for labels beyond `reach`."""
        off = (labels - self.center) / self.scale - self.mean
        far = np.maximum(self.distance(labels) / self.reach, 1.0)
        centred = self._monomials(self.mean + off / far[:, None]) - self.feature_mean
        return np.asarray(np.linalg.solve(self.feature_root, centred.T).T)

    def to_dataset(self, names: tuple[str, ...]) -> xr.Dataset:
        """Everything as a dataset.

        Parameters
        ----------
        names
            Of the labels.
        """
        variables = {
            "center": ("label_name", self.center),
            "scale": ("label_name", self.scale),
            "mean": ("label_name", self.mean),
            "precision": (("label_name", "label_name_2"), self.precision),
            "degree_of_feature": ("feature", self.degree),
            "feature_mean": ("feature", self.feature_mean),
            "feature_root": (("feature", "feature_2"), self.feature_root),
            "reach": ((), self.reach),
            "log_typical": ((), self.log_typical),
        }
        coords = {"label_name": list(names), "label_name_2": list(names)}
        return schema_dataset(variables, coords)

    @classmethod
    def from_dataset(cls, data: xr.Dataset) -> ErrorTerms:
        """Inverse of `to_dataset`.

        Parameters
        ----------
        data
            What `to_dataset` returned.
        """
        arrays = {name: np.asarray(data[name].values) for name in map(str, data.data_vars)}
        return cls(
            arrays["center"], arrays["scale"], arrays["mean"], arrays["precision"],
            float(arrays["reach"]), arrays["degree_of_feature"].astype(np.int64),
            arrays["feature_mean"], arrays["feature_root"], float(arrays["log_typical"]),
        )  # fmt: skip
