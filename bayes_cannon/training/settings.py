"""How The Cannon is trained: settings and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.columns import whole_number
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.hyperparameters import TrainingPriors
from bayes_cannon.spectra.distortions import known_term_names

__all__ = [
    "TrainingSettings",
    "Windows",
    "free_coefficients",
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
        Minimum S/N per pixel of the training stars.
    missing : {"auto", "impute", "drop"}
        A star that lacks a label: infer it from the star's spectrum by a model of the complete
        stars (see `missing_labels`), or leave the star out. ``"auto"`` imputes where enough stars
        are complete for that.
    latent_labels : bool
        Treat every label as uncertain by its error (see `label_errors`), which undoes most of the
        attenuation of the coefficients; labels without an error count as exact.
    priors : TrainingPriors
        Of the hyperparameters.
    terms : "auto" or tuple of str
        Known terms beside the factors (`bayes_cannon.spectra.distortions.KNOWN_TERMS`), each with a
        scale that is learnt. ``"auto"`` takes ``"shift"`` if predictive density says so
        (`factor_choice`) where the number of factors is chosen, too, and none where that is given.
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
    terms: tuple[str, ...] | Literal["auto"] = "auto"

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
        if self.terms != "auto":
            object.__setattr__(self, "terms", known_term_names(self.terms))
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


def free_coefficients(
    basis: PolynomialBasis, wavelength: FloatArray, windows: Windows | None
) -> NDArray[np.bool_] | None:
    """Coefficients that may differ from zero, shape (n_pixels, n_terms); None: all of them.

    A term is kept at zero wherever any of its labels is outside that label's windows.

    Parameters
    ----------
    basis
        Scaling and terms.
    wavelength
        Shape (n_pixels,), Å.
    windows
        Wavelength ranges by label.

    Raises
    ------
    LabelError
        If there are windows of a label that is not there, or windows without a pixel.
    """
    if not windows:
        return None
    if not isinstance(windows, Mapping):
        raise LabelError("windows must be a dictionary, {'MG_FE': [(low, high), ...]}, in Å.")
    free = np.ones((wavelength.size, basis.n_terms), dtype=bool)
    for name, ranges in windows.items():
        if np.ndim(ranges) != 2 or np.shape(ranges)[1] != 2:
            raise LabelError(
                f"the windows of {name} must be pairs of wavelengths, [(low, high), ...], "
                f"not {ranges!r}."
            )
        if name not in basis.names:
            raise LabelError(f"windows are given for {name}, which is not among {basis.names}.")
        inside = np.zeros(wavelength.size, dtype=bool)
        for low, high in ranges:
            inside |= (wavelength >= low) & (wavelength <= high)
        if not inside.any():
            raise LabelError(f"the windows of {name} hold none of the pixels.")
        free[np.ix_(~inside, basis.only([name]))] = False
    return free
