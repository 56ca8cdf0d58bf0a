"""The same training and test stars given to other Cannons, in environments of their own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import clock, library_set, say, short, table

from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.posterior import group_of, moments_of
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.gaia_xp import load_gaia_xp_giants
from bayes_cannon.surveys.simulation.faults import SurveyFaults
from bayes_cannon.training.pipeline import train

TITLE = "Against other Cannons"
PEERS = {
    "pollux": "pollux 0.1.0",
    "annieslasso": "AnniesLasso 0.2.96",
}
FOLDER = Path(os.environ.get("BAYES_CANNON_PEERS", Path(__file__).parents[1] / ".peers"))
"""Where each peer has an environment of its own, see README.md."""
EVERY = 8
"""Of the pixels of APOGEE every so manieth is taken."""
LIMIT = 900
"""Seconds that a peer may take."""


def section(*, quick: bool) -> Iterator[str]:
    """Clean, hard and real stars."""
    yield (
        "Each is given the same arrays, and the same stars are held out; no setting is tuned. "
        "Ours: all default (factors chosen, cross-validated, NUTS), calibrated errors. pollux's "
        "Cannon as its documentation trains it, errors from `latent_uncertainties`; AnniesLasso's "
        "quadratic without regularisation. "
        f"APOGEE's spectra are simulated, every {EVERY}th pixel. Rms is against true labels "
        "(simulated) or the catalogue's (Gaia XP); *covered* is the share of stars whose quoted "
        "error, with the catalogue's where the truth is not known, holds the difference: 68 % were "
        "right. Compilation is in the seconds."
    )
    n, m = (100, 50) if quick else (300, 200)
    for name, (training, test, true, errors) in _surveys(n, m):
        say(f"peers: {name}")
        yield _table(name, training, test, true, errors)


def _surveys(n, m):
    for name, faults in (("Clean", None), ("Hard", SurveyFaults.hard())):
        stars, true = library_set(n + m, seed=1, snr=None, faults=faults)
        spectra = stars.spectra
        few = NormalizedSpectra(
            spectra.star_id, spectra.wavelength[::EVERY], spectra.flux[:, ::EVERY],
            spectra.ivar[:, ::EVERY], simulated=True,
        )  # fmt: skip
        few = TrainingSet(spectra=few, labels=stars.labels)
        first, rest = np.arange(n), np.arange(n, n + m)
        truth = true.values[rest]
        yield name, (few.select(first), few.select(rest), truth, np.zeros_like(truth))
    stars = load_gaia_xp_giants().select(np.random.default_rng(1).permutation(1500)[: n + m])
    training, test = stars.select(np.arange(n)), stars.select(np.arange(n, n + m))
    yield "Real (Gaia XP)", (training, test, test.labels.values, test.labels.errors)


def _table(name, training, test, true, errors):
    found = {"ours": _ours(training, test)}
    notes = []
    for peer, text in PEERS.items():
        say(f"peers: {text}")
        done = _peer(peer, training, test)
        if isinstance(done, str):
            notes.append(f"{text}: {done}")
        else:
            found[text] = done
    rows = []
    for who, (labels, quoted, training_s, labelling_s) in found.items():
        off = labels - true
        total = np.hypot(quoted, np.nan_to_num(errors))
        known = np.isfinite(off) & np.isfinite(quoted)
        rms = [short(np.sqrt(np.mean(off[known[:, k], k] ** 2))) for k in range(off.shape[1])]
        held = [
            f"{100 * np.mean(np.abs(off[known[:, k], k]) < total[known[:, k], k]):.0f} %"
            for k in range(off.shape[1])
        ]
        rows.append((who, short(training_s), short(1e3 * labelling_s / len(off)),
                     int(known.all(axis=1).sum()), *(f"{r}; {h}" for r, h in zip(rms, held,
                     strict=True))))  # fmt: skip
    units = zip(training.labels.names, training.labels.units, strict=True)
    head = ("Cannon", "training, s", "labels, ms a star", "stars with errors",
            *(f"{label} ({unit}): rms; covered" for label, unit in units))  # fmt: skip
    parts = [
        f"**{name}**, {training.n_stars} training and {test.n_stars} test stars, "
        f"{training.spectra.n_pixels} pixels.",
        table(head, rows),
    ]
    return "\n\n".join([*parts, *notes])


def _ours(training, test):
    training_s, cannon = clock(lambda: train(training, seed=1))
    labelling_s, result = clock(lambda: infer_labels(cannon, test.spectra, seed=1))
    group = "calibrated_posterior" if "calibrated_posterior" in result.children else "posterior"
    moments = moments_of(group_of(result, group), training.labels.names)
    return moments.mean, moments.sd, training_s, labelling_s


def _peer(peer, training, test):
    """Labels, errors and seconds of another package; why there are none."""
    python = FOLDER / peer / "bin" / "python"
    if not python.exists():
        return f"not installed in {FOLDER.name}/{peer}, see benchmarks/README.md."
    errors, spread = training.labels.errors, training.labels.values.std(axis=0)
    given = {
        "labels": training.labels.values, "flux": training.spectra.flux,
        "ivar": training.spectra.ivar, "test_flux": test.spectra.flux,
        "test_ivar": test.spectra.ivar,
        "errors": np.where(np.isfinite(errors), errors, 0.05 * spread),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **given)
        script = Path(__file__).with_name("peer_fits.py")
        own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        try:
            done = subprocess.run(
                [python, script, peer, source, target], capture_output=True, text=True, env=own,
                timeout=LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not ready after {LIMIT} s."
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            return f"failed: {last[0]}"
        with np.load(target) as out:
            return (out["labels"], out["errors"], float(out["training"]), float(out["labelling"]))
