"""Known terms: shift, broadening, ghost and continuum, in training and in inference."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.residuals import residual_blocks
from bayes_cannon.analysis.sbc.labels import simulate_stars, training_range_priors
from bayes_cannon.base.packing import unpack
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.likelihood.compression import compress
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.likelihood.whole import full_log_likelihood
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_model import build_full_pixel_model
from bayes_cannon.models.training_model import build_factor_model
from bayes_cannon.spectra.arrays import training_set_from_arrays
from bayes_cannon.spectra.distortions import KNOWN_TERMS, KnownTerms, known_term_names
from bayes_cannon.training import advi, cross_validation
from bayes_cannon.training.factor_choice import choose_factors, choose_terms
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.pixels.fit import Design
from bayes_cannon.training.settings import TrainingSettings

SEED = 7
N_STARS, N_TRAIN = 260, 160
CHIPS = ((0, 200), (200, 360))
SNR = 150.0
LAPLACE = InferenceSettings(method="laplace", n_khat=0, draws=200)


class Stars:
    """Gaussian lines that follow two labels and a third abundance, shifted exactly."""

    def __init__(self, *, shift=0.5, ghost=0.0, seed=SEED):
        rng = np.random.default_rng(seed)
        self.wavelength = 16000 * np.exp(4.14 * np.arange(360) / 299792.458)
        self.labels = np.c_[rng.uniform(4000, 5000, N_STARS), rng.uniform(-0.5, 0.5, N_STARS)]
        self.shift = shift * rng.standard_normal(N_STARS)
        self.ghost = ghost * np.abs(rng.standard_normal(N_STARS))
        ell = (self.labels - [4500, 0]) / [290, 0.29]
        other = rng.standard_normal(N_STARS)
        centre, depth = 360 * rng.random(70), rng.uniform(0.05, 0.25, 70)
        slope, kind = rng.normal(0, 0.15, (2, 70)), rng.random(70) < 0.2
        strength = np.exp(ell @ slope + 0.1 * np.outer(other, kind)) * depth
        x = np.arange(360)[:, None] - centre
        moved = x[None] - (self.shift / 4.14)[:, None, None]
        flux = 1 - np.einsum("nl,npl->np", strength, np.exp(-0.5 * (moved / 1.4) ** 2))
        flux[:, :200] += self.ghost[:, None] * (1 - flux[:, :200])
        self.flux = flux + rng.standard_normal(flux.shape) / SNR
        chips = [self.wavelength[[a, b - 1]].tolist() for a, b in CHIPS]
        self.set = training_set_from_arrays(
            self.wavelength, self.flux, {"TEFF": self.labels[:, 0], "FE_H": self.labels[:, 1]},
            ivar=np.full(flux.shape, SNR**2), chips=chips, continuum=None, simulated=True,
            star_id=[f"s{i:03d}" for i in range(N_STARS)],
        )  # fmt: skip
        self.training = self.set.select(np.arange(N_TRAIN))
        self.rest = self.set.select(np.arange(N_TRAIN, N_STARS))


@pytest.fixture(scope="module")
def stars():
    return Stars()


def fitted(stars, terms=("shift",), **options):
    settings = TrainingSettings(n_factors=1, folds=0, terms=terms, latent_labels=False, **options)
    return train(stars.training, settings=settings, seed=1)


@pytest.fixture(scope="module")
def cannon(stars):
    return fitted(stars)


@pytest.fixture(scope="module")
def result(cannon, stars):
    return infer_labels(cannon, stars.rest.spectra, settings=LAPLACE, seed=1)


def test_templates_are_the_derivatives():
    """Of a Gaussian line: shifted and broadened by finite steps, diluted, and multiplied."""
    velocity = 4.14 * np.arange(60)
    wavelength = 16000 * np.exp(velocity / 299792.458)

    def line(shift=0.0, sigma=9.0):
        x = (velocity - velocity[30] - shift) / sigma
        return 1 - 0.3 * 9 / sigma * np.exp(-0.5 * x**2)

    terms = KnownTerms.on(KNOWN_TERMS, wavelength, ((0, 60),))
    found = terms.templates(line()[:, None]).at(np.ones((1, 1)))[0]
    named = dict(zip([(c.name, c.order) for c in terms.columns], found, strict=True))
    inside = slice(3, -3)
    shifted = (line(0.1) - line(-0.1)) / 0.2
    assert_allclose(named["shift", 0][inside], shifted[inside], atol=3e-4)
    wider, narrower = (line(sigma=np.sqrt(81 + v)) for v in (1, -1))
    assert_allclose(named["broadening", 0][inside], (wider - narrower)[inside] / 2, atol=3e-4)
    t = np.linspace(-1, 1, 60)
    assert_allclose(named["ghost", 1], (1 - line()) * t, atol=1e-9)
    assert_allclose(named["continuum", 2], line() * (2 * t**2 - 1), atol=1e-9)


def test_templates_leave_out_pixels_without_coefficients():
    wavelength = 16000 * np.exp(4.14 * np.arange(60) / 299792.458)
    theta = 1 - 0.3 * np.exp(-0.5 * ((np.arange(60) - 30) / 2) ** 2)[:, None]
    good = np.arange(60) != 20
    bad = np.where(good[:, None], theta, 99.0)
    terms = KnownTerms.on(["shift"], wavelength, ((0, 60),))
    got, whole = terms.templates(bad, good), terms.templates(theta)
    assert got.slope[20] == 0
    assert_allclose(got.slope[good], whole.slope[good], atol=1e-3)


def test_names_of_terms():
    assert known_term_names(["broadening", "shift", "shift"]) == ("shift", "broadening")
    with pytest.raises(InvalidDataError, match="no known term 'wobble'; there are shift"):
        known_term_names(["wobble"])
    with pytest.raises(InvalidDataError, match="no known term"):
        TrainingSettings(terms=("wobble",))
    assert TrainingSettings(terms="ghost").terms == ("ghost",)


def test_shift_is_found_within_its_errors(cannon, result, stars):
    """68 and 95 % of the errors hold, and the scale is the injected one."""
    assert cannon.terms == ("shift",)
    assert_allclose(cannon.term_scale, 0.5, rtol=0.15)
    stats = result["star_stats"]
    true = stars.shift[N_TRAIN:] - stars.shift[:N_TRAIN].mean()
    error = stats["shift"].values - true
    pull = np.abs(error / stats["shift_sd"].values)
    assert np.std(error) < 0.15 * np.std(true)
    assert 0.55 < np.mean(pull < 1) < 0.80
    assert np.mean(pull < 2) > 0.88
    assert np.polyfit(true, stats["shift"].values, 1)[0] == pytest.approx(1, abs=0.04)
    assert_allclose(stats["term_amplitude"].values[:, 0], stats["shift"].values)
    assert stats["term_column"].values.tolist() == ["shift"]


def test_labels_are_better_and_stay_covered(cannon, result, stars):
    plain = infer_labels(fitted(stars, ()), stars.rest.spectra, settings=LAPLACE, seed=1)
    true = stars.labels[N_TRAIN:]
    errors = [r["star_stats"]["map_labels"].values - true for r in (result, plain)]
    rms = [np.sqrt(np.mean(error**2, axis=0)) for error in errors]
    assert np.all(rms[0] < rms[1])
    cov = result["star_stats"]["laplace_cov"].values
    sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    assert np.all(np.abs(np.mean(np.abs(errors[0]) < sd, axis=0) - 0.68) < 0.15)


def test_columns_of_the_catalogue(result, stars):
    table = catalogue(result)
    assert str(table["SHIFT"].unit) == str(table["SHIFT_ERR"].unit) == "km / s"
    assert_allclose(table["SHIFT"], result["star_stats"]["shift"].values)
    assert np.all(table["SHIFT_ERR"] > 0)
    without = infer_labels(
        fitted(stars, ()), stars.rest.spectra.select([0, 1]), settings=LAPLACE, seed=1
    )
    assert "SHIFT" not in catalogue(without).colnames


def test_a_term_that_is_not_there_switches_itself_off(cannon):
    still = fitted(Stars(shift=0.0))
    assert still.term_scale[0] < 0.05 * cannon.term_scale[0]


def test_terms_are_chosen_by_density(stars):
    """The shift is kept, the ghost that is not there is not."""
    training = stars.training
    design = Design.exact(_basis(training)(training.labels.values))
    tried = KnownTerms.on(("shift", "ghost"), training.spectra.wavelength, CHIPS)
    options = {"n_factors": 1, "seed": 1}
    choice = choose_terms(training.spectra.flux, training.spectra.ivar, design, tried, **options)
    assert choice.tried == ("shift", "ghost")
    assert choice.names[:1] == ("shift",)
    assert choice.gain[0] > 10 * choice.error[0] > 0
    assert choice.gain[1] < 0.05 * choice.gain[0]
    given = training.spectra.flux, training.spectra.ivar, design
    beside = choose_factors(*given, candidates=(0, 1), seed=1)
    assert beside.n_factors == 1
    again = choose_terms(*given, tried, **options, beside=beside)
    np.testing.assert_array_equal(again.gain, choice.gain)


def _basis(training):
    from bayes_cannon.models.basis import PolynomialBasis

    return PolynomialBasis.from_labels(training.labels, 2)


def test_ghosts_are_found_chip_by_chip():
    stars = Stars(ghost=0.05)
    cannon = fitted(stars, ("shift", "ghost"))
    scale = dict(zip([c[:2] for c in cannon.known_terms.columns], cannon.term_scale, strict=True))
    assert scale["ghost", 0] > 4 * scale["ghost", 1]
    stats = infer_labels(cannon, stars.rest.spectra, settings=LAPLACE, seed=1)["star_stats"]
    names = stats["term_column"].values.tolist()
    found = stats["term_amplitude"].values[:, names.index("ghost 0 0")]
    assert np.corrcoef(found, stars.ghost[N_TRAIN:])[0, 1] > 0.8


def test_likelihood_is_the_dense_one(cannon, stars):
    """With the template at the star's features among the loadings."""
    pixels, basis = PixelModel.from_cannon(cannon), cannon.basis
    flux, ivar = (
        pixels.take(a[-3:]).copy() for a in (stars.rest.spectra.flux, stars.rest.spectra.ivar)
    )
    ivar[:, 50:60] = 0
    labels = stars.labels[-3:]
    x = np.c_[basis(labels), np.zeros((3, 2))]
    data = compress(pixels, flux, ivar, x)
    for i in range(3):
        good = ivar[i] > 0
        cov = unpack(cannon.coef_cov[good].astype(float))
        variance = 1 / ivar[i, good] + cannon.scatter[good] ** 2
        variance += np.einsum("i,pij,j->p", x[i, :-1], cov, x[i, :-1])
        template = pixels.templates.scaled(x[i : i + 1, : basis.n_terms])[0].T[good]
        loading = np.c_[cannon.loadings[good], template]
        expected = multivariate_normal(
            cannon.theta[good] @ x[i, : basis.n_terms], np.diag(variance) + loading @ loading.T
        ).logpdf(flux[i, good])
        got = data.rows(slice(i, i + 1)).log_likelihood(x[i : i + 1, : basis.n_terms])
        assert_allclose(got, expected, rtol=1e-6)
        inner = np.eye(2) + loading.T @ (loading / variance[:, None])
        assert_allclose(data.term_cov[i, 0, 0], np.linalg.inv(inner)[1, 1], rtol=1e-5)
        ell = basis.standardize(labels[i]) + np.array([[0.0, 0.0], [1e-3, 0.0]])
        full = full_log_likelihood(pixels, flux[i], ivar[i], ell, np.zeros(2))
        sampled = data.rows(slice(i, i + 1)).log_likelihood(basis.features(ell)[None])[0]
        assert np.diff(full) == pytest.approx(np.diff(sampled), abs=0.03)


