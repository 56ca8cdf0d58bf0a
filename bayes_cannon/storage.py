"""NetCDF files of the package: a format name, a version, and all or nothing on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from bayes_cannon.errors import FileFormatError, OutputExistsError

__all__ = ["check_output", "read_tree", "write_atomically", "write_tree"]


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Say early that a result cannot be written where it is wanted.

    Raises
    ------
    OutputExistsError
        If `path` exists and `overwrite` is false, or is not writable.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists; choose another path or pass --overwrite.")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputExistsError(f"cannot write {target}: {folder} is not a writable directory.")
    return target


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[Path], None], *, overwrite: bool
) -> Path:
    """Have `write` fill a ``.part`` file beside `path`, then rename it; all or nothing."""
    target = check_output(path, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write(part)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(part, target)
    except OSError as error:
        raise OutputExistsError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def write_tree(
    tree: xr.DataTree,
    path: str | os.PathLike[str],
    *,
    format_name: str,
    version: int,
    overwrite: bool = False,
) -> Path:
    """Write a DataTree as NetCDF-4 with its format and version in the root attributes."""
    tree.attrs.update(format=format_name, format_version=version)
    encoding = {
        node.path: {
            str(name): {"zlib": True, "complevel": 1, "shuffle": True}
            for name, array in node.data_vars.items()
            if array.dtype.kind in "fiub" and array.size > 1000
        }
        for node in tree.subtree
    }

    def write(part: Path) -> None:
        tree.to_netcdf(part, engine="h5netcdf", encoding=encoding)

    return write_atomically(path, write, overwrite=overwrite)


def read_tree(path: str | os.PathLike[str], *, format_name: str, version: int) -> xr.DataTree:
    """Read what `write_tree` wrote, into memory.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, of another kind, or of a newer version.
    """
    source = Path(path)
    if not source.exists():
        raise FileFormatError(f"{source} does not exist.")
    try:
        with xr.open_datatree(source, engine="h5netcdf") as opened:
            tree = opened.load()
    except Exception as error:
        raise FileFormatError(
            f"{source} cannot be read as NetCDF ({type(error).__name__}); it is damaged or is "
            "not a file of bayes_cannon: make it again."
        ) from error
    found = tree.attrs.get("format")
    if found != format_name:
        raise FileFormatError(f"{source} holds {found or 'something else'}, not {format_name}.")
    if int(tree.attrs.get("format_version", 0)) > version:
        raise FileFormatError(
            f"{source} has format version {tree.attrs['format_version']}, newer than {version}; "
            "upgrade bayes_cannon to read it."
        )
    return tree
