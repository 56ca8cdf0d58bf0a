"""Writing a training set as a dataset in Zarr's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.digests import ContentDigest
from bayes_cannon.base.stores.rows import RowStore, write_block
from bayes_cannon.spectra.dataset import FORMAT, FORMAT_VERSION, TrainingSet
from bayes_cannon.spectra.files.trees import to_tree

__all__ = [
    "PIXELS",
    "finish_set",
    "row_facts",
    "store_set",
]


PIXELS = ("flux", "ivar")
"""Names of the arrays."""


def store_set(dataset: TrainingSet, path: Path, *, overwrite: bool = False) -> Path:
    """Write a training set that is in memory as a folder in Zarr's layout.

    Where it was interrupted the same call goes on, and on a finished one it ends at once.

    Parameters
    ----------
    dataset
        With its spectra in memory.
    path
        Of the folder.
    overwrite
        Whether a dataset that is there is to be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError
        If the folder holds something else, or cannot be written.
    """
    spectra = dataset.spectra
    digest = ContentDigest()
    digest.tree(to_tree(dataset))
    shape = (spectra.n_stars, spectra.n_pixels)
    store = RowStore(path, PIXELS, shape, digest=digest.hex, overwrite=overwrite)
    with store:
        for block in store.pending:
            rows = store.blocks[block]
            flux, ivar = spectra.flux[rows], spectra.ivar[rows]
            write_block(store.folder, block, {"flux": flux, "ivar": ivar}, row_facts(ivar), 0.0)
        if not store.is_whole:
            n_good = [n for facts in store.facts() for n in facts["n_good"]]
            finish_set(store, dataset, np.arange(spectra.n_stars), np.array(n_good, np.intp))
    return store.folder


def row_facts(ivar: NDArray[np.float32]) -> dict[str, Any]:
    """What is noted of the rows of a block: their numbers of good pixels.

    Parameters
    ----------
    ivar : (n_rows, n_pixels) float32
        Inverse variances.
    """
    return {"n_good": np.count_nonzero(ivar > 0, axis=1).tolist()}


def finish_set(
    store: RowStore, dataset: TrainingSet, row: NDArray[np.intp], n_good: NDArray[np.intp]
) -> None:
    """Write all but the pixels, and note the dataset as whole.

    Parameters
    ----------
    store
        All of whose blocks are done.
    dataset
        The training set; its spectra may be on disk.
    row : (n_stars,) int
        Rows of its stars, increasing.
    n_good : (n_stars,) int
        Their numbers of good pixels.
    """
    tree = to_tree(dataset, pixels=False)
    numbers = {"row": ("star", np.asarray(row, np.int64)), "n_good": ("star", n_good)}
    groups = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    groups["stars"] = tree.to_dataset(inherit=False).assign(numbers)
    for group in groups.values():  # Zarr does not keep their order
        group.attrs = {"variables": [str(name) for name in group.data_vars]}
    attrs = {**tree.attrs, "format": FORMAT, "format_version": FORMAT_VERSION}
    store.finish(groups, attrs)
