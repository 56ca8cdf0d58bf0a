r"""Priors of the labels of a star, and the unconstrained coordinates that go with them.

Every prior is a normal distribution cut to an interval, of which the uniform (infinite standard
deviation) and the normal (infinite bounds) are the ends. Labels l live in the interval, the
unconstrained coordinate u on the whole line:

    both bounds   l = lower + (upper - lower) / (1 + exp(-u))
    lower only    l = lower + exp(u)
    upper only    l = upper - exp(u)
    none          l = u

Priors of labels from a TOML file, as the command line takes them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit
from scipy.stats import norm, truncnorm

from bayes_cannon.base.paths import user_path
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FileFormatError, LabelError
from bayes_cannon.spectra.label_kinds import label_kind

__all__ = [
    "LabelPrior",
    "LabelPriors",
    "UnconstrainedPoint",
    "as_prior",
    "default_prior",
    "known_range",
    "read_priors",
]

_ANY = (-2.0, 2.0)


@dataclass(frozen=True)
class LabelPrior:
    """Prior of one label, in the label's unit: a normal cut to [lower, upper].

    Attributes
    ----------
    lower, upper : float
        Bounds; infinite where there is none.
    mean, sd : float
        Of the normal before it is cut; ``sd = inf`` makes it uniform.

    Raises
    ------
    LabelError
        If the bounds are not in order, sd is not positive, or a uniform lacks a bound.
    """

    lower: float = -np.inf
    upper: float = np.inf
    mean: float = 0.0
    sd: float = np.inf

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "mean", "sd"):
            object.__setattr__(self, name, _number(getattr(self, name), name))
        if not self.lower < self.upper:
            raise LabelError(
                f"a prior needs lower < upper, got lower = {self.lower}, upper = {self.upper}."
            )
        if not self.sd > 0 or not np.isfinite(self.mean):
            raise LabelError(
                f"a prior needs a finite mean and sd > 0, got mean = {self.mean}, sd = {self.sd}."
            )
        bounded = np.isfinite(self.lower) and np.isfinite(self.upper)
        if np.isinf(self.sd) and not bounded:
            raise LabelError("a uniform prior needs two finite bounds.")
        if np.isfinite(self.sd) and self._log_mass() < -700:
            raise LabelError(
                f"[{self.lower}, {self.upper}] lies too far in the tail of a normal of mean "
                f"{self.mean} and sd {self.sd}; widen the bounds or the sd."
            )

    @classmethod
    def uniform(cls, lower: float, upper: float) -> LabelPrior:
        """Return the uniform prior on [lower, upper]."""
        return cls(lower=lower, upper=upper)

    @classmethod
    def normal(cls, mean: float, sd: float) -> LabelPrior:
        """Return the normal prior of this `mean` and `sd`, without bounds."""
        return cls(mean=mean, sd=sd)

    @classmethod
    def truncated(
        cls, mean: float, sd: float, lower: float = -np.inf, upper: float = np.inf
    ) -> LabelPrior:
        """Return Normal(mean, sd) cut to [lower, upper]; either bound may be left out."""
        return cls(lower, upper, mean, sd)

    @property
    def is_uniform(self) -> bool:
        """Whether the density is flat between the bounds."""
        return bool(np.isinf(self.sd))

    @property
    def log_norm(self) -> float:
        """Log of the density's normalising constant; the density is exp(log_norm - x^2 / 2)."""
        if self.is_uniform:
            return -float(np.log(self.upper - self.lower))
        return -float(np.log(self.sd) + 0.5 * np.log(2 * np.pi) + self._log_mass())

    def _log_mass(self) -> float:
        a, b = (self.lower - self.mean) / self.sd, (self.upper - self.mean) / self.sd
        if a > 0:  # the upper tail is more accurate by its reflection
            a, b = -b, -a
        low, high = norm.logcdf(a), norm.logcdf(b)
        return float(high + np.log1p(-np.exp(low - high))) if high > low else -np.inf


