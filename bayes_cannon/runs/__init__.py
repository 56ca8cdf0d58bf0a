"""A run on disk: infer into it, resume it, check it, report it.

A run is a folder with the posteriors of many stars, their catalogue, figures and a report. It
survives being killed: what was finished stays, and the same command resumes.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
