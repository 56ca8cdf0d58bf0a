"""Simulated data: a survey on disk as the archive would hold it, or spectra in memory.

The spectra are the library's synthesised giants; places, velocities, brightness and troubles are
invented, and every file says so (`SIMULATE = T` and HISTORY cards).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.random import SeedSequence
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.storage import part_path, sweep_parts, told_writing
from bayes_cannon.errors import InvalidDataError, OutputExistsError
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.apogee.bits import BAD_BITS
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS
from bayes_cannon.surveys.simulation.catalogue import (
    MARK,
    label_error,
)
from bayes_cannon.surveys.simulation.faults import (
    StarFaults,
    SurveyFaults,
    draw_faults,
    fault_columns,
)
from bayes_cannon.surveys.simulation.layout_files import CATALOGUE, write_dr17, write_mwm
from bayes_cannon.surveys.simulation.library import Library, load_library
from bayes_cannon.surveys.simulation.mwm import (
    ASTRA_FILE,
)
from bayes_cannon.surveys.simulation.stars import (
    SimulationSettings,
    draw_survey,
    settings_as_text,
)
from bayes_cannon.surveys.simulation.telescope import BAD_ERROR, InstrumentSettings, expose

__all__ = [
    "library_labels",
    "observe",
    "observed_faults",
    "simulate_survey",
]


_TRUTH = "truth.ecsv"
_OWN_ENTRIES = {CATALOGUE, ASTRA_FILE, _TRUTH, "mystery", "apo25m", "lco25m", "spectra"}
_LAYOUTS = ("dr17", "mwm")


def simulate_survey(
    out: str | Path,
    *,
    n_stars: int | None = None,
    seed: int | None = None,
    settings: SimulationSettings | None = None,
    layout: str = "dr17",
    overwrite: bool = False,
    progress: Progress = None,
) -> Path:
    """Write a simulated survey: DR17's files in the archive's layout, or SDSS-V's.

    ``OUT/allStar-dr17-simulated.fits``, ``OUT/<telescope>/<field>/{ap,as}Star-dr17-<id>.fits``,
    ``OUT/mystery/`` with one star that the catalogue does not know, and ``OUT/truth.ecsv`` with the
    true labels of all. The catalogue also holds decoys, so that every cut has something to remove
    (their spectra are ordinary giants; ``REASON`` in the truth table says what is wrong). The
    fields' names and places are real, their stars are not: ids begin with ``2S``, real ones with
    ``2M``. Equal arguments give equal files.

    In the layout ``'mwm'`` the same spectra and labels are in
    ``OUT/spectra/star/AA/BB/mwmStar-0.6.0-<sdss_id>.fits`` and in
    ``OUT/astraAllStarASPCAP-0.6.0-simulated.fits``, with invented SDSS_IDs.

    Parameters
    ----------
    settings
        Of stars, decoys and instrument; ``SimulationSettings(faults=SurveyFaults.hard())`` gives a
        survey with the faults of real spectra, named in ``truth.ecsv``.
    out
        Folder to make.
    n_stars
        Number of survey stars besides decoys and mystery star; None for all of the library.
        Star k does not depend on it.
    seed
        Of all random numbers; None takes a fresh one, which the headers hold.
    layout
        ``'dr17'``, or ``'mwm'``: that of DR19.
    overwrite
        Replace a simulated survey that is already there (and nothing else).
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputExistsError
        If `out` exists and `overwrite` is False, if it is not a simulated survey, or if it cannot
        be written.
    InvalidDataError
        If the library does not have `n_stars` stars, or there is no such layout.
    """
    if layout not in _LAYOUTS:
        raise InvalidDataError(f"layout must be one of {', '.join(_LAYOUTS)}, not {layout!r}.")
    out = user_path(out)
    seed, settings = as_seed(seed), SimulationSettings() if settings is None else settings
    if not isinstance(settings, SimulationSettings):
        raise InvalidDataError(
            f"settings must be a SimulationSettings, not {type(settings).__name__}."
        )
    _check_output(out, overwrite=overwrite)
    library = load_library()
    stars = draw_survey(library, n_stars, seed=seed, settings=settings)
    history = [MARK, f"seed={seed}, n_stars={n_stars}, {settings_as_text(settings)}"]
    part = part_path(out)
    with told_writing(out):
        for left in (part, *sweep_parts(out)):
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            with as_progress(progress) as tell:
                write = write_mwm if layout == "mwm" else write_dr17
                truth = write(part, stars, library, settings, history, tell)
            truth.write(part / _TRUTH, format="ascii.ecsv")
            _move(part, out, overwrite=overwrite)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out


def _check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse to touch what is not ours to replace."""
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another folder or ask for overwriting it.")
    if out.is_symlink() or not out.is_dir():
        raise OutputExistsError(f"{out} is not a folder; choose another place for the survey.")
    entries = {entry.name for entry in out.iterdir()}
    strange = sorted(entries - _OWN_ENTRIES)
    if strange:
        raise OutputExistsError(
            f"{out} holds files that a simulated survey does not have ({', '.join(strange[:3])}"
            f"{', …' if len(strange) > 3 else ''}); nothing was overwritten."
        )
    if entries and not any(_is_simulated(out / name) for name in (CATALOGUE, ASTRA_FILE)):
        raise OutputExistsError(f"{out} is not a simulated survey; nothing was overwritten.")


