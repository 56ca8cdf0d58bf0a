"""LABEL_FLAG: what was found about a star and its labels, as a bit mask."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import chi2

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.posterior import group_of, moments_of, posterior_names
from bayes_cannon.inference.reference import FitReference, reduced_chi2
from bayes_cannon.models.label_moments import label_moments, safe_inverse
from bayes_cannon.surveys.reductions import NOTE

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "ADVICE",
    "BAD",
    "MEANINGS",
    "RATE",
    "REMARKS",
    "GridEdge",
    "LabelFlag",
    "LabelReference",
    "add_flags",
    "add_notes",
    "describe_flag",
    "is_flagged",
    "severity",
]


_log = logging.getLogger(__name__)
_NEIGHBOUR = 3
_EDGE_SD = 2.0
_CHI2_P = 1e-3
_FACTORS_P = 1e-6
"""Limits of p-values where the model was not cross-validated."""
RATE = 0.01
"""Part of stars of the training stars' kind that get each of the bits judged by rank among them."""
_MOST = f"{100 * (1 - RATE):.0f} %"
_UNLIKE_P = 1e-4
_EDGES = 0.01
"""Quantile of the training labels, and one minus it, beyond which a label is near the edge."""
_FEW_PIXELS = 0.5
_FEW_STARS = 100
"""Complete training stars that give a 99.9 % quantile of their own, where others lack labels."""


class LabelFlag(IntFlag):
    """Bits of LABEL_FLAG; 0 is a star without remarks. Up to LAPLACE those of ``status``."""

    NO_PIXELS = 1
    FAILED = 2
    MODE_NOT_CONVERGED = 4
    NOT_GAUSSIAN = 8
    SEVERAL_MODES = 16
    SAMPLED_AGAIN = 32
    RHAT = 64
    LOW_ESS = 128
    DIVERGENCES = 256
    HIGH_KHAT = 512
    LAPLACE = 1024
    PRIOR_EDGE = 2048
    POOR_CHI2 = 4096
    OUTSIDE_LABELS = 8192
    SPARSE_LABELS = 16384
    FEW_PIXELS = 32768
    EXTREME_FACTORS = 65536
    UNLIKE_TRAINING = 131072
    GRIDEDGE = 262144
    BINARY_CANDIDATE = 524288
    OTHER_REDUCTION = 1048576


class GridEdge(IntFlag):
    """Bits of a label's own flag, ``TEFF_FLAG`` and so on, in ASPCAP's words."""

    GRIDEDGE_WARN = 1
    GRIDEDGE_BAD = 2


