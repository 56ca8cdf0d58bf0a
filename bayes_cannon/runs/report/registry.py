"""The register of a report's sections: the package's own and those of other packages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import entry_points

from bayes_cannon.errors import BayesCannonWarning, InvalidDataError
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.parts import Item, Section

__all__ = [
    "ENTRY_POINTS",
    "registered_sections",
    "remove_section",
    "section",
]


ENTRY_POINTS = "bayes_cannon.report"
"""Group of entry points of other packages; each names a module that registers sections."""
Maker = Callable[[ReportInputs], Iterable[Item]]
_sections: dict[str, Section] = {}


def section(
    key: str,
    title: str,
    see: str,
    *,
    needs: Sequence[str] = (),
    optional: bool = False,
    order: float | None = None,
    after: str | None = None,
) -> Callable[[Maker], Maker]:
    """Register a function as the maker of a section of every report to come.

    The function is given the `ReportInputs` of the run and yields what the section shows, in
    order: `Text`, `Heading`, `Note`, `Facts`, `Grid` and `Drawing` (a figure, which is drawn when
    it is its turn). What it raises becomes a line in the page; the other sections go on.

    Parameters
    ----------
    key
        Address of the section in the page: letters, digits and hyphens.
    title, see
        Its title, and a sentence or two on what to see in it.
    needs
        Attributes of `ReportInputs` without which it only says what is missing.
    optional
        Leave it out of the page where one of `needs` is missing.
    order
        Its place: the package's own have 10, 20, …
    after
        The section that it follows, in place of `order`; without either it comes last.

    Returns
    -------
    callable
        A decorator, which returns the function as it was.

    Raises
    ------
    InvalidDataError
        If the key is taken by another function or has other signs, `after` or one of `needs` is
        not known, or both `order` and `after` are given.

    Examples
    --------
    >>> from bayes_cannon.runs.report.parts import Text
    >>> @section("stars-count", "How many", "One number.", after="summary")
    ... def count(inputs):
    ...     yield Text(f"{len(inputs.table)} stars")
    >>> remove_section("stars-count")
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", key):
        raise InvalidDataError(f"the key {key!r} of a section must be letters, digits, hyphens.")
    known = {*ReportInputs.__dataclass_fields__, *vars(ReportInputs)}
    if unknown := [name for name in needs if name not in known or name.startswith("_")]:
        raise InvalidDataError(f"a report has no input {', '.join(unknown)}; see ReportInputs.")
    if order is not None and after is not None:
        raise InvalidDataError("give either the order of a section or after=, not both.")
    if after is not None and after not in _sections:
        raise InvalidDataError(f"no section {after!r} to come after; there are {_known()}.")
    if after is not None:
        order = _sections[after].order

    def register(make: Maker) -> Maker:
        there = _sections.get(key)
        if there is not None and _name(there.make) != _name(make):
            raise InvalidDataError(
                f"there is a section {key!r} already, made by {_name(there.make)}; choose another "
                "key or remove_section it first."
            )
        place = max((s.order for s in _sections.values()), default=0.0) if order is None else order
        _sections.pop(key, None)  # a cell of a notebook that runs again
        _sections[key] = Section(key, title, see, make, tuple(needs), optional, place)
        return make

    return register


def remove_section(key: str) -> None:
    """Take a section out of the reports to come.

    Parameters
    ----------
    key
        Of the section.

    Raises
    ------
    InvalidDataError
        If there is none of that key.
    """
    if key not in _sections:
        raise InvalidDataError(f"no section {key!r}; there are {_known()}.")
    del _sections[key]


def registered_sections() -> tuple[Section, ...]:
    """Sections in the order of the page; of the same place, in the order of registration."""
    _load_entry_points()
    return tuple(sorted(_sections.values(), key=lambda one: one.order))


@cache
def _load_entry_points() -> None:
    """Import what other packages register; one that fails is told of and left out."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            warnings.warn(
                f"the sections of {entry.value} are not in the report: "
                f"{type(error).__name__}: {error}",
                BayesCannonWarning,
                stacklevel=2,
            )


def _known() -> str:
    return ", ".join(_sections) or "none"


def _name(make: Maker) -> str:
    return f"{getattr(make, '__module__', '')}.{getattr(make, '__qualname__', repr(make))}"
