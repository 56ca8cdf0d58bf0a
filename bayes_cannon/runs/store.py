"""A run on disk: posteriors appended block by block, so that a run that is killed goes on.

``RUN/posterior.zarr`` gets room for all stars with the first block; every further block of stars
fills its own chunks, and only then is noted as done in ``RUN/progress/``. A block that was cut off
is done again as a whole: since draws depend on seed and star alone, nothing is lost and nothing
repeated. Only one block is in memory at a time.

Reading a run's posteriors: lazily, and only what is whole and done.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.locks import LOCK_NAME
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import told_writing
from bayes_cannon.base.stores.blocks import (
    blocks_of,
    common_files,
    damaged_file,
    mark_name,
    read_json,
    seconds_of,
    sums_of,
    write_json,
)
from bayes_cannon.base.stores.codecs import ZARR_FORMAT, refuse_codecs
from bayes_cannon.base.stores.folder import PROGRESS, BlockFolder
from bayes_cannon.errors import BayesCannonWarning, FileFormatError, OutputExistsError
from bayes_cannon.runs.writing import (
    SESSION,
    BlockWriter,
    Delivered,
    datasets_of,
    write_block,
)
from bayes_cannon.spectra.spectra import name_some

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "RunStore",
    "open_posterior",
]


_OURS = {"posterior.zarr", "progress", "figures", "summary.json", "catalogue.fits",
         "catalogue.ecsv", "catalogue.vot", "report.html", LOCK_NAME}  # fmt: skip
_LEFT = ("*.part", "progress/*.part", "figures/.*.part.*", "posterior.zarr/**/*.partial")


class RunStore(BlockFolder):
    """Writer of one run; its folder is locked while the context lasts.

    Parameters
    ----------
    folder
        The run's directory; made if need be.
    star_id
        All stars of the run, in order.
    block_size
        Stars per block, which is also the chunk.
    digests
        From `bayes_cannon.runs.fingerprint.fingerprint`; a run of other digests is not continued.
    simulated
        Whether the spectra are, which is kept with the posteriors.
    catalogue
        Name of the catalogue that the labels are compared with, kept as well.
    overwrite
        Whether to delete a run that is there.

    Raises
    ------
    OutputExistsError
        On entering, if the directory holds something else or a different run, cannot be written,
        or another process writes it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        star_id: NDArray[np.str_],
        *,
        block_size: int,
        digests: Mapping[str, str],
        simulated: bool = False,
        catalogue: str = "",
        overwrite: bool = False,
    ) -> None:
        super().__init__(folder, len(star_id), block_size)
        self.star_id, self.simulated, self.catalogue = star_id, simulated, catalogue
        self._digests, self._overwrite = dict(digests), overwrite
        self._session, self._block_size = uuid4().hex, block_size
        self._unseen = False

    @property
    def path(self) -> Path:
        """The Zarr store."""
        return self.folder / "posterior.zarr"

    @property
    def seconds(self) -> list[float]:
        """Seconds that each complete block took, whenever it was done."""
        marks = (seconds_of(self._mark(b)) for b in range(len(self.blocks)))
        return [seconds for seconds in marks if seconds is not None]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the folder go; one in which nothing was done is removed."""
        with suppress(OSError):
            (self._progress / SESSION).unlink(missing_ok=True)
        if not self._layout.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                (self._progress / "run.json").unlink(missing_ok=True)
                self._progress.rmdir()
        self._lock.close()
        with suppress(OSError):
            self.folder.rmdir()

    def writer(self, beside: int = 1) -> BlockWriter:
        """What workers write their blocks with, as long as the context lasts.

        Parameters
        ----------
        beside
            Blocks that are sampled at a time.
        """
        return BlockWriter(self.folder.resolve(), self._session, self._block_size, beside)

    def take(self, block: int, given: Delivered) -> None:
        """Write a block that a worker could not write itself.

        Parameters
        ----------
        block
            Number of the block.
        given
            From `writer`.

        Raises
        ------
        OutputExistsError
            If it cannot be written; blocks that are done stay done.

        Warns
        -----
        BayesCannonWarning
            Once, of workers that do not see the folder.
        """
        if given.host and not self._unseen:
            self._unseen = True
            warnings.warn(
                f"the worker on {given.host} does not see {self.folder.resolve()}: its results "
                "travel to this process, which writes them alone; put the run on storage that all "
                "machines share.",
                BayesCannonWarning,
                stacklevel=3,
            )
        if given.tree is not None:
            self.write(block, given.tree, seconds=given.seconds)

    def write(self, block: int, tree: xr.DataTree, *, seconds: float = 0.0) -> None:
        """Write the result of one block, then note it as done with the seconds it took.

        Parameters
        ----------
        block
            Number of the block.
        tree
            Its result.
        seconds
            That it took.

        Raises
        ------
        OutputExistsError
            If it cannot be written; blocks that are done stay done.
        """
        with told_writing(self.folder):
            if read_json(self._layout) is None:
                self._lay_out(tree)
            sums = write_block(self.path, block, self.blocks[block], tree)
            write_json(self._mark(block), {"seconds": round(seconds, 4), "files": sums})

    @property
    def _progress(self) -> Path:
        return self.folder / PROGRESS

    @property
    def _layout(self) -> Path:
        return self._progress / "layout"

    def _refuse_others(self) -> None:
        """Raise if the folder is there and is not a run, or not of these digests."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputExistsError(f"{self.folder} is a file; choose another path for the run.")
        entries = {p.name for p in self.folder.iterdir()} - {LOCK_NAME}
        known = read_json(self._progress / "run.json")
        nothing = entries <= {"progress"} and self._has_no_progress()
        if known is None and not (nothing or (self._overwrite and self._looks_like_run(entries))):
            raise OutputExistsError(
                f"{self.folder} is not empty and holds no run that can go on; choose another "
                "path, or pass --overwrite if it is an old run."
            )
        if known is None or self._overwrite or read_json(self._layout) is None:
            return
        other = [k for k in self._digests if known.get(k) != self._digests[k]]
        if other:
            raise OutputExistsError(
                f"{self.folder} holds a run with other {', '.join(other)}; choose another path or "
                "pass --overwrite."
            )

    def _has_no_progress(self) -> bool:
        """Whether a process was cut off before it noted what the run is of."""
        if not self._progress.is_dir():
            return not self._progress.exists()
        names = {p.name for p in self._progress.iterdir()}
        return all(name.startswith(("run.json", SESSION)) for name in names)

    def _looks_like_run(self, entries: set[str]) -> bool:
        hidden = {e for e in entries if e.startswith(".")}
        return entries - hidden <= _OURS and bool(entries & {"posterior.zarr", "summary.json"})

    def _make_ready(self) -> None:
        """Under the lock: clear what is to be overwritten, and what a killed process left."""
        self._refuse_others()
        if self._overwrite:
            self._clear()
        for pattern in _LEFT:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)  # a worker of before may have ended meanwhile
        self._progress.mkdir(exist_ok=True)
        head = self._progress / "run.json"
        if read_json(self._layout) is None:
            write_json(head, self._digests)
        else:
            self._forget_damaged()
        write_json(self._progress / SESSION, {"session": self._session})

    def _forget_damaged(self) -> None:
        """Have blocks done again whose files were damaged or lost since."""
        if file := damaged_file(self.path, read_json(self._layout), whole=True):
            raise FileFormatError(
                f"{self.path / file} is damaged or lost; put it back from a copy, or pass "
                "--overwrite to do all stars again."
            )
        hurt = self._hurt(self.path)
        if not hurt:
            return
        stars = np.concatenate([self.star_id[self.blocks[b]] for b in hurt])
        for block in hurt:
            self._mark(block).unlink()
        warnings.warn(
            f"the posteriors of {count_text(stars.size, 'star')} ({name_some(stars)}) in "
            f"{self.path} were damaged or lost; they are done again.",
            BayesCannonWarning,
            stacklevel=5,
        )

    def _clear(self) -> None:
        # The marks go first, so that a process killed here leaves no mark without its data.
        names = ["progress", *sorted(_OURS - {"progress", LOCK_NAME})]
        for path in (self.folder / name for name in names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _lay_out(self, tree: xr.DataTree) -> None:
        """Make the arrays: written with one block, then given room for all stars."""
        shutil.rmtree(self.path, ignore_errors=True)
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "simulated": self._flag}
        xr.Dataset(attrs=head).to_zarr(
            self.path, mode="w", zarr_format=ZARR_FORMAT, consolidated=False
        )  # fmt: skip
        chunk = max(rows.stop - rows.start for rows in self.blocks)
        for name, dataset in datasets_of(tree).items():
            dataset.attrs["variables"] = [str(v) for v in dataset.data_vars]
            if name.endswith("posterior"):
                dataset.attrs["simulated"] = self._flag
                dataset.attrs |= {"catalogue": self.catalogue} if self.catalogue else {}
            sizes = dict(dataset.sizes) | {"star": chunk}
            encoding = {
                str(v): {"chunks": tuple(sizes[d] for d in a.dims)}
                for v, a in dataset.variables.items()
                if a.ndim and v != "star"
            }
            dataset.drop_vars("star", errors="ignore").to_zarr(
                self.path, group=name, mode="a", zarr_format=ZARR_FORMAT, encoding=encoding,
                consolidated=False,
            )  # fmt: skip
            if "star" in dataset.dims:
                self._stretch(name, dataset.attrs)
        # The descriptions do not change from here on; together they are read without a warning.
        zarr.consolidate_metadata(self.path, zarr_format=ZARR_FORMAT)
        sums = sums_of(self.path, common_files(self.path))
        write_json(self._layout, {"n_stars": len(self.star_id), "block_size": chunk, "files": sums})

    @property
    def _flag(self) -> int:
        return int(self.simulated)

    def _stretch(self, name: str, attrs: dict[Any, Any]) -> None:
        """Give the arrays of a group room for all stars, and the stars' ids."""
        group = zarr.open_group(self.path, mode="r+", path=name, zarr_format=ZARR_FORMAT)
        for _, array in group.arrays():
            dims = cast("list[str]", array.attrs["_ARRAY_DIMENSIONS"])
            if "star" in dims:
                shape = zip(dims, array.shape, strict=True)
                array.resize(tuple(len(self.star_id) if d == "star" else n for d, n in shape))
        xr.Dataset(coords={"star": self.star_id}, attrs=attrs).to_zarr(
            self.path, group=name, mode="a", zarr_format=ZARR_FORMAT, consolidated=False
        )


FORMAT = "bayes_cannon.run"
FORMAT_VERSION = 1


def open_posterior(folder: str | os.PathLike[str]) -> xr.DataTree:
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
    folder = user_path(folder)
    path = folder / "posterior.zarr"
    if not path.exists():
        raise FileFormatError(f"{folder} holds no posterior.zarr; it is not a run.")
    refuse_codecs(path.rglob(".zarray"), "run")
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
    return _only_done(ordered, folder)


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
        f"{folder} is not finished: {done.sum()} of {count_text(n_stars, 'star')} are here; the "
        "same command goes on with it.",
        BayesCannonWarning,
        stacklevel=4,
    )
    return tree.isel(star=np.flatnonzero(done))
