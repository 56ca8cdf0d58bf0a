"""The real giants that come with the package: Gaia XP spectra with labels of APOGEE DR17."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.resources import data_path
from bayes_cannon.errors import FileFormatError
from bayes_cannon.spectra.arrays import training_set_from_arrays
from bayes_cannon.spectra.dataset import CutStep, TrainingSet

__all__ = [
    "load_gaia_xp_giants",
]


_ARRAYS = (
    "apogee_id", "gaia_dr3_source_id", "wavelength_nm", "flux", "flux_error", "medflux",
    "label_names", "labels", "label_errors", "ak_targ", "jhk", "g_bp_rp",
)  # fmt: skip
_BANDS = {"jhk": ("J", "H", "K"), "g_bp_rp": ("G", "BP", "RP")}


def load_gaia_xp_giants(*, extinction: bool = True) -> TrainingSet:
    """Read 1500 real giants: Gaia DR3 XP spectra, with labels of APOGEE DR17 as their catalogue.

    Nothing in them is simulated; ``data/README.md`` says where they come from and whom to
    credit. Each spectrum has 343 samples from 3360 to 10200 Å in vacuum, 20 Å apart, and is divided
    by its own median: that takes the place of a continuum, which spectra of this resolution (20 to
    90) do not show. They are as observed: neither reddening nor radial velocity is taken out.

    The samples are computed from 110 coefficients, so that their noise is correlated and they are
    not 343 independent measurements; the quoted errors are those of each sample by itself.

    Parameters
    ----------
    extinction
        Make the extinction ``AK_TARG`` (mag, from the selection of APOGEE's targets; without an
        error) a fifth label; otherwise it is left to the nuisance factors.

    Returns
    -------
    TrainingSet
        Labels ``TEFF`` (K), ``LOGG``, ``FE_H``, ``ALPHA_M`` (dex) with ASPCAP's errors, and
        ``AK_TARG``. Star ids are those of APOGEE; `TrainingSet.info` holds
        ``gaia_dr3_source_id`` (int64), ``apogee_id``, the magnitudes ``G``, ``BP``, ``RP``, ``J``,
        ``H``, ``K``, ``AK_TARG``, and ``median_flux`` (W m⁻² nm⁻¹) by which the flux was divided.
        ``spectra.snr`` is the median signal-to-noise ratio of a sample.

    Raises
    ------
    FileFormatError
        If the package's file is missing or damaged.

    Examples
    --------
    >>> stars = load_gaia_xp_giants()
    >>> stars.n_stars, stars.spectra.n_pixels, stars.labels.names
    (1500, 343, ('TEFF', 'LOGG', 'FE_H', 'ALPHA_M', 'AK_TARG'))
    """
    stored = _read(data_path("gaia_xp_giants.npz"))
    names = [str(name) for name in stored["label_names"]]
    labels = {name: stored["labels"][:, i] for i, name in enumerate(names)}
    errors = {name: stored["label_errors"][:, i] for i, name in enumerate(names)}
    if extinction:
        labels["AK_TARG"] = stored["ak_targ"]
    dataset = training_set_from_arrays(
        10.0 * stored["wavelength_nm"].astype(np.float64), stored["flux"], labels,
        error=stored["flux_error"], star_id=stored["apogee_id"].astype(np.str_).tolist(),
        label_errors=errors, units={"AK_TARG": "mag"} if extinction else None, id_name="APOGEE_ID",
        catalogue="ASPCAP",
    )  # fmt: skip
    info = {
        "apogee_id": stored["apogee_id"].astype(np.str_),
        "gaia_dr3_source_id": stored["gaia_dr3_source_id"],
        "median_flux": stored["medflux"],
        "AK_TARG": stored["ak_targ"],
        **{b: stored[key][:, i] for key, bands in _BANDS.items() for i, b in enumerate(bands)},
    }
    what = "giants with Gaia DR3 XP spectra and APOGEE DR17 labels, 3500 < Teff < 5700 K"
    return replace(
        dataset,
        cut_steps=(CutStep("as shipped", what, 0, dataset.n_stars),),
        settings={**dataset.settings, "spectra": "Gaia DR3 XP", "labels": "APOGEE DR17"},
        info=info,
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in _ARRAYS if name not in stored]
            if missing:
                raise FileFormatError(f"{path.name} is damaged: it lacks {', '.join(missing)}.")
            return {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path.name} cannot be read: {error}; reinstall.") from error
