"""What every wing stands on and that knows no astronomy.

Files that are written whole or not at all, blocks on threads, packed symmetric matrices, data files
of the package, digests and type aliases. Nothing here knows a star; every wing may import it.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
