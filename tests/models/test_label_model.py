"""The label model: fused operations, transform and compiled density against plain PyMC."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy.stats import kstest, multivariate_normal

from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.likelihood.compression import compress
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.modes import fit_laplace
from bayes_cannon.inference.sampler import LabelSampler, NutsSettings, star_seed
from bayes_cannon.models.label_model import (
    build_full_pixel_model,
    build_label_model,
    build_plain_model,
    coordinates,
)
from bayes_cannon.models.label_ops import Unwhiten
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors
from tests.label_problem import NAMES, make_problem

SEED = 7
PRIORS = {
    "uniform": {},
    "mixed": {
        "TEFF": LabelPrior.normal(4700, 500),
        "LOGG": LabelPrior.truncated(2.5, 1.0, lower=0),
        "FE_H": LabelPrior.truncated(-0.2, 0.5, -1.0, 0.5),
    },
    "one-sided": {"FE_H": LabelPrior.truncated(-0.2, 0.5, upper=0.7)},
}
PLAIN = pytensor.compile.mode.Mode(linker="py", optimizer="fast_compile")


def solved(kind="uniform", **options):
    """A star compressed at its mode, with its whitening."""
    problem = make_problem(n_stars=1, **options)
    pixels = PixelModel.from_cannon(problem.cannon, coefficient_uncertainty=False)
    priors = LabelPriors.for_labels(NAMES, PRIORS[kind])
    flux, ivar = (pixels.take(a) for a in (problem.spectra.flux, problem.spectra.ivar))
    laplace, data = fit_laplace(pixels, priors, flux, ivar)
    return problem, priors, laplace, data


def density_and_gradient(model):
    """Function of the joined value variables, run in plain Python."""
    raveled, joined = pm.pytensorf.join_nonshared_inputs(
        model.initial_point(), [model.logp()], model.value_vars
    )
    outputs = [raveled[0], pt.grad(raveled[0], joined)]
    return pytensor.function([joined], outputs, mode=PLAIN)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("kind", PRIORS)
def test_density_and_gradient_are_those_of_plain_pymc(degree, kind):
    problem, priors, laplace, data = solved(kind, degree=degree)
    basis, mean, chol = problem.cannon.basis, laplace.u[0], laplace.chol[0]
    model = build_label_model(basis, priors, A=data.A[0], b=data.b[0], mean=mean, chol=chol)
    plain = build_plain_model(basis, priors, data.A[0], data.b[0])
    fused, oracle = density_and_gradient(model), density_and_gradient(plain)
    for y in np.random.default_rng(SEED).standard_normal((5, 3)):
        u = mean + chol @ y
        value, gradient = fused(y)
        expected, slope = oracle(_pymc_coordinates(plain, priors.constrain(u)))
        # PyMC maps u <= upper bound by -exp; the Jacobian of label to u is what counts
        np.testing.assert_allclose(
            value - np.log(np.diag(chol)).sum(), expected, rtol=1e-10, atol=1e-6
        )
        np.testing.assert_allclose(gradient, chol.T @ slope, rtol=1e-5, atol=1e-5)


def _pymc_coordinates(model, labels):
    """Value variables of the plain model at given labels."""
    out = []
    for name, value in zip(NAMES, labels, strict=True):
        variable = model[name]
        transform = model.rvs_to_transforms[variable]
        if transform is not None:
            value = transform.forward(pt.as_tensor(value), *variable.owner.inputs)
            value = value.eval(mode=PLAIN)
        out.append(float(value))
    return np.array(out)


@pytest.mark.parametrize("n_factors", [0, 2])
def test_compressed_density_is_that_of_all_pixels(n_factors):
    problem, priors, laplace, data = solved(n_factors=n_factors, n_pixels=80)
    cannon, mean, chol = problem.cannon, laplace.u[0], laplace.chol[0]
    flux, ivar = problem.spectra.flux[0], problem.spectra.ivar[0]
    model = build_label_model(cannon.basis, priors, A=data.A[0], b=data.b[0], mean=mean, chol=chol)
    full = build_full_pixel_model(cannon, flux, ivar, priors)
    fused, oracle = density_and_gradient(model), density_and_gradient(full)
    weight = 1 / (1 / ivar + cannon.scatter**2)
    precision = cannon.loadings.T @ (weight[:, None] * cannon.loadings) + np.eye(n_factors)
    offsets = []
    for y in np.random.default_rng(SEED).standard_normal((4, 3)):
        u = mean + chol @ y
        z = np.random.default_rng(SEED).standard_normal(n_factors)
        value, gradient = fused(y)
        joint, slope = oracle(np.r_[u, z])
        v = cannon.basis(priors.constrain(u))[None]
        factors = data.factors(v)[0]
        given_labels = 0.0
        if n_factors:
            given_labels = multivariate_normal(factors, np.linalg.inv(precision)).logpdf(z)
            joint_slope = oracle(np.r_[u, factors])[1][:3]
        else:
            joint_slope = slope
        offsets.append(value - (joint - given_labels))
        np.testing.assert_allclose(gradient, chol.T @ joint_slope, rtol=1e-4, atol=1e-3)
    expected = np.log(np.diag(chol)).sum() - data.const[0]
    np.testing.assert_allclose(offsets, expected, atol=1e-5)


def test_compiled_density_is_that_of_the_model():
    problem, priors, laplace, data = solved()
    sampler = LabelSampler.compile(problem.cannon.basis, priors)
    mean, chol = laplace.u[0], laplace.chol[0]
    model = build_label_model(
        problem.cannon.basis, priors, A=data.A[0], b=data.b[0], mean=mean, chol=chol
    )
    plain = density_and_gradient(model)
    for y in 2 * np.random.default_rng(SEED).standard_normal((5, 3)):
        value, gradient = sampler.log_density({"A": data.A[0], "b": data.b[0]}, mean, chol, y)
        expected, slope = plain(y)
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-6)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-7)


def test_one_compilation_serves_every_scaling_of_the_labels():
    one, two = make_problem(n_stars=1), make_problem(n_stars=1, seed=2)
    priors = LabelPriors.for_labels(NAMES)
    first = LabelSampler.compile(one.cannon.basis, priors)
    second = LabelSampler.compile(two.cannon.basis, LabelPriors.for_labels(NAMES))
    assert first.compiled is second.compiled


def test_prior_predictive_draws_follow_the_priors():
    # false alarm 3e-4 in all; the seed is fixed
    basis = make_problem(n_stars=1).cannon.basis
    model = build_label_model(basis, LabelPriors.for_labels(NAMES, PRIORS["mixed"]))
    draws = pm.draw(model["labels"], 500, random_seed=SEED, mode=PLAIN)
    priors = LabelPriors.for_labels(NAMES, PRIORS["mixed"])
    reference = priors.sample(5000, np.random.default_rng(SEED))
    for k in range(3):
        assert kstest(draws[:, k], reference[:, k]).pvalue > 1e-4


@pytest.mark.parametrize("kind", PRIORS)
def test_transform_goes_forward_and_back(kind):
    basis = make_problem(n_stars=1).cannon.basis
    model = build_label_model(basis, LabelPriors.for_labels(NAMES, PRIORS[kind]))
    labels = model["labels"]
    transform = model.rvs_to_transforms[labels]
    y = np.array([0.5, -1.0, 0.3])
    inputs = labels.owner.inputs
    there = transform.backward(pt.as_tensor(y), *inputs)
    back = transform.forward(there, *inputs)
    np.testing.assert_allclose(back.eval(mode=PLAIN), y, atol=1e-8)


def test_fused_jacobian_is_the_determinant():
    priors = LabelPriors.for_labels(NAMES, PRIORS["mixed"])
    basis = make_problem(n_stars=1).cannon.basis
    rng = np.random.default_rng(SEED)
    chol = np.tril(0.3 * rng.standard_normal((3, 3)), -1) + np.diag([0.5, 1.0, 2.0])
    place = coordinates(basis, priors, np.array([4700.0, 0.8, 0.1]), chol)
    y = pt.dvector("y", shape=(3,))
    labels, log_jac = Unwhiten()(y, priors.lower, priors.upper, place)
    rows = [pt.grad(labels[k], y) for k in range(3)]
    function = pytensor.function([y], [log_jac, *rows], mode=PLAIN)
    value, *jacobian = function(rng.standard_normal(3))
    np.testing.assert_allclose(value, np.linalg.slogdet(np.array(jacobian))[1], rtol=1e-10)


def test_arrays_of_wrong_shape_are_refused():
    cannon = make_problem(n_stars=1).cannon
    with pytest.raises(InvalidDataError, match=r"A has shape \(3, 3\), expected \(10, 10\)"):
        build_label_model(cannon.basis, A=np.eye(3))
    with pytest.raises(InvalidDataError, match=r"mean has shape \(2,\)"):
        build_label_model(cannon.basis, mean=np.zeros(2))
    for two in ({"term": lambda *_: 0.0}, {"data": {}}, {"A": np.eye(10), "term": id, "data": {}}):
        with pytest.raises(InvalidDataError, match="give A and b, or term and data"):
            build_label_model(cannon.basis, **two)
    with pytest.raises(InvalidDataError, match="flux has shape"):
        build_full_pixel_model(cannon, np.ones(3), np.ones(3))


def test_priors_of_other_labels_are_refused():
    cannon = make_problem(n_stars=1).cannon
    with pytest.raises(LabelError, match="given for MG_FE"):
        build_label_model(cannon.basis, LabelPriors.for_labels(("MG_FE",)))


def test_a_spectrum_without_pixels_is_refused():
    cannon = make_problem(n_stars=1).cannon
    with pytest.raises(InvalidDataError, match="no pixel that the trained model can use"):
        build_full_pixel_model(cannon, np.ones(200), np.zeros(200))


@pytest.mark.slow
@pytest.mark.parametrize("n_factors", [0, 2])
def test_posterior_is_that_of_all_pixels(n_factors):
    # Monte Carlo errors: about 0.013 standard deviations of the means (limit 0.05: 4 sigma) and
    # 1.2 % of the standard deviations (limit 5 %); false alarm below 1e-3 in all
    problem, priors, laplace, data = solved(n_factors=n_factors, n_pixels=80)
    sampler = LabelSampler.compile(problem.cannon.basis, priors)
    fast = sampler.sample(
        {"A": data.A[0], "b": data.b[0]}, laplace.u[0], laplace.chol[0],
        NutsSettings(draws=5000, tune=500), star_seed(SEED, "a"),
    ).labels.reshape(-1, 3)  # fmt: skip
    spectra = problem.spectra
    with build_full_pixel_model(problem.cannon, spectra.flux[0], spectra.ivar[0], priors):
        trace = pm.sample(
            4000, tune=1000, chains=4, cores=2, random_seed=SEED, progressbar=False,
            nuts_sampler="nutpie",
        )  # fmt: skip
    slow = trace["posterior"]["labels"].values.reshape(-1, 3)
    off = (fast.mean(axis=0) - slow.mean(axis=0)) / slow.std(axis=0)
    assert np.abs(off).max() < 0.05
    np.testing.assert_allclose(fast.std(axis=0), slow.std(axis=0), rtol=0.05)


def test_whitening_leaves_the_density_of_the_labels_alone():
    problem, priors, laplace, data = solved()
    basis = problem.cannon.basis
    labels = laplace.labels[0] + np.array([3.0, 0.01, -0.005])
    values = []
    for mean, chol in ((laplace.u[0], laplace.chol[0]), (np.zeros(3), np.eye(3))):
        model = build_label_model(basis, priors, A=data.A[0], b=data.b[0], mean=mean, chol=chol)
        y = np.linalg.solve(chol, priors.unconstrain(labels) - mean)
        values.append(density_and_gradient(model)(y)[0] - np.log(np.diag(chol)).sum())
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)


def test_compression_enters_as_data():
    problem, _, _, data = solved()
    model = build_label_model(problem.cannon.basis, A=data.A[0], b=data.b[0])
    assert {"A", "b", "coordinates"} <= set(model.named_vars)
    pixels = PixelModel.from_cannon(problem.cannon)
    x = np.c_[problem.cannon.basis(problem.labels), problem.factors]
    other = compress(
        pixels, pixels.take(problem.spectra.flux), pixels.take(problem.spectra.ivar), x
    )
    before = density_and_gradient(model)(np.zeros(3))[0]
    with model:
        pm.set_data({"A": other.A[0], "b": other.b[0]})
    assert density_and_gradient(model)(np.zeros(3))[0] != before
