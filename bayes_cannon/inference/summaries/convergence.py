"""Rank-normalised R-hat and effective sample sizes of all labels of a star at once.

Those of Vehtari et al. (2021, Bayesian Analysis 16, 667), as ArviZ computes them for one label
after another; sorting, normal quantiles and Fourier transforms are done for all labels together.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import rankdata

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "rank_diagnostics",
]

_TAILS = (0.05, 0.95)


def rank_diagnostics(draws: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """R-hat and effective sample sizes of the bulk and of the tails.

    Parameters
    ----------
    draws
        Shape (n_quantities, n_chains, n_draws).

    Returns
    -------
    rhat : (n_quantities,) float64
        The larger of the rank-normalised split R-hat of the draws and of their distances from the
        median; NaN for a single chain.
    bulk : (n_quantities,) float64
        Effective sample size of the rank-normalised draws.
    tail : (n_quantities,) float64
        The smaller of those of the 5 and 95 % quantiles. All three are NaN where a draw is not
        finite, or there are less than 4 in a chain.
    """
    k, c, n = draws.shape
    out = np.full((3, k), np.nan)
    sound = np.flatnonzero(np.isfinite(draws).all(axis=(1, 2)))
    if n < 4 or sound.size == 0:
        return out[0], out[1], out[2]
    draws = draws[sound]
    split = _split(draws)
    z = _z(split)
    edges = np.quantile(draws, _TAILS, axis=(1, 2))[..., None, None]
    tails = [_split((draws <= edge).astype(np.float64)) for edge in edges]
    sizes = _sizes(np.concatenate([z, *tails])).reshape(3, -1)
    out[1, sound], out[2, sound] = sizes[0], sizes[1:].min(axis=0)
    if c > 1:
        folded = np.abs(split - np.median(split, axis=(1, 2), keepdims=True))
        out[0, sound] = np.maximum(_rhat(z), _rhat(_z(folded)))
    return out[0], out[1], out[2]


def _rhat(chains: FloatArray) -> FloatArray:
    n = chains.shape[-1]
    between = n * chains.mean(axis=-1).var(axis=-1, ddof=1)
    within = chains.var(axis=-1, ddof=1).mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that stand still have NaN
        return np.asarray(np.sqrt((between / within + n - 1) / n))


def _split(draws: FloatArray) -> FloatArray:
    half = draws.shape[2] // 2
    return np.concatenate([draws[:, :, :half], draws[:, :, -half:]], axis=1)


def _z(draws: FloatArray) -> FloatArray:
    """Normal quantiles of the ranks among all draws of each quantity (Blom's offset)."""
    flat = draws.reshape(len(draws), -1)
    rank = rankdata(flat, axis=1)
    return np.asarray(ndtri((rank - 0.375) / (flat.shape[1] + 0.25)).reshape(draws.shape))


def _sizes(chains: FloatArray) -> FloatArray:
    """Effective sample sizes (m,) of chains (m, n_chains, n) by Geyer's monotone sequence."""
    m, c, n = chains.shape
    offset = chains - chains.mean(axis=2, keepdims=True)
    power = np.abs(rfft(offset, n=next_fast_len(2 * n, real=True), axis=2)) ** 2
    # The mean over chains is taken before the transform back, which is linear.
    acov = irfft(power.mean(axis=1), n=next_fast_len(2 * n, real=True), axis=1)[:, :n] / n
    mean_var = acov[:, 0] * n / (n - 1)
    var_plus = acov[:, 0].copy()
    if c > 1:
        var_plus += chains.mean(axis=2).var(axis=1, ddof=1)
    out = np.full(m, np.nan)
    for i in range(m):
        if np.ptp(chains[i]) < np.finfo(float).resolution:
            out[i] = c * n
        elif np.isfinite(var_plus[i]):
            out[i] = _geyer(1 - (mean_var[i] - acov[i]) / var_plus[i], c * n)
    return out


def _geyer(rho: FloatArray, size: int) -> float:
    """Effective sample size from the autocorrelation (n,), its first entry set to 1."""
    n = len(rho)
    rho = rho.copy()
    rho[0] = 1.0
    # Sums of pairs (even, odd) as long as they are positive.
    last = 1 + 2 * max((n - 4) // 2 + (n - 4) % 2, 0)  # the loop's last odd lag
    pairs = rho[0 : last + 1 : 2] + rho[1 : last + 1 : 2]
    ended = np.flatnonzero(~(pairs > 0))
    t = 2 * int(ended[0]) + 1 if ended.size else last
    max_t = t - 2
    kept = np.zeros(n)
    kept[: t + 1] = rho[: t + 1]
    if ended.size and t > 1:  # the pair that ended the sequence is left out but for its even lag
        even = rho[t - 1]
        kept[t - 1 : t + 1] = rho[t - 1 : t + 1] if pairs[ended[0]] >= 0 else 0.0
        if even > 0:
            kept[max_t + 1] = even
    low = kept[: max_t + 1].reshape(-1, 2).sum(axis=1) if max_t > 0 else np.zeros(0)
    # The sums may not rise: each is at most the one before.
    smooth = np.minimum.accumulate(low) if low.size else low
    tau = -1.0 + 2.0 * smooth.sum() + kept[max_t + 1 : max_t + 2].sum()
    return float(size / max(tau, 1 / np.log10(size)))
