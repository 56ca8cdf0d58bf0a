"""What the sections share: data, clocks, the machine, and tables in Markdown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.simulation.faults import SurveyFaults
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import library_labels, observe
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

N_PIXELS = 7514


def say(text: str) -> None:
    """Progress, to standard error at once."""
    print(text, file=sys.stderr, flush=True)


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds of a call and what it returned."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown table; the first column is text, the others are numbers."""
    header = list(header)
    lines = [" | ".join(header), " | ".join(["---", *["---:"] * (len(header) - 1)])]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{digits}f}"


def machine() -> str:
    """Processor, memory and versions, in one paragraph."""
    names = ("numpy", "scipy", "pymc", "pytensor", "nutpie", "numba", "arviz", "xarray")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return (
        f"{cores()} cores of {_processor()}, {_memory():.0f} GB of memory, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}; OMP_NUM_THREADS {threads}."
    )


def cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return float("nan")


def busy() -> str:
    """Say so where other programs were running."""
    try:
        load = os.getloadavg()[1]
    except (AttributeError, OSError):
        return ""
    return f"Load average over five minutes at the end: {load:.1f}."


# Data ---------------------------------------------------------------------------------------


def library_set(
    n_stars: int | None = None,
    *,
    seed: int,
    snr: float | None = 150.0,
    error_scale: float = 1.0,
    faults: SurveyFaults | None = None,
) -> tuple[TrainingSet, Labels]:
    """Library stars as observed, and their true labels.

    Parameters
    ----------
    n_stars
        As many stars as this in random order, each with noise of its own; beyond the 600 of the
        library they come again. None: all 600 once.
    snr
        S/N of all; None: log-normal around 150 as in the simulated survey.
    error_scale
        Of the catalogue labels' errors.
    faults
        Of real spectra; `SurveyFaults.hard()` for a hard survey.
    """
    library, rng = load_library(), np.random.default_rng(seed)
    n_stars = library.n_stars if n_stars is None else n_stars
    rounds = -(-n_stars // library.n_stars)
    index = np.concatenate([rng.permutation(library.n_stars) for _ in range(rounds)])[:n_stars]
    drawn = np.clip(150 * np.exp(0.5 * rng.standard_normal(n_stars)), 56, 500)
    brightness = drawn if snr is None else np.full(n_stars, float(snr))
    spectra = observe(library, index, snr=brightness, seed=seed, faults=faults)
    seen, true = library_labels(
        library, DEFAULT_LABELS, error_scale, seed=seed, index=index, snr=brightness
    )
    return TrainingSet(spectra=spectra, labels=seen), true


def synthetic(
    n_stars: int, n_pixels: int, *, n_factors: int = 15, degree: int = 2, seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux and inverse variance (float32) and features drawn from the training model.

    Made in blocks of stars, so that the arrays themselves are all the memory that is taken.
    """
    rng = np.random.default_rng(seed)
    units = ("K", "dex", "dex", "dex", "dex")
    basis = PolynomialBasis(DEFAULT_LABELS, units, np.zeros(5), np.ones(5), degree)
    x = basis.features(rng.standard_normal((n_stars, 5)))
    z = rng.standard_normal((n_stars, n_factors)).astype(np.float32)
    theta = 0.02 * rng.standard_normal((n_pixels, basis.n_terms), dtype=np.float32)
    strength = 0.01 / np.sqrt(np.arange(1, n_factors + 1))
    loading = rng.standard_normal((n_pixels, n_factors)) * strength
    loading = loading.astype(np.float32)
    scatter = np.exp(rng.normal(np.log(0.005), 0.5, n_pixels)).astype(np.float32)
    flux = np.empty((n_stars, n_pixels), dtype=np.float32)
    ivar = np.empty_like(flux)
    for a in range(0, n_stars, 256):
        rows = slice(a, min(a + 256, n_stars))
        shape = (rows.stop - a, n_pixels)
        sigma = (1 / rng.uniform(60, 400, (shape[0], 1))).astype(np.float32)
        noise = rng.standard_normal(shape, dtype=np.float32) * np.hypot(sigma, scatter)
        flux[rows] = 1 + x[rows].astype(np.float32) @ theta.T + z[rows] @ loading.T + noise
        ivar[rows] = np.where(rng.random(shape, dtype=np.float32) < 0.03, 0, sigma**-2)
    return flux, ivar, x


def many(spectra: NormalizedSpectra, n_stars: int) -> NormalizedSpectra:
    """Return `n_stars` stars with ids of their own; beyond those that there are they come again."""
    index = np.arange(n_stars) % spectra.n_stars
    return replace(
        spectra,
        star_id=np.array([f"star-{i:05d}" for i in range(n_stars)]),
        flux=spectra.flux[index],
        ivar=spectra.ivar[index],
        snr=spectra.snr[index],
    )


def thinned_problem() -> tuple[Cannon, NormalizedSpectra]:
    """Trained model with 15 factors on every fourth pixel, and 300 spectra of other stars."""
    stars, _ = library_set(seed=1)
    spectra = stars.spectra
    thin = NormalizedSpectra(
        spectra.star_id, spectra.wavelength[::4], spectra.flux[:, ::4], spectra.ivar[:, ::4],
        simulated=True,
    )  # fmt: skip
    thin_stars = TrainingSet(spectra=thin, labels=stars.labels)
    settings = TrainingSettings(n_factors=15, folds=0)
    cannon = train(thin_stars.select(np.arange(300)), settings=settings, seed=1)
    return cannon, thin.select(np.arange(300, 600))


def quick_inference() -> InferenceSettings:
    """Modes and Gaussians alone, without draws to speak of."""
    return InferenceSettings(method="laplace", draws=4, chains=1, n_khat=0)
