"""Fluxes of a survey by blocks of pixels: arrays in memory, mapped from disk, or read from it.

Training needs of the fluxes and inverse variances of all stars, ``a`` of shape (n_stars,
n_pixels), their shape and ``a[:, pixels]``: any object that has these will do. Pixels are worked on
in blocks whose size is that of the survey alone, so that results do not depend on where the
numbers come from.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ColumnsOf",
    "SomePixels",
    "of_stars",
    "pixel_blocks",
]

_BLOCK_BYTES = 128e6
"""Of fluxes and inverse variances of a block, in float32."""
_KEPT = 2
"""Blocks that are kept once they are read: neighbours are worked on side by side."""


class SomePixels:
    """Some of the pixels of an array, which is not copied.

    Parameters
    ----------
    array
        Of shape (n_stars, n_pixels); ``array[:, pixels]`` is all that is asked of it.
    pixels
        Numbers of those wanted, rising.
    """

    def __init__(self, array: Any, pixels: NDArray[np.intp]) -> None:
        self._array, self._pixels = array, pixels
        self.shape = (array.shape[0], pixels.size)
        self.dtype = array.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: tuple[slice, Any]) -> NDArray[Any]:
        stars, wanted = key
        pixels = self._pixels[wanted]
        if (
            pixels.size
            and pixels[-1] - pixels[0] == pixels.size - 1
            and np.all(np.diff(pixels) == 1)
        ):
            return np.asarray(self._array[:, pixels[0] : pixels[-1] + 1])[stars]
        return np.ascontiguousarray(np.asarray(self._array[:, pixels])[stars])


class ColumnsOf:
    """Flux or inverse variance of spectra on disk, read when it is asked for.

    Both are read together, by the blocks of `pixel_blocks`, of which the last few are kept.

    Parameters
    ----------
    reader
        Reads blocks.
    which
        0: flux, 1: inverse variance.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, reader: _Reader, which: int) -> None:
        self._reader, self._which = reader, which
        self.shape = reader.shape

    @classmethod
    def pair(cls, spectra: Any) -> tuple[ColumnsOf, ColumnsOf]:
        """Flux and inverse variance.

        Parameters
        ----------
        spectra
            Have ``n_stars``, ``n_pixels`` and ``columns(pixels)``, which reads flux and inverse
            variance of a slice of pixels.
        """
        reader = _Reader(spectra)
        return cls(reader, 0), cls(reader, 1)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: tuple[slice, Any]) -> NDArray[Any]:
        stars, wanted = key
        pixels = np.arange(self.shape[1])[wanted]
        parts = []
        for block in np.unique(pixels // self._reader.size):
            inside = pixels[pixels // self._reader.size == block] - block * self._reader.size
            run = inside.size == inside[-1] - inside[0] + 1
            place = slice(inside[0], inside[-1] + 1) if run else inside
            parts.append(self._reader(int(block))[self._which][stars, place])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class _Reader:
    """Reads blocks of pixels, one at a time, and keeps the last ones."""

    def __init__(self, spectra: Any) -> None:
        self.shape = (int(spectra.n_stars), int(spectra.n_pixels))
        self.size = _block_size(self.shape[0])
        self._spectra, self._lock = spectra, threading.Lock()
        self._kept: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def __call__(self, block: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._lock:
            if block not in self._kept:
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                start = block * self.size
                pixels = slice(start, min(start + self.size, self.shape[1]))
                self._kept[block] = self._spectra.columns(pixels)
            return self._kept[block]


def _block_size(n_stars: int) -> int:
    return int(np.clip(_BLOCK_BYTES // (8 * max(n_stars, 1)), 32, 512))


def pixel_blocks(n_stars: int, n_pixels: int) -> Iterator[slice]:
    """Blocks of pixels whose fluxes and inverse variances together take 128 MB at most.

    Parameters
    ----------
    n_stars, n_pixels
        Of the survey.

    Yields
    ------
    slice
        Of 32 pixels at least, of 512 at most; the last may have fewer.
    """
    size = _block_size(n_stars)
    for start in range(0, n_pixels, size):
        yield slice(start, min(start + size, n_pixels))


def of_stars(array: Any, stars: slice) -> NDArray[Any]:
    """All pixels of some stars.

    Parameters
    ----------
    array
        Of shape (n_stars, n_pixels).
    stars
        Those wanted.

    Returns
    -------
    (n_stars of those, n_pixels) array
    """
    if isinstance(array, np.ndarray):
        return array[stars]
    blocks = pixel_blocks(*array.shape)
    return np.concatenate([np.asarray(array[:, b])[stars] for b in blocks], axis=1)
