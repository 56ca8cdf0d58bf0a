"""Versions of the pipeline that made spectra and labels: what must not be mixed unasked.

DR17 and DR19 hold the same stars, reduced by different software: spectra of ``dr17`` and ``1.3``
differ in resolution, sky and continuum by more than their noise, and a model that is trained on
both learns that difference with its labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.surveys.apogee.names import apred_of
from bayes_cannon.surveys.catalogue import Catalogue

__all__ = [
    "NOTE",
    "other_reductions",
    "reductions_of",
    "reductions_of_settings",
    "reductions_text",
    "require_one_reduction",
    "require_unmixed",
]

NOTE = "REDUCTION"
"""Column of tables, and key of `NormalizedSpectra.notes`."""


def reductions_of(catalogue: Catalogue) -> NDArray[np.str_]:
    """Version of the pipeline of each row, shape (n_rows,); '' where unknown.

    Of the column REDUCTION, else of the data release of the row (RELEASE) or of the catalogue.

    Parameters
    ----------
    catalogue
        Of a survey.
    """
    table = catalogue.table
    if NOTE in table.colnames:
        return np.asarray(table[NOTE]).astype(np.str_)
    releases = np.array([catalogue.release] * len(catalogue), dtype=np.str_)
    if "RELEASE" in table.colnames:
        releases = np.asarray(table["RELEASE"]).astype(np.str_)
    names = {release: apred_of(release) for release in np.unique(releases).tolist()}
    return np.array([names[r] for r in releases.tolist()], dtype=np.str_)


def reductions_text(names: Iterable[str]) -> str:
    """Versions of the pipeline as one text: ``'1.3+dr17'``; '' where none is known.

    Parameters
    ----------
    names
        Of each spectrum.

    Examples
    --------
    >>> reductions_text(["dr17", "", "1.3", "dr17"])
    '1.3+dr17'
    """
    return "+".join(sorted({str(name) for name in names} - {""}))


def reductions_of_settings(settings: Mapping[str, Any]) -> frozenset[str]:
    """Versions of the pipeline of a training set, from its settings; empty where unknown.

    Sets of earlier versions have their data release alone.

    Parameters
    ----------
    settings
        Of a training set.

    Examples
    --------
    >>> sorted(reductions_of_settings({"reduction": "1.3+dr17"}))
    ['1.3', 'dr17']
    >>> sorted(reductions_of_settings({"release": "dr16"}))
    ['r12']
    """
    said = settings.get("reduction")
    if said is None:
        said = "+".join(apred_of(r) for r in str(settings.get("release") or "").split("+"))
    return frozenset(str(said).split("+")) - {""}


def require_one_reduction(
    names: NDArray[np.str_], asked: Sequence[str], what: str = "the stars that pass the cuts"
) -> None:
    """Raise where spectra are of several versions of the pipeline that were not asked for by name.

    Parameters
    ----------
    names : (n_stars,) str
        Of each spectrum; '' where unknown.
    asked
        Versions asked for.
    what
        The spectra are of, for messages.

    Raises
    ------
    InvalidDataError
        If they are.
    """
    found = Counter(str(name) for name in names.tolist() if name)
    if len(found) < 2 or set(found) <= set(asked):
        return
    told = ", ".join(f"{name}: {n}" for name, n in sorted(found.items()))
    first = max(found, key=lambda name: found[name])
    raise InvalidDataError(
        f"{what} have spectra and labels of several reductions ({told}), which are not mixed in "
        f"one set unless they are asked for by name: Cuts(reductions={(first,)!r}) takes one, "
        f"Cuts(reductions={tuple(sorted(found))!r}) all (--reduction NAME, once each)."
    )


def require_unmixed(dataset: TrainingSet) -> None:
    """Raise where a training set has spectra of reductions that its settings do not name.

    `prepare` notes those that were asked for; a set that was put together otherwise names none.

    Parameters
    ----------
    dataset
        To train on.

    Raises
    ------
    InvalidDataError
        If there are several.
    """
    names = dataset.spectra.notes.get(NOTE)
    if names is not None:
        asked = sorted(reductions_of_settings(dataset.settings))
        require_one_reduction(names, asked, "the training stars")


def other_reductions(table: Table) -> str:
    """What a reader must know of a table's reductions; '' where it is that of the model.

    Parameters
    ----------
    table
        What `catalogue` made.
    """
    seen, trained = (str(table.meta.get(name, "")) for name in ("REDUCTN", "REDUCMOD"))
    if not seen or not trained or set(seen.split("+")) <= set(trained.split("+")):
        return ""
    return (
        f"Spectra of another reduction ({seen}) than those that the model was trained on "
        f"({trained}): offsets between the two are in the labels and not in their errors."
    )