def _number(value: Any, name: str) -> float:
    """A plain number from one of NumPy or pandas."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf" or getattr(value, "unit", None) is not None:
        raise LabelError(
            f"{name} of a prior must be a number in the unit of the label, not {value!r}."
        )
    return float(array.reshape(()))


def as_prior(given: Any, name: str) -> LabelPrior:
    """Prior of a label from what a user may give for one.

    Parameters
    ----------
    given
        A `LabelPrior`; a pair (lower, upper), uniform between; or a mapping with some of
        ``lower``, ``upper``, ``mean`` and ``sd``, as in a TOML file of priors.
    name
        The label, for messages.

    Raises
    ------
    LabelError
        If it is none of these, or its numbers do not make a prior.

    Examples
    --------
    >>> as_prior((4000, 6000), "TEFF") == LabelPrior.uniform(4000, 6000)
    True
    """
    if isinstance(given, LabelPrior):
        return given
    try:
        if isinstance(given, Mapping):
            numbers = {str(k): v for k, v in given.items() if k != "distribution"}
            if numbers and numbers.keys() <= {"lower", "upper", "mean", "sd"}:
                if numbers.keys() & {"mean", "sd"} and not {"mean", "sd"} <= numbers.keys():
                    raise LabelError("a normal needs both mean and sd.")
                return LabelPrior(**numbers)
        elif not isinstance(given, str | bytes) and np.shape(given) == (2,):
            lower, upper = given
            return LabelPrior.uniform(lower, upper)
    except LabelError as error:
        raise LabelError(f"prior of {name}: {error}") from error
    except (TypeError, ValueError):
        pass
    raise LabelError(
        f"the prior of {name} must be a pair (lower, upper), or made by LabelPrior.uniform, "
        f"LabelPrior.normal or LabelPrior.truncated, not {given!r}."
    )


def known_range(name: str) -> tuple[float, float] | None:
    """Usual range of the label `name` if its kind is known (`LabelKind.prior`), else None.

    Teff 0 to 10000 K, log g 0 to 10, velocities from 0 to 50 or 500 km/s; an abundance, that is a
    ratio of an element, of all metals or of the alpha elements to hydrogen, iron or all metals,
    -2 to 2 dex.

    >>> known_range("FE_H"), known_range("ALPHA_M"), known_range("AGE"), known_range("A_K")
    ((-2.0, 2.0), (-2.0, 2.0), None, None)
    """
    return label_kind(name).prior


def default_prior(name: str) -> LabelPrior:
    """Uniform prior of the label `name` over its usual range, see `known_range`.

    A label of an unknown kind gets -2 to 2; `bayes_cannon.models.model_priors` knows the training
    stars and does better.
    """
    return LabelPrior.uniform(*(known_range(name) or _ANY))


@dataclass(frozen=True, eq=False)
class UnconstrainedPoint:
    """Labels at given unconstrained coordinates, with what second-order methods need.

    Attributes
    ----------
    labels, first, second : (..., n_labels) float64
        Labels in physical units and their first and second derivative with respect to u.
    log_density : (...) float64
        Log prior density of u: that of the labels plus the log-Jacobian.
    slope, curvature : (..., n_labels) float64
        First and second derivative of `log_density`; it is a sum over labels.
    """

    labels: FloatArray
    first: FloatArray
    second: FloatArray
    log_density: FloatArray
    slope: FloatArray
    curvature: FloatArray


@dataclass(frozen=True, eq=False)
class LabelPriors:
    """Independent priors of all labels of a model.

    Attributes
    ----------
    names : tuple of str
        Labels, in the order of the model's `PolynomialBasis`.
    priors : tuple of LabelPrior
    """

    names: tuple[str, ...]
    priors: tuple[LabelPrior, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.priors) or not self.names:
            raise LabelError(f"priors are {len(self.priors)}, labels {len(self.names)}.")

    @classmethod
    def for_labels(
        cls, names: Sequence[str], given: Mapping[str, LabelPrior] | None = None
    ) -> LabelPriors:
        """Take the priors `given` and the default of every other label.

        Parameters
        ----------
        names
            Labels, in the order of the model.
        given
            Priors by label; the others get the default of their kind.

        Raises
        ------
        LabelError
            If a prior is given for a label that is not among `names`.
        """
        given = dict(given or {})
        unknown = [n for n in given if n not in names]
        if unknown:
            raise LabelError(
                f"priors are given for {', '.join(unknown)}, but the model's labels are "
                f"{', '.join(names)}."
            )
        return cls(tuple(names), tuple(given.get(n, default_prior(n)) for n in names))

    @cached_property
    def lower(self) -> FloatArray:
        """Lower bounds, shape (n_labels,)."""
        return np.array([p.lower for p in self.priors], dtype=np.float64)

    @cached_property
    def upper(self) -> FloatArray:
        """Upper bounds, shape (n_labels,)."""
        return np.array([p.upper for p in self.priors], dtype=np.float64)

    @cached_property
    def mean(self) -> FloatArray:
        """Means of the normals before they are cut, shape (n_labels,)."""
        return np.array([p.mean for p in self.priors], dtype=np.float64)

    @cached_property
    def precision(self) -> FloatArray:
        """1 / sd**2, shape (n_labels,); 0 for a uniform prior."""
        return np.array([p.sd**-2 for p in self.priors], dtype=np.float64)

    @cached_property
    def log_norm(self) -> float:
        """Sum of the log normalising constants."""
        return float(sum(p.log_norm for p in self.priors))

    @property
    def all_uniform(self) -> bool:
        """Whether every prior is uniform."""
        return all(p.is_uniform for p in self.priors)

    def log_density(self, labels: ArrayLike) -> FloatArray:
        """Log density (...) of labels (..., n_labels) in physical units; -inf outside."""
        x = np.asarray(labels, dtype=np.float64)
        inside = np.all((x >= self.lower) & (x <= self.upper), axis=-1)
        value = self.log_norm - 0.5 * np.sum(self.precision * (x - self.mean) ** 2, axis=-1)
        return np.asarray(np.where(inside, value, -np.inf))

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw labels, shape (n, n_labels).

        Parameters
        ----------
        n
            How many sets of labels.
        rng
            Source of random numbers.
        """
        columns = []
        for p in self.priors:
            if p.is_uniform:
                columns.append(rng.uniform(p.lower, p.upper, n))
            else:
                a, b = (p.lower - p.mean) / p.sd, (p.upper - p.mean) / p.sd
                columns.append(truncnorm.rvs(a, b, p.mean, p.sd, size=n, random_state=rng))
        return np.stack(columns, axis=-1)

    def clip(self, labels: FloatArray, margin: float = 1e-3) -> FloatArray:
        """Move labels (..., n_labels) inside the bounds by `margin` of the range (1: half open)."""
        width = np.where(self._two_sided, self.upper - self.lower, 1.0)
        return np.asarray(np.clip(labels, self.lower + margin * width, self.upper - margin * width))

    @cached_property
    def _two_sided(self) -> NDArray[np.bool_]:
        return np.isfinite(self.lower) & np.isfinite(self.upper)

    def unconstrain(self, labels: ArrayLike) -> FloatArray:
        """Coordinates u (..., n_labels) of labels strictly inside the bounds."""
        x = np.asarray(labels, dtype=np.float64)
        has_lower, has_upper = np.isfinite(self.lower), np.isfinite(self.upper)
        with np.errstate(divide="ignore", invalid="ignore"):
            below, above = np.log(x - self.lower), np.log(self.upper - x)
            half = np.where(has_lower, below, np.where(has_upper, above, x))
            return np.asarray(np.where(has_lower & has_upper, below - above, half))

    def constrain(self, u: ArrayLike) -> FloatArray:
        """Labels (..., n_labels) in physical units at u, shape alike; inverse of `unconstrain`."""
        return self.at(u).labels

    def at(self, u: ArrayLike) -> UnconstrainedPoint:
        """Labels and log prior density of u (..., n_labels) with two derivatives each."""
        u = np.asarray(u, dtype=np.float64)
        two, low, high = self._two_sided, np.isfinite(self.lower), np.isfinite(self.upper)
        width = np.where(two, self.upper - self.lower, 1.0)
        lower, upper = np.where(low, self.lower, 0.0), np.where(high, self.upper, 0.0)
        s = expit(u)
        grow = np.exp(np.where(two, 0.0, np.minimum(u, 500.0)))
        sign = np.where(low, 1.0, -1.0)
        one = low ^ high
        labels = np.where(two, lower + width * s, np.where(one, lower + upper + sign * grow, u))
        first = np.where(two, width * s * expit(-u), np.where(one, sign * grow, 1.0))
        second = np.where(two, first * (1 - 2 * s), np.where(one, sign * grow, 0.0))
        log_jac = np.where(two, np.log(width) + log_expit(u) + log_expit(-u), np.where(one, u, 0.0))
        jac_slope = np.where(two, 1 - 2 * s, np.where(one, 1.0, 0.0))
        jac_curve = np.where(two, -2 * s * expit(-u), 0.0)
        off = labels - self.mean
        value = log_jac.sum(axis=-1) + self.log_norm - 0.5 * np.sum(self.precision * off**2, -1)
        slope = jac_slope - self.precision * off * first
        curvature = jac_curve - self.precision * (first**2 + off * second)
        return UnconstrainedPoint(labels, first, second, np.asarray(value), slope, curvature)


