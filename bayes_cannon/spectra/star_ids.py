"""Names of stars in tables: which column holds them, and what that column is called.

APOGEE's tables have ``APOGEE_ID``, those of SDSS-V ``SDSS_ID``, a user's ``STAR_ID``; the meta data
of our own tables say it in ``ID``, and a DataFrame by the name of its index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bayes_cannon.errors import InvalidDataError

__all__ = [
    "DEFAULT_ID",
    "ID_NAMES",
    "check_id_name",
    "id_column",
    "index_name",
]

ID_NAMES = ("APOGEE_ID", "SDSS_ID", "STAR_ID")
"""Names of columns that hold names of stars; the first that a table has counts."""
DEFAULT_ID = "STAR_ID"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_id_name(name: str) -> str:
    """Return the name of a column of star ids, in capitals.

    Raises
    ------
    InvalidDataError
        If it is not of letters, digits and ``_``.
    """
    if not _NAME.fullmatch(str(name)):
        raise InvalidDataError(
            f"the column of the stars' names needs a name of letters, digits and _, like STAR_ID, "
            f"not {name!r}."
        )
    return str(name).upper()


def id_column(columns: Iterable[str], meta: Mapping[str, Any] | None = None) -> str | None:
    """Return the column of a table that holds the names of the stars; None without.

    Parameters
    ----------
    columns
        Names of the table's columns.
    meta
        Meta data of the table; ``ID`` names the column in tables of this package.

    Examples
    --------
    >>> id_column(["TEFF", "sdss_id"]), id_column(["NAME", "STAR_ID"], {"ID": "NAME"})
    ('sdss_id', 'NAME')
    """
    columns = list(columns)
    for wanted in (str((meta or {}).get("ID", "")), *ID_NAMES):
        alike = [name for name in columns if name == wanted]
        alike += [name for name in columns if name.upper() == wanted.upper()]
        if wanted and alike:
            return alike[0]
    return None


def index_name(given: Any) -> str:
    """Name of a DataFrame's index, in which it holds the stars' names; '' without."""
    name = getattr(getattr(given, "index", None), "name", None)
    return str(name) if name is not None and hasattr(given, "to_numpy") else ""
