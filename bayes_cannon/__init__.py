"""Posteriors of stellar labels from APOGEE spectra: The Cannon as two PyMC models.

>>> import bayes_cannon as bc
>>> bc.DEFAULT_LABELS
('TEFF', 'LOGG', 'FE_H', 'MG_FE', 'SI_FE')

The verbs of a session are here; everything else is in `spectra`, `surveys`, `models`, `inference`,
`training`, `analysis`, `plots` and `runs`. All is imported when it is first used, so that
``import bayes_cannon`` is quick.
"""

import lazy_loader as _lazy

from bayes_cannon._version import __version__ as __version__

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
