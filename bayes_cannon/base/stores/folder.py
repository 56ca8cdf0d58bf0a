"""A folder that is written block by block, under a lock, and goes on where it was cut off."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bayes_cannon.base.locks import lock_folder
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import told_writing
from bayes_cannon.base.stores.blocks import (
    blocks_of,
    damaged_file,
    mark_name,
    read_json,
    seconds_of,
)

__all__ = ["PROGRESS", "BlockFolder"]

PROGRESS = "progress"
"""Folder of the notes of what is done."""


class BlockFolder(ABC):
    """Writer of blocks; its folder is locked while the context lasts.

    Parameters
    ----------
    folder
        Made if need be.
    n_rows
        Of all blocks.
    size
        Rows of a block; the last may have fewer.

    Raises
    ------
    OutputExistsError
        On entering, if the folder holds something else, cannot be written, or another process
        writes it.
    """

    def __init__(self, folder: str | os.PathLike[str], n_rows: int, size: int) -> None:
        self.folder = user_path(folder)
        self.blocks = blocks_of(n_rows, size)
        self._lock = ExitStack()

    @property
    def pending(self) -> list[int]:
        """Numbers of the blocks that are not complete on disk."""
        return [b for b in range(len(self.blocks)) if seconds_of(self._mark(b)) is None]

    def __enter__(self) -> Self:
        """Lock the folder and make it ready."""
        self._refuse_others()
        with told_writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock as stack:
                stack.enter_context(lock_folder(self.folder))
                self._make_ready()
                self._lock = stack.pop_all()
        return self

    @abstractmethod
    def _refuse_others(self) -> None:
        """Raise if the folder is there and holds something else."""

    @abstractmethod
    def _make_ready(self) -> None:
        """Under the lock: clear what is to be overwritten, and what a killed process left."""

    def _mark(self, block: int) -> Path:
        return self.folder / PROGRESS / mark_name(block)

    def _hurt(self, root: Path) -> list[int]:
        """Numbers of the blocks some of whose files, below `root`, are damaged or lost."""
        marks = [read_json(self._mark(b)) for b in range(len(self.blocks))]
        return [b for b, mark in enumerate(marks) if damaged_file(root, mark, whole=True)]
