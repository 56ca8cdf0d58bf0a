"""How far a piece of work is: one way to be told, and bars for those who have none of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bayes_cannon.errors import InvalidDataError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Progress",
    "Tell",
    "as_progress",
    "bars",
]

Tell = Callable[[int, int, str], None]
"""Called with how much is done, of how much, and a short phrase of what ("training")."""
Progress = bool | Tell | None
"""True draws bars on stderr, False and None nothing; a function is told instead."""
_PLAIN_EVERY = 60.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def as_progress(given: Progress) -> Iterator[Tell]:
    """Return the function to tell, for as long as the work goes on.

    Parameters
    ----------
    given
        A function of (done, total, what) as it is; True: bars, which are gone in the end; False or
        None: a function that does nothing.

    Raises
    ------
    InvalidDataError
        If it is anything else.

    >>> with as_progress(lambda done, total, what: print(f"{what}: {done} of {total}")) as tell:
    ...     tell(1, 3, "stars")
    stars: 1 of 3
    """
    if given is None or given is False:
        yield _nothing
    elif given is True:
        from rich.console import Console

        with bars(Console(stderr=True)) as tell:
            yield tell
    elif callable(given):
        yield given
    else:
        raise InvalidDataError(
            "progress must be True, False or a function of (done, total, what), not an object of "
            f"type {type(given).__name__}."
        )


def _nothing(done: int, total: int, what: str) -> None:
    pass


@contextmanager
def bars(console: Console) -> Iterator[Tell]:
    """Bars, one for each `what`, on a terminal; elsewhere a plain line a minute.

    Parameters
    ----------
    console
        Where to draw.
    """
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(console)
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(),
        progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=console, transient=True) as drawn:
        known: dict[str, Any] = {}
        first: dict[str, tuple[float, int]] = {}

        def show(done: int, total: int, what: str) -> None:
            # Not there before its work begins: corner plots follow the stars.
            if what not in known:
                known[what] = drawn.add_task(what, total=total, rate="")
            now = time.monotonic()
            start, before = first.setdefault(what, (now, done))
            rate = _pace(done - before, now - start)
            drawn.update(known[what], completed=done, total=total, rate=rate)

        yield show


def _lines(console: Console) -> Tell:
    """Lines, one a minute: what is quicker says nothing."""
    first: dict[str, tuple[float, int]] = {}
    said = time.monotonic()

    def show(done: int, total: int, what: str) -> None:
        nonlocal said
        now = time.monotonic()
        start, before = first.setdefault(what, (now, done))
        if now - said >= _PLAIN_EVERY and now > start:
            said, pace = now, _pace(done - before, now - start)
            text = ", ".join(filter(None, [f"{what}: {done} of {total}", pace]))
            console.print(text, highlight=False, soft_wrap=True)

    return show


def _pace(done: int, seconds: float) -> str:
    """How many a second, or how many seconds each; nothing where none is done yet."""
    if done <= 0 or seconds <= 0:
        return ""
    return f"{done / seconds:.1f}/s" if done >= seconds else f"{seconds / done:.1f} s each"
