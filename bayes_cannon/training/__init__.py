"""From a training set to a Cannon.

The closed-form fit of all pixels, the population of coefficients, nuisance factors and their
number, ADVI, and the model error learnt by cross-validation; `train` does all of it.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
