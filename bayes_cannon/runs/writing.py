"""Blocks of stars written into a run by whoever sampled them.

The process that makes a run writes its first block itself, which lays out the arrays. From then on
each worker that sees the folder writes the chunks of its blocks and then their marks: results do
not travel, and there is no journal that two could write at once. A worker that does not see the
folder, or finds it in other hands, hands its block over as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from bayes_cannon.base.storage import told_writing
from bayes_cannon.base.stores.blocks import (
    block_files,
    mark_name,
    read_json,
    sums_of,
    write_json,
)
from bayes_cannon.base.stores.codecs import ZARR_FORMAT

__all__ = [
    "SESSION",
    "BlockWriter",
    "Delivered",
    "datasets_of",
    "write_block",
]


SESSION = "session"
"""File in ``progress/`` that names the process that makes the run now."""


@dataclass(frozen=True, eq=False)
class Delivered:
    """What comes of a block.

    Attributes
    ----------
    tree : xarray.DataTree or None
        The result, where it is still to be written.
    seconds : float
        That the block took.
    host : str
        Machine that does not see the run's folder; '' where that is not so.
    """

    tree: xr.DataTree | None
    seconds: float
    host: str = ""


@dataclass(frozen=True)
class BlockWriter:
    """Writes blocks where they are sampled; can be pickled.

    Attributes
    ----------
    folder : Path
        Of the run, in full.
    session : str
        Tells the process that makes the run from others before and after it.
    block_size : int
        Stars per block.
    beside : int
        Blocks that are sampled at a time: their seconds count so many times less, so that those
        of all blocks are the run's.
    """

    folder: Path
    session: str
    block_size: int
    beside: int = 1

    def __call__(self, rows: slice, tree: xr.DataTree, seconds: float) -> Delivered:
        """Write a block, or hand it over.

        Parameters
        ----------
        rows
            Its stars.
        tree
            Its result.
        seconds
            That it took.

        Raises
        ------
        OutputExistsError
            If the disk is full, or the folder cannot be written.
        """
        block, seconds = rows.start // self.block_size, seconds / self.beside
        progress = self.folder / "progress"
        if not (progress / SESSION).exists():
            import platform

            return Delivered(tree, seconds, host=platform.node() or "a worker")
        if not self._is_mine() or read_json(progress / "layout") is None:
            return Delivered(tree, seconds)
        with told_writing(self.folder):
            sums = write_block(self.folder / "posterior.zarr", block, rows, tree)
            # Whoever overwrites the run meanwhile must not take this block for one of its own.
            if not self._is_mine():
                return Delivered(tree, seconds)
            mark = {"seconds": round(seconds, 4), "files": sums}
            write_json(progress / mark_name(block), mark)
        return Delivered(None, seconds)

    def _is_mine(self) -> bool:
        known = read_json(self.folder / "progress" / SESSION)
        return known is not None and known.get("session") == self.session


def datasets_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Groups of a tree by their names.

    Parameters
    ----------
    tree
        A result.
    """
    return {str(name): node.to_dataset() for name, node in tree.children.items()}


def write_block(store: Path, block: int, rows: slice, tree: xr.DataTree) -> dict[str, Any]:
    """Write the chunks of one block of stars.

    Parameters
    ----------
    store
        The Zarr store, laid out.
    block
        Number of the block.
    rows
        Its stars.
    tree
        Its result.

    Returns
    -------
    dict
        Sums of its files.
    """
    for name, dataset in datasets_of(tree).items():
        if "star" in dataset.dims:
            fixed = [v for v in dataset.variables if "star" not in dataset[v].dims]
            dataset.drop_vars([*fixed, "star"]).to_zarr(
                store, group=name, region={"star": rows}, zarr_format=ZARR_FORMAT,
                consolidated=False,
            )  # fmt: skip
    return sums_of(store, block_files(store, block))
