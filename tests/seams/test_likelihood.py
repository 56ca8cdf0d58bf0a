"""A likelihood from outside the package, in the label model: Student's t at every pixel."""

import dataclasses
import json

import numpy as np
import pytensor.tensor as pt
import pytest
import xarray as xr

from bayes_cannon.errors import BayesCannonWarning, InvalidDataError
from bayes_cannon.inference import (
    InferenceSettings,
    Likelihood,
    compress,
    extra_variance,
    infer_labels,
    known_likelihoods,
    register_likelihood,
)
from bayes_cannon.inference.calibrated import ErrorModel
from bayes_cannon.inference.likelihood.kinds import OneStar, likelihood_of
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.modes import fit_laplace
from bayes_cannon.inference.sampler import LabelSampler
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.runs import infer_run
from bayes_cannon.spectra.spectra import NormalizedSpectra
from tests.inference.test_calibration import error_model
from tests.label_problem import NAMES, make_problem
from tests.run_problem import CANNON, make_spectra

SEED = 20150712
OUTLIERS = [7, 40, 77, 101, 150, 188]


@dataclasses.dataclass(frozen=True)
class StudentT(Likelihood):
    """Pixels are theta v + loadings z + t(nu) / sqrt(w), the factors z held at their mode."""

    nu: float = 3.0
    name = "student_t"

    def compress(self, pixels, flux, ivar, x):
        chi2 = (flux - x @ pixels.coef.T) ** 2 * weight(pixels, ivar, x)
        return compress(pixels, flux, ivar, x, weights=(self.nu + 1) / (self.nu + chi2))

    def data(self, pixels, star):
        theta, loadings = np.split(pixels.coef, [pixels.n_terms], axis=1)
        rest = star.flux - loadings @ star.x[pixels.n_terms :]
        return {"theta": theta, "rest": rest, "w": weight(pixels, star.ivar, star.x[None])[0]}

    def term(self, basis, labels, place, given):
        v = basis.symbolic((labels - place[:, 0]) / place[:, 1])
        chi2 = given["w"] * (given["rest"] - given["theta"] @ v) ** 2
        return -(self.nu + 1) / 2 * pt.log1p(chi2 / self.nu).sum()

    def log_likelihood(self, pixels, star, ell, *, at_mode=False):
        v, z = pixels.basis.features(ell), star.x[pixels.n_terms :]
        x = np.concatenate([v, np.broadcast_to(z, (len(v), z.size))], axis=1)
        w = weight(pixels, star.ivar, star.x[None] if at_mode else x)[:, star.ivar > 0]
        chi2 = w * (star.flux - x @ pixels.coef.T)[:, star.ivar > 0] ** 2
        return (np.log(w) - (self.nu + 1) * np.log1p(chi2 / self.nu)).sum(axis=1) / 2

    def sampled(self, pixels, star, ell):
        return self.log_likelihood(pixels, star, ell, at_mode=True)


def weight(pixels, ivar, x):
    return ivar / (1 + ivar * extra_variance(pixels, x))


SETTINGS = InferenceSettings(draws=400, tune=300, chains=4, cores=1, likelihood=StudentT())
GAUSSIAN = dataclasses.replace(SETTINGS, likelihood="gaussian")


@pytest.fixture(scope="module")
def problem():
    return make_problem(n_factors=0, n_stars=3, seed=SEED)


def spoilt(spectra):
    """Spectra in which six of 200 pixels are 20 standard deviations too bright."""
    flux = spectra.flux.copy()
    flux[:, OUTLIERS] += 0.25
    return NormalizedSpectra(spectra.star_id, spectra.wavelength, flux, spectra.ivar)


def moments(result):
    draws = np.stack([result["posterior"][n].values for n in NAMES]).astype(np.float64)
    return draws.mean(axis=(1, 2)), draws.std(axis=(1, 2))


@pytest.fixture(scope="module")
def found(problem):
    return {
        (kind, dirty): infer_labels(
            problem.cannon, spoilt(problem.spectra) if dirty else problem.spectra, seed=SEED,
            settings=settings,
        )
        for kind, settings in (("t", SETTINGS), ("gaussian", GAUSSIAN))
        for dirty in (False, True)
    }  # fmt: skip


def test_it_is_sampled_and_checked(found):
    stats = found["t", True]["star_stats"]
    assert np.all(stats["status"].values & ~32 == 0), "no remark but that some are sampled again"
    assert float(stats["khat"].max()) < 0.7
    assert float(stats["chi2_p"].min()) > 0.01
    assert float(found["gaussian", True]["star_stats"]["chi2_p"].max()) < 1e-6
    assert found["t", True]["posterior"].attrs["likelihood"] == "student_t(nu=3.0)"
    assert found["gaussian", True]["posterior"].attrs["likelihood"] == "gaussian"


