r"""Ranks of true parameters among posterior draws: simulation-based calibration.

Parameters are drawn from their prior, data from the model, draws from the posterior; then the rank
of the true value among L independent draws is uniform on 0 … L (Talts et al. 2018,
arXiv:1804.06788). Ranks alone do not see a posterior that ignores the data and equals the prior,
so the contraction, 1 - posterior variance / prior variance, is kept beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from arviz_stats.base.array import array_stats
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import chisquare

from bayes_cannon.base.cards import Carded, count_text
from bayes_cannon.base.cards import Row as FactRow
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "LONGER",
    "N_KEPT",
    "Ranks",
    "effective_draws",
    "thinned_rank",
]

N_KEPT = 99
"""Draws that a rank is taken among: 100 ranks, which 10 or 20 bins divide."""
LONGER = (1, 4, 16)
"""Numbers of draws tried, in units of what was asked for, until they are worth enough."""


@dataclass(frozen=True, eq=False, repr=False)
class Ranks(Carded):
    """Ranks of many simulations.

    Attributes
    ----------
    names : tuple of str
        Parameters.
    ranks : (n_simulations, n_parameters) int64
        From 0 to `n_kept`.
    n_kept : int
        Draws that each is a rank among.
    contraction : (n_parameters,) float64
        1 - mean posterior variance / variance of the true values; NaN where it was not computed.
    seed : int or None
        Of the simulations.

    Raises
    ------
    InvalidDataError
        If shapes do not match or a rank is out of range.
    """

    names: tuple[str, ...]
    ranks: NDArray[np.int64]
    n_kept: int
    contraction: FloatArray
    seed: int | None = None

    def __post_init__(self) -> None:
        ranks = np.asarray(self.ranks, dtype=np.int64)
        if ranks.ndim != 2 or ranks.shape[1] != len(self.names) or ranks.shape[0] == 0:
            raise InvalidDataError(
                f"ranks have shape {ranks.shape}, expected (n_simulations, {len(self.names)})."
            )
        if ranks.min() < 0 or ranks.max() > self.n_kept:
            raise InvalidDataError(f"ranks must lie between 0 and {self.n_kept}.")
        object.__setattr__(self, "ranks", ranks)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame of the ranks, a row a simulation and a column a parameter."""
        return pd.DataFrame(self.ranks, columns=list(self.names))

    def _facts(self) -> tuple[str, list[FactRow]]:
        title = f"Ranks of {count_text(len(self.ranks), 'simulation')}"
        known = np.isfinite(self.contraction)
        shrunk = [f"{name} {value:.2f}" for name, value, there in
                  zip(self.names, self.contraction, known, strict=True) if there]  # fmt: skip
        return title, [
            ("parameters", ", ".join(self.names)),
            ("among", count_text(self.n_kept, "draw")),
            ("contraction", ", ".join(shrunk)),
        ]

    @classmethod
    def from_draws(
        cls, names: tuple[str, ...], truth: FloatArray, ranks: NDArray[np.int64], sd: FloatArray
    ) -> Ranks:
        """Ranks with contractions, from true values and posterior sd (n_simulations, n).

        Parameters
        ----------
        names
            Parameters.
        truth : (n_simulations, n_parameters) float64
            True values.
        ranks : (n_simulations, n_parameters) int64
            Of the true values among the draws.
        sd : (n_simulations, n_parameters) float64
            Standard deviations of the posteriors.
        """
        spread = np.var(truth, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            contraction = 1 - np.mean(sd**2, axis=0) / spread
        return cls(names, ranks, N_KEPT, contraction)

    @classmethod
    def from_pit(cls, names: tuple[str, ...], pit: FloatArray) -> Ranks:
        """Ranks from exact probabilities below the true value, (n_simulations, n_parameters).

        Parameters
        ----------
        names
            Parameters.
        pit : (n_simulations, n_parameters) float64
            Probability below the true value, from 0 to 1.
        """
        ranks = np.minimum(np.floor(pit * (N_KEPT + 1)), N_KEPT).astype(np.int64)
        return cls(names, ranks, N_KEPT, np.full(len(names), np.nan))

    @property
    def n_simulations(self) -> int:
        """Number of simulations."""
        return int(self.ranks.shape[0])

    @property
    def n_bins(self) -> int:
        """Bins of the test: 20, or 10 where 20 would hold fewer than 20 simulations each."""
        return 20 if self.n_simulations >= 400 else 10

    def counts(self) -> NDArray[np.int64]:
        """Simulations in each bin of ranks, shape (n_bins, n_parameters)."""
        edges = np.linspace(-0.5, self.n_kept + 0.5, self.n_bins + 1)
        columns = [np.histogram(column, edges)[0] for column in self.ranks.T]
        return np.stack(columns, axis=1).astype(np.int64)

    def p_values(self) -> FloatArray:
        """p-value of the chi-square test of uniform ranks, per parameter."""
        return np.asarray(chisquare(self.counts(), axis=0).pvalue)

    def table(self) -> Table:
        """One row per parameter: ``PARAMETER``, ``N``, ``BINS``, ``CHI2_P``, ``CONTRACTION``."""
        n = len(self.names)
        columns = {
            "PARAMETER": list(self.names),
            "N": [self.n_simulations] * n,
            "BINS": [self.n_bins] * n,
            "CHI2_P": self.p_values(),
            "CONTRACTION": self.contraction,
        }
        return Table(columns)


def effective_draws(draws: FloatArray) -> float:
    """Smallest bulk effective sample size of draws (n_chains, n_draws, n_parameters).

    Parameters
    ----------
    draws : (n_chains, n_draws, n_parameters) float64
        Of a posterior.
    """
    columns = np.moveaxis(draws, -1, 0)
    ess = array_stats.ess(columns, method="bulk")  # type: ignore[no-untyped-call]
    return float(np.nanmin(ess))


def thinned_rank(draws: FloatArray, truth: FloatArray) -> NDArray[np.int64]:
    """Ranks of true values (n,) among `N_KEPT` evenly spaced draws of (n_chains, n_draws, n).

    Parameters
    ----------
    draws : (n_chains, n_draws, n_parameters) float64
        Of a posterior.
    truth : (n_parameters,) float64
        True values.

    Raises
    ------
    InvalidDataError
        If the draws are worth fewer than `N_KEPT` independent ones: the ranks would not be
        uniform even if the posterior is right.
    """
    if not (worth := effective_draws(draws)) >= N_KEPT:
        raise InvalidDataError(
            f"the draws are worth {worth:.0f} independent ones, fewer than {N_KEPT}; sample longer."
        )
    flat = draws.reshape(-1, draws.shape[-1])
    kept = flat[np.linspace(0, len(flat) - 1, N_KEPT).round().astype(int)]
    return np.asarray(np.sum(kept < truth, axis=0), dtype=np.int64)
