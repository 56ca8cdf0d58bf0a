"""Exceptions and warnings of the package.

Every error that a user can cause is a `BayesCannonError`: the command line
prints its message in one line and ends with exit status 2.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BayesCannonError",
    "BayesCannonWarning",
    "DownloadError",
    "FileFormatError",
    "FitError",
    "InvalidDataError",
    "LabelError",
    "NoStarsError",
    "OutputExistsError",
    "SingularPixelsError",
    "SurveyError",
]


class BayesCannonError(Exception):
    """Base of all errors raised on purpose by the package."""


class FileFormatError(BayesCannonError):
    """A file is missing, damaged, or not what its name promises."""


class SurveyError(BayesCannonError):
    """A survey directory lacks its catalogue, its spectra, or the link between them."""


class NoStarsError(BayesCannonError):
    """No star is left to work on."""


class LabelError(BayesCannonError):
    """A label name is unknown, or label values cannot be used."""


class InvalidDataError(BayesCannonError):
    """Arrays have the wrong shape, dtype, order or values."""


class FitError(BayesCannonError):
    """A model cannot be fitted to the data it was given."""


class SingularPixelsError(FitError):
    """The coefficients of some pixels cannot be worked out.

    Attributes
    ----------
    pixels : list of int
        Which, counted within the pixels that were fitted together.
    """

    def __init__(self, pixels: Sequence[int]) -> None:
        self.pixels = [int(p) for p in pixels]
        shown = ", ".join(map(str, self.pixels[:3])) + (", …" if len(self.pixels) > 3 else "")
        super().__init__(
            f"the coefficients of {len(self.pixels)} pixel{'s' * (len(self.pixels) != 1)} "
            f"({shown}) are singular; set the ivar there to 0 if fluxes or errors are extreme."
        )

    def __reduce__(self) -> tuple[type[SingularPixelsError], tuple[list[int]]]:
        return type(self), (self.pixels,)


class OutputExistsError(BayesCannonError):
    """An output path exists and overwriting was not asked for, or it cannot be written."""


class DownloadError(BayesCannonError):
    """Something could not be fetched from the archive."""


class BayesCannonWarning(UserWarning):
    """A part of the data was left out or treated specially; the message says which."""
