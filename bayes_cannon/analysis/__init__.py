"""What posteriors and gradients say beside what is known.

Catalogues and tables, the comparison with ASPCAP, coverage and simulation-based calibration,
diagnostics of the fit, line lists, isochrones and sequences of model spectra.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
