"""Reading many spectra alike: bad pixels, continuum, windows, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.progress import Progress
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.spectra.continuum import ContinuumFit, ContinuumSettings, divide_by_continuum
from bayes_cannon.spectra.dataset import Setting
from bayes_cannon.spectra.problems import StarProblem, read_each
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra
from bayes_cannon.spectra.star_ids import simulated_note
from bayes_cannon.surveys.apogee.names import unique_star_ids
from bayes_cannon.surveys.readers import StarSpectrum, SurveyReader, reader_named

__all__ = [
    "ReadSpectra",
    "ReadStar",
    "Treatment",
    "Windows",
    "read_raw",
    "read_treated",
]


Windows = Sequence[tuple[int, int]]

_BLOCK = 64  # stars read at a time: 64 x 8575 pixels in float64 are 4 MB an array
_OWN = "apogee"


@dataclass(frozen=True)
class Treatment:
    """What is done to every spectrum, in the training set and later.

    Attributes
    ----------
    reader : SurveyReader
        Reads the files.
    bad_bits : int
        Mask bits that make a pixel bad.
    continuum : ContinuumSettings or None
        How spectra are normalised; None: they are already.
    windows : tuple of (start, stop)
        Pixel ranges that are kept.
    """

    reader: SurveyReader
    bad_bits: int
    continuum: ContinuumSettings | None
    windows: tuple[tuple[int, int], ...]

    @classmethod
    def make(
        cls,
        reader: SurveyReader,
        bad_bits: str | int,
        continuum: ContinuumSettings | None,
        windows: Windows | None,
    ) -> Treatment:
        """Check the windows (None: everything) and put the mask bits into one number.

        Parameters
        ----------
        reader
            Reads the files.
        bad_bits
            Name of a preset of mask bits, or a number.
        continuum
            How to normalise; None: spectra are normalised already.
        windows
            [start, stop) pixel ranges that are kept.

        Raises
        ------
        InvalidDataError
            On windows that are no pixel ranges of the reader's grid, or bits it does not know.
        """
        n_pixels = len(reader.wavelength)
        try:
            given = _chips(reader) if windows is None else windows
            ranges = tuple((int(a), int(b)) for a, b in given)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"windows must be pairs of pixel numbers (start, stop), got {windows!r}."
            ) from error
        edges = [edge for window in ranges for edge in window]
        ordered = edges == sorted(edges) and all(a < b for a, b in ranges)
        if not (ordered and edges and edges[0] >= 0 and edges[-1] <= n_pixels):
            raise InvalidDataError(
                f"windows {ranges} must be ordered [start, stop) ranges of the "
                f"{n_pixels} pixels that do not overlap."
            )
        return cls(reader, reader.mask_bits(bad_bits), continuum, ranges)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Setting]) -> Treatment:
        """Read back what `settings` returned.

        Parameters
        ----------
        settings
            Of a training set.

        Raises
        ------
        InvalidDataError
            If these are no such settings, or of a user's own arrays.
        SurveyError
            If the reader that they name is not known.
        """
        if settings.get("source") == "own spectra":
            raise InvalidDataError(
                "the training set was made of a user's own spectra, not of a survey's files: other "
                "spectra must be prepared in the same way (see spectra_from_arrays)."
            )
        try:
            continuum = None if settings.get("normalized") else _continuum_of(settings)
            bad_bits, windows = int(settings["bad_bits"]), json.loads(str(settings["windows"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidDataError(
                f"these are not the settings of a training set ({error!r}); "
                "give TrainingSet.settings."
            ) from error
        reader = reader_named(str(settings.get("reader", _OWN)))
        return cls.make(reader, bad_bits, continuum, windows)

    @property
    def n_pixels(self) -> int:
        """Number of pixels that are kept."""
        return sum(stop - start for start, stop in self.windows)

    def grid(self) -> dict[str, Any]:
        """Return what all spectra have in common, the windows as their chips."""
        edges = np.cumsum([0, *(b - a for a, b in self.windows)]).tolist()
        wavelength = np.asarray(self.reader.wavelength, dtype=np.float64)
        return {
            "wavelength": wavelength[_pixels(self.windows)],
            "chips": tuple(pairwise(edges)),
            "medium": self.reader.medium,
            "id_name": self.reader.id_name,
        }

    def settings(self) -> dict[str, Setting]:
        """Return it as plain values, for `TrainingSet.settings`."""
        out: dict[str, Setting] = {
            "reader": self.reader.name,
            "id_name": self.reader.id_name,
            "catalogue": self.reader.catalogue,
            "bad_bits": self.bad_bits,
            "mask_row": "the row that is read",
            "weighting": "pixel",
            "windows": json.dumps(self.windows),
        }
        if self.continuum is None:
            return out | {"normalized": True}
        pixels = self.continuum.pixels
        return out | {
            "continuum_degree": self.continuum.degree,
            "continuum_pixels": pixels if isinstance(pixels, str) else json.dumps(pixels),
            "continuum_min_pixels": self.continuum.fewest,
        }


def _continuum_of(settings: Mapping[str, Setting]) -> ContinuumSettings:
    pixels = str(settings["continuum_pixels"])
    return ContinuumSettings(
        degree=int(settings["continuum_degree"]),
        pixels=tuple(json.loads(pixels)) if pixels.startswith("[") else pixels,
        min_pixels=int(settings["continuum_min_pixels"]),
    )


def _chips(reader: SurveyReader) -> tuple[tuple[int, int], ...]:
    return tuple(reader.chips) or ((0, len(reader.wavelength)),)


@dataclass(frozen=True, eq=False)
class ReadStar:
    """What is kept of a file besides its spectrum: its place in the list, and facts of the star."""

    place: int
    star_id: str
    where: str
    snr: float
    simulated: bool
    masked_chips: NDArray[np.bool_]
    notes: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class ReadSpectra:
    """Usable spectra of a list of files; `kept` are their places in the list."""

    stars: tuple[ReadStar, ...]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    treatment: Treatment
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
        return NormalizedSpectra(
            star_id=self.star_id,
            flux=self.flux,
            ivar=self.ivar,
            snr=np.array([s.snr for s in self.stars]),
            simulated=any(s.simulated for s in self.stars),
            notes=self.notes,
            **self.treatment.grid(),
        )

    @property
    def notes(self) -> dict[str, NDArray[np.str_]]:
        """What is noted of the stars, by column, see `NormalizedSpectra`."""
        return _notes(self.stars)


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
        Files that the treatment's reader can read.
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
    found = _read(paths, names, treatment, visit, problems, progress)
    for block in _blocks(found):
        n_readable += len(block)
        normalized, masked, why = _normalized(block, treatment)
        for row, (i, star) in enumerate(block.items()):
            k = len(stars)
            flux[k], ivar[k] = normalized.flux[row, pixels], normalized.ivar[row, pixels]
            if ivar[k].any():
                facts = star.place, star.snr, star.simulated, masked[row], star.notes
                stars.append(ReadStar(i, star.star_id, *facts))
            else:
                name = star.star_id if names is None else str(names[i])
                problems.append(StarProblem(name, paths[i], why[row]))
    problems.sort(key=lambda p: paths.index(p.path))
    star_id = (
        _own_names([s.star_id for s in stars], [s.where for s in stars])
        if names is None
        else names[np.array([s.place for s in stars], dtype=np.intp)]
    )
    n = len(stars)
    return ReadSpectra(
        tuple(stars), flux[:n], ivar[:n], treatment, star_id, tuple(problems), n_readable
    )


def read_raw(
    paths: Sequence[str | Path],
    treatment: Treatment,
    *,
    star_ids: Sequence[str] | None = None,
    progress: Progress = None,
) -> tuple[ObservedSpectra, tuple[StarProblem, ...]]:
    """Read spectra as observed: bad pixels are marked, nothing else is done.

    Parameters
    ----------
    paths
        Files that the treatment's reader can read.
    treatment
        Reader and mask bits.
    star_ids
        Unique names of the stars; left out, those in the files, made unique.
    progress
        Called with the number of spectra read and their total.

    Returns
    -------
    ObservedSpectra
        The stars that could be read, in the order given.
    tuple of StarProblem
        The others.

    Raises
    ------
    NoStarsError
        If no file can be read.
    """
    names = None if star_ids is None else np.array(list(star_ids), dtype=np.str_)
    problems: list[StarProblem] = []
    files = [str(path) for path in paths]
    found = dict(_read(files, names, treatment, None, problems, progress))
    if not found:
        first = f"; {problems[0].message}" if problems else "."
        raise NoStarsError(f"none of {count_text(len(files), 'file')} could be read{first}")
    stars = list(found.values())
    ids = (
        _own_names([s.star_id for s in stars], [s.place for s in stars])
        if names is None
        else names[list(found)]
    )
    return _observed(ids, stars, treatment.reader), tuple(problems)


def _read(
    paths: Sequence[str],
    names: NDArray[np.str_] | None,
    treatment: Treatment,
    visit: int | None,
    problems: list[StarProblem],
    progress: Progress,
) -> Iterator[tuple[int, StarSpectrum]]:
    """Read the files that can be read, with their places in the list."""
    reader, n_pixels = treatment.reader, len(treatment.reader.wavelength)

    def read(_: int, path: str) -> StarSpectrum:
        star = reader.read(Path(path), visit=visit, bad_bits=treatment.bad_bits)
        if star.flux.size != n_pixels:
            raise InvalidDataError(
                f"{path} has {star.flux.size} pixels, the grid of {reader.name} {n_pixels}."
            )
        return star

    def name(i: int, path: str) -> str:
        return reader.name_from_path(Path(path)) if names is None else str(names[i])

    return read_each(paths, read, name, problems, expected=reader.expected, progress=progress)


def _blocks(found: Iterator[tuple[int, StarSpectrum]]) -> Iterator[dict[int, StarSpectrum]]:
    """Gather stars into blocks, so that they are normalised together."""
    block: dict[int, StarSpectrum] = {}
    for place, star in found:
        block[place] = star
        if len(block) == _BLOCK:
            yield block
            block = {}
    if block:
        yield block


def _normalized(
    block: Mapping[int, StarSpectrum], treatment: Treatment
) -> tuple[NormalizedSpectra, NDArray[np.bool_], list[str]]:
    """Normalised spectra of a block, masked chips, and why a star has no good pixel."""
    observed = _observed(
        np.array([str(place) for place in block]), list(block.values()), treatment.reader
    )
    if treatment.continuum is not None:
        spectra, fit = divide_by_continuum(observed, treatment.continuum)
        return spectra, fit.masked_chips, [_why_empty(fit, row) for row in range(len(block))]
    good = observed.good
    spectra = NormalizedSpectra(
        star_id=observed.star_id,
        wavelength=observed.wavelength,
        flux=np.where(good, observed.flux, np.float32(1.0)),
        ivar=observed.ivar,
        chips=observed.chips,
        medium=observed.medium,
        id_name=observed.id_name,
    )
    inside = "no good pixel lies in the windows that are used"
    why = [inside if any_good else "no pixel of the spectrum is good" for any_good in good.any(1)]
    return spectra, np.zeros((len(block), len(observed.chips)), np.bool_), why


def _pixels(windows: Windows) -> NDArray[np.intp]:
    return np.concatenate([np.arange(a, b) for a, b in windows])


def _own_names(ids: Sequence[str], places: Sequence[str]) -> NDArray[np.str_]:
    """Unique names from what the files say."""
    return unique_star_ids(ids, places, [""] * len(ids))


def _observed(
    star_id: NDArray[np.str_], stars: Sequence[StarSpectrum], reader: SurveyReader
) -> ObservedSpectra:
    return ObservedSpectra(
        star_id=star_id,
        wavelength=np.asarray(reader.wavelength, dtype=np.float64),
        flux=np.array([s.flux for s in stars], dtype=np.float32),
        ivar=np.array([s.ivar for s in stars], dtype=np.float32),
        snr=np.array([s.snr for s in stars], dtype=np.float64),
        chips=_chips(reader),
        simulated=any(s.simulated for s in stars),
        medium=reader.medium,
        id_name=reader.id_name,
        notes=_notes(stars),
    )


def _notes(stars: Sequence[ReadStar | StarSpectrum]) -> dict[str, NDArray[np.str_]]:
    """What is noted of stars, by column; '' where a star lacks one. No column is empty."""
    names = dict.fromkeys(name for star in stars for name, text in star.notes.items() if text)
    found = {n: np.array([s.notes.get(n, "") for s in stars], dtype=np.str_) for n in names}
    return found | simulated_note(s.simulated for s in stars)


def _why_empty(fit: ContinuumFit, row: int) -> str:
    if fit.empty_chips[row].all():
        return "no pixel of the spectrum is good"
    if fit.masked_chips[row].any():
        return "no chip with good pixels has a usable continuum"
    return "no good pixel lies in the windows that are used"
