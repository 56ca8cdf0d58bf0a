"""All figures, one function each.

Functions of one panel take an optional ``ax`` and return it; those of several return the figure.
Units are on every axis; the title says where data are simulated.
"""

from bayes_cannon.plots_check import plot_calibration, plot_scores
from bayes_cannon.plots_comparison import plot_errors, plot_forest, plot_pulls
from bayes_cannon.plots_corner import plot_corner
from bayes_cannon.plots_diagnostics import (
    plot_chi2_pixels,
    plot_chi2_stars,
    plot_leverage,
    plot_residual_correlation,
)
from bayes_cannon.plots_disagreement import plot_disagreements
from bayes_cannon.plots_gradients import plot_gradients, plot_line_group
from bayes_cannon.plots_kiel import plot_kiel, plot_kiel_stars
from bayes_cannon.plots_sample import plot_catalogue_slice, plot_sample
from bayes_cannon.plots_sequences import plot_giant_branch, plot_metallicity, plot_sequence
from bayes_cannon.plots_spectra import plot_continuum, plot_model, plot_spectrum
from bayes_cannon.plots_stars import plot_one_to_one
from bayes_cannon.plots_training import (
    plot_bound,
    plot_elbo,
    plot_factor_choice,
    plot_loadings,
    plot_scatter,
)

__all__ = [
    "plot_bound",
    "plot_calibration",
    "plot_catalogue_slice",
    "plot_chi2_pixels",
    "plot_chi2_stars",
    "plot_continuum",
    "plot_corner",
    "plot_disagreements",
    "plot_elbo",
    "plot_errors",
    "plot_factor_choice",
    "plot_forest",
    "plot_giant_branch",
    "plot_gradients",
    "plot_kiel",
    "plot_kiel_stars",
    "plot_leverage",
    "plot_line_group",
    "plot_loadings",
    "plot_metallicity",
    "plot_model",
    "plot_one_to_one",
    "plot_pulls",
    "plot_residual_correlation",
    "plot_sample",
    "plot_scatter",
    "plot_scores",
    "plot_sequence",
    "plot_spectrum",
]
