"""A page of HTML in one file: texts, figures and sortable tables, with nothing loaded from outside.

Every text goes through `escape`, so that the name of a star cannot become part of the page; and
the page's own content security policy allows the one script and the one style sheet that it was
written with, images inside the page, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.resources import data_path

__all__ = ["GENERATOR", "Chapter", "Column", "Facts", "Grid", "Heading", "Note", "Page", "Part",
           "Picture", "Text", "escape", "plain"]  # fmt: skip

GENERATOR = "bayes-cannon report"
"""What the page names as its generator: a file with it may be replaced by a new report."""
_PNG = b"\x89PNG\r\n\x1a\n"


def plain(text: object) -> str:
    """Text without control characters, nor those that turn the direction of writing."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def escape(text: object) -> str:
    """Text as it stands in a page, between tags and inside quoted attributes alike.

    >>> escape("<b title='x'>")
    '&lt;b title=&#x27;x&#x27;&gt;'
    """
    return html.escape(plain(text), quote=True)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """Return the part of the page."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Heading:
    """A heading inside a chapter."""

    text: str

    def html(self) -> str:
        """Return the part of the page."""
        return f"<h3>{escape(self.text)}</h3>"


@dataclass(frozen=True)
class Note:
    """A remark that stands out: a warning, or (`gone`) something that is not there and why."""

    text: str
    gone: bool = False

    def html(self) -> str:
        """Return the part of the page."""
        return f'<p class="{"gone" if self.gone else "note"}">{escape(self.text)}</p>'


@dataclass(frozen=True)
class Facts:
    """A few numbers, each with its name."""

    facts: Sequence[tuple[str, str]]

    def html(self) -> str:
        """Return the part of the page."""
        cells = (f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in self.facts)
        return f'<dl class="facts">{"".join(cells)}</dl>'


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes
    ----------
    png : bytes
        Content of a PNG file.
    alt : str
        What the figure is of, for those who do not see it.
    caption : str
        Shown below; left out where empty.

    Raises
    ------
    InvalidDataError
        If the content is no PNG file.
    """

    png: bytes
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG) or len(self.png) < 24:
            raise InvalidDataError(f"the figure of {plain(self.alt)} is not a PNG file.")

    def html(self) -> str:
        """Return the part of the page."""
        width, height = struct.unpack(">II", self.png[16:24])
        data = base64.b64encode(self.png).decode()
        below = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return (
            f'<figure><img width="{width}" height="{height}" alt="{escape(self.alt)}" '
            f'src="data:image/png;base64,{data}">{below}</figure>'
        )


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    title : str
        With its unit.
    form : str
        Of numbers, as for `format`; empty for a column of text.
    kind : str
        ``""``, ``"id"`` (kept in one line) or ``"wide"``.
    """

    title: str
    form: str = ""
    kind: str = ""

    def cell(self, value: object) -> str:
        """Return a cell; a number that is None or not finite is shown as a dash."""
        if not self.form:
            label = f' class="{self.kind}"' if self.kind else ""
            return f"<td{label}>{escape(value)}</td>"
        number = float(value) if isinstance(value, Real) else float("nan")
        if not isfinite(number):
            return '<td class="number" data-sort="">–</td>'
        whole = self.form.endswith("d")
        shown = format(int(number) if whole else number, self.form).replace("-", "\N{MINUS SIGN}")
        return f'<td class="number" data-sort="{number:.9g}">{escape(shown)}</td>'

    def head(self) -> str:
        """Return the cell of the header: a button that sorts."""
        label = ' class="number"' if self.form else ""
        return f'<th scope="col"{label}><button type="button">{escape(self.title)}</button></th>'


@dataclass(frozen=True)
class Grid:
    """A table that sorts by a press on a header.

    Attributes
    ----------
    caption : str
    columns : sequence of Column
    rows : sequence of sequences
        A value a column each: text, or a number where the column has a form.

    Raises
    ------
    InvalidDataError
        If a row has not as many values as there are columns.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]

    def __post_init__(self) -> None:
        wrong = [i for i, row in enumerate(self.rows) if len(row) != len(self.columns)]
        if wrong:
            raise InvalidDataError(
                f"row {wrong[0]} of the table {self.caption!r} has {len(self.rows[wrong[0]])} "
                f"values for {len(self.columns)} columns."
            )

    def html(self) -> str:
        """Return the part of the page."""
        head = "".join(column.head() for column in self.columns)
        rows = "\n".join(
            f"<tr>{''.join(c.cell(v) for c, v in zip(self.columns, row, strict=True))}</tr>"
            for row in self.rows
        )
        caption = escape(self.caption)
        return (
            f'<div class="grid"><p class="caption">{caption}</p>'
            f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">'
            f'<table class="sortable"><thead><tr>{head}</tr></thead>'
            f"<tbody>\n{rows}\n</tbody></table></div></div>"
        )


Part = Text | Heading | Note | Facts | Picture | Grid


@dataclass(frozen=True)
class Chapter:
    """A section of the page.

    Attributes
    ----------
    key : str
        Its address in the page: letters, digits and hyphens.
    title : str
    see : str
        What to see in it.
    parts : sequence of Part
    absent : bool
        Whether its figures are not there.
    """

    key: str
    title: str
    see: str
    parts: Sequence[Part]
    absent: bool = False

    def html(self) -> str:
        """Return the part of the page."""
        key = escape(self.key)
        return (
            f'<section id="{key}" aria-labelledby="{key}-title">'
            f'<h2 id="{key}-title">{escape(self.title)}</h2>\n'
            f'<p class="see">{escape(self.see)}</p>\n'
            f"{chr(10).join(part.html() for part in self.parts)}\n</section>"
        )


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes
    ----------
    title : str
    lines : sequence of str
        Below the title.
    banner : str
        A remark above it; left out where empty.
    chapters : sequence of Chapter
    footer : str
    """

    title: str
    lines: Sequence[str]
    banner: str
    chapters: Sequence[Chapter]
    footer: str

    def html(self) -> str:
        """Return the page."""
        return "".join(self.pieces())

    def pieces(self) -> Iterable[str]:
        """Yield the page piece by piece: it may hold megabytes of figures."""
        style, script = (data_path(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
        policy = (
            f"default-src 'none'; img-src data:; style-src '{_sum(style)}'; "
            f"script-src '{_sum(script)}'; base-uri 'none'; form-action 'none'"
        )
        yield (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="generator" content="{GENERATOR}">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,">\n<title>{escape(self.title)}</title>\n'
            f"<style>{style}</style>\n</head>\n<body>\n"
            '<a class="skip" href="#content">to the content</a>\n<div class="layout">\n'
        )
        links = "\n".join(
            f"<li{' class=absent' if c.absent else ''}>"
            f'<a href="#{escape(c.key)}">{escape(c.title)}</a></li>'
            for c in self.chapters
        )
        yield f'<nav aria-label="contents"><h2>Contents</h2><ol>\n{links}\n</ol></nav>\n'
        banner = f'<p class="banner">{escape(self.banner)}</p>' if self.banner else ""
        lines = "\n".join(f"<p>{escape(line)}</p>" for line in self.lines)
        yield f'<main id="content">\n<header>{banner}<h1>{escape(self.title)}</h1>\n'
        yield f"{lines}</header>\n"
        for chapter in self.chapters:
            yield chapter.html() + "\n"
        yield f"<footer>{escape(self.footer)}</footer>\n</main>\n</div>\n"
        yield f"<script>{script}</script>\n</body>\n</html>\n"


def _sum(source: str) -> str:
    """Name of a script or a style sheet in the page's security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
