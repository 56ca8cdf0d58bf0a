"""Simulation-based calibration: of the label model, of the training model, and of itself.

The chi-square tests of ranks have a false-alarm rate of 1 % per parameter; seeds are fixed. The
same at ten times the length, and with free hyperparameters: ``make sbc``.
"""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from bayes_cannon.analysis.sbc.labels import (
    rank_labels,
    sbc_labels,
    simulate_stars,
    training_range_priors,
)
from bayes_cannon.analysis.sbc.pixels import (
    TrainingSampler,
    closed_form_pits,
    draw_correlation,
    draw_hyperparameters,
    sbc_pixels,
    sbc_training,
)
from bayes_cannon.analysis.sbc.ranks import N_KEPT, Ranks, effective_draws, thinned_rank
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.inference.sampler import NutsSettings
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.plots.calibration import plot_ranks
from tests.label_problem import make_problem

ALARM = 0.01
NUTS = InferenceSettings(draws=100, tune=120, ess_limit=50, rhat_limit=1.1, n_khat=0, min_pixels=50)
LAPLACE = InferenceSettings(method="laplace", draws=100, n_khat=0, min_pixels=50)


# Ranks ----------------------------------------------------------------------------------------


def ranks_of(pit):
    return Ranks.from_pit(tuple(f"p{i}" for i in range(pit.shape[1])), pit)


def test_uniform_ranks_pass_and_others_do_not():
    rng = np.random.default_rng(1)
    pit = np.stack(
        [rng.uniform(size=1000), rng.beta(0.8, 0.8, 1000), rng.beta(1.3, 1.3, 1000),
         rng.beta(1.25, 1, 1000)], axis=1,
    )  # fmt: skip
    ranks = ranks_of(pit)
    p = ranks.p_values()
    assert ranks.counts().shape == (20, 4)
    assert p[0] > ALARM
    np.testing.assert_array_less(p[1:], 1e-3)
    table = ranks.table()
    assert table.colnames == ["PARAMETER", "N", "BINS", "CHI2_P", "CONTRACTION"]
    assert list(table["N"]) == [1000] * 4


def test_p_values_are_uniform_if_ranks_are():
    """100 sets of 200 simulations; Kolmogorov-Smirnov, false alarm 1e-3."""
    rng = np.random.default_rng(2)
    p = ranks_of(rng.uniform(size=(200, 100))).p_values()
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_ranks_are_taken_among_independent_draws():
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((4, 100, 2))
    truth = np.array([-10.0, 10.0])
    np.testing.assert_array_equal(thinned_rank(draws, truth), [0, N_KEPT])
    middle = [thinned_rank(rng.standard_normal((2, 100, 1)), np.zeros(1))[0] for _ in range(50)]
    assert abs(np.mean(middle) - N_KEPT / 2) < 5 * 5 / np.sqrt(50)
    slow = np.cumsum(draws, axis=1)
    assert effective_draws(slow) < 50 < effective_draws(draws)
    with pytest.raises(InvalidDataError, match="independent ones, fewer than 99; sample longer"):
        thinned_rank(slow, truth)


def test_contraction_shows_a_posterior_that_learnt_nothing():
    rng = np.random.default_rng(4)
    truth = rng.standard_normal((500, 2))
    sd = np.array([1.0, 0.1]) * np.ones((500, 2))
    ranks = Ranks.from_draws(("a", "b"), truth, rng.integers(100, size=(500, 2)), sd)
    np.testing.assert_allclose(ranks.contraction, [0, 0.99], atol=0.15)


@pytest.mark.parametrize(
    ("ranks", "match"),
    [
        (np.zeros((5, 3)), r"shape \(5, 3\), expected \(n_simulations, 2\)"),
        (np.zeros((0, 2)), "expected"),
        (np.full((5, 2), 100), "ranks must lie between 0 and 99"),
        (np.full((5, 2), -1), "ranks must lie between 0 and 99"),
    ],
)
def test_bad_ranks_are_refused(ranks, match):
    with pytest.raises(InvalidDataError, match=match):
        Ranks(("a", "b"), ranks, N_KEPT, np.zeros(2))


