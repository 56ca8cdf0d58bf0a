r"""Likelihoods of a star's pixels, by name: the Gaussian of the trained model, and others' own.

A likelihood says three things of the pixels of a star whose labels are sought:

- `Likelihood.compress`: a quadratic form in the features, exact or at a point, by which modes are
  found and the sampler's coordinates whitened;
- `Likelihood.term`: the log likelihood in the label model, as PyTensor expressions of the labels
  and of arrays that belong to the star (`Likelihood.data`); this is what NUTS samples;
- `Likelihood.log_likelihood`: the same of all pixels with nothing left out, in NumPy, against
  which the draws are checked (Pareto k-hat).

An own one is a subclass, frozen and hashable, for the compiled model is kept by it::

    @dataclass(frozen=True)
    class StudentT(Likelihood):
        nu: float = 4.0
        ...

    settings = InferenceSettings(likelihood=StudentT(nu=3.0))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.likelihood.compression import Compressed, compress
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.likelihood.smooth import at_all_draws
from bayes_cannon.inference.likelihood.whole import full_log_likelihood
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_model import compressed_term

__all__ = [
    "GAUSSIAN",
    "Gaussian",
    "Likelihood",
    "OneStar",
    "known_likelihoods",
    "likelihood_of",
    "likelihood_text",
    "register_likelihood",
]


@dataclass(frozen=True, eq=False)
class OneStar:
    """The spectrum of one star, and what is known of it before it is sampled.

    Attributes
    ----------
    flux, ivar : (n_pixels,) float64
        Used pixels (`PixelModel.take`); ivar 0: not used.
    compressed : Compressed
        What `Likelihood.compress` made of it at the mode, arrays of length 1.
    x : (n_coef,) float64
        Features and factors at the mode, and amplitudes of known terms.
    slope : (n_terms,) float64 or None
        What `Likelihood.corrected` adds to the log likelihood that is sampled, times the features.
    """

    flux: FloatArray
    ivar: FloatArray
    compressed: Compressed
    x: FloatArray
    slope: FloatArray | None = None


class Likelihood(ABC):
    """How probable the pixels of a star are, given its labels.

    Subclasses are frozen dataclasses (equal likelihoods share a compiled model) that can be
    pickled (so that stars may be sampled in other processes).

    Attributes
    ----------
    name : str
        Kept with the results, and by which it may be registered.
    """

    name: ClassVar[str]

    def depends_on_labels(self, pixels: PixelModel) -> bool:
        """Whether `compress` depends on the point `x`, so that it is refreshed at each mode.

        Parameters
        ----------
        pixels
            The trained model.
        """
        return True

    @abstractmethod
    def compress(
        self, pixels: PixelModel, flux: NDArray[Any], ivar: NDArray[Any], x: FloatArray
    ) -> Compressed:
        """Quadratic form in the features of a block of stars, with the slope of the likelihood.

        Parameters
        ----------
        pixels
            The trained model.
        flux, ivar
            Used pixels, shape (n_stars, n_pixels); ivar 0: not used.
        x
            Features and factors of each star where the form shall hold, shape (n_stars, n_coef).
        """

    @abstractmethod
    def data(self, pixels: PixelModel, star: OneStar) -> Mapping[str, FloatArray]:
        """Arrays by name that `term` takes as ``pm.Data``; of the same shapes for all stars.

        Parameters
        ----------
        pixels
            The trained model.
        star
            The star at its mode.
        """

    @abstractmethod
    def term(
        self, basis: PolynomialBasis, labels: Any, place: Any, given: Mapping[str, Any]
    ) -> Any:
        """Log likelihood of labels (n_labels,) in physical units, a PyTensor scalar.

        Parameters
        ----------
        basis
            Of the model; ``basis.symbolic`` has the features of standardised labels.
        labels
            The label model's variable.
        place
            Center and scale of the labels in its first two columns (see
            `bayes_cannon.models.label_model.coordinates`): the ones of `basis` must not be written
            into the graph, which serves models of other scalings too.
        given
            `pm.Data` of the arrays of `data`, by name.
        """

    @abstractmethod
    def log_likelihood(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> FloatArray:
        """Log likelihood (n_draws,) of all pixels at standardised labels (n_draws, n_labels).

        Nothing left out that can be had; differences between labels should be good to 0.01.

        Parameters
        ----------
        pixels
            The trained model.
        star
            The star at its mode.
        ell
            Standardised labels, shape (n_draws, n_labels).
        """

    def sampled(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> FloatArray:
        """Log likelihood (n_draws,) as `term` has it, constants aside; k-hat compares the two.

        Parameters
        ----------
        pixels, star, ell
            As for `log_likelihood`.
        """
        return self.log_likelihood(pixels, star, ell)

    def corrected(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> OneStar:
        """Return the star with `term` nearer to `log_likelihood`, learnt at draws.

        The star itself where nothing need or can be done, as here.

        Parameters
        ----------
        pixels
            The trained model.
        star
            At its mode.
        ell
            Standardised labels of the draws, shape (n_draws, n_labels).
        """
        return star

    def constant(self, star: OneStar) -> float:
        """Return what `term` leaves out; it is added to the statistic ``lp``.

        Parameters
        ----------
        star
            At its mode.
        """
        return 0.0

    def chi2(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> FloatArray:
        """Chi-square (n_draws,) at standardised labels (n_draws, n_labels).

        Of the compressed form, whose degrees of freedom are the star's used pixels. A likelihood
        of heavy tails gives its outliers little weight there.

        Parameters
        ----------
        pixels, star, ell
            As for `log_likelihood`.
        """
        return np.asarray(star.compressed.chi2(pixels.basis.features(ell)[None])[0])


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """``flux ~ N(Theta v(labels), D + U U')``, the nuisance factors integrated out.

    Compressed exactly but for the change of D, the variance that the coefficients' uncertainty
    adds, with the labels: it is that of the mode (see
    `bayes_cannon.inference.likelihood.compression`) until `corrected`.
    """

    name: ClassVar[str] = "gaussian"

    def depends_on_labels(self, pixels: PixelModel) -> bool:
        """Whether the coefficients' uncertainty or known terms are in."""
        return pixels.coef_cov is not None or pixels.templates is not None

    def compress(
        self, pixels: PixelModel, flux: NDArray[Any], ivar: NDArray[Any], x: FloatArray
    ) -> Compressed:
        """See `bayes_cannon.inference.likelihood.compression.compress`."""
        return compress(pixels, flux, ivar, x)

    def data(self, pixels: PixelModel, star: OneStar) -> dict[str, FloatArray]:
        """``A`` (n_terms, n_terms) and ``b`` (n_terms,)."""
        b = star.compressed.b[0]
        return {"A": star.compressed.A[0], "b": b if star.slope is None else b + star.slope}

    def term(
        self, basis: PolynomialBasis, labels: Any, place: Any, given: Mapping[str, Any]
    ) -> Any:
        """``b.v - v'A v / 2``."""
        return compressed_term(basis, labels, place, given)

    def log_likelihood(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> FloatArray:
        """With the variance that goes with each of the labels.

        What that adds to the compressed likelihood is nearly a polynomial (`at_all_draws`).
        """
        if pixels.coef_cov is None and pixels.templates is None:
            return self.sampled(pixels, star, ell)
        z = star.x[pixels.n_terms :]

        def added(ell: FloatArray) -> FloatArray:
            full = full_log_likelihood(pixels, star.flux, star.ivar, ell, z)
            return np.asarray(full - self.sampled(pixels, star, ell))

        return self.sampled(pixels, star, ell) + at_all_draws(added, ell)

    def sampled(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> FloatArray:
        """Of the compressed spectrum."""
        v = pixels.basis.features(ell)
        found = np.asarray(star.compressed.log_likelihood(v[None])[0])
        return found if star.slope is None else found + v @ star.slope

    def corrected(self, pixels: PixelModel, star: OneStar, ell: FloatArray) -> OneStar:
        """Return the star with the difference of the two likelihoods as a sum of features.

        The variance that the coefficients' uncertainty adds changes with the labels, which the
        compressed likelihood leaves out; the features are polynomials of the labels, so that a
        fit of what is left out is a change of ``b`` alone.
        """
        if pixels.coef_cov is None:
            return star
        v = pixels.basis.features(ell)
        left_out = self.log_likelihood(pixels, star, ell) - self.sampled(pixels, star, ell)
        good = np.isfinite(left_out)
        if np.sum(good) < 2 * v.shape[1] or np.std(left_out[good]) < _ALIKE:
            return star
        v, left_out = v[good], left_out[good]
        mean, sd = v.mean(axis=0), v.std(axis=0)
        varies = sd > 0
        scaled = (v[:, varies] - mean[varies]) / sd[varies]
        slope, target = np.zeros(v.shape[1]), left_out - left_out.mean()
        found = np.linalg.lstsq(scaled, target, rcond=1e-9)[0]
        free = 1 - v.shape[1] / target.size  # what is not spent on the fit
        if np.std(target - scaled @ found) > 0.5 * free * np.std(target):
            return star  # no polynomial: its continuation would mean nothing
        slope[varies] = found / sd[varies]
        slope[0] = left_out.mean() - mean @ slope
        return replace(star, slope=slope if star.slope is None else star.slope + slope)

    def constant(self, star: OneStar) -> float:
        """Of the compressed spectrum."""
        return float(star.compressed.const[0])


_ALIKE = 0.05
"""Standard deviation of a difference in log likelihood that moves a mean by less than 0.05 sd."""
GAUSSIAN = Gaussian()
_KNOWN: dict[str, Likelihood] = {GAUSSIAN.name: GAUSSIAN}


def register_likelihood(likelihood: Likelihood) -> None:
    """Let `InferenceSettings` know a likelihood by its name.

    Parameters
    ----------
    likelihood
        Of which equal ones hash alike. Registered again, an equal one changes nothing.

    Raises
    ------
    InvalidDataError
        If it is none, or another one has its name.
    """
    checked = likelihood_of(likelihood)
    known = _KNOWN.setdefault(checked.name, checked)
    if known != checked:
        raise InvalidDataError(
            f"there is another likelihood named {checked.name!r} ({known!r}); give it another name."
        )


def known_likelihoods() -> tuple[str, ...]:
    """Names of the registered likelihoods.

    >>> "gaussian" in known_likelihoods()
    True
    """
    return tuple(_KNOWN)


def likelihood_of(given: Any) -> Likelihood:
    """Return a likelihood, or the registered one of a name.

    Parameters
    ----------
    given
        Name of a likelihood, or a `Likelihood`.

    Raises
    ------
    InvalidDataError
        If no likelihood has the name, or it is not a likelihood that can be hashed.

    >>> likelihood_of("gaussian")
    Gaussian()
    """
    if isinstance(given, str):
        if given not in _KNOWN:
            raise InvalidDataError(
                f"there is no likelihood {given!r} (there are {', '.join(_KNOWN)}); "
                "register_likelihood makes one known."
            )
        return _KNOWN[given]
    if not isinstance(given, Likelihood) or not hasattr(given, "name"):
        raise InvalidDataError(
            "likelihood must be a name or an object of a subclass of Likelihood that has a name, "
            f"not {given!r}."
        )
    try:
        hash(given)
    except TypeError as error:
        raise InvalidDataError(
            f"the likelihood {given.name!r} cannot be hashed ({error}), by which its compiled "
            "model is kept; make its class a frozen dataclass of plain values."
        ) from error
    return given


def likelihood_text(given: Any) -> str:
    """Name of a likelihood, with its parameters where it has any, as results record it.

    Parameters
    ----------
    given
        Name of a likelihood, or a `Likelihood`.

    Raises
    ------
    InvalidDataError
        If there is none of that name.

    Examples
    --------
    >>> likelihood_text("gaussian")
    'gaussian'
    """
    found: Any = likelihood_of(given)
    names = [field.name for field in fields(found)] if is_dataclass(found) else []
    shown = ", ".join(f"{name}={getattr(found, name)!r}" for name in names)
    return f"{found.name}({shown})" if shown else str(found.name)
