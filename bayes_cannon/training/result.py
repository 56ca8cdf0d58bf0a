"""From a fit to a frozen `Cannon`, with a record of how it was made."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.resources import software_versions
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_moments import safe_inverse
from bayes_cannon.training.effective_pixels import EffectivePixels
from bayes_cannon.training.map_fit import MapFit
from bayes_cannon.training.pixels.columns import pixel_blocks, survey_arrays
from bayes_cannon.training.settings import TrainingSettings, Windows

if TYPE_CHECKING:
    from bayes_cannon.spectra.dataset import TrainingSet


_log = logging.getLogger(__name__)


def record_of(
    stars: TrainingSet,
    settings: TrainingSettings,
    n_factors: int,
    windows: Windows | None,
    seed: int,
    *,
    converged: bool,
) -> dict[str, dict[str, object]]:
    """Describe how a model was made: data, settings and versions of the software.

    Parameters
    ----------
    stars, settings, n_factors, windows, seed
        What was trained on, and how.
    converged
        Whether the fit did.
    """
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


def uninformative_labels(cannon: Cannon, ivar: Any) -> list[str]:
    """Labels of which a typical spectrum says less than that the star is like a training star.

    Their formal error at the mean of the training labels, factors integrated out, is larger than
    the spread of the training labels.

    Parameters
    ----------
    cannon
        The trained model.
    ivar
        Of the training stars, shape (n_stars, n_pixels).
    """
    used = np.flatnonzero(cannon.used)
    if used.size == 0:
        return list(cannon.names)
    typical = np.empty(used.size)
    for block in pixel_blocks(len(ivar), used.size):
        some = np.asarray(ivar[:, used[block]])
        good = np.ma.masked_less_equal(some.astype(np.float64), 0)  # most may be bad
        typical[block] = np.ma.filled(np.ma.median(good, axis=0), 0.0) * (some > 0).mean(axis=0)
    weight = typical / (1 + typical * cannon.scatter[used] ** 2)
    slopes = cannon.theta[used] @ cannon.basis.jacobian(np.zeros(cannon.basis.n_labels))
    both = np.concatenate([slopes, cannon.loadings[used]], axis=1)
    prior = np.repeat([1e-12, 1.0], [cannon.basis.n_labels, cannon.n_factors])
    cov = safe_inverse(both.T @ (weight[:, None] * both) + np.diag(prior))
    error = np.sqrt(np.diag(cov)[: cannon.basis.n_labels])
    found = [name for name, sd in zip(cannon.names, error, strict=True) if sd > 1]
    if found:
        _log.warning(
            "spectra of typical quality say little about %s: the formal error is larger than the "
            "spread of the training labels. Look at the labels and their errors, or leave %s out.",
            ", ".join(found), "it" if len(found) == 1 else "them",
        )  # fmt: skip
    return found


def pixels_left_out(
    wavelength: FloatArray, good: NDArray[np.int64], needed: int, fitted: NDArray[np.bool_]
) -> dict[str, int]:
    """Count the pixels that inference will not use, by the reason; says which on the log.

    Parameters
    ----------
    wavelength
        Shape (n_pixels,), Å.
    good
        Training stars with a good value, shape (n_pixels,).
    needed
        How many are needed.
    fitted
        Where the coefficients could be worked out, shape (n_pixels,).
    """
    reasons = {
        "no good value in any training star": good == 0,
        f"good values in fewer than {count_text(needed, 'training star')}": (good > 0)
        & (good < needed),
        "fluxes or errors too extreme for their coefficients to be worked out": (good >= needed)
        & ~fitted,
    }
    for reason, where in reasons.items():
        if where.any():
            _log.warning(
                "%d of %d pixels (%s Å) are left out: %s.",
                where.sum(), where.size, _ranges(wavelength, where), reason,
            )  # fmt: skip
    return {reason: int(where.sum()) for reason, where in reasons.items() if where.any()}


def _ranges(wavelength: FloatArray, where: NDArray[np.bool_], limit: int = 3) -> str:
    """First few runs of pixels in words, such as ``15100.2, 15150.0-15160.3, …``."""
    edges = np.flatnonzero(np.diff(np.r_[0, where.astype(np.int8), 0]))
    runs = list(zip(edges[::2], edges[1::2] - 1, strict=True))
    shown = [
        f"{wavelength[a]:.1f}" if a == b else f"{wavelength[a]:.1f}-{wavelength[b]:.1f}"
        for a, b in runs[:limit]
    ]
    return ", ".join(shown) + (", …" if len(runs) > limit else "")


def freeze_fit(
    stars: TrainingSet,
    basis: PolynomialBasis,
    fit: MapFit,
    held_out: NDArray[np.str_],
    history: dict[str, FloatArray],
    record: dict[str, dict[str, object]],
) -> Cannon:
    """Return the fit as a `Cannon`; pixels that too few stars have are not `used`.

    Parameters
    ----------
    stars, basis, fit
        Training set, terms, and the fit to them.
    held_out
        Ids of stars kept for testing, shape (n,).
    history, record
        How the fit went, and how it was made; see `Cannon`.
    """
    spectra = stars.spectra
    theta = fit.mean[:, : basis.n_terms].copy()
    theta[:, 0] += 1.0
    good = np.zeros(spectra.n_pixels, dtype=np.int64)
    ivar = survey_arrays(spectra)[1]
    for block in pixel_blocks(*ivar.shape):
        good[block] = (np.asarray(ivar[:, block]) > 0).sum(axis=0)
    needed = max(3, min(2 * basis.n_terms, len(spectra) // 2))
    used = (good >= needed) & fit.fitted
    record["training"]["pixels_left_out"] = pixels_left_out(
        spectra.wavelength, good, needed, fit.fitted
    )
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
        used=used,
        hyper=fit.hyper,
        training=stars.labels,
        held_out=held_out,
        factors=factors,
        history=history,
        settings=record,
        simulated=spectra.simulated,
        medium=spectra.medium,
        terms=() if fit.terms is None else fit.terms.names,
        term_scale=np.zeros(0) if fit.terms is None else fit.terms.scale,
    )


def with_effective_pixels(cannon: Cannon, found: EffectivePixels, folds: int) -> Cannon:
    """Return the model with the effective number of pixels, recorded.

    Parameters
    ----------
    cannon
        Of all stars.
    found
        By cross-validation.
    folds
        Of the cross-validation.
    """
    kappa = found.of_final_model(folds)
    _log.info(
        "pixels per independent one: %s by chip where scatter rules, %s where noise does",
        ", ".join(f"{x:.1f}" for x in kappa),
        ", ".join(f"{x:.1f}" for x in found.noise),
    )
    record = {
        "kappa": kappa.tolist(),
        "noise": found.noise.tolist(),
        "of_folds": found.kappa.tolist(),
        "log_sd": found.log_sd,
        "from_residuals": found.from_residuals.tolist(),
        "multiplier": found.multiplier,
    }
    training = {**cannon.settings["training"], "effective_pixels": record}
    return replace(
        cannon, kappa=kappa, kappa_noise=found.noise, kappa_log_sd=found.log_sd,
        settings={**cannon.settings, "training": training},
    )  # fmt: skip