def test_pymc_model_agrees_with_the_compressed_one(cannon, stars):
    """The template follows the labels there: the slope of the density at the mode is zero."""
    settings = dataclasses.replace(LAPLACE, coefficient_uncertainty=False)
    spectra = stars.rest.spectra.select([0])
    stats = infer_labels(cannon, spectra, settings=settings, seed=1)["star_stats"]
    sd = np.sqrt(np.diag(stats["laplace_cov"].values[0]))
    model = build_full_pixel_model(
        cannon, spectra.flux[0].astype(float), spectra.ivar[0].astype(float)
    )
    logp = model.compile_logp(mode="FAST_COMPILE")
    slope = model.compile_dlogp(vars=[model["a"], model["z"]], mode="FAST_COMPILE")
    point = model.initial_point()
    point["a"] = stats["shift"].values / cannon.term_scale
    mode = dict(zip(cannon.names, stats["map_labels"].values[0], strict=True))
    for name, value in mode.items():
        point[model.rvs_to_values[model[name]].name] = _interval(value, *PRIORS[name])
    point["z"] = _factor(point, lambda at: slope(at)[1:])
    width = stats["shift_sd"].values[0] / cannon.term_scale[0]
    assert abs(slope(point)[0]) * width < 0.1
    here = logp(point)
    for name, step in zip(cannon.names, sd, strict=True):
        place = model.rvs_to_values[model[name]].name
        low, high = (
            logp({**point, place: _interval(mode[name] + d, *PRIORS[name])}) for d in (-step, step)
        )
        assert max(low, high) < here
        assert abs(high - low) < 0.1


