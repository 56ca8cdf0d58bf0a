"""Files of the package: all or nothing on disk, and for NetCDF a format name and a version."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.base.paths import has_ending, user_path
from bayes_cannon.errors import FileFormatError, InvalidDataError, OutputExistsError

__all__ = [
    "check_netcdf",
    "check_output",
    "part_path",
    "read_tree",
    "reason_of",
    "schema_dataset",
    "sweep_parts",
    "told_writing",
    "write_atomically",
    "write_tree",
]


_SEALED = "sealed"
_SEAL = b"\nbayes_cannon seal, sha256 of all before it: "
_SEAL_BYTES = len(_SEAL) + 65
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_LONGEST = 100
_PIECE = 1 << 20
_NOT_NETCDF = (".zarr", ".fits", ".fit", ".fits.gz", ".csv", ".ecsv", ".vot", ".xml", ".npz",
               ".npy", ".json", ".pkl", ".html", ".txt", ".toml", ".parquet")  # fmt: skip


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Say early that a result cannot be written where it is wanted.

    Parameters
    ----------
    path
        Of the file to write.
    overwrite
        Whether a file that is there is to be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError
        If `path` exists and `overwrite` is false, is a folder, or is not writable.
    """
    target = user_path(path)
    if target.is_dir():
        raise OutputExistsError(f"{target} is a folder; choose another path for the file.")
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists; choose another path or pass --overwrite.")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputExistsError(f"cannot write {target}: {folder} is not a writable directory.")
    return target


def check_netcdf(path: str | os.PathLike[str], what: str, *, overwrite: bool) -> Path:
    """As `check_output`, of a NetCDF file: its name must not end like that of another format.

    Parameters
    ----------
    path
        Of the file to write.
    what
        How such a file is to be called, for the message.
    overwrite
        As of `check_output`.

    Raises
    ------
    InvalidDataError
        If the name ends with ``.zarr``, ``.fits`` and the like.
    OutputExistsError
        As `check_output`.
    """
    name = user_path(path).name
    if has_ending(name, *_NOT_NETCDF):
        raise InvalidDataError(f"{what}, but {name} ends like a file of another format.")
    return check_output(path, overwrite=overwrite)


