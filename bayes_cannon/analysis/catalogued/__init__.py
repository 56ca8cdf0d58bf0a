"""Columns of the catalogue of a run, and the files that it is written to."""
