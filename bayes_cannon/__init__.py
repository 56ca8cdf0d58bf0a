"""Posteriors of stellar labels from APOGEE spectra: The Cannon as two PyMC models.

>>> import bayes_cannon as bc
>>> bc.DEFAULT_LABELS
('TEFF', 'LOGG', 'FE_H', 'MG_FE', 'SI_FE')

Everything is imported when it is first used, so that ``import bayes_cannon`` is quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bayes_cannon._version import __version__

if TYPE_CHECKING:
    from bayes_cannon.aspcap_comparison import aspcap_comparison as aspcap_comparison
    from bayes_cannon.cannon import Cannon as Cannon
    from bayes_cannon.catalogue import catalogue as catalogue
    from bayes_cannon.catalogue import comparison as comparison
    from bayes_cannon.continuum import ContinuumSettings as ContinuumSettings
    from bayes_cannon.continuum import normalize as normalize
    from bayes_cannon.cuts import Cuts as Cuts
    from bayes_cannon.dataset import TrainingSet as TrainingSet
    from bayes_cannon.diagnostics import diagnose as diagnose
    from bayes_cannon.download import download_survey as download_survey
    from bayes_cannon.gaia_xp import load_gaia_xp_giants as load_gaia_xp_giants
    from bayes_cannon.infer import infer_labels as infer_labels
    from bayes_cannon.inference_settings import InferenceSettings as InferenceSettings
    from bayes_cannon.isochrones import read_mist as read_mist
    from bayes_cannon.labels import DEFAULT_LABELS as DEFAULT_LABELS
    from bayes_cannon.labels import Labels as Labels
    from bayes_cannon.library import load_library as load_library
    from bayes_cannon.own_spectra import spectra_from_arrays as spectra_from_arrays
    from bayes_cannon.own_spectra import training_set_from_arrays as training_set_from_arrays
    from bayes_cannon.own_spectra import training_set_from_table as training_set_from_table
    from bayes_cannon.plots_corner import plot_corner as plot_corner
    from bayes_cannon.plots_gradients import plot_gradients as plot_gradients
    from bayes_cannon.plots_kiel import plot_kiel as plot_kiel
    from bayes_cannon.plots_sequences import plot_giant_branch as plot_giant_branch
    from bayes_cannon.plots_sequences import plot_metallicity as plot_metallicity
    from bayes_cannon.plots_spectra import plot_model as plot_model
    from bayes_cannon.plots_spectra import plot_spectrum as plot_spectrum
    from bayes_cannon.plots_stars import plot_one_to_one as plot_one_to_one
    from bayes_cannon.plots_training import plot_scatter as plot_scatter
    from bayes_cannon.preparing import prepare as prepare
    from bayes_cannon.preparing import prepare_spectra as prepare_spectra
    from bayes_cannon.result_tables import scatter_table as scatter_table
    from bayes_cannon.result_tables import star_table as star_table
    from bayes_cannon.run import infer_run as infer_run
    from bayes_cannon.run_store import open_run as open_run
    from bayes_cannon.simulate import simulate_survey as simulate_survey
    from bayes_cannon.spectra import NormalizedSpectra as NormalizedSpectra
    from bayes_cannon.spectra import ObservedSpectra as ObservedSpectra
    from bayes_cannon.star_story import mystery_story as mystery_story
    from bayes_cannon.survey import open_survey as open_survey
    from bayes_cannon.train import TrainingSettings as TrainingSettings
    from bayes_cannon.train import train as train

_HOMES = {
    "Cannon": "cannon",
    "ContinuumSettings": "continuum",
    "Cuts": "cuts",
    "DEFAULT_LABELS": "labels",
    "InferenceSettings": "inference_settings",
    "Labels": "labels",
    "NormalizedSpectra": "spectra",
    "ObservedSpectra": "spectra",
    "TrainingSet": "dataset",
    "TrainingSettings": "train",
    "aspcap_comparison": "aspcap_comparison",
    "catalogue": "catalogue",
    "comparison": "catalogue",
    "diagnose": "diagnostics",
    "download_survey": "download",
    "infer_labels": "infer",
    "infer_run": "run",
    "load_gaia_xp_giants": "gaia_xp",
    "load_library": "library",
    "mystery_story": "star_story",
    "normalize": "continuum",
    "open_run": "run_store",
    "open_survey": "survey",
    "plot_corner": "plots_corner",
    "plot_giant_branch": "plots_sequences",
    "plot_gradients": "plots_gradients",
    "plot_kiel": "plots_kiel",
    "plot_metallicity": "plots_sequences",
    "plot_model": "plots_spectra",
    "plot_one_to_one": "plots_stars",
    "plot_scatter": "plots_training",
    "plot_spectrum": "plots_spectra",
    "prepare": "preparing",
    "prepare_spectra": "preparing",
    "read_mist": "isochrones",
    "scatter_table": "result_tables",
    "simulate_survey": "simulate",
    "spectra_from_arrays": "own_spectra",
    "star_table": "result_tables",
    "train": "train",
    "training_set_from_arrays": "own_spectra",
    "training_set_from_table": "own_spectra",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604


class _Package(ModuleType):
    """Package in which a function wins over the module of the same name (train, catalogue)."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"bayes_cannon.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'bayes_cannon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
