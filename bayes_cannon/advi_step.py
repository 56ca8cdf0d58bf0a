r"""Steps of ADVI on one chunk of pixels, and the test of convergence.

The gradient of the evidence lower bound is that of Roeder, Wu & Duvenaud (2017,
arXiv:1703.09194), which leaves out the score of q. Its expectation is the same, and its
noise vanishes as q comes to equal the posterior; that of PyMC's default stays near one posterior
standard deviation per step, however good q is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.variational import KLqp
from pymc.variational.approximations import MeanFieldGroup, SingleGroupApproximation
from pymc.variational.opvi import node_property
from pymc.variational.updates import adam
from pytensor.gradient import disconnected_grad

from bayes_cannon.errors import FitError, InvalidDataError

__all__ = ["AdviSettings", "Stepper", "run_chunk"]

FloatArray = NDArray[np.float64]
_MODE = "NUMBA"
"""PyTensor's mode: two to three times faster than C here, and compiled in seconds."""


@dataclass(frozen=True)
class AdviSettings:
    """How the fit is run.

    Attributes
    ----------
    chunk_size : int
        Pixels fitted together.
    window : int
        Convergence is looked for every four windows; averages are over whole windows.
    max_steps : int
        Limit on the steps of a chunk.
    learning_rate, decay_steps : float
        Step t of Adam has the rate ``learning_rate / (1 + t / decay_steps)``.
    n_samples : int
        Draws of q per step.
    tolerance : float
        A chunk has converged when from the third to the last quarter of its steps the bound
        rises by less than twice its noise, no mean moves by more than this fraction of its standard
        deviation, and no log standard deviation by more than this.
    """

    chunk_size: int = 512
    window: int = 25
    max_steps: int = 1000
    learning_rate: float = 0.1
    decay_steps: float = 50.0
    n_samples: int = 1
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        for name in ("chunk_size", "max_steps", "n_samples"):
            if getattr(self, name) < 1:
                raise InvalidDataError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.window < 2:
            raise InvalidDataError(f"window must be at least 2 steps, not {self.window}.")
        for name in ("learning_rate", "decay_steps", "tolerance"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InvalidDataError(f"{name} must be positive and finite, not {value}.")


class _PathwiseGroup(MeanFieldGroup):  # type: ignore[misc]
    """Mean-field normal whose log density is differentiated through the draw alone."""

    @node_property  # type: ignore[untyped-decorator]
    def symbolic_logq_not_scaled(self) -> Any:
        mean, std = disconnected_grad(self.mean), disconnected_grad(self.std)
        z = (self.symbolic_random - mean) / std
        return pt.sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - pt.log(std), axis=1)


class _PathwiseMeanField(SingleGroupApproximation):  # type: ignore[misc]
    _group_class = _PathwiseGroup


class Stepper:
    """The compiled step of a model, with the shared variables it changes."""

    def __init__(self, model: pm.Model, settings: AdviSettings, seed: int) -> None:
        self.rate = pytensor.shared(settings.learning_rate, "learning_rate")
        self.settings = settings
        update = adam(learning_rate=self.rate)
        changed: list[Any] = []

        def optimizer(gradients: Any, params: Any) -> Any:
            updates = update(gradients, params)
            changed.extend(updates)
            return updates

        with model:
            inference = KLqp(_PathwiseMeanField(random_seed=seed))
            self.step = inference.objective.step_function(
                obj_n_mc=settings.n_samples,
                obj_optimizer=optimizer,
                score=True,
                compile_kwargs={"mode": _MODE},
            )
        params = inference.approx.groups[0].shared_params
        self.mu, self.rho = params["mu"], params["rho"]
        self.order = {name: part[1] for name, part in inference.approx.groups[0].ordering.items()}
        self.first = [(shared, shared.get_value()) for shared in changed]

    def reset(self) -> None:
        """Go back to the first values of q and of the optimizer."""
        for shared, value in self.first:
            shared.set_value(value.copy())

    def advance(self, t: int) -> float:
        """Take step number `t`; returns the estimate of the bound before it."""
        self.rate.set_value(self.settings.learning_rate / (1 + t / self.settings.decay_steps))
        return -float(self.step())

    def parameters(self) -> FloatArray:
        """Mean and log standard deviation of q, shape (2, n_variables)."""
        return np.stack([self.mu.get_value(), np.log(np.logaddexp(0.0, self.rho.get_value()))])


def _quarters(blocks: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Averages over the third and the last quarter of the blocks."""
    quarter = len(blocks) // 4
    late, early = blocks[-quarter:], blocks[-2 * quarter : -quarter]
    return np.mean(early, axis=0), np.mean(late, axis=0)


def _settled(bound: list[float], blocks: list[FloatArray], settings: AdviSettings) -> bool:
    """Whether the bound rises no more than its noise and the parameters have stopped moving.

    Compares the last quarter of the steps with the one before. The quarters grow, so that the
    noise of the averages falls until a movement of `tolerance` would be seen.
    """
    quarter = len(blocks) // 4 * settings.window
    late, early = np.array(bound[-quarter:]), np.array(bound[-2 * quarter : -quarter])
    noise = np.sqrt((late.var(ddof=1) + early.var(ddof=1)) / quarter)
    level = late.mean() - early.mean() <= 2 * noise
    before, last = _quarters(blocks)
    moved = np.abs(last - before)
    moved[0] /= np.exp(last[1])
    return bool(level and moved.max() <= settings.tolerance)


def run_chunk(stepper: Stepper, settings: AdviSettings) -> tuple[FloatArray, list[float], bool]:
    """Fit one chunk; returns the averaged parameters of q, the bound's history and convergence.

    The average is over the last half of the steps, in whole windows.
    """
    stepper.reset()
    bound: list[float] = []
    blocks: list[FloatArray] = []
    total, count, converged = np.zeros(()), 0, False
    for t in range(settings.max_steps):
        bound.append(stepper.advance(t))
        if not np.isfinite(bound[-1]):
            raise FitError(f"the evidence lower bound became {bound[-1]} at step {t + 1}")
        total, count = total + stepper.parameters(), count + 1
        if count < settings.window:
            continue
        blocks.append(total / count)
        total, count = np.zeros(()), 0
        if len(blocks) >= 4 and len(blocks) % 4 == 0 and _settled(bound, blocks, settings):
            converged = True
            break
    if len(blocks) < 2:
        return (total / count if count else blocks[0]), bound, converged
    return np.mean(blocks[-(len(blocks) // 2) :], axis=0), bound, converged
