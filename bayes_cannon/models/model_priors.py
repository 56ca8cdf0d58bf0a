"""Priors of the labels of a trained model: what is given, and defaults from its training stars."""

from __future__ import annotations

import os
import warnings
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import BayesCannonWarning, LabelError
from bayes_cannon.models.label_priors import (
    LabelPrior,
    LabelPriors,
    as_prior,
    read_priors,
)
from bayes_cannon.spectra.label_kinds import label_kind

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "GivenPriors",
    "default_priors",
    "priors_of",
]


GivenPriors = Mapping[str, Any] | LabelPriors | str | os.PathLike[str] | None
"""Priors by label (see `bayes_cannon.models.label_priors.as_prior`), or a TOML file of them."""


def default_priors(cannon: Cannon, *, given: Container[str] = ()) -> dict[str, LabelPrior]:
    """Uniform priors of a model's labels that hold all its training stars.

    A label of a known kind has its usual range (`label_priors.default_prior`); where training
    stars lie beyond it, it is widened there, to the training range and its own width more, with
    a warning. A label of any other kind, or in a unit of its own, has the training range,
    wider by its own width on both sides. Labels among `given` are left out.

    Parameters
    ----------
    cannon
        The trained model.
    given
        Labels that have priors of their own.

    Raises
    ------
    LabelError
        If no training star has a value of a label.
    """
    values = np.asarray(cannon.training.values, dtype=np.float64)
    out, told = {}, []
    for k, (name, unit) in enumerate(zip(cannon.basis.names, cannon.basis.units, strict=True)):
        if name in given:
            continue
        column = values[np.isfinite(values[:, k]), k]
        usual = label_kind(name, unit).prior
        if usual is None and column.size == 0:
            raise LabelError(f"no training star has a value of {name}; give its prior.")
        out[name] = _around(column, usual)
        if usual is not None and out[name] != LabelPrior.uniform(*usual):
            outside = int(np.sum((column < usual[0]) | (column > usual[1])))
            told.append(
                f"{name}: {outside} of {count_text(column.size, 'training star')} lie outside "
                f"{usual[0]:g} to {usual[1]:g} {unit}, the prior is uniform from "
                f"{out[name].lower:.4g} to {out[name].upper:.4g}"
            )
    if told:
        text = f"default priors are widened: {'; '.join(told)}. Give priors to have others."
        warnings.warn(text, BayesCannonWarning, stacklevel=4)
    return out


def _around(values: NDArray[np.float64], usual: tuple[float, float] | None) -> LabelPrior:
    """Return the usual range, or the values' where they are beyond, wider by their width."""
    if values.size == 0 and usual is not None:
        return LabelPrior.uniform(*usual)
    low, high = float(values.min()), float(values.max())
    width = high - low or max(abs(low), 1.0)
    if usual is None:
        return LabelPrior.uniform(low - width, high + width)
    lower = low - width if low < usual[0] else usual[0]
    upper = high + width if high > usual[1] else usual[1]
    return LabelPrior.uniform(lower, upper)


def priors_of(cannon: Cannon, given: GivenPriors = None) -> LabelPriors:
    """Priors of all labels of a trained model: those given, else the defaults.

    Parameters
    ----------
    cannon
        The trained model.
    given
        By label: a `LabelPrior`, a pair (lower, upper) of a uniform one, or a mapping as in a
        TOML file; or the path of such a file. A prior may leave out the mean of the training
        labels; one that leaves out every training star is taken with a warning.

    Raises
    ------
    LabelError
        If a prior is of a label that the model lacks, or is none.
    FileFormatError
        If a file cannot be read.
    """
    names = cannon.basis.names
    if isinstance(given, str | os.PathLike):
        given = read_priors(given)
    whole = isinstance(given, LabelPriors)  # of all labels, looked at before
    if isinstance(given, LabelPriors):
        given = dict(zip(given.names, given.priors, strict=True))
    if given is not None and not isinstance(given, Mapping):
        raise LabelError(
            f"priors must be given by label, like {{{names[0]!r}: (lower, upper)}}, or as a TOML "
            f"file, not as {type(given).__name__}."
        )
    wanted = {str(name): as_prior(prior, str(name)) for name, prior in (given or {}).items()}
    unknown = [n for n in wanted if n not in names]
    if unknown:
        raise LabelError(
            f"priors are given for {', '.join(unknown)}, but the model's labels are "
            f"{', '.join(names)}."
        )
    if not whole:
        _warn_of_excluded(cannon, wanted)
    return LabelPriors.for_labels(names, default_priors(cannon, given=wanted) | wanted)


def _warn_of_excluded(cannon: Cannon, given: Mapping[str, LabelPrior]) -> None:
    """Say which priors have all training stars outside their bounds."""
    told = []
    for name, prior in given.items():
        column = np.asarray(cannon.training.values)[:, cannon.basis.names.index(name)]
        column = column[np.isfinite(column)]
        if column.size and not ((column > prior.lower) & (column < prior.upper)).any():
            told.append(
                f"{name} ({prior.lower:.4g} to {prior.upper:.4g}; training stars: "
                f"{column.min():.4g} to {column.max():.4g})"
            )
    if told:
        text = (
            f"the prior leaves out every training star: {', '.join(told)}. Labels will be "
            "extrapolated; look at the unit of the prior."
        )
        warnings.warn(text, BayesCannonWarning, stacklevel=4)
