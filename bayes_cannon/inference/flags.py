"""LABEL_FLAG: what was found about a star and its labels, as a bit mask."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree
from scipy.stats import chi2

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.posterior import group_of, moments_of, posterior_names
from bayes_cannon.models.label_moments import label_moments, safe_inverse

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "MEANINGS",
    "REMARKS",
    "LabelFlag",
    "LabelReference",
    "add_flags",
    "describe_flag",
]


_log = logging.getLogger(__name__)
_NEIGHBOUR = 3
_EDGE_SD = 2.0
_CHI2_P = 1e-3
_FACTORS_P = 1e-6
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
        LabelFlag.POOR_CHI2: f"posterior-predictive p-value of chi-square below {_CHI2_P:g}",
        LabelFlag.OUTSIDE_LABELS: "Mahalanobis distance beyond 99.9 % of the training stars'",
        LabelFlag.SPARSE_LABELS: f"distance to training star no. {_NEIGHBOUR} beyond 99.9 % of "
        "the training stars' own",
        LabelFlag.FEW_PIXELS: "fewer than half of the model's pixels are usable",
        LabelFlag.EXTREME_FACTORS: f"nuisance factors of probability below {_FACTORS_P:g}",
    }
)
"""What each bit means."""
REMARKS = LabelFlag.LAPLACE | LabelFlag.SAMPLED_AGAIN
"""Bits that are no fault where they stand alone: how a star was done."""


def describe_flag(flag: int) -> list[str]:
    """Meanings of the bits that are set.

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
    """

    names: tuple[str, ...]
    center: FloatArray
    scale: FloatArray
    ell: FloatArray
    n_pixels: int

    @classmethod
    def from_cannon(cls, cannon: Cannon) -> LabelReference:
        """Take it from a trained model."""
        basis = cannon.basis
        ell = basis.standardize(cannon.training.values)
        found = cls(basis.names, basis.center, basis.scale, ell, int(np.sum(cannon.used)))
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
    factors_p = stats["factors_p"].values if "factors_p" in stats else np.nan
    bits = {
        LabelFlag.PRIOR_EDGE: (gap < _EDGE_SD * moments.sd).any(axis=1),
        LabelFlag.POOR_CHI2: stats["chi2_p"].values < _CHI2_P,
        LabelFlag.OUTSIDE_LABELS: mahalanobis > reference.limits[0],
        LabelFlag.SPARSE_LABELS: neighbour > reference.limits[1],
        LabelFlag.FEW_PIXELS: stats["used_pixels"].values < _FEW_PIXELS * reference.n_pixels,
        LabelFlag.EXTREME_FACTORS: np.asarray(factors_p) < _FACTORS_P,
    }
    flag = stats["status"].values.astype(np.int32)
    for bit, where in bits.items():
        flag = flag | np.where(where, np.int32(bit), np.int32(0))
    stats = stats.assign(
        mahalanobis=("star", mahalanobis, {"long_name": "Mahalanobis distance, training labels"}),
        neighbour_distance=(
            "star", neighbour,
            {"long_name": "distance to the third-nearest training star, standardised labels"},
        ),
        label_flag=("star", flag, flag_attributes()),
    )  # fmt: skip
    groups = {str(n): node.to_dataset() for n, node in result.children.items()}
    return xr.DataTree.from_dict(groups | {"star_stats": stats})


def flag_attributes() -> dict[str, object]:
    """Attributes of the variable by the CF conventions."""
    return {
        "long_name": "what was found, see bayes_cannon.label_flags",
        "flag_masks": np.array([int(bit) for bit in LabelFlag], dtype=np.int32),
        "flag_meanings": " ".join(str(bit.name) for bit in LabelFlag),
    }
