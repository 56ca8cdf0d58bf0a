"""Speed of inference: effective draws per second of one star, seconds per star of a survey."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import arviz as az
import numpy as np
import pymc as pm
from common import clock, library_set, say, short, table

from bayes_cannon.compression import PixelModel, compress
from bayes_cannon.infer import infer_labels
from bayes_cannon.inference_settings import InferenceSettings
from bayes_cannon.label_model import build_full_pixel_model, build_plain_model
from bayes_cannon.priors import LabelPriors
from bayes_cannon.train import TrainingSettings, train

TITLE = "Inference"


def section(*, quick: bool) -> Iterator[str]:
    """One star, then many."""
    stars, _ = library_set(seed=1)
    training, held_out = stars.select(np.arange(300)), stars.select(np.arange(300, 600))
    yield (
        "Goal: ratio ≥ 300. Plain: `pm.sample` with its defaults but for the number of draws, on "
        "the model with every pixel (`build_full_pixel_model`); ours: `infer_labels`, all checks, "
        "modes and compression of the spectrum included, per star in a block of stars on all "
        "cores. Smallest of the labels' bulk and tail ESS."
    )
    head = (
        "sampler", "smallest ESS per second, ratio to plain", "the same, compilation included",
        "smallest ESS", "seconds", "compilation, s", "R-hat",
    )  # fmt: skip
    for j in (0, 15):
        cannon = train(training, settings=TrainingSettings(n_factors=j, folds=0), seed=1)
        rows, note = _one_star(cannon, held_out.spectra, quick=quick)
        yield f"**One star, {j} factors.** {note}\n\n" + table(head, rows)
    yield _survey(cannon, held_out, quick)


def _ess(posterior) -> tuple[float, float]:
    """Smallest ESS of the labels and largest R-hat."""
    bulk, tail = az.ess(posterior, method="bulk"), az.ess(posterior, method="tail")
    rhat = az.rhat(posterior)
    least = min(float(a[v].min()) for a in (bulk, tail) for v in a.data_vars)
    return least, max(float(rhat[v].max()) for v in rhat.data_vars)


def _plain(model, names, draws):
    """One run of pm.sample: ESS, seconds of sampling, seconds of compilation, R-hat."""
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step_seconds, step = clock(pm.NUTS)
        total, trace = clock(
            lambda: pm.sample(
                draws=draws, tune=draws, chains=4, step=step, random_seed=1, progressbar=False
            )
        )
    ess, rhat = _ess(trace["posterior"].to_dataset()[list(names)])
    return ess, total, step_seconds, rhat


def _ours(cannon, spectra, settings):
    """Compilation from a first star, then the time per star of a block."""
    first, _ = clock(lambda: infer_labels(cannon, spectra.select([0]), settings=settings, seed=1))
    block = spectra.select(np.arange(32))
    seconds, result = clock(lambda: infer_labels(cannon, block, settings=settings, seed=1))
    posterior = result["posterior"].to_dataset()
    checks = [_ess(posterior.isel(star=i)) for i in range(block.n_stars)]
    ess, rhat = np.median([c[0] for c in checks]), max(c[1] for c in checks)
    per_star = seconds / block.n_stars
    return ess, per_star, max(first - per_star, 0.0), rhat


def _one_star(cannon, spectra, *, quick):
    j, names = cannon.n_factors, cannon.names
    draws = 200 if quick else 1000
    flux, ivar = (a[0].astype(float) for a in (spectra.flux, spectra.ivar))
    say(f"inference: {j} factors, ours")
    rows = {"infer_labels (NUTS)": _ours(cannon, spectra, InferenceSettings())}
    say(f"inference: {j} factors, plain")
    full = build_full_pixel_model(cannon, flux, ivar)
    rows["plain, every pixel"] = _plain(full, names, draws)
    say(f"inference: {j} factors, plain on the compressed spectrum")
    pixels = PixelModel.from_cannon(cannon, coefficient_uncertainty=False)
    x = np.zeros((1, pixels.coef.shape[1]))
    used = (pixels.take(a[None]) for a in (flux, ivar))
    data = compress(pixels, *used, x)
    priors = LabelPriors.for_labels(names)
    small = build_plain_model(cannon.basis, priors, data.A[0], data.b[0])
    rows["plain, compressed spectrum"] = _plain(small, names, draws)
    base = rows["plain, every pixel"]
    yard = base[0] / base[1], base[0] / (base[1] + base[2])
    out = [
        (name, short(ess / seconds / yard[0]), short(ess / (seconds + compile_) / yard[1]),
         short(ess), short(seconds), short(compile_), f"{rhat:.3f}")
        for name, (ess, seconds, compile_, rhat) in rows.items()
    ]  # fmt: skip
    note = (
        f"Plain: {draws} draws after {draws} of warm-up, 4 chains, {np.sum(ivar > 0)} pixels, one "
        "run. Ours: 500 draws after 100, 4 chains; median over 32 stars, compilation once for all "
        "stars of all surveys."
    )
    return out, note


def _survey(cannon, held_out, quick):
    rows, per_star = [], {}
    for method in ("nuts", "laplace"):
        settings = InferenceSettings(method=method)
        for n in (10, 100) if quick else (10, 100, 1000):
            say(f"inference: {n} stars, {method}")
            spectra = _many(held_out.spectra, n)
            t, _ = clock(lambda s=spectra, c=settings: infer_labels(cannon, s, settings=c, seed=1))
            per_star[method, n] = t / n
            rows.append((f"{method}, {n} stars", short(t / n), short(t), ""))
        rows.append((f"{method}, 10 000 stars", short(t / n), short(1e4 * t / n), "extrapolated"))
    ratio = per_star["nuts", n] / per_star["nuts", 10]
    head = ("method", "seconds per star", "seconds", "")
    return (
        f"**A survey**, 15 factors, without compilation. Seconds per star at {n} stars over those "
        f"at 10: {short(ratio)} (goal: constant).\n\n" + table(head, rows)
    )


def _many(spectra, n):
    """`n` stars with ids of their own."""
    index = np.arange(n) % spectra.n_stars
    ids = np.array([f"star-{i:05d}" for i in range(n)])
    return replace(
        spectra, star_id=ids, flux=spectra.flux[index], ivar=spectra.ivar[index],
        snr=spectra.snr[index],
    )  # fmt: skip
