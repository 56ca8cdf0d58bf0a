"""Priors of the labels: densities, coordinates, derivatives and files."""

import numpy as np
import pytest
from scipy.stats import kstest, norm, truncnorm, uniform

from bayes_cannon.errors import FileFormatError, LabelError
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors, default_prior, read_priors

SEED = 11
KINDS = {
    "uniform": LabelPrior.uniform(-2.0, 2.0),
    "normal": LabelPrior.normal(0.3, 0.5),
    "truncated": LabelPrior.truncated(0.3, 0.5, -0.5, 0.6),
    "lower": LabelPrior.truncated(0.3, 0.5, lower=0.1),
    "upper": LabelPrior.truncated(0.3, 0.5, upper=0.1),
    "tail": LabelPrior.truncated(0.0, 1.0, 6.0, 7.0),
}
REFERENCE = {
    "uniform": uniform(-2, 4),
    "normal": norm(0.3, 0.5),
    "truncated": truncnorm(-1.6, 0.6, 0.3, 0.5),
    "lower": truncnorm(-0.4, np.inf, 0.3, 0.5),
    "upper": truncnorm(-np.inf, -0.4, 0.3, 0.5),
    "tail": truncnorm(6, 7),
}


def all_kinds():
    return LabelPriors(tuple(KINDS), tuple(KINDS.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_that_of_scipy(kind):
    priors = LabelPriors((kind,), (KINDS[kind],))
    x = REFERENCE[kind].ppf(np.linspace(0.01, 0.99, 7))
    np.testing.assert_allclose(
        priors.log_density(x[:, None]), REFERENCE[kind].logpdf(x), rtol=1e-10, atol=1e-9
    )


def test_density_outside_the_bounds_is_zero():
    assert LabelPriors(("A",), (KINDS["uniform"],)).log_density([[2.1]])[0] == -np.inf


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(kind):
    # false alarm 1e-4 per kind; the seed is fixed
    draws = LabelPriors((kind,), (KINDS[kind],)).sample(2000, np.random.default_rng(SEED))
    assert kstest(draws[:, 0], REFERENCE[kind].cdf).pvalue > 1e-4


def test_unconstrain_inverts_constrain():
    priors = all_kinds()
    u = np.random.default_rng(SEED).normal(0, 3, (50, len(KINDS)))
    np.testing.assert_allclose(priors.unconstrain(priors.constrain(u)), u, atol=1e-8)
    labels = priors.constrain(u)
    assert np.all((labels > priors.lower) & (labels < priors.upper))


def test_derivatives_match_differences():
    priors, h = all_kinds(), 1e-5
    u = np.random.default_rng(SEED).normal(0, 1.5, (20, len(KINDS)))
    at = priors.at(u)
    for k in range(len(KINDS)):
        step = h * np.eye(len(KINDS))[k]
        up, down = priors.at(u + step), priors.at(u - step)
        np.testing.assert_allclose(
            (up.labels - down.labels)[:, k] / (2 * h), at.first[:, k], rtol=1e-6, atol=1e-8
        )
        np.testing.assert_allclose(
            (up.first - down.first)[:, k] / (2 * h), at.second[:, k], rtol=1e-6, atol=1e-8
        )
        np.testing.assert_allclose(
            (up.log_density - down.log_density) / (2 * h), at.slope[:, k], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            (up.slope - down.slope)[:, k] / (2 * h), at.curvature[:, k], rtol=1e-5, atol=1e-6
        )


def test_density_of_u_is_that_of_the_labels_with_the_jacobian():
    priors = all_kinds()
    u = np.random.default_rng(SEED).normal(0, 2, (10, len(KINDS)))
    at = priors.at(u)
    expected = priors.log_density(at.labels) + np.log(np.abs(at.first)).sum(axis=1)
    np.testing.assert_allclose(at.log_density, expected, rtol=1e-9)


def test_far_coordinates_stay_finite_in_density():
    at = LabelPriors(("A",), (KINDS["uniform"],)).at(np.array([[-800.0], [800.0]]))
    np.testing.assert_allclose(at.log_density, [-800.0, -800.0])


def test_clip_moves_labels_strictly_inside():
    priors = all_kinds()
    clipped = priors.clip(np.full((1, len(KINDS)), 1e3))
    assert np.all(np.isfinite(priors.unconstrain(clipped)))


def test_defaults():
    priors = LabelPriors.for_labels(("TEFF", "LOGG", "FE_H", "VSINI"))
    np.testing.assert_array_equal(priors.lower, [0, 0, -2, 0])
    np.testing.assert_array_equal(priors.upper, [10000, 10, 2, 500])
    assert priors.all_uniform
    assert default_prior("SOMETHING") == LabelPrior.uniform(-2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelPrior.uniform(2, 1), "lower < upper"),
        (lambda: LabelPrior.uniform(np.nan, 1), "lower < upper"),
        (lambda: LabelPrior.uniform(0, np.inf), "two finite bounds"),
        (lambda: LabelPrior.normal(0, 0), "sd > 0"),
        (lambda: LabelPrior.normal(np.inf, 1), "finite mean"),
        (lambda: LabelPrior.truncated(0, 1, 50, 60), "too far in the tail"),
        (lambda: LabelPriors(("A",), ()), "priors are 0, labels 1"),
        (lambda: LabelPriors.for_labels(("A",), {"B": KINDS["normal"]}), "given for B"),
    ],
)
def test_impossible_priors_are_refused(make, message):
    with pytest.raises(LabelError, match=message):
        make()


def test_priors_from_a_file(tmp_path):
    path = tmp_path / "priors.toml"
    path.write_text(
        '[TEFF]\ndistribution = "uniform"\nlower = 3500\nupper = 5500\n'
        '[LOGG]\ndistribution = "truncated"\nmean = 2.5\nsd = 0.5\nlower = 0\n'
        '[FE_H]\ndistribution = "normal"\nmean = -0.1\nsd = 0.3\n'
    )
    assert read_priors(path) == {
        "TEFF": LabelPrior.uniform(3500, 5500),
        "LOGG": LabelPrior.truncated(2.5, 0.5, lower=0),
        "FE_H": LabelPrior.normal(-0.1, 0.3),
    }


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[TEFF", FileFormatError, "not a TOML file"),
        ("TEFF = 3", FileFormatError, "TEFF must be a table"),
        ("[TEFF]\nlower = 1", FileFormatError, "needs distribution = one of uniform"),
        ('[TEFF]\ndistribution = "flat"', FileFormatError, "not 'flat'"),
        ('[TEFF]\ndistribution = "uniform"\nlower = 1', FileFormatError, "missing: upper"),
        (
            '[A]\ndistribution = "normal"\nmean = 1\nsd = 1\nlower = 0',
            FileFormatError,
            "unknown: lower",
        ),
        (
            '[A]\ndistribution = "normal"\nmean = true\nsd = "x"',
            FileFormatError,
            "not a number: mean, sd",
        ),
        ('[A]\ndistribution = "uniform"\nlower = 2\nupper = 1', LabelError, "lower < upper"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, error, message):
    path = tmp_path / "priors.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_priors(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="cannot read priors"):
        read_priors(tmp_path / "none.toml")
