"""Where spectra and catalogue rows come from.

A survey is a folder laid out like the SDSS archive: `apogee` reads its files, `archive` downloads
them, `simulation` writes a simulated one. `prepare` takes a survey through cuts, masks and
continuum to a `TrainingSet`. This wing knows files, bits and addresses, and no statistics.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