MEANINGS: Mapping[LabelFlag, str] = MappingProxyType(
    {
        LabelFlag.NO_PIXELS: "too few usable pixels: no posterior",
        LabelFlag.FAILED: "optimiser or sampler failed: no posterior",
        LabelFlag.MODE_NOT_CONVERGED: "the search for the mode did not end",
        LabelFlag.NOT_GAUSSIAN: "second derivatives at the mode are not positive definite",
        LabelFlag.SEVERAL_MODES: "another mode within 10 in log density",
        LabelFlag.SAMPLED_AGAIN: "the first run failed the checks (no fault if it stands alone)",
        LabelFlag.RHAT: "R-hat above its limit",
        LabelFlag.LOW_ESS: "effective sample size below its limit",
        LabelFlag.DIVERGENCES: "divergent transitions",
        LabelFlag.HIGH_KHAT: "Pareto k-hat above 0.7",
        LabelFlag.LAPLACE: "drawn from the Gaussian at the mode, not sampled",
        LabelFlag.PRIOR_EDGE: f"mean within {_EDGE_SD:g} standard deviations of a prior's bound",
        LabelFlag.POOR_CHI2: f"fitted worse than {_MOST} of left-out training stars; without "
        f"cross-validation, p-value of chi-square below {_CHI2_P:g}",
        LabelFlag.OUTSIDE_LABELS: "Mahalanobis distance beyond 99.9 % of the training stars'",
        LabelFlag.SPARSE_LABELS: f"distance to training star no. {_NEIGHBOUR} beyond 99.9 % of "
        "the training stars' own",
        LabelFlag.FEW_PIXELS: "fewer than half of the model's pixels are usable",
        LabelFlag.EXTREME_FACTORS: f"larger nuisance factors than {_MOST} of left-out training "
        f"stars; without cross-validation, probability below {_FACTORS_P:g}",
        LabelFlag.UNLIKE_TRAINING: "a spectrum beyond all left-out training stars: fit or factors "
        f"of probability below {_UNLIKE_P:g} among them",
        LabelFlag.GRIDEDGE: "a label beyond those of all training stars (see its own flag)",
        LabelFlag.BINARY_CANDIDATE: "two stars fit better than one (from a search for binaries)",
        LabelFlag.OTHER_REDUCTION: "the spectrum is of another version of the survey's pipeline "
        "than those of the training stars",
    }
)
"""What each bit means."""
ADVICE: Mapping[LabelFlag, str] = MappingProxyType(
    {
        LabelFlag.NO_PIXELS: "Look at the masks of the spectrum.",
        LabelFlag.FAILED: "Look at the spectrum; it has no labels.",
        LabelFlag.MODE_NOT_CONVERGED: "Do not use the labels; look at the spectrum.",
        LabelFlag.NOT_GAUSSIAN: "Look at the corner plot before the errors are used.",
        LabelFlag.SEVERAL_MODES: "Look at the corner plot: two solutions fit the spectrum.",
        LabelFlag.SAMPLED_AGAIN: "Nothing to do.",
        LabelFlag.RHAT: "Sample again with more draws (draws, tune).",
        LabelFlag.LOW_ESS: "Sample again with more draws (draws).",
        LabelFlag.DIVERGENCES: "Sample again with a higher target_accept.",
        LabelFlag.HIGH_KHAT: "Do not use the formal errors; train on more stars.",
        LabelFlag.LAPLACE: "Sample the star where the shape of its posterior matters.",
        LabelFlag.PRIOR_EDGE: "Widen the prior, if labels beyond it are possible.",
        LabelFlag.POOR_CHI2: "Look at the residuals; calibrated errors may be too small.",
        LabelFlag.OUTSIDE_LABELS: "The labels are extrapolated: use them as limits.",
        LabelFlag.SPARSE_LABELS: "Few training stars have such labels: trust the errors less.",
        LabelFlag.FEW_PIXELS: "Errors grow with the pixels lost; look at the masks.",
        LabelFlag.EXTREME_FACTORS: "Look for a blend, rotation or a bad continuum.",
        LabelFlag.UNLIKE_TRAINING: "Do not use the labels: no such star was tested.",
        LabelFlag.GRIDEDGE: "Do not use that label: it is extrapolated, and drawn inward.",
        LabelFlag.BINARY_CANDIDATE: "Use the labels of the first star in the table of binaries.",
        LabelFlag.OTHER_REDUCTION: "Compare stars that both versions have; offsets are not in the "
        "errors.",
    }
)
"""What to do about each bit, in one sentence."""
REMARKS = LabelFlag.LAPLACE | LabelFlag.SAMPLED_AGAIN
"""Bits that are no fault where they stand alone: how a star was done."""
BAD = (
    LabelFlag.NO_PIXELS
    | LabelFlag.FAILED
    | LabelFlag.MODE_NOT_CONVERGED
    | LabelFlag.RHAT
    | LabelFlag.HIGH_KHAT
    | LabelFlag.OUTSIDE_LABELS
    | LabelFlag.UNLIKE_TRAINING
)
"""Bits of stars whose labels should not be used; the other ones but `REMARKS` are warnings."""


