"""Inner loops compiled by Numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba

__all__ = [
    "compile_loop",
]


def compile_loop(function: Callable[..., Any]) -> Any:
    """Compile a loop on arrays, kept on disk where a folder can be written; it releases the lock.

    Sums may be taken in another order than written, and zeros divide as in NumPy: a check of every
    division would keep loops from being done several elements at a time.

    Parameters
    ----------
    function
        Of arrays and numbers.
    """
    fast = {"reassoc", "contract", "arcp", "nsz"}
    compiler = partial(numba.njit, nogil=True, error_model="numpy", fastmath=fast)
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # no folder for the result
        return compiler()(function)
