"""A run on disk: posteriors appended block by block, so that a run that is killed goes on.

``RUN/posterior.zarr`` is laid out for all stars at the start; every block of stars fills its own
region, and only then is noted as done in ``RUN/progress/``. A block that was cut off is done again
as a whole: since draws depend on seed and star alone, nothing is lost and nothing repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.cannon import Cannon
from bayes_cannon.errors import FileFormatError, OutputExistsError
from bayes_cannon.inference_settings import InferenceSettings
from bayes_cannon.spectra import NormalizedSpectra

__all__ = ["RunStore", "fingerprint", "open_run"]

FORMAT = "bayes_cannon.run"
FORMAT_VERSION = 1


def fingerprint(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    settings: InferenceSettings,
    seed: int,
    extra: str = "",
) -> str:
    """Digest of everything a run's posteriors depend on."""
    digest = hashlib.sha256()
    for array in (cannon.theta, cannon.scatter, cannon.loadings, cannon.coef_cov, spectra.flux):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    digest.update(np.ascontiguousarray(spectra.ivar).view(np.uint8).data)
    digest.update("\n".join(spectra.star_id.tolist()).encode())
    kept = {k: v for k, v in asdict(settings).items() if k != "cores"}
    digest.update(json.dumps([kept, seed, extra], sort_keys=True, default=str).encode())
    return digest.hexdigest()


class RunStore:
    """Writer of one run.

    Parameters
    ----------
    folder
        The run's directory; made if need be.
    star_id
        All stars of the run, in order.
    block_size
        Stars per block.
    digest
        From `fingerprint`; a run with another digest is not continued.
    overwrite
        Whether to delete a run that is there.

    Raises
    ------
    OutputExistsError
        If the directory holds something else, or a finished or different run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        star_id: np.ndarray,
        *,
        block_size: int,
        digest: str,
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.star_id, self.block_size = star_id, block_size
        self.blocks = [
            slice(a, min(a + block_size, len(star_id))) for a in range(0, len(star_id), block_size)
        ]
        self._prepare_folder(digest, overwrite=overwrite)

    @property
    def path(self) -> Path:
        """The Zarr store."""
        return self.folder / "posterior.zarr"

    @property
    def _progress(self) -> Path:
        return self.folder / "progress"

    def _prepare_folder(self, digest: str, *, overwrite: bool) -> None:
        head = self._progress / "run.json"
        if self.folder.exists() and any(self.folder.iterdir()):
            known = _read_head(head) if head.is_file() else None
            if overwrite and (known is not None or self._looks_like_run()):
                shutil.rmtree(self.folder)
            elif known is None:
                raise OutputExistsError(
                    f"{self.folder} is not empty and holds no unfinished run; choose another "
                    "path, or pass --overwrite if it is an old run."
                )
            elif known != digest:
                raise OutputExistsError(
                    f"{self.folder} holds a run of other spectra, another model, seed or "
                    "settings; choose another path or pass --overwrite."
                )
        try:
            self._progress.mkdir(parents=True, exist_ok=True)
            if not head.exists():
                _write_text(head, json.dumps({"digest": digest}))
        except OSError as error:
            raise OutputExistsError(f"cannot write {self.folder}: {error.strerror}.") from error

    def _looks_like_run(self) -> bool:
        return self.path.exists() or (self.folder / "summary.json").exists()

    def done(self, block: int) -> bool:
        """Whether a block is complete on disk."""
        return (self._progress / f"{block:06d}").exists()

    def write(self, block: int, tree: xr.DataTree) -> None:
        """Write the result of one block and note it as done."""
        region = {"star": self.blocks[block]}
        if not (self._progress / "layout").exists():
            self._lay_out(tree)
        for name, node in tree.children.items():
            dataset = node.to_dataset()
            if "star" in dataset.dims:
                varying = [v for v in dataset.variables if "star" not in dataset[v].dims]
                dataset.drop_vars(varying).to_zarr(
                    self.path, group=name, region=region, zarr_format=2, consolidated=False
                )
        _write_text(self._progress / f"{block:06d}", "")

    def _lay_out(self, tree: xr.DataTree) -> None:
        """Make arrays for all stars, empty, chunked by block of stars."""
        shutil.rmtree(self.path, ignore_errors=True)
        xr.Dataset(attrs={"format": FORMAT, "format_version": FORMAT_VERSION}).to_zarr(
            self.path, mode="w", zarr_format=2, consolidated=False
        )
        n_stars = len(self.star_id)
        for name, node in tree.children.items():
            dataset = node.to_dataset()
            if "star" in dataset.dims:
                dataset = _stretched(dataset, self.star_id)
            chunks = {"star": min(self.block_size, n_stars)}
            encoding = {
                str(v): {"chunks": tuple(chunks.get(str(d), n) for d, n in a.sizes.items())}
                for v, a in dataset.variables.items()
                if a.ndim
            }
            dataset.to_zarr(
                self.path, group=name, mode="a", zarr_format=2, encoding=encoding,
                consolidated=False,
            )  # fmt: skip
        _write_text(self._progress / "layout", "")

    def finish(self) -> None:
        """Say that all blocks are there."""
        missing = [b for b in range(len(self.blocks)) if not self.done(b)]
        if missing:
            raise FileFormatError(f"{self.folder}: {len(missing)} blocks are not done.")


def _stretched(dataset: xr.Dataset, star_id: np.ndarray) -> xr.Dataset:
    """Dataset like a block's with room for all stars."""
    n = len(star_id)
    variables: dict[str, Any] = {}
    for name, array in dataset.variables.items():
        if "star" not in array.dims:
            variables[str(name)] = array
            continue
        shape = tuple(n if d == "star" else array.sizes[d] for d in array.dims)
        fill = np.nan if array.dtype.kind == "f" else np.zeros((), array.dtype)
        data = star_id if name == "star" else np.full(shape, fill, dtype=array.dtype)
        variables[str(name)] = (array.dims, data, array.attrs)
    coords = {str(c): variables.pop(str(c)) for c in dataset.coords}
    return xr.Dataset(variables, coords, attrs=dataset.attrs)


def _read_head(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["digest"])
    except (OSError, ValueError, KeyError):
        return None


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


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
        dims chain, draw, star. ``tree.sel(star=...)`` gives one star, ready for ArviZ.

    Raises
    ------
    FileFormatError
        If there is no run, or it is damaged or of a newer format.
    """
    path = Path(folder) / "posterior.zarr"
    if not path.exists():
        raise FileFormatError(f"{folder} holds no posterior.zarr; it is not a run.")
    try:
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    except Exception as error:
        raise FileFormatError(
            f"{path} cannot be read ({type(error).__name__}); make the run again."
        ) from error
    if tree.attrs.get("format") != FORMAT:
        raise FileFormatError(f"{path} is not a run of bayes_cannon.")
    if int(tree.attrs["format_version"]) > FORMAT_VERSION:
        raise FileFormatError(f"{path} has a newer format; upgrade bayes_cannon to read it.")
    return tree
