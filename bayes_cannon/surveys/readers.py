"""Readers of surveys: how the spectra and the catalogue of one kind of survey are read.

A reader is an object with the attributes of `SurveyReader`. APOGEE's comes with the package; others
are made known by `register_reader`, or by packages that name theirs in their metadata::

    [project.entry-points."bayes_cannon.readers"]
    mysurvey = "mysurvey.reading:READER"

`open_survey` asks each reader that is known whether a folder is of its survey.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike

from bayes_cannon.base.columns import numbers_of
from bayes_cannon.base.paths import is_fits_name, without_fits_ending
from bayes_cannon.base.plugins import plugins
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, SurveyError
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.star_ids import check_id_name
from bayes_cannon.surveys.apogee.cuts import Cuts

if TYPE_CHECKING:
    from bayes_cannon.surveys.survey import Survey

__all__ = [
    "StarSpectrum",
    "SurveyReader",
    "checked_reader",
    "known_readers",
    "reader_named",
    "reader_of",
    "register_reader",
    "unregister_reader",
    "why_not",
]

GROUP = "bayes_cannon.readers"
"""Group of entry points that name readers."""
_NEEDED = ("name", "wavelength", "sniff", "open", "read")
_OPTIONAL = ("recognised",)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StarSpectrum:
    """The spectrum of one star as a reader returns it.

    Attributes
    ----------
    star_id : str
        Name of the star, as the file has it.
    flux : (n_pixels,) float64
        In any unit, on the grid of the reader; 0 where a pixel is bad.
    ivar : (n_pixels,) float64
        Inverse variance of the flux; 0 marks a bad pixel. Masked values, and those that are not
        finite or negative, become 0.
    snr : float
        Signal-to-noise ratio per pixel; NaN where unknown.
    place : str
        Where the star was observed, to tell two spectra of one name from each other.
    simulated : bool
        Whether the spectrum is simulated.
    notes : mapping of str to str
        What tables say of the star beside its name, by column: other names, and the reduction of
        the spectrum (``REDUCTION``), of which those of a training set must be one.

    Raises
    ------
    InvalidDataError
        If flux and ivar are not of the same length, or no numbers.
    """

    star_id: str
    flux: FloatArray
    ivar: FloatArray
    snr: float = np.nan
    place: str = ""
    simulated: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flux, ivar = _plain(self.flux, "flux"), _plain(self.ivar, "ivar")
        if flux.ndim != 1 or flux.shape != ivar.shape:
            raise InvalidDataError(
                f"flux {flux.shape} and ivar {ivar.shape} must both have shape (n_pixels,)."
            )
        good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf)
        object.__setattr__(self, "flux", np.where(good, flux, 0.0))
        object.__setattr__(self, "ivar", np.where(good, ivar, 0.0))
        object.__setattr__(self, "star_id", str(self.star_id))

    @classmethod
    def with_error(
        cls, star_id: str, flux: ArrayLike, error: ArrayLike, **facts: Any
    ) -> StarSpectrum:
        """Return the spectrum with the standard deviation of its flux in place of `ivar`.

        Parameters
        ----------
        star_id, flux
            As of the class.
        error : (n_pixels,) float
            Standard deviation of the flux; a pixel where it is not positive is bad.
        **facts
            Other attributes of the class.
        """
        sigma = numbers_of(error, "error").values
        with np.errstate(divide="ignore", invalid="ignore"):
            ivar = np.where(sigma > 0, sigma**-2.0, 0.0)
        return cls(star_id, np.asarray(flux), ivar, **facts)


def _plain(given: Any, what: str) -> FloatArray:
    """Numbers of any kind as an array; plain ones, of which surveys have many, as they are."""
    if type(given) is np.ndarray and given.dtype == np.float64:
        return given
    return numbers_of(given, what).values


class SurveyReader(Protocol):
    """What the package asks of a reader; derive from it to have what is said here by default.

    Attributes
    ----------
    name : str
        Name of the reader; a training set keeps it, so that other spectra are read alike.
    wavelength : (n_pixels,) float64
        The grid of all its spectra, Å, in the stars' rest frame, increasing.
    medium : str
        ``'vacuum'`` or ``'air'``.
    chips : tuple of (start, stop)
        Pixel ranges that are normalised each on its own; one with all pixels if empty.
    windows : tuple of (start, stop)
        Pixel ranges that `prepare` keeps where nothing else is asked for; all chips if empty.
    continuum : ContinuumSettings or None
        How spectra are normalised where nothing else is asked for; None: they are already.
    cuts : Cuts
        Which stars `prepare` leaves out where nothing else is asked for; none.
    id_name : str
        Column of the catalogue with the stars' names.
    catalogue : str
        What the catalogue of labels is called where its values stand beside others.
    expected : tuple of exception classes
        What `read` raises for a file that is of no use. It costs that star only.
    recognised : str
        What `sniff` looks for, in a line.
    """

    name: str
    wavelength: FloatArray
    medium: str = "vacuum"
    chips: tuple[tuple[int, int], ...] = ()
    windows: tuple[tuple[int, int], ...] = ()
    continuum: ContinuumSettings | None = None
    cuts: Cuts = Cuts(snr_min=None, logg_max=None, teff_max=None, feh_min=None)
    id_name: str = "STAR_ID"
    catalogue: str = "CATALOGUE"
    expected: tuple[type[Exception], ...] = (Exception,)
    recognised: str = ""

    def sniff(self, folder: Path) -> str:
        """Why a folder is not of this survey, after "it ": ``'has no stars.fits'``; '' if it is.

        Parameters
        ----------
        folder
            That may be of the survey.
        """
        ...

    def open(self, folder: Path, labels: Sequence[str]) -> Survey:
        """Read the catalogue and find the spectra, see `bayes_cannon.surveys.survey.survey_of`.

        Parameters
        ----------
        folder
            Folder of the survey.
        labels
            Names of labels that the catalogue must have, in capitals.
        """
        ...

    def read(self, path: Path, *, visit: int | None, bad_bits: int) -> StarSpectrum:
        """Read a file.

        Parameters
        ----------
        path
            Of the file.
        visit
            Number of a visit, from 1; None: the combined spectrum.
        bad_bits
            What `mask_bits` returned: bits of the file's mask that make a pixel bad.
        """
        ...

    def visits(self, path: Path) -> tuple[float, ...]:
        """Dates (MJD) of the visits in the file `path`, NaN where unknown; none by default."""
        return ()

    def mask_bits(self, given: str | int) -> int:
        """Mask bits of a preset's name or a number, as a number; 0 without a mask.

        Parameters
        ----------
        given
            Name of a preset, or a number.

        Raises
        ------
        InvalidDataError
            If there is no such preset: without a mask there is ``'default'`` and 0.
        """
        if given not in ("default", 0):
            raise InvalidDataError(
                f"spectra of {self.name} have no mask bits, got bad_bits = {given!r}."
            )
        return 0

    def is_spectrum(self, name: str) -> bool:
        """Whether a file's name is that of a spectrum, where a folder is looked through.

        Parameters
        ----------
        name
            Of a file.
        """
        return is_fits_name(name)

    def name_from_path(self, path: Path) -> str:
        """Name of the star of a file that cannot be read.

        Parameters
        ----------
        path
            Of a file.
        """
        return without_fits_ending(path.name)


_readers: dict[str, SurveyReader] = {}


def register_reader(reader: SurveyReader, *, replace: bool = False) -> None:
    """Make a reader known in this process.

    Parameters
    ----------
    reader
        See `SurveyReader`; a class without arguments stands for one of it.
    replace
        Whether to take the place of a reader of the same name.

    Raises
    ------
    InvalidDataError
        If it lacks what a reader needs, or its name is taken.
    """
    made = checked_reader(reader)
    known = {r.name: r for r in known_readers()}
    if known.get(made.name, made) is not made and not replace:
        raise InvalidDataError(
            f"a reader {made.name!r} is known; choose another name, or pass replace=True."
        )
    _readers[made.name] = made


def unregister_reader(name: str) -> None:
    """Forget a reader that was registered; unknown ones are none.

    Parameters
    ----------
    name
        Name of the reader.
    """
    _readers.pop(name, None)


def known_readers() -> tuple[SurveyReader, ...]:
    """All readers: those registered, those of installed packages, the package's own the last.

    A package's reader that cannot be loaded is left out with a warning.
    """
    from bayes_cannon.surveys.apogee.survey import APOGEE
    from bayes_cannon.surveys.mwm.survey import MWM, SDSS5_APSTAR

    found = dict(_readers)
    for reader in plugins(GROUP, checked_reader):
        found.setdefault(reader.name, reader)
    for own in (APOGEE, MWM, SDSS5_APSTAR):
        found.setdefault(own.name, own)
    return tuple(found.values())


def reader_named(name: str) -> SurveyReader:
    """Return the reader of a name.

    Parameters
    ----------
    name
        Of the reader.

    Raises
    ------
    SurveyError
        If none is known.
    """
    known = {reader.name: reader for reader in known_readers()}
    if name not in known:
        raise SurveyError(
            f"the reader {name!r} is not known, only {', '.join(known)}; install its package, or "
            "register it by register_reader."
        )
    return known[name]


def reader_of(folder: Path) -> SurveyReader:
    """Find the reader of a survey's folder.

    Parameters
    ----------
    folder
        Of a survey.

    Raises
    ------
    SurveyError
        If none of the readers takes it, with why, or several do.
    """
    refusals = {reader.name: (reader, why_not(reader, folder)) for reader in known_readers()}
    taken = [reader for reader, why in refusals.values() if not why]
    if len(taken) > 1:
        raise SurveyError(
            f"several readers take {folder}: {', '.join(r.name for r in taken)}; name one by "
            "reader= in Python, or put the files of each survey into a folder of their own."
        )
    if not taken:
        told = "; ".join(f"{name}: it {why.rstrip('.')}" for name, (_, why) in refusals.items())
        if len(refusals) == 1:
            (why,) = (why for _, why in refusals.values())
            raise SurveyError(f"{folder} {why.rstrip('.')}.")
        raise SurveyError(f"no reader takes {folder} ({told}).")
    return taken[0]


def why_not(reader: SurveyReader, folder: Path) -> str:
    """Why a reader does not take a folder; also where it fails, which a warning of the log says.

    Parameters
    ----------
    reader
        See `known_readers`.
    folder
        That may be of its survey.
    """
    why: Any
    try:
        why = reader.sniff(folder)
    except Exception as error:  # another package's code may raise anything
        failed = repr(error)
    else:
        if why is None or isinstance(why, str):
            return why or ""
        failed = f"sniff returned {why!r}, not text"
    _log.warning("the reader %s cannot look at %s: %s", reader.name, folder, failed)
    return f"cannot be looked at ({failed})"


def _is_bare(kind: type, name: str) -> bool:
    """Whether a class has a method of `SurveyReader` that it must define itself."""
    return getattr(kind, name, None) is getattr(SurveyReader, name)


def checked_reader(given: Any) -> SurveyReader:
    """Return a reader that has what it needs.

    Parameters
    ----------
    given
        A reader; a class without arguments stands for one of it.

    Raises
    ------
    InvalidDataError
        If it lacks something, or what it has is of another kind than `SurveyReader` says.
    """
    reader = given
    if isinstance(given, type):
        try:
            reader = given()
        except Exception as error:
            raise InvalidDataError(
                f"the class {given.__name__} makes no reader without arguments ({error}); derive "
                "one from bayes_cannon.surveys.SurveyReader, or give a reader that is made."
            ) from error
    others = [n for n in SurveyReader.__annotations__ if n not in (*_NEEDED, *_OPTIONAL)]
    bare = [n for n in ("sniff", "open", "read") if _is_bare(type(reader), n)]
    lacking = [n for n in _NEEDED if n in bare or getattr(reader, n, None) is None]
    lacking += [name for name in others if not hasattr(reader, name)]
    if lacking:
        raise InvalidDataError(
            f"{type(reader).__name__} is no reader: it lacks {', '.join(lacking)}; derive it from "
            "bayes_cannon.surveys.SurveyReader."
        )
    _check_kinds(reader)
    return cast("SurveyReader", reader)


def _check_kinds(reader: Any) -> None:
    """Raise where an attribute of a reader is not what `SurveyReader` says."""
    kind = type(reader).__name__
    if not (isinstance(reader.name, str) and reader.name.strip()):
        raise InvalidDataError(f"{kind} needs a name of text, not {reader.name!r}.")
    expected = reader.expected
    classes = expected if isinstance(expected, tuple) else (expected,)
    of = f"of the reader {reader.name}"
    for name, fits, wanted in (
        ("cuts", isinstance(reader.cuts, Cuts), "a Cuts"),
        ("continuum", isinstance(reader.continuum, ContinuumSettings | None),
         "a ContinuumSettings or None"),
        ("expected", all(isinstance(c, type) and issubclass(c, Exception) for c in classes),
         "a tuple of classes of exceptions"),
        ("medium", reader.medium in ("vacuum", "air"), "'vacuum' or 'air'"),
    ):  # fmt: skip
        if not fits:
            raise InvalidDataError(f"{name} {of} must be {wanted}, not {getattr(reader, name)!r}.")
    try:
        grid = numbers_of(reader.wavelength, "wavelength").values
        check_id_name(reader.id_name)
    except InvalidDataError as error:
        raise InvalidDataError(f"the reader {reader.name}: {error}") from error
    rises = grid.ndim == 1 and grid.size > 1 and bool((np.diff(grid) > 0).all())
    if not rises or not np.isfinite(grid).all():
        raise InvalidDataError(f"wavelength {of} must have shape (n_pixels,) and increase, in Å.")
