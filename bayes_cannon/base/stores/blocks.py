"""What is noted of work on blocks of stars: which blocks are done, and sums of their files.

A run and a dataset on disk have a folder ``progress``: in a file of its own the number of stars,
the size of the blocks and the sums of the files that belong to no block; in ``000000`` and so on,
one a block that is done, the seconds that it took and the sums of its chunks. A sum is the size of
a file and its CRC-32: a file that was damaged or lost later does not pass for one that is done.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = [
    "block_files",
    "blocks_of",
    "common_files",
    "damaged_file",
    "mark_name",
    "read_json",
    "seconds_of",
    "sums_of",
    "write_json",
]


Sums = Mapping[str, list[int]]


def blocks_of(n_stars: int, size: int) -> list[slice]:
    """Rows of each block of stars.

    Parameters
    ----------
    n_stars
        Number of stars.
    size
        Stars per block.
    """
    return [slice(a, min(a + size, n_stars)) for a in range(0, n_stars, size)]


def mark_name(block: int) -> str:
    """Name of the file that notes a block as done.

    Parameters
    ----------
    block
        Number of the block.
    """
    return f"{block:06d}"


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file of the progress holds; None where it is absent or damaged.

    Parameters
    ----------
    path
        Of the file.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def seconds_of(mark: Path) -> float | None:
    """Seconds that a block took; None where it is not done.

    Parameters
    ----------
    mark
        Path of the block's mark.
    """
    content = read_json(mark)
    try:
        return None if content is None else float(content["seconds"])
    except (KeyError, TypeError, ValueError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of the progress, all or nothing.

    Parameters
    ----------
    path
        Of the file.
    content
        What to write.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")  # two may write the same at once
    try:
        with part.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def _arrays(store: Path, along: str) -> Iterable[tuple[Path, list[str]]]:
    """Folder and dims of each array of a Zarr store that is chunked by blocks of stars."""
    for head in store.glob("*/*/.zarray"):
        attrs = read_json(head.with_name(".zattrs")) or {}
        dims = attrs.get("_ARRAY_DIMENSIONS", [])
        if along in dims and head.parent.name != along:
            yield head.parent, list(dims)


def block_files(store: Path, block: int, along: str = "star") -> list[Path]:
    """Chunks of one block; one that holds nothing but fill values has no file.

    Parameters
    ----------
    store
        Path of the Zarr store.
    block
        Number of the block.
    along
        The dim that the blocks follow.
    """
    chunks: list[Path] = []
    for folder, dims in _arrays(store, along):
        head = read_json(folder / ".zarray") or {}
        counts = [-(-n // size) for n, size in zip(head["shape"], head["chunks"], strict=True)]
        numbers = (
            [block] if dim == along else range(count)
            for dim, count in zip(dims, counts, strict=True)
        )
        chunks += [folder / ".".join(map(str, place)) for place in product(*numbers)]
    return [path for path in chunks if path.is_file()]


def common_files(store: Path) -> list[Path]:
    """Files of a Zarr store that belong to no block: descriptions, coordinates, constants.

    Parameters
    ----------
    store
        Path of the Zarr store.
    """
    chunked = {folder for folder, _ in _arrays(store, "star")}
    return [
        path
        for path in store.rglob("*")
        if path.is_file() and (path.parent not in chunked or path.name.startswith("."))
    ]


def sums_of(store: Path, files: Iterable[Path]) -> dict[str, list[int]]:
    """Sums of files, by their paths relative to `store`.

    Parameters
    ----------
    store
        Path of the Zarr store.
    files
        Paths inside it.
    """
    return {path.relative_to(store).as_posix(): list(_sum(path)) for path in files}


def damaged_file(store: Path, content: Mapping[str, Any] | None, *, whole: bool) -> str:
    """First file that is not as it was noted, '' where all are.

    Parameters
    ----------
    store
        The Zarr store.
    content
        What a mark or the layout holds; one without sums, of an earlier version, passes.
    whole
        Whether to read the files; else only their sizes count.
    """
    sums: Sums = (content or {}).get("files", {})
    for name, (size, crc) in sums.items():
        path = store / name
        try:
            found = _sum(path) if whole else (path.stat().st_size, crc)
        except OSError:
            return name
        if found != (size, crc):
            return name
    return ""


def _sum(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    return len(content), zlib.crc32(content)
