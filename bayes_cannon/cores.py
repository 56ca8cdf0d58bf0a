"""How many processors this process may use."""

from __future__ import annotations

import os

__all__ = ["available_cores"]


def available_cores() -> int:
    """Return the number of processors that this process may use, at least 1.

    Where the system tells them (Linux), the limits of a batch queue or of ``taskset`` count, not
    all processors of the machine.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity else os.cpu_count() or 1)
