"""What the command `infer` is given: a dataset, or FITS files and folders of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bayes_cannon.apogee_names import is_spectrum_file
from bayes_cannon.cannon import Cannon
from bayes_cannon.dataset import StarProblem, TrainingSet
from bayes_cannon.errors import FileFormatError, NoStarsError
from bayes_cannon.labels import Labels
from bayes_cannon.preparing import prepare_spectra
from bayes_cannon.spectra import NormalizedSpectra

__all__ = ["spectra_files", "spectra_to_infer"]

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
        folders searched for apStar and asStar files. A file that cannot be used becomes a star
        without good pixels, and a line in the log; files of one star get different names.
    visit
        Visit to read from FITS files.
    all_stars
        Take all stars of a dataset.
    progress
        Called with the numbers of spectra read and of all.

    Raises
    ------
    FileFormatError
        If a dataset is damaged or given together with other inputs, or the model cannot be used
        with FITS files.
    NoStarsError
        If nothing is left to infer: no file can be used, or a dataset has no held-out star.
    """
    datasets = [path for path in inputs if path.is_file() and _is_dataset(path)]
    if datasets:
        if len(inputs) > 1:
            raise FileFormatError(f"give {datasets[0]} alone: a dataset is inferred by itself.")
        if visit is not None:
            raise FileFormatError(
                f"{datasets[0]} is a dataset, which holds combined spectra; a visit can only be "
                "chosen of FITS files."
            )
        return _of_dataset(cannon, datasets[0], all_stars=all_stars)
    settings = cannon.settings.get("dataset")
    if not settings:
        raise FileFormatError(
            "the trained model does not say how its spectra were prepared, so that FITS files "
            "cannot be treated alike; give a dataset."
        )
    paths = spectra_files(inputs)
    spectra, problems = prepare_spectra(paths, like=settings, visit=visit, progress=progress)
    return _with_problems(spectra, problems), None


def _of_dataset(cannon: Cannon, path: Path, *, all_stars: bool) -> tuple[NormalizedSpectra, Labels]:
    dataset = TrainingSet.load(path)
    if not all_stars:
        dataset = dataset.select(_held_out(cannon, dataset, path))
    return dataset.spectra, dataset.labels


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


def spectra_files(inputs: Sequence[Path]) -> list[Path]:
    """Files to read; one that does not exist is left to be found out like a broken one."""
    paths: list[Path] = []
    empty: list[Path] = []
    for path in inputs:
        found = sorted(filter(_is_spectrum, path.rglob("*.fits*"))) if path.is_dir() else [path]
        paths += found
        if not found:
            empty.append(path)
            _log.warning("there is no apStar or asStar file below %s", path)
    if not paths:
        raise NoStarsError(f"there is no apStar or asStar file below {', '.join(map(str, empty))}.")
    return paths


def _is_spectrum(path: Path) -> bool:
    return is_spectrum_file(path.name)


def _with_problems(
    spectra: NormalizedSpectra, problems: Sequence[StarProblem]
) -> NormalizedSpectra:
    """Add a row without usable pixels for each file that could not be used: it gets its flag."""
    names = set(spectra.star_id.tolist())
    extra: list[str] = []
    for problem in problems:
        said = "" if problem.path in problem.message else f"{problem.path}: "
        _log.warning("%s%s", said, problem.message)
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
