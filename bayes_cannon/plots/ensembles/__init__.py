"""Figures of stars that belong together: repeated visits of one star, members of one group."""
