"""Progress of the commands: bars on a terminal, a plain line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from bayes_cannon.transfer import DownloadProgress

__all__ = ["OUT", "counting", "downloading", "stages"]

# Without markup: the name of a path or of a star may hold brackets.
OUT = Console(highlight=False, soft_wrap=True, markup=False)
_ERR = Console(stderr=True)
_PLAIN_EVERY = 60.0  # seconds between two lines where there is no terminal


class _Rate(ProgressColumn):
    """Stars per second."""

    def render(self, task: Task) -> Text:
        """Draw the rate of a task."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="cyan")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Bar for ``progress(done, total)``, with how many a second."""
    if not _ERR.is_terminal:
        yield _plain(what)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=_ERR, transient=True) as bar:

        def show(done: int, total: int) -> None:
            # Not there before its work begins: corner plots follow the stars.
            if not bar.task_ids:
                bar.add_task(what, total=total)
            bar.update(bar.task_ids[0], completed=done, total=total)

        yield show


def _plain(what: str) -> Callable[[int, int], None]:
    """Lines for ``progress(done, total)``, one a minute: what is quicker says nothing."""
    start: tuple[float, int] | None = None
    said = 0.0

    def show(done: int, total: int) -> None:
        nonlocal start, said
        now = time.monotonic()
        if start is None:
            start, said = (now, done), now
        if now - said >= _PLAIN_EVERY:
            said, rate = now, (done - start[1]) / (now - start[0])
            _ERR.print(f"{what}: {done} of {total}, {rate:.1f}/s", highlight=False, soft_wrap=True)

    return show


@contextmanager
def stages(what: str) -> Iterator[Callable[[str, float], None]]:
    """Bar for ``progress(stage, fraction)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_ERR, disable=not _ERR.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda stage, done: bar.update(task, description=f"{what}: {stage}", completed=done)


@contextmanager
def downloading() -> Iterator[Callable[[DownloadProgress], None]]:
    """Say how much is to come, then how far it is, with rate and time left.

    A line that changes on a terminal; elsewhere a plain line a minute.
    """
    with _ERR.status("asking for the catalogue") as status:
        said: float | None = None

        def show(progress: DownloadProgress) -> None:
            nonlocal said
            if said is None:
                _ERR.print(
                    f"{progress.files_total} spectra to fetch, about "
                    f"{progress.bytes_total / 1e6:.1f} MB",
                    highlight=False,
                )
                said = progress.seconds
            if _ERR.is_terminal:
                status.update(str(progress))
            elif progress.seconds - said >= _PLAIN_EVERY:
                _ERR.print(str(progress), highlight=False, soft_wrap=True)
                said = progress.seconds

        yield show
