"""Training sets from a user's own spectra: any instrument, wavelength grid, chips and labels.

Spectra come as arrays (`training_set_from_arrays`) or as files that a table lists together with
the labels (`training_set_from_table`). They are in the stars' rest frame, all on one grid. A bad
pixel has inverse variance 0, an infinite error, or a mask in a masked array; its flux may then be
anything, NaN included. Numbers that cannot be, as an error of 0, cost their pixel too, and the log
says how many. Quantities and columns with units are converted.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.resources import software_versions
from bayes_cannon.errors import BayesCannonWarning, NoStarsError
from bayes_cannon.spectra.continuum import ContinuumSettings, warn_masked
from bayes_cannon.spectra.dataset import CutStep, Setting, TrainingSet, log_steps
from bayes_cannon.spectra.given import Chips, GivenSpectra, check_star_ids
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.own_labels import (
    LabelTable,
    columns_of,
    make_labels,
    matched,
    require_labels,
    take_ids,
    units_told,
)
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra, name_some
from bayes_cannon.spectra.star_ids import DEFAULT_ID

__all__ = [
    "spectra_from_arrays",
    "training_set_from_arrays",
]


_log = logging.getLogger(__name__)


def spectra_from_arrays(
    wavelength: ArrayLike,
    flux: ArrayLike,
    *,
    ivar: ArrayLike | None = None,
    error: ArrayLike | None = None,
    star_id: Sequence[str] | None = None,
    chips: Chips | None = (),
    continuum: ContinuumSettings | None = None,
    simulated: bool = False,
    medium: str = "vacuum",
    id_name: str = DEFAULT_ID,
) -> NormalizedSpectra:
    """Normalised spectra from arrays, for `infer_labels`; a star without good pixels stays.

    Parameters
    ----------
    wavelength
        Shape (n_pixels,), increasing, in the stars' rest frame; in Å, or with a unit of length.
    flux
        Shape (n_stars, n_pixels), or (n_pixels,) for one star.
    ivar, error
        Inverse variance or standard deviation of the flux, of the same shape or one number; one
        of the two. With a unit it is converted to that of the flux.
    star_id
        A name for each star, all different; by default ``spectrum-1``, ``spectrum-2``, …, which
        are not those of a training set.
    chips
        Wavelength ranges (low, high) in Å that are normalised each on its own; pixels outside
        all of them are not used. By default one range with everything.
    continuum
        How to normalise; give it the wavelengths of continuum pixels (in the `medium` of the
        grid). None: the spectra are normalised already.
    simulated
        Whether the spectra are simulated; figures and files then say so.
    medium
        ``'vacuum'`` or ``'air'``: what the wavelengths are in. Nothing is converted
        (`air_to_vacuum` of `bayes_cannon.spectra.air` does that); model, files, figures and line
        lists follow.
    id_name
        What the column of the stars' names is called in tables, such as ``'APOGEE_ID'``.

    A star whose flux is 0, negative, or unlike that of normalised spectra where the others are
    normalised, stays as a row without good pixels, and a warning says so.

    Raises
    ------
    InvalidDataError
        On shapes that do not fit together, wavelengths that do not increase, units that do not
        fit, errors of which none is positive, chips without pixels, most spectra looking as if
        they were not normalised though no continuum is asked for.
    """
    pixels = GivenSpectra.make(wavelength, flux, ivar, error, star_id, medium, id_name)
    if star_id is None:
        own = np.char.replace(pixels.star_id, "star-", "spectrum-")
        pixels = replace(pixels, star_id=own)
    found = pixels.normalized(chips, continuum, simulated=simulated)
    if found.reasons:
        ids = pixels.star_id[list(found.reasons)]
        _warn(
            f"{ids.size} of {count_text(len(pixels.star_id), 'star')} ({name_some(ids)}) have no "
            f"usable pixel; {ids[0]}: {next(iter(found.reasons.values()))}."
        )
    warn_masked(found.spectra.star_id, found.masked_chips)
    return found.spectra


def training_set_from_arrays(
    wavelength: ArrayLike,
    flux: ArrayLike,
    labels: LabelTable,
    *,
    ivar: ArrayLike | None = None,
    error: ArrayLike | None = None,
    star_id: Sequence[str] | None = None,
    label_errors: LabelTable | None = None,
    units: Mapping[str, str] | None = None,
    chips: Chips | None = (),
    continuum: ContinuumSettings | None = None,
    allow_missing_labels: bool = False,
    simulated: bool = False,
    medium: str = "vacuum",
    id_name: str | None = None,
    catalogue: str | None = None,
) -> TrainingSet:
    """Training set from arrays of spectra and labels.

    A star without a single good pixel, or without a usable continuum, is left out: it is in
    `TrainingSet.problems`, and a warning says so.

    Parameters
    ----------
    wavelength, flux, ivar, error, star_id, chips, continuum, simulated, medium
        See `spectra_from_arrays`.
    labels
        Values of each label by its name (letters, digits and ``_``), shape (n_stars,); a mapping,
        an astropy table or a pandas DataFrame. Unknown is what is NaN, masked, or a fill value
        such as -9999 (see `bayes_cannon.base.columns`). ``NAME_ERR`` beside ``NAME`` holds errors.
        A column ``STAR_ID``, ``APOGEE_ID`` or ``SDSS_ID`` of a table, or the named index of a
        DataFrame, gives the names; with `star_id` too, rows are matched by name, and stars without
        a row are an error. Values with a unit are converted to that of the label.
    label_errors
        Standard deviations, one number or (n_stars,) a label, matched as `labels` where they have
        names, else in the order of the spectra; NaN, or left out, where unknown, and where an
        error is a fill value or not positive though others of the label are.
    units
        Units of labels whose names do not tell; left out, those of their columns.
    allow_missing_labels
        Take stars that lack some of the labels.
    id_name
        As of `spectra_from_arrays`; left out, the name of the column that gave the names.
    catalogue
        Name of the catalogue that the labels are of, such as ``'GALAH DR4'``: tables and figures
        call them so.

    Raises
    ------
    InvalidDataError
        As `spectra_from_arrays`.
    LabelError
        On label names or shapes that cannot be, tables whose names of stars are not those of the
        spectra, and on missing labels unless allowed.
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
    if isinstance(labels, Labels) and star_id is not None:
        labels = labels.select(check_star_ids(star_id, len(labels)))
    ids, own_name = take_ids(labels, columns_of(labels))
    names = ids if star_id is None else star_id
    name = own_name if id_name is None else id_name
    pixels = GivenSpectra.make(wavelength, flux, ivar, error, names, medium, name)
    table = make_labels(
        pixels.star_id, labels if isinstance(labels, Labels) else matched(labels, star_id),
        None if label_errors is None else matched(label_errors, names, "label_errors"),
        units_told(labels) if units is None else units, pixels.id_name,
    )  # fmt: skip
    require_labels(table, allowed=allow_missing_labels)
    steps = [CutStep("arrays", "all spectra given", 0, len(table))]
    return _training_set(
        pixels, table, steps, (), chips, continuum, simulated=simulated, catalogue=catalogue
    )


