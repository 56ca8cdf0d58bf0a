"""Results of inference with known means, errors and flags, and a catalogue to compare them with."""

import numpy as np
import xarray as xr

from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra

NAMES = ("TEFF", "LOGG", "FE_H")
FORMAL = np.array([10.0, 0.02, 0.01])
CALIBRATED = np.array([30.0, 0.06, 0.03])
ASPCAP = np.array([12.0, 0.03, 0.01])
_WAVES = np.random.default_rng(0).standard_normal((2, 30, 3))


def make_labels(n_stars: int = 200, *, seed: int = 1) -> Labels:
    """True labels."""
    rng = np.random.default_rng(seed)
    values = rng.normal([4700, 2.5, -0.2], [200, 0.5, 0.2], (n_stars, 3))
    ids = np.array([f"2S{i:05d}" for i in range(n_stars)])
    return Labels(NAMES, values, np.full(values.shape, np.nan), ids)


def make_catalogue(truth: Labels, *, seed: int = 2) -> Labels:
    """The truth with errors of the size that is quoted."""
    noise = np.random.default_rng(seed).standard_normal(truth.values.shape) * ASPCAP
    return Labels(NAMES, truth.values + noise, ASPCAP, truth.star_id)


def make_means(truth: Labels, *, seed: int = 3) -> np.ndarray:
    """Posterior means that are off as the calibrated errors say."""
    return truth.values + np.random.default_rng(seed).standard_normal((len(truth), 3)) * CALIBRATED


def _dataset(means: np.ndarray, sd: np.ndarray, star_id: np.ndarray) -> xr.Dataset:
    """Draws with exactly these means and standard deviations, the labels uncorrelated."""
    flat = _WAVES.reshape(-1, 3) - _WAVES.reshape(-1, 3).mean(axis=0)
    unit = np.linalg.qr(flat)[0] * np.sqrt(len(flat) - 1)
    draws = means + (unit * sd).reshape(2, 30, 1, 3)
    return xr.Dataset(
        {n: (("chain", "draw", "star"), draws[..., i]) for i, n in enumerate(NAMES)},
        {"star": star_id},
    )


def make_result(
    truth: Labels,
    *,
    calibrated: bool = True,
    flags: np.ndarray | int = 0,
    formal_shift: float = 0.0,
) -> xr.DataTree:
    """Result of inference; formal means are off the calibrated ones by `formal_shift` sd."""
    means, n = make_means(truth), len(truth)
    names = ("rhat_max", "ess_bulk_min", "ess_tail_min", "divergences", "chi2_p")
    stats = {name: ("star", np.ones(n)) for name in names}
    stats["label_flag"] = ("star", np.broadcast_to(np.asarray(flags, dtype=np.int32), n).copy())
    groups = {
        "posterior": _dataset(means + formal_shift * FORMAL, FORMAL, truth.star_id),
        "star_stats": xr.Dataset(stats),
    }
    if calibrated:
        groups["calibrated_posterior"] = _dataset(means, CALIBRATED, truth.star_id)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["simulated"] = 1
    return tree


def make_set(labels: Labels, *, snr: np.ndarray, cuts: str = "") -> TrainingSet:
    """Training set of stars with S/N and the archive's flags; its spectra are flat."""
    n = len(labels)
    spectra = NormalizedSpectra(
        labels.star_id, 16000.0 + np.arange(5), np.ones((n, 5)), np.ones((n, 5)), snr,
        simulated=True,
    )  # fmt: skip
    starflag = np.where(np.arange(n) == 0, 1 << 11, 0)
    info = {"starflag": starflag, "aspcapflag": np.zeros(n, dtype=np.int64)}
    return TrainingSet(spectra, labels, settings={"cuts": cuts} if cuts else {}, info=info)
