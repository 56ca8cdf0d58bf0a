"""Digests of what a run's posteriors depend on, so that a run goes on only with the same."""

from __future__ import annotations

import json

import numpy as np

from bayes_cannon._version import __version__
from bayes_cannon.base.digests import ContentDigest
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.stored import AnySpectra

__all__ = [
    "digest_of_labels",
    "digest_of_model",
    "digest_of_spectra",
    "fingerprint",
]


def fingerprint(
    cannon: Cannon,
    spectra: AnySpectra,
    settings: InferenceSettings,
    priors: LabelPriors,
    seed: int,
) -> dict[str, str]:
    """Digests of everything a run's posteriors depend on.

    The number of cores is no part of it: draws depend on the seed and the star alone.

    Parameters
    ----------
    cannon, spectra, settings, priors, seed
        Of the inference.

    Returns
    -------
    dict of str
        By what it is of: ``model``, ``spectra``, ``settings``, ``priors``, ``seed``, ``version``.
    """
    kept = {name: value for name, value in settings.record().items() if name != "cores"}
    return {
        "model": digest_of_model(cannon),
        "spectra": digest_of_spectra(spectra),
        "settings": json.dumps(kept, sort_keys=True),
        "priors": repr(priors),
        "seed": str(int(seed)),
        "version": __version__,
    }


def digest_of_labels(labels: Labels | None) -> str:
    """Digest of a catalogue's labels; empty for none.

    Parameters
    ----------
    labels
        Of the catalogue, or None.
    """
    if labels is None:
        return ""
    digest = ContentDigest()
    _add_labels(digest, labels)
    return digest.hex


def digest_of_model(cannon: Cannon) -> str:
    """Digest of what posteriors depend on in a trained model.

    Parameters
    ----------
    cannon
        The trained model.
    """
    digest = ContentDigest()
    basis = cannon.basis
    chips = [[int(start), int(stop)] for start, stop in cannon.chips]
    digest.text(
        json.dumps([basis.names, basis.units, basis.degree, cannon.medium, chips, cannon.terms])
    )
    for array in (
        basis.center, basis.scale, cannon.wavelength, cannon.theta, cannon.loadings,
        cannon.coef_cov, cannon.scatter, cannon.log_scatter_sd, cannon.used, cannon.factors,
        cannon.kappa, cannon.kappa_noise, cannon.term_scale,
    ):  # fmt: skip
        digest.array(np.asarray(array))
    _add_labels(digest, cannon.training)
    if cannon.model_error is not None:
        digest.tree(cannon.model_error)
    return digest.hex


def digest_of_spectra(spectra: AnySpectra) -> str:
    """Digest of spectra, their stars and their wavelengths; the same in memory and on disk.

    Parameters
    ----------
    spectra
        Normalised spectra; those on disk are read block by block.
    """
    digest = ContentDigest()
    digest.text(str(spectra.simulated))
    digest.array(spectra.star_id)
    digest.array(spectra.wavelength)
    shape = (spectra.n_stars, spectra.n_pixels)
    for name in ("flux", "ivar"):
        digest.blocks(shape, np.dtype(np.float32), spectra.blocks(name))
    return digest.hex


def _add_labels(digest: ContentDigest, labels: Labels) -> None:
    digest.text(json.dumps([labels.names, labels.units]))
    for values in (labels.values, labels.errors, labels.star_id):
        digest.array(values)
