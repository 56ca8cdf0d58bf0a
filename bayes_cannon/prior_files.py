"""Priors of labels from a TOML file, as the command line takes them."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from bayes_cannon.errors import FileFormatError, LabelError
from bayes_cannon.priors import LabelPrior, as_prior
from bayes_cannon.user_paths import user_path

__all__ = ["read_priors"]

_DISTRIBUTIONS = {
    "uniform": ("lower", "upper"),
    "normal": ("mean", "sd"),
    "truncated": ("mean", "sd", "lower", "upper"),
}


def read_priors(path: str | os.PathLike[str]) -> dict[str, LabelPrior]:
    """Read priors from a TOML file: one table per label.

    For example::

        [TEFF]
        distribution = "uniform"
        lower = 3500
        upper = 5500

        [LOGG]
        distribution = "truncated"
        mean = 2.5
        sd = 0.5
        lower = 0

    Distributions are ``uniform`` (lower, upper), ``normal`` (mean, sd) and ``truncated``
    (mean, sd and one or both of lower and upper). A pair stands for a uniform
    prior too: ``TEFF = [3500, 5500]``, above the tables.

    Raises
    ------
    FileFormatError
        If the file cannot be read, is not TOML, or an entry is unknown or missing.
    LabelError
        If the values do not make a prior.
    """
    source = user_path(path)
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"cannot read priors from {source}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{source} is not a TOML file of priors: {error}.") from error
    return {name: _parse(source, name, entry) for name, entry in content.items()}


def _parse(source: Path, name: str, entry: Any) -> LabelPrior:
    if isinstance(entry, list):
        try:
            return as_prior(entry, name)
        except LabelError as error:
            raise LabelError(f"{source}: {error}") from error
    if not isinstance(entry, dict):
        raise FileFormatError(
            f"{source}: {name} must be a table such as [TEFF], or a pair [lower, upper], not "
            f"{entry!r}."
        )
    values = dict(entry)
    kind = values.pop("distribution", None)
    if kind not in _DISTRIBUTIONS:
        raise FileFormatError(
            f"{source}: [{name}] needs distribution = one of {', '.join(_DISTRIBUTIONS)}, "
            f"not {kind!r}."
        )
    allowed = _DISTRIBUTIONS[kind]
    needed = allowed[:2]
    wrong = [k for k in values if k not in allowed]
    missing = [k for k in needed if k not in values]
    text = [k for k, v in values.items() if isinstance(v, bool) or not isinstance(v, int | float)]
    if wrong or missing or text:
        raise FileFormatError(
            f"{source}: [{name}] of a {kind} prior takes the numbers {', '.join(allowed)}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(wrong)}" if wrong else "")
            + (f"; not a number: {', '.join(text)}" if text else "")
            + "."
        )
    try:
        return LabelPrior(**{k: float(v) for k, v in values.items()})
    except LabelError as error:
        raise LabelError(f"{source}: [{name}]: {error}") from error
