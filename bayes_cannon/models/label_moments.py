"""Mean and covariance of labels of which some may be missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import LabelError

__all__ = [
    "label_moments",
    "require_independent",
    "safe_inverse",
]

_ROUNDS = 500
_PSEUDO_STARS = 2.0
"""Stars without correlations that the labels' prior is worth, where some labels are missing."""
_SMALLEST = 1e-9
"""Eigenvalues of correlations count as no smaller than this when they are inverted."""
_DEPENDENT = 1e-6
"""Smallest eigenvalue of the correlations below which labels follow from one another."""


def label_moments(ell: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance over stars of labels, NaN where a star lacks one.

    Of complete stars these are the plain moments. Where labels are missing the normal distribution
    of all stars is fitted by EM (Little & Rubin 2002, Statistical Analysis with Missing Data,
    chapter 11), with a weak prior without correlations: labels that no star has together are taken
    as uncorrelated, as far as the others do not tell.

    Parameters
    ----------
    ell : (n_stars, n_labels)
        At least two stars must have each label.

    Returns
    -------
    mean : (n_labels,)
    cov : (n_labels, n_labels)
    """
    known = np.isfinite(ell)
    ell, known = ell[known.any(axis=1)], known[known.any(axis=1)]
    n = len(ell)
    if known.all():
        return ell.mean(axis=0), np.atleast_2d(np.cov(ell, rowvar=False))
    alone = np.diag(np.nanvar(ell, axis=0, ddof=1))
    mean, cov = np.nanmean(ell, axis=0), alone
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    which = which.reshape(-1)
    for _ in range(_ROUNDS):
        filled, rest = np.where(known, ell, 0.0), np.zeros_like(cov)
        for number, seen in enumerate(patterns):
            rows = np.flatnonzero(which == number)
            if seen.all():
                continue
            slope = cov[np.ix_(~seen, seen)] @ safe_inverse(cov[np.ix_(seen, seen)])
            filled[np.ix_(rows, ~seen)] = mean[~seen] + (ell[rows][:, seen] - mean[seen]) @ slope.T
            left = cov[np.ix_(~seen, ~seen)] - slope @ cov[np.ix_(seen, ~seen)]
            rest[np.ix_(~seen, ~seen)] += rows.size * left
        new_mean = filled.mean(axis=0)
        off = filled - new_mean
        new = (off.T @ off + rest + _PSEUDO_STARS * alone) / (n - 1 + _PSEUDO_STARS)
        unit = np.sqrt(np.diag(alone))
        moved = max(
            np.abs((new - cov) / np.outer(unit, unit)).max(), np.abs((new_mean - mean) / unit).max()
        )
        mean, cov = new_mean, 0.5 * (new + new.T)
        if moved < 1e-7:
            break
    return mean, cov


def safe_inverse(cov: FloatArray) -> FloatArray:
    """Inverse of a covariance whose correlations may be singular, by their eigenvalues.

    Parameters
    ----------
    cov
        Symmetric, with a positive diagonal, shape (n, n).

    Returns
    -------
    (n, n) float64
        Symmetric and positive definite.
    """
    scale = np.sqrt(np.maximum(np.diag(cov), 1e-300))
    values, vectors = np.linalg.eigh(cov / np.outer(scale, scale))
    inverse = (vectors / np.maximum(values, _SMALLEST)) @ vectors.T
    return np.asarray(0.5 * (inverse + inverse.T) / np.outer(scale, scale))


def require_independent(names: Sequence[str], ell: FloatArray) -> None:
    """Refuse labels of which one follows from the others, as [Mg/H] from [Fe/H] and [Mg/Fe].

    Parameters
    ----------
    names
        Of the labels.
    ell : (n_stars, n_labels)
        Standardised labels, NaN where missing.

    Raises
    ------
    LabelError
        If a combination of the labels has a spread of less than a thousandth of theirs.
    """
    complete = np.isfinite(ell).all(axis=1)
    if len(names) < 2 or complete.sum() < len(names) + 2:
        return  # too few stars to tell
    cov = np.cov(ell[complete], rowvar=False)
    scale = np.sqrt(np.diag(cov))
    if not np.all(scale > 0):  # the same in all stars that have all labels, but not in the others
        return
    values, vectors = np.linalg.eigh(cov / np.outer(scale, scale))
    if values[0] > _DEPENDENT:
        return
    part = np.abs(vectors[:, 0])
    tied = [name for name, size in zip(names, part, strict=True) if size > 0.1 * part.max()]
    stars = count_text(complete.sum(), "training star")
    raise LabelError(
        f"{', '.join(tied[:-1])} and {tied[-1]} follow from one another in the {stars} "
        "with all labels, so that spectra cannot tell them apart; leave "
        f"{tied[-1] if len(tied) == 2 else 'one of them'} out."
    )
