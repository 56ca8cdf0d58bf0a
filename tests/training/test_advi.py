"""ADVI of the training model: against quadrature, NUTS and the closed form."""

import numpy as np
import nutpie
import pymc as pm
import pytest

from bayes_cannon.base.packing import pack_outer, unpack
from bayes_cannon.base.resources import data_path
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.training_model import build_training_model
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.training.advi import AdviFit, AdviSettings, fit_advi
from bayes_cannon.training.factors import join_design
from bayes_cannon.training.map_fit import MapFit, fit_map
from bayes_cannon.training.pixels.fit import Design, log_marginal
from bayes_cannon.training.pixels.population import PixelPrior
from bayes_cannon.training.whitening import (
    _E,
    bent_line,
    build_whitened_model,
    fit_bent_line,
    set_block,
    whiten,
)

WINDOWS = ((246, 3274), (3585, 6080), (6344, 8335))


class Problem:
    """Data, known design and the fit by closed form."""

    def __init__(self, flux, ivar, design, start):
        self.flux, self.ivar, self.design, self.start = flux, ivar, design, start

    @property
    def prior(self):
        hyper = self.start.hyper
        return PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)

    def pixels(self, which):
        s = self.start
        start = MapFit(
            s.mean[which], s.cov[which], s.log_scatter[which], s.log_scatter_sd[which],
            s.hyper, s.factors, s.bound, s.converged, s.fitted[which],
        )  # fmt: skip
        return Problem(self.flux[:, which], self.ivar[:, which], self.design, start)

    def advi(self, seed=0, **settings):
        return fit_advi(
            self.flux, self.ivar, self.design, self.start,
            settings=AdviSettings(**settings), seed=seed,
        )  # fmt: skip


class Exact:
    """Posterior by quadrature over log s; coefficients are Gaussian given s."""

    def __init__(self, problem):
        start, design, n = problem.start, problem.design, problem.design.n_coef
        flux = problem.flux.astype(np.float64)
        ivar = problem.ivar.astype(np.float64)
        u = start.log_scatter + start.log_scatter_sd * np.linspace(-10, 7, 171)[:, None]
        log_p = np.array([log_marginal(flux, ivar, design, problem.prior, row) for row in u])
        p = np.exp(log_p - log_p.max(axis=0))
        self.log_evidence = log_p.max(axis=0) + np.log(p.sum(axis=0) * (u[1] - u[0]))
        p /= p.sum(axis=0)
        self.log_scatter = np.sum(p * u, axis=0)
        self.log_scatter_sd = np.sqrt(np.sum(p * (u - self.log_scatter) ** 2, axis=0))
        self.mean = np.zeros((u.shape[1], n))
        second = np.zeros((u.shape[1], n, n))
        for weight, row in zip(p, u, strict=True):
            w = ivar / (1 + ivar * np.exp(2 * row))
            precision = np.einsum("np,ni,nj->pij", w, design.mean, design.mean, optimize=True)
            cov = np.linalg.inv(precision + np.linalg.inv(start.hyper.covariance))
            mean = np.einsum("pij,pj->pi", cov, (w * (flux - 1)).T @ design.mean)
            self.mean += weight[:, None] * mean
            shifted = mean - start.mean
            second += weight[:, None, None] * (cov + shifted[:, :, None] * shifted[:, None, :])
        shift = self.mean - start.mean
        self.cov = second - shift[:, :, None] * shift[:, None, :]
        self.sd = np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2))


def coef_sd(cov):
    return np.sqrt(np.diagonal(unpack(np.asarray(cov, dtype=np.float64)), axis1=1, axis2=2))


def differences(fit, mean, sd, log_scatter, log_scatter_sd):
    """Largest differences: means in sd (coefficients, log s), relative sd (likewise)."""
    return (
        np.abs((fit.mean - mean) / sd).max(),
        np.abs((fit.log_scatter - log_scatter) / log_scatter_sd).max(),
        np.abs(coef_sd(fit.cov) / sd - 1).max(),
        np.abs(fit.log_scatter_sd / log_scatter_sd - 1).max(),
    )


def from_exact(fit, exact):
    return differences(fit, exact.mean, exact.sd, exact.log_scatter, exact.log_scatter_sd)


