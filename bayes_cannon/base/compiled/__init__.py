"""PyMC models compiled once and kept on disk."""
