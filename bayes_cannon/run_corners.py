"""Corner plots of many stars of a run, drawn one after the other or by several processes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

import matplotlib as mpl

from bayes_cannon.figure_files import save_figure
from bayes_cannon.labels import Labels
from bayes_cannon.plots_corner import plot_corner
from bayes_cannon.run_store import open_run

__all__ = ["corner_files", "draw_corners"]

_LONGEST = 120
_FEW = 8
"""Figures that are drawn before another process would have started."""


def corner_files(star_id: Sequence[str], folder: Path) -> dict[str, Path]:
    """Path of the corner plot of each star, without signs that file systems dislike."""
    plain = {star: _plain(star) for star in star_id}
    times = Counter(name.lower() for name in plain.values())
    numbered = {
        star: f"{name}-{number}" if times[name.lower()] > 1 else name
        for number, (star, name) in enumerate(plain.items(), 1)
    }
    return {star: folder / f"corner-{name}.png" for star, name in numbered.items()}


def _plain(star: str) -> str:
    """Name for files: no slashes or other odd signs, and short enough for any file system."""
    name = "".join(c if c.isalnum() or c in "+-._" else "_" for c in star)
    return name.encode()[:_LONGEST].decode(errors="ignore")


def draw_corners(
    run: Path,
    files: Mapping[str, Path],
    *,
    aspcap: Labels | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw corner plots; each file is written whole or not at all.

    Parameters
    ----------
    run
        The run's directory.
    files
        File to write of each star.
    aspcap
        The catalogue's labels, marked in the plots.
    processes
        Processes that draw. More than one must not be asked for by a script without
        ``if __name__ == "__main__"``.
    progress
        Called with the number of plots drawn and of all.
    """
    stars = list(files)
    tell = progress or (lambda done, total: None)
    if processes > 1 and len(stars) > _FEW:
        context = get_context("spawn")
        workers = [
            context.Process(
                target=_draw, args=(run, {s: files[s] for s in stars[i::processes]}, aspcap)
            )
            for i in range(processes)
        ]
        try:
            for worker in workers:
                worker.start()
            while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
                wait(alive, timeout=0.5)
                tell(sum(path.exists() for path in files.values()), len(stars))
        finally:
            for worker in workers:
                worker.terminate()
                worker.join()
    left = {star: path for star, path in files.items() if not path.exists()}
    _draw(run, left, aspcap, lambda n: tell(len(stars) - len(left) + n, len(stars)))


def _draw(
    run: Path,
    files: Mapping[str, Path],
    aspcap: Labels | None,
    tell: Callable[[int], None] | None = None,
) -> None:
    parent = parent_process()
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        mpl.use("Agg")
    result = open_run(run)
    for number, (star, path) in enumerate(files.items(), 1):
        if parent is not None and not parent.is_alive():
            return
        known = aspcap is not None and bool((aspcap.star_id == star).any())
        figure = plot_corner(result, star, aspcap=aspcap if known else None)
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        save_figure(figure, part)
        os.replace(part, path)
        if tell is not None:
            tell(number)