@pytest.fixture(scope="session")
def small():
    """60 stars with very different errors, 20 pixels, two labels and one factor.

    Pixel 3 is never observed; pixels have scatter from none to three times the error.
    """
    rng = np.random.default_rng(7)
    n_stars, n_pixels = 60, 20
    v = np.column_stack([np.ones(n_stars), rng.standard_normal((n_stars, 2))])
    z = rng.standard_normal((n_stars, 1))
    coef = rng.normal(0, [0.05, 0.03, 0.02, 0.03], (n_pixels, 4))
    sigma = 0.008 * np.exp(rng.normal(0, 0.7, (n_stars, 1))) * np.ones(n_pixels)
    scatter = 0.008 * np.repeat([0.0, 0.3, 1.0, 3.0], 5)
    flux = 1 + np.hstack([v, z]) @ coef.T
    flux += rng.standard_normal(flux.shape) * np.hypot(sigma, scatter)
    ivar = np.where(rng.random(flux.shape) < 0.1, 0.0, sigma**-2)
    ivar[:, 3] = 0
    labels = Design.exact(v)
    start = fit_map(flux, ivar, labels, n_factors=1, seed=0)
    design = Design.exact(join_design(labels, start.factors).mean)
    return Problem(flux, ivar, design, start)


@pytest.fixture(scope="session")
def small_fit(small):
    return small.advi(seed=3)


@pytest.fixture(scope="session")
def giants():
    """300 noise-free library giants with S/N 150 noise, a third of the pixels."""
    rng = np.random.default_rng(1)
    with np.load(data_path("giants.npz")) as data:
        stars = rng.choice(600, 300, replace=False)
        pixels = np.concatenate([np.arange(*w) for w in WINDOWS])[::3]
        flux = data["flux"][stars][:, pixels] * data["flux_scale"]
        values = np.stack([data[name][stars] for name in DEFAULT_LABELS], axis=1)
    flux = flux + rng.standard_normal(flux.shape) / 150
    ivar = np.full(flux.shape, 150.0**2)
    center, scale = values.mean(axis=0), values.std(axis=0)
    basis = PolynomialBasis(DEFAULT_LABELS, ("K", "dex", "dex", "dex", "dex"), center, scale)
    design = Design.exact(basis(values))
    return Problem(flux, ivar, design, fit_map(flux, ivar, design, seed=0))


# The change of variables ------------------------------------------------------------------


def test_bent_line_slope_is_its_derivative():
    line = np.array([[0.2, -1.0, -2.0, 0.5, 0.7], [0.0, -2.0, 0.5, 1.0, -1.0]])
    e = np.tile(np.linspace(-5, 5, 41), (2, 1))
    h = 1e-5
    numeric = (bent_line(np, e + h, line)[0] - bent_line(np, e - h, line)[0]) / (2 * h)
    slope = bent_line(np, e, line)[1]
    np.testing.assert_allclose(slope, numeric, rtol=1e-7)
    np.testing.assert_allclose(bent_line(np, np.full(2, -40.0), line)[1], np.exp(line[:, 1]))
    np.testing.assert_allclose(bent_line(np, np.full(2, 40.0), line)[1], np.exp(line[:, 2]))


def test_bent_line_is_recovered_from_its_quantiles():
    truth = np.array([[-5.0, -0.5, -2.0, 0.3, -0.4], [-4.0, -1.5, -1.5, 0.0, 0.0]])
    quantiles = bent_line(np, np.tile(_E, (2, 1)), truth)[0]
    found = bent_line(np, np.tile(_E, (2, 1)), fit_bent_line(quantiles))[0]
    np.testing.assert_allclose(found, quantiles, atol=2e-3)


def test_standard_normal_coordinates_are_the_posterior(small):
    whitening = whiten(small.flux, small.ivar, small.design, small.prior, small.start.log_scatter)
    zero, one = np.zeros((20, 4)), np.ones((20, 4))
    moments = whitening.moments(zero, one, zero[:, 0], one[:, 0])
    exact = Exact(small)
    assert np.abs((moments.mean - exact.mean) / exact.sd).max() < 0.02
    assert np.abs(coef_sd(moments.cov) / exact.sd - 1).max() < 0.02
    shift = (moments.log_scatter - exact.log_scatter) / exact.log_scatter_sd
    assert np.abs(shift).max() < 0.02
    assert np.abs(moments.log_scatter_sd / exact.log_scatter_sd - 1).max() < 0.02


