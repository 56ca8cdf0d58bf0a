"""Known terms beside the factors: what they do to density, labels and rest frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from accuracy import predict
from common import library_set, quick_inference, say, short, table

from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.spectra.arrays import training_set_from_arrays
from bayes_cannon.surveys.gaia_xp import load_gaia_xp_giants
from bayes_cannon.surveys.simulation.faults import SurveyFaults
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import observed_faults
from bayes_cannon.training.factor_choice import _difference, predictive_density
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.pixels.fit import Design
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Known terms"
N_FACTORS = {"clean": 30, "hard": 30, "Gaia XP": 20}
KINDS = {"clean": SurveyFaults(), "hard": SurveyFaults.hard()}
TRIED = ((), ("shift",), ("ghost",), ("shift", "ghost"), ("continuum",), ("broadening",))
PER_CHIP = 700
TRAIN, TEST = 300, 200


def section(*, quick: bool) -> Iterator[str]:
    """Library surveys and the real giants, each with and without terms."""
    tried = TRIED[:2] if quick else TRIED
    runs = [("hard", 2)] if quick else [("clean", 1), ("hard", 1), ("hard", 2), ("Gaia XP", 1)]
    found = {run: [_look(*run, names) for names in tried] for run in runs}
    rows = []
    for (kind, seed), several in found.items():
        for names, one in zip(tried, several, strict=True):
            gain, error = _difference(one["density"], several[0]["density"])
            rows.append((
                f"{kind} {seed}: {', '.join(names) or 'none'}", f"{gain:+.1f} ± {error:.1f}",
                ", ".join(short(r) for r in one["rms"]),
                ", ".join(f"{c:.0f}" for c in one["covered"]), one["scale"],
            ))  # fmt: skip
    counts = ", ".join(f"{kind} {n}" for kind, n in N_FACTORS.items())
    head = ("survey: known terms", "log density per test star", "rms (K, dex)",
            "formal 68 % hold (%)", "learnt scales")  # fmt: skip
    yield (
        f"{TRAIN} training and {TEST} test stars of the library, {PER_CHIP} neighbouring pixels of "
        "each chip, S/N 56 to 500, errors against the **true** labels, blends left out; and as "
        "many of the real Gaia XP giants, against APOGEE's. "
        f"Factors beside the terms: {counts}. Density: that of the test stars' spectra at their "
        "labels, above that without terms, star by star. κ = 1 throughout.\n\n" + table(head, rows)
    )
    yield _rest_frames()


def _set(kind, seed):
    """Training and test stars, true labels of the latter, and their true shifts."""
    if kind == "Gaia XP":
        stars = load_gaia_xp_giants()
        order = np.random.default_rng(seed).permutation(stars.n_stars)
        training, test = np.sort(order[:TRAIN]), np.sort(order[TRAIN : TRAIN + TEST])
        rest = stars.select(test)
        return stars.select(training), rest, rest.labels.values, None
    stars, true = library_set(seed=seed, snr=None, faults=KINDS[kind])
    spectra = stars.spectra
    ranges = [(a + 300, min(a + 300 + PER_CHIP, b)) for a, b in spectra.chips]
    pixels = np.concatenate([np.arange(a, b) for a, b in ranges])
    labels = {name: stars.labels[name] for name in stars.labels.names}
    errors = {name: stars.labels.error(name) for name in stars.labels.names}
    thin = training_set_from_arrays(
        spectra.wavelength[pixels], spectra.flux[:, pixels], labels, ivar=spectra.ivar[:, pixels],
        star_id=spectra.star_id.tolist(), label_errors=errors, simulated=True, continuum=None,
        chips=[(spectra.wavelength[a], spectra.wavelength[b - 1]) for a, b in ranges],
    )  # fmt: skip
    test, shift = np.arange(TRAIN, TRAIN + TEST), None
    if kind == "hard":
        library = load_library()
        index = np.random.default_rng(seed).permutation(library.n_stars)
        faults = observed_faults(library, index, seed=seed, faults=KINDS[kind])
        test = test[~np.asarray(faults["BLEND"], dtype=bool)[test]]
        shift = np.asarray(faults["SHIFT"], dtype=float)
        shift = shift[test] - shift[:TRAIN].mean()
    return thin.select(np.arange(TRAIN)), thin.select(test), true.values[test], shift


def _look(kind, seed, names):
    training, test, true, _ = _set(kind, seed)
    settings = TrainingSettings(n_factors=N_FACTORS[kind], terms=names, folds=0)
    cannon = train(training, settings=settings, seed=seed)
    found, error = predict(cannon, test.spectra)
    if kind == "Gaia XP":
        error = np.hypot(error, np.nan_to_num(test.labels.errors))
    off = found - true
    terms = cannon.known_terms
    templates = None if terms is None else terms.templates(cannon.theta, cannon.used)
    mean = np.concatenate([cannon.theta, cannon.loadings], axis=1)
    mean[:, 0] -= 1
    density = predictive_density(
        test.spectra.flux, np.where(cannon.used, test.spectra.ivar, 0),
        Design.exact(cannon.basis(true)), mean, cannon.coef_cov, cannon.scatter, templates,
    )  # fmt: skip
    say(f"terms: {kind} {seed}, {names}: rms {np.sqrt(np.mean(off**2, axis=0))}, {terms}")
    return {
        "density": density,
        "rms": np.sqrt(np.mean(off**2, axis=0)),
        "covered": 100 * np.mean(np.abs(off) < error, axis=0),
        "scale": str(terms or ""),
    }


def _rest_frames():
    """The shift of every test star of a hard survey, by a cross-validated model."""
    training, test, _, shift = _set("hard", 1)
    settings = TrainingSettings(n_factors=10, terms=("shift",))
    cannon = train(training, settings=settings, seed=1)
    stats = infer_labels(cannon, test.spectra, settings=quick_inference(), seed=1)["star_stats"]
    error, sd = stats["shift"].values - shift, stats["shift_sd"].values
    pull = np.abs(error / sd)
    return (
        f"**Rest frames.** Shift of the {len(error)} single test stars of the first hard survey, "
        f"10 factors, κ = {', '.join(short(k) for k in cannon.kappa)} by cross-validation: true "
        f"shifts {short(float(np.std(shift)))} km/s rms, learnt scale "
        f"{short(float(cannon.term_scale[0]))} km/s, error {short(float(np.std(error)))} km/s rms "
        f"(robust {short(float(1.4826 * np.median(np.abs(error))))}, median quoted "
        f"{short(float(np.median(sd)))}); 68 % intervals hold {100 * np.mean(pull < 1):.0f} %, "
        f"95 % intervals {100 * np.mean(pull < 1.96):.0f} %. A pixel is 4.1 km/s."
    )
