"""The known terms during a fit: spectra with and without them, amplitudes and their scales."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.parallel import memory_here
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.distortions import KnownTerms
from bayes_cannon.training.factors import StarFactors, star_factors
from bayes_cannon.training.pixels.amplitudes import learn_scales, without_terms
from bayes_cannon.training.pixels.columns import of_stars
from bayes_cannon.training.pixels.survey import Problem

__all__ = [
    "TermState",
    "of_flux",
    "require_room",
]

_LOG = logging.getLogger(__name__)
_COPIES = 3
"""Of the spectra: as they are, and without the terms of this round and of the last."""
_MUCH = 0.1
"""Share of the memory from which a warning says so."""


def of_flux(theta: FloatArray) -> FloatArray:
    """Coefficients of the flux, from those of flux - 1.

    Parameters
    ----------
    theta
        Shape (n_pixels, n_terms), the constant first.
    """
    theta = np.array(theta)
    theta[:, 0] += 1
    return theta


def require_room(n_stars: int, n_pixels: int) -> None:
    """Say how much memory known terms take of spectra that are on disk, before anything is fitted.

    Parameters
    ----------
    n_stars, n_pixels
        Of the spectra.

    Raises
    ------
    InvalidDataError
        If it is more than the machine has.
    """
    need, have = _COPIES * 8 * n_stars * n_pixels, memory_here()
    told = (
        f"known terms take all spectra into memory, {need / 1e9:.1f} GB for "
        f"{count_text(n_stars, 'star')} of {count_text(n_pixels, 'pixel')}"
    )
    if need > have:
        raise InvalidDataError(
            f"{told}, and this machine has {have / 1e9:.1f} GB: train on "
            f"{count_text(int(n_stars * have / need / 1.25), 'star')} at most (--train-fraction), "
            "or without them (--terms none)."
        )
    _LOG.log(
        logging.WARNING if need > _MUCH * have else logging.INFO,
        "%s (of %.1f GB here), and as much for each worker of the cross-validation.",
        told, have / 1e9,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class TermState:
    """The known terms of a fit: the spectra with them, and what was learnt of them.

    Attributes
    ----------
    problem : Problem
        Spectra as they are.
    terms : KnownTerms
        With the scales of the last round.
    amplitudes : StarFactors or None
        In units of the scales; None before they are learnt.
    """

    problem: Problem
    terms: KnownTerms
    amplitudes: StarFactors | None = None

    @classmethod
    def of(cls, problem: Problem, terms: KnownTerms) -> TermState:
        """Known terms of spectra, which are taken into memory.

        Parameters
        ----------
        problem
            Spectra as they are.
        terms
            On their pixels, with a first guess of the scales.
        """
        flux, ivar = (of_stars(a, slice(None)) for a in (problem.flux, problem.ivar))
        return cls(replace(problem, flux=flux, ivar=ivar), terms)

    def learnt(
        self, mean: FloatArray, cov: NDArray[Any], scatter: FloatArray
    ) -> tuple[TermState, Problem, StarFactors]:
        """Learn amplitudes and scales under given coefficients.

        Parameters
        ----------
        mean, cov, scatter
            Moments of the coefficients of flux - 1 and the scatters, as `star_factors` takes them.

        Returns
        -------
        TermState
        Problem
            The spectra without the terms.
        StarFactors
            Factors of the same E step.
        """
        labels = self.problem.labels
        k, j = labels.n_coef, mean.shape[1] - labels.n_coef
        templates = self.terms.templates(of_flux(mean[:, :k]))
        found = star_factors(
            self.problem.flux, self.problem.ivar, labels, mean, cov, scatter, templates
        )
        terms, amplitudes = learn_scales(self.terms, found.part(slice(j, None)))
        flux, ivar = without_terms(
            self.problem.flux, self.problem.ivar, labels.mean,
            replace(templates, scale=terms.scale), amplitudes,
        )  # fmt: skip
        problem = replace(self.problem, flux=flux, ivar=ivar)
        return replace(self, terms=terms, amplitudes=amplitudes), problem, found.part(slice(0, j))
