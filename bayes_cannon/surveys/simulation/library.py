"""The synthesised giants that come with the package: noise-free spectra with known labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.resources import data_path
from bayes_cannon.errors import FileFormatError, InvalidDataError, LabelError

__all__ = [
    "ELEMENTS",
    "Library",
    "load_library",
]


ELEMENTS = ("C", "N", "O", "NA", "MG", "AL", "SI", "S", "K", "CA", "TI", "V", "MN", "NI")
"""Elements whose [X/Fe] the library knows, named as in the catalogue (``MG`` for ``MG_FE``)."""

_LABELS = (
    "TEFF", "LOGG", "FE_H", *(f"{e}_FE" for e in ELEMENTS), "VMICRO", "VMACRO", "RESOLUTION",
)  # fmt: skip
_ARRAYS = ("flux", "flux_scale", "crval1", "cdelt1", *_LABELS)


@dataclass(frozen=True, eq=False)
class Library:
    """Noise-free synthetic spectra of red giants, with everything that went into them.

    Attributes
    ----------
    wavelength : (8575,) float64
        Vacuum wavelength in Å, rest frame: the grid of apStar files.
    flux : (n_stars, 8575) float32
        Flux with the true continuum at 1.
    labels : mapping of str to (n_stars,) float64
        ``TEFF`` (K), ``LOGG``, ``FE_H`` and [X/Fe] (dex), ``VMICRO`` and ``VMACRO`` (km/s),
        ``RESOLUTION`` (λ/Δλ). Read-only, as all arrays here.

    Raises
    ------
    InvalidDataError
        On arrays whose shapes do not match or that are not finite.
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        wavelength = np.array(self.wavelength, dtype=np.float64)
        flux = np.array(self.flux, dtype=np.float32)
        labels = {name: np.array(v, dtype=np.float64) for name, v in self.labels.items()}
        if wavelength.ndim != 1 or flux.ndim != 2 or flux.shape[1] != wavelength.size:
            raise InvalidDataError(
                f"the library's flux {flux.shape} must have shape (n_stars, n_pixels) with "
                f"n_pixels = {wavelength.size}, the number of wavelengths."
            )
        wrong = [n for n, v in labels.items() if v.shape != flux.shape[:1] or not _finite(v)]
        if wrong or not (_finite(flux) and _finite(wavelength)):
            raise InvalidDataError(
                f"the library's {', '.join(wrong) or 'flux or wavelength'} must be finite, "
                f"with one value for each of {count_text(len(flux), 'star')}."
            )
        arrays: list[NDArray[Any]] = [wavelength, flux, *labels.values()]
        for array in arrays:
            array.setflags(write=False)
        object.__setattr__(self, "wavelength", wavelength)
        object.__setattr__(self, "flux", flux)
        object.__setattr__(self, "labels", MappingProxyType(labels))

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return int(self.flux.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all labels."""
        return tuple(self.labels)

    def __len__(self) -> int:
        return self.n_stars

    def values(self, name: str) -> NDArray[np.float64]:
        """True values of one label, shape (n_stars,), in its physical unit.

        Parameters
        ----------
        name
            Of the label, in capitals.

        Raises
        ------
        LabelError
            If the library has no such label.
        """
        if name not in self.labels:
            close = get_close_matches(name.upper(), self.names, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"it has {_join(self.names)}."
            raise LabelError(f"the library has no label {name!r}; {hint}")
        return self.labels[name]


def _finite(array: NDArray[np.floating]) -> bool:
    return bool(np.isfinite(array).all())


def _join(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def load_library(path: str | Path | None = None) -> Library:
    """Read the 600 synthesised giants that come with the package.

    They are synthetic, not observed; ``data/README.md`` says how they were made. They are kept,
    so that a second call costs nothing.

    Parameters
    ----------
    path
        Another file of the same form; left out, the one that comes with the package.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or lacks an array.
    """
    return _shipped() if path is None else _read_library(user_path(path))


@cache
def _shipped() -> Library:
    return _read_library(data_path("giants.npz"))


def _read_library(source: Path) -> Library:
    arrays = _read_arrays(source)
    step = np.arange(arrays["flux"].shape[-1], dtype=np.float64)
    try:
        return Library(
            wavelength=np.power(10.0, float(arrays["crval1"]) + float(arrays["cdelt1"]) * step),
            flux=arrays["flux"] * np.float32(arrays["flux_scale"]),
            labels={name: arrays[name] for name in _LABELS},
        )
    except InvalidDataError as error:
        raise FileFormatError(f"{source.name} is damaged: {error}") from error


def _read_arrays(source: Path) -> dict[str, NDArray[Any]]:
    """Read the library's arrays, or say what is wrong with the file."""
    try:
        with np.load(source, allow_pickle=False) as stored:
            missing = [name for name in _ARRAYS if name not in stored]
            if missing:
                raise FileFormatError(
                    f"{source.name} is not a library of spectra: it lacks {', '.join(missing)}."
                )
            return {name: stored[name] for name in _ARRAYS}
    except FileNotFoundError as error:
        raise FileFormatError(f"the library {source} does not exist.") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{source.name} cannot be read as an npz file: {error}") from error
