"""Numerical failures as errors of the package, with the stage in which they happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bayes_cannon.errors import FitError

__all__ = [
    "numerical_stage",
]


@contextmanager
def numerical_stage(stage: str, remedy: str) -> Iterator[None]:
    """Turn what linear algebra raises into a `FitError` that names the stage and the remedy.

    Parameters
    ----------
    stage
        What is being computed, for the message.
    remedy
        What to do about it.

    Raises
    ------
    FitError
        In place of `numpy.linalg.LinAlgError`, `FloatingPointError`, `ZeroDivisionError`.
    """
    try:
        yield
    except (np.linalg.LinAlgError, FloatingPointError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FitError(f"{stage} failed numerically ({reason}); {remedy}.") from error
