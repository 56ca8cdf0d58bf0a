"""Groups of ArviZ that have pixels, of one star: what is seen, predicted, and its likelihood.

Inference integrates the nuisance factors out and compresses the pixels, so that its posterior has
no likelihood of each pixel. Here factors are drawn for draws of the labels, from

    z | ell, flux ~ N(M^-1 U' W r, M^-1) ,   M = 1 + U' W U ,   r = flux - Theta v(ell) ,

with the weights ``W`` of `bayes_cannon.inference.likelihood.compression`. Given labels and factors,
the pixels of the model are independent, and

    log p(flux_p | ell, z) = log N(flux_p; Theta_p v(ell) + U_p z, D_p) / kappa_p .

The sum over pixels, with the prior and the posterior of z, is the likelihood that was sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.random import SeedSequence
from numpy.typing import NDArray

from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import (
    GivenModel,
    GivenResult,
    as_any_spectra,
    as_model,
    as_result,
)
from bayes_cannon.inference.likelihood.pixels import LOG_2PI, PixelModel, extra_variance
from bayes_cannon.inference.posterior import draws_of, posterior_names
from bayes_cannon.inference.sampler import star_seed
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import row_of

__all__ = [
    "pixel_groups",
]

_ROUNDS = 3
"""Times that the variance is taken at the factors that it leads to."""
_BLOCK = 64
"""Draws of which the variance is taken at a time."""


def pixel_groups(
    result: GivenResult,
    spectra: Any,
    star: str,
    *,
    cannon: GivenModel | None = None,
    n_draws: int = 400,
    coefficient_uncertainty: bool = True,
    seed: int | None = None,
) -> xr.DataTree:
    """Posterior of one star with the groups of ArviZ that have pixels.

    Parameters
    ----------
    result
        A run, or what `infer_labels` returned; with draws.
    spectra
        Normalised spectra that hold the star's, or a training set.
    star
        Name of the star.
    cannon
        The trained model; left out, the run's.
    n_draws
        About how many draws of the labels are taken, evenly spaced in each chain.
    coefficient_uncertainty
        As in the inference.
    seed
        Of the draws of factors and predicted spectra; None takes a fresh one, which is in the
        attributes of ``posterior``.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior`` (the formal one: labels and ``factors``, dims chain, draw[, factor]),
        ``prior`` (of the labels, same dims), ``log_likelihood`` and ``posterior_predictive``
        (``flux``, dims chain, draw, pixel), ``observed_data`` (``flux``, dim pixel) and
        ``constant_data`` (``error``, the photon noise, and ``kappa``), of the pixels that are good
        and used, with the coordinate ``wavelength``.
        Log likelihoods are divided by kappa as in the inference; predicted pixels have their full
        scatter, drawn independently.

    Raises
    ------
    InvalidDataError
        If there are to be no draws, the star is not there or has no posterior, moments alone were
        kept, the spectra are not on the model's pixels, or another likelihood than ``gaussian``
        was sampled.
    """
    if n_draws < 1:
        raise InvalidDataError(f"n_draws must be at least 1, not {n_draws}.")
    model = as_model(result if cannon is None else cannon)
    tree = as_result(result)
    kind = str(tree["posterior"].attrs.get("likelihood", "gaussian"))
    if kind != "gaussian":
        raise InvalidDataError(f"the likelihood {kind!r} has no groups of pixels, gaussian has.")
    group, names = draws_of(tree, "posterior"), posterior_names(tree)
    one = group.isel(star=row_of(group["star"].values.astype(np.str_), star), drop=True)
    each = max(1, -(-n_draws // one.sizes["chain"]))
    if each < one.sizes["draw"]:
        one = one.isel(draw=np.linspace(0, one.sizes["draw"] - 1, each).round().astype(int))
    labels = np.stack([one[n].transpose("chain", "draw").values for n in names], -1)
    if not np.isfinite(labels).all():
        raise InvalidDataError(f"star {star} has no posterior: its inference failed, see its flag.")
    mine = as_any_spectra(spectra).select([star]).in_memory()
    pixels = PixelModel.from_cannon(model, coefficient_uncertainty=coefficient_uncertainty)
    seed = as_seed(seed)
    found = _Drawn.of(pixels, mine, labels.astype(np.float64), star_seed(seed, star))
    one = one.assign_attrs(seed=seed)
    return _tree(one, found, model.wavelength[pixels.used][found.good], tree)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What is drawn of one star, (n_chains, n_draws, ...), of its good pixels.

    Attributes
    ----------
    good : (n_used_pixels,) bool
    flux, error, kappa : (n_pixels,) float64
    factors : (n_chains, n_draws, n_hidden) float64
    log_likelihood, predicted : (n_chains, n_draws, n_pixels) float32
    """

    good: NDArray[np.bool_]
    flux: FloatArray
    error: FloatArray
    kappa: FloatArray
    factors: FloatArray
    log_likelihood: NDArray[np.float32]
    predicted: NDArray[np.float32]

    @classmethod
    def of(
        cls, pixels: PixelModel, spectra: NormalizedSpectra, labels: FloatArray, seed: SeedSequence
    ) -> _Drawn:
        """Draw for labels of shape (n_chains, n_draws, n_labels)."""
        rng = np.random.default_rng(seed)
        flux, ivar = (pixels.take(a)[0] for a in (spectra.flux, spectra.ivar))
        good = ivar > 0
        k, j = pixels.n_terms, pixels.n_factors
        flat = labels.reshape(-1, labels.shape[-1])
        v = pixels.basis.features(pixels.basis.standardize(flat))
        center = v.mean(axis=0, keepdims=True)
        loadings = pixels.coef[:, k:]
        if pixels.templates is not None:
            loadings = np.concatenate([loadings, pixels.templates.scaled(center)[0].T], axis=1)
        power = pixels.power(ivar[None])
        kappa = np.ones(pixels.n_pixels) if power is None else 1 / power[0]
        U, y, photon, kappa = loadings[good], flux[good], 1 / ivar[good], kappa[good]
        theta = pixels.coef[good, :k]
        mean, z = np.zeros(U.shape[1]), np.zeros((len(v), U.shape[1]))
        for _ in range(_ROUNDS):  # the variance is that at the mean of the factors
            x = np.concatenate([center, mean[None, :j]], axis=1)
            w = 1 / (photon + extra_variance(pixels, x)[0, good]) / kappa
            M = np.eye(U.shape[1]) + U.T @ (w[:, None] * U)
            mean = np.linalg.solve(M, U.T @ (w * (y - theta @ center[0])))
        x = np.concatenate([v, np.tile(mean[:j], (len(v), 1))], axis=1)
        parts = np.array_split(x, -(-len(x) // _BLOCK))
        extra = np.concatenate([extra_variance(pixels, part)[:, good] for part in parts])
        variance = photon + extra
        for i in range(len(v)):
            w = 1 / variance[i] / kappa
            root = np.linalg.cholesky(np.eye(U.shape[1]) + U.T @ (w[:, None] * U))
            half = np.linalg.solve(root, U.T @ (w * (y - theta @ v[i])))
            z[i] = np.linalg.solve(root.T, half + rng.standard_normal(half.size))
        model = v @ theta.T + z @ U.T
        logp = -0.5 * ((y - model) ** 2 / variance + np.log(variance) + LOG_2PI) / kappa
        predicted = model + np.sqrt(variance) * rng.standard_normal(model.shape)
        c, d = labels.shape[:2]
        return cls(
            good, y, np.sqrt(photon), kappa, z.reshape(c, d, -1),
            logp.reshape(c, d, -1).astype(np.float32),
            predicted.reshape(c, d, -1).astype(np.float32),
        )  # fmt: skip


def _tree(
    posterior: xr.Dataset, found: _Drawn, wavelength: FloatArray, result: xr.DataTree
) -> xr.DataTree:
    """Groups of a star."""
    sample, attrs = ("chain", "draw"), dict(posterior.attrs)
    coords: dict[str, Any] = {
        "pixel": np.arange(wavelength.size),
        "wavelength": ("pixel", wavelength, {"units": "Angstrom"}),
    }
    draws = {"chain": posterior["chain"], "draw": posterior["draw"]}

    def group(dims: tuple[str, ...], **arrays: Any) -> xr.Dataset:
        of_draws = draws if "draw" in dims else {}
        variables = {name: (dims, array) for name, array in arrays.items()}
        return xr.Dataset(variables, {**coords, **of_draws}, attrs)

    there = (*sample, "pixel")
    prior = _prior(result, posterior.sizes["chain"] * posterior.sizes["draw"])
    shape = posterior.sizes["chain"], posterior.sizes["draw"]
    of_prior = {name: (sample, draw.reshape(shape)) for name, draw in prior.items()}
    groups = {
        "prior": xr.Dataset(of_prior, draws, attrs),
        "posterior": posterior.assign(factors=((*sample, "factor"), found.factors)),
        "log_likelihood": group(there, flux=found.log_likelihood),
        "posterior_predictive": group(there, flux=found.predicted),
        "observed_data": group(("pixel",), flux=found.flux),
        "constant_data": group(("pixel",), error=found.error, kappa=found.kappa),
    }
    return xr.DataTree.from_dict(groups)


def _prior(result: xr.DataTree, n: int) -> dict[str, FloatArray]:
    """Draws (n,) of the priors of the labels, which a result notes; empty where it does not."""
    if "constant_data" not in result.children:
        return {}
    noted = result["constant_data"].to_dataset()
    names = tuple(map(str, noted["label_name"].values))
    numbers = (noted[f"prior_{key}"].values for key in ("lower", "upper", "mean", "sd"))
    priors = LabelPriors(names, tuple(LabelPrior(*p) for p in zip(*numbers, strict=True)))
    return dict(zip(names, priors.sample(n, np.random.default_rng(n)).T, strict=True))
