"""Speed of inference: effective draws per second of one star, seconds and memory of a survey."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import arviz as az
import numpy as np
import nutpie
import pymc as pm
from common import clock, library_set, many, say, short, table
from memory import measure
from scipy_labels import fit_labels
from threadpoolctl import threadpool_limits

from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.likelihood.compression import compress
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.label_model import build_full_pixel_model, build_plain_model
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Inference"
DRAWS = 500
"""Draws of the plain samplers, and steps of warm-up: half of the defaults of `pm.sample`."""


def section(*, quick: bool) -> Iterator[str]:
    """One star, what else it could be fitted with, then many."""
    stars, _ = library_set(seed=1)
    training, held_out = stars.select(np.arange(300)), stars.select(np.arange(300, 600))
    cannons = {}
    yield (
        "Goal: at least 300 times plain `pm.sample` on the model with every pixel "
        "(`build_full_pixel_model`), in smallest effective sample size per second. Plain: defaults "
        f"but for {DRAWS} draws after {DRAWS} of warm-up (half of its own, to save time), 4 "
        "chains, one run, the chains on all cores; `pm.sample` takes nutpie where that is "
        "installed, else PyMC's own NUTS. Ours: `infer_labels` as it comes, 4 chains of 500 draws "
        "after 100, with modes, compression of the spectrum and all checks, seconds per star in a "
        "block of 32 on all cores; median over these. Smallest of the labels' bulk and tail ESS."
    )
    for j in (0, 15):
        say(f"inference: training with {j} factors")
        settings = TrainingSettings(n_factors=j, folds=0)
        cannons[j] = train(training, settings=settings, seed=1)
        yield f"**One star, {j} factors.**\n\n" + _one_star(cannons[j], held_out.spectra, quick)
    yield _optimiser(cannons, held_out.spectra, quick)
    yield _survey(cannons[15], held_out.spectra, quick)
    yield _large(quick)


def _ess(posterior):
    """Smallest ESS of the labels and largest R-hat."""
    bulk, tail = az.ess(posterior, method="bulk"), az.ess(posterior, method="tail")
    rhat = az.rhat(posterior)
    least = min(float(a[v].min()) for a in (bulk, tail) for v in a.data_vars)
    return least, max(float(rhat[v].max()) for v in rhat.data_vars)


def _ours(cannon, spectra, settings):
    """ESS, seconds per star of a block, seconds of compilation, R-hat."""
    first, _ = clock(lambda: infer_labels(cannon, spectra.select([0]), settings=settings, seed=1))
    block = spectra.select(np.arange(32))
    seconds, result = clock(lambda: infer_labels(cannon, block, settings=settings, seed=1))
    posterior = result["posterior"].to_dataset()
    checks = [_ess(posterior.isel(star=i)) for i in range(block.n_stars)]
    ess, rhat = np.median([c[0] for c in checks]), max(c[1] for c in checks)
    per_star = seconds / block.n_stars
    return ess, per_star, max(first - per_star, 0.0), rhat


def _by_nutpie(model, names, draws):
    """What `pm.sample` does where nutpie is installed; the same figures as `_ours`."""
    compilation, compiled = clock(lambda: nutpie.compile_pymc_model(model))
    seconds, trace = clock(
        lambda: nutpie.sample(
            compiled, draws=draws, tune=draws, chains=4, seed=1, progress_bar=False
        )
    )
    ess, rhat = _ess(trace["posterior"].to_dataset()[list(names)])
    return ess, seconds, compilation, rhat


def _by_pymc(model, names, draws):
    """PyMC's own NUTS; the same figures as `_ours`."""
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compilation, step = clock(pm.NUTS)
        seconds, trace = clock(
            lambda: pm.sample(
                draws=draws, tune=draws, chains=4, step=step, random_seed=1, progressbar=False
            )
        )
    ess, rhat = _ess(trace["posterior"].to_dataset()[list(names)])
    return ess, seconds, compilation, rhat


