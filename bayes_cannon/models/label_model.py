r"""The label model of one star as PyMC models. Each function builds one; none of them samples.

    labels ~ Uniform(lower, upper)                    or the user's priors
    flux   ~ MvNormal(Theta v(labels), D + U U')      the nuisance factors integrated out

`build_label_model` has the likelihood in its exact compressed form, ``b.v - v'A v / 2``;
`build_full_pixel_model` has every pixel and the factors as free variables, and serves as its
oracle and as the yardstick of speed. Both name their variable ``labels``, dim ``label_name``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.logprob.transforms import Transform

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_ops import CompressedLogLikelihood, Unwhiten
from bayes_cannon.models.label_priors import LabelPriors

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "WhitenedTransform",
    "build_full_pixel_model",
    "build_label_model",
    "build_plain_model",
    "compressed_term",
    "coordinates",
]


def _unwhiten(*inputs: Any) -> Any:
    """Labels and log-Jacobian, see `Unwhiten`."""
    return Unwhiten()(*inputs)


class WhitenedTransform(Transform):  # type: ignore[misc]
    """Labels to whitened unconstrained coordinates and back.

    ``labels -> u`` by the priors' bounds, ``u -> y = chol^-1 (u - mean)``. The last three
    parameters of the distribution are lower, upper and the coordinates (see `coordinates`);
    the whitening in them does not change the distribution.

    Parameters
    ----------
    priors
        Say which bounds are finite.
    """

    name = "whitened"
    ndim_supp = 1

    def __init__(self, priors: LabelPriors) -> None:
        self.priors = priors

    def forward(self, value: Any, *inputs: Any) -> Any:
        """Whitened coordinates of labels.

        Parameters
        ----------
        value
            Labels, in physical units, shape (n_labels,).
        *inputs
            Of the distribution; the last three are bounds and the place of the whitening.
        """
        lower, upper, place = inputs[-3:]
        low, high = np.isfinite(self.priors.lower), np.isfinite(self.priors.upper)
        below = pt.log(pt.where(low, value - lower, 1.0))
        above = pt.log(pt.where(high, upper - value, 1.0))
        half = pt.where(low, below, pt.where(high, above, value))
        u = pt.where(low & high, below - above, half)
        return pt.linalg.solve_triangular(place[:, 3:], u - place[:, 2], lower=True)

    def backward(self, value: Any, *inputs: Any) -> Any:
        """Labels of whitened coordinates.

        Parameters
        ----------
        value
            Whitened coordinates, shape (n_labels,).
        *inputs
            As for `forward`.
        """
        return _unwhiten(value, *inputs[-3:])[0]

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        """Log of the Jacobian determinant of `backward`.

        Parameters
        ----------
        value, *inputs
            As for `backward`.
        """
        return _unwhiten(value, *inputs[-3:])[1]


def _labels(priors: LabelPriors, place: Any) -> Any:
    """One vector variable with the priors of all labels, sampled in whitened coordinates."""
    k = len(priors.names)

    def logp(value: Any, *params: Any) -> Any:
        density = pt.as_tensor(np.float64(priors.log_norm))
        if not priors.all_uniform:
            density = density - 0.5 * pt.sum(priors.precision * (value - priors.mean) ** 2)
        return density

    def random(
        *params: Any, rng: np.random.Generator | None = None, size: tuple[int, ...] | None = None
    ) -> FloatArray:
        shape = tuple(size or ())
        draws = priors.sample(int(np.prod(shape, dtype=int)), rng or np.random.default_rng())
        return draws.reshape(*shape, k)

    def support_point(rv: Any, size: Any, *params: Any) -> Any:
        return _unwhiten(pt.zeros(k), *params[-3:])[0]

    return pm.CustomDist(
        "labels", priors.lower, priors.upper, place,
        logp=logp, random=random, support_point=support_point, dims="label_name",
        signature="(n),(n),(n,m)->(n)", transform=WhitenedTransform(priors),
    )  # fmt: skip


def coordinates(
    basis: PolynomialBasis,
    priors: LabelPriors,
    mean: FloatArray | None = None,
    chol: FloatArray | None = None,
) -> FloatArray:
    """Scaling and whitening of the labels in one array, as the label model takes them.

    Parameters
    ----------
    basis
        Gives center and scale.
    priors
        Give the unconstrained coordinates u.
    mean, chol
        Mean and lower Cholesky factor of the covariance of u; None: those of the training labels.

    Returns
    -------
    (n_labels, 3 + n_labels) float64
        Columns: center, scale, mean, then chol.
    """
    k = basis.n_labels
    if mean is None:
        mean = priors.unconstrain(priors.clip(basis.center))
    mean = _shaped("mean", mean, (k,))
    if chol is None:
        chol = np.diag(basis.scale / np.abs(priors.at(mean).first))
    chol = _shaped("chol", chol, (k, k))
    return np.column_stack([basis.center, basis.scale, mean, np.tril(chol)])


def compressed_term(
    basis: PolynomialBasis, labels: Any, place: Any, given: Mapping[str, Any]
) -> Any:
    """Log likelihood ``b.v - v'A v / 2`` of labels, as one operation with its gradient.

    Parameters
    ----------
    basis
        Gives the recurrence of the features.
    labels
        In physical units, shape (n_labels,).
    place
        See `coordinates`.
    given
        ``A`` (n_terms, n_terms) and ``b`` (n_terms,).
    """
    parent, factor = basis.recurrence
    outputs: Any = CompressedLogLikelihood()(labels, given["A"], given["b"], place, parent, factor)
    return outputs[0]


LikelihoodTerm = Callable[[PolynomialBasis, Any, Any, Mapping[str, Any]], Any]
"""Log likelihood as a PyTensor scalar: a function of basis, labels, coordinates and data."""


def build_label_model(
    basis: PolynomialBasis,
    priors: LabelPriors | None = None,
    *,
    A: FloatArray | None = None,
    b: FloatArray | None = None,
    mean: FloatArray | None = None,
    chol: FloatArray | None = None,
    term: LikelihoodTerm | None = None,
    data: Mapping[str, FloatArray] | None = None,
) -> pm.Model:
    """Build the label model of one star, with the compressed likelihood or one of your own.

    What belongs to a star is ``pm.Data`` (``A``, ``b``, ``coordinates``): the model is compiled
    once and the data swapped.

    Parameters
    ----------
    basis
        Labels, scaling and terms.
    priors
        Of the labels; None: the uniform defaults.
    A, b
        Compressed spectrum, shapes (n_terms, n_terms) and (n_terms,); None: no data.
    mean, chol
        Whitening, see `coordinates`.
    term, data
        Another likelihood in place of A and b: its `Likelihood.term`, and the arrays that it takes
        of the star, by name (see `bayes_cannon.inference.likelihood.kinds`).

    Raises
    ------
    LabelError
        If the priors are not those of the basis' labels.
    InvalidDataError
        If an array has another shape, or two likelihoods are given.
    """
    priors = _checked(basis, priors)
    if (term is None) != (data is None) or (term is not None and not (A is None and b is None)):
        raise InvalidDataError("give A and b, or term and data of another likelihood.")
    if term is None or data is None:
        t = basis.n_terms
        term = compressed_term
        data = {
            "A": _shaped("A", np.zeros((t, t)) if A is None else A, (t, t)),
            "b": _shaped("b", np.zeros(t) if b is None else b, (t,)),
        }
    with pm.Model(coords={"label_name": list(basis.names)}, check_bounds=False) as model:
        place = pm.Data("coordinates", coordinates(basis, priors, mean, chol))
        labels = _labels(priors, place)
        given = {name: pm.Data(name, np.asarray(a, np.float64)) for name, a in data.items()}
        pm.Potential("log_likelihood", term(basis, labels, place, given))
    return model


def _checked(basis: PolynomialBasis, priors: LabelPriors | None) -> LabelPriors:
    if priors is None:
        return LabelPriors.for_labels(basis.names)
    return LabelPriors.for_labels(basis.names, dict(zip(priors.names, priors.priors, strict=True)))


def _shaped(name: str, array: Any, shape: tuple[int, ...]) -> FloatArray:
    values: FloatArray = np.asarray(array, dtype=np.float64)
    if values.shape != shape:
        raise InvalidDataError(f"{name} has shape {values.shape}, expected {shape}.")
    return values


def _plain_priors(priors: LabelPriors) -> Any:
    """One PyMC distribution per label, stacked; PyMC's own transforms."""
    variables = []
    for name, p in zip(priors.names, priors.priors, strict=True):
        if p.is_uniform:
            variables.append(pm.Uniform(name, p.lower, p.upper))
        elif np.isinf(p.lower) and np.isinf(p.upper):
            variables.append(pm.Normal(name, p.mean, p.sd))
        else:
            lower, upper = (None if np.isinf(x) else x for x in (p.lower, p.upper))
            variables.append(pm.TruncatedNormal(name, p.mean, p.sd, lower=lower, upper=upper))
    return pt.stack(variables)


