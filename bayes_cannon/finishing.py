"""What turns the draws of a block of stars into a result: flags and calibrated posteriors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import xarray as xr

from bayes_cannon.calibration import ErrorModel, calibrated_posterior
from bayes_cannon.label_flags import LabelReference, add_flags

if TYPE_CHECKING:
    from bayes_cannon.cannon import Cannon

__all__ = ["Finishing", "finish_block"]


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
    """

    reference: LabelReference
    error: ErrorModel | None
    seed: int
    simulated: bool
    model_simulated: bool

    @classmethod
    def from_cannon(cls, cannon: Cannon, *, seed: int, simulated: bool) -> Finishing:
        """Take it from a trained model."""
        known = cannon.model_error
        error = None if known is None else ErrorModel.from_tree(known)
        return cls(LabelReference.from_cannon(cannon), error, seed, simulated, cannon.simulated)


def finish_block(block: xr.DataTree, finishing: Finishing) -> xr.DataTree:
    """Add flags and calibrated posteriors to what `sample_block` returned."""
    tree = add_flags(block, finishing.reference)
    if finishing.error is not None:
        calibrated = calibrated_posterior(tree, finishing.error, seed=finishing.seed)
        tree["calibrated_posterior"] = xr.DataTree(calibrated)
    for name in ("posterior", "calibrated_posterior"):
        if name in tree.children:
            tree[name].attrs["simulated"] = int(finishing.simulated)
            tree[name].attrs["model_simulated"] = int(finishing.model_simulated)
    return tree
