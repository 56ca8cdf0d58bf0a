"""Memory and time of a dataset that stays on disk; prints a line of JSON for each step.

python stored.py write SET.nc OUT.zarr N_STARS         copies of its spectra with noise of their own
python stored.py read OUT.zarr                         all pixels of 64 stars, 256 pixels of all
python stored.py infer MODEL.nc OUT.zarr RUN N_STARS   Laplace, of a part of the dataset
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import peak


def _write(source: str, out: str, n_stars: str) -> dict[str, Any]:

    from bayes_cannon.base.stores.rows import RowStore, write_block
    from bayes_cannon.spectra.files.storing import PIXELS, finish_set, row_facts
    from bayes_cannon.spectra.labels import Labels
    from bayes_cannon.spectra.stored import StoredSet, StoredSpectra, open_dataset

    stars, n = open_dataset(source).in_memory(), int(n_stars)
    spectra, start = stars.spectra, time.perf_counter()
    star_id = np.array([f"star{k:07d}" for k in range(n)])
    of = np.arange(n) % stars.n_stars
    store = RowStore(Path(out), PIXELS, (n, spectra.n_pixels), digest=f"copies {n}")
    with store:
        for block in store.pending:
            rows = of[store.blocks[block]]
            rng, ivar = np.random.default_rng(block), spectra.ivar[rows]
            noise = rng.standard_normal(ivar.shape, dtype=np.float32)
            size = np.sqrt(1 / np.maximum(ivar, 1e-6), dtype=np.float32)
            flux = np.where(ivar > 0, spectra.flux[rows] + size * noise, np.float32(1))
            ivar = ivar * rng.uniform(0.4, 0.6, (rows.size, 1)).astype(np.float32)
            write_block(store.folder, block, {"flux": flux, "ivar": ivar}, row_facts(ivar), 0.0)
        n_good = np.array([m for facts in store.facts() for m in facts["n_good"]])
        kept = StoredSpectra(
            path=store.folder, row=np.arange(n), star_id=star_id, wavelength=spectra.wavelength,
            snr=spectra.snr[of], n_good=n_good, chips=spectra.chips, simulated=True,
        )  # fmt: skip
        labels = stars.labels
        known = Labels(labels.names, labels.values[of], labels.errors[of], star_id, labels.units)
        made = StoredSet(kept, known, settings=stars.settings)
        finish_set(store, made, kept.row, n_good)
    size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    return {"seconds": time.perf_counter() - start, "peak_gb": peak(), "disk_gb": size / 1e9}


def _read(path: str) -> dict[str, Any]:
    from bayes_cannon.runs.fingerprint import digest_of_spectra
    from bayes_cannon.spectra.stored import StoredSet

    found: dict[str, Any] = {}
    start = time.perf_counter()
    spectra = StoredSet.load(path).spectra
    found["open"] = time.perf_counter() - start
    start = time.perf_counter()
    for first in range(0, 640, 64):
        spectra.rows(slice(first, first + 64))
    found["rows64"] = (time.perf_counter() - start) / 10
    start = time.perf_counter()
    flux, _ = spectra.columns(slice(3000, 3256))
    found |= {"columns256": time.perf_counter() - start, "columns_gb": flux.nbytes / 2**29}
    start = time.perf_counter()
    digest_of_spectra(spectra)
    return found | {"digest": time.perf_counter() - start, "peak_gb": peak()}


def _infer(model: str, path: str, run: str, n_stars: str) -> dict[str, Any]:
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.runs.run import infer_run
    from bayes_cannon.spectra.stored import StoredSet

    start = time.perf_counter()
    spectra = StoredSet.load(path).spectra
    part = spectra.select(slice(0, int(n_stars)))
    settings = InferenceSettings(method="laplace")
    infer_run(model, part, run, settings=settings, seed=1, overwrite=True)
    return {"seconds": time.perf_counter() - start, "peak_gb": peak()}


if __name__ == "__main__":
    steps = {"write": _write, "read": _read, "infer": _infer}
    print(json.dumps({sys.argv[1]: steps[sys.argv[1]](*sys.argv[2:])}))
