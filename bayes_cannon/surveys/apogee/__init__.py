"""APOGEE files (DR12 to DR17): spectra, bit masks, names, the allStar catalogue, quality cuts."""
