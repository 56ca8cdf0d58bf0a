r"""Model error: what is wrong with the labels beyond their formal errors.

Cross-validation gives, for every training star, predicted minus catalogue labels d (standardised).
They are split into what is known and what is not:

    d[n] = bias(ell[n]) + e[n] + formal noise + catalogue noise ,
    e[n] ~ N(0, a[n]**2 Sigma / u[n]) ,        u[n] ~ Gamma(nu / 2, nu / 2) ,
    a[n] = ((1 + m[n]**2 / k) / typical)**(growth / 2) ,
    bias(ell) = quadratic polynomial of the k predicted labels, coefficients shrunk to zero .

The model error e is a multivariate Student t: its covariance is full and its tails are heavy. It
grows with the Mahalanobis distance m from the mean of the training labels, for a quadratic is worst
at the edges. The bias is what the same deficiency leaves on average. On synthetic giants (300
training stars, 6 factors, two splits) it takes 0 to 14 % off the rms error of held-out stars, label
by label.

The bias is that of a training star with the same predicted labels; beyond the training labels it
stays what it is at their edge.

A fold's model has fewer stars than the final one, and the model error, once the formal one is
taken off, falls about as their number to the power 0.4 (synthetic giants, 240 against 300 stars:
0.3 with 6 factors, 0.5 with 30), so that e is multiplied by (1 - 1 / folds)**0.4 in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayes_cannon.model_error_op import NormalsLogLikelihood

__all__ = ["Differences", "build_model_error_model", "correlation_factor", "model_data"]

FloatArray = NDArray[np.float64]
_LKJ_ETA = 2.0


@dataclass(frozen=True, eq=False)
class Differences:
    """Data of the model error, in units of the robust spread of the differences.

    Attributes
    ----------
    names : tuple of str
    star_id : (n_stars,) str
    difference : (n_stars, n_labels) float64
        Predicted minus catalogue.
    known_cov : (n_stars, n_labels, n_labels) float64
        Formal covariance plus squared catalogue errors.
    features : (n_stars, n_features) float64
        What the bias depends on: uncorrelated, of mean 0 and variance 1.
    degree : (n_features,) int64
        Of each feature, 1 or 2.
    log_growth : (n_stars,) float64
        Logarithm of a for growth = 1.
    """

    names: tuple[str, ...]
    star_id: NDArray[np.str_]
    difference: FloatArray
    known_cov: FloatArray
    features: FloatArray
    degree: NDArray[np.int64]
    log_growth: FloatArray


def model_data(data: Differences) -> dict[str, FloatArray]:
    """Values of the model's `pm.Data`, by name; the features only where there are some."""
    names = ("difference", "known_cov", "log_growth", *(["features"] if data.degree.size else []))
    return {name: np.asarray(getattr(data, name), dtype=np.float64) for name in names}


def build_model_error_model(data: Differences) -> pm.Model:
    """Build the model of the differences.

    Variables: ``bias`` (label_name), ``bias_raw`` (feature, label_name) times ``bias_scale``
    (degree), ``sd`` (label_name), ``factor_diagonal`` (label_name) and ``factor_lower`` (pair) of
    `correlation_factor`, ``growth``, ``nu_excess`` (nu - 2) and
    ``scaled_log_u`` (star), log u times sqrt(nu / 2). The data are the `pm.Data` of `model_data`,
    so that a compiled model serves every survey of as many stars, labels and features.
    """
    k = len(data.names)
    degrees = np.unique(data.degree)
    coords = {
        "label_name": list(data.names),
        "pair": np.arange(k * (k - 1) // 2),
        "star": data.star_id,
        "feature": np.arange(data.degree.size),
        "degree": degrees,
    }
    with pm.Model(coords=coords, check_bounds=False) as model:
        given: Any = {name: pm.Data(name, value) for name, value in model_data(data).items()}
        bias: Any = pm.Normal("bias", 0.0, 1.0, dims="label_name")
        mean = bias[None, :]
        if degrees.size:
            scale = pm.HalfNormal("bias_scale", 0.3, dims="degree")
            raw = pm.Normal("bias_raw", 0.0, 1.0, dims=("feature", "label_name"))
            place = np.searchsorted(degrees, data.degree)
            mean = mean + pt.dot(given["features"] * scale[place], raw)
        sd: Any = pm.HalfNormal("sd", 1.0, dims="label_name")
        freedom = 2 * _LKJ_ETA + k - 1 - np.arange(k)
        diagonal: Any = pm.Gamma("factor_diagonal", 0.5 * freedom, 0.5, dims="label_name")
        lower: Any = pm.Normal("factor_lower", 0.0, 1.0, dims="pair")
        growth = pm.Normal("growth", 0.0, 1.0)
        nu = 2.0 + pm.Gamma("nu_excess", 2.0, 0.2)
        # u ~ Gamma(nu/2, nu/2), sampled as log u in units of its spread: NUTS mixes nu four times
        # better than with u itself.
        half = 0.5 * nu
        log_u = pm.Flat("scaled_log_u", dims="star") / pt.sqrt(half)
        normal = data.star_id.size * ((half - 0.5) * pt.log(half) - pt.gammaln(half))
        pm.Potential("u_prior", normal + half * pt.sum(log_u - pt.exp(log_u)))
        factor = sd[:, None] * correlation_factor(diagonal, lower, k)
        outputs: Any = NormalsLogLikelihood()(
            given["difference"] - mean, given["known_cov"], pt.dot(factor, factor.T),
            growth * given["log_growth"] - 0.5 * log_u,
        )  # fmt: skip
        pm.Potential("log_likelihood", outputs[0])
    return model


def correlation_factor(diagonal: Any, lower: Any, k: int) -> Any:
    """Triangular factor of a correlation matrix that is distributed as LKJ(2).

    By Bartlett's decomposition a triangle with diagonal squared ~ chi-square(df - i) and N(0, 1)
    below is the factor of a Wishart matrix of df degrees of freedom, whose correlations are
    LKJ((df - k + 1) / 2); rows of length 1 leave the correlations.
    """
    triangle = pt.diag(pt.sqrt(diagonal))
    if k > 1:
        triangle = pt.set_subtensor(triangle[np.tril_indices(k, -1)], lower)
    return triangle / pt.sqrt(pt.sum(triangle**2, axis=1, keepdims=True))