def is_flagged(flag: ArrayLike) -> NDArray[np.bool_]:
    """Whether stars have a bit other than `REMARKS`: the one count of flagged stars.

    Parameters
    ----------
    flag
        LABEL_FLAG of the stars, of any shape.

    Examples
    --------
    >>> is_flagged([0, LabelFlag.LAPLACE, LabelFlag.PRIOR_EDGE]).tolist()
    [False, False, True]
    """
    return np.asarray(np.asarray(flag, dtype=np.int64) & ~int(REMARKS) != 0)


def severity(flag: int) -> str:
    """``'BAD'``, ``'WARN'`` or ``''``: the severity of a LABEL_FLAG, `flag`.

    >>> severity(0), severity(LabelFlag.LAPLACE), severity(LabelFlag.PRIOR_EDGE), severity(512)
    ('', '', 'WARN', 'BAD')
    """
    if int(flag) & int(BAD):
        return "BAD"
    return "WARN" if is_flagged(flag) else ""


def describe_flag(flag: int) -> list[str]:
    """Meanings of the bits that are set in `flag`, a text each.

    >>> describe_flag(2048 + 64)
    ['R-hat above its limit', "mean within 2 standard deviations of a prior's bound"]
    """
    return [text for bit, text in MEANINGS.items() if int(flag) & bit]


