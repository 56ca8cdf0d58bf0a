"""How many processors this process may use.

Work on blocks of pixels or stars, side by side on the cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

__all__ = [
    "available_cores",
    "each_block",
]


def available_cores() -> int:
    """Return the number of processors that this process may use, at least 1.

    Where the system tells them (Linux), the limits of a batch queue or of ``taskset`` count, not
    all processors of the machine.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity else os.cpu_count() or 1)


_MAX_THREADS = 8
"""Blocks worked on at a time; bounds the memory."""


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads of their own; looking for them takes milliseconds."""
    return ThreadpoolController()


def each_block(work: Callable[[slice], None], size: int, total: int) -> None:
    """Call `work` with all blocks of `size` out of `total`, side by side on the cores.

    Element-wise work and small matrices use one core each, so that blocks on threads of their own
    are faster than threads inside the matrix products, which therefore get one each meanwhile.
    Every block must write to its own part of the result; their order does not matter.

    Parameters
    ----------
    work
        Works on one block; must be safe beside others.
    size
        Rows of a block; the last may have fewer.
    total
        Rows of all.
    """
    blocks = [slice(a, min(a + size, total)) for a in range(0, total, size)]
    threads = min(available_cores(), len(blocks), _MAX_THREADS)
    if threads < 2:
        for block in blocks:
            work(block)
        return
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, blocks):
            pass