def _one_star(cannon, spectra, quick):
    j, names, draws = cannon.n_factors, cannon.names, 200 if quick else DRAWS
    flux, ivar = (a[0].astype(float) for a in (spectra.flux, spectra.ivar))
    say(f"inference: {j} factors, ours")
    ours = _ours(cannon, spectra, InferenceSettings())
    full = build_full_pixel_model(cannon, flux, ivar)
    say(f"inference: {j} factors, pm.sample with nutpie")
    plain = {"`pm.sample` (nutpie), every pixel": _by_nutpie(full, names, draws)}
    say(f"inference: {j} factors, pm.sample with PyMC's NUTS")
    plain["`pm.sample` (PyMC), every pixel"] = _by_pymc(full, names, draws)
    say(f"inference: {j} factors, the compressed spectrum")
    pixels = PixelModel.from_cannon(cannon, coefficient_uncertainty=False)
    used = (pixels.take(a[None]) for a in (flux, ivar))
    data = compress(pixels, *used, np.zeros((1, pixels.coef.shape[1])))
    small = build_plain_model(cannon.basis, LabelPriors.for_labels(names), data.A[0], data.b[0])
    plain["`pm.sample` (nutpie), compressed spectrum"] = _by_nutpie(small, names, draws)
    rows = []
    for name, (ess, seconds, compilation, rhat) in {"`infer_labels`": ours, **plain}.items():
        once = ours[0] / ours[1] / (ess / seconds)
        whole = ours[0] / ours[1] / (ess / (seconds + compilation))
        ratios = ("1", "1") if plain.get(name) is None else (short(once), short(whole))
        rows.append((name, short(ess / seconds), *ratios, short(ess), short(seconds),
                     short(compilation), f"{rhat:.3f}"))  # fmt: skip
    head = (
        "sampler", "smallest ESS per second", "ours is faster by",
        "the same, its compilation for each star included", "smallest ESS", "seconds",
        "compilation, s", "R-hat",
    )  # fmt: skip
    return table(head, rows)


def _optimiser(cannons, spectra, quick):
    """What one would take instead: an optimiser for each star, errors from its Jacobian."""
    n = 8 if quick else 32
    plain = cannons[0]
    rows = []
    for name, exact in (("numerical derivatives", False), ("exact derivatives", True)):
        say(f"inference: curve_fit, {name}")
        with threadpool_limits(1, user_api="blas"):  # more threads make it slower
            seconds, fits = clock(
                lambda exact=exact: [
                    fit_labels(plain, spectra.flux[i], spectra.ivar[i], exact=exact)
                    for i in range(n)
                ]
            )
        ended = sum(np.isfinite(sd).all() for _, sd in fits)
        rows.append((f"`curve_fit` (trf), {name}", "0", short(n / seconds), short(seconds / n),
                     f"{ended} of {n}"))  # fmt: skip
    block = spectra.select(np.arange(n))
    for j, cannon in cannons.items():
        for method, n_khat in (("laplace", 0), ("laplace", 200), ("nuts", 200)):
            settings = InferenceSettings(method=method, n_khat=n_khat)
            infer_labels(cannon, spectra.select([0]), settings=settings, seed=1)
            seconds, _ = clock(
                lambda c=cannon, s=settings: infer_labels(c, block, settings=s, seed=1)
            )
            checked = "" if n_khat else ", without k-hat"
            rows.append((f"`infer_labels`, {method}{checked}", j, short(n / seconds),
                         short(seconds / n), f"{n} of {n}"))  # fmt: skip
    head = ("method", "factors", "stars per second", "seconds per star", "with errors")
    return (
        "**Stars per second, next to an optimiser.** SciPy's `curve_fit` with `trf` on every pixel "
        "from the mean training label, one star after another, as in other Cannons: the best fit "
        "and its formal errors alone. Ours: 2000 draws, modes from several starts, chi-square and "
        "k-hat.\n\n" + table(head, rows)
    )


def _survey(cannon, spectra, quick):
    rows, per_star = [], {}
    sizes = (10, 100) if quick else (10, 100, 500)
    for method in ("nuts", "laplace"):
        settings = InferenceSettings(method=method)
        for n in sizes:
            say(f"inference: {n} stars, {method}")
            some = many(spectra, n)
            t, _ = clock(lambda s=some, c=settings: infer_labels(cannon, s, settings=c, seed=1))
            per_star[method, n] = t / n
            rows.append((f"{method}, {n} stars", short(t / n), short(t)))
    head = ("method", "seconds per star", "seconds")
    ratio = per_star["nuts", sizes[-1]] / per_star["nuts", 10]
    return (
        "**A survey in memory**, 15 factors, 7514 pixels, as it comes, without compilation. "
        f"Seconds per star at {sizes[-1]} stars over those at 10: {short(ratio)}.\n\n"
        + table(head, rows)
    )


def _large(quick):
    rows, found = [], {}
    for n in (10, 100, 1000) if quick else (10, 100, 1000, 10_000):
        say(f"inference: {n} stars on disk")
        found[n] = measure("infer", n)
        f = found[n]
        rows.append((n, short(f["seconds"] / n), short(f["seconds"]), short(f["peak"]),
                     short(f["data"]), short(f["peak"] - f["data"])))  # fmt: skip
    growth = found[n]["seconds"] / n / (found[100]["seconds"] / 100)
    head = ("stars", "seconds per star", "seconds", "peak memory, GB", "before it began, GB",
            "more, GB")  # fmt: skip
    return (
        "**A survey on disk: `infer_run`**, catalogue and all, each in a process of its own after "
        "one star for the compilation; every fourth pixel (1879), 2 chains of 100 draws, no k-hat, "
        f"so that {n} stars take minutes. Goal: constant. Seconds per star at {n} stars over those "
        f"at 100: {short(growth)}.\n\n" + table(head, rows)
    )
