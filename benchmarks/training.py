"""Speed and memory of training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from common import N_PIXELS, clock, library_set, say, short, synthetic, table
from memory import measure
from scipy_fit import fit_by_optimizer, fit_on_grid

from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.training.advi import fit_advi
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.fit import Design

TITLE = "Training"
N_STARS = 927


def section(*, quick: bool) -> Iterator[str]:
    """All of training, part by part."""
    flux, ivar, features = _library()
    yield _against_scipy(flux, ivar, features, quick=quick)
    yield _many_stars(quick=quick)
    yield _growth(quick=quick)
    yield _advi(flux, ivar, features, quick=quick)


def _library():
    stars, _ = library_set(N_STARS, seed=1)
    basis = PolynomialBasis.from_labels(stars.labels, 2)
    return stars.spectra.flux, stars.spectra.ivar, basis(stars.labels.values)


def _against_scipy(flux, ivar, features, *, quick):
    """Both ways in turn, so that a busy moment does not favour one."""
    n_subset = 40 if quick else 100
    pixels = np.random.default_rng(1).choice(N_PIXELS, n_subset, replace=False)
    design = Design.exact(features)
    seconds = {"map": [], "factors": [], "optimizer": [], "grid": []}
    fit_map(flux[:, :500], ivar[:, :500], design, seed=0)  # loads libraries
    agreement = []
    for turn in range(2 if quick else 3):
        say(f"training: turn {turn + 1}")
        t, fit = clock(lambda: fit_map(flux, ivar, design, seed=0))
        seconds["map"].append(t)
        for name, one in (("optimizer", fit_by_optimizer), ("grid", fit_on_grid)):
            t, found = clock(
                lambda one=one: [one(features, flux[:, p], ivar[:, p]) for p in pixels]
            )
            seconds[name].append(t * N_PIXELS / n_subset)
            if name == "optimizer":
                agreement.append(np.median(fit.scatter[pixels] / [s for _, s in found]))
        t, with_factors = clock(lambda: fit_map(flux, ivar, design, n_factors=15, seed=1))
        seconds["factors"].append(t)
    best = {name: min(values) for name, values in seconds.items()}
    turns = zip(*(seconds[n] for n in ("optimizer", "map", "factors", "grid")), strict=True)
    per_turn = [(o / m, f / m, g / m) for o, m, f, g in turns]
    ratios = [[short(v) for v in column] for column in zip(*per_turn, strict=True)]
    rows = [
        ("SciPy's optimiser, pixel by pixel", short(best["optimizer"]),
         short(best["optimizer"] / best["map"]), ", ".join(ratios[0]), "≥ 15"),
        ("grid of 15 scatters, pixel by pixel", short(best["grid"]),
         short(best["grid"] / best["map"]), ", ".join(ratios[2]), ""),
        ("fit_map with 15 factors", short(best["factors"]),
         short(best["factors"] / best["map"]), ", ".join(ratios[1]), "≤ 15"),
        ("fit_map without factors", short(best["map"]), "1", "", ""),
    ]  # fmt: skip
    head = ("fit", "seconds", "ratio to fit_map without factors", "ratio in each turn", "goal")
    return (
        f"{N_STARS} library stars × {N_PIXELS} pixels × {features.shape[1]} terms; shortest of "
        f"{len(per_turn)} turns. The pixel-by-pixel times are **extrapolated** from {n_subset} "
        f"random pixels, fitted in the same run. With 15 factors {len(with_factors.bound) - 1} "
        "rounds. Median ratio of the scatters to the optimiser's: "
        f"{short(np.median(agreement))}.\n\n" + table(head, rows)
    )


def _many_stars(*, quick):
    rows = []
    n_stars = 2000 if quick else 10_000
    say(f"training: {n_stars} stars")
    big = measure("arrays", n_stars, N_PIXELS, 15)
    rows.append(
        (f"fit_map, {n_stars} synthetic stars, 15 factors", short(big["seconds"]),
         short(big["peak"]), short(big["data"]), "≤ 1200 s, ≤ 8 GB")
    )  # fmt: skip
    factors = 15 if quick else "auto"
    say("training: 1854 stars")
    train = measure("train", 1854, factors)
    rows.append(
        (f"train, 1854 library stars, factors {factors} ({train['factors']})",
         short(train["seconds"]), short(train["peak"]), short(train["data"]), "≤ 4 GB")
    )  # fmt: skip
    note = "" if not quick else " (quick run: 2000 stars stand for the 10 000 of the goal)"
    head = ("what", "seconds", "peak memory, GB", "of it before the fit, GB", "goal")
    return f"Each in a process of its own, {N_PIXELS} pixels{note}.\n\n" + table(head, rows)


def _growth(*, quick):
    say("training: growth")
    rows = []
    base = (N_STARS, 2000, 2)
    cases = [base, (2 * N_STARS, 2000, 2), (N_STARS, 4000, 2), (N_STARS, 2000, 1)]
    if not quick:
        cases += [(4 * N_STARS, 2000, 2), (N_STARS, 2000, 3)]
    reference = None
    for n_stars, n_pixels, degree in cases:
        flux, ivar, x = synthetic(n_stars, n_pixels, degree=degree)
        design = Design.exact(x)
        seconds = min(
            clock(lambda d=design, f=flux, i=ivar: fit_map(f, i, d, seed=0))[0] for _ in "ab"
        )
        reference = reference or seconds
        rows.append((n_stars, n_pixels, x.shape[1], short(seconds), short(seconds / reference)))
    head = ("stars", "pixels", "terms", "seconds", "ratio to the first row")
    return "fit_map without factors, synthetic arrays.\n\n" + table(head, rows)


def _advi(flux, ivar, features, *, quick):
    say("training: ADVI")
    n_pixels = 300 if quick else 1000
    pixels = slice(3000, 3000 + n_pixels)
    flux, ivar = np.ascontiguousarray(flux[:, pixels]), np.ascontiguousarray(ivar[:, pixels])
    design = Design.exact(features)
    t_map, start = clock(lambda: fit_map(flux, ivar, design, seed=0))
    t_advi, found = clock(lambda: fit_advi(flux, ivar, design, start, seed=1))
    sd = np.sqrt(start.cov[:, np.cumsum(np.arange(1, start.mean.shape[1] + 1)) - 1])
    distance = np.abs(found.mean - start.mean) / sd
    rows = [
        (n_pixels, short(t_advi), short(t_advi * 1000 / n_pixels), short(t_map),
         f"{found.converged.sum()} of {found.converged.size}", short(np.median(found.steps)),
         short(np.quantile(distance, 0.99)))
    ]  # fmt: skip
    head = (
        "pixels", "ADVI, s", "per 1000 pixels, s", "fit_map, s", "chunks converged",
        "steps (median)", "99 % of coefficients within, sd of MAP",
    )  # fmt: skip
    return (
        f"ADVI on {N_STARS} stars × {features.shape[1]} terms, compilation included.\n\n"
        + table(head, rows)
    )
