"""Type aliases that many modules share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnyArray", "FloatArray"]

FloatArray = NDArray[np.float64]
"""Double precision, whatever the shape: shapes stand in docstrings."""
AnyArray = NDArray[Any]
"""An array whose precision is the caller's (spectra are float32)."""
