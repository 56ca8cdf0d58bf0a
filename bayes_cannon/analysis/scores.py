"""Where the labels of a reference lie in the posteriors of the same stars.

For a star with draws ``l_d`` and a reference value ``r`` of error ``e`` (0 for a true label), the
posterior says that the reference lies below its value with probability

    PIT = mean_d Phi((r - l_d) / e) ,

the probability integral transform: uniform on (0, 1) where the posterior is calibrated. The error
of the reference is included without drawing any noise.

All labels together are judged by the Mahalanobis distance of the reference from the posterior mean,

    JOINT = mean_d [ q(l_d + noise) < q(r) ] ,   q(x) = (x - m)' (S + diag e**2)^-1 (x - m) ,

the level of the smallest ellipsoid that holds it, uniform as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bayes_cannon.base.cards import Carded, Row, count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result
from bayes_cannon.inference.posterior import (
    group_of,
    holds_moments,
    moments_group,
    moments_of,
    posterior_names,
)
from bayes_cannon.inference.sampler import Stage, star_seed
from bayes_cannon.inference.summaries.described import described_draws
from bayes_cannon.inference.units import known_labels, units_of_result
from bayes_cannon.spectra.label_kinds import shown_label

__all__ = [
    "Scores",
    "judged_by_moments",
    "score",
]

_BLOCK = 256
"""Stars whose draws are in memory at one time."""
_FEW_DRAWS = 200
"""Draws of a star below which ranks among them are coarser than what their moments describe."""


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Carded):
    """What a reference says about posteriors; NaN where a star lacks the one or the other.

    Attributes
    ----------
    names : tuple of str
        Labels in both.
    star_id : (n_stars,) str
        Stars in both.
    pit : (n_stars, n_labels) float64
        Probability integral transform, in (0, 1).
    mean : (n_stars, n_labels) float64
        Posterior mean, in the labels' units.
    difference : (n_stars, n_labels) float64
        Posterior mean less reference.
    sd : (n_stars, n_labels) float64
        Standard deviation of the posterior.
    pull : (n_stars, n_labels) float64
        Difference in standard deviations, the error of the reference included.
    joint : (n_stars,) float64
        Level of the smallest ellipsoid of all labels that holds the reference, in (0, 1); NaN for
        a star that lacks a label.
    """

    names: tuple[str, ...]
    star_id: NDArray[np.str_]
    pit: FloatArray
    mean: FloatArray
    difference: FloatArray
    sd: FloatArray
    pull: FloatArray
    joint: FloatArray

    @property
    def normal(self) -> FloatArray:
        """Rank-normalised scores, (n_stars, n_labels): N(0, 1) where calibrated."""
        return np.asarray(ndtri(self.pit))

    def inside(self, level: float) -> FloatArray:
        """1 where the central interval of `level` holds the reference, 0 where not, or NaN.

        Parameters
        ----------
        level
            Nominal level, between 0 and 1.

        Returns
        -------
        (n_stars, n_labels) float64
        """
        held = (np.abs(self.pit - 0.5) < level / 2).astype(np.float64)
        return np.where(np.isnan(self.pit), np.nan, held)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame, a row a star: ``NAME_PIT``, ``NAME_PULL``, ``NAME_DIFFERENCE``."""
        parts = {"PIT": self.pit, "PULL": self.pull, "DIFFERENCE": self.difference}
        columns = {
            f"{name}_{part}": values[:, i]
            for i, name in enumerate(self.names)
            for part, values in parts.items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.star_id, name="STAR_ID", dtype=object))

    def _facts(self) -> tuple[str, list[Row]]:
        sd = np.nanstd(self.pull, axis=0, ddof=1) if len(self.pull) > 1 else self.pull[0]
        pulls = [f"{shown_label(n)} {v:.2f}" for n, v in zip(self.names, sd, strict=True)]
        title = f"Scores of {count_text(self.star_id.size, 'star')}"
        return title, [("labels", ", ".join(self.names)), ("sd of pulls", ", ".join(pulls))]