_DISTRIBUTIONS = {
    "uniform": ("lower", "upper"),
    "normal": ("mean", "sd"),
    "truncated": ("mean", "sd", "lower", "upper"),
}


def read_priors(path: str | os.PathLike[str]) -> dict[str, LabelPrior]:
    """Read priors, by label, from the TOML file `path`: one table per label.

    For example::

        [TEFF]
        distribution = "uniform"
        lower = 3500
        upper = 5500

        [LOGG]
        distribution = "truncated"
        mean = 2.5
        sd = 0.5
        lower = 0

    Distributions are ``uniform`` (lower, upper), ``normal`` (mean, sd) and ``truncated``
    (mean, sd and one or both of lower and upper). A pair stands for a uniform
    prior too: ``TEFF = [3500, 5500]``, above the tables.

    Raises
    ------
    FileFormatError
        If the file cannot be read, is not TOML, or an entry is unknown or missing.
    LabelError
        If the values do not make a prior.
    """
    source = user_path(path)
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"cannot read priors from {source}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{source} is not a TOML file of priors: {error}.") from error
    return {name: _parse(source, name, entry) for name, entry in content.items()}


def _parse(source: Path, name: str, entry: Any) -> LabelPrior:
    if isinstance(entry, list):
        try:
            return as_prior(entry, name)
        except LabelError as error:
            raise LabelError(f"{source}: {error}") from error
    if not isinstance(entry, dict):
        raise FileFormatError(
            f"{source}: {name} must be a table such as [TEFF], or a pair [lower, upper], not "
            f"{entry!r}."
        )
    values = dict(entry)
    kind = values.pop("distribution", None)
    if kind not in _DISTRIBUTIONS:
        raise FileFormatError(
            f"{source}: [{name}] needs distribution = one of {', '.join(_DISTRIBUTIONS)}, "
            f"not {kind!r}."
        )
    allowed = _DISTRIBUTIONS[kind]
    needed = allowed[:2]
    wrong = [k for k in values if k not in allowed]
    missing = [k for k in needed if k not in values]
    text = [k for k, v in values.items() if isinstance(v, bool) or not isinstance(v, int | float)]
    if wrong or missing or text:
        raise FileFormatError(
            f"{source}: [{name}] of a {kind} prior takes the numbers {', '.join(allowed)}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(wrong)}" if wrong else "")
            + (f"; not a number: {', '.join(text)}" if text else "")
            + "."
        )
    try:
        return LabelPrior(**{k: float(v) for k, v in values.items()})
    except LabelError as error:
        raise LabelError(f"{source}: [{name}]: {error}") from error
