"""Short descriptions of objects: a few lines of text for a terminal, a card for a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = [
    "card",
    "lines",
]


def lines(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Text of a `__repr__`: the title, then a line for each row that says something.

    Parameters
    ----------
    title
        What the object is.
    rows
        Name and value of each property; one without a value is left out.

    >>> print(lines("Labels of 2 stars", [("labels", "TEFF, LOGG"), ("errors", "")]))
    Labels of 2 stars
      labels  TEFF, LOGG
    """
    shown = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in shown)])


def card(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """HTML of a `_repr_html_`: the title over a table of the rows that say something.

    Parameters
    ----------
    title, rows
        As for `lines`; plain text, which is escaped.

    >>> card("Labels", [("stars", "<2>")]).count("&lt;2&gt;")
    1
    """
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows
        if value
    )
    return f"<div><strong>{escape(title)}</strong><table>{cells}</table></div>"
