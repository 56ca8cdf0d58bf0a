"""What a file of a training set holds: groups of arrays, to and from the objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.spectra.dataset import CutStep, TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import DEFAULT_ID

__all__ = [
    "from_tree",
    "spectra_in_memory",
    "to_tree",
    "with_coordinates",
]


_PIXELS = ("flux", "ivar")


def to_tree(dataset: TrainingSet, *, pixels: bool = True) -> xr.DataTree:
    """Return what a file of a training set holds.

    Parameters
    ----------
    dataset
        The training set.
    pixels
        Whether flux and ivar are in it.
    """
    spectra, labels = dataset.spectra, dataset.labels
    light = {name: (("star", "pixel"), getattr(spectra, name)) for name in _PIXELS if pixels}
    texts = {
        "settings": dict(dataset.settings),
        "cut_steps": [asdict(s) for s in dataset.cut_steps],
        "problems": [asdict(p) for p in dataset.problems],
        "label_names": labels.names,
        "label_units": labels.units,
        "chips": spectra.chips,
    }
    angstrom = {"units": "Angstrom", "medium": spectra.medium}
    whole = xr.Dataset(
        {
            "star_id": ("star", spectra.star_id.astype(object)),
            "wavelength": ("pixel", spectra.wavelength, angstrom),
            **light,
            "snr": ("star", spectra.snr),
            "label_values": (("star", "label_name"), labels.values),
            "label_errors": (("star", "label_name"), labels.errors),
            # As variables, since attributes end at 64 kB.
            **{name: ((), json.dumps(value)) for name, value in texts.items()},
        },
        attrs={"simulated": int(spectra.simulated), "id_name": spectra.id_name},
    )
    info = xr.Dataset(
        {
            name: ("star", column.astype(object) if column.dtype.kind == "U" else column)
            for name, column in dataset.info.items()
        }
    )
    groups = {"/": whole, "/info": info}
    if spectra.notes:
        texts_of_stars = {n: ("star", text.astype(object)) for n, text in spectra.notes.items()}
        groups["/notes"] = xr.Dataset(texts_of_stars)
    return xr.DataTree.from_dict(groups)


def with_coordinates(tree: xr.DataTree) -> xr.DataTree:
    """Return what `to_tree` made with coordinates, by which other programs choose stars and labels.

    Parameters
    ----------
    tree
        What it returned.
    """
    whole = tree.to_dataset(inherit=False)
    found = whole.set_coords("wavelength").assign_coords(
        star=("star", whole["star_id"].values),
        label_name=("label_name", json.loads(str(whole["label_names"].values))),
    )
    for name, text in (("flux", "flux over the continuum"), ("ivar", "its inverse variance")):
        found[name].attrs = {"long_name": text, "units": "1"}
    tree.dataset = found
    return tree


def from_tree[Set: TrainingSet](
    tree: xr.DataTree,
    kind: type[Set],
    spectra_of: Callable[[xr.Dataset, dict[str, Any]], Any],
) -> Set:
    """Return the training set of which `to_tree` made a tree.

    Parameters
    ----------
    tree
        What it returned.
    kind
        Class of the set.
    spectra_of
        Makes the spectra of the root group and of all their attributes but flux and ivar.
    """
    whole = tree.to_dataset()

    def text(name: str) -> Any:
        return json.loads(str(whole[name].values))

    star_id = whole["star_id"].values.astype(np.str_)
    older = "APOGEE_ID" if "apogee_id" in tree["info"].data_vars else DEFAULT_ID
    id_name = str(tree.attrs.get("id_name", older))
    facts = {
        "star_id": star_id,
        "wavelength": whole["wavelength"].values,
        "snr": whole["snr"].values,
        "chips": tuple((int(a), int(b)) for a, b in text("chips")),
        "simulated": bool(tree.attrs["simulated"]),
        "medium": str(whole["wavelength"].attrs.get("medium", "vacuum")),
        "id_name": id_name,
        "notes": _notes_of(tree),
    }
    labels = Labels(
        tuple(text("label_names")),
        whole["label_values"].values,
        whole["label_errors"].values,
        star_id,
        tuple(text("label_units")),
        id_name,
    )
    columns = {str(name): c.values for name, c in tree["info"].to_dataset().data_vars.items()}
    return kind(
        spectra=spectra_of(whole, facts),
        labels=labels,
        cut_steps=tuple(CutStep(**s) for s in text("cut_steps")),
        problems=tuple(StarProblem(**p) for p in text("problems")),
        settings=text("settings"),
        info={n: c.astype(np.str_) if c.dtype.kind in "OT" else c for n, c in columns.items()},
    )


def spectra_in_memory(whole: xr.Dataset, facts: dict[str, Any]) -> NormalizedSpectra:
    """Return spectra whose flux and ivar are in the root group too.

    Parameters
    ----------
    whole
        The root group.
    facts
        All their other attributes.
    """
    return NormalizedSpectra(**(facts | {name: whole[name].values for name in _PIXELS}))


def _notes_of(tree: xr.DataTree) -> dict[str, NDArray[np.str_]]:
    """Texts beside the stars' names; files of earlier versions have none."""
    if "notes" not in tree.children:
        return {}
    notes = tree["notes"].to_dataset()
    return {str(name): text.values.astype(np.str_) for name, text in notes.data_vars.items()}
