"""Train The Cannon: from a training set to a frozen `Cannon`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.cannon import Cannon
from bayes_cannon.choose_factors import choose_factors
from bayes_cannon.cross_validation import cross_validate
from bayes_cannon.errors import FitError, LabelError, NoStarsError
from bayes_cannon.factors import join_design
from bayes_cannon.features import PolynomialBasis
from bayes_cannon.label_errors import (
    LatentLabels,
    calibrated_design,
    combine_labels,
    label_variance,
)
from bayes_cannon.labels import Labels
from bayes_cannon.map_fit import MapFit, fit_map
from bayes_cannon.model_error_fit import fit_model_error, stars_needed
from bayes_cannon.pixel_fit import Design
from bayes_cannon.software import software_versions
from bayes_cannon.spectra import name_some
from bayes_cannon.training_priors import TrainingPriors

if TYPE_CHECKING:
    from bayes_cannon.dataset import TrainingSet

__all__ = ["TrainingSettings", "Windows", "label_design", "train"]

_log = logging.getLogger(__name__)
FloatArray = NDArray[np.float64]
Progress = Callable[[str, float], None]
Windows = Mapping[str, Sequence[tuple[float, float]]]
"""Label name -> wavelength ranges (Å, vacuum) outside which its coefficients are zero."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes
    ----------
    method : {"map", "advi"}
        Closed form, or PyMC's ADVI started from it.
    n_factors : int or "auto"
        Nuisance factors; ``"auto"`` chooses by predictive density (`choose_factors`).
    degree : int
        Of the polynomial, 1 to 3.
    snr_min : float
        Train on stars at least this bright.
    missing : {"impute", "drop"}
        A star that lacks a label: treat the label as one with a wide prior, or leave the star out.
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
    missing: Literal["impute", "drop"] = "impute"
    latent_labels: bool = True
    priors: TrainingPriors = field(default_factory=TrainingPriors)
    folds: int = 5

    def __post_init__(self) -> None:
        if self.method not in ("map", "advi"):
            raise FitError(f"unknown method {self.method!r}; choose 'map' or 'advi'.")
        if self.missing not in ("impute", "drop"):
            raise FitError(f"missing must be 'impute' or 'drop', not {self.missing!r}.")
        if self.n_factors != "auto" and self.n_factors < 0:
            raise FitError(f"factors must be 'auto' or a number from 0, not {self.n_factors!r}.")
        if self.folds < 0 or self.folds == 1:
            raise FitError(f"folds must be 0 (no cross-validation) or from 2, not {self.folds!r}.")


def label_design(
    labels: Labels, basis: PolynomialBasis, *, latent_labels: bool = True
) -> tuple[Design, FloatArray | None]:
    """Features of the training labels, their means where a label is missing or uncertain.

    Returns
    -------
    Design
        v at the labels, or E[v].
    variance : (n_stars, n_terms (n_terms + 1) / 2) float64 or None
        Packed covariance of v; None where all labels are taken as exact.
    """
    incomplete = ~labels.complete
    latent_labels = latent_labels and bool(np.any(labels.errors > 0))
    if not (latent_labels or incomplete.any()):
        ell = basis.standardize(labels.values)
        error = np.nan_to_num(labels.errors / basis.scale)
        slopes = basis.jacobian(ell) * error[:, None, :]
        return replace(Design.exact(basis.features(ell)), slopes=slopes), None
    latent = combine_labels(labels, basis)
    if not latent_labels:
        ell = np.where(incomplete[:, None], latent.mean, basis.standardize(labels.values))
        error = np.nan_to_num(labels.errors / basis.scale)
        own = (error**2)[:, :, None] * np.eye(labels.n_labels)
        cov = np.where(incomplete[:, None, None], latent.cov, own)
        tiny = 1e-12 * np.eye(labels.n_labels)
        latent = LatentLabels(ell, np.where(incomplete[:, None, None], latent.cov, tiny))
    else:
        cov = latent.cov
    design, variance = calibrated_design(latent, basis)
    root = np.linalg.cholesky(cov + 1e-12 * np.eye(labels.n_labels))
    return replace(design, slopes=basis.jacobian(latent.mean) @ root), variance