def test_outliers_move_it_less_than_the_gaussian(found):
    shift = {}
    for kind in ("t", "gaussian"):
        (clean, sd), (dirty, _) = moments(found[kind, False]), moments(found[kind, True])
        shift[kind] = np.abs(dirty - clean) / sd
    assert shift["t"].max() < 1.0
    assert shift["gaussian"].max() > 3.0
    assert np.sqrt(np.mean(shift["t"] ** 2)) < np.sqrt(np.mean(shift["gaussian"] ** 2)) / 5


def test_without_outliers_the_two_agree(found):
    (t, t_sd), (normal, sd) = moments(found["t", False]), moments(found["gaussian", False])
    assert np.abs((t - normal) / sd).max() < 1.0, "t(3) weighs pixels otherwise, by a part of sd"
    assert np.all((t_sd / sd > 0.8) & (t_sd / sd < 2.5))


def test_lp_is_the_density_that_was_sampled(problem, found):
    """The term in the graph and `sampled` say the same, up to a constant of the star."""
    pixels, priors = PixelModel.from_cannon(problem.cannon), LabelPriors.for_labels(NAMES)
    flux, ivar = pixels.take(problem.spectra.flux[:1]), pixels.take(problem.spectra.ivar[:1])
    laplace, data = fit_laplace(pixels, priors, flux, ivar, likelihood=SETTINGS.likelihood)
    star = OneStar(flux[0], ivar[0], data, pixels.basis(laplace.labels)[0])
    sampler = LabelSampler.compile(
        pixels.basis, priors, SETTINGS.likelihood, SETTINGS.likelihood.data(pixels, star)
    )
    y = np.random.default_rng(SEED).standard_normal((5, 3))
    u = laplace.u[0] + y @ laplace.chol[0].T
    given = SETTINGS.likelihood.data(pixels, star)
    lp = [sampler.log_density(given, laplace.u[0], laplace.chol[0], row)[0] for row in y]
    ell = pixels.basis.standardize(priors.constrain(u))
    expected = SETTINGS.likelihood.sampled(pixels, star, ell) + priors.at(u).log_density
    np.testing.assert_allclose(np.diff(lp), np.diff(expected), rtol=1e-6, atol=1e-5)


def test_compiled_models_are_kept_by_likelihood(problem, found):
    kept = {key[4] for key in LabelSampler._cache if key[0] == NAMES}
    assert {StudentT(), likelihood_of("gaussian")} <= kept
    assert StudentT(nu=5.0) not in kept


def test_the_gaussian_at_the_mode_follows_it_too(problem):
    settings = dataclasses.replace(SETTINGS, method="laplace")
    clean, dirty = (
        infer_labels(problem.cannon, s, seed=SEED, settings=settings)
        for s in (problem.spectra, spoilt(problem.spectra))
    )
    assert np.all(np.abs(moments(dirty)[0] - moments(clean)[0]) < moments(clean)[1])


def test_registered_it_is_known_by_name_and_recorded_by_runs(tmp_path):
    register_likelihood(StudentT())
    register_likelihood(StudentT())
    assert "student_t" in known_likelihoods()
    settings = InferenceSettings(method="laplace", draws=10, likelihood="student_t", cores=1)
    assert likelihood_of(settings.likelihood) == StudentT()
    run = infer_run(CANNON, make_spectra(bad=()), tmp_path / "run", settings=settings, seed=1)
    assert json.loads(json.dumps(run.summary))["settings"]["likelihood"] == "student_t(nu=3.0)"
    with pytest.raises(InvalidDataError, match=r"another likelihood named 'student_t'"):
        register_likelihood(StudentT(nu=4.0))


def test_what_is_no_likelihood_is_refused(problem):
    @dataclasses.dataclass(frozen=True)
    class Unhashable(StudentT):
        nu: list = dataclasses.field(default_factory=list)

    for wrong, text in (
        ("cauchy", "there is no likelihood 'cauchy' .there are gaussian"),
        (3, "must be a name or an object of a subclass of Likelihood"),
        (StudentT, "must be a name or an object"),
        (Unhashable(), "cannot be hashed"),
    ):
        with pytest.raises(InvalidDataError, match=text):
            InferenceSettings(likelihood=wrong)
    basis = problem.cannon.basis
    with pytest.raises(InvalidDataError, match="'student_t' needs data of some star"):
        LabelSampler.compile(basis, None, StudentT())


def test_a_model_error_of_another_likelihood_is_warned_of(problem, monkeypatch):
    error = error_model(names=problem.cannon.basis.names)
    monkeypatch.setattr(ErrorModel, "from_tree", lambda tree: error)
    cannon = dataclasses.replace(problem.cannon, model_error=xr.DataTree())
    settings = dataclasses.replace(SETTINGS, method="laplace", draws=10)
    with pytest.warns(BayesCannonWarning, match=r"calibrated posteriors of 'student_t'"):
        infer_labels(cannon, problem.spectra, seed=1, settings=settings)