def _training_set(
    pixels: GivenSpectra,
    labels: Labels,
    steps: list[CutStep],
    problems: Sequence[StarProblem],
    chips: Chips | None,
    continuum: ContinuumSettings | None,
    *,
    simulated: bool,
    catalogue: str | None = None,
) -> TrainingSet:
    """Normalise, leave out stars without good pixels, and put spectra and labels together."""
    found = pixels.normalized(chips, continuum, simulated=simulated)
    spectra = found.spectra
    usable = spectra.good.any(axis=1)
    why = "no pixel is good" if continuum is None else "no pixel is good and has a continuum"
    empty = [
        StarProblem(str(spectra.star_id[row]), "", found.reasons.get(row, why))
        for row in np.flatnonzero(~usable).tolist()
    ]
    problems = (*problems, *empty)
    left = int(usable.sum())
    said = pixels.about_pixels()
    about = f"some pixels can be used ({said})" if said else "some pixels can be used"
    steps = [*steps, CutStep("good pixels", about, len(empty), left)]
    _tell(problems, steps[0].remaining, left)
    warn_masked(spectra.star_id[usable], found.masked_chips[usable])
    log_steps(steps)
    return TrainingSet(
        spectra=spectra.select(usable),
        labels=labels.select(usable),
        cut_steps=tuple(steps),
        problems=tuple(problems),
        settings=_settings(spectra, continuum, catalogue),
    )


def _settings(
    spectra: NormalizedSpectra, continuum: ContinuumSettings | None, catalogue: str | None
) -> dict[str, Setting]:
    settings: dict[str, Setting] = {
        "source": "own spectra",
        "id_name": spectra.id_name,
        "chips": json.dumps(spectra.chips),
        **software_versions("astropy", "numpy"),
    }
    if catalogue is not None:
        settings["catalogue"] = str(catalogue)
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
    first = f"{problems[0].star_id}: {problems[0].message.rstrip('.')}"
    if n_left == 0:
        raise NoStarsError(
            f"none of {count_text(n_stars, 'star')} can be used; the first, {first}."
        )
    _warn(
        f"{len(problems)} of {count_text(n_stars, 'star')} "
        f"({name_some([p.star_id for p in problems])}) are left out; {first}.",
        stacklevel=5,
    )


def _warn(text: str, stacklevel: int = 3) -> None:
    warnings.warn(text, BayesCannonWarning, stacklevel=stacklevel)
