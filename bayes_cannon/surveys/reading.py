"""Reading many spectra alike: bad pixels, continuum, windows, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.spectra.continuum import ContinuumFit, ContinuumSettings, divide_by_continuum
from bayes_cannon.spectra.dataset import Setting, StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra
from bayes_cannon.surveys.apogee.apstar import ApStar, read_apstar
from bayes_cannon.surveys.apogee.bits import resolve_bits
from bayes_cannon.surveys.apogee.layout import CHIPS_8575, WAVELENGTH
from bayes_cannon.surveys.apogee.names import StarFacts, name_from_path, unique_star_ids

__all__ = [
    "ReadSpectra",
    "ReadStar",
    "Treatment",
    "Windows",
    "read_treated",
]


Windows = Sequence[tuple[int, int]]

_BLOCK = 64  # stars read at a time: 64 x 8575 pixels in float64 are 4 MB an array


@dataclass(frozen=True)
class Treatment:
    """What is done to every spectrum, in the training set and later."""

    bad_bits: int
    continuum: ContinuumSettings
    windows: tuple[tuple[int, int], ...]

    @classmethod
    def make(
        cls, bad_bits: str | int, continuum: ContinuumSettings, windows: Windows | None
    ) -> Treatment:
        """Check the windows (None: everything) and put the mask bits into one number."""
        try:
            given = CHIPS_8575 if windows is None else windows
            ranges = tuple((int(a), int(b)) for a, b in given)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"windows must be pairs of pixel numbers (start, stop), got {windows!r}."
            ) from error
        edges = [edge for window in ranges for edge in window]
        ordered = edges == sorted(edges) and all(a < b for a, b in ranges)
        if not (ordered and edges and edges[0] >= 0 and edges[-1] <= WAVELENGTH.size):
            raise InvalidDataError(
                f"windows {ranges} must be ordered [start, stop) ranges of the "
                f"{WAVELENGTH.size} pixels that do not overlap."
            )
        return cls(resolve_bits(bad_bits), continuum, ranges)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Setting]) -> Treatment:
        """Read back what `settings` returned."""
        if settings.get("source") == "own spectra":
            raise InvalidDataError(
                "the training set was made of a user's own spectra, not of apStar files: other "
                "spectra must be prepared in the same way (see bayes_cannon.own_spectra)."
            )
        try:
            pixels = str(settings["continuum_pixels"])
            continuum = ContinuumSettings(
                degree=int(settings["continuum_degree"]),
                pixels=tuple(json.loads(pixels)) if pixels.startswith("[") else pixels,
                min_pixels=int(settings["continuum_min_pixels"]),
            )
            return cls.make(
                int(settings["bad_bits"]), continuum, json.loads(str(settings["windows"]))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidDataError(
                f"these are not the settings of a training set ({error!r}); "
                "give TrainingSet.settings."
            ) from error

    def settings(self) -> dict[str, Setting]:
        """Return it as plain values, for `TrainingSet.settings`."""
        pixels = self.continuum.pixels
        return {
            "bad_bits": self.bad_bits,
            "mask_row": "the row that is read",
            "weighting": "pixel",
            "continuum_degree": self.continuum.degree,
            "continuum_pixels": pixels if isinstance(pixels, str) else json.dumps(pixels),
            "continuum_min_pixels": self.continuum.fewest,
            "windows": json.dumps(self.windows),
        }


@dataclass(frozen=True, eq=False)
class ReadStar:
    """What is kept of a file besides its spectrum."""

    place: int
    facts: StarFacts
    masked_chips: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReadSpectra:
    """Usable spectra of a list of files; `kept` are their places in the list."""

    stars: tuple[ReadStar, ...]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    windows: tuple[tuple[int, int], ...]
    star_id: NDArray[np.str_]
    problems: tuple[StarProblem, ...]
    n_readable: int

    @property
    def kept(self) -> NDArray[np.intp]:
        """Places in the list of files, shape (n_stars,)."""
        return np.array([s.place for s in self.stars], dtype=np.intp)

    @property
    def masked_chips(self) -> NDArray[np.bool_]:
        """Chips without a usable continuum, shape (n_stars, n_chips)."""
        return np.array([s.masked_chips for s in self.stars], dtype=np.bool_)

    def spectra(self) -> NormalizedSpectra:
        """Return the spectra, the windows as their chips."""
        edges = np.cumsum([0, *(b - a for a, b in self.windows)]).tolist()
        return NormalizedSpectra(
            star_id=self.star_id,
            wavelength=WAVELENGTH[_pixels(self.windows)],
            flux=self.flux,
            ivar=self.ivar,
            snr=np.array([s.facts.snr for s in self.stars]),
            chips=tuple(pairwise(edges)),
            simulated=any(s.facts.simulated for s in self.stars),
        )


def read_treated(
    paths: Sequence[str],
    names: NDArray[np.str_] | None,
    treatment: Treatment,
    *,
    visit: int | None = None,
    progress: Progress = None,
) -> ReadSpectra:
    """Read, normalise and trim block by block; only the result grows with the number of stars.

    Parameters
    ----------
    paths
        apStar or asStar files.
    names
        Of the stars, one for each path; None: those in the files, made unique where they repeat.
    treatment
        What to do to each.
    visit
        Number of a visit, from 1, to read instead of the combined spectrum.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.
    """
    pixels = _pixels(treatment.windows)
    flux = np.empty((len(paths), pixels.size), dtype=np.float32)
    ivar = np.empty_like(flux)
    stars: list[ReadStar] = []
    problems: list[StarProblem] = []
    n_readable = 0
    with as_progress(progress) as tell:
        for first in range(0, len(paths), _BLOCK):
            block: dict[int, ApStar] = {}
            for i in range(first, min(first + _BLOCK, len(paths))):
                try:
                    block[i] = read_apstar(paths[i], visit=visit, bad_bits=treatment.bad_bits)
                except FileFormatError as error:
                    name = name_from_path(Path(paths[i])) if names is None else str(names[i])
                    problems.append(StarProblem(name, paths[i], str(error)))
                tell(i + 1, len(paths), "reading spectra")
            n_readable += len(block)
            if not block:
                continue
            normalized, fit = divide_by_continuum(_observed(block), treatment.continuum)
            for row, (i, star) in enumerate(block.items()):
                k = len(stars)
                flux[k], ivar[k] = normalized.flux[row, pixels], normalized.ivar[row, pixels]
                if ivar[k].any():
                    stars.append(ReadStar(i, star.facts, fit.masked_chips[row]))
                else:
                    name = star.star_id if names is None else str(names[i])
                    problems.append(StarProblem(name, paths[i], _why_empty(fit, row)))
    star_id = (
        _own_names(stars)
        if names is None
        else names[np.array([s.place for s in stars], dtype=np.intp)]
    )
    n = len(stars)
    return ReadSpectra(
        tuple(stars), flux[:n], ivar[:n], treatment.windows, star_id, tuple(problems), n_readable
    )


def _pixels(windows: Windows) -> NDArray[np.intp]:
    return np.concatenate([np.arange(a, b) for a, b in windows])


def _own_names(stars: Sequence[ReadStar]) -> NDArray[np.str_]:
    """Unique names from what the files say."""
    facts = [s.facts for s in stars]
    return unique_star_ids(
        [f.star_id for f in facts], [f.telescope for f in facts], [f.field for f in facts]
    )


def _observed(block: Mapping[int, ApStar]) -> ObservedSpectra:
    """Spectra of one block, named by their place in the list of files."""
    stars = list(block.values())
    return ObservedSpectra(
        star_id=np.array([str(i) for i in block]),
        wavelength=WAVELENGTH,
        flux=np.array([np.where(s.bad, 0.0, s.flux) for s in stars], dtype=np.float32),
        ivar=np.array([s.ivar for s in stars], dtype=np.float32),
        chips=CHIPS_8575,
    )


def _why_empty(fit: ContinuumFit, row: int) -> str:
    if fit.empty_chips[row].all():
        return "no pixel of the spectrum is good"
    if fit.masked_chips[row].any():
        return "no chip with good pixels has a usable continuum"
    return "no good pixel lies in the windows that are used"
