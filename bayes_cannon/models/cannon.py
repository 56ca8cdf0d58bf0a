"""The trained model: a frozen set of arrays that turns labels into spectra, and its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text, range_text
from bayes_cannon.base.packing import pack_outer, packed_size, packed_weights, unpack
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import check_netcdf, read_tree, write_tree
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FileFormatError, InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.files.cannon_tree import cannon_fields, cannon_tree
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.models.label_moments import label_moments
from bayes_cannon.models.noise.independent_pixels import IndependentPixels, chip_of_pixels
from bayes_cannon.spectra.distortions import KnownTerms
from bayes_cannon.spectra.label_kinds import label_kind, two_digits
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "Cannon",
    "Gradient",
    "Prediction",
]


FORMAT = "bayes_cannon.cannon"
FORMAT_VERSION = 8
NAMED = "a model is a NetCDF file, its name ends with .nc"
"""What files are to be called."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Model spectra.

    Attributes
    ----------
    flux : (..., n_pixels) float64
        Normalised flux at factors 0.
    coef_sd : (..., n_pixels) float64
        Standard deviation that comes from the coefficients' uncertainty.
    sd : (..., n_pixels) float64
        Standard deviation of a new noise-free star of these labels: coefficients, intrinsic
        scatter and nuisance factors together.
    """

    flux: FloatArray
    coef_sd: FloatArray
    sd: FloatArray


@dataclass(frozen=True, eq=False)
class Gradient:
    """Derivative of the model flux with respect to each label, per unit of the label.

    Attributes
    ----------
    value, sd : (..., n_labels, n_pixels) float64
        Posterior mean and standard deviation.
    """

    value: FloatArray
    sd: FloatArray


@dataclass(frozen=True, eq=False, repr=False)
class Cannon(Carded):
    """A trained model.

    Attributes
    ----------
    basis : PolynomialBasis
        Labels, their units and scaling, terms.
    wavelength : (n_pixels,) float64
        In Å, rest frame.
    chips : tuple of (start, stop)
        Pixel ranges of the chips.
    theta : (n_pixels, n_terms) float64
        Posterior mean of the coefficients.
    loadings : (n_pixels, n_factors) float64
        Posterior mean of the loadings of the nuisance factors.
    coef_cov : (n_pixels, n_coef (n_coef + 1) / 2) float32
        Covariance of the coefficients [theta, loadings] given the scatter, packed lower triangles.
    scatter : (n_pixels,) float64
        Intrinsic scatter s, in normalised flux.
    log_scatter_sd : (n_pixels,) float64
        Posterior standard deviation of log s.
    used : (n_pixels,) bool
        Pixels with enough good training stars; the others are left out of inference.
    hyper : Hyperparameters
        Learnt over all pixels.
    training : Labels
        Labels of the training stars.
    held_out : (n,) str
        Ids of the stars kept for testing.
    factors : (n_stars, n_factors) float64
        Posterior mean of the training stars' factors.
    history : mapping of str to array
        How the fit went: ``bound`` per round, ``elbo`` of ADVI, ``predictive`` of the choice of J.
    model_error : xarray.DataTree or None
        What cross-validation found, see `bayes_cannon.inference.calibrated`.
    settings : mapping of str
        How it was made: plain strings and numbers, under ``dataset``, ``training``, ``versions``.
    simulated : bool
    medium : str
        ``'vacuum'`` or ``'air'``: what the wavelengths are in.
    kappa : (n_chips,) float64
        Pixels of each chip per independent one, by which its log likelihood is divided in
        inference (see `bayes_cannon.training.effective_pixels`), where intrinsic scatter rules;
        1 where left out.
    kappa_noise : (n_chips,) float64
        The same where photon noise rules (see `IndependentPixels`); like `kappa` where left out.
    kappa_log_sd : float
        Standard deviation of the logarithm of their common factor; NaN where not learnt.
    terms : tuple of str
        Known terms, of `bayes_cannon.spectra.distortions.KNOWN_TERMS`.
    term_scale : (n_columns,) float64
        Standard deviation over stars of each of their amplitudes.
    """

    basis: PolynomialBasis
    wavelength: FloatArray
    chips: tuple[tuple[int, int], ...]
    theta: FloatArray
    loadings: FloatArray
    coef_cov: NDArray[np.float32]
    scatter: FloatArray
    log_scatter_sd: FloatArray
    used: NDArray[np.bool_]
    hyper: Hyperparameters
    training: Labels
    held_out: NDArray[np.str_]
    factors: FloatArray
    history: Mapping[str, FloatArray] = field(default_factory=dict)
    model_error: xr.DataTree | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False
    medium: str = "vacuum"
    kappa: FloatArray = field(default_factory=lambda: np.ones(0))
    kappa_noise: FloatArray = field(default_factory=lambda: np.ones(0))
    kappa_log_sd: float = float("nan")
    terms: tuple[str, ...] = ()
    term_scale: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        kappa = np.asarray(self.kappa, dtype=np.float64)
        object.__setattr__(self, "kappa", kappa if kappa.size else np.ones(len(self.chips)))
        noise = np.asarray(self.kappa_noise, dtype=np.float64)
        object.__setattr__(self, "kappa_noise", noise if noise.size else self.kappa)
        for name in ("kappa", "kappa_noise"):
            given = getattr(self, name)
            if given.shape != (len(self.chips),) or not np.all(given >= 1):
                raise InvalidDataError(
                    f"{name} must be one number from 1 a chip, not {given} for {len(self.chips)}."
                )
        p, t, j = self.n_pixels, self.basis.n_terms, self.loadings.shape[1]
        expected = {
            "theta": (p, t),
            "loadings": (p, j),
            "coef_cov": (p, packed_size(t + j)),
            "scatter": (p,),
            "log_scatter_sd": (p,),
            "used": (p,),
            "factors": (self.training.n_stars, j),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise InvalidDataError(
                    f"{name} has shape {getattr(self, name).shape}, expected {shape}."
                )

    def _facts(self) -> tuple[str, list[Row]]:
        labels, made = self.training, self.settings.get("training", {})
        ranges = ", ".join(
            f"{name} {range_text(labels[name], max(label_kind(name, unit).digits - 1, 0), unit)}"
            for name, unit in zip(labels.names, labels.units, strict=True)
        )
        size = f"degree {self.basis.degree}, {count_text(self.basis.n_terms, 'term')}"
        used = f"{self.used.sum()} of {self.n_pixels} used, {range_text(self.wavelength)} Å"
        held = self.held_out.size
        mark = SIMULATED if self.simulated else ""
        return f"Cannon, trained on {count_text(len(labels), 'star')}{mark}", [
            ("labels", ranges),
            ("held out", count_text(held, "star") if held else ""),
            ("pixels", f"{used} ({self.medium})"),
            ("model", f"{size}, {count_text(self.n_factors, 'factor')}"),
            ("known terms", str(self.known_terms or "")),
            ("method", str(made.get("method", ""))),
            ("model error", self._model_error_text() or str(made.get("no_model_error", "none"))),
        ]

    def _model_error_text(self) -> str:
        """Standard deviation of the model error of each label; empty where it was not learnt."""
        if self.model_error is None or "posterior" not in self.model_error.children:
            return ""
        draws = self.model_error["posterior"].to_dataset()
        if "covariance" not in draws:
            return ""
        variance = np.diagonal(draws["covariance"].mean(("chain", "draw")).values)
        parts = zip(self.names, np.sqrt(variance), self.basis.units, strict=True)
        return ", ".join(f"{name} {two_digits(sd)} {unit}".rstrip() for name, sd, unit in parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.basis.names

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return int(self.wavelength.size)

    @property
    def n_factors(self) -> int:
        """Number of nuisance factors."""
        return int(self.loadings.shape[1])

    @property
    def known_terms(self) -> KnownTerms | None:
        """Known terms on the model's pixels; None where there are none."""
        if not self.terms:
            return None
        return KnownTerms.on(self.terms, self.wavelength, self.chips, self.term_scale)

    @property
    def independent_pixels(self) -> IndependentPixels:
        """How many of the pixels of a spectrum are independent."""
        chip = chip_of_pixels(self.chips, self.n_pixels)
        scatter2 = np.where(self.used, self.scatter, 0.0) ** 2
        return IndependentPixels(self.kappa, self.kappa_noise, chip, scatter2)

    @property
    def label_range(self) -> FloatArray:
        """Smallest and largest training label, shape (2, n_labels), physical units."""
        return np.stack([np.nanmin(self.training.values, 0), np.nanmax(self.training.values, 0)])

    @property
    def label_mean(self) -> FloatArray:
        """Mean training label, shape (n_labels,)."""
        return np.asarray(np.nanmean(self.training.values, axis=0))

    @property
    def label_cov(self) -> FloatArray:
        """Covariance of the training labels, shape (n_labels, n_labels), physical units.

        Of all stars, also those that lack a label (`label_moments`).
        """
        cov = label_moments(self.basis.standardize(self.training.values))[1]
        return cov * np.outer(self.basis.scale, self.basis.scale)

    def predict(self, labels: ArrayLike | Mapping[str, ArrayLike] | Labels) -> Prediction:
        """Spectra of labels in physical units.

        Parameters
        ----------
        labels
            Shape (..., n_labels), in the order of `names`; or a mapping of values by name, or
            `Labels`.
        """
        v = self.basis(self.label_values(labels))
        flux = v @ self.theta.T
        packed = pack_outer(v) * packed_weights(v.shape[-1])
        terms = packed_size(self.basis.n_terms)
        variance = packed @ self.coef_cov[:, :terms].astype(np.float64).T
        extra = self.scatter**2 + np.sum(self.loadings**2, axis=1)
        if (known := self.known_terms) is not None:
            templates = known.templates(self.theta, self.used)
            flat = templates.scaled(v.reshape(-1, v.shape[-1]))
            extra = extra + np.sum(flat**2, axis=1).reshape(flux.shape)
        coef_sd = np.sqrt(np.maximum(variance, 0.0))
        return Prediction(flux, coef_sd, np.sqrt(coef_sd**2 + extra))

    def gradient(self, labels: ArrayLike | Mapping[str, ArrayLike] | Labels) -> Gradient:
        """Derivative of the flux with respect to each label, per K or per dex.

        Parameters
        ----------
        labels
            Shape (..., n_labels): where to take it.
        """
        ell = self.basis.standardize(self.label_values(labels))
        dv = np.swapaxes(self.basis.jacobian(ell), -1, -2)
        dv = dv / self.basis.scale[:, None]
        packed = pack_outer(dv) * packed_weights(dv.shape[-1])
        terms = packed_size(self.basis.n_terms)
        variance = packed @ self.coef_cov[:, :terms].astype(np.float64).T
        return Gradient(dv @ self.theta.T, np.sqrt(np.maximum(variance, 0.0)))

    def term_cov(self, pixel: int) -> FloatArray:
        """Covariance of all coefficients of one pixel, shape (n_coef, n_coef)."""
        return unpack(self.coef_cov[pixel].astype(np.float64))

    def with_model_error(self, model_error: xr.DataTree) -> Cannon:
        """Return the same model with `model_error`, the result of its cross-validation."""
        return replace(self, model_error=model_error)

    def outliers(self, least: float = 0.5) -> dict[str, float]:
        """Training stars that are probably outliers in their labels, the most probable first.

        Stars whose labels, found without them, differ from the catalogue's as if their errors were
        over twice those of other stars like them. They widen nobody's errors, whose tails are
        heavy; look at their spectra and labels.

        Parameters
        ----------
        least
            Probability from which a star is named.

        Raises
        ------
        InvalidDataError
            If the model was trained without cross-validation, or by an earlier version.
        """
        tree = self.model_error
        node = None if tree is None else tree.children.get("differences")
        known = xr.Dataset() if node is None else node.to_dataset()
        if "outlier" not in known:
            raise InvalidDataError(
                "the model does not know outliers among its training stars; train it again, with "
                "cross-validation."
            )
        names, p = known["star"].values.tolist(), known["outlier"].values
        order = [i for i in np.argsort(-p, kind="stable") if p[i] >= least]
        return {str(names[i]): float(p[i]) for i in order}

    def label_values(self, labels: Any) -> FloatArray:
        """Labels in the order of `names`, shape (..., n_labels), from an array or by name.

        Parameters
        ----------
        labels
            Array (..., n_labels), in the order of `names` and their units; or a mapping by name.

        Raises
        ------
        InvalidDataError, LabelError
            If they are not numbers, not as many as the model has labels, or one is missing.
        """
        if isinstance(labels, Labels):
            return labels.only(self.names).values
        if isinstance(labels, Mapping):
            if lacking := [n for n in self.names if n not in labels]:
                raise LabelError(f"{', '.join(lacking)} is not given; a spectrum needs all labels.")
            labels = np.stack(np.broadcast_arrays(*(labels[n] for n in self.names)), axis=-1)
        try:
            values = np.asarray(labels, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"labels must be numbers, in the order {', '.join(self.names)}, or by name."
            ) from error
        if values.shape[-1:] != (self.basis.n_labels,):
            raise InvalidDataError(
                f"labels have shape {values.shape}; "
                f"the last axis must hold {', '.join(self.names)}."
            )
        return values

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write as NetCDF; see `load`.

        Parameters
        ----------
        path
            File to write.
        overwrite
            Replace a file that is there.

        Raises
        ------
        OutputExistsError
            If the file exists, or cannot be written.
        InvalidDataError
            If its name ends like a file of another format.
        """
        check_netcdf(path, NAMED, overwrite=overwrite)
        tree, path = cannon_tree(self), user_path(path)
        return write_tree(
            tree, path, format_name=FORMAT, version=FORMAT_VERSION, overwrite=overwrite
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Cannon:
        """Read a file written by `save`, exactly equal to what was saved.

        Parameters
        ----------
        path
            Of the file.

        Raises
        ------
        FileFormatError
            If the file is missing, damaged, of another kind or of another format version.
        """
        path = user_path(path)
        tree = read_tree(path, format_name=FORMAT, version=FORMAT_VERSION)
        try:
            return cls(**cannon_fields(tree))
        except Exception as error:  # whatever a strange file leads to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FileFormatError(f"{path} lacks parts of a trained model ({reason}).") from error
