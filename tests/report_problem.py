"""A run written from arrays, without inference: many stars, some with hostile names."""

from pathlib import Path

import numpy as np
import xarray as xr

from bayes_cannon.analysis.catalogued.files import write_catalogue
from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.base.packing import pack
from bayes_cannon.inference.flags import flag_attributes
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.runs.fingerprint import digest_of_model, digest_of_spectra
from bayes_cannon.runs.inputs import describe_inputs
from bayes_cannon.runs.run import write_summary
from bayes_cannon.runs.store import RunStore
from bayes_cannon.spectra.dataset import CutStep, TrainingSet
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS, WAVELENGTH

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "</style></section><b>bold</b>",
    "../../../outside/of/the/folder",
    r"2M$\frac{1}$ & 'quoted' $",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe" + "x" * 200,
)
SCALE = np.array([250.0, 0.5, 0.3, 0.1, 0.1])
CENTER = np.array([4700.0, 2.5, -0.2, 0.05, 0.1])
FORMAL = np.array([6.0, 0.02, 0.006, 0.007, 0.007])
ERROR = np.array([25.0, 0.06, 0.02, 0.02, 0.02])
CATALOGUE = np.array([30.0, 0.05, 0.015, 0.02, 0.02])


def make_names(n_stars: int, hostile: bool) -> np.ndarray:
    """Ids of stars, the hostile ones first."""
    names = [f"2M{i:08d}+{i % 9000:07d}" for i in range(n_stars)]
    if hostile:
        names[: len(HOSTILE)] = HOSTILE
    return np.array(names)