PRIORS = {"TEFF": (0.0, 10_000.0), "FE_H": (-2.0, 2.0)}


def _interval(value, low, high):
    return np.log((value - low) / (high - value))


def _factor(point, slope):
    """Factors where the density is highest: it is quadratic in them."""
    at, step = np.zeros(1), 1.0
    values = [slope({**point, "z": at + d})[0] for d in (0.0, step)]
    return at - values[0] * step / (values[1] - values[0])


def test_kept_in_the_file(cannon, tmp_path):
    cannon.save(tmp_path / "model.nc")
    again = Cannon.load(tmp_path / "model.nc")
    assert again.terms == cannon.terms
    np.testing.assert_array_equal(again.term_scale, cannon.term_scale)
    assert "shift 0." in str(again)
    assert str(
        KnownTerms.on(again.terms, again.wavelength, again.chips, again.term_scale)
    ).endswith("km/s")


def test_bad_settings_of_terms():
    with pytest.raises(InvalidDataError, match="1 scales are needed"):
        KnownTerms.on(("shift",), np.array([1.0, 2.0]), ((0, 2),), np.zeros(3))


def test_terms_option_of_the_command_line():
    from bayes_cannon.cli.options import terms_of

    assert terms_of("shift, ghost") == ("shift", "ghost")
    with pytest.raises(FitError, match="--terms takes names"):
        terms_of("wobble")