def _widened(
    stars: TrainingSet, design: Design, variance: FloatArray, **options: Any
) -> NDArray[Any]:
    """Inverse variance of the spectra with the part that comes from uncertain labels taken in."""
    spectra = stars.spectra
    first = fit_map(spectra.flux, spectra.ivar, design, **options)
    ivar = np.empty_like(spectra.ivar)
    for a in range(0, len(spectra), 256):
        rows = slice(a, a + 256)
        extra = label_variance(variance[rows], first.mean[:, : design.n_coef])
        ivar[rows] = spectra.ivar[rows] / (1 + spectra.ivar[rows] * extra)
    return ivar


def free_coefficients(
    basis: PolynomialBasis, wavelength: FloatArray, windows: Windows | None
) -> NDArray[np.bool_] | None:
    """Coefficients that may differ from zero, shape (n_pixels, n_terms); None: all of them.

    A term is kept at zero wherever any of its labels is outside that label's windows.
    """
    if not windows:
        return None
    free = np.ones((wavelength.size, basis.n_terms), dtype=bool)
    for name, ranges in windows.items():
        if name not in basis.names:
            raise LabelError(f"windows are given for {name}, which is not among {basis.names}.")
        inside = np.zeros(wavelength.size, dtype=bool)
        for low, high in ranges:
            inside |= (wavelength >= low) & (wavelength <= high)
        if not inside.any():
            raise LabelError(f"the windows of {name} hold none of the pixels.")
        free[np.ix_(~inside, basis.only([name]))] = False
    return free


def _training_stars(dataset: TrainingSet, settings: TrainingSettings) -> TrainingSet:
    bright = ~(dataset.spectra.snr < settings.snr_min)
    keep = bright & (dataset.labels.complete | (settings.missing == "impute"))
    keep &= np.isfinite(dataset.labels.values).any(axis=1)
    if not keep.all():
        _log.info(
            "%d of %d stars left out of training: %d fainter than S/N %g, the rest without labels",
            (~keep).sum(), keep.size, (~bright).sum(), settings.snr_min,
        )  # fmt: skip
    if not keep.any():
        raise NoStarsError(
            f"none of {keep.size} stars is bright enough (S/N >= {settings.snr_min:g}) and has "
            "labels; lower snr_min or allow missing labels."
        )
    return dataset.select(keep) if not keep.all() else dataset


def _enough(n_stars: int, basis: PolynomialBasis, ids: NDArray[np.str_]) -> None:
    if n_stars < basis.n_labels + 2:
        raise FitError(
            f"{n_stars} training stars ({name_some(ids)}) are too few for {basis.n_labels} labels; "
            f"at least {basis.n_labels + 2} are needed, and ten per label are sensible."
        )


