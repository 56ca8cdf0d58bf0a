"""Hyperparameters, nuisance factors and the choice of their number."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayes_cannon.base.packing import pack, unpack
from bayes_cannon.errors import FitError
from bayes_cannon.models.hyperparameters import TrainingPriors
from bayes_cannon.models.training_model import build_factor_model
from bayes_cannon.training.factor_choice import _difference, choose_factors, predictive_density
from bayes_cannon.training.factors import StarFactors, join_design, star_factors
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.columns import ColumnsOf, SomePixels, of_stars
from bayes_cannon.training.pixels.fit import Design
from bayes_cannon.training.pixels.population import update_hyperparameters

N_TERMS = 3


def make_survey(n_stars=120, n_pixels=150, n_factors=2, seed=3, strength=0.02):
    rng = np.random.default_rng(seed)
    x = np.c_[np.ones(n_stars), rng.normal(size=(n_stars, N_TERMS - 1))]
    theta = rng.normal(size=(n_pixels, N_TERMS)) * [0.1, 0.03, 0.01]
    scales = strength / 2.0 ** np.arange(n_factors)
    loading = rng.normal(size=(n_pixels, n_factors)) * scales
    z = rng.normal(size=(n_stars, n_factors))
    sigma = np.full((n_stars, n_pixels), 0.01)
    s = np.exp(rng.normal(np.log(0.01), 0.3, size=n_pixels))
    flux = 1 + x @ theta.T + z @ loading.T + rng.normal(size=sigma.shape) * np.hypot(sigma, s)
    ivar = sigma**-2.0
    ivar[rng.random(sigma.shape) < 0.05] = 0
    return flux.astype("f4"), ivar.astype("f4"), x, theta, loading, z, s


@pytest.fixture(scope="module")
def survey():
    return make_survey()


@pytest.fixture(scope="module")
def fitted(survey):
    flux, ivar, x, *_ = survey
    return fit_map(flux, ivar, Design.exact(x), n_factors=2, seed=1, tolerance=1e-6)


def test_hyperparameters_are_learnt_from_the_pixels():
    flux, ivar, x, theta, *_ = make_survey(n_pixels=600, n_factors=1, strength=1e-9)
    fit = fit_map(flux, ivar, Design.exact(x), seed=0)
    np.testing.assert_allclose(fit.hyper.tau, theta.std(axis=0), rtol=0.1)
    assert fit.hyper.mu_s == pytest.approx(np.log(0.01), abs=0.06)
    assert fit.hyper.omega_s == pytest.approx(0.3, abs=0.06)


def test_hyperparameter_update_is_the_mode():
    rng = np.random.default_rng(5)
    second = np.array([[0.3, 0.5], [0.5, 2.0]])
    u, u_sd = rng.normal(-5, 0.4, 40), np.full(40, 0.1)
    priors = TrainingPriors(coef_scale=0.05, log_scatter_spread=0.5)

    def density(h):
        value = -20 * np.linalg.slogdet(h.covariance)[1]
        value -= 0.5 * np.trace(second @ np.linalg.inv(h.covariance))
        value -= 40 * np.log(h.omega_s)
        value -= 0.5 * np.sum((u - h.mu_s) ** 2 + u_sd**2) / h.omega_s**2
        return value + h.log_prior(priors, 2)

    best = update_hyperparameters(second, u, u_sd, priors, 2)
    for factor in (0.97, 1.03):
        moved = [
            best.transformed(np.diag([factor, 1])),
            best.transformed(np.diag([1, factor])),
            replace(best, covariance=best.covariance * np.array([[1, factor], [factor, 1]])),
            replace(best, mu_s=best.mu_s * factor),
            replace(best, omega_s=best.omega_s * factor),
        ]
        assert all(density(h) < density(best) for h in moved)


def test_few_stars_are_helped_by_the_hierarchy():
    # 25 stars, 21 terms of which 15 do nothing: without shrinkage the error is far larger.
    rng = np.random.default_rng(8)
    x = np.c_[np.ones(25), rng.normal(size=(25, 20))]
    theta = rng.normal(size=(400, 21)) * np.r_[0.1, np.full(5, 0.02), np.full(15, 1e-4)]
    flux = 1 + x @ theta.T + 0.01 * rng.normal(size=(25, 400))
    fit = fit_map(flux, np.full(flux.shape, 2e4), Design.exact(x), seed=0)
    plain = np.linalg.lstsq(x, flux - 1, rcond=None)[0].T
    error = np.abs(fit.mean - theta)[:, 1:]
    assert error.mean() < 0.4 * np.abs(plain - theta)[:, 1:].mean()
    z = (fit.mean - theta)[:, 1:6] / np.sqrt(unpack(fit.cov)[:, range(1, 6), range(1, 6)])
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.68, abs=0.06)


def test_bound_of_the_marginal_density_rises_at_every_round(survey):
    flux, ivar, x, *_ = (a.astype(np.float64) for a in survey)
    fit = fit_map(flux, ivar, Design.exact(x), n_factors=2, seed=1, tolerance=1e-9)
    rounds = np.array(fit.bound[:-1])
    assert rounds.size >= 4
    # The factors are worked out in single precision.
    assert np.all(np.diff(rounds) > -1e-7 * abs(rounds[0]))
    assert rounds[-1] > rounds[0] + 100


def test_factors_raise_the_marginal_density(survey, fitted):
    flux, ivar, x, *_ = survey
    plain = fit_map(flux, ivar, Design.exact(x), seed=0)
    assert marginal_density(fitted, flux, ivar, x) > marginal_density(plain, flux, ivar, x) + 1000


def marginal_density(fit, flux, ivar, x):
    """log p(flux | coefficients, s), the factors integrated out."""
    theta, loading = fit.mean[:, :N_TERMS], fit.mean[:, N_TERMS:]
    total = 0.0
    for n in range(len(flux)):
        good = ivar[n] > 0
        cov = np.diag(1 / ivar[n, good] + fit.scatter[good] ** 2) + loading[good] @ loading[good].T
        total += multivariate_normal(1 + theta[good] @ x[n], cov).logpdf(flux[n, good])
    return total


def test_factors_and_loadings_are_those_that_made_the_data(survey, fitted):
    _, _, _, theta, loading, z, s = survey
    found = fitted.factors.mean
    for j in range(2):
        assert abs(np.corrcoef(found[:, j], z[:, j])[0, 1]) > 0.95
        assert abs(np.corrcoef(fitted.mean[:, N_TERMS + j], loading[:, j])[0, 1]) > 0.95
    np.testing.assert_allclose(np.cov(found.T), np.eye(2), atol=0.15)
    assert np.median(fitted.scatter / s) == pytest.approx(1, abs=0.1)
    assert np.abs(fitted.mean[:, :N_TERMS] - theta).mean() < 0.003


def test_factors_follow_the_convention(fitted):
    loading = fitted.mean[:, N_TERMS:] / fitted.scatter[:, None]
    gram = loading.T @ loading
    assert gram[0, 0] > gram[1, 1]
    assert abs(gram[0, 1]) < 0.05 * np.sqrt(gram[0, 0] * gram[1, 1])
    assert np.all(np.sum(fitted.mean[:, N_TERMS:] ** 3, axis=0) > 0)


def test_same_data_and_seed_give_the_same_loadings(survey, fitted):
    flux, ivar, x, *_ = survey
    again = fit_map(flux, ivar, Design.exact(x), n_factors=2, seed=1, tolerance=1e-6)
    np.testing.assert_array_equal(again.mean, fitted.mean)


def test_another_seed_gives_the_same_loadings_within_their_errors(survey, fitted):
    flux, ivar, x, *_ = survey
    other = fit_map(flux, ivar, Design.exact(x), n_factors=2, seed=2, tolerance=1e-6)
    np.testing.assert_allclose(other.mean[:, N_TERMS:], fitted.mean[:, N_TERMS:], atol=1e-3)


def test_factors_without_a_use_shrink_away(survey):
    flux, ivar, x, *_ = survey
    fit = fit_map(flux, ivar, Design.exact(x), n_factors=5, seed=1)
    tau = fit.hyper.tau[N_TERMS:]
    assert np.all(tau[2:] < 0.25 * tau[1])


def test_e_step_is_the_posterior_of_the_pymc_model(survey, fitted):
    flux, ivar, x, *_ = (a[:6] if a.shape[0] == 120 else a for a in survey)
    k = N_TERMS
    exact = np.zeros_like(fitted.cov)  # known coefficients: the conditional is Gaussian
    got = star_factors(flux, ivar, Design.exact(x), fitted.mean, exact, fitted.scatter)
    model = build_factor_model(flux, ivar, x, 2, hyper=fitted.hyper)
    theta = fitted.mean[:, :k] + np.eye(k)[0]
    point = {"theta": theta, "loading": fitted.mean[:, k:], "log_s": fitted.log_scatter}
    slope = model.compile_dlogp([model["z"]])
    np.testing.assert_allclose(slope({**point, "z": got.mean}), 0, atol=2e-3)
    step = np.zeros_like(got.mean)
    step[:, 0] = 1.0
    moved = slope({**point, "z": got.mean + step}).reshape(6, 2)
    np.testing.assert_allclose(-moved, np.linalg.inv(got.cov)[:, :, 0], rtol=1e-4, atol=1e-2)


def test_e_step_integrates_the_errors_of_the_labels_out(survey, fitted):
    flux, ivar, x, *_ = (a[:5] if a.shape[0] == 120 else a for a in survey)
    k, n_errors = N_TERMS, 2
    slopes = 0.3 * np.random.default_rng(4).normal(size=(5, k, n_errors))
    design = replace(Design.exact(x), slopes=slopes)
    exact = np.zeros_like(fitted.cov)
    got = star_factors(flux, ivar, design, fitted.mean, exact, fitted.scatter)
    theta, loading = fitted.mean[:, :k], fitted.mean[:, k:]
    for n in range(5):
        good = ivar[n] > 0
        moves = np.c_[loading, theta @ slopes[n]][good]
        weight = 1 / (1 / ivar[n, good].astype(float) + fitted.scatter[good] ** 2)
        cov = np.linalg.inv(moves.T @ (weight[:, None] * moves) + np.eye(4))
        residual = flux[n, good] - 1 - theta[good] @ x[n]
        expected = cov @ moves.T @ (weight * residual)
        np.testing.assert_allclose(got.cov[n], cov[:2, :2], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(got.mean[n], expected[:2], rtol=1e-3, atol=1e-3)


def test_factors_do_not_learn_the_errors_of_the_labels():
    # Labels with errors of half their spread, no factors in the data: what one factor finds is the
    # gradient of a label. Told of the errors, the fit lets it shrink, round by round.
    flux, ivar, x, theta, *_ = make_survey(n_factors=1, strength=1e-9, n_stars=300)
    noisy = x.copy()
    noisy[:, 1] += 0.5 * np.random.default_rng(5).normal(size=len(x))
    slopes = np.zeros((len(x), N_TERMS, 1))
    slopes[:, 1] = 0.5
    plain = Design.exact(noisy)
    size = []
    for design in (plain, replace(plain, slopes=slopes)):
        fit = fit_map(flux, ivar, design, n_factors=1, seed=1)
        loading = fit.mean[:, N_TERMS]
        size.append(np.linalg.norm(loading) / np.linalg.norm(theta[:, 1]))
    assert size[0] > 0.4
    assert size[1] < 0.6 * size[0]


def test_joined_design_has_the_covariance_in_its_block(survey):
    x, z = survey[2], survey[5]
    cov = np.broadcast_to(0.1 * np.eye(2), (len(z), 2, 2))
    design = join_design(Design.exact(x), StarFactors(z, cov))
    full = unpack(design.second)
    whole = np.c_[x, z]
    expected = whole[:, :, None] * whole[:, None, :]
    expected[:, N_TERMS:, N_TERMS:] += cov
    np.testing.assert_allclose(full, expected)


def test_predictive_density_is_the_multivariate_normal(survey, fitted):
    flux, ivar, x, *_ = (a[:4] if a.shape[0] == 120 else a for a in survey)
    k = N_TERMS
    got = predictive_density(flux, ivar, Design.exact(x), fitted.mean, fitted.cov, fitted.scatter)
    for n in range(4):
        good = ivar[n] > 0
        loading = fitted.mean[good, k:]
        cov_n = unpack(fitted.cov[good].astype(float))
        extra = np.einsum("i,pij,j->p", x[n], cov_n[:, :k, :k], x[n])
        extra += np.trace(cov_n[:, k:, k:], axis1=1, axis2=2)
        cov = np.diag(1 / ivar[n, good] + fitted.scatter[good] ** 2 + extra) + loading @ loading.T
        mean = 1 + fitted.mean[good, :k] @ x[n]
        assert got[n] == pytest.approx(
            multivariate_normal(mean, cov).logpdf(flux[n, good]), rel=1e-5
        )


def test_the_right_number_of_factors_is_chosen():
    flux, ivar, x, *_ = make_survey(n_stars=200, n_factors=3, seed=6)
    choice = choose_factors(flux, ivar, Design.exact(x), candidates=(0, 1, 2, 3, 4, 6), seed=1)
    assert choice.n_factors == 3
    assert choice.grid[: len(choice.predictive)].tolist()[:4] == [0, 1, 2, 3]
    assert choice.predictive[3] > choice.predictive[0] + 10


def test_no_factors_are_chosen_where_there_are_none():
    flux, ivar, x, *_ = make_survey(n_factors=1, strength=1e-9, seed=9)
    choice = choose_factors(flux, ivar, Design.exact(x), candidates=(0, 1, 2, 4), seed=1)
    assert choice.n_factors == 0


@pytest.mark.parametrize("n_factors", [0, 2])
def test_pixels_without_a_good_value_have_no_part_in_the_fit(n_factors):
    flux, ivar, x, *_ = make_survey(n_stars=60, n_pixels=200)
    dead = np.arange(5, 200, 15)
    ivar[:, dead] = 0
    seen = np.delete(np.arange(200), dead)
    design = Design.exact(x)
    whole = fit_map(flux, ivar, design, n_factors=n_factors, seed=0)
    some = [np.ascontiguousarray(array[:, seen]) for array in (flux, ivar)]
    part = fit_map(*some, design, n_factors=n_factors, seed=0)
    np.testing.assert_array_equal(np.flatnonzero(~whole.fitted), dead)
    assert whole.bound == part.bound
    for name in ("mean", "cov", "log_scatter", "log_scatter_sd"):
        np.testing.assert_array_equal(getattr(whole, name)[seen], getattr(part, name))
    np.testing.assert_array_equal(whole.hyper.covariance, part.hyper.covariance)
    # What is known of a dead pixel is the population.
    assert np.all(whole.mean[dead] == 0)
    np.testing.assert_allclose(whole.cov[dead[0]], pack(whole.hyper.covariance), rtol=1e-6)
    assert np.all(whole.log_scatter[dead] == whole.hyper.mu_s)


def test_a_held_coefficient_of_a_dead_pixel_stays_at_zero():
    flux, ivar, x, *_ = make_survey(n_stars=60, n_pixels=60)
    ivar[:, 7] = 0
    free = np.ones((60, N_TERMS), dtype=bool)
    free[5:9, 1] = False
    cov = unpack(fit_map(flux, ivar, Design.exact(x), free=free, seed=0).cov)
    assert np.all(cov[7, 1] == 0)
    assert cov[7, 0, 0] > 0


def test_a_wild_value_costs_its_pixel_alone():
    flux, ivar, x, *_ = make_survey(n_stars=60, n_pixels=100)
    wild = flux.copy()
    wild[3, 40], ivar[3, 40] = 1e30, 1e4
    fit = fit_map(wild, ivar, Design.exact(x), n_factors=1, seed=0)
    assert np.flatnonzero(~fit.fitted).tolist() == [40]
    without = ivar.copy()
    without[:, 40] = 0
    np.testing.assert_array_equal(
        fit.mean, fit_map(flux, without, Design.exact(x), n_factors=1, seed=0).mean
    )


def test_a_pixel_that_turns_out_singular_is_left_out(monkeypatch):
    from bayes_cannon.errors import SingularPixelsError
    from bayes_cannon.training.pixels import survey

    flux, ivar, x, *_ = make_survey(n_stars=60, n_pixels=100)
    marked = flux[:, 30].copy()

    def failing(block, *arguments, **options):
        bad = np.flatnonzero((block == marked[:, None]).all(axis=0))
        if bad.size:
            raise SingularPixelsError(bad.tolist())
        return fit_pixels(block, *arguments, **options)

    fit_pixels = survey.fit_pixels
    monkeypatch.setattr(survey, "fit_pixels", failing)
    fit = fit_map(flux, ivar, Design.exact(x), seed=0)
    assert np.flatnonzero(~fit.fitted).tolist() == [30]


def test_nothing_to_fit_is_said():
    flux, ivar, x, *_ = make_survey(n_stars=30, n_pixels=20)
    with pytest.raises(FitError, match="none of 20 pixels has a good value in any of 30"):
        fit_map(flux, np.zeros_like(ivar), Design.exact(x), seed=0)
    with pytest.raises(FitError, match="coefficients of 20 of 20 pixels"):
        fit_map(np.full_like(flux, 1e20), np.ones_like(ivar), Design.exact(x), seed=0)


def test_the_search_for_factors_says_that_it_ended_while_the_density_rose():
    flux, ivar, x, *_ = make_survey(n_stars=200, n_factors=4, seed=6, strength=0.04)
    design = Design.exact(x)
    few = choose_factors(flux, ivar, design, candidates=(0, 1, 2, 3), seed=1)
    assert few.n_factors == 3
    assert few.rising
    limited = choose_factors(flux, ivar, design, candidates=(0, 1, 2, 3, 4), most=2, seed=1)
    assert limited.grid.tolist() == [0, 1, 2]
    assert limited.rising
    enough = choose_factors(flux, ivar, design, candidates=(0, 2, 4, 12, 20, 30), seed=1)
    assert enough.n_factors == 4
    assert not enough.rising
    assert enough.grid[-1] == 12, "of more than ten factors one that does no better is enough"


def test_odd_stars_do_not_hide_that_factors_are_needed():
    """Three held-out stars of which a fit with factors makes less sense than one without."""
    rng = np.random.default_rng(2)
    gain, error = _difference(np.zeros(100), -5 + rng.normal(size=100))
    assert gain == pytest.approx(5, abs=0.3)
    odd = rng.normal(size=100) - 5
    odd[:3] = 3000
    cut, cut_error = _difference(np.zeros(100), odd)
    assert cut == pytest.approx(5, abs=0.7)
    assert cut_error < 3 * error
    assert _difference(np.zeros(4), np.zeros(4)) == (0, 0)


def test_precisions_that_rounding_made_indefinite_are_at_least_those_of_the_prior():
    from bayes_cannon.training.factors import _inverse

    broken = np.array([[[1e8, 1e8 + 5], [1e8 + 5, 1e8]], [[2.0, 0.5], [0.5, 3.0]]])
    found = _inverse(broken)
    values = np.linalg.eigvalsh(found)
    assert np.all((values > 0) & (values <= 1))
    np.testing.assert_allclose(found[1], np.linalg.inv(broken[1]))


def test_scatters_without_residuals_have_a_finite_width():
    """Weights whose cubes are beyond single precision."""
    from bayes_cannon.training.pixels.fit import fit_pixels
    from bayes_cannon.training.pixels.population import PixelPrior

    x = np.random.default_rng(1).normal(size=(30, 2))
    flux, ivar = np.ones((30, 5), dtype=np.float32), np.full((30, 5), 1e30, dtype=np.float32)
    prior = PixelPrior(1e-4 * np.eye(2), -16.0, 0.1)
    fit = fit_pixels(flux, ivar, Design.exact(x), prior, np.full(5, -16.0))
    assert np.isfinite(fit.log_scatter).all()
    assert np.isfinite(fit.log_scatter_sd).all()
    assert np.all(fit.log_scatter_sd > 0)


# Where the numbers come from ----------------------------------------------------------------


class OnDisk:
    """Spectra as a stored dataset gives them: by slices of pixels."""

    def __init__(self, flux, ivar):
        self.n_stars, self.n_pixels = flux.shape
        self._flux, self._ivar, self.read = flux, ivar, []

    def columns(self, pixels):
        self.read.append(pixels.stop - pixels.start)
        return self._flux[:, pixels].copy(), self._ivar[:, pixels].copy()


@pytest.mark.parametrize("n_factors", [0, 2])
def test_fit_is_the_same_from_memory_and_from_disk(survey, tmp_path, monkeypatch, n_factors):
    """Bit by bit; blocks of another size give coefficients to 1e-6, scatters to their tolerance.

    Some pixels have no good value.
    """
    flux, ivar, x, *_ = survey
    flux, ivar = flux.astype(np.float32), ivar.astype(np.float32)
    ivar[:, 40:45] = 0
    ivar[:, 99] = 0
    options = {"n_factors": n_factors, "seed": 1}
    whole = fit_map(flux, ivar, Design.exact(x), **options)
    monkeypatch.setattr("bayes_cannon.training.pixels.columns._BLOCK_BYTES", 1)
    expected = fit_map(flux, ivar, Design.exact(x), **options)
    for name, values in (("flux", flux), ("ivar", ivar)):
        np.save(tmp_path / f"{name}.npy", values)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("flux", "ivar")]
    disk = OnDisk(flux, ivar)
    for pair in (mapped, ColumnsOf.pair(disk)):
        found = fit_map(*pair, Design.exact(x), **options)
        for name in ("mean", "cov", "log_scatter", "log_scatter_sd", "fitted", "bound"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert max(disk.read) == 32 < flux.shape[1]
    np.testing.assert_allclose(expected.mean, whole.mean, rtol=1e-6, atol=1e-6)
    off = (expected.log_scatter - whole.log_scatter) / whole.log_scatter_sd
    assert np.max(np.abs(off)) < 0.01


def test_columns_are_those_that_were_asked_for(monkeypatch):
    monkeypatch.setattr("bayes_cannon.training.pixels.columns._BLOCK_BYTES", 1)
    flux = np.arange(300.0, dtype=np.float32).reshape(3, 100)
    found, ivar = ColumnsOf.pair(OnDisk(flux, -flux))
    some = np.array([0, 1, 2, 31, 32, 40, 97, 98, 99])
    for pixels in (slice(None), slice(3, 5), slice(30, 70), slice(None, None, 7), some, some[:3]):
        np.testing.assert_array_equal(found[:, pixels], flux[:, pixels])
        np.testing.assert_array_equal(ivar[1:, pixels], -flux[1:, pixels])
    view = SomePixels(found, some)
    assert view.shape == (3, 9)
    for pixels in (slice(None), slice(0, 3), slice(2, 6), np.array([1, 5])):
        np.testing.assert_array_equal(view[:, pixels], flux[:, some[pixels]])
    np.testing.assert_array_equal(of_stars(found, slice(None, None, 2)), flux[::2])