def test_pymc_training_model_is_most_probable_where_the_fit_is(cannon, stars):
    """The scale and the amplitudes of the closed form, on some of the pixels and stars."""
    some, pixels = np.arange(40), np.arange(60)
    training, basis = stars.training, cannon.basis
    wavelength = training.spectra.wavelength[pixels]
    terms = KnownTerms.on(("shift",), wavelength, ((0, 60),))
    ivar = training.spectra.ivar[np.ix_(some, pixels)]
    flux = training.spectra.flux[np.ix_(some, pixels)]
    fit = fit_map(flux, ivar, Design.exact(basis(training.labels.values[some])), n_factors=1,
                  seed=1, terms=terms)  # fmt: skip
    k = basis.n_terms
    model = build_factor_model(
        flux, ivar, basis(training.labels.values[some]), 1, hyper=fit.hyper, terms=terms
    )
    theta = fit.mean[:, :k] + (np.arange(k) == 0)
    point = model.initial_point() | {
        "theta": theta, "loading": fit.mean[:, k:], "log_s": fit.log_scatter,
        "z": fit.factors.mean, "a": fit.amplitudes.mean,
        "term_scale_log__": np.log(fit.terms.scale),
    }  # fmt: skip
    logp = model.compile_logp(mode="FAST_COMPILE")
    slope = model.compile_dlogp(vars=[model["a"]], mode="FAST_COMPILE")
    sd = np.sqrt(fit.amplitudes.cov[:, 0, 0])
    assert np.all(np.abs(slope(point)) * sd < 0.4)
    here = logp(point)
    for a in (0.7, 1.4):
        scaled = {"a": fit.amplitudes.mean * a, "term_scale_log__": np.log(fit.terms.scale)}
        assert logp(point | scaled) < here
    true = stars.shift[some]
    assert np.corrcoef(fit.amplitudes.mean[:, 0], true)[0, 1] > 0.9


