"""How arrays of a Zarr store may be encoded: by plain compression alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bayes_cannon.base.stores.blocks import read_json
from bayes_cannon.errors import FileFormatError

__all__ = [
    "ZARR_FORMAT",
    "refuse_codecs",
]


ZARR_FORMAT: Final = 2
"""Format 3 has no specification of arrays of text."""
_CODECS = {"blosc", "gzip", "lz4", "shuffle", "vlen-utf8", "zlib", "zstd"}


def refuse_codecs(heads: Iterable[Path], what: str) -> None:
    """Refuse arrays that would be decoded by anything but plain compression.

    One of the codecs that Zarr knows unpickles what it reads, which runs the code that it finds.

    Parameters
    ----------
    heads
        Paths of the descriptions (``.zarray``) of all arrays that are to be read.
    what
        What they belong to, for the message.

    Raises
    ------
    FileFormatError
        If one of them has such a codec.
    """
    for head in heads:
        content = read_json(head) or {}
        codecs = [content.get("compressor"), *(content.get("filters") or [])]
        names = {str(c.get("id")) if isinstance(c, dict) else str(c) for c in codecs if c}
        if strange := sorted(names - _CODECS):
            raise FileFormatError(
                f"{head.parent} is encoded by {', '.join(strange)}, which {what}s of bayes_cannon "
                f"never are; do not use this {what}."
            )
