"""Corner plots of many stars of a run, drawn one after the other or by an executor."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import connection, get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from bayes_cannon.base.engines.engine import WorkerLostError
from bayes_cannon.base.parallel import as_executor
from bayes_cannon.base.progress import Progress, Tell, as_progress
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.plots.common import BLACK, BLUE, GREEN, ORANGE
from bayes_cannon.plots.corner import plot_corner
from bayes_cannon.runs.results import Run, folder_of
from bayes_cannon.runs.store import open_posterior
from bayes_cannon.spectra.label_kinds import (
    LabelKind,
    register_label_kind,
    registered_label_kinds,
)
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "corner_files",
    "draw_corners",
    "refuse_both",
]


_log = logging.getLogger(__name__)
_LONGEST = 120
_WHAT = "corner plots"
_FEW = 8
"""Figures that are drawn before another process would have started."""
_BATCH = 12
"""Figures that one call of a worker draws: it opens the run once and uses one canvas for all."""
_DPI = 110
_drawing = threading.Lock()
"""Matplotlib draws one figure at a time; with an executor of threads they take turns."""
_stop: Event | None = None
"""Set by `draw_corners` in its own processes: they end after the figure at hand."""


def corner_files(star_id: Sequence[str], folder: Path) -> dict[str, Path]:
    """Path of the corner plot of each star, without signs that file systems dislike.

    Parameters
    ----------
    star_id
        Names of all stars of the run.
    folder
        Where the figures are.
    """
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
    run: Run | str | os.PathLike[str],
    files: Mapping[str, Path],
    *,
    aspcap: Labels | None = None,
    snr: Mapping[str, float] | None = None,
    processes: int = 1,
    executor: Executor | None = None,
    progress: Progress = None,
) -> None:
    """Draw the corner plots that are not there yet; each file is written whole or not at all.

    What is drawn stays when it is interrupted, and the same call goes on.

    Parameters
    ----------
    run
        A run, or its directory.
    files
        File to write of each star.
    aspcap
        The catalogue's labels, marked in the plots.
    snr
        S/N per pixel by star, for the titles.
    processes
        Processes that draw. More than one must not be asked for by a script without
        ``if __name__ == "__main__"``.
    executor
        Draws in place of processes of our own; it is left open. Its workers must see the same
        files. Threads take turns and gain nothing.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    InvalidDataError
        If both an executor and a number of processes are given, or a star has no posterior.
    """
    refuse_both(executor, processes)
    folder = folder_of(run)
    with as_progress(progress) as tell:
        todo = [star for star, path in files.items() if not path.exists()]
        executor = as_executor(executor)
        if executor is not None:
            try:
                _draw_with(executor, folder.resolve(), files, todo, aspcap, snr, tell)
            except (FileFormatError, WorkerLostError) as error:
                _log.warning(
                    "workers could not draw all corner plots (%s); the others are drawn here. "
                    "Workers of other machines must see %s.",
                    str(error).rstrip("."), folder.resolve(),
                )  # fmt: skip
        elif processes > 1 and len(todo) > _FEW:
            try:
                with _processes(min(processes, len(todo))) as pool:
                    _draw_with(pool, folder, files, todo, aspcap, snr, tell)
            except BrokenProcessPool:
                _log.warning(
                    "a process that drew corner plots ended early (out of memory, or a script "
                    "without an `if __name__ == '__main__'`); the others are drawn one after the "
                    "other."
                )
        left = {star: path for star, path in files.items() if not path.exists()}
        there, n = len(files) - len(left), len(files)
        _draw(folder, left, aspcap, snr, lambda done: tell(there + done, n, _WHAT))


def refuse_both(executor: Executor | None, processes: int) -> None:
    """Raise where both an executor and a number of processes are given.

    Parameters
    ----------
    executor, processes
        As for `draw_corners`.

    Raises
    ------
    InvalidDataError
    """
    if executor is not None and processes != 1:
        raise InvalidDataError("pass either an executor or a number of processes, not both.")


def _draw_with(
    executor: Executor,
    run: Path,
    files: Mapping[str, Path],
    todo: Sequence[str],
    aspcap: Labels | None,
    snr: Mapping[str, float] | None,
    tell: Tell,
) -> None:
    """Draw in batches by an executor; what a worker raises is raised here."""
    batches = [todo[i : i + _BATCH] for i in range(0, len(todo), _BATCH)]
    futures = [
        executor.submit(
            _draw, run, {s: files[s].resolve() for s in batch}, _part_of(aspcap, batch),
            None if snr is None else {s: snr[s] for s in batch if s in snr},
        )
        for batch in batches
    ]  # fmt: skip
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when="FIRST_COMPLETED")
            for future in done:
                future.result()
            tell(sum(path.exists() for path in files.values()), len(files), _WHAT)
    finally:
        for future in futures:
            future.cancel()


def _part_of(aspcap: Labels | None, stars: Sequence[str]) -> Labels | None:
    """Labels of a few stars, so that a worker is not sent those of a survey."""
    if aspcap is None:
        return None
    rows = np.flatnonzero(np.isin(aspcap.star_id, list(stars)))
    return aspcap.select(rows) if rows.size else None


@contextmanager
def _processes(n: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end soon after an error or Ctrl-C here, and with this process."""
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        n, mp_context=context, initializer=_start, initargs=(stop, registered_label_kinds())
    )
    try:
        yield pool
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(stop: Event, kinds: Sequence[LabelKind]) -> None:
    """Prepare a process of ours: Ctrl-C is its parent's affair, whose end is its own."""
    for kind in kinds:
        register_label_kind(kind, replace=True)
    global _stop  # noqa: PLW0603 (an initializer can leave what it was given nowhere else)
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mpl.use("Agg")
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _draw(
    run: Path,
    files: Mapping[str, Path],
    aspcap: Labels | None,
    snr: Mapping[str, float] | None,
    tell: Callable[[int], None] | None = None,
) -> None:
    """Draw plots on one canvas, one after the other."""
    if not files or (_stop is not None and _stop.is_set()):
        return
    result, figure = open_posterior(run), Figure()
    known = set() if aspcap is None else set(aspcap.star_id.tolist())
    for number, (star, path) in enumerate(files.items(), 1):
        if _stop is not None and _stop.is_set():
            return
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _drawing:
            plot_corner(
                result, star, aspcap=aspcap if star in known else None,
                snr=None if snr is None else snr.get(star), figure=figure,
            )  # fmt: skip
            _save(figure, part)
        os.replace(part, path)
        if tell is not None:
            tell(number)


def _save(figure: Figure, path: Path) -> None:
    """Write a corner plot as a PNG of few colours: a third of the size, in a fifth of the time."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    few = pixels.quantize(palette=_palette(), dither=Image.Dither.NONE)
    few.save(path, format="png", compress_level=3, dpi=(_DPI, _DPI))


@cache
def _palette() -> Image.Image:
    """The colours of corner plots: what anti-aliasing makes of every pair that meets in them."""
    white, black, blue, orange, green = (
        np.array(to_rgb(color)) for color in ("white", BLACK, BLUE, ORANGE, GREEN)
    )
    fills = [(1 - a) * white + a * orange for a in (0.25, 0.45)]
    pairs = [(white, c) for c in (black, blue, orange, green)]
    pairs += [(fill, c) for fill in fills for c in (blue, orange)]
    pairs += [(fills[0], green), (fills[0], black), (fills[1], green)]
    steps = np.linspace(0, 1, 19)[1:, None]  # none so near to white that it is taken for white
    colors = np.concatenate([white[None], *((1 - steps) * a + steps * b for a, b in pairs), fills])
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(255 * colors).astype(np.uint8).ravel().tolist())
    return image
