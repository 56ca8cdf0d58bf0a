"""Layout of apStar files: their wavelength grid, and which row of which HDU holds what.

HDU 1 is flux, HDU 2 error, HDU 3 mask; without names. With several visits the arrays are
(n_visits + 2, 8575): two combinations and the visits. A single visit is (8575,) until DR16, and
(2, 8575) with an empty row 1 in DR17.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.fits import CardSource, card_number
from bayes_cannon.surveys.images import ImageFile, open_images

__all__ = [
    "ASPCAP_WINDOWS",
    "CHIPS_8575",
    "N_PIXELS",
    "WAVELENGTH",
    "count_visits",
    "on_other_chip",
    "open_spectrum",
    "read_mask",
    "spectrum_row",
    "unusable",
]


N_PIXELS = 8575
_LOG_START, _LOG_STEP = 4.179, 6e-6
WAVELENGTH = np.asarray(10 ** (_LOG_START + _LOG_STEP * np.arange(N_PIXELS)), dtype=np.float64)
"""Vacuum wavelength of the 8575 pixels in Å, in the star's rest frame: 4.1418 km/s a pixel."""
WAVELENGTH.setflags(write=False)
CHIPS_8575 = ((64, 3428), (3428, 6210), (6210, 8512))
"""[start, stop) pixels of the blue, green and red detector, for stars of any velocity.

Detectors are at 197-3323, 3533-6129 and 6291-8381 for a star at rest, and move by a pixel for
every 4.14 km/s. The ranges meet in the middle of the gaps, so that all pixels of a detector stay
in its range up to 335 km/s; the few that leave it beyond are marked as bad.
"""
ASPCAP_WINDOWS = ((246, 3274), (3585, 6080), (6344, 8335))
"""[start, stop) pixels that ASPCAP fits since DR13: 7514 pixels, within `CHIPS_8575`."""

_FEWEST, _MOST = 1e-12, 1e12  # beyond, squares and inverse squares leave float32
_BAD_ERROR = 1e9


@contextmanager
def open_spectrum(
    path: str | os.PathLike[str], third: str = "mask"
) -> Iterator[tuple[ImageFile, int]]:
    """Open an apStar file (HDU 3 a mask) or an aspcapStar file (a model); also its number of rows.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.
    third
        What HDU 3 holds: ``'mask'`` or ``'model'``.

    Raises
    ------
    FileFormatError
        If the file cannot be opened, an HDU is missing or no image, or arrays are not on the
        grid of apStar files.
    """
    with open_images(path, 4) as file:
        names = ("flux", "error", third)
        for number, name in enumerate(names, start=1):
            if not file.hdus[number].is_image or not file.hdus[number].shape:
                raise FileFormatError(
                    f"{file.path} has no {name} in HDU {number}, where apStar and aspcapStar files "
                    "have it; give such a file."
                )
        shapes = [hdu.shape for hdu in file.hdus[1:]]
        if (
            len(set(shapes)) > 1
            or len(shapes[0]) > 2
            or shapes[0][-1] != N_PIXELS
            or 0 in shapes[0]
        ):
            raise FileFormatError(
                f"{file.path} holds arrays of shapes {', '.join(map(str, shapes))}; apStar files "
                f"have ({N_PIXELS},) or (rows, {N_PIXELS}) in all three. Resample the spectrum to "
                "the apStar grid, or leave the file out."
            )
        _check_grid(file)
        found = "mask" if file.hdus[3].dtype.kind in "iu" else "model"
        if found != third:
            right = "read_apstar" if found == "mask" else "read_aspcapstar"
            raise FileFormatError(
                f"{file.path} has no {third} in HDU 3 but a {found}; read it with {right}."
            )
        yield file, shapes[0][0] if len(shapes[0]) == 2 else 1


def _check_grid(file: ImageFile) -> None:
    """Check that a pixel's wavelength is what `WAVELENGTH` says, to a tenth of a pixel."""
    found = []
    for key, default in (("CRVAL1", math.nan), ("CDELT1", math.nan), ("CRPIX1", 1.0)):
        default = card_number(file.header, key, default)
        found.append(card_number(file.hdus[1].header, key, default))
    start, step, reference = found
    first = start + (1 - reference) * step
    off = max(abs(first - _LOG_START), abs(first - _LOG_START + (step - _LOG_STEP) * N_PIXELS))
    if not off < 0.1 * _LOG_STEP:
        raise FileFormatError(
            f"{file.path} is on another wavelength grid (CRVAL1 {start}, CDELT1 {step}, CRPIX1 "
            f"{reference}); apStar files have {_LOG_START}, {_LOG_STEP} and 1. Resample the "
            "spectrum, or leave the file out."
        )


