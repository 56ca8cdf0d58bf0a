"""Infer a whole set of stars into a run directory: posteriors, catalogue, figures, summary."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import Table

from bayes_cannon.cannon import Cannon
from bayes_cannon.catalogue import catalogue, comparison, write_catalogue
from bayes_cannon.figure_files import save_figure
from bayes_cannon.infer import infer_labels
from bayes_cannon.inference_settings import InferenceSettings
from bayes_cannon.labels import Labels
from bayes_cannon.plots_corner import plot_corner
from bayes_cannon.plots_stars import plot_one_to_one
from bayes_cannon.priors import LabelPriors
from bayes_cannon.run_store import RunStore, fingerprint, open_run
from bayes_cannon.spectra import NormalizedSpectra

__all__ = ["Run", "infer_run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    folder : Path
    result : xarray.DataTree
        Posteriors, read lazily.
    table : astropy.table.Table
        The catalogue.
    summary : dict
        What ``summary.json`` holds.
    """

    folder: Path
    result: xr.DataTree
    table: Table
    summary: dict[str, Any]


def infer_run(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    folder: str | os.PathLike[str],
    *,
    settings: InferenceSettings | None = None,
    priors: LabelPriors | None = None,
    seed: int = 0,
    aspcap: Labels | None = None,
    corner: Sequence[str] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Infer the labels of all `spectra` and write a run; goes on where an earlier one was cut off.

    Parameters
    ----------
    cannon, spectra, settings, priors, seed
        As for `infer_labels`.
    folder
        Where to write.
    aspcap
        The catalogue's labels, for comparison.
    corner
        Ids of the stars that get a corner plot.
    overwrite
        Replace a run that is there.
    progress
        Called with the number of stars done and of all stars.
    """
    settings = settings or InferenceSettings()
    started = time.monotonic()
    digest = fingerprint(cannon, spectra, settings, seed, repr(priors))
    store = RunStore(
        folder, spectra.star_id, block_size=settings.block_size, digest=digest, overwrite=overwrite
    )
    n_before = 0
    for number, rows in enumerate(store.blocks):
        if store.done(number):
            n_before += rows.stop - rows.start
            continue
        offset = rows.start

        def tell(done: int, _total: int, offset: int = offset) -> None:
            if progress is not None:
                progress(offset + done, spectra.n_stars)

        part = infer_labels(
            cannon, spectra.select(np.arange(rows.start, rows.stop)),
            settings=settings, priors=priors, seed=seed, progress=tell,
        )  # fmt: skip
        store.write(number, part)
    store.finish()
    seconds = time.monotonic() - started
    return _finish(store.folder, cannon, spectra, settings, seed, aspcap, corner, n_before, seconds)


def _finish(
    folder: Path,
    cannon: Cannon,
    spectra: NormalizedSpectra,
    settings: InferenceSettings,
    seed: int,
    aspcap: Labels | None,
    corner: Sequence[str],
    n_before: int,
    seconds: float,
) -> Run:
    result = open_run(folder)
    result["posterior"].attrs["simulated"] = int(spectra.simulated)
    table = catalogue(result, aspcap=aspcap)
    table.meta["SIMULATED"] = bool(spectra.simulated)
    write_catalogue(table, folder, overwrite=True)
    figures = folder / "figures"
    for star in corner:
        save_figure(plot_corner(result, star, aspcap=aspcap), figures / f"corner-{_safe(star)}.png")
    summary = _summary(table, settings, seed, spectra, n_before, seconds)
    if aspcap is not None and np.isfinite(aspcap.values).any():
        compared = comparison(table, aspcap)
        summary["against_catalogue"] = _rows(compared)
        save_figure(plot_one_to_one(table), figures / "one-to-one.png")
    summary["model"] = dict(cannon.settings)
    write_summary(folder, summary)
    return Run(folder, result, table, summary)


def _safe(star: str) -> str:
    return "".join(c if c.isalnum() or c in "+-._" else "_" for c in star)


def _rows(table: Table) -> list[dict[str, Any]]:
    return [
        {
            name: (v if isinstance(v, str) else float(v))
            for name, v in zip(row.colnames, row, strict=True)
        }
        for row in table
    ]


def _summary(
    table: Table,
    settings: InferenceSettings,
    seed: int,
    spectra: NormalizedSpectra,
    n_before: int,
    seconds: float,
) -> dict[str, Any]:
    rhat, ess = np.asarray(table["RHAT_MAX"]), np.asarray(table["ESS_MIN"])
    sampled = np.isfinite(rhat)
    return {
        "n_stars": len(table),
        "n_failed": int((~np.isfinite(np.asarray(table[table.meta["LABELS"].split(",")[0]]))).sum())
        if "LABELS" in table.meta
        else int((~sampled).sum()),
        "n_flagged": int((np.asarray(table["LABEL_FLAG"]) != 0).sum()),
        "n_from_earlier": n_before,
        "seconds": round(seconds, 2),
        "rhat_below_1.01": float(np.mean(rhat[sampled] < 1.01)) if sampled.any() else None,
        "ess_above_400": float(np.mean(ess[sampled] > 400)) if sampled.any() else None,
        "divergences": int(np.maximum(np.asarray(table["DIVERGENCES"]), 0).sum()),
        "method": settings.method,
        "seed": seed,
        "simulated": bool(spectra.simulated),
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json`` whole or not at all; NaN becomes null."""
    text = json.dumps(_plain(summary), indent=2, default=str, allow_nan=False)
    part = folder / ".summary.json.part"
    part.write_text(text + "\n")
    os.replace(part, folder / "summary.json")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
