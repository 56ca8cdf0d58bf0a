"""Time and peak memory of a fit to spectra on disk, read by blocks of pixels; prints JSON.

python columns.py N_STARS N_PIXELS N_FACTORS [FOLDER]

Labels with errors and uncertain squares, as `train` hands them to `fit_map`; the spectra (8 bytes a
pixel, 3 GB for 50 000 stars of 7514 pixels) are written into the folder and removed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from memory import peak

from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.training.label_errors import WidenedIvar
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.columns import ColumnsOf
from bayes_cannon.training.pixels.fit import Design

NAMES = ("flux", "ivar")


class Disk:
    """Spectra in two files, pixel after pixel."""

    def __init__(self, folder: Path, n_stars: int, n_pixels: int) -> None:
        self.folder, self.n_stars, self.n_pixels = folder, n_stars, n_pixels

    def columns(self, pixels: slice) -> tuple[np.ndarray, ...]:
        """Read some pixels of all stars."""
        n = pixels.stop - pixels.start
        count, offset = n * self.n_stars, 4 * pixels.start * self.n_stars
        files = (self.folder / name for name in NAMES)
        read = (np.fromfile(file, np.float32, count, offset=offset) for file in files)
        return tuple(np.ascontiguousarray(a.reshape(n, -1).T) for a in read)


def main(n_stars: int, n_pixels: int, n_factors: int, folder: Path) -> None:
    """Write the spectra, fit them, say what it took."""
    rng = np.random.default_rng(1)
    units = ("K", "dex", "dex", "dex", "dex")
    basis = PolynomialBasis(DEFAULT_LABELS, units, np.zeros(5), np.ones(5), 2)
    x = basis.features(rng.standard_normal((n_stars, 5)))
    z = rng.standard_normal((n_stars, n_factors), dtype=np.float32)
    theta = 0.02 * rng.standard_normal((n_pixels, basis.n_terms))
    loading = 0.01 * rng.standard_normal((n_pixels, n_factors)) / np.sqrt(1 + np.arange(n_factors))
    single = [a.astype(np.float32) for a in (x, theta, loading)]
    with (folder / "flux").open("wb") as flux, (folder / "ivar").open("wb") as ivar:
        for a in range(0, n_pixels, 32):
            part = slice(a, min(a + 32, n_pixels))
            noise = 0.01 * rng.standard_normal((part.stop - a, n_stars), dtype=np.float32)
            (1 + single[1][part] @ single[0].T + single[2][part] @ z.T + noise).tofile(flux)
            np.full_like(noise, 2e4).tofile(ivar)
    design = replace(Design.exact(x), slopes=0.01 * rng.standard_normal((n_stars, x.shape[1], 5)))
    variance = 1e-6 * rng.random((n_stars, design.second.shape[1]), dtype=np.float32)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    read, weights = ColumnsOf.pair(Disk(folder, n_stars, n_pixels))
    fit = fit_map(
        read, WidenedIvar(weights, variance, theta), design, n_factors=n_factors, seed=0
    )  # fmt: skip
    found = {
        "seconds": time.perf_counter() - start, "core_seconds": time.process_time() - cpu,
        "peak_gb": peak(), "before_gb": before, "data_gb": n_stars * n_pixels * 8 / 2**30,
        "rounds": len(fit.bound), "converged": fit.converged,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[4] if len(sys.argv) > 4 else None) as name:
        main(*map(int, sys.argv[1:4]), Path(name))