def score(
    result: GivenResult, reference: KnownLabels, *, group: str = "calibrated_posterior"
) -> Scores:
    """Compare posteriors with a reference, matched by star id.

    Where moments alone were kept, or few draws beside them, with the distributions that they
    describe: the Student t of calibrated posteriors, the normal one of formal ones. Means and
    standard deviations are always those of all draws.

    Parameters
    ----------
    result
        What `infer_labels` returned; read in blocks of stars.
    reference
        True labels, or a catalogue's; its errors are included where they are known.
    group
        ``posterior`` (formal) or ``calibrated_posterior``.

    Raises
    ------
    InvalidDataError
        If no star or no label is in both, or the result lacks the group.
    """
    result = as_result(result)
    units = units_of_result(result, posterior_names(result))
    reference = known_labels(reference, units, "reference")
    if reference is None:
        raise InvalidDataError("there is no reference to compare with.")
    names = tuple(n for n in units if n in reference.names)
    draws, moments = group_of(result, group), moments_group(result, group)
    if judged_by_moments(result, group):
        draws = moments
    star_id = draws["star"].values.astype(np.str_)
    place = {star: i for i, star in enumerate(reference.star_id.tolist())}
    both = [(i, place[s]) for i, s in enumerate(star_id.tolist()) if s in place]
    if not names or not both:
        raise InvalidDataError(
            f"the {count_text(star_id.size, 'star')} of the result and the {reference.n_stars} of "
            "the true labels share no star, or no label."
        )
    mine, theirs = np.array(both).T
    known = reference.only(names).select(theirs)
    parts = [
        _block(
            draws,
            moments,
            names,
            mine[rows],
            known.values[rows],
            np.nan_to_num(known.errors[rows]),
        )
        for rows in (slice(a, a + _BLOCK) for a in range(0, mine.size, _BLOCK))
    ]
    pit, mean, sd, pull, joint = (np.concatenate(c) for c in zip(*parts, strict=True))
    return Scores(names, star_id[mine], pit, mean, mean - known.values, sd, pull, joint)


def judged_by_moments(result: xr.DataTree, group: str) -> bool:
    """Whether stars are judged by what the moments of their posteriors describe, not by draws.

    Parameters
    ----------
    result
        What inference returned.
    group
        ``posterior`` or ``calibrated_posterior``.
    """
    draws, moments = group_of(result, group), moments_group(result, group)
    kept = 0 if holds_moments(draws) else draws.sizes["chain"] * draws.sizes["draw"]
    return holds_moments(moments) and kept < _FEW_DRAWS


def _block(
    draws: xr.Dataset,
    of_all: xr.Dataset,
    names: tuple[str, ...],
    stars: NDArray[np.intp],
    values: FloatArray,
    errors: FloatArray,
) -> tuple[FloatArray, ...]:
    """PIT, mean, standard deviation, pull, (n, n_labels) each, and joint level (n,) of stars."""
    part = draws.isel(star=stars)
    x = described_draws(part, names) if holds_moments(draws) else _draws(part, names)
    n = len(x)
    below = (np.sum(x < values, axis=0) + 0.5) / (n + 1)
    scale = np.where(errors > 0, errors, 1.0)
    smooth = np.mean(ndtr((values - x) / scale), axis=0)
    pit = np.where(errors > 0, np.clip(smooth, 0.5 / (n + 1), (n + 0.5) / (n + 1)), below)
    known = np.isfinite(x).all(axis=0) & np.isfinite(values)
    if holds_moments(of_all):
        moments = moments_of(of_all.isel(star=stars), names)
        mean, sd = moments.mean, moments.sd
    else:
        mean, sd = x.mean(axis=0), x.std(axis=0, ddof=1)
    pull = (mean - values) / np.hypot(sd, errors)
    joint = np.array([
        _joint(x[:, i], values[i], errors[i], str(star)) if known[i].all() else np.nan
        for i, star in enumerate(part["star"].values)
    ])  # fmt: skip
    return (*(np.where(known, a, np.nan) for a in (pit, mean, sd, pull)), joint)


def _draws(part: xr.Dataset, names: tuple[str, ...]) -> FloatArray:
    """Draws of stars, shape (n_draws, n_stars, n_labels)."""
    columns = [part[n].transpose("chain", "draw", "star").values for n in names]
    return np.stack([c.reshape(-1, c.shape[2]) for c in columns], axis=-1).astype(np.float64)


def _joint(x: FloatArray, values: FloatArray, errors: FloatArray, star: str) -> float:
    """Level of the smallest ellipsoid of draws (n_draws, n_labels) that holds the values."""
    rng = np.random.default_rng(star_seed(0, star, Stage.JOINT))
    off = x + errors * rng.standard_normal(x.shape) - x.mean(axis=0)
    cov = np.atleast_2d(np.cov(off, rowvar=False))
    here = values - x.mean(axis=0)
    try:
        whitened = np.linalg.solve(np.linalg.cholesky(cov), np.vstack([off, here]).T)
    except np.linalg.LinAlgError:  # draws that do not fill the space of the labels
        return float("nan")
    q = np.sum(whitened**2, axis=0)
    return float((np.sum(q[:-1] < q[-1]) + 0.5) / (len(x) + 1))
