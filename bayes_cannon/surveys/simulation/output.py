"""The folder of a simulated survey: what may be replaced, and how it gets its place."""

from __future__ import annotations

import shutil
from pathlib import Path

from astropy.io import fits

from bayes_cannon.errors import OutputExistsError
from bayes_cannon.surveys.simulation.mwm import ASTRA_FILE

__all__ = [
    "CATALOGUE",
    "TRUTH",
    "check_output",
    "move",
]


CATALOGUE = "allStar-dr17-simulated.fits"
TRUTH = "truth.ecsv"
_OWN_ENTRIES = {CATALOGUE, ASTRA_FILE, TRUTH, "mystery", "apo25m", "lco25m", "spectra"}


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse to touch what is not ours to replace.

    Parameters
    ----------
    out
        Folder of the survey.
    overwrite
        Whether a simulated survey that is there may be replaced.

    Raises
    ------
    OutputExistsError
        If it may not, or is something else.
    """
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


def move(part: Path, out: Path, *, overwrite: bool) -> None:
    """Put the finished folder in its place; what was there is removed last.

    Parameters
    ----------
    part, out
        The folder as it was written, and its place.
    overwrite
        Whether what is there is replaced.

    Raises
    ------
    OutputExistsError
        If another process has made the folder meanwhile.
    """
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
