"""Accuracies of The Cannon on APOGEE giants that others published, to show beside one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PUBLISHED", "PublishedResult"]


@dataclass(frozen=True)
class PublishedResult:
    """Accuracy that others reached, to show beside one's own.

    Attributes
    ----------
    name : str
        Short, for a table's row.
    source : str
        Where it comes from, and on which stars.
    scatter : mapping of str to float
        Scatter of held-out stars about the catalogue, per label, K or dex.
    formal : mapping of str to float
        Formal errors quoted with it; empty where none were given.
    """

    name: str
    source: str
    scatter: Mapping[str, float]
    formal: Mapping[str, float]


PUBLISHED: tuple[PublishedResult, ...] = (
    PublishedResult(
        "student solution",
        "The Cannon on 1886 real DR17 giants, held-out stars; errors by NUTS",
        MappingProxyType(
            {"TEFF": 62.0, "LOGG": 0.128, "FE_H": 0.045, "MG_FE": 0.045, "SI_FE": 0.044}
        ),
        MappingProxyType(
            {"TEFF": 4.0, "LOGG": 0.010, "FE_H": 0.004, "MG_FE": 0.005, "SI_FE": 0.005}
        ),
    ),
    PublishedResult(
        "course report",
        "The Cannon on real DR17 giants of four fields; errors called too small",
        MappingProxyType(
            {"TEFF": 78.9, "LOGG": 0.15, "FE_H": 0.056, "MG_FE": 0.062, "SI_FE": 0.059}
        ),
        MappingProxyType({}),
    ),
    PublishedResult(
        "Ness et al. 2015",
        "ApJ 808, 16; DR10 spectra, cluster giants; formal errors are upper limits",
        MappingProxyType({"TEFF": 95.0, "LOGG": 0.24, "FE_H": 0.08}),
        MappingProxyType({"TEFF": 5.6, "LOGG": 0.01, "FE_H": 0.006}),
    ),
)
"""Published accuracies of The Cannon on APOGEE giants."""
