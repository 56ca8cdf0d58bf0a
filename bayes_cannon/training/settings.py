"""How The Cannon is trained: settings and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bayes_cannon.base.columns import whole_number
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.models.hyperparameters import TrainingPriors

__all__ = [
    "TrainingSettings",
    "Windows",
]

Windows = Mapping[str, Sequence[tuple[float, float]]]
"""Label name -> wavelength ranges (Å, as the spectra) outside which its coefficients are zero."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes
    ----------
    method : {"map", "advi"}
        Closed form, or PyMC's ADVI started from it.
    n_factors : int or "auto"
        Nuisance factors; ``"auto"`` chooses by predictive density (`factor_choice`).
    degree : int
        Of the polynomial, 1 to 3.
    snr_min : float
        Train on stars at least this bright.
    missing : {"auto", "impute", "drop"}
        A star that lacks a label: infer it from the star's spectrum by a model of the complete
        stars (see `missing_labels`), or leave the star out. ``"auto"`` imputes where enough stars
        are complete for that.
    latent_labels : bool
        Treat every label as uncertain by its error (see `label_errors`), which undoes most of the
        attenuation of the coefficients; labels without an error count as exact.
    priors : TrainingPriors
        Of the hyperparameters.
    folds : int
        Of the cross-validation from which the model error is learnt, by NUTS (see
        `cross_validation`, `model_error`); 0 leaves it out, and results have no calibrated
        posterior then.
    """

    method: Literal["map", "advi"] = "map"
    n_factors: int | Literal["auto"] = "auto"
    degree: int = 2
    snr_min: float = 0.0
    missing: Literal["auto", "impute", "drop"] = "auto"
    latent_labels: bool = True
    priors: TrainingPriors = field(default_factory=TrainingPriors)
    folds: int = 5

    def __post_init__(self) -> None:
        if self.method not in ("map", "advi"):
            raise FitError(f"unknown method {self.method!r}; choose 'map' or 'advi'.")
        if self.missing not in ("auto", "impute", "drop"):
            raise FitError(f"missing must be 'auto', 'impute' or 'drop', not {self.missing!r}.")
        if self.n_factors != "auto":
            n_factors = _whole(self.n_factors)
            if n_factors is None or n_factors < 0:
                raise FitError(
                    f"factors must be 'auto' or a whole number from 0, not {self.n_factors!r}."
                )
            object.__setattr__(self, "n_factors", n_factors)
        least: Any = self.snr_min
        number = isinstance(least, int | float | np.number) and not isinstance(least, bool)
        if not number or np.isnan(least):
            raise FitError(f"snr_min must be a number, not {least!r}.")
        if not isinstance(self.latent_labels, bool | np.bool_):
            raise FitError(f"latent_labels must be True or False, not {self.latent_labels!r}.")
        folds = _whole(self.folds)
        if folds is None or folds < 0 or folds == 1:
            raise FitError(f"folds must be 0 (no cross-validation) or from 2, not {self.folds!r}.")
        object.__setattr__(self, "folds", folds)


def _whole(value: object) -> int | None:
    """Return a whole number as int; None for anything else."""
    try:
        return whole_number(value, "it")
    except InvalidDataError:
        return None
