"""The trained model as a tree of datasets, as its file has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.spectra.labels import Labels

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "cannon_fields",
    "cannon_tree",
]


def cannon_tree(cannon: Cannon) -> xr.DataTree:
    """A trained model as a tree of datasets; `cannon_fields` undoes it exactly.

    Parameters
    ----------
    cannon
        The trained model.
    """
    basis, labels = cannon.basis, cannon.training
    angstrom = {"units": "Angstrom", "medium": cannon.medium}
    pixels = xr.Dataset(
        {
            "theta": (("pixel", "term"), cannon.theta),
            "loadings": (("pixel", "factor"), cannon.loadings),
            "coef_cov": (("pixel", "packed"), cannon.coef_cov),
            "scatter": ("pixel", cannon.scatter),
            "log_scatter_sd": ("pixel", cannon.log_scatter_sd),
            "used": ("pixel", cannon.used.astype(np.int8)),
            "wavelength": ("pixel", cannon.wavelength, angstrom),
            "coef_population": (("coef", "coef_2"), cannon.hyper.covariance),
        },
        attrs={
            "mu_s": cannon.hyper.mu_s,
            "omega_s": cannon.hyper.omega_s,
            "redundancy": cannon.hyper.redundancy,
            "kappa": cannon.kappa,
            "kappa_noise": cannon.kappa_noise,
            "kappa_log_sd": cannon.kappa_log_sd,
            "terms": json.dumps(cannon.terms),
            "term_scale": json.dumps(cannon.term_scale.tolist()),
        },
    )
    training = xr.Dataset(
        {
            "values": (("star", "label_name"), labels.values),
            "errors": (("star", "label_name"), labels.errors),
            "factors": (("star", "factor"), cannon.factors),
            "star_id": ("star", labels.star_id.astype(object)),
            "held_out": ("held", cannon.held_out.astype(object)),
            "center": ("label_name", basis.center),
            "scale": ("label_name", basis.scale),
        }
    )
    groups: dict[str, xr.Dataset | xr.DataTree] = {"pixels": pixels, "training": training}
    history = {
        name: ([f"{name}_{i}" for i in range(np.ndim(array))], np.asarray(array))
        for name, array in cannon.history.items()
    }
    groups["history"] = xr.Dataset(history)
    if cannon.model_error is not None:
        for node in cannon.model_error.subtree:
            groups[f"model_error{node.path.rstrip('/')}"] = node.to_dataset()
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(
        names=json.dumps(basis.names),
        units=json.dumps(basis.units),
        degree=basis.degree,
        chips=json.dumps(cannon.chips),
        settings=json.dumps(dict(cannon.settings)),
        simulated=int(cannon.simulated),
    )
    return tree


def cannon_fields(tree: xr.DataTree) -> dict[str, Any]:
    """Fields of the `Cannon` of a tree, by name.

    Parameters
    ----------
    tree
        Of `cannon_tree`.
    """
    pixels, training = tree["pixels"].to_dataset(), tree["training"].to_dataset()
    names, units = (tuple(json.loads(tree.attrs[k])) for k in ("names", "units"))
    basis = PolynomialBasis(
        names, units, training["center"].values, training["scale"].values,
        int(tree.attrs["degree"]),
    )  # fmt: skip
    ids = training["star_id"].values.astype(np.str_)
    labels = Labels(names, training["values"].values, training["errors"].values, ids, units)
    child = tree.children.get("model_error")
    model_error = child.copy() if child is not None else None
    if model_error is not None:
        model_error.orphan()
    hyper = Hyperparameters(
        pixels["coef_population"].values,
        float(pixels.attrs["mu_s"]),
        float(pixels.attrs["omega_s"]),
        float(pixels.attrs["redundancy"]),
    )
    arrays = {k: pixels[k].values for k in ("theta", "loadings", "coef_cov", "scatter")}
    return dict(
        basis=basis,
        wavelength=pixels["wavelength"].values,
        chips=tuple((int(a), int(b)) for a, b in json.loads(tree.attrs["chips"])),
        **arrays,
        log_scatter_sd=pixels["log_scatter_sd"].values,
        used=pixels["used"].values.astype(bool),
        hyper=hyper,
        training=labels,
        held_out=training["held_out"].values.astype(np.str_),
        factors=training["factors"].values,
        history={str(k): v.values for k, v in tree["history"].data_vars.items()},
        model_error=model_error,
        settings=json.loads(tree.attrs["settings"]),
        simulated=bool(tree.attrs["simulated"]),
        medium=str(pixels["wavelength"].attrs.get("medium", "vacuum")),
        kappa=np.atleast_1d(pixels.attrs["kappa"]).astype(np.float64),
        kappa_noise=np.atleast_1d(pixels.attrs["kappa_noise"]).astype(np.float64),
        kappa_log_sd=float(pixels.attrs["kappa_log_sd"]),
        terms=tuple(json.loads(pixels.attrs["terms"])),
        term_scale=np.array(json.loads(pixels.attrs["term_scale"]), dtype=np.float64),
    )