def _is_simulated(catalogue: Path) -> bool:
    """Whether a catalogue says that it is simulated."""
    try:
        return bool(fits.getval(catalogue, "SIMULATE"))
    except (OSError, KeyError):
        return False


def _move(part: Path, out: Path, *, overwrite: bool) -> None:
    """Put the finished folder in its place; what was there is removed last."""
    old = part.with_suffix(".old")
    if out.exists() and not overwrite:
        raise OutputExistsError(
            f"{out} was written by another process meanwhile; choose another folder."
        )
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def observe(
    library: Library,
    index: ArrayLike | None = None,
    *,
    snr: ArrayLike = 150.0,
    seed: int | None = None,
    settings: InstrumentSettings | None = None,
    windows: Sequence[tuple[int, int]] = ASPCAP_WINDOWS,
    faults: SurveyFaults | None = None,
) -> NormalizedSpectra:
    """Observe stars of the library in one visit each, normalised by the true continuum.

    The quick way to test models: no files, no continuum errors. Noise, sky lines, bad pixels and
    gaps are those of `simulate_survey`.

    Parameters
    ----------
    library
        From `load_library`.
    settings
        Of the instrument.
    index
        Stars of the library, by number or by a boolean mask; left out, all. A star may occur
        more than once, and then has different noise each time.
    snr : () or (n_stars,) float
        Median signal-to-noise ratio per pixel.
    seed
        The star at position k has its own stream: it does not depend on the stars after it.
    windows
        [start, stop) pixel ranges to keep; they become the chips of the result.
    faults
        Of real spectra; `observed_faults` tells which star has which.

    Returns
    -------
    NormalizedSpectra
        With ids like ``giant-007``, the library's number; ``giant-007/2`` for a second occurrence.

    Raises
    ------
    InvalidDataError
        On stars that the library does not have, or an S/N that is not positive.
    """
    stars = _library_index(library, index)
    snr = np.broadcast_to(np.asarray(snr, dtype=np.float64), stars.shape)
    if not np.all((snr > 0) & np.isfinite(snr)):
        raise InvalidDataError("the S/N of every star must be positive and finite.")
    kept = np.concatenate([np.arange(start, stop) for start, stop in windows])
    flux = np.ones((stars.size, kept.size), dtype=np.float32)
    ivar = np.zeros_like(flux)
    seed, settings = as_seed(seed), settings or InstrumentSettings()
    drawn = _drawn_faults(library, stars, seed, faults or SurveyFaults())
    for k, star in enumerate(stars):
        rng = np.random.default_rng(SeedSequence(seed, spawn_key=(k,)))
        shift = rng.normal(0.0, 10.0, 1)
        own = drawn[k]
        truth = library.flux[star] if own is None else own.spectrum(library, int(star))
        seen = expose(truth, shift, snr[k], rng=rng, settings=settings, faults=own)
        good = seen.covered[0] & ((seen.mask[0] & BAD_BITS["default"]) == 0)
        good &= (seen.err[0] > 0) & (seen.err[0] < BAD_ERROR)
        good = good[kept]
        flux[k, good] = seen.flux[0, kept][good]
        ivar[k, good] = 1 / seen.err[0, kept][good] ** 2
    edges = np.cumsum([0, *(stop - start for start, stop in windows)])
    return NormalizedSpectra(
        star_id=_library_ids(stars),
        wavelength=library.wavelength[kept],
        flux=flux,
        ivar=ivar,
        snr=snr / [1.0 if own is None else own.error_factor for own in drawn],
        chips=tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)),
        simulated=True,
    )


