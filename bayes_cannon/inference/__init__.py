"""From a spectrum and a Cannon to a checked, flagged and calibrated posterior.

The likelihood of all pixels is compressed into a matrix and a vector, modes are searched, NUTS
draws, and every star is checked. The result is an `xarray.DataTree` by the InferenceData schema.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
