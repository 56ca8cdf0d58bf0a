"""What the command `infer` is given: a dataset, or FITS files and folders of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bayes_cannon.cannon import Cannon
from bayes_cannon.dataset import StarProblem, TrainingSet
from bayes_cannon.errors import FileFormatError, NoStarsError
from bayes_cannon.labels import Labels
from bayes_cannon.preparing import prepare_spectra
from bayes_cannon.spectra import NormalizedSpectra

__all__ = ["spectra_to_infer"]

_log = logging.getLogger(__name__)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def spectra_to_infer(
    cannon: Cannon,
    inputs: Sequence[Path],
    *,
    visit: int | None = None,
    all_stars: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NormalizedSpectra, Labels | None]:
    """Spectra to infer labels of, and the catalogue's labels where they are known.

    Parameters
    ----------
    cannon
        The trained model.
    inputs
        One dataset, of which the stars held out from training are taken; or FITS files, and
        folders searched for apStar and asStar files.
    visit
        Visit to read from FITS files.
    all_stars
        Take all stars of a dataset.
    progress
        Called with the numbers of spectra read and of all.

    Raises
    ------
    FileFormatError, NoStarsError
        If an input does not exist, or nothing is left to infer.
    """
    if len(inputs) == 1 and inputs[0].is_file() and _is_dataset(inputs[0]):
        dataset = TrainingSet.load(inputs[0])
        if not all_stars:
            dataset = dataset.select(_held_out(cannon, dataset, inputs[0]))
        return dataset.spectra, dataset.labels
    paths = [p for path in inputs for p in _spectra_in(path)]
    settings = cannon.settings.get("dataset")
    if not settings:
        raise FileFormatError(
            "the trained model does not say how its spectra were prepared, so that FITS files "
            "cannot be treated alike; give a dataset."
        )
    spectra, problems = prepare_spectra(paths, like=settings, visit=visit, progress=progress)
    return _with_problems(spectra, problems), None


def _is_dataset(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == _HDF5_MAGIC


def _held_out(cannon: Cannon, dataset: TrainingSet, path: Path) -> np.ndarray:
    trained = np.isin(dataset.star_id, cannon.training.star_id)
    keep = np.isin(dataset.star_id, cannon.held_out) if cannon.held_out.size else ~trained
    if not keep.any():
        raise NoStarsError(
            f"{path} holds no star that was held out from training; "
            "use --all-stars to take the training stars."
        )
    return np.asarray(keep)


def _spectra_in(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*.fits") if p.name.startswith(("apStar-", "asStar-")))
        if not found:
            raise NoStarsError(f"there is no apStar or asStar file below {path}.")
        return found
    if not path.exists():
        raise FileFormatError(f"{path} does not exist.")
    return [path]


def _with_problems(
    spectra: NormalizedSpectra, problems: Sequence[StarProblem]
) -> NormalizedSpectra:
    """Add a row without usable pixels for each file that could not be read: it gets its flag."""
    names = set(spectra.star_id.tolist())
    extra: list[str] = []
    for problem in problems:
        _log.warning("%s: %s", problem.path, problem.message)
        name = problem.star_id or Path(problem.path).name
        unique, k = name, 1
        while unique in names:
            k += 1
            unique = f"{name}#{k}"
        names.add(unique)
        extra.append(unique)
    if not extra:
        return spectra
    shape = (len(extra), spectra.n_pixels)
    return NormalizedSpectra(
        star_id=np.concatenate([spectra.star_id, np.array(extra, dtype=np.str_)]),
        wavelength=spectra.wavelength,
        flux=np.concatenate([spectra.flux, np.ones(shape, np.float32)]),
        ivar=np.concatenate([spectra.ivar, np.zeros(shape, np.float32)]),
        snr=np.concatenate([spectra.snr, np.full(len(extra), np.nan)]),
        chips=spectra.chips,
        simulated=spectra.simulated,
    )
