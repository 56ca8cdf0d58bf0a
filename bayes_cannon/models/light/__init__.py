"""Light of the two stars of a pair that are of one age and metallicity."""
