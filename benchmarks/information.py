"""Where the information on abundances is, and what confining them to lines costs and gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from accuracy import predict
from common import library_set, say, short, table

from bayes_cannon.analysis.information import (
    OTHERS,
    OWN,
    line_information,
    line_windows,
    near_lines,
)
from bayes_cannon.analysis.lines import lines_of
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import observe
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Where the information is"
TRAINING, HELD_OUT = np.arange(400), np.arange(400, 600)
SNR, STEP = 150.0, 0.2
MOVED = ("MG_FE", "SI_FE")
NAMES = ("Teff", "log g", "[Fe/H]", "[Mg/Fe]", "[Si/Fe]")


def section(*, quick: bool) -> Iterator[str]:
    """Shares of groups of lines; rms and responses with and without windows."""
    seeds, factors = ((1,), (0,)) if quick else ((1, 2), (0, 15))
    yield (
        f"400 library stars of S/N {SNR:g} to train on, 200 held out, means over {len(seeds)} "
        "seeds. Lines: `windows=line_windows(...)`, [Mg/Fe] and [Si/Fe] confined to ±1.5 Å about "
        "their listed lines. Own lines, no line: shares of the information, sum of (g/σ)², and of "
        "the optimal filter, in pixels near the label's lines and near no listed line "
        "(`line_information`). Response: change of the inferred abundance, over the true one, "
        f"where that element alone is raised by {STEP:g} dex while C, N, O and all else stay, in "
        "its listed lines or in all pixels (by a regression of the noise-free library on all its "
        "labels); 1 measures the element, 0 its company. Slope: of the inferred against the true "
        "deviation of the abundance from what the other 13 abundances and Teff, log g, [Fe/H] say "
        "of it, over the held-out stars as they are."
    )
    found = {(j, confined): [] for j in factors for confined in (False, True)}
    for seed in seeds:
        _one(seed, found)
    yield "**Price: rms of held-out stars against the truth (K, dex).**\n\n" + table(
        ("model", *NAMES),
        ((_name(*way), *map(short, np.mean([one["rms"] for one in all_], axis=0)))
         for way, all_ in found.items()),
    )  # fmt: skip
    for label in MOVED:
        rows = (
            (_name(*way), *(short(float(np.mean([one[label, what] for one in all_])))
                            for what in ("known", "own", "none", "lines", "all", "slope")))
            for way, all_ in found.items()
        )  # fmt: skip
        yield f"**{NAMES[DEFAULT_LABELS.index(label)]}.**\n\n" + table(
            ("model", "information in own lines", "filter: own lines", "filter: no line",
             "response in lines", "in all pixels", "slope"), rows,
        )  # fmt: skip


def _name(n_factors, confined):
    return f"{n_factors} factors, {'lines' if confined else 'all pixels'}"


def _one(seed, found):
    stars, true = library_set(seed=seed, snr=SNR)
    training, test = stars.select(TRAINING), stars.select(HELD_OUT)
    truth = true.values[HELD_OUT]
    index = np.array([int(name.removeprefix("giant-")) for name in test.star_id])
    for n_factors, confined in found:
        windows = line_windows(DEFAULT_LABELS) if confined else None
        settings = TrainingSettings(n_factors=n_factors, folds=0)
        cannon = train(training, settings=settings, windows=windows, seed=seed)
        labels, _ = predict(cannon, test.spectra)
        plain, _ = predict(cannon, _observed(load_library(), index, seed))
        shares = line_information(cannon, snr=SNR)
        one = {"rms": np.sqrt(np.nanmean((labels - truth) ** 2, axis=0))}
        for label in MOVED:
            k = DEFAULT_LABELS.index(label)
            for where in ("lines", "all"):
                moved, _ = predict(cannon, _observed(_moved(label, where), index, seed))
                one[label, where] = np.nanmean(moved[:, k] - plain[:, k]) / STEP
            one[label, "slope"] = _slope(label, index, labels[:, k])
            for what, column, group in (
                ("known", "INFORMATION", OWN), ("own", "FILTER", OWN), ("none", "FILTER", OTHERS),
            ):  # fmt: skip
                row = (shares["LABEL"] == label) & (shares["GROUP"] == group)
                one[label, what] = float(shares[column][row][0])
        found[n_factors, confined].append(one)
        say(f"information: seed {seed}, {_name(n_factors, confined)}: {one}")


def _observed(library, index, seed):
    return observe(library, index, snr=SNR, seed=seed)


def _standard(name):
    values = load_library().values(name)
    return (values - values.mean()) / values.std()


def _moved(label, where):
    """The library with one abundance raised by `STEP`, everything else as it is.

    The derivative of the flux is that of a regression of the noise-free library on all its labels,
    products with Teff, log g and [Fe/H] included.
    """
    library = load_library()
    main = [_standard(name) for name in ("TEFF", "LOGG", "FE_H")]
    rest = [_standard(name) for name in library.names[3:]]
    own = _standard(label)
    products = [a * b for i, a in enumerate(main) for b in main[i:]]
    slopes = [np.ones_like(own), *main]
    others = [np.ones_like(own), *main, *rest, *products]
    others = [column for column in others if column is not own and not np.allclose(column, own)]
    design = np.stack([*(own * slope for slope in slopes), *others], axis=1)
    coefficients = np.linalg.lstsq(design, library.flux.astype(np.float64), rcond=None)[0]
    change = np.stack(slopes, axis=1) @ coefficients[: len(slopes)]
    change *= STEP / library.values(label).std()
    if where == "lines":
        change[:, ~near_lines(library.wavelength, lines_of(label), 1.5)] = 0
    return replace(library, flux=library.flux + change.astype(np.float32))


def _slope(label, index, inferred):
    """Slope of the inferred against the true deviation from what the other labels say."""
    library = load_library()
    names = [n for n in library.names if n not in (label, "VMICRO", "VMACRO", "RESOLUTION")]
    design = np.stack([np.ones(library.n_stars), *map(_standard, names)], axis=1)
    values = library.values(label)
    expected = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    deviation = (values - expected)[index]
    found = inferred - expected[index]
    good = np.isfinite(found)
    return np.polyfit(deviation[good], found[good], 1)[0]
