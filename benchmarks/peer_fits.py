"""Train and label with another package, in an environment of its own; see `peers.py`.

python peer_fits.py pollux|annieslasso IN.npz OUT.npz

IN holds flux, ivar, labels and errors of training stars and flux and ivar of others (``test_``);
OUT gets labels and their quoted errors, and the seconds of training and labelling.
"""

import sys
import time

import numpy as np


def pollux(given):
    """pollux's Cannon as its documentation uses it: coefficients and scatter, then labels."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import pollux
    from pollux.data import OutputData, PolluxData, ShiftScalePreprocessor

    def spectra(prefix=""):
        ivar = given[prefix + "ivar"]
        return given[prefix + "flux"], 1 / np.sqrt(np.where(ivar > 0, ivar, 1e-8))

    start = time.perf_counter()
    flux, error = spectra()
    of_labels = ShiftScalePreprocessor.from_data(given["labels"])
    of_flux = ShiftScalePreprocessor.from_data(flux)
    data = PolluxData(
        label=OutputData(given["labels"], given["errors"], of_labels),
        flux=OutputData(flux, error, of_flux),
    ).preprocess()
    cannon = pollux.Cannon(label_size=given["labels"].shape[1], output_size=flux.shape[1])
    trained = cannon.optimize_iterative(
        data, blocks=["flux:data", "flux:err"], fixed_pars={"latents": data["label"].data},
        max_cycles=8, rng_key=jax.random.PRNGKey(0), progress=False,
    )  # fmt: skip
    jax.block_until_ready(trained.params)
    middle = time.perf_counter()
    flux, error = spectra("test_")
    data = PolluxData(flux=OutputData(flux, error, of_flux)).preprocess()
    found = cannon.optimize_iterative(
        data, blocks=["latents"], fixed_pars=cannon.output_pars(trained.params),
        rng_key=jax.random.PRNGKey(1), progress=False,
    )  # fmt: skip
    errors = cannon.latent_uncertainties(data, found.params, names="flux")
    labels = np.asarray(of_labels.inverse_transform(found.params["latents"]))
    return (
        labels,
        np.asarray(errors * of_labels.scale),
        middle - start,
        time.perf_counter() - middle,
    )


def annieslasso(given):
    """The Cannon of AnniesLasso, quadratic, without regularisation."""
    import thecannon as tc

    names = tuple(f"L{i}" for i in range(given["labels"].shape[1]))
    start = time.perf_counter()
    quadratic = tc.vectorizer.PolynomialVectorizer(names, 2)
    model = tc.CannonModel(given["labels"], given["flux"], given["ivar"], vectorizer=quadratic)
    model.train(threads=1)
    middle = time.perf_counter()
    labels, covariances, _ = model.test(given["test_flux"], given["test_ivar"], threads=1)
    errors = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return labels, errors, middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    which, source, target = sys.argv[1:]
    with np.load(source) as file:
        arrays = {name: np.asarray(file[name], dtype=np.float64) for name in file}
    labels, errors, training, labelling = {"pollux": pollux, "annieslasso": annieslasso}[which](
        arrays
    )
    np.savez(target, labels=labels, errors=errors, training=training, labelling=labelling)
