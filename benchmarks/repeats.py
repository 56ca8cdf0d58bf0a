"""Scale and floor of the errors from repeated visits, against what many visits say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from astropy.table import Table
from common import say, short, table, thinned_problem

from bayes_cannon.analysis.repeated.comparison import Repeats, repeats
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import observe

TITLE = "Repeated visits"
QUICK = InferenceSettings(method="laplace", draws=300, chains=2, n_khat=0)


def section(*, quick: bool) -> Iterator[str]:
    """Few visits to many stars against many visits to few stars."""
    n_few, n_many, times = (30, 10, 8) if quick else (80, 40, 16)
    yield (
        f"Every fourth pixel, 300 library stars to train on, 15 factors. Fit: {n_few} other stars "
        "with 2 to 4 visits each, of S/N 40 to 250, each with noise, sky lines, tellurics, bad "
        f"pixels and radial velocity of its own. Truth: {n_many} more stars with {times} visits "
        "each, fitted alike, so that its errors are a few per cent. The last columns are the "
        "robust sd of those visits' deviations from the means of their stars, in units of the "
        "errors that scale and floor of the fit say (1 where these are right), below and above S/N "
        "100."
    )
    cannon, _ = thinned_problem()
    library = load_library()
    others = np.random.default_rng(1).permutation(library.n_stars)[300:]
    rng = np.random.default_rng(2)
    few = _compare(cannon, others[:n_few], rng.integers(2, 5, n_few), rng)
    say("repeats: fit")
    many = _compare(cannon, others[n_few : n_few + n_many], np.full(n_many, times), rng)
    yield table(
        ("label", "scale, fit", "±", "scale, truth", "±", "floor, fit (68 %)", "floor, truth",
         "sd below S/N 100", "sd above"),
        [_row(few, many, i) for i in range(len(few.labels.names))],
    )  # fmt: skip


def _compare(cannon: Cannon, stars: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> Repeats:
    """Visits to library stars, their labels, and what their differences say."""
    index = np.repeat(stars, n)
    snr = np.clip(100 * np.exp(0.5 * rng.standard_normal(index.size)), 40, 250)
    seen = observe(load_library(), index, snr=snr, seed=int(rng.integers(2**31)))
    thin = NormalizedSpectra(
        seen.star_id, seen.wavelength[::4], seen.flux[:, ::4], seen.ivar[:, ::4], snr=snr,
        simulated=True,
    )  # fmt: skip
    visits = Table({"STAR_ID": seen.star_id, "STAR": index.astype(str), "SNR": snr})
    result = infer_labels(cannon, thin, settings=QUICK, seed=1)
    return repeats(result, visits, flagged="keep", seed=1)


def _row(few: Repeats, many: Repeats, i: int) -> tuple[str, ...]:
    fit, truth, labels = few.table[i], many.table[i], many.labels
    _, star, count = np.unique(labels.star, return_inverse=True, return_counts=True)
    values = labels.mean[:, i]
    mean = np.bincount(star, values) / count
    error = np.hypot(fit["SCALE"] * labels.errors["formal"][:, i], fit["FLOOR"])
    z = np.abs(values - mean[star]) / error / np.sqrt(1 - 1 / count[star])
    halves = [np.median(z[part]) / 0.6745 for part in (labels.snr < 100, labels.snr >= 100)]
    return (
        f"{fit['LABEL']} ({fit['UNIT']})", f"{fit['SCALE']:.2f}", f"{fit['SCALE_ERR']:.2f}",
        f"{truth['SCALE']:.2f}", f"{truth['SCALE_ERR']:.2f}",
        f"{short(fit['FLOOR_LOW'])} to {short(fit['FLOOR_HIGH'])}", short(truth["FLOOR"]),
        *(f"{half:.2f}" for half in halves),
    )  # fmt: skip
