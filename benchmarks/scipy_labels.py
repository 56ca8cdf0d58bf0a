"""Labels by SciPy, as other Cannons find them: the yardsticks of inference."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit, least_squares

from bayes_cannon.models.basis import PolynomialBasis


def fit_labels(cannon, flux, ivar, *, exact):
    """Best labels and their formal errors, both (n_labels,); NaN where the search fails.

    Factors are left out; the standardised labels are fitted from zero, with derivatives by
    differences or `exact` ones.
    """
    good = cannon.used & (ivar > 0)
    theta, basis = cannon.theta[good], cannon.basis
    sigma = np.sqrt(1 / ivar[good].astype(float) + cannon.scatter[good] ** 2)

    def predict(_, *ell):
        return theta @ basis.features(np.array(ell)[None])[0]

    def jacobian(_, *ell):
        return theta @ basis.jacobian(np.array(ell)[None])[0]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            ell, cov = curve_fit(
                predict, np.zeros(good.sum()), flux[good].astype(float),
                p0=np.zeros(basis.n_labels), sigma=sigma, absolute_sigma=True, method="trf",
                jac=jacobian if exact else "2-point",
            )  # fmt: skip
    except RuntimeError:
        return np.full((2, basis.n_labels), np.nan)
    return basis.unstandardize(ell[None])[0], np.sqrt(np.diag(cov)) * basis.scale


def fit_quadratic(stars, spectra):
    """Labels (n_stars, n_labels) of `spectra` by the plain quadratic model of `stars`.

    Weighted least squares pixel by pixel, then SciPy's `least_squares` from the mean of the
    training labels; the quoted errors are the only ones, and independent.
    """
    basis = PolynomialBasis.from_labels(stars.labels, 2)
    x, train = basis(stars.labels.values), stars.spectra
    weight = np.sqrt(train.ivar.astype(float))
    theta = np.stack(
        [
            np.linalg.lstsq(x * w[:, None], f.astype(float) * w, rcond=None)[0]
            for f, w in zip(train.flux.T, weight.T, strict=True)
        ]
    )
    found = np.empty((len(spectra), basis.n_labels))
    for i, (flux, ivar) in enumerate(zip(spectra.flux, spectra.ivar, strict=True)):
        w = np.sqrt(ivar.astype(float))
        fit = least_squares(
            lambda ell, f=flux, w=w: (f - theta @ basis.features(ell[None])[0]) * w,
            np.zeros(basis.n_labels),
            jac=lambda ell, w=w: -(theta @ basis.jacobian(ell[None])[0]) * w[:, None],
            method="lm", max_nfev=200,
        )  # fmt: skip
        found[i] = basis.unstandardize(fit.x[None])[0]
    return found
