"""Stars that could not be used, and reading one star after the other without stopping at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bayes_cannon.base.progress import Progress, as_progress

__all__ = [
    "StarProblem",
    "read_each",
]


@dataclass(frozen=True)
class StarProblem:
    """A star, or a row of a catalogue, that could not be used, and why.

    Attributes
    ----------
    star_id : str
        Name of the star, as in the catalogue, or as given or told by the file's name.
    path : str
        The spectrum's file or its address; empty where there is none.
    message : str
        What is wrong, and the remedy where there is one.
    row : int or None
        Its row in the survey's catalogue, where that is known.
    """

    star_id: str
    path: str
    message: str
    row: int | None = None


def read_each[Path, Read](
    paths: Sequence[Path],
    read: Callable[[int, Path], Read],
    name: Callable[[int, Path], str],
    problems: list[StarProblem],
    *,
    expected: tuple[type[Exception], ...] = (Exception,),
    progress: Progress = None,
) -> Iterator[tuple[int, Read]]:
    """Read one star after the other; one that cannot be read never stops the others.

    Parameters
    ----------
    paths
        Of the stars' files.
    read
        Reads a file, given its place in the list and its path.
    name
        Name of the star of a file that cannot be read.
    problems
        Gets the stars that could not be read.
    expected
        What `read` raises for a file that is of no use; a user's reader may raise anything.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`.

    Yields
    ------
    int
        Place of a file in the list.
    Read
        What was read from it.
    """
    with as_progress(progress) as tell:
        for place, path in enumerate(paths):
            try:
                found = read(place, path)
            except expected as error:
                text = str(error) or type(error).__name__
                problems.append(StarProblem(name(place, path), str(path), text))
            else:
                yield place, found
            tell(place + 1, len(paths), "reading spectra")