def test_figure_of_ranks():
    pit = np.random.default_rng(5).uniform(size=(300, 5))
    pit[:, 4] **= 2
    figure = plot_ranks(ranks_of(pit), title="Simulated")
    assert figure.get_suptitle() == "Simulated: 300 simulations"
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 5
    assert shown[0].get_title().startswith("p0, p = ")
    plt.close(figure)


# Label model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stars():
    """A trained model with uncertain coefficients and a factor, priors, 300 stars with labels.

    The labels' prior is uniform over the training range; intrinsic scatter is as large as noise,
    a tenth of the pixels is bad.
    """
    cannon = make_problem(n_pixels=100, n_factors=1, n_train=60, snr=30, scatter=0.03).cannon
    rng = np.random.default_rng(1)
    ivar = np.where(rng.random((20, 100)) < 0.1, 0, 900.0)
    priors = training_range_priors(cannon)
    return cannon, priors, *simulate_stars(cannon, ivar, 300, priors, rng)


def test_stars_are_drawn_from_the_model(stars):
    """Residuals from the mean have the model's variance: chi-square of each pixel, within 30 %."""
    cannon, priors, spectra, labels = stars
    low, high = priors.lower, priors.upper
    assert np.all((labels > low) & (labels < high))
    assert stats.kstest((labels[:, 0] - low[0]) / (high[0] - low[0]), "uniform").pvalue > 1e-3
    assert spectra.simulated
    from bayes_cannon.base.packing import unpack

    x = np.concatenate([cannon.basis(labels), np.zeros((300, 1))], axis=1)
    cov = unpack(cannon.coef_cov.astype(float))
    cov[:, -1, -1] += cannon.loadings[:, 0] ** 2
    v = np.einsum("ni,pij,nj->np", x, cov, x) + cov[:, -1, -1] + cannon.scatter**2
    good = spectra.ivar > 0
    variance = v + 1 / np.where(good, spectra.ivar, 1)
    off = spectra.flux - x[:, :-1] @ cannon.theta.T
    assert np.mean(off[good] ** 2 / variance[good]) == pytest.approx(1, abs=0.1)
    assert good.mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.slow
def test_label_model_is_calibrated_and_a_wrong_one_is_seen(stars):
    """NUTS on 300 stars; the noise's variance in place of its standard deviation is found out."""
    cannon, priors, spectra, labels = stars
    ranks = rank_labels(cannon, spectra, labels, settings=NUTS, priors=priors, seed=1)
    assert ranks.names == cannon.basis.names
    np.testing.assert_array_less(ALARM, ranks.p_values())
    np.testing.assert_array_less(0.95, ranks.contraction)
    few = spectra.select(np.arange(220))
    told = dataclasses.replace(few, ivar=few.ivar**2)
    broken = rank_labels(cannon, told, labels[:220], settings=NUTS, priors=priors, seed=1)
    assert broken.p_values().min() < 1e-3


def test_leaving_out_the_coefficients_uncertainty_is_seen(stars):
    """Gaussians at the mode, which are quick; with the uncertainty they pass."""
    cannon, priors, spectra, labels = stars
    given = {"priors": priors, "seed": 2}
    right = rank_labels(cannon, spectra, labels, settings=LAPLACE, **given)
    np.testing.assert_array_less(ALARM, right.p_values())
    plug_in = dataclasses.replace(LAPLACE, coefficient_uncertainty=False)
    wrong = rank_labels(cannon, spectra, labels, settings=plug_in, **given)
    assert wrong.p_values().min() < 1e-3


