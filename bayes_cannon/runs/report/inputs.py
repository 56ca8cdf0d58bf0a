"""What a report is made from: a run, and where they are found, its model, dataset and spectra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.analysis.calibration import Check, check_calibration
from bayes_cannon.analysis.repeated.comparison import Repeats
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.posterior import (
    group_of,
    model_is_simulated,
    posterior_names,
)
from bayes_cannon.inference.tables import catalogue_name, simulated_rows, star_ids
from bayes_cannon.inference.units import units_of_result
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.results import RUN_TABLE
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import catalogue_column, row_of

__all__ = [
    "ReportInputs",
    "column",
]

_FEWEST = 20
"""Stars with which calibration is judged."""


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """A run and what belongs to it; None for what was not found, with the reason in `missing`.

    Attributes
    ----------
    folder : Path
        The run's directory.
    result : xarray.DataTree
        Posteriors, read lazily.
    table : astropy.table.Table
        The catalogue of the run.
    summary : mapping of str
        What ``summary.json`` holds; empty where there is none.
    cannon : Cannon or None
        The trained model.
    dataset : TrainingSet or None
        The dataset that the run's stars were taken from.
    spectra : NormalizedSpectra or None
        Normalised spectra of stars of the run, on the model's wavelengths.
    files : mapping of str to Path, or None
        FITS files of raw spectra by star.
    survey : Path or None
        Folder of the survey that the dataset was made of.
    truth : Labels or None
        True labels of simulated stars.
    mystery : ReportInputs or None
        A run of stars without catalogue labels.
    repeats : Repeats or None
        What repeated visits to stars say about the errors.
    missing : mapping of str to str
        By the name of an attribute that is None: why, and how to give it.
    notes : tuple of str
        What a reader must know about the inputs.
    published : bool
        Whether accuracies that others published stand beside ours.
    """

    folder: Path
    result: xr.DataTree
    table: Table
    summary: Mapping[str, Any] = field(default_factory=dict)
    cannon: Cannon | None = None
    dataset: TrainingSet | None = None
    spectra: NormalizedSpectra | None = None
    files: Mapping[str, Path] | None = None
    survey: Path | None = None
    truth: Labels | None = None
    mystery: ReportInputs | None = None
    repeats: Repeats | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return posterior_names(self.result)

    @cached_property
    def units(self) -> dict[str, str]:
        """Unit of each label."""
        return units_of_result(self.result, self.names)

    @cached_property
    def star_id(self) -> NDArray[np.str_]:
        """Stars of the table, shape (n_stars,)."""
        return star_ids(self.table)

    @property
    def simulated(self) -> bool:
        """Whether spectra are, some at least."""
        return bool(self.simulated_stars.any())

    @cached_property
    def simulated_stars(self) -> NDArray[np.bool_]:
        """Which stars of the table are, shape (n_stars,)."""
        return simulated_rows(self.table)

    @property
    def model_simulated(self) -> bool:
        """Whether the spectra are that the model was trained on."""
        return model_is_simulated(self.result) or bool(self.table.meta.get("SIMMODEL"))

    @property
    def kind(self) -> str:
        """Kind of the table's posterior: ``calibrated`` or ``formal``."""
        return str(self.table.meta.get("KIND", "formal"))

    def values(self, suffix: str = "") -> FloatArray:
        """Columns ``NAME`` + `suffix` of all labels, shape (n_stars, n_labels); NaN for unknown.

        Parameters
        ----------
        suffix
            End of the columns' names.
        """
        return np.stack([column(self.table, f"{n}{suffix}") for n in self.names], axis=1)

    @cached_property
    def has_posterior(self) -> NDArray[np.bool_]:
        """Stars that have all labels, shape (n_stars,)."""
        return np.isfinite(self.values()).all(axis=1)

    @cached_property
    def errors(self) -> FloatArray:
        """Standard deviations of the table's kind, shape (n_stars, n_labels)."""
        return self.values("_ERR" if self.kind == "calibrated" else "_FORMAL_ERR")

    @cached_property
    def binaries(self) -> Table | None:
        """Table of a search for binaries that was given to the run; None where none was."""
        file = self.folder / RUN_TABLE
        if not file.exists():
            return None
        table = Table.read(file, format="ascii.ecsv")
        ids = np.asarray(table[table.colnames[0]], dtype=np.str_)
        return table[np.isin(ids, self.star_id)]

    @property
    def catalogue(self) -> str:
        """Name of the catalogue that the labels are compared with."""
        return catalogue_name(self.table, self.result)

    @cached_property
    def aspcap(self) -> Labels | None:
        """The catalogue's labels of the run's stars; None where it knows none of them."""
        their = catalogue_column(self.catalogue)
        values, errors = self.values(f"_{their}"), self.values(f"_{their}_ERR")
        if not np.isfinite(values).any():
            return None
        errors = np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)
        return Labels(self.names, values, errors, self.star_id, tuple(self.units.values()))

    @cached_property
    def unlabelled(self) -> NDArray[np.bool_]:
        """Stars of which the catalogue knows no label, shape (n_stars,)."""
        return ~np.isfinite(self.values(f"_{catalogue_column(self.catalogue)}")).any(axis=1)

    @cached_property
    def snr(self) -> FloatArray:
        """S/N per pixel of the table's stars, shape (n_stars,); NaN where not known."""
        spectra = self.spectra
        if spectra is None:
            return np.full(len(self.table), np.nan)
        known = dict(zip(spectra.star_id.tolist(), spectra.snr.tolist(), strict=True))
        return np.array([known.get(star, np.nan) for star in self.star_id.tolist()])

    @cached_property
    def check(self) -> Check | str:
        """Calibration of the stars that were not trained on, or why there is none."""
        references = {} if self.truth is None else {"truth": self.truth}
        if self.aspcap is not None:
            references["catalogue"] = self.aspcap
        if not references:
            return "The run has no catalogue labels to compare with."
        result, left = self.result, np.ones(len(self.table), dtype=np.bool_)
        if self.cannon is not None:
            left = ~np.isin(self.star_id, self.cannon.training.star_id)
            result = result.isel(star=np.flatnonzero(left))
        n = int((left & self.has_posterior & ~self.unlabelled).sum())
        if n < _FEWEST:
            return (
                f"Needs {count_text(_FEWEST, 'star')} with catalogue labels that the model was not "
                f"trained on; the run has {n}."
            )
        snr = dict(zip(self.star_id.tolist(), self.snr.tolist(), strict=True))
        known = bool(np.isfinite(self.snr).any())
        return check_calibration(result, references, snr=snr if known else None)

    def labels_of(self, star: str) -> FloatArray:
        """Labels of one star, shape (n_labels,).

        Parameters
        ----------
        star
            Name of the star.
        """
        return np.asarray(self.values()[row_of(self.star_id, star)])

    def stats(self) -> xr.Dataset:
        """What was checked on every star."""
        return group_of(self.result, "star_stats")


def column(table: Table, name: str) -> FloatArray:
    """Column of numbers, NaN where masked or where the table lacks it.

    Parameters
    ----------
    table
        A catalogue.
    name
        Of the column.
    """
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return plain_numbers(table[name])
