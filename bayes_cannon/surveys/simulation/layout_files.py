"""Spectra and catalogue of a simulated survey, in the layout of DR17's files or of SDSS-V's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from astropy.table import Table

from bayes_cannon.base.progress import Tell
from bayes_cannon.surveys.simulation.catalogue import MARK, Measured, allstar_hdus, truth_table
from bayes_cannon.surveys.simulation.faults import SurveyFaults, faults_as_text
from bayes_cannon.surveys.simulation.files import write_apstar
from bayes_cannon.surveys.simulation.library import Library
from bayes_cannon.surveys.simulation.mwm import (
    ASTRA_FILE,
    Sdss5Stars,
    write_astra_catalogue,
    write_mwm_spectra,
)
from bayes_cannon.surveys.simulation.stars import SimulatedStar, SimulationSettings
from bayes_cannon.surveys.simulation.telescope import InstrumentSettings

__all__ = [
    "CATALOGUE",
    "write_dr17",
    "write_mwm",
]

CATALOGUE = "allStar-dr17-simulated.fits"
"""Name of the catalogue of DR17's layout."""


def write_dr17(
    folder: Path,
    stars: Sequence[SimulatedStar],
    library: Library,
    settings: SimulationSettings,
    history: Sequence[str],
    tell: Tell,
) -> Table:
    """Write spectra and catalogue of DR17's layout; return the table of true labels.

    Parameters
    ----------
    folder
        Of the survey.
    stars, library, settings
        See `simulate_survey`.
    history
        Lines that mark every HDU as simulated.
    tell
        Told of the progress.
    """
    measured = _write_spectra(folder, stars, library, settings.instrument, settings.faults, tell)
    scale = settings.label_error_scale
    table = allstar_hdus(stars[:-1], measured[:-1], library, error_scale=scale, history=history)
    table.writeto(folder / CATALOGUE)
    return truth_table(stars, measured, library, error_scale=scale, history=history)


def write_mwm(
    folder: Path,
    stars: Sequence[SimulatedStar],
    library: Library,
    settings: SimulationSettings,
    history: Sequence[str],
    tell: Tell,
) -> Table:
    """Write spectra and catalogue of SDSS-V's layout; return the table of true labels.

    Parameters
    ----------
    folder
        Of the survey.
    stars, library, settings
        See `simulate_survey`.
    history
        Lines that mark every HDU as simulated.
    tell
        Told of the progress.
    """
    given = Sdss5Stars(stars)
    measured = write_mwm_spectra(folder, given, library, settings.instrument, tell)
    scale = settings.label_error_scale
    write_astra_catalogue(
        folder / ASTRA_FILE, given, measured, library, error_scale=scale, history=history
    )
    return truth_table(
        given.stars, measured, library, error_scale=scale, history=history, names=given.names
    )


def _write_spectra(
    folder: Path,
    stars: Sequence[SimulatedStar],
    library: Library,
    settings: InstrumentSettings,
    faults: SurveyFaults,
    tell: Tell,
) -> list[Measured]:
    """Write one file for each star."""
    history = [
        MARK,
        "places, velocities, magnitudes and dates are invented",
        "HDU1 flux, HDU2 error, HDU3 mask; HDU4 to HDU8 are left empty",
        "HDU9 velocities of the visits, HDU10 of all, without CCFs",
    ]
    if faults:
        history.append(f"faults of the survey: {faults_as_text(faults)}")
    measured = []
    for done, star in enumerate(stars, start=1):
        place = "mystery" if star.kind == "mystery" else f"{star.telescope}/{star.field_name}"
        (folder / place).mkdir(parents=True, exist_ok=True)
        path = folder / place / star.file_name
        measured.append(write_apstar(path, star, library, settings=settings, history=history))
        tell(done, len(stars), "simulating spectra")
    return measured
