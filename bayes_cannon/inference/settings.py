"""Settings of the inference of labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from bayes_cannon.base.columns import whole_number
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.likelihood.kinds import (
    GAUSSIAN,
    Likelihood,
    likelihood_of,
    likelihood_text,
)
from bayes_cannon.inference.modes import ModeSettings
from bayes_cannon.inference.sampler import NutsSettings
from bayes_cannon.inference.summaries.keeping import checked_keep

__all__ = [
    "InferenceSettings",
]


def _number(given: Any, name: str) -> float:
    """A number that is not NaN."""
    number = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    if not number or np.isnan(given):
        raise InvalidDataError(f"{name} must be a number, not {given!r}.")
    return float(given)


@dataclass(frozen=True)
class InferenceSettings:
    """How labels are inferred.

    Attributes
    ----------
    method : {"nuts", "laplace"}
        Sample, or draw from the Gaussian at the mode (in unconstrained coordinates).
    draws, tune, chains, target_accept
        See `NutsSettings`.
    likelihood : str or Likelihood
        Of the pixels: a registered name, or an object (`bayes_cannon.inference.likelihood.kinds`).
    coefficient_uncertainty : bool
        Whether the trained coefficients' uncertainty widens the pixels' variance.
    modes : ModeSettings
        Search for the modes.
    rhat_limit, ess_limit : float
        A star beyond these, or with divergences, is sampled again once, with ten times the
        warm-up and eight times the draws, of which every eighth is kept.
    min_pixels : int or None
        Stars with fewer usable pixels get no posterior; None: half of the model's pixels, and no
        more than 100 (see `pixels_needed`).
    n_khat : int
        Draws on which k-hat is evaluated; 0 leaves it out.
    block_size : int
        Stars per block, which is a task of an executor; bounds the memory.
    keep : str or None
        Of the posteriors: ``'draws'``, ``'thin:N'`` (about N draws of a star) or ``'moments'``
        (see `bayes_cannon.inference.summaries.keeping`; tables are of all draws); None: draws, and
        of more than 20 000 stars moments.
    cores : int
        Threads; 0 takes all cores, or one for each task of an executor.
    """

    method: Literal["nuts", "laplace"] = "nuts"
    draws: int = 500
    tune: int = 100
    chains: int = 4
    target_accept: float = 0.8
    likelihood: str | Likelihood = GAUSSIAN.name
    coefficient_uncertainty: bool = True
    modes: ModeSettings = field(default_factory=ModeSettings)
    rhat_limit: float = 1.01
    ess_limit: float = 400.0
    min_pixels: int | None = None
    n_khat: int = 200
    block_size: int = 64
    keep: str | None = None
    cores: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("nuts", "laplace"):
            raise InvalidDataError(f"method must be 'nuts' or 'laplace', not {self.method!r}.")
        if self.min_pixels is not None:
            object.__setattr__(self, "min_pixels", whole_number(self.min_pixels, "min_pixels"))
        object.__setattr__(self, "keep", checked_keep(self.keep))
        for name in ("draws", "tune", "chains", "n_khat", "block_size", "cores"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name))
        for name in ("target_accept", "rhat_limit", "ess_limit"):
            object.__setattr__(self, name, _number(getattr(self, name), name))
        if not isinstance(self.coefficient_uncertainty, bool | np.bool_):
            raise InvalidDataError(
                f"coefficient_uncertainty must be True or False, not "
                f"{self.coefficient_uncertainty!r}."
            )
        if not isinstance(self.modes, ModeSettings):
            raise InvalidDataError(f"modes must be ModeSettings, not {self.modes!r}.")
        if self.cores < 0 or self.n_khat < 0 or 0 < self.n_khat < 25:
            raise InvalidDataError("cores must be at least 0, n_khat 0 or at least 25.")
        if self.rhat_limit <= 1:
            raise InvalidDataError(f"rhat_limit must be above 1, not {self.rhat_limit}.")
        if self.block_size < 1 or (self.min_pixels is not None and self.min_pixels < 1):
            raise InvalidDataError("block_size and min_pixels must be at least 1.")
        _ = self.nuts, likelihood_of(self.likelihood)

    @property
    def nuts(self) -> NutsSettings:
        """Settings of the sampler."""
        return NutsSettings(self.draws, self.tune, self.chains, self.target_accept)

    def record(self) -> dict[str, Any]:
        """Return the settings as plain values, the likelihood as text, as runs keep them.

        >>> InferenceSettings().record()["likelihood"]
        'gaussian'
        """
        plain = asdict(replace(self, likelihood=GAUSSIAN.name))
        return plain | {"likelihood": likelihood_text(self.likelihood)}
