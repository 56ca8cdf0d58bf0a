"""Digests of what a run's posteriors depend on, so that a run goes on only with the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon._version import __version__
from bayes_cannon.cannon import Cannon
from bayes_cannon.inference_settings import InferenceSettings
from bayes_cannon.labels import Labels
from bayes_cannon.priors import LabelPriors
from bayes_cannon.spectra import NormalizedSpectra

__all__ = ["digest_of_labels", "fingerprint"]


class _Digest:
    """SHA-256 of arrays and texts, each with its kind and length; arrays are not copied."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def array(self, values: NDArray[Any]) -> None:
        values = np.ascontiguousarray(values)
        if values.dtype.kind in "US":
            self.text(json.dumps(values.tolist()))
            return
        self.text(f"{values.dtype.str}{values.shape}")
        self._sha.update(values.reshape(-1).view(np.uint8).data)

    def text(self, text: str) -> None:
        content = text.encode()
        self._sha.update(f"{len(content)}:".encode())
        self._sha.update(content)

    def labels(self, labels: Labels) -> None:
        self.text(json.dumps([labels.names, labels.units]))
        for values in (labels.values, labels.errors, labels.star_id):
            self.array(values)

    def tree(self, tree: xr.DataTree) -> None:
        for node in sorted(tree.subtree, key=lambda node: node.path):
            self.text(node.path)
            dataset = node.to_dataset()
            for name in sorted(map(str, dataset.variables)):
                values = dataset[name].values
                self.text(name)
                self.array(values.astype(np.str_) if values.dtype.kind == "O" else values)

    @property
    def hex(self) -> str:
        return self._sha.hexdigest()


def fingerprint(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    settings: InferenceSettings,
    priors: LabelPriors,
    seed: int,
) -> dict[str, str]:
    """Digests of everything a run's posteriors depend on.

    The number of cores is no part of it: draws depend on the seed and the star alone.

    Returns
    -------
    dict of str
        By what it is of: ``model``, ``spectra``, ``settings``, ``priors``, ``seed``, ``version``.
    """
    kept = {name: value for name, value in asdict(settings).items() if name != "cores"}
    return {
        "model": _of_model(cannon),
        "spectra": _of_spectra(spectra),
        "settings": json.dumps(kept, sort_keys=True),
        "priors": repr(priors),
        "seed": str(int(seed)),
        "version": __version__,
    }


def digest_of_labels(labels: Labels | None) -> str:
    """Digest of a catalogue's labels; empty for none."""
    if labels is None:
        return ""
    digest = _Digest()
    digest.labels(labels)
    return digest.hex


def _of_model(cannon: Cannon) -> str:
    digest = _Digest()
    basis = cannon.basis
    digest.text(json.dumps([basis.names, basis.units, basis.degree]))
    for array in (
        basis.center, basis.scale, cannon.wavelength, cannon.theta, cannon.loadings,
        cannon.coef_cov, cannon.scatter, cannon.log_scatter_sd, cannon.used, cannon.factors,
    ):  # fmt: skip
        digest.array(np.asarray(array))
    digest.labels(cannon.training)
    if cannon.model_error is not None:
        digest.tree(cannon.model_error)
    return digest.hex


def _of_spectra(spectra: NormalizedSpectra) -> str:
    digest = _Digest()
    digest.text(str(spectra.simulated))
    for array in (spectra.star_id, spectra.wavelength, spectra.flux, spectra.ivar):
        digest.array(array)
    return digest.hex
