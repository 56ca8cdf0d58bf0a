"""Checks of one star's draws: convergence, fit to the spectrum, and the approximation's k-hat."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np
from arviz_stats.base.array import array_stats
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.likelihood.compression import Compressed
from bayes_cannon.inference.likelihood.kinds import GAUSSIAN, Likelihood, OneStar
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.modes import Laplace
from bayes_cannon.inference.summaries.convergence import rank_diagnostics
from bayes_cannon.models.label_priors import LabelPriors

__all__ = [
    "Convergence",
    "StarStatus",
    "check_convergence",
    "factors_p",
    "laplace_khat",
    "pareto_khat",
    "predictive_p",
    "thin",
]


class StarStatus(IntFlag):
    """What happened to a star, as bits; 0 is a star without remarks."""

    NO_PIXELS = 1  #: too few usable pixels: the star has no posterior
    FAILED = 2  #: the optimiser or the sampler failed: the star has no posterior
    MODE_NOT_CONVERGED = 4  #: the search for the mode did not end
    NOT_GAUSSIAN = 8  #: second derivatives at the mode are not positive definite
    SEVERAL_MODES = 16  #: another mode was found within 10 in log density
    SAMPLED_AGAIN = 32  #: the first run failed the checks
    RHAT = 64  #: R-hat above its limit
    LOW_ESS = 128  #: bulk or tail effective sample size below its limit
    DIVERGENCES = 256  #: divergent transitions
    HIGH_KHAT = 512  #: k-hat above 0.7: the compressed likelihood is not the full one
    LAPLACE = 1024  #: drawn from the Gaussian at the mode, not sampled


@dataclass(frozen=True)
class Convergence:
    """Worst diagnostics over the labels of a star.

    Attributes
    ----------
    rhat_max : float
        Largest rank-normalised split R-hat.
    ess_bulk_min, ess_tail_min : float
        Smallest effective sample sizes.
    divergences : int
    r_hat, ess_bulk, ess_tail : (n_labels,) float64
        The same of every label.
    """

    rhat_max: float
    ess_bulk_min: float
    ess_tail_min: float
    divergences: int
    r_hat: FloatArray | None = field(default=None, compare=False)
    ess_bulk: FloatArray | None = field(default=None, compare=False)
    ess_tail: FloatArray | None = field(default=None, compare=False)

    def problems(self, rhat_limit: float, ess_limit: float) -> StarStatus:
        """Bits of the checks that fail; a diagnostic that is not a number fails.

        Parameters
        ----------
        rhat_limit, ess_limit
            See `InferenceSettings`.
        """
        status = StarStatus(0)
        if not self.rhat_max <= rhat_limit:
            status |= StarStatus.RHAT
        if not min(self.ess_bulk_min, self.ess_tail_min) >= ess_limit:
            status |= StarStatus.LOW_ESS
        if self.divergences > 0:
            status |= StarStatus.DIVERGENCES
        return status


def check_convergence(labels: FloatArray, diverging: NDArray[np.bool_]) -> Convergence:
    """Diagnose the draws of one star, shape (n_chains, n_draws, n_labels).

    Parameters
    ----------
    labels
        Draws, shape (n_chains, n_draws, n_labels).
    diverging
        Which transitions diverged, shape (n_chains, n_draws).
    """
    rhat, bulk, tail = rank_diagnostics(np.moveaxis(labels, -1, 0))
    return Convergence(
        float(np.max(rhat)), float(np.min(bulk)), float(np.min(tail)), int(np.sum(diverging)),
        rhat, bulk, tail,
    )  # fmt: skip


def thin(labels: FloatArray, n: int) -> FloatArray:
    """Take about n draws, evenly spaced over all chains: shape (<= n, n_labels).

    Parameters
    ----------
    labels
        Draws, shape (n_chains, n_draws, n_labels).
    n
        How many to take.

    >>> thin(np.zeros((4, 500, 3)), 100).shape
    (100, 3)
    """
    flat = labels.reshape(-1, labels.shape[-1])
    return np.asarray(flat[np.linspace(0, len(flat) - 1, min(n, len(flat))).round().astype(int)])


def predictive_p(data: Compressed, values: FloatArray) -> float:
    """Posterior-predictive p-value of chi-square for one star.

    The discrepancy is ``(f - m)' S^-1 (f - m)``; for a replicated spectrum it is chi-square with
    as many degrees of freedom as independent pixels, whatever the labels, so that the p-value is
    its survival function averaged over the draws.

    Parameters
    ----------
    data
        Of one star (arrays of length 1).
    values
        Chi-square of the draws (`Likelihood.chi2`), shape (n_draws,).
    """
    return float(np.mean(chi2_distribution.sf(values, float(data.n_effective[0]))))


def factors_p(z: FloatArray) -> float:
    """Probability that factors (n_factors,) of N(0, I) are as large as `z`; NaN for none.

    Parameters
    ----------
    z
        Factors of a star in units of their prior, shape (n_factors,).

    Examples
    --------
    >>> round(factors_p(np.array([1.0, 2.0])), 4)
    0.0821
    """
    return float(chi2_distribution.sf(np.sum(z**2), z.size)) if z.size else float("nan")


def pareto_khat(
    pixels: PixelModel, star: OneStar, ell: FloatArray, *, likelihood: Likelihood = GAUSSIAN
) -> float:
    """Pareto k-hat of the posterior that was sampled against the likelihood of all pixels.

    Below 0.7 the draws can be trusted (importance weights would repair what little differs); 0
    where the two likelihoods are equal, NaN for fewer than 25 draws (Vehtari et al. 2024, JMLR 25,
    72).

    Parameters
    ----------
    pixels
        The trained model.
    star
        The star at its mode.
    ell
        Standardised labels of the draws, shape (n_draws, n_labels).
    likelihood
        That was sampled.
    """
    full = likelihood.log_likelihood(pixels, star, ell)
    return _khat(full - likelihood.sampled(pixels, star, ell))


def laplace_khat(
    pixels: PixelModel,
    priors: LabelPriors,
    laplace: Laplace,
    star: OneStar,
    labels: FloatArray,
    *,
    likelihood: Likelihood = GAUSSIAN,
) -> float:
    """Pareto k-hat of the Gaussian at a star's mode against the full-pixel posterior.

    Parameters
    ----------
    pixels, priors
        The trained model, and the labels' priors.
    laplace
        Of one star (arrays of length 1).
    star
        The same star.
    labels
        Draws of the Gaussian in physical units, shape (n_draws, n_labels).
    likelihood
        Of the pixels.
    """
    u = priors.unconstrain(labels)
    y = np.linalg.solve(laplace.chol[0], (u - laplace.u[0]).T)
    full = likelihood.log_likelihood(pixels, star, pixels.basis.standardize(labels))
    return _khat(full + priors.at(u).log_density + 0.5 * np.sum(y**2, axis=0))


def _khat(log_weight: FloatArray) -> float:
    log_weight = log_weight[np.isfinite(log_weight)]
    if log_weight.size < 25:
        return float("nan")
    if np.ptp(log_weight) < 1e-3:
        return 0.0
    return float(array_stats.psislw(log_weight)[1])  # type: ignore[no-untyped-call]
