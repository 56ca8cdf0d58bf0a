"""Reading a run's posteriors: lazily, and only what is whole and done."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from bayes_cannon.errors import BayesCannonWarning, FileFormatError
from bayes_cannon.run_progress import (
    blocks_of,
    damaged_file,
    mark_name,
    read_json,
    seconds_of,
)
from bayes_cannon.user_paths import user_path

__all__ = ["FORMAT", "FORMAT_VERSION", "ZARR_FORMAT", "datasets_of", "open_run"]

FORMAT = "bayes_cannon.run"
FORMAT_VERSION = 1
ZARR_FORMAT: Final = 2
"""Format 3 has no specification of arrays of text."""
_CODECS = {"blosc", "gzip", "lz4", "shuffle", "vlen-utf8", "zlib", "zstd"}


def datasets_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Groups of a tree by their names."""
    return {str(name): node.to_dataset() for name, node in tree.children.items()}


def open_run(folder: str | os.PathLike[str]) -> xr.DataTree:
    """Open the posteriors of a run, read lazily.

    Parameters
    ----------
    folder
        The run's directory.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior``, ``star_stats``, ``constant_data`` and, of NUTS, ``sample_stats``;
        dims chain, draw, star. ``tree.sel(star=...)`` gives one star, ready for ArviZ. Of a run
        that is not finished: the stars that are done, with a warning.

    Raises
    ------
    FileFormatError
        If there is no run, or it is damaged or of a newer format.
    """
    path = user_path(folder) / "posterior.zarr"
    if not path.exists():
        raise FileFormatError(f"{folder} holds no posterior.zarr; it is not a run.")
    _refuse_codecs(path)
    try:
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)
        groups = {name: _in_order(dataset) for name, dataset in datasets_of(tree).items()}
    except Exception as error:
        raise FileFormatError(
            f"{path} cannot be read ({type(error).__name__}); make the run again."
        ) from error
    if tree.attrs.get("format") != FORMAT:
        raise FileFormatError(f"{path} is not a run of bayes_cannon.")
    if not str(tree.attrs.get("format_version")).isdecimal():
        raise FileFormatError(f"{path} is damaged: it does not say its version; make it again.")
    if int(tree.attrs["format_version"]) > FORMAT_VERSION:
        raise FileFormatError(f"{path} has a newer format; upgrade bayes_cannon to read it.")
    ordered = xr.DataTree.from_dict(groups)
    ordered.attrs.update(tree.attrs)
    return _only_done(ordered, user_path(folder))


def _refuse_codecs(store: Path) -> None:
    """Refuse a store that would be decoded by anything but plain compression.

    One of the codecs that Zarr knows unpickles what it reads, which runs the code that it finds.
    """
    for head in store.rglob(".zarray"):
        content = read_json(head) or {}
        codecs = [content.get("compressor"), *(content.get("filters") or [])]
        names = {str(c.get("id")) if isinstance(c, dict) else str(c) for c in codecs if c}
        if strange := sorted(names - _CODECS):
            raise FileFormatError(
                f"{head.parent} is encoded by {', '.join(strange)}, which runs of bayes_cannon "
                "never are; do not use this run."
            )


def _in_order(dataset: xr.Dataset) -> xr.Dataset:
    """Variables in the order in which they were written; a Zarr store does not keep it."""
    names: list[Any] = list(dataset.attrs.pop("variables", dataset.data_vars))
    return dataset[names]


def _only_done(tree: xr.DataTree, folder: Path) -> xr.DataTree:
    """Leave out the stars of blocks that are not done."""
    progress = folder / "progress"
    if not progress.exists():
        return tree
    layout = read_json(progress / "layout")
    if layout is None:
        raise FileFormatError(f"no star of {folder} is done yet; run the same command again.")
    n_stars = int(layout["n_stars"])
    done = np.zeros(n_stars, dtype=np.bool_)
    store, hurt = (
        folder / "posterior.zarr",
        damaged_file(folder / "posterior.zarr", layout, whole=False),
    )
    for number, block in enumerate(blocks_of(n_stars, int(layout["block_size"]))):
        mark = read_json(progress / mark_name(number))
        done[block] = seconds_of(progress / mark_name(number)) is not None
        hurt = hurt or damaged_file(store, mark, whole=False)
    if hurt:
        raise FileFormatError(
            f"{store / hurt} is damaged or lost; run the same command again, which does its stars "
            "again."
        )
    if done.all():
        return tree
    warnings.warn(
        f"{folder} is not finished: {done.sum()} of {n_stars} stars are here; the same command "
        "goes on with it.",
        BayesCannonWarning,
        stacklevel=3,
    )
    return tree.isel(star=np.flatnonzero(done))