def count_visits(header: CardSource, n_rows: int) -> int:
    """Number of visits, from NVISITS, else from the number of rows.

    Parameters
    ----------
    header
        Of the primary HDU.
    n_rows
        Rows of the arrays.
    """
    number = card_number(header, "NVISITS")
    return int(number) if number >= 1 else max(1, n_rows - 2)


def spectrum_row(
    file: ImageFile, visit: int | None, weighting: str | None, n_visits: int, n_rows: int
) -> int:
    """Row of a visit (from 1), or of a combination.

    Parameters
    ----------
    file
        Open.
    visit
        From 1; None: the combination.
    weighting
        ``'pixel'`` or ``'global'``.
    n_visits, n_rows
        Of the file.

    Raises
    ------
    FileFormatError
        If the file has no such visit.
    """
    if visit is None:
        return int(weighting == "global" and n_visits > 1 and n_rows > 1)
    if visit == 1 and n_visits == 1 and n_rows <= 2:
        return 0
    row = visit + 1
    if visit > n_visits or row >= n_rows:
        have = max(1, n_rows - 2)
        raise FileFormatError(
            f"{file.path} has no visit {visit}: its header counts {n_visits} and it holds {have}. "
            "Ask for another visit, or for the combined spectrum."
        )
    return row


def read_mask(
    file: ImageFile, row: int, mask_row: int | None, n_visits: int, n_rows: int
) -> tuple[NDArray[np.int64], int]:
    """Read the mask of a row, or of the row asked for; also the number of the row it is from.

    Row 1, which is not filled for a single visit and in DR17, gives way to row 0.

    Parameters
    ----------
    file
        Open.
    row
        Row that the flux is from.
    mask_row
        Row asked for; None: `row`.
    n_visits, n_rows
        Of the file.

    Returns
    -------
    mask : (8575,) int64
    row : int

    Raises
    ------
    FileFormatError
        If the file has no such row.
    """
    wanted = row if mask_row is None else mask_row
    if wanted == 1 and n_visits == 1:
        wanted = 0
    if wanted >= n_rows:
        raise FileFormatError(
            f"{file.path} has no row {wanted} to take the mask from, only "
            f"{count_text(n_rows, 'row')}; use mask_row=0, or leave it out."
        )
    mask = file.read_row(3, wanted)
    if wanted == 1 and not mask.any():
        wanted, mask = 0, file.read_row(3, 0)
    if mask.dtype.kind == "i":
        # Without this, the highest bit of a short integer would spill into all bits above it.
        mask = mask.view(f"u{mask.dtype.itemsize}")
    return mask.astype(np.int64), wanted


def unusable(flux: NDArray[np.float64], err: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Pixels whose flux or error cannot be used, whatever their mask says.

    Errors above 1e9 say bad in all releases: 1e10 until DR16, 1e10 times the continuum in DR17.

    Parameters
    ----------
    flux, err : (8575,) float64
        In 1e-17 erg s⁻¹ cm⁻² Å⁻¹.

    Returns
    -------
    (8575,) bool
    """
    with np.errstate(invalid="ignore"):
        return ~((np.abs(flux) <= _MOST) & (err > _FEWEST) & (err <= _BAD_ERROR))


def on_other_chip(header: CardSource) -> NDArray[np.bool_]:
    """Pixels in the range of one detector of `CHIPS_8575` that were seen by another.

    At more than 335 km/s a detector's edge crosses the middle of the gap. Where it is comes from
    the header (0-based, inclusive); without it nothing is marked.

    Parameters
    ----------
    header
        Of the primary HDU.

    Returns
    -------
    (8575,) bool
    """
    other = np.zeros(N_PIXELS, dtype=np.bool_)
    limits = [card_number(header, f"{chip}{end}") for chip in "BGR" for end in ("MIN", "MAX")]
    if not (np.all(np.diff(limits) > 0) and limits[0] >= 0 and limits[-1] < N_PIXELS):
        return other
    for k, (start, stop) in enumerate(CHIPS_8575):
        first, last = int(limits[2 * k]), int(limits[2 * k + 1])
        other[first : last + 1] = True
        other[max(first, start) : min(last + 1, stop)] = False
    return other