def test_a_star_without_posterior_is_not_left_out(stars):
    cannon, _, spectra, _ = stars
    demanding = dataclasses.replace(LAPLACE, min_pixels=95)
    with pytest.raises(FitError, match="of 30 simulated stars got no posterior"):
        sbc_labels(cannon, spectra.ivar, 30, settings=demanding, seed=1)
    few = dataclasses.replace(LAPLACE, draws=4, chains=1)
    with pytest.raises(FitError, match="draws of 3 of 3 simulated stars are worth fewer than 99"):
        sbc_labels(cannon, spectra.ivar, 3, settings=few, seed=1)


# Training model -------------------------------------------------------------------------------


def test_correlations_are_drawn_as_lkj():
    """Off-diagonals over 2 of LKJ(shape) are Beta; Kolmogorov-Smirnov, false alarm 3e-3 in all."""
    rng = np.random.default_rng(6)
    drawn = np.array([draw_correlation(4, 2.0, rng) for _ in range(800)])
    assert np.linalg.eigvalsh(drawn).min() > 0
    np.testing.assert_allclose(drawn[:, range(4), range(4)], 1)
    beta = stats.beta(2.0 - 1 + 4 / 2, 2.0 - 1 + 4 / 2)
    for i, j in ((1, 0), (3, 0), (3, 2)):
        assert stats.kstest((1 + drawn[:, i, j]) / 2, beta.cdf).pvalue > 1e-3


def test_hyperparameters_are_drawn_from_their_priors():
    priors, rng = TrainingPriors(coef_scale=0.1), np.random.default_rng(7)
    drawn = [draw_hyperparameters(priors, 2, rng) for _ in range(500)]
    tau, omega = np.array([h.tau[0] for h in drawn]), np.array([h.omega_s for h in drawn])
    assert stats.kstest(tau / 0.1, "halfnorm").pvalue > 1e-3
    assert stats.kstest(omega / priors.log_scatter_spread, "halfnorm").pvalue > 1e-3
    mu = (np.array([h.mu_s for h in drawn]) - priors.log_scatter_mean) / priors.log_scatter_mean_sd
    assert stats.kstest(mu, "norm").pvalue > 1e-3


def training_problem(n_stars=20, n_pixels=200, n_terms=2, seed=0):
    """Features, inverse variances and hyperparameters: noise as large as scatter, 5 % bad."""
    rng = np.random.default_rng(seed)
    features = np.vander(rng.standard_normal(n_stars), n_terms, increasing=True)
    ivar = np.where(rng.random((n_stars, n_pixels)) < 0.05, 0, 0.02**-2)
    tau = 0.05 / np.arange(1, n_terms + 1)
    cov = np.outer(tau, tau) * (0.5 + 0.5 * np.eye(n_terms))
    return features, ivar, Hyperparameters(cov, float(np.log(0.02)), 0.5)


def test_closed_forms_are_exact():
    """2000 pixels: coefficients given the scatter, one by one and together, and log s."""
    features, ivar, hyper = training_problem(n_pixels=2000, n_terms=3)
    pits = closed_form_pits(hyper, features, ivar, seed=1)
    exact = ["theta[0]", "theta[1]", "theta[2]", "theta joint", "log_s"]
    p = ranks_of(np.stack([pits[name] for name in exact], axis=1)).p_values()
    np.testing.assert_array_less(ALARM, p)
    # The Gaussian at the mode of log s is an approximation: close, and no more is claimed.
    inside = np.abs(pits["log_s laplace"] - 0.5) < 0.34
    assert inside.mean() == pytest.approx(0.68, abs=0.06)


def test_closed_forms_with_a_wrong_noise_are_seen(monkeypatch):
    """The standard deviation in place of the variance in what the closed forms are told."""
    from bayes_cannon.analysis.sbc import pixels as closed_form_sbc

    true = closed_form_sbc.fit_pixels
    features, ivar, hyper = training_problem(n_pixels=400, n_terms=3)

    def wrong(flux, ivar, *rest, **options):
        return true(flux, ivar**2, *rest, **options)

    monkeypatch.setattr(closed_form_sbc, "fit_pixels", wrong)
    pits = closed_form_pits(hyper, features, ivar, seed=1)
    assert ranks_of(np.stack([pits["theta joint"]], axis=1)).p_values()[0] < 1e-6


