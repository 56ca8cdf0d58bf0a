r"""Errors of the labels of a pair as sums of two known stars show them.

The standard deviations of the fast pass follow from the noise and the scatter of the model alone.
What is wrong with the model itself, and with the pair it settles on, shows in sums of two left-out
training stars, of which both stars' labels are known from the catalogue: label by label

    found - catalogue  ~  N(0, (a^2 s^2 + f^2) / u + c^2) ,      u ~ Gamma(nu / 2, nu / 2) ,

with s the standard deviation of the fast pass and c the catalogue's error, which is none of the
fit's. Scale a, floor f and nu are at their most probable values under
ln a ~ N(0, 0.7), ln(f / median s) ~ N(-1, 1.5) and nu - 2 ~ Gamma(2, 0.2). An error is half of the
central 68.3 % of that Student t.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import gamma, norm, t

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.binaries.fast_pass import FastPass
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "LabelErrors",
    "PairErrors",
    "learn_errors",
    "learn_pair_errors",
]

_LOG = logging.getLogger(__name__)

LEAST_PAIRS = 20
"""Sums of two stars of which errors are learnt."""
_NODES = 32
_SCALE, _FLOOR = (0.0, 0.7), (-1.0, 1.5)
_NU = (2.0, 5.0)
"""Mean and standard deviation of logarithms; shape and scale of nu - 2."""
_LARGEST_NU = 100.0
_ONE_SIGMA = float(norm.cdf(1.0))


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """What the errors of one star's labels are, from its formal ones.

    Attributes
    ----------
    scale, floor, nu : (n_labels,) float64
        a, f (in the labels' units) and degrees of freedom.
    """

    scale: FloatArray
    floor: FloatArray
    nu: FloatArray

    def of(self, formal: FloatArray) -> FloatArray:
        """Half of the central 68.3 % interval, shape (n_stars, n_labels).

        Parameters
        ----------
        formal
            Standard deviations of the fast pass, shape (n_stars, n_labels).
        """
        width = np.sqrt(self.scale**2 * formal**2 + self.floor**2)
        return np.asarray(t.ppf(_ONE_SIGMA, self.nu) * width)


@dataclass(frozen=True, eq=False)
class PairErrors:
    """Errors of both stars of a pair, and of the single star.

    Attributes
    ----------
    primary, secondary, single : LabelErrors
    """

    primary: LabelErrors
    secondary: LabelErrors
    single: LabelErrors


def learn_pair_errors(
    null: FastPass,
    single: NDArray[np.bool_],
    labels: Labels,
    injected: FastPass,
    pairs: Table,
) -> PairErrors:
    """Learn the errors of pairs from those that were found, and of single stars from the null.

    Parameters
    ----------
    null, single, labels
        Fast pass of training stars, which of them are single, and the catalogue's labels of all.
    injected, pairs
        Fast pass of the sums of two stars, and what they are of, with the column FOUND.
    """
    names, found = labels.names, np.asarray(pairs["FOUND"], dtype=bool)
    if found.sum() < LEAST_PAIRS:
        _LOG.warning(
            "%s of two stars passed the threshold, too few to learn the errors of pairs' labels "
            "from; those of all %d are taken. Ask for more pairs (n_pairs).",
            count_text(int(found.sum()), "sum"), found.size,
        )  # fmt: skip
        found = np.ones(found.size, dtype=bool)
    both = []
    for star, values, formal in (
        ("1", injected.primary, injected.primary_sd),
        ("2", injected.secondary, injected.secondary_sd),
    ):
        known, spread = (
            np.stack([np.asarray(pairs[f"{n}_{star}{end}"], np.float64) for n in names], axis=1)
            for end in ("", "_ERR")
        )
        both.append(learn_errors((values - known)[found], formal[found], spread[found], names))
    place = {star: i for i, star in enumerate(labels.star_id.tolist())}
    rows = np.array([place[star] for star in null.star_id.tolist()])
    off = (null.single - labels.values[rows])[single]
    alone = learn_errors(off, null.single_sd[single], labels.errors[rows][single], names)
    return PairErrors(both[0], both[1], alone)


def learn_errors(
    off: FloatArray, formal: FloatArray, catalogue: FloatArray, names: tuple[str, ...]
) -> LabelErrors:
    """Learn scale, floor and tails of each label's errors.

    Parameters
    ----------
    off
        Labels found less those of the catalogue, shape (n, n_labels); NaN: not known.
    formal, catalogue
        Standard deviations of the fast pass and of the catalogue, of the same shape; where the
        catalogue quotes none, 0.
    names
        Of the labels.

    Returns
    -------
    LabelErrors
        NaN, with a warning, for a label that fewer than twenty stars have.
    """
    found = np.array([
        _fit(name, off[:, k], formal[:, k], catalogue[:, k]) for k, name in enumerate(names)
    ])  # fmt: skip
    return LabelErrors(*found.T)


def _fit(
    name: str, off: FloatArray, formal: FloatArray, catalogue: FloatArray
) -> tuple[float, float, float]:
    """Scale, floor and nu of one label."""
    known = np.isfinite(off) & np.isfinite(formal) & (formal > 0)
    if known.sum() < LEAST_PAIRS:
        _LOG.warning(
            "%s: the catalogue has it for %s alone; %d are needed to learn its errors, "
            "which are NaN.", name, count_text(int(known.sum()), "star"), LEAST_PAIRS,
        )  # fmt: skip
        return np.nan, np.nan, np.nan
    unit = float(np.median(formal[known]))
    e2, s2 = (off[known] / unit) ** 2, (formal[known] / unit) ** 2
    c2 = (np.nan_to_num(catalogue[known]) / unit) ** 2
    place = (np.arange(_NODES) + 0.5) / _NODES

    def loss(x: FloatArray) -> float:
        nu = 2 + np.exp(x[2])
        u = gamma.ppf(place, 0.5 * nu) / (0.5 * nu)
        variance = (np.exp(2 * x[0]) * s2 + np.exp(2 * x[1]))[:, None] / u + c2[:, None]
        each = np.mean(np.exp(-0.5 * e2[:, None] / variance) / np.sqrt(variance), axis=1)
        prior = norm.logpdf(x[0], *_SCALE) + norm.logpdf(x[1], *_FLOOR)
        prior += gamma.logpdf(nu - 2, _NU[0], scale=_NU[1]) + x[2]
        return -float(np.sum(np.log(each + 1e-300)) + prior)

    best = minimize(
        loss, np.array([0.0, -1.0, np.log(8.0)]), method="L-BFGS-B",
        bounds=[(-3, 3), (-5, 5), (-3, np.log(_LARGEST_NU))],
    ).x  # fmt: skip
    return float(np.exp(best[0])), float(unit * np.exp(best[1])), float(2 + np.exp(best[2]))
