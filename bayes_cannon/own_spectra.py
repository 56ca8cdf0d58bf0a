"""Training sets from a user's own spectra: any instrument, wavelength grid, chips and labels.

Spectra come as arrays (`training_set_from_arrays`) or as files that a table lists together with
the labels (`training_set_from_table`). They are in the stars' rest frame, all on one grid. A bad
pixel has inverse variance 0, or an infinite error; its flux may then be anything, NaN included.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.continuum import ContinuumSettings, warn_masked
from bayes_cannon.cuts import CutStep
from bayes_cannon.dataset import Setting, StarProblem, TrainingSet
from bayes_cannon.errors import (
    BayesCannonWarning,
    LabelError,
    NoStarsError,
)
from bayes_cannon.labels import Labels
from bayes_cannon.own_arrays import (
    Chips,
    GivenSpectra,
    as_numbers,
    check_star_ids,
    make_labels,
    require_labels,
)
from bayes_cannon.own_files import Reader, read_files, read_spectrum
from bayes_cannon.software import software_versions
from bayes_cannon.spectra import NormalizedSpectra, name_some

__all__ = [
    "Reader",
    "read_spectrum",
    "spectra_from_arrays",
    "training_set_from_arrays",
    "training_set_from_table",
]

FloatArray = NDArray[np.float64]


def spectra_from_arrays(
    wavelength: ArrayLike,
    flux: ArrayLike,
    *,
    ivar: ArrayLike | None = None,
    error: ArrayLike | None = None,
    star_id: Sequence[str] | None = None,
    chips: Chips = (),
    continuum: ContinuumSettings | None = None,
    simulated: bool = False,
) -> NormalizedSpectra:
    """Normalised spectra from arrays, for `infer_labels`; a star without good pixels stays.

    Parameters
    ----------
    wavelength
        Shape (n_pixels,), increasing, in Å, in the stars' rest frame.
    flux
        Shape (n_stars, n_pixels), or (n_pixels,) for one star.
    ivar, error
        Inverse variance or standard deviation of the flux, of the same shape; one of the two.
    star_id
        A name for each star, all different; by default ``star-1``, ``star-2``, …
    chips
        Wavelength ranges (low, high) in Å that are normalised each on its own; pixels outside
        all of them are not used. By default one range with everything.
    continuum
        How to normalise; give it the wavelengths of continuum pixels (vacuum or air, as the
        grid). None: the spectra are normalised already.
    simulated
        Whether the spectra are simulated; figures and files then say so.

    Raises
    ------
    InvalidDataError
        On shapes that do not fit together, wavelengths that do not increase, values of good
        pixels that are not numbers, chips without pixels, spectra that look as if they were not
        normalised though no continuum is asked for.
    """
    pixels = GivenSpectra.make(wavelength, flux, ivar, error, star_id)
    spectra, masked = pixels.normalized(chips, continuum, simulated=simulated)
    warn_masked(spectra.star_id, masked)
    return spectra


def training_set_from_arrays(
    wavelength: ArrayLike,
    flux: ArrayLike,
    labels: Mapping[str, ArrayLike],
    *,
    ivar: ArrayLike | None = None,
    error: ArrayLike | None = None,
    star_id: Sequence[str] | None = None,
    label_errors: Mapping[str, ArrayLike] | None = None,
    units: Mapping[str, str] | None = None,
    chips: Chips = (),
    continuum: ContinuumSettings | None = None,
    allow_missing_labels: bool = False,
    simulated: bool = False,
) -> TrainingSet:
    """Training set from arrays of spectra and labels.

    A star without a single good pixel, or without a usable continuum, is left out: it is in
    `TrainingSet.problems`, and a warning says so.

    Parameters
    ----------
    wavelength, flux, ivar, error, star_id, chips, continuum, simulated
        See `spectra_from_arrays`.
    labels
        Values of each label by its name (letters, digits and ``_``), shape (n_stars,); NaN where
        unknown.
    label_errors
        Standard deviations, one number or (n_stars,) a label; NaN, or left out, where unknown.
    units
        Units of labels whose names do not tell.
    allow_missing_labels
        Take stars that lack some of the labels.

    Raises
    ------
    InvalidDataError
        As `spectra_from_arrays`.
    LabelError
        On label names or shapes that cannot be, and on missing labels unless allowed.
    NoStarsError
        If no star is usable.

    Examples
    --------
    Forty made-up stars with one line whose depth follows the temperature:

    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> wavelength = np.linspace(5000.0, 5100.0, 201)
    >>> teff = rng.uniform(4500.0, 5500.0, 40)
    >>> line = np.exp(-0.5 * ((wavelength - 5050.0) / 4.0) ** 2)
    >>> flux = 2e-15 * (1 - np.outer(0.3 + (teff - 5000.0) / 1e4, line))
    >>> error = np.full_like(flux, 2e-17)
    >>> flux += error * rng.normal(size=flux.shape)
    >>> far = np.abs(wavelength - 5050.0) > 20.0
    >>> continuum = ContinuumSettings(degree=2, pixels=tuple(wavelength[far]))
    >>> dataset = training_set_from_arrays(
    ...     wavelength, flux, {"TEFF": teff}, error=error, continuum=continuum
    ... )
    >>> dataset.n_stars, dataset.labels.names, dataset.labels.units
    (40, ('TEFF',), ('K',))
    """
    pixels = GivenSpectra.make(wavelength, flux, ivar, error, star_id)
    table = make_labels(pixels.star_id, labels, label_errors, units)
    require_labels(table, allowed=allow_missing_labels)
    steps = [CutStep("arrays", "all spectra given", 0, len(table))]
    return _training_set(pixels, table, steps, (), chips, continuum, simulated=simulated)


def training_set_from_table(
    table: Table,
    labels: Sequence[str],
    *,
    folder: str | os.PathLike[str] = ".",
    reader: Reader | None = None,
    units: Mapping[str, str] | None = None,
    chips: Chips = (),
    continuum: ContinuumSettings | None = None,
    allow_missing_labels: bool = False,
    simulated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingSet:
    """Training set from a table that lists files of spectra and the stars' labels.

    A file that cannot be read, or whose wavelengths are not those of the first one, does not
    stop the others: it is in `TrainingSet.problems`, and a warning says so.

    Parameters
    ----------
    table
        One row a star: column ``PATH``, a column for each label, and, where known, its error in
        ``NAME_ERR``; ``STAR_ID`` with names, else the file names without their endings.
    labels
        Names of the label columns.
    folder
        Where paths that are not absolute begin.
    reader
        Takes the path of a file and returns wavelength, flux and inverse variance;
        default `read_spectrum`.
    progress
        Called with the number of files read and their total.
    units, chips, continuum, allow_missing_labels, simulated
        See `training_set_from_arrays`.

    Raises
    ------
    InvalidDataError, LabelError, NoStarsError
        As `training_set_from_arrays`; also if a column is not there.
    """
    values, errors = _label_columns(table, labels)
    paths = [Path(folder) / str(path) for path in table["PATH"]]
    names = [str(n) for n in table["STAR_ID"]] if "STAR_ID" in table.colnames else None
    ids = check_star_ids(names or [path.stem for path in paths], len(paths))
    whole = make_labels(ids, values, errors, units)
    require_labels(whole, allowed=allow_missing_labels)
    pixels, kept, problems = read_files(paths, ids, reader or read_spectrum, progress)
    steps = [
        CutStep("table", "all rows of the table", 0, len(paths)),
        CutStep("spectrum readable", "the file holds a spectrum", len(problems), len(kept)),
    ]
    return _training_set(
        pixels, whole.select(kept), steps, problems, chips, continuum, simulated=simulated
    )


def _training_set(
    pixels: GivenSpectra,
    labels: Labels,
    steps: list[CutStep],
    problems: Sequence[StarProblem],
    chips: Chips,
    continuum: ContinuumSettings | None,
    *,
    simulated: bool,
) -> TrainingSet:
    """Normalise, leave out stars without good pixels, and put spectra and labels together."""
    spectra, masked = pixels.normalized(chips, continuum, simulated=simulated)
    usable = spectra.good.any(axis=1)
    why = "no pixel is good" if continuum is None else "no pixel is good and has a continuum"
    empty = [StarProblem(s, "", why) for s in spectra.star_id[~usable].tolist()]
    problems = (*problems, *empty)
    left = int(usable.sum())
    steps = [*steps, CutStep("good pixels", "some pixels can be used", len(empty), left)]
    _tell(problems, steps[0].remaining, left)
    warn_masked(spectra.star_id[usable], masked[usable])
    return TrainingSet(
        spectra=spectra.select(usable),
        labels=labels.select(usable),
        cut_steps=tuple(steps),
        problems=tuple(problems),
        settings=_settings(spectra.chips, continuum),
    )


def _settings(
    chips: Sequence[tuple[int, int]], continuum: ContinuumSettings | None
) -> dict[str, Setting]:
    settings: dict[str, Setting] = {
        "source": "own spectra",
        "chips": json.dumps(chips),
        **software_versions("astropy", "numpy"),
    }
    if continuum is not None:
        pixels = continuum.pixels
        settings |= {
            "continuum_degree": continuum.degree,
            "continuum_pixels": pixels if isinstance(pixels, str) else json.dumps(pixels),
            "continuum_min_pixels": continuum.fewest,
        }
    return settings


def _tell(problems: Sequence[StarProblem], n_stars: int, n_left: int) -> None:
    """Warn of stars that are left out; raise where none is left."""
    if not problems:
        return
    first = f"{problems[0].star_id}: {problems[0].message}"
    if n_left == 0:
        raise NoStarsError(f"none of {n_stars} stars can be used; the first, {first}.")
    warnings.warn(
        f"{len(problems)} of {n_stars} stars ({name_some([p.star_id for p in problems])}) are "
        f"left out; {first}.",
        BayesCannonWarning,
        stacklevel=4,
    )


def _label_columns(
    table: Table, labels: Sequence[str]
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Values and errors of labels from the columns of a table."""
    lacking = [name for name in ("PATH", *labels) if name not in table.colnames]
    if lacking:
        raise LabelError(
            f"the table has no column {', '.join(lacking)}; it has {', '.join(table.colnames)}."
        )
    values = {name: as_numbers(table[name]) for name in labels}
    known = [name for name in labels if f"{name}_ERR" in table.colnames]
    return values, {name: as_numbers(table[f"{name}_ERR"]) for name in known}