@pytest.mark.slow
def test_training_model_is_calibrated_and_a_wrong_one_is_seen():
    """NUTS on the PyMC model, 200 pixels; noise variance in place of its sd is found out."""
    features, ivar, hyper = training_problem()
    sampler = TrainingSampler.compile(features, ivar, hyper=hyper)
    settings = NutsSettings(draws=150, tune=200, chains=2)
    ranks = sbc_pixels(sampler, settings=settings, seed=1)
    assert ranks.names == ("theta[0]", "theta[1]", "log_s")
    assert ranks.n_simulations == 200
    np.testing.assert_array_less(ALARM, ranks.p_values())
    np.testing.assert_array_less([0.9, 0.8, 0.4], ranks.contraction)
    squared = np.where(ivar > 0, 0.02**-4, 0)
    broken = sbc_pixels(sampler, told_ivar=squared, settings=settings, seed=1)
    assert broken.p_values().min() < 1e-6


class Chains:
    """Stands in for the compiled model with free hyperparameters: exact or stuck draws."""

    def __init__(self, stuck):
        self.stuck, self.lengths = stuck, []

    def __call__(self, sampler, flux, ivar, seed, settings):
        self.lengths.append(settings.draws)
        rng = np.random.default_rng(seed)
        hyper = [draw_hyperparameters(sampler.priors, 2, rng) for _ in range(4 * settings.draws)]
        shape = (4, settings.draws)
        draws = {
            "population_stds": np.array([h.tau for h in hyper]).reshape(*shape, 2),
            "population_corr": np.array([h.correlation for h in hyper]).reshape(*shape, 2, 2),
            "mu_s": np.array([h.mu_s for h in hyper]).reshape(shape),
            "omega_s": np.array([h.omega_s for h in hyper]).reshape(shape),
            "theta": rng.standard_normal((*shape, 3, 2)),
            "log_s": rng.standard_normal((*shape, 3)),
        }
        if self.stuck:
            draws["mu_s"] = np.cumsum(draws["mu_s"], axis=1)
        return draws


def test_hyperparameters_are_ranked_among_draws(monkeypatch):
    """With draws from the prior in place of a posterior ranks of hyperparameters are uniform."""
    features, ivar, _ = training_problem(n_pixels=3)
    sampler = TrainingSampler(features, ivar, TrainingPriors(), None, None)
    chains = Chains(stuck=False)
    monkeypatch.setattr(TrainingSampler, "sample_enough", lambda self, *a: chains(self, *a))  # noqa: PLW0108
    found = sbc_training(sampler, 60, settings=NutsSettings(draws=120), seed=1)
    assert found.names[:5] == ("tau[0]", "tau[1]", "corr[1,0]", "mu_s", "omega_s")
    assert found.names[5:] == ("theta[0,0]", "theta[0,1]", "log_s[0]")
    np.testing.assert_array_less(ALARM, found.p_values()[:5])
    np.testing.assert_allclose(found.contraction[:5], 0, atol=0.5)


def test_slow_chains_are_sampled_longer_and_never_left_out(monkeypatch):
    features, ivar, _ = training_problem(n_pixels=3)
    sampler = TrainingSampler(features, ivar, TrainingPriors(), None, None)
    chains = Chains(stuck=True)
    monkeypatch.setattr(TrainingSampler, "sample", lambda self, *a: chains(self, *a))  # noqa: PLW0108
    with pytest.raises(FitError, match="640 draws of a simulated training set are worth"):
        sbc_training(sampler, 1, settings=NutsSettings(draws=10), seed=1)
    assert chains.lengths == [10, 40, 160]
