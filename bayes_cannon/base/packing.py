"""Symmetric matrices as lower triangles: sums of outer products become matrix products."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "pack",
    "pack_outer",
    "packed_size",
    "packed_weights",
    "unpack",
]


def packed_size(n: int) -> int:
    """Number of entries of a packed symmetric n by n matrix.

    Parameters
    ----------
    n
        Rows of the matrix.
    """
    return n * (n + 1) // 2


@lru_cache(maxsize=64)
def _triangle(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = np.tril_indices(n)
    place = np.empty((n, n), dtype=np.intp)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)
    return rows, columns, place


def pack(matrices: NDArray[Any]) -> NDArray[Any]:
    """Lower triangles (..., n (n + 1) / 2) of symmetric matrices (..., n, n), row by row.

    Parameters
    ----------
    matrices : (..., n, n)
        Symmetric.

    Returns
    -------
    (..., n (n + 1) / 2)
    """
    rows, columns, _ = _triangle(matrices.shape[-1])
    return np.asarray(matrices[..., rows, columns])


def unpack(packed: NDArray[Any]) -> NDArray[Any]:
    """Inverse of `pack`: symmetric matrices (..., n, n).

    Parameters
    ----------
    packed : (..., n (n + 1) / 2)

    Returns
    -------
    (..., n, n)
    """
    n = int((np.sqrt(8 * packed.shape[-1] + 1) - 1) / 2 + 0.5)
    return np.asarray(packed[..., _triangle(n)[2]])


def pack_outer(x: NDArray[Any]) -> NDArray[Any]:
    """Packed outer products x x' of vectors (..., n).

    Parameters
    ----------
    x : (..., n)

    Returns
    -------
    (..., n (n + 1) / 2)
    """
    rows, columns, _ = _triangle(x.shape[-1])
    return np.asarray(x[..., rows] * x[..., columns])


def packed_weights(n: int) -> NDArray[np.float64]:
    """1 on the diagonal and 2 off it: sum(weights * pack(A) * pack(B)) is the trace of A B.

    Parameters
    ----------
    n
        Rows of the matrices.

    Returns
    -------
    (n (n + 1) / 2,) float64
    """
    rows, columns, _ = _triangle(n)
    return np.where(rows == columns, 1.0, 2.0)
