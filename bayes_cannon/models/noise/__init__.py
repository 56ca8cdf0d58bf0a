"""What the noise of spectra has in common between pixels."""
