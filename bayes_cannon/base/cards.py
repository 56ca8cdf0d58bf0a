"""What an object shows of itself: a few lines in a terminal, a small table in a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "SIMULATED",
    "Carded",
    "Row",
    "card",
    "count_text",
    "lines",
    "range_text",
    "simulated_mark",
    "simulated_text",
]

Row = tuple[str, str]
"""A fact: what it is, and its value. Rows without a value are left out."""
SIMULATED = " (SIMULATED)"
"""Behind the title of what is not observed."""
_LONGEST = 96


def simulated_text(which: ArrayLike) -> str:
    """What is simulated of some stars: ``''``, ``'SIMULATED'``, or how many of them are.

    Parameters
    ----------
    which : (n_stars,) bool
        Whether each is.

    Examples
    --------
    >>> simulated_text([True, True]), simulated_text([True, False, False]), simulated_text([False])
    ('SIMULATED', '1 of 3 SIMULATED', '')
    """
    marks = np.atleast_1d(np.asarray(which, dtype=np.bool_))
    if not marks.any():
        return ""
    return "SIMULATED" if marks.all() else f"{marks.sum()} of {marks.size} SIMULATED"


def simulated_mark(which: ArrayLike) -> str:
    """The same to stand behind a title, in parentheses.

    Parameters
    ----------
    which : (n_stars,) bool
        Whether each is.
    """
    text = simulated_text(which)
    return f" ({text})" if text else ""


class Carded:
    """What shows itself by a few facts: `_facts` returns its title and rows."""

    def _facts(self) -> tuple[str, Iterable[Row]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return lines(*self._facts())

    def _repr_html_(self) -> str:
        return card(*self._facts())


def lines(title: str, rows: Iterable[Row]) -> str:
    """Title and facts as text, a line each, or two.

    Parameters
    ----------
    title
        What the object is.
    rows
        Its facts.

    Examples
    --------
    >>> print(lines("Labels of 3 stars", [("TEFF", "4500 to 4700 K"), ("problems", "")]))
    Labels of 3 stars
      TEFF  4500 to 4700 K
    """
    shown = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in shown), default=0)
    facts = (_wrapped(f"  {name:<{width}}  {value}", " " * (width + 4)) for name, value in shown)
    return "\n".join([_wrapped(title, "  "), *facts])


def card(title: str, rows: Iterable[Row]) -> str:
    """Title and facts as HTML for a notebook; text is escaped.

    Parameters
    ----------
    title
        What the object is.
    rows
        Its facts.

    Examples
    --------
    >>> "<td>&lt;1&gt;</td>" in card("Labels", [("stars", "<1>")])
    True
    """
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
        if value
    )
    return (
        f'<div class="bayes-cannon-card"><strong>{escape(title)}</strong>'
        f"<table>{cells}</table></div>"
    )


def count_text(number: int | np.integer[Any], what: str, form: str = "") -> str:
    """Return a number of things in words.

    Parameters
    ----------
    number
        How many.
    what
        One of them.
    form
        Of the number, such as ``','``.

    Examples
    --------
    >>> count_text(1, "star"), count_text(1500, "star", ","), count_text(0, "spectrum")
    ('1 star', '1,500 stars', '0 spectra')
    """
    if number != 1:
        start, ending = next((e for e in _PLURALS if what.endswith(e[0])), ("", "s"))
        what = what.removesuffix(start) + ending
    return f"{number:{form}} {what}"


_PLURALS = (("spectrum", "spectra"), ("gravity", "gravities"), ("process", "processes"))
"""Endings of words, and those of their plurals, where that is not an s behind."""


def range_text(values: ArrayLike, digits: int = 0, unit: str = "") -> str:
    """Smallest and largest known value as text; '' without any.

    Parameters
    ----------
    values : (...) float
        NaN where unknown.
    digits
        Places after the point.
    unit
        Written behind.

    Examples
    --------
    >>> range_text([4500.0, float("nan"), 4700.0], unit="K")
    '4500 to 4700 K'
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = numbers[np.isfinite(numbers)]
    if not known.size:
        return ""
    low, high = (f"{v + 0.0:.{digits}f}".replace("-", "−") for v in (known.min(), known.max()))
    text = low if low == high else f"{low} to {high}"
    return f"{text} {unit}".rstrip()


def _wrapped(line: str, indent: str) -> str:
    """A line, or two where it is long."""
    return "\n".join(
        textwrap.wrap(
            line, _LONGEST, subsequent_indent=indent, max_lines=2,
            placeholder=" …", break_on_hyphens=False,
        )
    )  # fmt: skip
