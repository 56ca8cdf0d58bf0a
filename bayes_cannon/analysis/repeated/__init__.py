"""Labels of stars that were observed several times, compared with each other."""