def _coordinates(model, whitening, w, e):
    """theta and log s at (w, e), and the log determinant of their Jacobian, numerically."""
    to_theta = pm.compile(
        [model["w"], model["e"]], [model["theta"], model["log_s"]], mode="FAST_COMPILE"
    )

    def flat(x):
        theta, log_s = to_theta(x[:, :-1], x[:, -1])
        return np.column_stack([theta, log_s])

    x = np.column_stack([w, e])
    h = 1e-5 * np.eye(x.shape[1])
    jacobian = np.stack([(flat(x + d) - flat(x - d)) / 2e-5 for d in h], axis=-1)
    return flat(x), np.linalg.slogdet(jacobian)[1].sum()


def test_whitened_density_is_the_training_models(small):
    part = small.pixels(np.array([0, 3, 8, 17]))
    hyper, x = part.start.hyper, part.design.mean
    whitening = whiten(part.flux, part.ivar, part.design, part.prior, part.start.log_scatter)
    model = build_whitened_model(part.flux, part.ivar, x, hyper, whitening)
    plain = build_training_model(part.flux, part.ivar, x, hyper=hyper)
    density = model.compile_logp(mode="FAST_COMPILE")
    plain_density = plain.compile_logp(mode="FAST_COMPILE")
    rng = np.random.default_rng(2)
    for _ in range(3):
        w, e = rng.normal(0, 1.5, (4, 4)), rng.normal(0, 1.5, 4)
        at, log_det = _coordinates(model, whitening, w, e)
        expected = plain_density({"theta": at[:, :-1], "log_s": at[:, -1]}) + log_det
        assert density({"w": w, "e": e}) == pytest.approx(float(expected), abs=1e-5)


def test_swapped_block_is_the_model_built_from_it(small):
    def block(which):
        part = small.pixels(which)
        u = part.start.log_scatter
        return part, whiten(part.flux, part.ivar, part.design, part.prior, u)

    def build(part, whitening):
        hyper = small.start.hyper
        return build_whitened_model(part.flux, part.ivar, part.design.mean, hyper, whitening)

    first, second = block(slice(0, 3)), block(slice(10, 13))
    model, other = build(*first), build(*second)
    point = {"w": np.full((3, 4), 0.3), "e": np.array([-0.5, 0.0, 1.0])}
    density = model.compile_logp(mode="FAST_COMPILE")
    before = density(point)
    set_block(model, second[0].flux, second[0].ivar, second[1])
    wanted = other.compile_logp(mode="FAST_COMPILE")(point)
    assert density(point) == pytest.approx(float(wanted), rel=1e-12)
    assert before != pytest.approx(float(wanted), rel=1e-3)


# The fit ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_agrees_with_quadrature_also_with_factors_and_unequal_errors(small, small_fit):
    assert small_fit.converged.all()
    coef, log_s, coef_sd_, log_s_sd = from_exact(small_fit, Exact(small))
    assert coef < 0.05
    assert log_s < 0.05
    assert coef_sd_ < 0.05
    assert log_s_sd < 0.05


@pytest.mark.slow
def test_pixel_never_observed_follows_its_prior(small, small_fit):
    hyper = small.start.hyper
    np.testing.assert_allclose(small_fit.mean[3] / hyper.tau, 0, atol=0.05)
    np.testing.assert_allclose(coef_sd(small_fit.cov)[3], hyper.tau, rtol=0.05)
    assert small_fit.log_scatter[3] == pytest.approx(hyper.mu_s, abs=0.05 * hyper.omega_s)
    assert small_fit.log_scatter_sd[3] == pytest.approx(hyper.omega_s, rel=0.05)


@pytest.mark.slow
def test_bound_rises_levels_and_reaches_the_evidence(small, small_fit):
    bound = small_fit.elbo[0]
    evidence = Exact(small).log_evidence.sum()
    late = bound[-len(bound) // 2 :]
    assert np.isfinite(bound).all()
    assert bound[:5].mean() < late.mean() - 3
    assert late.mean() == pytest.approx(evidence, abs=0.02 * 20)
    # Level: the first and second half of the late steps differ by less than 4 standard errors
    # (false alarm 6e-5).
    a, b = np.array_split(late, 2)
    assert abs(a.mean() - b.mean()) < 4 * late.std() * np.sqrt(4 / len(late))


@pytest.mark.slow
def test_same_seed_same_result_and_another_seed_within_the_noise(small, small_fit):
    again, other = small.advi(seed=3), small.advi(seed=4)
    for name in AdviFit.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(small_fit, name))
    assert not np.array_equal(other.mean, small_fit.mean)
    sd = coef_sd(small_fit.cov)
    found = differences(other, small_fit.mean, sd, small_fit.log_scatter, small_fit.log_scatter_sd)
    assert max(found) < 0.1


