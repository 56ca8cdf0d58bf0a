"""A page of HTML in one file: texts, figures and sortable tables, with nothing loaded from outside.

The page is the Jinja2 template ``data/report.html.jinja``. Every value in it loses its control
characters and is escaped, so that the name of a star cannot become part of the page; and the
page's own content security policy allows the one script and the one style sheet that it was
written with, images inside the page, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from numbers import Real
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.resources import data_path
from bayes_cannon.base.rounding import two_digits, value_with_error
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "GENERATOR",
    "Cell",
    "Chapter",
    "Column",
    "Explorer",
    "Facts",
    "Grid",
    "Heading",
    "Listing",
    "Note",
    "Page",
    "Part",
    "Picture",
    "Text",
    "error_cell",
    "measured",
    "plain",
    "probability",
]


GENERATOR = "bayes-cannon report"
"""What the page names as its generator: a file with it may be replaced by a new report."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PIECES = 500
"""Values of the template that are written at a time."""


def plain(text: object) -> str:
    """Text without control characters, nor those that turn the direction of writing.

    Parameters
    ----------
    text
        Any text.
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading inside a chapter."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Note:
    """A remark that stands out: a warning, or (`gone`) something that is not there and why."""

    kind: ClassVar[str] = "note"
    text: str
    gone: bool = False


@dataclass(frozen=True)
class Listing:
    """Sentences, each with a word that says what it is about."""

    kind: ClassVar[str] = "listing"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Facts:
    """A few numbers, each with its name."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


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
    name : str
        Of its files in ``figures/``, without the ending; empty where there are none.
    kinds : tuple of str
        Endings of those files.

    Raises
    ------
    InvalidDataError
        If the content is no PNG file.
    """

    kind: ClassVar[str] = "picture"
    png: bytes
    alt: str
    caption: str = ""
    name: str = ""
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG) or len(self.png) < 24:
            raise InvalidDataError(f"the figure of {plain(self.alt)} is not a PNG file.")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def source(self) -> Markup:
        """The picture as an address with everything inside; base64 has no sign to escape."""
        return Markup(f"data:image/png;base64,{base64.b64encode(self.png).decode()}")

    @property
    def files(self) -> list[tuple[str, str]]:
        """What the figure's files are called, and their addresses beside the page."""
        return [(k.upper(), f"figures/{quote(self.name)}.{k}") for k in self.kinds]


class Cell(NamedTuple):
    """A cell of a table: what it shows, its class, and a number as text by which it sorts."""

    text: str
    kind: str = ""
    sort: str | None = None


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

    def cell(self, value: object) -> Cell:
        """Return a cell; a number that is None or not finite is shown as a dash.

        Parameters
        ----------
        value
            Text or number, or the cell itself.
        """
        if isinstance(value, Cell):
            return value
        if not self.form:
            return Cell(str(value), self.kind)
        number = float(value) if isinstance(value, Real) else float("nan")
        if not isfinite(number):
            return Cell("–", "number", "")
        whole = self.form.endswith("d")
        shown = format(int(number) if whole else number, self.form).replace("-", "\N{MINUS SIGN}")
        return Cell(shown, "number", f"{number:.9g}")


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

    kind: ClassVar[str] = "grid"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]

    def __post_init__(self) -> None:
        wrong = [i for i, row in enumerate(self.rows) if len(row) != len(self.columns)]
        if wrong:
            raise InvalidDataError(
                f"row {wrong[0]} of the table {self.caption!r} has "
                f"{count_text(len(self.rows[wrong[0]]), 'value')}, not {len(self.columns)}."
            )

    def cells(self) -> Iterator[list[Cell]]:
        """Yield the cells of each row."""
        for row in self.rows:
            yield [c.cell(v) for c, v in zip(self.columns, row, strict=True)]


def measured(value: float, error: float) -> Cell:
    """Cell of a value with its error, both to the second digit of the error.

    Parameters
    ----------
    value, error
        In the same unit; NaN where not known.

    Examples
    --------
    >>> measured(-0.06395, 0.0144).text, measured(float("nan"), 1.0).text
    ('−0.064 ± 0.014', '–')
    """
    if not isfinite(value):
        return Cell("–", "number", "")
    return Cell(value_with_error(float(value), float(error)), "number", f"{value:.9g}")


def error_cell(value: float) -> Cell:
    """Cell of an error or a scatter, two digits.

    Parameters
    ----------
    value
        NaN where not known.

    Examples
    --------
    >>> error_cell(0.01234).text
    '0.012'
    """
    if not isfinite(value):
        return Cell("–", "number", "")
    return Cell(two_digits(float(value)), "number", f"{value:.9g}")


def probability(value: float) -> Cell:
    """Cell of a p-value; what is below a thousandth is said to be so.

    Parameters
    ----------
    value
        0 to 1; NaN where not known.

    Examples
    --------
    >>> probability(0.00002).text, probability(0.2345).text
    ('< 0.001', '0.23')
    """
    cell = error_cell(value)
    return cell._replace(text="< 0.001") if value < 0.001 else cell


@dataclass(frozen=True)
class Explorer:
    """A table of stars linked with a plot of them and a panel for the star that is chosen.

    Attributes
    ----------
    data : mapping
        What the page's script is given, in the kinds of JSON; ``beside`` says whether the figures'
        files lie beside the page.
    grid : Grid
        The table, a row for each of the data's stars.
    """

    kind: ClassVar[str] = "explorer"
    data: dict[str, Any]
    grid: Grid

    @property
    def json(self) -> Markup:
        """The data as JSON, in which nothing can end the script that holds it."""
        text = json.dumps(self.data, separators=(",", ":"), allow_nan=False)
        return Markup(text.translate(_UNSAFE))


_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}

Part = Text | Heading | Note | Listing | Facts | Picture | Grid | Explorer


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
        stream = _template().stream(
            page=self, generator=GENERATOR, policy=policy, style=Markup(style),
            script=Markup(script),
        )  # fmt: skip
        stream.enable_buffering(_PIECES)
        return stream


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, keep_trailing_newline=True
    )
    return environment.from_string(data_path("report.html.jinja").read_text("utf-8"))


def _finalize(value: object) -> object:
    """What is escaped of a value: nothing of our own markup, of everything else plain text."""
    return value if isinstance(value, Markup) else plain(value)


def _sum(source: str) -> str:
    """Name of a script or a style sheet in the page's security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
