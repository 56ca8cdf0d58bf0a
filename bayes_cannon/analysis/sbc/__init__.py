"""Simulation-based calibration of the label model and of the training model."""