@pytest.mark.slow
def test_chunks_with_padding_agree_with_one_chunk(small, small_fit):
    told = []
    settings = AdviSettings(chunk_size=8)
    chunked = fit_advi(
        small.flux, small.ivar, small.design, small.start, settings=settings, seed=5,
        progress=lambda done, total, what: told.append((what, done / total)),
    )  # fmt: skip
    assert chunked.converged.tolist() == [True] * 3
    assert chunked.elbo.shape == (3, chunked.steps.max())
    assert np.isfinite(chunked.elbo).sum(axis=1).tolist() == chunked.steps.tolist()
    assert told == [("advi", 0.0), ("advi", 1 / 3), ("advi", 2 / 3)]
    sd = coef_sd(small_fit.cov)
    found = differences(
        chunked, small_fit.mean, sd, small_fit.log_scatter, small_fit.log_scatter_sd
    )
    assert max(found) < 0.1


@pytest.mark.slow
def test_several_draws_per_step_quieten_the_bound(small, small_fit):
    fit = small.advi(seed=3, n_samples=8)
    assert fit.converged.all()
    assert max(from_exact(fit, Exact(small))) < 0.05
    # A ratio of 1/8 is expected between the variances of 50 estimates each.
    assert fit.elbo[0, 50:100].var() < 0.5 * small_fit.elbo[0, 50:100].var()


@pytest.mark.slow
def test_too_few_steps_are_not_called_convergence(small):
    for max_steps in (1, 30, 99):
        fit = small.advi(max_steps=max_steps)
        assert not fit.converged.any()
        assert fit.steps.tolist() == [max_steps]
        assert np.isfinite(fit.mean).all()
        assert np.isfinite(fit.log_scatter_sd).all()


@pytest.mark.slow
def test_coefficients_held_at_zero_stay_there(small):
    labels = Design.exact(small.design.mean[:, :3])
    free = np.ones((20, 3), dtype=bool)
    free[:10, 2] = False
    start = fit_map(small.flux, small.ivar, labels, free=free, seed=0)
    fit = fit_advi(small.flux, small.ivar, labels, start, seed=0)
    cov = unpack(np.asarray(fit.cov, dtype=np.float64))
    assert not fit.mean[:10, 2].any()
    assert not cov[:10, 2].any()
    sd = coef_sd(start.cov)
    assert np.abs((fit.mean - start.mean)[:10, :2] / sd[:10, :2]).max() < 0.2
    np.testing.assert_allclose(coef_sd(fit.cov)[:10, :2], sd[:10, :2], rtol=0.1)


@pytest.mark.slow
def test_flux_where_ivar_is_zero_does_not_matter(small, small_fit):
    flux = np.where(small.ivar > 0, small.flux, np.nan)
    fit = Problem(flux, small.ivar, small.design, small.start).advi(seed=3)
    np.testing.assert_array_equal(fit.mean, small_fit.mean)


@pytest.mark.slow
def test_diverging_bound_names_the_pixels(small):
    with pytest.raises(FitError, match=r"pixels 0 to 19: the evidence lower bound became"):
        small.advi(learning_rate=1e8)