def observed_faults(
    library: Library,
    index: ArrayLike | None = None,
    *,
    seed: int | None = None,
    faults: SurveyFaults,
) -> Table:
    """What is wrong with the spectra that `observe` gives for the same arguments.

    Parameters
    ----------
    library, index, seed, faults
        As for `observe`; a fresh seed has no survey that could be told of.

    Returns
    -------
    astropy.table.Table
        ``STAR_ID`` and the columns of a hard survey's ``truth.ecsv``: ``SHIFT``, ``GHOST``,
        ``ERROR_FACTOR``, ``BROADENING``, ``BLEND``, ``BLEND_W``, ``BLEND_DV``, ``BLEND_INDEX``,
        ``BLEND_<label>``.

    Raises
    ------
    InvalidDataError
        On stars that the library does not have, without a seed, or where there are no faults.
    """
    stars = _library_index(library, index)
    if seed is None:
        raise InvalidDataError("give the seed that the spectra were observed with.")
    if not faults:
        raise InvalidDataError("there are no faults to tell of; ask for SurveyFaults.hard().")
    table = fault_columns(_drawn_faults(library, stars, as_seed(seed), faults), library)
    table.add_column(_library_ids(stars), index=0, name="STAR_ID")
    return table


def _drawn_faults(
    library: Library, stars: NDArray[np.intp], seed: int, faults: SurveyFaults
) -> list[StarFaults | None]:
    """Draw the faults of each star from streams of its own."""
    streams = [SeedSequence(seed, spawn_key=(k,)) for k in range(stars.size)]
    return [
        draw_faults(faults, library, int(star), star=stream, pixels=stream)
        for star, stream in zip(stars, streams, strict=True)
    ]


def library_labels(
    library: Library,
    names: Sequence[str] = DEFAULT_LABELS,
    error_scale: float = 1.0,
    *,
    seed: int | None = None,
    index: ArrayLike | None = None,
    snr: ArrayLike = 150.0,
) -> tuple[Labels, Labels]:
    """Labels of library stars as a catalogue would have them, and the true ones.

    Parameters
    ----------
    library
        From `load_library`.
    seed
        Of the errors; each star has its own stream.
    names
        Labels wanted; a label's errors do not depend on which others are asked for.
    error_scale
        Multiplies errors, true and quoted (see `SimulationSettings.label_error_scale`).
    index, snr
        As for `observe`, with the same ids in the result.

    Returns
    -------
    observed, true : Labels
        `true` has no errors (NaN).

    Raises
    ------
    LabelError
        If the library has no such label.
    InvalidDataError
        On stars that the library does not have, or a negative `error_scale`.
    """
    if not 0 <= error_scale < np.inf:
        raise InvalidDataError(f"error_scale = {error_scale} must be finite and not negative.")
    stars = _library_index(library, index)
    ids = _library_ids(stars)
    true = np.stack([library.values(name)[stars] for name in names], axis=1)
    usual = np.stack([label_error(n, np.broadcast_to(snr, stars.shape)) for n in names], axis=1)
    drawn = np.empty_like(true)
    seed = as_seed(seed)
    for k in range(stars.size):
        # A stream of its own: `observe` draws the star's noise from (k,).
        normal = np.random.default_rng(SeedSequence(seed, spawn_key=(k, 1))).normal
        all_labels = dict(zip(library.names, normal(size=len(library.names)), strict=True))
        drawn[k] = [all_labels[name] for name in names]
    observed = true + error_scale * usual * drawn
    quoted = max(error_scale, 1e-6) * usual
    missing = np.full_like(true, np.nan)
    return Labels(tuple(names), observed, quoted, ids), Labels(tuple(names), true, missing, ids)


def _library_index(library: Library, index: ArrayLike | None) -> NDArray[np.intp]:
    """Numbers of the stars asked for, checked."""
    everything = np.arange(library.n_stars)
    if index is None:
        return everything
    chosen = np.atleast_1d(np.asarray(index))
    if chosen.dtype == bool and chosen.shape == everything.shape:
        return everything[chosen]
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
        raise InvalidDataError("index must be a list of whole numbers, or a mask of all stars.")
    outside = (chosen < 0) | (chosen >= library.n_stars)
    if outside.any():
        raise InvalidDataError(
            f"{outside.sum()} of {count_text(chosen.size, 'number')} "
            f"({chosen[outside][:3].tolist()}) belong to no star of the library; it has stars 0 to "
            f"{library.n_stars - 1}."
        )
    return chosen.astype(np.intp)


def _library_ids(stars: NDArray[np.intp]) -> NDArray[np.str_]:
    """A name for each star: its number in the library, and its occurrence from the second on."""
    seen: dict[int, int] = {}
    ids = []
    for star in stars.tolist():
        seen[star] = seen.get(star, 0) + 1
        ids.append(f"giant-{star:03d}" + (f"/{seen[star]}" if seen[star] > 1 else ""))
    return np.array(ids, dtype=np.str_)
