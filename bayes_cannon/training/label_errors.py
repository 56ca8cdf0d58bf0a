r"""Training labels that are uncertain: regression calibration.

A catalogue label is the true one plus noise, and regressing flux on noisy labels attenuates the
coefficients. What a regression needs is the mean of the features given what was observed:

    E[flux | catalogue] = theta . E[v(l) | catalogue] ,

exactly, as long as the star's own spectrum has no part in the expectation. The posterior of the
true labels joins the population of the labels, deconvolved from the catalogue's errors, with the
catalogue's values (none where a label is missing). What remains uncertain, Var(v), widens the
star's pixels by theta' Var(v) theta. See Carroll et al. 2006, Measurement Error in Nonlinear
Models, chapter 4.

`combine_labels` can also take in labels from spectra. A posterior that has seen the star's
spectrum must not be used for regression calibration: it serves to report the true labels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.base.packing import pack_outer, packed_weights
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_moments import label_moments, safe_inverse
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.training.pixels.columns import pixel_blocks
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "LatentLabels",
    "SpectrumLabels",
    "calibrated_design",
    "check_label_errors",
    "combine_labels",
    "excess_covariance",
    "label_variance",
    "population_moments",
    "uncertain_design",
    "widened_ivar",
]

_log = logging.getLogger(__name__)
_MOST_ERROR = 10.0
"""Label errors beyond so many times the spread of the labels cannot be right."""


@dataclass(frozen=True, eq=False)
class LatentLabels:
    """Gaussian posterior of the true labels of every star, standardised.

    Attributes
    ----------
    mean : (n_stars, n_labels) float64
    cov : (n_stars, n_labels, n_labels) float64
    """

    mean: FloatArray
    cov: FloatArray


@dataclass(frozen=True, eq=False)
class SpectrumLabels:
    """Labels from spectra by models trained without the star, standardised.

    Attributes
    ----------
    mean : (n_stars, n_labels) float64
        NaN rows where there is no prediction.
    cov : (n_stars, n_labels, n_labels) float64
        Formal covariance plus model error.
    """

    mean: FloatArray
    cov: FloatArray


def nearest_positive(matrix: FloatArray, floor: float) -> FloatArray:
    """Symmetric matrix with eigenvalues no smaller than `floor`.

    Parameters
    ----------
    matrix
        Symmetric, shape (n, n).
    floor
        Smallest eigenvalue allowed.
    """
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return np.asarray((vectors * np.maximum(values, floor)) @ vectors.T)


def population_moments(labels: Labels, basis: PolynomialBasis) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of the true standardised labels: the catalogue's less its errors.

    Parameters
    ----------
    labels
        Of the training stars, with errors.
    basis
        Their scaling.

    Returns
    -------
    mean : (n_labels,)
    cov : (n_labels, n_labels)
    """
    ell = basis.standardize(labels.values)
    error = np.nan_to_num(labels.errors / basis.scale)
    mean, observed = label_moments(ell)
    noise = np.nanmean(np.where(np.isfinite(ell), error**2, np.nan), axis=0)
    # At least a hundredth of the observed variance is real in every direction.
    floor = max(0.01 * float(np.linalg.eigvalsh(observed)[0]), 1e-6)
    return mean, nearest_positive(observed - np.diag(noise), floor)


def check_label_errors(labels: Labels) -> None:
    """Compare the errors of the training labels with the spread of their values.

    The variance of the values is that of the true labels plus the mean squared error. A warning is
    logged where the errors make up more than half of it: then little of the label can be learnt.

    Parameters
    ----------
    labels
        Of the training stars, with errors.

    Raises
    ------
    LabelError
        If the errors of a label are more than ten times the spread of its values.
    """
    known = np.isfinite(labels.values) & np.isfinite(labels.errors)
    impossible, mostly = [], []
    for i, name in enumerate(labels.names):
        rows = known[:, i]
        if rows.sum() < labels.n_labels + 2:
            continue
        spread = float(labels.values[rows, i].std(ddof=1))
        error = float(np.sqrt(np.mean(labels.errors[rows, i] ** 2)))
        text = f"{name} (errors {error:.3g}, spread {spread:.3g} {labels.units[i]})"
        if error > _MOST_ERROR * spread:
            impossible.append(text)
        elif error**2 > 0.5 * spread**2:
            mostly.append(text)
    if impossible:
        raise LabelError(
            f"the errors of {', '.join(impossible)} are far larger than the values of the training "
            "stars differ: give errors in the unit of the label, leave them out, or leave the "
            "label out."
        )
    if mostly:
        _log.warning(
            "most of what the training stars differ in %s is error of the labels: little of it can "
            "be learnt, and its errors are not to be relied on.", ", ".join(mostly),
        )  # fmt: skip


def excess_covariance(difference: FloatArray, explained: FloatArray) -> FloatArray:
    """Covariance of predicted minus catalogue labels beyond what their errors explain.

    Parameters
    ----------
    difference : (n_stars, n_labels)
        Standardised; rows with NaN are left out.
    explained : (n_stars, n_labels, n_labels)
        Formal covariance plus squared catalogue errors.
    """
    rows = np.isfinite(difference).all(axis=1)
    d = difference[rows] - np.median(difference[rows], axis=0)
    reach = 5 * median_abs_deviation(d, axis=0, scale="normal") + 1e-12
    d = np.clip(d, -reach, reach)
    excess = d.T @ d / max(len(d) - 1, 1) - explained[rows].mean(axis=0)
    return nearest_positive(excess, 1e-8)


