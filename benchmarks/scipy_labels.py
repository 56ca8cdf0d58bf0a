"""Labels of one star by SciPy's `curve_fit`, as other Cannons do it: the yardstick of inference."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit


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