def build_plain_model(
    basis: PolynomialBasis, priors: LabelPriors, A: FloatArray, b: FloatArray
) -> pm.Model:
    """Build the label model from PyMC's own parts: no fused operations, no whitening.

    One scalar variable per label, the polynomial by `PolynomialBasis.symbolic`. The definition
    against which `build_label_model` is tested.

    Parameters
    ----------
    basis, priors
        Labels with their scaling, and their priors.
    A, b
        Compressed spectrum, shapes (n_terms, n_terms) and (n_terms,).

    Raises
    ------
    LabelError
        If the priors are not those of the basis' labels.
    """
    priors = _checked(basis, priors)
    with pm.Model(coords={"label_name": list(basis.names)}) as model:
        labels = pm.Deterministic("labels", _plain_priors(priors), dims="label_name")
        v = basis.symbolic((labels - basis.center) / basis.scale)
        pm.Potential("log_likelihood", pt.dot(b, v) - 0.5 * pt.dot(v, pt.dot(A, v)))
    return model


def build_full_pixel_model(
    cannon: Cannon,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    priors: LabelPriors | None = None,
    *,
    extra_variance: FloatArray | None = None,
) -> pm.Model:
    """Build the label model of one star with every pixel in it.

    Without factors the likelihood is a Normal per pixel; with factors they are free variables
    ``z ~ N(0, 1)``, dim ``factor``, and amplitudes of known terms ``a ~ N(0, 1)`` in units of their
    scales, dim ``term_column``, of templates that follow the labels.

    Parameters
    ----------
    cannon
        The trained model.
    flux, ivar
        Normalised flux and inverse variance of one star, shape (n_pixels,); ivar 0: not used.
    priors
        Of the labels; None: the uniform defaults.
    extra_variance
        Variance besides photon noise, shape (n_pixels,); None: the intrinsic scatter's.

    Raises
    ------
    InvalidDataError
        If the arrays do not have one entry per pixel, or no pixel is usable.
    """
    basis = cannon.basis
    priors = _checked(basis, priors)
    shape = cannon.used.shape
    flux, ivar = _shaped("flux", flux, shape), _shaped("ivar", ivar, shape)
    extra = cannon.scatter**2 if extra_variance is None else extra_variance
    extra = _shaped("extra_variance", extra, shape)
    good = cannon.used & (ivar > 0)
    if not good.any():
        raise InvalidDataError("the spectrum has no pixel that the trained model can use.")
    # With the variance fixed, dividing the log likelihood by kappa is widening every pixel.
    kappa = cannon.independent_pixels.kappa(np.where(good, ivar, 0.0)[None])[0, good]
    sigma = np.sqrt(kappa * (1 / ivar[good] + extra[good]))
    coords = {"label_name": list(basis.names), "pixel": np.nonzero(good)[0]}
    n_factors = cannon.loadings.shape[1]
    if n_factors:
        coords["factor"] = np.arange(n_factors)
    terms, templates = cannon.known_terms, None
    if terms is not None:
        coords["term_column"] = np.arange(len(terms.columns))
        templates = terms.templates(cannon.theta, cannon.used)
    with pm.Model(coords=coords) as model:
        labels = pm.Deterministic("labels", _plain_priors(priors), dims="label_name")
        v = basis.symbolic((labels - basis.center) / basis.scale)
        mean = pt.dot(cannon.theta[good].astype(np.float64), v)
        if n_factors:
            z = pm.Normal("z", 0.0, 1.0, dims="factor")
            mean = mean + pt.dot(cannon.loadings[good].astype(np.float64), z)
        if templates is not None:
            a = pm.Normal("a", 0.0, 1.0, dims="term_column")
            for c, matrix in enumerate(templates.matrices()):
                mean = mean + a[c] * (pt.dot(matrix[0][good], v) + matrix[1][good])
        pm.Normal("flux", mean, sigma, observed=flux[good], dims="pixel")
    return model
