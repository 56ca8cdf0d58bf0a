"""Digests of arrays, texts and trees: whether two of them hold the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = [
    "ContentDigest",
]


class ContentDigest:
    """SHA-256 of arrays and texts, each with its kind and length; arrays are not copied."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def array(self, values: NDArray[Any]) -> None:
        """Take in an array; of texts, their signs count and not how wide they are stored.

        Of one that holds nothing only the shape counts: NetCDF does not keep that it was of texts.

        Parameters
        ----------
        values : (...)
            Of numbers or text.
        """
        values = np.ascontiguousarray(values)
        if values.size == 0:
            self.text(f"{values.shape}")
            return
        if values.dtype.kind in "OT":
            values = values.astype(np.str_)
        if values.dtype.kind in "US":
            self.text(json.dumps(values.tolist()))
            return
        self.text(f"{values.dtype.str}{values.shape}")
        self._sha.update(values.reshape(-1).view(np.uint8).data)

    def blocks(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> None:
        """Take in an array of numbers by its parts: the same as `array` of the whole.

        Parameters
        ----------
        shape, dtype
            Of the whole array.
        blocks
            Its rows, in their order.
        """
        if 0 in shape:
            self.text(f"{shape}")
            return
        self.text(f"{dtype.str}{shape}")
        for values in blocks:
            self._sha.update(np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data)

    def text(self, text: str) -> None:
        """Take in a text.

        Parameters
        ----------
        text
            Of any length.
        """
        content = text.encode()
        self._sha.update(f"{len(content)}:".encode())
        self._sha.update(content)

    def tree(self, tree: xr.DataTree) -> None:
        """Take in the variables of all groups of a tree; attributes do not count.

        Parameters
        ----------
        tree
            With all its groups.
        """
        for node in sorted(tree.subtree, key=lambda node: node.path):
            self.text(node.path)
            dataset = node.to_dataset()
            for name in sorted(map(str, dataset.variables)):
                self.text(name)
                self.array(dataset[name].values)

    @property
    def hex(self) -> str:
        """Digest of all that was taken in, in hexadecimal digits."""
        return self._sha.hexdigest()
