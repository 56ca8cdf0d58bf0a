"""The statistical models: The Cannon as two PyMC models, and their parameters.

`build_training_model` says how flux depends on labels, pixel by pixel; `build_label_model` turns a
trained `Cannon` and a spectrum into a posterior of the labels. Builders return a `pymc.Model`; the
wings `training` and `inference` fit and sample them by exact fast forms.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
