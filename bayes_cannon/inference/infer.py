"""Posterior of the labels of every star: from spectra to draws with their checks.

`infer_blocks` maps `sample_block`, a pure function, over blocks of stars and finishes each with its
flags and calibrated posteriors; `infer_labels` joins them.

What turns the draws of a block of stars into a result: flags and calibrated posteriors.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.engines.shared import Shared, sharing
from bayes_cannon.base.parallel import StopSign, as_executor, in_order
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.stores.blocks import blocks_of
from bayes_cannon.base.typing import AnyArray
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError, NoStarsError
from bayes_cannon.inference.arguments import GivenModel, as_any_spectra, as_model
from bayes_cannon.inference.block import notes_of, sample_block
from bayes_cannon.inference.calibrated import ErrorModel, calibrated_posterior
from bayes_cannon.inference.flags import LabelReference, add_flags, add_notes
from bayes_cannon.inference.likelihood.kinds import GAUSSIAN, likelihood_of
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.results import join_blocks
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.inference.summaries.keeping import chosen_keep, reduce_draws
from bayes_cannon.inference.summaries.undone import warn_of_undone
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.models.model_priors import GivenPriors, priors_of
from bayes_cannon.spectra.dataset import catalogue_name
from bayes_cannon.spectra.spectra import name_some, require_medium, same_grid
from bayes_cannon.spectra.star_ids import DEFAULT_ID
from bayes_cannon.spectra.stored import AnySpectra
from bayes_cannon.surveys.reductions import reductions_of_settings, reductions_text

__all__ = [
    "Finishing",
    "deliver_blocks",
    "finish_block",
    "infer_blocks",
    "infer_labels",
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
        `NormalizedSpectra` on the trained model's pixels, or a `TrainingSet` of such; or spectra
        on disk (`open_dataset`), which are read block by block.
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
        ``result.sel(star=[...])``. Pixels are compressed: what `az.loo`, `az.compare` and
        `az.plot_ppc_dist` need is made of a star on request, by `pixel_groups`.

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
    model, given = as_model(cannon), as_any_spectra(spectra)
    blocks = infer_blocks(
        model, given, settings=settings, priors=priors_of(model, priors), seed=seed,
        executor=executor, progress=progress,
    )  # fmt: skip
    result = join_blocks(list(blocks))
    warn_of_undone(result, model, settings or InferenceSettings())
    return result


def infer_blocks(
    cannon: Cannon,
    spectra: AnySpectra,
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
    NoStarsError, InvalidDataError, FitError
        As `infer_labels`.
    """
    settings = _checked(settings)
    rows = blocks_of(spectra.n_stars, settings.block_size)
    yield from deliver_blocks(
        cannon, spectra, rows, _as_it_is, settings=settings, priors=priors, seed=seed,
        executor=executor, progress=progress,
    )  # fmt: skip


def _checked(settings: InferenceSettings | None) -> InferenceSettings:
    settings = settings or InferenceSettings()
    if not isinstance(settings, InferenceSettings):
        raise InvalidDataError(
            f"settings must be InferenceSettings(...), not an object of type "
            f"{type(settings).__name__}."
        )
    return settings


def _as_it_is(_rows: slice, tree: xr.DataTree, _seconds: float) -> xr.DataTree:
    return tree


def deliver_blocks[R](
    cannon: Cannon,
    spectra: AnySpectra,
    rows: Sequence[slice],
    deliver: Callable[[slice, xr.DataTree, float], R],
    *,
    settings: InferenceSettings | None = None,
    priors: GivenPriors = None,
    seed: int | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> Iterator[R]:
    """As `infer_blocks`, of some blocks, each handed to a function where it was sampled.

    What all blocks need goes to every worker once. Spectra that are on disk are read by the worker
    that samples them.

    Parameters
    ----------
    cannon, spectra, settings, priors, seed, executor, progress
        See `infer_blocks`.
    rows
        Stars of each block.
    deliver
        Called with the stars of a block, its result and the seconds it took; what it returns is
        what comes back. An executor of other processes must be able to pickle it.

    Raises
    ------
    NoStarsError, InvalidDataError, FitError
        As `infer_blocks`.
    """
    settings = _checked(settings)
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
            stacklevel=4,
        )
    seed = as_seed(seed)
    finishing = Finishing.from_cannon(
        cannon, seed=seed, simulated=spectra.simulated, id_name=spectra.id_name,
        keep=chosen_keep(settings.keep, spectra.n_stars),
    )  # fmt: skip
    settings = replace(settings, likelihood=likelihood_of(settings.likelihood))
    executor = as_executor(executor)
    with_snr = bool(np.isfinite(spectra.snr).any())
    common = _Common(pixels, priors, settings, seed, finishing, with_snr)
    with as_progress(progress) as tell, sharing(executor, common) as shared:
        stop, done = StopSign(), spectra.n_stars - sum(r.stop - r.start for r in rows)

        def step(count: int) -> None:
            tell(done + count, spectra.n_stars, "inference")

        def add(number: int) -> None:
            nonlocal done
            done += rows[number].stop - rows[number].start
            step(0)

        inside = step if executor is None else None
        tasks = (_Block(part, spectra.part(part), shared, deliver, stop, inside) for part in rows)
        step(0)
        yield from in_order(executor, _infer_block, tasks, named=_names, finished=add, stop=stop)


@dataclass(frozen=True, eq=False)
class _Common:
    """What all blocks of an inference need."""

    pixels: PixelModel
    priors: LabelPriors
    settings: InferenceSettings
    seed: int
    finishing: Finishing
    with_snr: bool


@dataclass(frozen=True, eq=False)
class _Block[R]:
    """What an executor is sent to infer the labels of a block of stars."""

    rows: slice
    spectra: AnySpectra
    common: Shared[_Common]
    deliver: Callable[[slice, xr.DataTree, float], R]
    stop: StopSign
    progress: Callable[[int], None] | None


def _names(block: _Block[Any]) -> str:
    return name_some(block.spectra.star_id)


def _infer_block[R](given: _Block[R]) -> R:
    began, common = time.monotonic(), given.common.value
    spectra = given.spectra.in_memory()
    block = sample_block(
        common.pixels, spectra.flux, spectra.ivar, spectra.star_id, priors=common.priors,
        settings=common.settings, seed=common.seed, progress=given.progress, stop=given.stop,
    )  # fmt: skip
    tree = finish_block(block, common.finishing, notes_of(spectra, with_snr=common.with_snr))
    return given.deliver(given.rows, tree, time.monotonic() - began)


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
    keep : str
        What is kept of the draws, see `bayes_cannon.inference.summaries.keeping`.
    """

    reference: LabelReference
    error: ErrorModel | None
    seed: int
    simulated: bool
    model_simulated: bool
    id_name: str = DEFAULT_ID
    catalogue: str = "CATALOGUE"
    reductions: frozenset[str] = frozenset()
    keep: str = "draws"

    @classmethod
    def from_cannon(
        cls, cannon: Cannon, *, seed: int, simulated: bool, id_name: str = DEFAULT_ID,
        keep: str = "draws",
    ) -> Finishing:  # fmt: skip
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
        keep
            What is kept of the draws.
        """
        known = cannon.model_error
        error = None if known is None else ErrorModel.from_tree(known)
        return cls(
            LabelReference.from_cannon(cannon), error, seed, simulated, cannon.simulated, id_name,
            catalogue_name(cannon.settings.get("dataset") or {}),
            reductions_of_settings(cannon.settings.get("dataset") or {}), keep,
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
    nu = None if finishing.error is None else float(np.median(finishing.error.nu))
    return reduce_draws(tree, finishing.keep, nu)