def _nuts(problem):
    """NUTS of each pixel: means, standard deviations and least effective sample sizes."""
    hyper, n_pixels = problem.start.hyper, problem.flux.shape[1]
    found, model, compiled = [], None, None
    for p in range(n_pixels):
        part = problem.pixels(slice(p, p + 1))
        u = part.start.log_scatter
        whitening = whiten(part.flux, part.ivar, part.design, part.prior, u)
        if model is None:
            x = part.design.mean
            model = build_whitened_model(part.flux, part.ivar, x, hyper, whitening)
            compiled = nutpie.compile_pymc_model(model, backend="numba")
        set_block(model, part.flux, part.ivar, whitening)
        names = ("flux", "ivar", "log_norm", "line", "shift", "stretch", "basis", "log_det", "free")
        data = {name: model[name].get_value() for name in names}
        trace = nutpie.sample(
            compiled.with_data(**data), draws=3000, tune=400, chains=4, cores=2, seed=100 + p,
            progress_bar=False,
        )  # fmt: skip
        posterior = trace.posterior
        theta = posterior["theta"].values.reshape(-1, part.design.n_coef)
        log_s = posterior["log_s"].values.reshape(-1)
        draws = np.column_stack([theta - np.eye(1, theta.shape[1]), log_s])
        assert not trace.sample_stats["diverging"].values.any()
        found.append(draws)
    return np.array(found)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_agrees_with_nuts_on_thirty_random_pixels(giants):
    """Means within 0.1 sd and sd within 10 %, for every coefficient and log scatter.

    12000 draws per pixel. Splitting them in twelve gives their Monte-Carlo error: below 0.012 sd
    for the means and 1.6 % for the standard deviations, so that the largest of 660 of them
    (3.5 standard errors) stays below half of either bound.
    """
    chosen = np.random.default_rng(20).choice(giants.flux.shape[1], 30, replace=False)
    part = giants.pixels(np.sort(chosen))
    fit = part.advi(seed=1)
    assert fit.converged.all()
    draws = _nuts(part)
    mean, sd = draws.mean(axis=1), draws.std(axis=1, ddof=1)
    batches = draws.reshape(30, 12, -1, draws.shape[-1])
    mean_error = batches.mean(axis=2).std(axis=1, ddof=1) / np.sqrt(12) / sd
    sd_error = batches.std(axis=2, ddof=1).std(axis=1, ddof=1) / np.sqrt(12) / sd
    assert np.sqrt(np.mean(mean_error**2)) < 0.012
    assert np.sqrt(np.mean(sd_error**2)) < 0.016
    found = differences(fit, mean[:, :-1], sd[:, :-1], mean[:, -1], sd[:, -1])
    assert found[0] < 0.1
    assert found[1] < 0.1
    assert found[2] < 0.1
    assert found[3] < 0.1


@pytest.mark.slow
def test_agrees_with_the_closed_form_on_many_pixels(giants):
    part = giants.pixels(slice(0, None, 5))
    fit = part.advi(seed=2)
    assert fit.converged.all()
    assert max(from_exact(fit, Exact(part))) < 0.1
    # The mode of log s is not its mean: up to 0.45 sd apart where there is no excess scatter.
    start = part.start
    coef, log_s, coef_sd_, _ = differences(
        fit, start.mean, coef_sd(start.cov), start.log_scatter, start.log_scatter_sd
    )
    assert coef < 0.1
    assert coef_sd_ < 0.1
    assert log_s < 0.7


# What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"window": 1}, "window must be at least 2 steps"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"decay_steps": -1.0}, "decay_steps must be positive"),
        ({"tolerance": float("nan")}, "tolerance must be positive"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(InvalidDataError, match=message):
        AdviSettings(**setting)


def test_shapes_that_do_not_match(small):
    flux, ivar, design, start = small.flux, small.ivar, small.design, small.start
    with pytest.raises(InvalidDataError, match=r"ivar has shape \(60, 19\)"):
        fit_advi(flux, ivar[:, 1:], design, start, seed=0)
    with pytest.raises(InvalidDataError, match="the design has 59 stars, flux has 60"):
        fit_advi(flux, ivar, Design.exact(design.mean[1:]), start, seed=0)
    with pytest.raises(InvalidDataError, match="has 20 pixels and 4 coefficients"):
        fit_advi(flux, ivar, Design.exact(design.mean[:, :3]), start, seed=0)
    with pytest.raises(InvalidDataError, match="has 20 pixels and 4 coefficients"):
        fit_advi(flux[:, 1:], ivar[:, 1:], design, start, seed=0)


def test_fluxes_that_are_not_finite(small):
    flux = small.flux.copy()
    good = np.flatnonzero(small.ivar[:, 5] > 0)
    flux[good[0], 5] = np.nan
    with pytest.raises(InvalidDataError, match=r"1 of 20 pixels \(5\) have fluxes"):
        fit_advi(flux, small.ivar, small.design, small.start, seed=0)


def test_uncertain_design(small):
    second = pack_outer(small.design.mean) + 0.01
    with pytest.raises(InvalidDataError, match="treats the design as known"):
        fit_advi(small.flux, small.ivar, Design(small.design.mean, second), small.start, seed=0)
