"""Spectra, labels and training sets: one frozen type a stage.

Arrays or tables of a user, or what `bayes_cannon.surveys` reads, come in as `ObservedSpectra`; the
continuum turns them into `NormalizedSpectra`; with `Labels` they are a `TrainingSet`, which is
what `bayes_cannon.training` takes. Wavelengths are in Angstrom, the normalised continuum is 1.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
