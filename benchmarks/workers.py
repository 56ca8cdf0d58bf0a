"""`infer` in one process and by worker processes: stars per second, memory of each process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from common import library_set, say, short, table

from bayes_cannon.runs.results import open_run
from bayes_cannon.training.pipeline import train

TITLE = "Workers"
COMMAND = [sys.executable, "-m", "bayes_cannon"]


def watched(command: list[str]) -> tuple[float, float, list[float]]:
    """Wall-clock seconds of a command, and the largest resident memory of it and its workers, GB.

    Memory is looked at ten times a second; what workers map together counts in each.
    """
    peaks: dict[int, float] = {}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    own = psutil.Process(process.pid)
    while process.poll() is None:
        for one in _family(own):
            try:
                peaks[one.pid] = max(peaks.get(one.pid, 0.0), one.memory_info().rss / 2**30)
            except psutil.Error:
                continue
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    seconds = time.perf_counter() - start
    workers = [peak for pid, peak in peaks.items() if pid != process.pid and peak > 0.1]
    return seconds, peaks[process.pid], workers


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def inputs(folder: Path, n_stars: int) -> tuple[Path, Path]:
    """Files of a model of 7514 pixels and of stars that it was not trained on."""
    training, _ = library_set(600, seed=1)
    cannon = train(training, n_factors=15, seed=1)
    stars, _ = library_set(n_stars, seed=2)
    cannon.save(folder / "cannon.nc")
    stars.save(folder / "dataset.nc")
    return folder / "cannon.nc", folder / "dataset.nc"


def section(*, quick: bool) -> Iterator[str]:
    """Run `infer` with threads, and with one and two worker processes."""
    n_stars = 40 if quick else 400
    rows, rates = [], dict[str, float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = inputs(folder, n_stars)
        for engine in ("threads", "--workers 1", "--workers 2"):
            say(f"  {engine}")
            options = engine.split() if engine.startswith("--") else []
            run = folder / engine.replace(" ", "")
            seconds, own, workers = watched(
                [*COMMAND, "infer", *map(str, files), "-o", str(run), "--all-stars",
                 "--corner", "none", "--quiet", *options]
            )  # fmt: skip
            marks = sorted(p.stat().st_mtime for p in (run / "progress").glob("[0-9]*"))
            sampled = open_run(run).summary["seconds"]
            rates[engine] = n_stars / sampled
            of_each = " and ".join(f"{peak:.2f}" for peak in workers) or "–"
            rows.append(
                (engine, short(seconds), short(sampled), short(n_stars / sampled),
                 short(marks[-1] - marks[0]), f"{own:.2f}", of_each)
            )  # fmt: skip
    yield table(
        ("engine", "command, s", "sampling, s", "stars per s", "first block to last, s",
         "GB of the command", "GB of each worker"), rows,
    )  # fmt: skip
    share = rates["--workers 2"] / (2 * rates["--workers 1"])
    yield (
        f"{n_stars} stars of 7514 pixels, 15 factors, NUTS. Two workers do {share:.2f} of twice "
        "what one does; threads of one process use all cores too. Sampling includes the "
        "compilation of the label model, once in each process."
    )