def combine_labels(
    labels: Labels,
    basis: PolynomialBasis,
    spectrum: SpectrumLabels | None = None,
) -> LatentLabels:
    """Posterior of the true labels from population, catalogue and, where given, spectra.

    A label without a value has no catalogue term; one without an error counts as exact to a
    thousandth of the spread of the labels.

    Parameters
    ----------
    labels
        Of the training stars, with errors.
    basis
        Their scaling.
    spectrum
        What the spectra say of stars that lack a label.
    """
    mean, cov = population_moments(labels, basis)
    ell = basis.standardize(labels.values)
    known = np.isfinite(ell)
    error = np.where(np.isfinite(labels.errors), labels.errors / basis.scale, 1e-3)
    prior = safe_inverse(cov)
    weight = np.where(known, 1 / np.maximum(error, 1e-3) ** 2, 0.0)
    precision = prior + weight[:, :, None] * np.eye(basis.n_labels)
    right = prior @ mean + weight * np.where(known, ell, 0.0)
    if spectrum is not None:
        rows = np.isfinite(spectrum.mean).all(axis=1)
        information = np.stack([safe_inverse(one) for one in spectrum.cov[rows]])
        precision[rows] += information
        right[rows] += np.einsum("nij,nj->ni", information, spectrum.mean[rows])
    posterior = np.linalg.inv(precision)
    return LatentLabels(np.einsum("nij,nj->ni", posterior, right), posterior)


def _cubature(n: int) -> tuple[FloatArray, FloatArray]:
    """Points and weights for N(0, I) in n dimensions, exact for polynomials of degree 5.

    McNamee and Stenger 1967, Numer. Math. 10, 327: the origin, 2 n axis points at sqrt(3)
    and 2 n (n - 1) points on the diagonals of the planes.
    """
    r = np.sqrt(3.0)
    points = [np.zeros(n)]
    weights = [1 + (n**2 - 7 * n) / 18]
    for i in range(n):
        for sign in (r, -r):
            points.append(sign * np.eye(n)[i])
            weights.append((4 - n) / 18)
    for i in range(n):
        for k in range(i):
            for a in (r, -r):
                for b in (r, -r):
                    points.append(a * np.eye(n)[i] + b * np.eye(n)[k])
                    weights.append(1 / 36)
    return np.array(points), np.array(weights)


def uncertain_design(latent: LatentLabels, basis: PolynomialBasis) -> Design:
    """E[v] and E[v v'] over each star's latent labels (exact for degree 1 and 2).

    Parameters
    ----------
    latent
        Posteriors of the stars' labels.
    basis
        Scaling and terms.
    """
    points, weights = _cubature(basis.n_labels)
    root = np.linalg.cholesky(latent.cov)
    mean = np.zeros((len(latent.mean), basis.n_terms))
    second = np.zeros((len(latent.mean), basis.n_terms * (basis.n_terms + 1) // 2))
    for point, weight in zip(points, weights, strict=True):
        v = basis.features(latent.mean + root @ point)
        mean += weight * v
        second += weight * pack_outer(v)
    return Design(mean, second)


def calibrated_design(latent: LatentLabels, basis: PolynomialBasis) -> tuple[Design, FloatArray]:
    """Design of regression calibration, and the packed Var(v) that it leaves out.

    Parameters
    ----------
    latent
        Posteriors of the stars' labels.
    basis
        Scaling and terms.

    Returns
    -------
    Design
        E[v] of every star, treated as known.
    variance : (n_stars, n_terms (n_terms + 1) / 2) float64
        Packed covariance of the features.
    """
    moments = uncertain_design(latent, basis)
    return Design.exact(moments.mean), moments.second - pack_outer(moments.mean)


def label_variance(variance: FloatArray, mean: FloatArray) -> NDArray[np.float32]:
    """Variance of each pixel of each star that comes from its uncertain labels.

    Parameters
    ----------
    variance : (n_stars, n_terms (n_terms + 1) / 2)
        From `calibrated_design`.
    mean : (n_pixels, n_terms)
        Coefficients of a first fit.

    Returns
    -------
    (n_stars, n_pixels) float32
    """
    weights = packed_weights(mean.shape[1])
    # In double precision: in single one the last digits depend on how many pixels are asked for.
    found = variance @ (pack_outer(mean) * weights).T
    return np.asarray(np.maximum(found, 0), dtype=np.float32)


class WidenedIvar:
    """Inverse variances with what comes from uncertain labels taken in, worked out when asked for.

    Parameters
    ----------
    ivar
        Of the spectra, shape (n_stars, n_pixels), or what reads them (`pixels.columns`).
    variance, mean
        See `label_variance`.
    """

    def __init__(self, ivar: Any, variance: FloatArray, mean: FloatArray) -> None:
        self._ivar, self._variance, self._mean = ivar, variance, mean
        self.shape, self.dtype = ivar.shape, ivar.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> NDArray[Any]:
        stars, pixels = key if isinstance(key, tuple) else (key, slice(None))
        ivar = np.asarray(self._ivar[key])
        extra = label_variance(self._variance[stars], self._mean[pixels])
        return np.asarray(ivar / (1 + ivar * extra))


def widened_ivar(ivar: Any, variance: FloatArray, mean: FloatArray) -> Any:
    """Inverse variance of the spectra with the part that comes from uncertain labels taken in.

    Of an array an array; of what is read from disk, what is worked out when it is read.

    Parameters
    ----------
    ivar, variance, mean
        See `WidenedIvar`.
    """
    whole = WidenedIvar(ivar, variance, mean)
    if not isinstance(ivar, np.ndarray):
        return whole
    found = np.empty_like(ivar)
    for block in pixel_blocks(*ivar.shape):
        found[:, block] = whole[:, block]
    return found