def train(
    dataset: TrainingSet,
    *,
    method: Literal["map", "advi"] = "map",
    n_factors: int | Literal["auto"] = "auto",
    settings: TrainingSettings | None = None,
    windows: Windows | None = None,
    held_out: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Cannon:
    """Fit the training model to a training set.

    Parameters
    ----------
    dataset
        Normalised spectra and labels of the training stars.
    method, n_factors
        As in `TrainingSettings`; ignored where `settings` is given.
    settings
        All settings together.
    windows
        Wavelength ranges to which labels are confined.
    held_out
        Ids of stars kept for testing, recorded in the result.
    seed
        Of the choice and first guess of the factors, and of ADVI.
    progress
        Called with a stage and the fraction of it done.

    Raises
    ------
    NoStarsError, FitError, LabelError
        If there are too few stars, or labels that cannot be trained on.
    """
    settings = settings or TrainingSettings(method=method, n_factors=n_factors)
    stars = _training_stars(dataset, settings)
    spectra, labels = stars.spectra, stars.labels
    basis = PolynomialBasis.from_labels(labels, settings.degree)
    _enough(len(labels), basis, labels.star_id)
    design, variance = label_design(labels, basis, latent_labels=settings.latent_labels)
    free = free_coefficients(basis, spectra.wavelength, windows)
    ivar = spectra.ivar
    if variance is not None:
        ivar = _widened(stars, design, variance, free=free, priors=settings.priors)
    history: dict[str, FloatArray] = {}
    factors = settings.n_factors
    if factors == "auto":
        choice = choose_factors(
            spectra.flux, ivar, design, free=free, priors=settings.priors, seed=seed,
            progress=progress,
        )  # fmt: skip
        factors = choice.n_factors
        history["factor_grid"] = choice.grid.astype(np.float64)
        history["predictive"], history["predictive_error"] = choice.predictive, choice.error
    fit = fit_map(
        spectra.flux, ivar, design, n_factors=factors, free=free, priors=settings.priors,
        seed=seed, progress=progress,
    )  # fmt: skip
    history["bound"] = np.array(fit.bound)
    if settings.method == "advi":
        fit, elbo = _advi(spectra.flux, ivar, design, fit, seed, progress)
        history["elbo"] = elbo
    record = _record(stars, settings, factors, windows, seed, converged=fit.converged)
    cannon = _freeze(stars, basis, fit, np.asarray(held_out, np.str_), history, record)
    if settings.folds == 0:
        return cannon
    return _with_model_error(
        cannon, stars, design, ivar, free, settings=settings, seed=seed, progress=progress
    )


def _with_model_error(
    cannon: Cannon,
    stars: TrainingSet,
    design: Design,
    ivar: NDArray[Any],
    free: NDArray[np.bool_] | None,
    *,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None,
) -> Cannon:
    n_complete, needed = int(stars.labels.complete.sum()), stars_needed(stars.labels.n_labels)
    if n_complete < max(needed, settings.folds):
        _log.warning(
            "%d training stars with all labels are too few to learn the model error (%d are "
            "needed): results will have no calibrated posterior.", n_complete, needed,
        )  # fmt: skip
        return cannon
    found = cross_validate(
        cannon, stars.spectra, design, ivar=ivar, free=free, folds=settings.folds, seed=seed,
        priors=settings.priors, progress=progress,
    )  # fmt: skip
    if progress is not None:
        progress("model error", 0.0)
    return cannon.with_model_error(fit_model_error(found, cannon.basis, seed=seed))


def _advi(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    fit: MapFit,
    seed: int,
    progress: Progress | None,
) -> tuple[MapFit, FloatArray]:
    from bayes_cannon.advi import fit_advi

    whole = design if fit.factors is None else join_design(design, fit.factors)
    known = Design.exact(whole.mean)
    found = fit_advi(flux, ivar, known, fit, seed=seed, progress=progress)
    if not found.converged.all():
        _log.warning(
            "ADVI used up its steps in %d of %d chunks of pixels; look at the ELBO before use.",
            (~found.converged).sum(), found.converged.size,
        )  # fmt: skip
    new = replace(
        fit, mean=found.mean, cov=found.cov, log_scatter=found.log_scatter,
        log_scatter_sd=found.log_scatter_sd, converged=bool(found.converged.all()),
    )  # fmt: skip
    return new, found.elbo


def _record(
    stars: TrainingSet,
    settings: TrainingSettings,
    n_factors: int,
    windows: Windows | None,
    seed: int,
    *,
    converged: bool,
) -> dict[str, object]:
    names = ("pymc", "pytensor", "arviz", "nutpie", "numpy", "scipy", "xarray")
    training = asdict(settings) | {
        "chosen_factors": n_factors,
        "seed": seed,
        "converged": converged,
        "n_stars": len(stars.labels),
        "windows": {k: [list(map(float, r)) for r in v] for k, v in (windows or {}).items()},
    }
    versions = software_versions(*names)
    return {"dataset": dict(stars.settings), "training": training, "versions": versions}


def _freeze(
    stars: TrainingSet,
    basis: PolynomialBasis,
    fit: MapFit,
    held_out: NDArray[np.str_],
    history: dict[str, FloatArray],
    record: dict[str, object],
) -> Cannon:
    spectra = stars.spectra
    theta = fit.mean[:, : basis.n_terms].copy()
    theta[:, 0] += 1.0
    good = np.zeros(spectra.n_pixels, dtype=np.int64)
    for a in range(0, len(spectra), 512):
        good += (spectra.ivar[a : a + 512] > 0).sum(axis=0)
    needed = max(3, min(2 * basis.n_terms, len(spectra) // 2))
    n_factors = fit.mean.shape[1] - basis.n_terms
    factors = fit.factors.mean if fit.factors is not None else np.zeros((len(spectra), n_factors))
    return Cannon(
        basis=basis,
        wavelength=spectra.wavelength,
        chips=spectra.chips,
        theta=theta,
        loadings=fit.mean[:, basis.n_terms :].copy(),
        coef_cov=fit.cov,
        scatter=fit.scatter,
        log_scatter_sd=fit.log_scatter_sd,
        used=good >= needed,
        hyper=fit.hyper,
        training=stars.labels,
        held_out=held_out,
        factors=factors,
        history=history,
        settings=record,
        simulated=spectra.simulated,
    )