def make_model(n_pixels: int | None, seed: int = 3) -> Cannon:
    """A model of five labels, noise for lines; on APOGEE's pixels where no number is given."""
    rng = np.random.default_rng(seed)
    values = CENTER + SCALE * rng.normal(size=(300, 5))
    ids = np.array([f"train{i}" for i in range(300)])
    training = Labels(DEFAULT_LABELS, values, CATALOGUE, ids)
    basis = PolynomialBasis.from_labels(training)
    pixels = np.concatenate([np.arange(a, b) for a, b in ASPCAP_WINDOWS])[:n_pixels]
    n, n_factors = pixels.size, 3
    cov = pack(1e-6 * np.eye(basis.n_terms + n_factors))
    chips = ((0, n // 2), (n // 2, n))
    return Cannon(
        basis=basis,
        wavelength=WAVELENGTH[pixels],
        chips=chips,
        theta=rng.normal(size=(n, basis.n_terms)) * 0.01 + np.eye(basis.n_terms)[0],
        loadings=rng.normal(size=(n, n_factors)) * 0.01,
        coef_cov=np.broadcast_to(cov, (n, cov.size)).astype(np.float32),
        scatter=rng.uniform(0.001, 0.01, n),
        log_scatter_sd=np.full(n, 0.1),
        used=rng.random(n) < 0.98,
        hyper=Hyperparameters(0.02**2 * np.eye(basis.n_terms + n_factors), -5.0, 0.5),
        training=training,
        held_out=np.array([], dtype=np.str_),
        factors=rng.normal(size=(300, n_factors)),
        history={
            "factor_grid": np.arange(4.0), "predictive": np.arange(4.0),
            "predictive_error": np.full(4, 0.1),
        },
        settings={"training": {"method": "map", "priors": {"coef_scale": 1.0}},
                  "versions": {"pymc": "6.0"}},
        simulated=True,
    )  # fmt: skip


def make_result(star_id, values, seed: int = 5, n_draws: int = 60) -> xr.DataTree:
    """Posteriors about `values`, shape (n_stars, n_labels), the second star without one."""
    rng = np.random.default_rng(seed)
    n_stars = star_id.size
    groups = {}
    for group, error in (("posterior", FORMAL), ("calibrated_posterior", ERROR)):
        noise = rng.normal(size=(2, n_draws, n_stars, 5)) * error
        draws = (values + noise).astype(np.float32)
        draws[:, :, 1] = np.nan
        groups[group] = xr.Dataset(
            {n: (("chain", "draw", "star"), draws[..., i]) for i, n in enumerate(DEFAULT_LABELS)},
            coords={"chain": [0, 1], "draw": np.arange(n_draws), "star": star_id},
        )
        for name in DEFAULT_LABELS:
            groups[group][name].attrs["units"] = "K" if name == "TEFF" else "dex"
    flag = np.zeros(n_stars, dtype=np.int32)
    flag[0], flag[1], flag[2::37] = 64 + 4096, 1, 4096
    columns = {
        "rhat_max": np.full(n_stars, 1.001), "ess_bulk_min": rng.uniform(500, 2000, n_stars),
        "ess_tail_min": rng.uniform(500, 2000, n_stars), "divergences": np.zeros(n_stars),
        "chi2_p": rng.random(n_stars), "mahalanobis": rng.uniform(0, 3, n_stars),
    }  # fmt: skip
    columns["chi2_p"][2] = 1e-9
    groups["star_stats"] = xr.Dataset(
        {name: ("star", column) for name, column in columns.items()}
        | {"label_flag": ("star", flag, flag_attributes())},
        coords={"star": star_id},
    )
    wide = np.array([10000.0, 10, 2, 2, 2])
    groups["constant_data"] = xr.Dataset(
        {
            "prior_lower": ("label_name", -wide),
            "prior_upper": ("label_name", wide),
            "label_scale": ("label_name", SCALE),
        },
        coords={"label_name": list(DEFAULT_LABELS)},
    )
    return xr.DataTree.from_dict(groups)


def make_run(
    folder: Path,
    *,
    n_stars: int,
    hostile: bool = False,
    labelled: bool = True,
    n_pixels: int | None = None,
    noted: bool = True,
) -> Path:
    """Write a run, and beside it ``cannon.nc`` and ``dataset.nc``, which it notes if asked to.

    The first star is far from its catalogue labels, the third fits badly.
    """
    rng = np.random.default_rng(11)
    cannon, star_id = make_model(n_pixels), make_names(n_stars, hostile)
    true = CENTER + 0.8 * SCALE * rng.normal(size=(n_stars, 5))
    fitted = true + ERROR * rng.normal(size=true.shape)
    theirs = true + CATALOGUE * rng.normal(size=true.shape)
    theirs[0] += 12 * CATALOGUE
    flux = cannon.predict(true).flux + 0.01 * rng.normal(size=(n_stars, cannon.n_pixels))
    spectra = NormalizedSpectra(
        star_id, cannon.wavelength, flux, np.full(flux.shape, 1e4),
        snr=rng.uniform(60, 300, n_stars), chips=cannon.chips, simulated=True,
    )  # fmt: skip
    labels = Labels(DEFAULT_LABELS, theirs, CATALOGUE, star_id)
    step = CutStep("snr", "SNR < 50, or unknown", removed=5, remaining=n_stars)
    cannon.save(folder / "cannon.nc")
    TrainingSet(spectra, labels, cut_steps=(step,)).save(folder / "dataset.nc")
    run, result = folder / "run", make_result(star_id, fitted)
    digests = {"model": digest_of_model(cannon), "spectra": digest_of_spectra(spectra)}
    with RunStore(
        run, star_id, block_size=n_stars, digests=digests | {"version": "0"}, simulated=True
    ) as store:
        store.write(0, result)
    table = catalogue(result, aspcap=labels if labelled else None)
    table.meta["SIMULATE"] = True
    write_catalogue(table, run)
    summary = {"method": "nuts", "seed": 1, "simulated": True, "seconds_per_star": 0.09,
               "settings": {"draws": 60}, "priors": {}, "model": dict(cannon.settings)}  # fmt: skip
    if noted:
        files = {"cannon": [folder / "cannon.nc"], "spectra": [folder / "dataset.nc"]}
        summary["inputs"] = describe_inputs(run, files)
    write_summary(run, summary)
    return run
