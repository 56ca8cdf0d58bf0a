"""The sections of a report, in order, and how to add one.

A section is a function with the decorator `section`. Of this package they are in the modules
below; another package adds its own in the same way, and names the module that does so as an entry
point of the group ``bayes_cannon.report``, which the command then finds::

    from bayes_cannon.report_sections import Drawing, section

    @section("ages", "Ages", "Old stars should be metal-poor.", after="kiel")
    def ages(inputs):
        yield Drawing("ages", lambda: plot_ages(inputs.table), "Ages against [Fe/H]")
"""

from __future__ import annotations

# Imported for the sections that they register.
from bayes_cannon.runs.report import (  # noqa: F401
    explorer,
    figures,
    findings,
    pairs,
    physics,
    tables,
)
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.page import Column, Facts, Grid, Heading, Note, Text
from bayes_cannon.runs.report.parts import Drawing, Section
from bayes_cannon.runs.report.registry import registered_sections, remove_section, section

__all__ = [
    "SECTIONS",
    "Column",
    "Drawing",
    "Facts",
    "Grid",
    "Heading",
    "Note",
    "ReportInputs",
    "Section",
    "Text",
    "registered_sections",
    "remove_section",
    "section",
]


SECTIONS: tuple[Section, ...] = registered_sections()
"""Sections in the order of the page, those known when this module is imported."""
