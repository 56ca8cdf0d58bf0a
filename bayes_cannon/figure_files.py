"""Write figures to files."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.user_paths import user_path

__all__ = ["save_figure"]


def save_figure(figure: Figure | Axes, path: str | os.PathLike[str], *, dpi: int = 130) -> Path:
    """Save a figure (or the figure of some axes) and close it; folders are made."""
    owner = figure.get_figure(root=True) if isinstance(figure, Axes) else figure
    assert owner is not None
    target = user_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    owner.savefig(target, dpi=dpi)
    plt.close(owner)
    return target
