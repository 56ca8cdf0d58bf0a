"""PyMC models compiled once and kept on disk, for data of any length."""
