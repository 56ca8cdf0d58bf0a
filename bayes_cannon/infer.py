"""Posterior of the labels of every star: from spectra to draws with their checks.

`infer_blocks` maps `sample_block`, a pure function, over blocks of stars and finishes each with its
flags and calibrated posteriors; `infer_labels` joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import xarray as xr

from bayes_cannon.compression import PixelModel
from bayes_cannon.errors import InvalidDataError, LabelError, NoStarsError
from bayes_cannon.finishing import Finishing, finish_block
from bayes_cannon.inference_settings import InferenceSettings
from bayes_cannon.posterior_tree import join_blocks
from bayes_cannon.priors import LabelPrior, LabelPriors
from bayes_cannon.spectra import NormalizedSpectra, same_grid
from bayes_cannon.star_block import sample_block

if TYPE_CHECKING:
    from bayes_cannon.cannon import Cannon

__all__ = [
    "Finishing",
    "InferenceSettings",
    "finish_block",
    "infer_blocks",
    "infer_labels",
    "join_blocks",
    "sample_block",
]

Progress = Callable[[int, int], None]


def infer_labels(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    *,
    settings: InferenceSettings | None = None,
    priors: Mapping[str, LabelPrior] | LabelPriors | None = None,
    seed: int,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Posterior of the labels of every star.

    Parameters
    ----------
    cannon
        The trained model.
    spectra
        Normalised on the trained model's pixels.
    settings
        See `InferenceSettings`.
    priors
        Priors by label, in place of the uniform defaults.
    seed
        Together with a star's id it fixes the star's draws.
    progress
        Called with the number of stars done and of all stars.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior`` (one variable per label, dims chain, draw, star, physical units),
        ``sample_stats`` (same dims), ``star_stats`` (one row a star, with ``label_flag``, see
        `label_flags`), ``constant_data`` and, where the model error is known,
        ``calibrated_posterior`` (as ``posterior``, see `calibration`).

    Raises
    ------
    NoStarsError
        If there is no star.
    InvalidDataError
        If the spectra are not on the trained model's pixels.
    """
    blocks = infer_blocks(
        cannon, spectra, settings=settings, priors=priors, seed=seed, progress=progress
    )
    return join_blocks(list(blocks))


def infer_blocks(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    *,
    settings: InferenceSettings | None = None,
    priors: Mapping[str, LabelPrior] | LabelPriors | None = None,
    seed: int,
    progress: Progress | None = None,
) -> Iterator[xr.DataTree]:
    """As `infer_labels`, one DataTree per block of stars, as they finish."""
    settings = settings or InferenceSettings()
    if spectra.n_stars == 0:
        raise NoStarsError("there is no spectrum to infer labels from.")
    cannon.require_medium(spectra)
    if not same_grid(cannon.wavelength, spectra.wavelength):
        raise InvalidDataError(
            f"the spectra ({spectra.n_pixels} pixels) are not on the wavelengths of the trained "
            f"model ({cannon.wavelength.size} pixels); prepare them as its training set was."
        )
    if not isinstance(priors, LabelPriors):
        priors = LabelPriors.for_labels(cannon.basis.names, priors)
    _check_priors(cannon, priors)
    pixels = PixelModel.from_cannon(
        cannon, coefficient_uncertainty=settings.coefficient_uncertainty
    )
    finishing = Finishing.from_cannon(cannon, seed=seed, simulated=spectra.simulated)
    tell = progress or (lambda done, total: None)
    tell(0, spectra.n_stars)
    for start in range(0, spectra.n_stars, settings.block_size):
        rows = slice(start, start + settings.block_size)
        done = start

        def step(count: int, done: int = done) -> None:
            tell(done + count, spectra.n_stars)

        block = sample_block(
            pixels, spectra.flux[rows], spectra.ivar[rows], spectra.star_id[rows],
            priors=priors, settings=settings, seed=seed, progress=step,
        )  # fmt: skip
        yield finish_block(block, finishing)


def _check_priors(cannon: Cannon, priors: LabelPriors) -> None:
    """Refuse priors that leave out the training stars (an age in Gyr under -2 to 2, say)."""
    center = cannon.basis.center
    outside = (center <= priors.lower) | (center >= priors.upper)
    if outside.any():
        names = [n for n, o in zip(cannon.basis.names, outside, strict=True) if o]
        raise LabelError(
            f"the prior of {', '.join(names)} leaves out the mean of the training labels; "
            "give a prior that fits (priors={...}, or --priors FILE)."
        )
