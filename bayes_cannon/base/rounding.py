"""Values and errors as papers print them: two digits of the error, and the value to the same."""

from __future__ import annotations

import math

__all__ = [
    "error_digits",
    "two_digits",
    "value_with_error",
]

_UNKNOWN = 3
_MOST = 6


def error_digits(error: float) -> int:
    """Places after the point that show two digits of an error, 0 to 6; 3 where it is unknown.

    Parameters
    ----------
    error
        One standard deviation.

    Examples
    --------
    >>> error_digits(28.4), error_digits(0.0144), error_digits(9.97), error_digits(float("nan"))
    (0, 3, 0, 3)
    """
    if not (math.isfinite(error) and error > 0):
        return _UNKNOWN
    exponent = int(f"{error:.1e}".partition("e")[2])  # of the error as rounded: 9.97 is 10
    return min(max(1 - exponent, 0), _MOST)


def value_with_error(value: float, error: float) -> str:
    """Value and error, both to the second digit of the error; a true minus sign.

    Parameters
    ----------
    value, error
        In the same unit; an error that is not known is left out.

    Examples
    --------
    >>> value_with_error(-0.06395, 0.0144), value_with_error(4778.8, 18.7)
    ('−0.064 ± 0.014', '4779 ± 19')
    """
    digits = error_digits(error)
    spread = f" ± {error:.{digits}f}" if math.isfinite(error) else ""
    return f"{value:.{digits}f}{spread}".replace("-", "−")


def two_digits(value: float) -> str:
    """An error as text: two digits, or all of those before the point.

    Parameters
    ----------
    value
        One standard deviation.

    Examples
    --------
    >>> two_digits(0.01234), two_digits(0.7), two_digits(123.4)
    ('0.012', '0.70', '123')
    """
    return f"{value:#.2g}" if 0 < abs(value) < 9.95 else f"{value:.0f}"