@dataclass(frozen=True, eq=False)
class LabelReference:
    """What stars are compared with: the training labels and the model's pixels.

    The labels' convex hull is empty of use in five dimensions; in its place the distance to the
    third-nearest training star in standardised labels is compared with what the training stars
    have among themselves.

    Attributes
    ----------
    names : tuple of str
    center, scale : (n_labels,) float64
        Scaling of the labels.
    ell : (n_training, n_labels) float64
        Standardised training labels, NaN where a star lacks one. With fewer than four stars that
        have them all the distance to neighbours is not judged: it is NaN.
    n_pixels : int
        Pixels the model uses.
    fit : FitReference or None
        How well left-out training stars are fitted; None where the model was not cross-validated:
        p-values of chi-square and factors are then judged by themselves.
    """

    names: tuple[str, ...]
    center: FloatArray
    scale: FloatArray
    ell: FloatArray
    n_pixels: int
    fit: FitReference | None = None

    @classmethod
    def from_cannon(cls, cannon: Cannon) -> LabelReference:
        """Take it from `cannon`, a trained model."""
        basis = cannon.basis
        ell = basis.standardize(cannon.training.values)
        found = cls(
            basis.names, basis.center, basis.scale, ell, int(np.sum(cannon.used)),
            FitReference.from_cannon(cannon),
        )  # fmt: skip
        if not found.judges_neighbours:
            _log.warning(
                "%d training stars have all of %s: whether labels lie where training stars are "
                "sparse (SPARSE_LABELS) is not judged; %d are needed.",
                len(found._complete), ", ".join(basis.names), _NEIGHBOUR + 1,
            )  # fmt: skip
        return found

    @cached_property
    def _complete(self) -> FloatArray:
        """Labels of the stars that have them all."""
        return np.asarray(self.ell[np.isfinite(self.ell).all(axis=1)])

    @property
    def judges_neighbours(self) -> bool:
        """Whether there are enough stars with all labels for distances to the nearest ones."""
        return len(self._complete) > _NEIGHBOUR

    @cached_property
    def _mean_precision(self) -> tuple[FloatArray, FloatArray]:
        mean, cov = label_moments(self.ell)
        return mean, safe_inverse(cov)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._complete)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """99.9 % quantiles of the training stars' own two distances.

        Where few stars have all labels the first is at least that of a normal distribution; NaN
        where a distance is not judged.
        """
        neighbour = np.nan
        if self.judges_neighbours:
            own = self._tree.query(self._complete, k=[_NEIGHBOUR + 1])[0]
            neighbour = float(np.quantile(own, 0.999))
        normal = float(np.sqrt(chi2.ppf(0.999, len(self.names))))
        if len(self._complete) == 0:
            return normal, neighbour
        mahalanobis = float(np.quantile(self._mahalanobis(self._complete), 0.999))
        if len(self._complete) < min(_FEW_STARS, len(self.ell)):
            mahalanobis = max(mahalanobis, normal)
        return mahalanobis, neighbour

    @cached_property
    def edges(self) -> FloatArray:
        """Lowest label, 1 % and 99 % quantiles and highest label of the training stars, (4, k)."""
        return np.nanquantile(self.ell, [0.0, _EDGES, 1 - _EDGES, 1.0], axis=0)

    def grid_edge(self, labels: FloatArray) -> NDArray[np.int32]:
        """`GridEdge` of labels (n, n_labels): beyond 1 and 99 %, or all, of the training stars."""
        ell = (labels - self.center) / self.scale
        lowest, low, high, highest = self.edges
        warn, bad = (ell < low) | (ell > high), (ell < lowest) | (ell > highest)
        flag = np.where(warn, np.int32(GridEdge.GRIDEDGE_WARN), np.int32(0))
        return np.asarray(np.where(bad, np.int32(GridEdge.GRIDEDGE_BAD), flag), dtype=np.int32)

    def _mahalanobis(self, ell: FloatArray) -> FloatArray:
        mean, precision = self._mean_precision
        return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", ell - mean, precision, ell - mean)))

    def distances(self, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mahalanobis and third-neighbour distances (n,) of labels (n, n_labels).

        NaN for NaN, and where neighbours are not judged.
        """
        ell = (labels - self.center) / self.scale
        known = np.isfinite(ell).all(axis=1)
        mahalanobis, neighbour = np.full((2, len(ell)), np.nan)
        if known.any():
            mahalanobis[known] = self._mahalanobis(ell[known])
            if self.judges_neighbours:
                neighbour[known] = self._tree.query(ell[known], k=[_NEIGHBOUR])[0][:, 0]
        return mahalanobis, neighbour


def add_flags(result: xr.DataTree, reference: LabelReference) -> xr.DataTree:
    """Add ``label_flag`` and the two distances to the group ``star_stats`` of a result.

    Parameters
    ----------
    result
        Groups ``posterior``, ``star_stats`` and ``constant_data`` of a block of stars.
    reference
        Of the model.

    Returns
    -------
    xarray.DataTree
        The same groups; the result passed in is left as it was.
    """
    stats = group_of(result, "star_stats")
    moments = moments_of(group_of(result, "posterior"), posterior_names(result))
    mahalanobis, neighbour = reference.distances(moments.mean)
    constant = group_of(result, "constant_data")
    lower, upper = constant["prior_lower"].values, constant["prior_upper"].values
    gap = np.minimum(moments.mean - lower, upper - moments.mean)
    p_chi2, p_factors, limits, ranked = _judged(stats, reference.fit)
    best = 1.0 if ranked else np.nan
    edge = reference.grid_edge(moments.mean)
    bits = {
        LabelFlag.GRIDEDGE: (edge == GridEdge.GRIDEDGE_BAD).any(axis=1),
        LabelFlag.PRIOR_EDGE: (gap < _EDGE_SD * moments.sd).any(axis=1),
        LabelFlag.POOR_CHI2: p_chi2 <= limits[0],
        LabelFlag.OUTSIDE_LABELS: mahalanobis > reference.limits[0],
        LabelFlag.SPARSE_LABELS: neighbour > reference.limits[1],
        LabelFlag.FEW_PIXELS: stats["used_pixels"].values < _FEW_PIXELS * reference.n_pixels,
        LabelFlag.EXTREME_FACTORS: p_factors <= limits[1],
        LabelFlag.UNLIKE_TRAINING: np.fmin(p_chi2, p_factors) <= limits[2],
    }
    flag = stats["status"].values.astype(np.int32)
    for bit, where in bits.items():
        flag = flag | np.where(where, np.int32(bit), np.int32(0))
    if "label_name" not in stats.coords:
        stats = stats.assign_coords(label_name=list(reference.names))
    stats = stats.assign(
        mahalanobis=("star", mahalanobis, {"long_name": "Mahalanobis distance, training labels"}),
        neighbour_distance=(
            "star", neighbour,
            {"long_name": "distance to the third-nearest training star, standardised labels"},
        ),
        label_flag=("star", flag, flag_attributes()),
        grid_edge=(
            ("star", "label_name"), edge, _edge_attributes()
        ),
        chi2_rank=("star", best - p_chi2, {"long_name": _RANK.format("chi-square")}),
        factors_rank=("star", best - p_factors, {"long_name": _RANK.format("factors")}),
    )  # fmt: skip
    groups = {str(n): node.to_dataset() for n, node in result.children.items()}
    return xr.DataTree.from_dict(groups | {"star_stats": stats})


def add_notes(
    result: xr.DataTree, notes: Mapping[str, NDArray[np.str_]], trained: Collection[str]
) -> xr.DataTree:
    """Add what is noted of the stars to ``star_stats``, and the flag OTHER_REDUCTION.

    Parameters
    ----------
    result
        Of a block of stars, with flags.
    notes
        Text by column, shape (n_stars,) each, see `NormalizedSpectra`.
    trained
        Reductions of the training set; empty where unknown, so that none is another.

    Returns
    -------
    xarray.DataTree
        The same groups, with a variable ``note_NAME`` for each column.
    """
    if not notes:
        return result
    stats = group_of(result, "star_stats")
    given = notes.get(NOTE)
    if given is not None and trained:
        other = (given != "") & ~np.isin(given, sorted(trained))
        flag = stats["label_flag"]
        bit = np.where(other, np.int32(LabelFlag.OTHER_REDUCTION), np.int32(0))
        stats["label_flag"] = ("star", flag.values | bit, flag.attrs)
    stats = stats.assign({f"note_{name}": ("star", text) for name, text in notes.items()})
    groups = {str(n): node.to_dataset() for n, node in result.children.items()}
    return xr.DataTree.from_dict(groups | {"star_stats": stats})


_RANK = "part of the left-out training stars with smaller {}; NaN without cross-validation"


def _judged(
    stats: xr.Dataset, fit: FitReference | None
) -> tuple[FloatArray, FloatArray, tuple[float, float, float], bool]:
    """Probabilities of chi-square and factors, the limits of the three bits, and whether by rank.

    Of a model that was not cross-validated its own p-values are judged, and no star is unlike.
    """
    n = stats.sizes["star"]
    if fit is None or "log_snr" not in stats:
        own = [
            stats[x].values if x in stats else np.full(n, np.nan) for x in ("chi2_p", "factors_p")
        ]
        return own[0], own[1], (_CHI2_P, _FACTORS_P, -1.0), False
    limit = max(RATE, 1 / (1 + fit.n_stars))
    return (
        fit.p_chi2(reduced_chi2(stats), stats["log_snr"].values),
        fit.p_factors(stats["factors_square"].values),
        (limit, limit, _UNLIKE_P),
        True,
    )


def _edge_attributes() -> dict[str, object]:
    return {
        "long_name": "label near or beyond the edge of the training labels",
        "flag_masks": np.array([int(bit) for bit in GridEdge], dtype=np.int32),
        "flag_meanings": " ".join(str(bit.name) for bit in GridEdge),
    }


def flag_attributes() -> dict[str, object]:
    """Attributes of the variable by the CF conventions."""
    return {
        "long_name": "what was found, see bayes_cannon.label_flags",
        "flag_masks": np.array([int(bit) for bit in LabelFlag], dtype=np.int32),
        "flag_meanings": " ".join(str(bit.name) for bit in LabelFlag),
    }