def test_each_fold_of_the_cross_validation_learns_its_scale(cannon, stars, monkeypatch):
    training = stars.training.select(np.arange(0, N_TRAIN, 2))
    design = Design.exact(cannon.basis(training.labels.values))
    small = dataclasses.replace(
        cannon, training=training.labels, factors=cannon.factors[::2], term_scale=np.array([9.0])
    )
    models, predict = [], cross_validation._predict
    monkeypatch.setattr(
        cross_validation, "_predict", lambda model, *a: models.append(model) or predict(model, *a)
    )
    found = cross_validation.cross_validate(small, training.spectra, design, folds=2, seed=1)
    assert found.complete.all()
    assert_allclose([model.term_scale[0] for model in models], 0.5, rtol=0.3)


def test_advi_is_given_the_spectra_without_the_terms(cannon, stars, monkeypatch):
    given = []

    def stop(flux, *_, **__):
        given.append(flux[:, np.arange(flux.shape[1])])
        raise FitError("far enough")

    monkeypatch.setattr(advi, "fit_advi", stop)
    with pytest.raises(FitError, match="far enough"):
        fitted(stars, method="advi")
    amplitude = stars.shift[:N_TRAIN]
    slopes = [np.std(amplitude @ (flux - flux.mean(axis=0))) for flux in
              (given[0], stars.training.spectra.flux)]  # fmt: skip
    assert slopes[0] < 0.5 * slopes[1]


def test_stars_drawn_from_the_model_are_covered(cannon, stars):
    """Labels and shifts of stars with amplitudes of the learnt scale (as simulation-based
    calibration draws them)."""
    rng = np.random.default_rng(SEED)
    ivar = np.full((1, cannon.n_pixels), SNR**2)
    n = 200
    drawn, true = simulate_stars(cannon, ivar, n, training_range_priors(cannon), rng)
    stats = infer_labels(cannon, drawn, settings=LAPLACE, seed=1)["star_stats"]
    cov = stats["laplace_cov"].values
    pull = (stats["map_labels"].values - true) / np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    assert np.all(np.abs(np.mean(np.abs(pull) < 1, axis=0) - 0.683) < 3 * 0.033)
    assert_allclose(np.std(stats["shift"].values), cannon.term_scale[0], rtol=0.15)


def test_model_says_its_terms(cannon, stars):
    """In its text, in what a paper says, and in the width of its spectra."""
    assert "known terms" in str(cannon)
    assert cannon.settings["training"]["chosen_terms"] == ["shift"]
    still = dataclasses.replace(cannon, terms=(), term_scale=np.zeros(0))
    labels = stars.labels[:2]
    wider = cannon.predict(labels).sd ** 2 - still.predict(labels).sd ** 2
    templates = cannon.known_terms.templates(cannon.theta).scaled(cannon.basis(labels))
    assert_allclose(wider, templates[:, 0] ** 2, atol=1e-9)


def test_residuals_are_without_the_terms(cannon, stars):
    spectra, labels = stars.rest.spectra, stars.labels[N_TRAIN:]
    after = {}
    for name, model in (
        ("with", cannon), ("without", dataclasses.replace(cannon, terms=(), term_scale=np.zeros(0)))
    ):  # fmt: skip
        block = next(residual_blocks(spectra.flux, spectra.ivar, labels, model))
        after[name] = float(np.std(block.after))
    assert after["with"] < 0.9 * after["without"]


def test_the_shift_is_taken_where_the_factors_are_chosen_too(stars):
    """And by default not beside a given number of factors."""
    settings = TrainingSettings(folds=0, latent_labels=False)
    chosen = train(stars.training, settings=settings, seed=1)
    record = chosen.settings["training"]
    assert chosen.terms == ("shift",)
    assert record["chosen_terms"] == ["shift"]
    gain, error = record["term_gain"]["shift"]
    assert gain > 2 * error > 0
    given = train(stars.training, settings=dataclasses.replace(settings, n_factors=0), seed=1)
    assert given.terms == ()
    alone = dataclasses.replace(settings, n_factors=0, terms=("shift",))
    without_factors = train(stars.training, settings=alone, seed=1)
    assert_allclose(without_factors.term_scale, 0.5, rtol=0.15)
