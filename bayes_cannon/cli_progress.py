"""Progress of the commands: bars on a terminal, silence elsewhere."""

from __future__ import annotations

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

OUT = Console(highlight=False, soft_wrap=True)
_ERR = Console(stderr=True)


class _Rate(ProgressColumn):
    """Stars per second."""

    def render(self, task: Task) -> Text:
        """Draw the rate of a task."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="cyan")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Bar for ``progress(done, total)``."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=_ERR, disable=not _ERR.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages(what: str) -> Iterator[Callable[[str, float], None]]:
    """Bar for ``progress(stage, fraction)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_ERR, disable=not _ERR.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda stage, done: bar.update(task, description=f"{what}: {stage}", completed=done)


@contextmanager
def downloading() -> Iterator[Callable[[DownloadProgress], None]]:
    """Line that says how far a download is, with rate and time left."""
    with _ERR.status("asking for the catalogue") as status:
        announced = False

        def show(progress: DownloadProgress) -> None:
            nonlocal announced
            if not announced:
                OUT.print(str(progress))
                announced = True
            status.update(str(progress))

        yield show