@contextmanager
def told_writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the operating system says of a failed write into an error with a remedy.

    Parameters
    ----------
    target
        What is being written, for the message.

    Raises
    ------
    OutputExistsError
        In place of every `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise OutputExistsError(f"cannot write {target}: {reason_of(error)}.") from error


def reason_of(error: OSError) -> str:
    """Say why something could not be written, and what to do about it.

    Parameters
    ----------
    error
        What the operating system raised.
    """
    said = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    if error.errno in _FULL:
        return f"{said}; make space, then run the same command again"
    if error.errno in _FORBIDDEN:
        return f"{said}; choose another path"
    return said


def part_path(target: Path) -> Path:
    """Path beside `target` for what is being written; it names the machine and the process.

    Parameters
    ----------
    target
        Path of the finished file.
    """
    return target.with_name(f"{_part_start(target)}{_host()}-{os.getpid()}.part")


def sweep_parts(target: Path) -> list[Path]:
    """Find what processes that were killed have left of `target`, oldest name first.

    Only what a process of this machine wrote that is no more counts.

    Parameters
    ----------
    target
        Path of the finished file.
    """
    from psutil import pid_exists

    pattern = re.compile(re.escape(f"{_part_start(target)}{_host()}-") + r"(\d{1,9})\.part")
    with suppress(OSError):
        matches = [(pattern.fullmatch(p.name), p) for p in sorted(target.parent.iterdir())]
        return [path for match, path in matches if match and not pid_exists(int(match[1]))]
    return []


def _part_start(target: Path) -> str:
    return f".{target.name.encode()[:_LONGEST].decode(errors='ignore')}."


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:40]


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[Path], None], *, overwrite: bool
) -> Path:
    """Have `write` fill a ``.part`` file beside `path`, then give it its name; all or nothing.

    The content is on the disk before the file has its name. What killed processes left of the
    same file is removed.

    Parameters
    ----------
    path
        Of the finished file; its folder is made.
    write
        Writes the content to the path that it is given.
    overwrite
        Whether a file that is there is to be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError
        If `path` exists and `overwrite` is false, also where another process made it meanwhile;
        or if it cannot be written.
    """
    target = check_output(path, overwrite=overwrite)
    part = part_path(target)
    with told_writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in sweep_parts(target):
            left.unlink(missing_ok=True)
        try:
            write(part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            _name(part, target, overwrite=overwrite)
        finally:
            with suppress(OSError):
                part.unlink()
    return target


def _name(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name; what another process wrote meanwhile is not replaced."""
    if not overwrite:
        try:
            os.link(part, target)
            return
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not target.exists():
                os.replace(part, target)
                return
        raise OutputExistsError(
            f"{target} was written by another process meanwhile; choose another path or pass "
            "--overwrite."
        )
    os.replace(part, target)


def write_tree(
    tree: xr.DataTree,
    path: str | os.PathLike[str],
    *,
    format_name: str,
    version: int,
    overwrite: bool = False,
) -> Path:
    """Write a DataTree as NetCDF-4; the root's attributes hold format and version.

    The file ends with a seal, a line with the digest of all before it, which other readers of
    NetCDF do not see: HDF5 itself may hang or crash on a damaged file.

    Parameters
    ----------
    tree
        What to write.
    path
        Of the file.
    format_name
        What kind of file it is.
    version
        Version of that kind.
    overwrite
        Whether a file that is there is to be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError
        As `write_atomically`.
    """
    tree.attrs.update({"format": format_name, "format_version": version, _SEALED: 1})
    encoding = {
        node.path: {
            str(name): {"zlib": True, "complevel": 1, "shuffle": True}
            for name, array in node.data_vars.items()
            if array.dtype.kind in "fiub" and array.size > 1000
        }
        for node in tree.subtree
    }

    def write(part: Path) -> None:
        # In memory first: HDF5 itself ends the process where a write to the disk fails.
        buffer = io.BytesIO()
        tree.to_netcdf(buffer, engine="h5netcdf", encoding=encoding)
        with buffer.getbuffer() as content, part.open("wb") as file:
            file.write(content)
            file.write(_SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n")

    return write_atomically(path, write, overwrite=overwrite)


def read_tree(path: str | os.PathLike[str], *, format_name: str, version: int) -> xr.DataTree:
    """Read what `write_tree` wrote, into memory.

    Parameters
    ----------
    path
        Of the file.
    format_name
        What kind it must be of.
    version
        Newest version that can be read.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, of another kind, or of another version.
    """
    source = user_path(path)
    if not source.exists():
        raise FileFormatError(f"{source} does not exist.")
    sealed = _is_sealed(source)
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
    if _version(tree) > version:
        raise FileFormatError(
            f"{source} has format version {tree.attrs['format_version']}, newer than {version}; "
            "upgrade bayes_cannon to read it."
        )
    if _version(tree) < version:
        raise FileFormatError(
            f"{source} has format version {tree.attrs.get('format_version', 'none')}, older than "
            f"{version}; make it again with this version of bayes_cannon."
        )
    if tree.attrs.pop(_SEALED, False) and not sealed:
        raise FileFormatError(f"{source} is damaged: its end is not its own; make it again.")
    return tree


def _is_sealed(path: Path) -> bool:
    """Whether a file ends with a seal; one whose content is another than was sealed is damaged."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SEAL_BYTES))
            end = file.read()
            if not end.startswith(_SEAL):
                return False
            file.seek(0)
            digest, left = hashlib.sha256(), size - _SEAL_BYTES
            while piece := file.read(min(left, _PIECE)):
                digest.update(piece)
                left -= len(piece)
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    if end[len(_SEAL) :].strip() != digest.hexdigest().encode():
        raise FileFormatError(
            f"{path} is damaged: it does not hold what was written into it; make it again."
        )
    return True


def _version(tree: xr.DataTree) -> int:
    try:
        return int(tree.attrs.get("format_version", 0))
    except (TypeError, ValueError):
        return 0


def schema_dataset(
    variables: Mapping[str, tuple[Any, ...]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return a group of the InferenceData schema, made by ArviZ.

    The time when it was made is left out, so that the same work gives the same result.

    Parameters
    ----------
    variables
        By name: dims (one as text, or several), array and, where there are any, attributes.
    coords
        By dim; a dim without gets 0, 1, 2, ...
    attrs
        Of the group.
    """
    from arviz_base import dict_to_dataset

    dims: dict[Hashable, Sequence[Hashable]] = {
        name: [v[0]] if isinstance(v[0], str) else list(v[0]) for name, v in variables.items()
    }
    sampled = [d for d in ("chain", "draw") if all(d in own for own in dims.values())]
    group = dict_to_dataset(
        {name: np.asarray(v[1]) for name, v in variables.items()},
        dims=dims, coords=dict(coords),
        sample_dims=sampled, attrs=dict(attrs or {}), check_conventions=False,
    )  # fmt: skip
    for name, given in variables.items():
        group[name].attrs.update(*given[2:])
    for key in ("created_at", *(() if sampled else ("sample_dims",))):
        group.attrs.pop(key, None)
    return group
