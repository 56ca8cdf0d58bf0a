"""Infer a whole set of stars into a run directory: posteriors, catalogue, figures, summary."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.analysis.catalogued.files import write_catalogue
from bayes_cannon.analysis.catalogues import catalogue, comparison
from bayes_cannon.base.columns import as_seed, one_or_more
from bayes_cannon.base.parallel import workers_of
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress, Tell, as_progress
from bayes_cannon.base.storage import told_writing
from bayes_cannon.base.stores.blocks import read_json
from bayes_cannon.errors import NoStarsError
from bayes_cannon.inference.arguments import KnownLabels, as_any_spectra, as_model
from bayes_cannon.inference.calibrated import ErrorModel
from bayes_cannon.inference.flags import is_flagged
from bayes_cannon.inference.infer import deliver_blocks
from bayes_cannon.inference.likelihood.pixels import pixels_needed
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.inference.summaries.keeping import MANY_STARS, chosen_keep
from bayes_cannon.inference.summaries.undone import warn_of_undone
from bayes_cannon.inference.tables import catalogue_name, reduction_story, star_ids
from bayes_cannon.inference.units import known_labels
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.models.model_priors import GivenPriors, priors_of
from bayes_cannon.plots.common import save_figure
from bayes_cannon.plots.stars import plot_one_to_one
from bayes_cannon.runs.corners import corner_files, draw_corners, refuse_both
from bayes_cannon.runs.fingerprint import digest_of_labels, fingerprint
from bayes_cannon.runs.inputs import describe_inputs
from bayes_cannon.runs.results import Run
from bayes_cannon.runs.store import RunStore, open_posterior
from bayes_cannon.runs.summary import plain_values, write_summary
from bayes_cannon.spectra.dataset import catalogue_name as catalogue_of_settings
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.spectra.star_ids import catalogue_column
from bayes_cannon.spectra.stored import AnySpectra

__all__ = [
    "infer_run",
]


_log = logging.getLogger(__name__)
_LARGE_BLOCK = 256
"""Stars of a block, at least, where moments of many stars are kept."""


def infer_run(
    cannon: Cannon | str | os.PathLike[str],
    spectra: Any,
    folder: str | os.PathLike[str],
    *,
    settings: InferenceSettings | None = None,
    priors: GivenPriors = None,
    seed: int | None = None,
    aspcap: KnownLabels | None = None,
    corner: str | Sequence[str] = (),
    inputs: Mapping[str, Sequence[str | os.PathLike[str]]] | None = None,
    processes: int = 1,
    executor: Executor | None = None,
    votable: bool = False,
    overwrite: bool = False,
    progress: Progress = None,
) -> Run:
    """Infer the labels of all `spectra` and write a run; goes on where an earlier one was cut off.

    The same call on a finished run ends at once with what is there.

    Parameters
    ----------
    cannon, spectra, settings, priors, seed
        As for `infer_labels`; without a seed, a run that is there goes on with its own, and a new
        one draws a fresh seed, which its summary holds. Of more than 20 000 stars the catalogue is
        written as FITS alone and, where ``keep`` says nothing else, moments are kept, in blocks of
        at least 256; messages say so.
    folder
        Where to write.
    aspcap
        The catalogue's labels, for comparison: `Labels`, a `TrainingSet`, or a table.
    corner
        Ids of the stars that get a corner plot.
    inputs
        Files of the model (``cannon``) and of the spectra (``spectra``), noted for reports.
    processes, executor
        Processes that draw corner plots (see `draw_corners`), or an executor, which samples stars
        too (see `infer_labels`).
    votable
        Write the catalogue as a VOTable, too: ``catalogue.vot``.
    overwrite
        Replace a run that is there.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    NoStarsError
        If there is no star.
    InvalidDataError
        If the spectra do not fit the model, or a star of `corner` is not among them.
    LabelError
        If there is a prior of a label that the model lacks.
    OutputExistsError
        If the folder holds something else or a different run, cannot be written, or another
        process writes it. What is done stays: the same call goes on.
    FileFormatError
        If the descriptions in a run that is there are damaged.
    """
    cannon, spectra = as_model(cannon), as_any_spectra(spectra)
    units = dict(zip(cannon.basis.names, cannon.basis.units, strict=True))
    catalogued = _catalogue_of(aspcap, cannon)
    aspcap = known_labels(aspcap, units)
    folder, corner = user_path(folder), list(one_or_more(corner, ids=True))
    if spectra.n_stars == 0:
        raise NoStarsError("there is no spectrum to infer labels from.")
    spectra.index_of(list(corner))
    refuse_both(executor, processes)
    settings = settings or InferenceSettings()
    many = spectra.n_stars > MANY_STARS
    settings = replace(settings, keep=chosen_keep(settings.keep, spectra.n_stars))
    if many and settings.keep == "moments":  # files of a few hundred bytes waste the disk
        settings = replace(settings, block_size=max(settings.block_size, _LARGE_BLOCK))
    priors = priors_of(cannon, priors)
    seed = as_seed(_seed_of(folder) if seed is None and not overwrite else seed)
    digests = fingerprint(cannon, spectra, settings, priors, seed)
    store = RunStore(
        folder, spectra.star_id, block_size=settings.block_size, digests=digests,
        simulated=spectra.simulated, catalogue=catalogued, overwrite=overwrite,
    )  # fmt: skip
    with told_writing(store.folder), store, as_progress(progress) as tell:
        pending = [store.blocks[b] for b in store.pending]
        n_new = sum(rows.stop - rows.start for rows in pending)
        _sample(cannon, spectra, store, settings, priors, seed, executor, tell)
        result = open_posterior(store.folder)
        few, failed = warn_of_undone(result, cannon, settings)
        table = catalogue(result, aspcap=aspcap)
        table.meta |= _provenance(cannon, settings, digests)
        write_catalogue(table, store.folder, votable=votable, text=not many, overwrite=True)
        if many:
            _log.warning("%d stars: the catalogue is in catalogue.fits alone.", spectra.n_stars)
        summary = {
            **_counts(table),
            "n_too_few_pixels": few,
            "n_numerical_failures": failed,
            "pixels_needed": pixels_needed(int(np.sum(cannon.used)), settings.min_pixels),
            **_times(store, spectra.n_stars, n_new),
            "method": settings.method,
            "seed": int(seed),
            "simulated": bool(spectra.simulated),
            "n_simulated": int(spectra.simulated_stars.sum()),
            **_reductions(table),
            "settings": settings.record(),
            "priors": _describe(priors),
        }
        compared = _compare(table, aspcap, store.folder / "figures")
        if compared is not None:
            summary["against_catalogue"] = compared
        draw = partial(
            draw_corners, aspcap=aspcap, processes=processes, executor=executor, progress=tell,
            snr=dict(zip(spectra.star_id.tolist(), spectra.snr.tolist(), strict=True)),
        )  # fmt: skip
        _corners(store.folder, table, aspcap, corner, draw)
        summary["model"] = dict(cannon.settings)
        if inputs:
            summary["inputs"] = describe_inputs(store.folder, inputs)
        summary = write_summary(store.folder, summary)
    return Run.made(store.folder, result, table, summary, cannon)


def _provenance(
    cannon: Cannon, settings: InferenceSettings, digests: Mapping[str, str]
) -> dict[str, str]:
    """Where a catalogue comes from: cards of its header."""
    release = str((cannon.settings.get("dataset") or {}).get("release", ""))
    tree = cannon.model_error
    nu = "" if tree is None else f"{float(np.median(ErrorModel.from_tree(tree).nu)):.2f}"
    said = {
        "VERSION": digests["version"], "METHOD": settings.method, "SEED": digests["seed"],
        "MODELDIG": digests["model"], "SPECDIG": digests["spectra"], "RELEASE": release,
        "ERRNU": nu,
    }  # fmt: skip
    return {name: text for name, text in said.items() if text}


def _catalogue_of(aspcap: KnownLabels | None, cannon: Cannon) -> str:
    """Name of the catalogue that labels are compared with; without, of that trained on."""
    trained = catalogue_of_settings(cannon.settings.get("dataset") or {})
    return catalogue_column(catalogue_name(aspcap, Table(meta={"CATALOG": trained})))


def _seed_of(folder: Path) -> int | None:
    """Seed of the run that is in a folder; None where there is none."""
    noted = str((read_json(folder / "progress" / "run.json") or {}).get("seed"))
    return int(noted) if noted.isdecimal() else None


def _sample(
    cannon: Cannon,
    spectra: AnySpectra,
    store: RunStore,
    settings: InferenceSettings,
    priors: LabelPriors,
    seed: int,
    executor: Executor | None,
    progress: Tell,
) -> None:
    """Do the blocks that are not done."""
    pending = store.pending
    if not pending:
        return
    parts = deliver_blocks(
        cannon, spectra, [store.blocks[b] for b in pending],
        store.writer(1 if executor is None else workers_of(executor)),
        settings=settings, priors=priors, seed=seed, executor=executor, progress=progress,
    )  # fmt: skip
    for number, part in zip(pending, parts, strict=True):
        store.take(number, part)


def _counts(table: Table) -> dict[str, Any]:
    """How many stars have what."""
    names = table.meta["LABELS"].split(",")
    flag = np.asarray(table["LABEL_FLAG"])
    rhat, ess = np.asarray(table["RHAT_MAX"]), np.asarray(table["ESS_MIN"])
    sampled = np.isfinite(rhat)
    bits = (text.partition("=") for text in filter(None, table.meta.get("FLAGS", "").split(",")))
    counts = {name: int(np.sum(flag & int(bit) != 0)) for bit, _, name in bits}
    return {
        "n_stars": len(table),
        "n_failed": int(np.sum(~_has_posterior(table))),
        "n_flagged": int(is_flagged(flag).sum()),
        "flags": {name: number for name, number in counts.items() if number},
        "rhat_below_1.01": float(np.mean(rhat[sampled] < 1.01)) if sampled.any() else None,
        "ess_above_400": float(np.mean(ess[sampled] > 400)) if sampled.any() else None,
        "divergences": int(np.maximum(np.asarray(table["DIVERGENCES"]), 0).sum()),
        "labels": names,
    }


def _reductions(table: Table) -> dict[str, Any]:
    """Versions of the pipeline of spectra and model, and whether these are the same."""
    found = {"spectra": table.meta.get("REDUCTN", ""), "model": table.meta.get("REDUCMOD", "")}
    told = reduction_story(table)
    return {"reduction": found | ({"note": told} if told else {})} if any(found.values()) else {}


def _has_posterior(table: Table) -> NDArray[np.bool_]:
    columns = [np.asarray(table[name]) for name in table.meta["LABELS"].split(",")]
    return np.isfinite(columns).all(axis=0)


def _times(store: RunStore, n_stars: int, n_new: int) -> dict[str, Any]:
    """Seconds of sampling; the time per star leaves out what is done once, like compiling."""
    seconds = store.seconds
    per_star = [s / (b.stop - b.start) for s, b in zip(seconds, store.blocks, strict=True)]
    return {
        "n_from_earlier": n_stars - n_new,
        "seconds": round(sum(seconds), 2),
        "seconds_per_star": float(f"{np.median(per_star):.4g}"),
    }


def _describe(priors: LabelPriors) -> dict[str, dict[str, Any]]:
    """Priors in plain words and numbers, infinite bounds left out."""
    out: dict[str, dict[str, Any]] = {}
    for name, prior in zip(priors.names, priors.priors, strict=True):
        kind = "uniform" if prior.is_uniform else "normal"
        numbers = {"lower": prior.lower, "upper": prior.upper}
        if not prior.is_uniform:
            numbers |= {"mean": prior.mean, "sd": prior.sd}
        finite = {k: float(v) for k, v in numbers.items() if np.isfinite(v)}
        if kind == "normal" and finite.keys() & {"lower", "upper"}:
            kind = "truncated"
        out[name] = {"distribution": kind, **finite}
    return out


def _compare(table: Table, aspcap: Labels | None, figures: Path) -> list[dict[str, Any]] | None:
    """Compare with the catalogue's labels where the stars have both."""
    names = table.meta["LABELS"].split(",")
    their = catalogue_column(catalogue_name(table))
    both = [np.isfinite(table[n]) & np.isfinite(table[f"{n}_{their}"]) for n in names]
    if aspcap is None or not np.any(both):
        return None
    save_figure(plot_one_to_one(table), figures / "one-to-one.png")
    rows = comparison(table, aspcap)
    return [dict(zip(rows.colnames, map(plain_values, row), strict=True)) for row in rows]


def _corners(
    folder: Path,
    table: Table,
    aspcap: Labels | None,
    wanted: Sequence[str],
    draw: Callable[[Path, Mapping[str, Path]], None],
) -> None:
    """Draw the corner plots that are not there yet."""
    star_id = star_ids(table).tolist()
    has = dict(zip(star_id, _has_posterior(table).tolist(), strict=True))
    without = [star for star in wanted if not has[star]]
    if without:
        _log.warning("stars without a posterior get no corner plot: %s", name_some(without))
    # The plots show the catalogue's labels too: with others they are drawn anew.
    shown, digest = folder / "progress" / "corner", digest_of_labels(aspcap)
    files = corner_files(star_id, folder / "figures")
    if not shown.exists() or shown.read_text() != digest:
        for path in files.values():
            path.unlink(missing_ok=True)
        shown.write_text(digest)
    todo = {s: files[s] for s in dict.fromkeys(wanted) if has[s] and not files[s].exists()}
    if todo:
        draw(folder, todo)
