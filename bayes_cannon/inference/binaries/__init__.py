"""Is it one star? Spectra as the sum of two stars of the same Cannon, quickly and with a null."""
