"""``summary.json`` of a run, a check or a demo: what was done and what was found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from bayes_cannon.errors import FileFormatError

__all__ = [
    "plain_values",
    "read_summary",
    "write_summary",
]


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json``; empty where there is none.

    Parameters
    ----------
    folder
        Of a run, a check or a demo.

    Raises
    ------
    FileFormatError
        If it is damaged.
    """
    path = folder / "summary.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read; run the same command again.") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{path} does not hold a summary; run the same command again.")
    return content


def write_summary(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``summary.json`` whole or not at all; NaN becomes null.

    Parameters
    ----------
    folder
        Where to write.
    summary
        Values of any kind that JSON has, NumPy's among them.

    Returns
    -------
    dict
        The summary as `read_summary` reads it back.
    """
    text = json.dumps(plain_values(summary), indent=2, default=str, allow_nan=False)
    part = folder / ".summary.json.part"
    part.write_text(text + "\n")
    os.replace(part, folder / "summary.json")
    return cast("dict[str, Any]", json.loads(text))


def plain_values(value: Any) -> Any:
    """Values of NumPy as Python has them, in nested mappings and lists; None for NaN.

    Parameters
    ----------
    value
        Anything.
    """
    if isinstance(value, Mapping):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(v) for v in value]
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
