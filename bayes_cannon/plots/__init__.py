"""Figures: one function each.

They take an optional Axes and return it (figures of several panels return the figure), write units
and frames on their axes, and say in the title when data or model are simulated.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
