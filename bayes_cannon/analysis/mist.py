"""Text of MIST isochrone files, ``.iso`` and ``.iso.cmd`` of versions 1 and 2, read by names.

One block for each age; columns differ between versions and kinds and are found by their names:

    # MIST version number  = 1.2
    …
    #  Yinit        Zinit   [Fe/H]   [a/Fe]  v/vcrit
    # 0.2703  1.42857E-02     0.00     0.00     0.40
    …
    # number of isochrones =     2
    …
    # number of EEPs, cols =  1710   25
    #    1                               2 …
    # EEP          log10_isochrone_age_yr …
        1        9.0000000000000000E+000 …
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.paths import has_ending
from bayes_cannon.errors import FileFormatError

__all__ = [
    "MistBlock",
    "read_mist_blocks",
]


_REQUIRED = ("EEP", "initial_mass", "log_Teff", "log_g")
_AGES = ("log10_isochrone_age_yr", "isochrone_age_yr", "log_age")
_OPTIONAL = ("phase", "[Fe/H]_init", "log_L")
_MAGNITUDES = ("2MASS_H",)
"""Read where a file has them; NaN where there is no bolometric correction."""
_BLOCK = re.compile(r"#\s*number of EEPs, cols\s*=\s*(\d+)\s+(\d+)\s*$")
_COUNT = re.compile(r"#\s*number of isochrones\s*=\s*(\d+)\s*$")
_VERSION = re.compile(r"#\s*MIST version number\s*=\s*(\S+)")
_LOG_AGES = (4.0, 10.5)
_FIRST_YEARS = 100.0


@dataclass(frozen=True, eq=False)
class MistBlock:
    """One isochrone as the file has it.

    Attributes
    ----------
    version : str
        Version of MIST.
    feh : float
        Initial [Fe/H], dex.
    alpha_fe : float or None
        Initial [α/Fe], dex, if the file says it.
    log10_age : float
        log10 of the age in years, also where the file gives years.
    columns : dict of str to (n_points,) float64
        ``EEP``, ``initial_mass``, ``log_Teff``, ``log_g``, and, if the file has them, ``phase``,
        ``log_L`` and ``2MASS_H``.
    """

    version: str
    feh: float
    alpha_fe: float | None
    log10_age: float
    columns: dict[str, NDArray[np.float64]]


def read_mist_blocks(path: Path) -> list[MistBlock]:
    """Read all isochrones of a file; ``.gz`` and ``.zip`` files are unpacked on the way.

    Parameters
    ----------
    path
        ``.iso`` or ``.iso.cmd``; of a ``.zip`` all such members are read.

    Returns
    -------
    list of MistBlock
        In the order of the file, at least one.

    Raises
    ------
    FileFormatError
        If the file is missing, truncated or something else; with the number of the line.
    """
    try:
        return [
            block
            for name, lines in _texts(path)
            for block in _Reader(f"{path.name}{name}", lines).blocks()
        ]
    except OSError as error:
        if not path.is_file():
            raise FileFormatError(
                f"there is no file {path}; give MIST isochrones, .iso or .iso.cmd files of "
                "https://waps.cfa.harvard.edu/MIST."
            ) from error
        said = error.strerror or str(error)
        raise FileFormatError(f"{path.name} cannot be read: {said}.") from error
    except (EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise FileFormatError(f"{path.name} cannot be read: {error}") from error


def _texts(path: Path) -> Iterator[tuple[str, io.TextIOWrapper]]:
    """Name inside an archive (empty without one) and lines of each isochrone file."""
    kind = path.suffix.lower()
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.namelist() if has_ending(m, ".iso", ".iso.cmd")]
            for member in members:
                with archive.open(member) as raw:
                    yield f"/{member}", io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
        if not members:
            raise FileFormatError(f"{path.name} holds no .iso or .iso.cmd file.")
    elif kind == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as lines:
            yield "", lines
    else:
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield "", lines


class _Reader:
    """Walks through the lines of one file and knows where it is."""

    def __init__(self, name: str, lines: Iterable[str]) -> None:
        self._name = name
        self._lines = iter(lines)
        self._number = 0
        self._version = ""
        self._composition: dict[str, float] = {}

    def _next(self) -> str | None:
        line = next(self._lines, None)
        if line is not None:
            self._number += 1
            if "\0" in line:
                raise self._error("holds binary data, not text")
        return line

    def _error(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self._name}, line {self._number}: {what}.")

    def blocks(self) -> list[MistBlock]:
        """Read the whole file."""
        first = self._next() or ""
        version = _VERSION.match(first)
        if version is None:
            raise self._error(
                f"not a MIST isochrone file: it begins with {first.strip()[:40]!r} "
                "where 'MIST version number' is expected"
            )
        self._version = version[1]
        blocks: list[MistBlock] = []
        promised = None
        while (line := self._next()) is not None:
            if begin := _BLOCK.match(line):
                blocks.append(self._block(int(begin[1]), int(begin[2])))
            elif count := _COUNT.match(line):
                promised = int(count[1])
            elif "[Fe/H]" in line and "Yinit" in line:
                self._read_composition(line)
            elif line.strip() and not line.startswith("#"):
                raise self._error("a row of numbers where a comment or a new block is expected")
        if not blocks:
            raise self._error(
                "the file ends without an isochrone; evolutionary tracks do not serve"
            )
        if promised is not None and promised != len(blocks):
            raise self._error(
                f"the file ends after {len(blocks)} of {count_text(promised, 'isochrone')}; fetch "
                "it again"
            )
        return blocks

    def _read_composition(self, names: str) -> None:
        values = (self._next() or "").lstrip("# ").split()
        keys = names.lstrip("# ").split()
        try:
            self._composition = dict(zip(keys, map(float, values), strict=True))
        except ValueError:
            raise self._error(f"expected the values of {' '.join(keys)}") from None

    def _block(self, n_rows: int, n_columns: int) -> MistBlock:
        self._next()  # numbers of the columns
        names = (self._next() or "").lstrip("# ").split()
        if len(names) != n_columns:
            raise self._error(
                f"{count_text(n_columns, 'name')} of columns expected, found {len(names)}"
            )
        age = next((name for name in _AGES if name in names), None)
        missing = [name for name in _REQUIRED if name not in names]
        missing += [] if age else [f"an age ({' or '.join(_AGES[:2])})"]
        if age is None or missing:
            raise self._error(f"the isochrone lacks {', '.join(missing)}")
        wanted = [*_REQUIRED, age, *(name for name in _OPTIONAL + _MAGNITUDES if name in names)]
        n_finite = sum(name not in _MAGNITUDES for name in wanted)
        rows = self._rows(n_rows, n_columns, [names.index(name) for name in wanted], n_finite)
        columns = dict(zip(wanted, rows.T.copy(), strict=True))
        return MistBlock(
            version=self._version,
            feh=self._feh(columns.pop("[Fe/H]_init", None)),
            alpha_fe=self._composition.get("[a/Fe]"),
            log10_age=self._log_age(columns.pop(age), linear=age == "isochrone_age_yr"),
            columns=columns,
        )

    def _rows(
        self, n_rows: int, n_columns: int, places: list[int], n_finite: int
    ) -> NDArray[np.float64]:
        """Columns at `places`; the first `n_finite` of them must be finite."""
        rows = []
        for i in range(n_rows):
            line = self._next()
            fields = (line or "").split()
            if len(fields) != n_columns or fields[0].startswith("#"):
                found = count_text(len(fields), "value") if fields else "no more"
                raise self._error(
                    f"row {i + 1} of {n_rows} should have {count_text(n_columns, 'value')}, found "
                    f"{found}; the file is truncated or damaged"
                )
            try:
                row = [float(fields[place]) for place in places]
            except ValueError as error:
                raise self._error(str(error)) from None
            if not np.isfinite(row[:n_finite]).all():
                raise self._error("a value that is not finite")
            rows.append(row)
        if not rows:
            raise self._error("an isochrone without rows")
        return np.array(rows)

    def _feh(self, column: NDArray[np.float64] | None) -> float:
        if "[Fe/H]" in self._composition:
            return self._composition["[Fe/H]"]
        if column is None:
            raise self._error("neither the header nor a column [Fe/H]_init gives [Fe/H]")
        return float(column[0])

    def _log_age(self, ages: NDArray[np.float64], *, linear: bool) -> float:
        """Age of a block; the file repeats it in every row."""
        # No isochrone is younger than 100 years: such a number is log10, as some versions of the
        # program that writes .iso files leave it under the name of linear ages.
        years = linear and ages[0] >= _FIRST_YEARS
        logs = np.log10(ages) if years else ages
        if np.ptp(logs) > 1e-6 or not _LOG_AGES[0] <= logs[0] <= _LOG_AGES[1]:
            raise self._error(f"the ages of a block must be one plausible age, found {ages[0]:g}")
        return float(logs[0])
