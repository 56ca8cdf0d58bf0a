"""Posterior of the labels of every star: from spectra to draws with their checks.

`infer_blocks` maps `sample_block`, a pure function, over blocks of stars and finishes each with its
flags and calibrated posteriors; `infer_labels` joins them.

What turns the draws of a block of stars into a result: flags and calibrated posteriors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.parallel import StopSign, as_executor, in_order
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.typing import AnyArray
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError, NoStarsError
from bayes_cannon.inference.arguments import GivenModel, as_model, as_spectra
from bayes_cannon.inference.block import sample_block
from bayes_cannon.inference.calibrated import ErrorModel, calibrated_posterior
from bayes_cannon.inference.checks import StarStatus
from bayes_cannon.inference.flags import LabelFlag, LabelReference, add_flags, add_notes
from bayes_cannon.inference.likelihood.kinds import GAUSSIAN, likelihood_of
from bayes_cannon.inference.likelihood.pixels import PixelModel, pixels_needed
from bayes_cannon.inference.results import join_blocks
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.models.model_priors import GivenPriors, priors_of
from bayes_cannon.spectra.dataset import catalogue_name
from bayes_cannon.spectra.spectra import NormalizedSpectra, name_some, require_medium, same_grid
from bayes_cannon.spectra.star_ids import DEFAULT_ID
from bayes_cannon.surveys.reductions import NOTE, reductions_of_settings, reductions_text

__all__ = [
    "Finishing",
    "finish_block",
    "infer_blocks",
    "infer_labels",
    "warn_of_undone",
]


def infer_labels(
    cannon: GivenModel,
    spectra: Any,
    *,
    settings: InferenceSettings | None = None,
    priors: GivenPriors = None,
    seed: int | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> xr.DataTree:
    """Posterior of the labels of every star.

    Parameters
    ----------
    cannon
        The trained model, the path of its file, or a run, whose model is taken.
    spectra
        `NormalizedSpectra` on the trained model's pixels, or a `TrainingSet` of such.
    settings
        See `InferenceSettings`.
    priors
        Priors by label, in place of the uniform defaults: a `LabelPrior`, or a pair (lower, upper)
        of a uniform one; or the path of a TOML file. See `model_priors`.
    seed
        Together with a star's id it fixes the star's draws. None takes a fresh one; it is in the
        attribute ``seed`` of the groups.
    executor
        Does blocks of stars side by side: any of `concurrent.futures`, or that of a Dask client
        (``client.get_executor()``). Draws are the same to the last bit. It is left open; each task
        keeps to one thread (see `InferenceSettings`), and no more than twice as many blocks are
        handed out as it has workers. A `ProcessPoolExecutor` needs a script with
        ``if __name__ == "__main__"``.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior`` (one variable per label, dims chain, draw, star, physical units),
        ``sample_stats`` (same dims), ``star_stats`` (one row a star, with ``label_flag``, see
        `flags`), ``constant_data`` and, where the model error is known,
        ``calibrated_posterior`` (as ``posterior``, see `calibration`).

        ArviZ takes it as it is: `az.summary`, `az.rhat`, `az.plot_trace`, `az.plot_rank`,
        `az.plot_dist`, `az.plot_ess`, `az.plot_energy`, best of some stars,
        ``result.sel(star=[...])``. There is no ``log_likelihood`` (pixels are compressed, and not
        independent), so that `az.loo` and `az.compare` have nothing to work on.

    Raises
    ------
    NoStarsError
        If there is no star.
    InvalidDataError
        If the spectra are not on the trained model's pixels, or an argument is of a wrong kind.
    LabelError
        If there is a prior of a label that the model lacks.
    FitError
        If the executor fails; it names stars of the block.

    Warns
    -----
    BayesCannonWarning
        If stars are left without a posterior, default priors are widened, a prior leaves out
        all training stars, or the model error was learnt with another likelihood.
    """
    model, given = as_model(cannon), as_spectra(spectra)
    blocks = infer_blocks(
        model, given, settings=settings, priors=priors_of(model, priors), seed=seed,
        executor=executor, progress=progress,
    )  # fmt: skip
    result = join_blocks(list(blocks))
    warn_of_undone(result, model, settings or InferenceSettings())
    return result


def warn_of_undone(
    result: xr.DataTree, cannon: Cannon, settings: InferenceSettings
) -> tuple[int, int]:
    """Warn of stars without a posterior.

    Parameters
    ----------
    result
        What inference returned.
    cannon, settings
        The model and settings that it was made with.

    Returns
    -------
    tuple of int
        How many have too few usable pixels, and how many failed.
    """
    stats = result["star_stats"].to_dataset()
    star_id, status = stats["star"].values.astype(np.str_), stats["status"].values
    few = (status & int(StarStatus.NO_PIXELS)) != 0
    failed = (status & int(StarStatus.FAILED)) != 0
    if few.any():
        n_pixels = int(np.sum(cannon.used))
        warnings.warn(
            f"{few.sum()} of {few.size} stars ({name_some(star_id[few])}) have fewer than "
            f"{pixels_needed(n_pixels, settings.min_pixels)} usable pixels of the model's "
            f"{n_pixels} and get no posterior (flag NO_PIXELS); look at their masks, or lower "
            "min_pixels (--min-pixels).",
            BayesCannonWarning,
            stacklevel=3,
        )
    if failed.any():
        warnings.warn(
            f"{failed.sum()} of {failed.size} stars ({name_some(star_id[failed])}) get no "
            "posterior, as optimiser or sampler failed (flag FAILED); the log says why.",
            BayesCannonWarning,
            stacklevel=3,
        )
    _warn_of_reductions(stats, cannon)
    return int(few.sum()), int(failed.sum())


def _warn_of_reductions(stats: xr.Dataset, cannon: Cannon) -> None:
    """Warn of spectra of another version of the pipeline, and say how unlike the training ones."""
    other = (stats["label_flag"].values & int(LabelFlag.OTHER_REDUCTION)) != 0
    if not other.any():
        return
    names = reductions_text(stats[f"note_{NOTE}"].values[other].tolist())
    trained = reductions_text(reductions_of_settings(cannon.settings.get("dataset") or {}))
    ranks = [np.nanmedian(stats[n].values[other]) if np.isfinite(stats[n].values[other]).any()
             else np.nan for n in ("chi2_rank", "factors_rank")]  # fmt: skip
    far = (
        f" Their median rank among left-out training stars is {ranks[0]:.2f} in chi-square and "
        f"{ranks[1]:.2f} in factors (0.5: alike)."
        if np.isfinite(ranks[0])
        else ""
    )
    warnings.warn(
        f"{other.sum()} of {other.size} spectra ({name_some(stats['star'].values[other])}) are of "
        f"the reduction {names}, the training set of {trained} (flag OTHER_REDUCTION): offsets "
        f"between the two are in the labels and not in their errors.{far}",
        BayesCannonWarning,
        stacklevel=4,
    )


def infer_blocks(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    *,
    settings: InferenceSettings | None = None,
    priors: GivenPriors = None,
    seed: int | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> Iterator[xr.DataTree]:
    """As `infer_labels`, one DataTree per block of stars, in their order, as they finish.

    Parameters
    ----------
    cannon
        The trained model.
    spectra
        On its pixels.
    settings, priors, seed, executor, progress
        See `infer_labels`.

    Returns
    -------
    iterator of xarray.DataTree

    Raises
    ------
    NoStarsError
        If there is no star.
    InvalidDataError
        If the spectra are not on the trained model's pixels, or an argument is of a wrong kind.
    FitError
        If the executor fails; it names stars of the block.
    """
    settings = settings or InferenceSettings()
    if not isinstance(settings, InferenceSettings):
        raise InvalidDataError(
            f"settings must be InferenceSettings(...), not an object of type "
            f"{type(settings).__name__}."
        )
    if spectra.n_stars == 0:
        raise NoStarsError("there is no spectrum to infer labels from.")
    require_medium(spectra, cannon.medium)
    if not same_grid(cannon.wavelength, spectra.wavelength):
        raise InvalidDataError(
            f"the spectra ({spectra.n_pixels} pixels) are not on the wavelengths of the trained "
            f"model ({cannon.wavelength.size} pixels); prepare them as its training set was."
        )
    priors = priors_of(cannon, priors)
    pixels = PixelModel.from_cannon(
        cannon, coefficient_uncertainty=settings.coefficient_uncertainty
    )
    if cannon.model_error is not None and (own := likelihood_of(settings.likelihood)) != GAUSSIAN:
        warnings.warn(
            "the model error was learnt from labels that the Gaussian likelihood predicts; "
            f"calibrated posteriors of {own.name!r} are as wide as if it erred alike: check them "
            "on stars of known labels.",
            BayesCannonWarning,
            stacklevel=3,
        )
    seed = as_seed(seed)
    finishing = Finishing.from_cannon(
        cannon, seed=seed, simulated=spectra.simulated, id_name=spectra.id_name
    )
    settings = replace(settings, likelihood=likelihood_of(settings.likelihood))
    executor = as_executor(executor)
    blocks = [
        slice(start, min(start + settings.block_size, spectra.n_stars))
        for start in range(0, spectra.n_stars, settings.block_size)
    ]
    with as_progress(progress) as tell:
        stop, done = StopSign(), 0

        def step(count: int) -> None:
            tell(done + count, spectra.n_stars, "inference")

        def add(number: int) -> None:
            nonlocal done
            done += blocks[number].stop - blocks[number].start
            step(0)

        notes = _notes_of(spectra)
        tasks = (
            _Block(
                spectra.flux[rows], spectra.ivar[rows], spectra.star_id[rows], pixels, priors,
                settings, seed, finishing, stop, step if executor is None else None,
                {name: text[rows] for name, text in notes.items()},
            )
            for rows in blocks
        )  # fmt: skip
        step(0)
        yield from in_order(executor, _infer_block, tasks, named=_names, finished=add, stop=stop)


@dataclass(frozen=True, eq=False)
class _Block:
    """What an executor is sent to infer the labels of a block of stars."""

    flux: AnyArray
    ivar: AnyArray
    star_id: AnyArray
    pixels: PixelModel
    priors: LabelPriors
    settings: InferenceSettings
    seed: int
    finishing: Finishing
    stop: StopSign
    progress: Callable[[int], None] | None
    notes: Mapping[str, AnyArray]


def _notes_of(spectra: NormalizedSpectra) -> dict[str, AnyArray]:
    """What is noted of the stars, and their quoted S/N where one is known."""
    if not np.isfinite(spectra.snr).any():
        return dict(spectra.notes)
    texts = [f"{snr:.6g}" if np.isfinite(snr) else "" for snr in spectra.snr.tolist()]
    return {**spectra.notes, "SNR": np.array(texts, dtype=np.str_)}


def _names(block: _Block) -> str:
    return name_some(block.star_id)


def _infer_block(given: _Block) -> xr.DataTree:
    block = sample_block(
        given.pixels, given.flux, given.ivar, given.star_id, priors=given.priors,
        settings=given.settings, seed=given.seed, progress=given.progress, stop=given.stop,
    )  # fmt: skip
    return finish_block(block, given.finishing, given.notes)


@dataclass(frozen=True, eq=False)
class Finishing:
    """What turns the draws of a block of stars into a result.

    Attributes
    ----------
    reference : LabelReference
        What stars are compared with for their flags.
    error : ErrorModel or None
        The model error, where it was measured.
    seed : int
        Of the calibrated draws, together with the stars' ids.
    simulated, model_simulated : bool
        Whether the spectra are, and whether those are that the model was trained on.
    id_name, catalogue : str
        What the column of the stars' names, and the catalogue of the training labels, are called.
    reductions : frozenset of str
        Versions of the pipeline of the training spectra; empty where unknown.
    """

    reference: LabelReference
    error: ErrorModel | None
    seed: int
    simulated: bool
    model_simulated: bool
    id_name: str = DEFAULT_ID
    catalogue: str = "CATALOGUE"
    reductions: frozenset[str] = frozenset()

    @classmethod
    def from_cannon(
        cls, cannon: Cannon, *, seed: int, simulated: bool, id_name: str = DEFAULT_ID
    ) -> Finishing:
        """Take it from a trained model.

        Parameters
        ----------
        cannon
            The trained model.
        seed
            Of the calibrated draws, together with the stars' ids.
        simulated
            Whether the spectra are.
        id_name
            Name of the column of star ids.
        """
        known = cannon.model_error
        error = None if known is None else ErrorModel.from_tree(known)
        return cls(
            LabelReference.from_cannon(cannon), error, seed, simulated, cannon.simulated, id_name,
            catalogue_name(cannon.settings.get("dataset") or {}),
            reductions_of_settings(cannon.settings.get("dataset") or {}),
        )  # fmt: skip


def finish_block(
    block: xr.DataTree, finishing: Finishing, notes: Mapping[str, AnyArray] | None = None
) -> xr.DataTree:
    """Add flags and calibrated posteriors to what `sample_block` returned.

    Parameters
    ----------
    block
        Groups of a block of stars.
    finishing
        What to add.
    notes
        Of the stars, see `NormalizedSpectra`.
    """
    tree = add_flags(block, finishing.reference)
    tree = add_notes(tree, notes or {}, finishing.reductions)
    if finishing.error is not None:
        calibrated = calibrated_posterior(tree, finishing.error, seed=finishing.seed)
        tree["calibrated_posterior"] = xr.DataTree(calibrated)
    for name in ("posterior", "calibrated_posterior"):
        if name in tree.children:
            tree[name].attrs["simulated"] = int(finishing.simulated)
            tree[name].attrs["model_simulated"] = int(finishing.model_simulated)
            tree[name].attrs["id_name"] = finishing.id_name
            tree[name].attrs["catalogue"] = finishing.catalogue
            tree[name].attrs["model_reduction"] = reductions_text(finishing.reductions)
    return tree
