"""`train`: from a training set to a frozen model."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.base.packing import unpack
from bayes_cannon.base.parallel import memory_here
from bayes_cannon.errors import FitError, InvalidDataError, LabelError, NoStarsError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.hyperparameters import TrainingPriors
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.pixels import term_state
from bayes_cannon.training.settings import TrainingSettings

NAMES = ("TEFF", "LOGG", "FE_H")


def make_set(n_stars=150, n_pixels=80, degree=2, seed=0, n_factors=0):
    rng = np.random.default_rng(seed)
    ell = rng.normal(size=(n_stars, 3))
    basis = PolynomialBasis(
        NAMES, ("K", "dex", "dex"), np.array([4700, 2.4, -0.2]), np.array([300, 0.6, 0.3]), degree
    )
    theta = rng.normal(size=(n_pixels, basis.n_terms)) * 0.03
    theta[:, 0] = 0.9
    flux = basis.features(ell) @ theta.T
    if n_factors:
        flux += (
            rng.normal(size=(n_stars, n_factors)) @ rng.normal(size=(n_factors, n_pixels)) * 0.02
        )
    flux += rng.normal(size=flux.shape) * np.hypot(0.01, 0.005)
    ids = np.array([f"2M{i:04d}" for i in range(n_stars)])
    spectra = NormalizedSpectra(
        star_id=ids,
        wavelength=np.linspace(15200, 15300, n_pixels),
        flux=flux,
        ivar=np.full(flux.shape, 1e4),
        snr=rng.uniform(50, 300, n_stars),
        chips=((0, 40), (40, n_pixels)),
        simulated=True,
    )
    labels = Labels(NAMES, basis.unstandardize(ell), np.array([10.0, 0.02, 0.01]), ids)
    return TrainingSet(spectra, labels, settings={"degree": 4}), basis, theta


NO_FACTORS = TrainingSettings(n_factors=0)


def settings(**changes) -> TrainingSettings:
    """No factors and, where the setting exists, no cross-validation: quick fits."""
    known = TrainingSettings.__dataclass_fields__
    quick = {"folds": 0} if "folds" in known else {}
    return replace(NO_FACTORS, **quick, **changes)


@pytest.fixture(scope="module")
def simple():
    return make_set()


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_spectra_are_predicted(degree):
    dataset, basis, theta = make_set(degree=degree)
    cannon = train(dataset, settings=settings(degree=degree, latent_labels=False), seed=0)
    at = np.array([[4900.0, 2.0, 0.1], [4500.0, 3.0, -0.5]])
    error = cannon.predict(at).flux - basis(at) @ theta.T
    assert np.abs(error).max() < 6 * cannon.predict(at).coef_sd.max()
    assert np.sqrt(np.mean((error / cannon.predict(at).coef_sd) ** 2)) < 1.4
    assert np.median(cannon.scatter) == pytest.approx(0.005, rel=0.2)


def test_the_result_records_what_it_was_made_from(simple):
    dataset, *_ = simple
    cannon = train(dataset, settings=settings(), held_out=["2M9999"], seed=7)
    assert cannon.held_out.tolist() == ["2M9999"]
    np.testing.assert_array_equal(cannon.training.star_id, dataset.star_id)
    np.testing.assert_array_equal(cannon.wavelength, dataset.spectra.wavelength)
    assert cannon.chips == dataset.spectra.chips
    assert cannon.simulated
    assert cannon.settings["dataset"] == {"degree": 4}
    assert cannon.settings["training"]["seed"] == 7
    assert cannon.settings["training"]["n_stars"] == 150
    assert "pymc" in cannon.settings["versions"]
    assert cannon.used.all()


def test_saved_and_loaded_model_predicts_the_same(simple, tmp_path):
    cannon = train(simple[0], settings=settings(n_factors=2), seed=0)
    loaded = Cannon.load(cannon.save(tmp_path / "cannon.nc"))
    at = cannon.label_mean
    np.testing.assert_array_equal(loaded.predict(at).sd, cannon.predict(at).sd)
    np.testing.assert_array_equal(loaded.loadings, cannon.loadings)


def test_number_of_factors_is_chosen_and_its_search_kept():
    dataset, *_ = make_set(n_stars=200, n_factors=2)
    cannon = train(dataset, settings=settings(n_factors="auto", degree=1), seed=0)
    assert cannon.n_factors >= 2
    assert cannon.history["factor_grid"][0] == 0
    assert cannon.history["predictive"].argmax() > 0
    assert cannon.settings["training"]["chosen_factors"] == cannon.n_factors


def test_permuted_stars_give_the_same_model(simple):
    dataset, *_ = simple
    order = np.random.default_rng(4).permutation(150)
    a, b = (train(d, settings=settings(), seed=0) for d in (dataset, dataset.select(order)))
    np.testing.assert_allclose(a.theta, b.theta, atol=1e-5)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-2)


def test_change_of_units_changes_nothing(simple):
    dataset, *_ = simple
    labels = dataset.labels
    scaled = Labels(
        NAMES, labels.values * [1e-3, 1, 1], labels.errors * [1e-3, 1, 1], labels.star_id,
        ("kK", "dex", "dex"),
    )  # fmt: skip
    a = train(dataset, settings=settings(), seed=0)
    b = train(replace(dataset, labels=scaled), settings=settings(), seed=0)
    np.testing.assert_allclose(a.theta, b.theta, rtol=1e-6, atol=1e-9)
    ratio = a.gradient(a.label_mean).value[0] / b.gradient(b.label_mean).value[0]
    np.testing.assert_allclose(ratio, 1e-3, rtol=1e-4)


def test_star_without_one_label_still_trains_the_others(simple):
    dataset, basis, theta = simple
    values = dataset.labels.values.copy()
    values[::3, 2] = np.nan
    labels = Labels(NAMES, values, dataset.labels.errors, dataset.labels.star_id)
    lacking = replace(dataset, labels=labels)
    imputed = train(lacking, settings=settings(), seed=0)
    dropped = train(lacking, settings=settings(missing="drop"), seed=0)
    assert imputed.settings["training"]["n_stars"] == 150
    assert dropped.settings["training"]["n_stars"] == 100
    # Coefficients in common units of the labels that all stars have.
    at = np.array([4700.0, 2.4, -0.2])
    true = (basis.jacobian(basis.standardize(at))[:, 0] / 300) @ theta.T
    error = [np.std(c.gradient(at).value[0] - true) for c in (imputed, dropped)]
    assert error[0] < 1.5 * error[1]
    assert np.std(true) > 8 * error[0]


def test_label_confined_to_a_window_has_no_coefficients_outside(simple):
    dataset, *_ = simple
    cannon = train(
        dataset, settings=settings(), windows={"FE_H": [(15200, 15220), (15290, 15310)]}, seed=0
    )
    inside = (cannon.wavelength <= 15220) | (cannon.wavelength >= 15290)
    terms = cannon.basis.only(["FE_H"])
    others = np.setdiff1d(np.arange(cannon.basis.n_terms), terms)
    assert np.all(cannon.theta[np.ix_(~inside, terms)] == 0)
    assert np.all(cannon.theta[np.ix_(inside, terms)] != 0)
    assert np.all(cannon.theta[:, others] != 0)
    cov = unpack(cannon.coef_cov)
    assert np.all(cov[np.ix_(~inside, terms)] == 0)
    assert np.all(cannon.gradient(cannon.label_mean).value[2, ~inside] == 0)


def test_faint_stars_are_left_out(simple):
    dataset, *_ = simple
    cannon = train(dataset, settings=settings(snr_min=200.0), seed=0)
    bright = dataset.spectra.snr >= 200
    np.testing.assert_array_equal(cannon.training.star_id, dataset.star_id[bright])


def test_pixels_that_few_stars_have_are_not_used(simple):
    dataset, *_ = simple
    ivar = dataset.spectra.ivar.copy()
    ivar[:, 5] = 0
    ivar[4:, 6] = 0
    cannon = train(
        replace(dataset, spectra=replace(dataset.spectra, ivar=ivar)), settings=settings(), seed=0
    )
    assert np.flatnonzero(~cannon.used).tolist() == [5, 6]


def test_pixels_left_out_are_told_and_recorded(caplog):
    data, *_ = make_set(n_stars=60)
    spectra = data.spectra
    flux, ivar = spectra.flux.copy(), spectra.ivar.copy()
    ivar[:, [3, 4, 5, 20]] = 0
    ivar[1:, 50] = 0
    flux[7, 60] = 1e25
    odd = TrainingSet(replace(spectra, flux=flux, ivar=ivar), data.labels)
    with caplog.at_level("WARNING"):
        cannon = train(odd, settings=settings(), seed=0)
    assert np.flatnonzero(~cannon.used).tolist() == [3, 4, 5, 20, 50, 60]
    assert cannon.settings["training"]["pixels_left_out"] == {
        "no good value in any training star": 4,
        "good values in fewer than 20 training stars": 1,
        "fluxes or errors too extreme for their coefficients to be worked out": 1,
    }
    said = [record.getMessage() for record in caplog.records]
    assert any("4 of 80 pixels (15203.8-15206.3, 15225.3 Å) are left out" in m for m in said)


def test_latent_labels_undo_the_attenuation():
    dataset, basis, theta = make_set(n_stars=1500, n_pixels=40)
    rng = np.random.default_rng(1)
    error = np.array([150.0, 0.3, 0.15])
    noisy = dataset.labels.values + rng.normal(size=(1500, 3)) * error
    dataset = replace(dataset, labels=Labels(NAMES, noisy, error, dataset.star_id))
    at = np.array([4700.0, 2.4, -0.2])
    true = (basis.jacobian(basis.standardize(at)) / basis.scale).T @ theta.T

    def slope(cannon):
        found = cannon.gradient(at).value
        return (found * true).sum(axis=1) / (true**2).sum(axis=1)

    assert np.all(slope(train(dataset, settings=settings(latent_labels=False), seed=0)) < 0.9)
    np.testing.assert_allclose(
        slope(train(dataset, settings=settings(latent_labels=True), seed=0)), 1, atol=0.1
    )


@pytest.fixture(scope="module")
def by_advi(simple):
    with pytest.MonkeyPatch.context() as small:
        small.setattr("bayes_cannon.training.pixels.columns._BLOCK_BYTES", 1)
        return train(simple[0], settings=settings(method="advi"), seed=0)


@pytest.mark.slow
def test_advi_agrees_with_the_closed_form(simple, by_advi):
    dataset, *_ = simple
    a = train(dataset, settings=settings(), seed=0)
    b = by_advi
    sd = np.sqrt(np.diagonal(unpack(a.coef_cov), axis1=1, axis2=2))
    assert np.all(np.abs(a.theta - b.theta) < 0.15 * sd)
    assert np.all(np.abs(np.log(b.scatter / a.scatter)) < a.log_scatter_sd)
    assert b.history["elbo"].shape[0] == 1
    assert b.settings["training"]["method"] == "advi"


def test_errors_name_the_trouble(simple):
    dataset, *_ = simple
    with pytest.raises(NoStarsError, match="lower snr_min"):
        train(dataset, settings=settings(snr_min=1e6), seed=0)
    with pytest.raises(FitError, match=r"4 training stars \(2M0000, .*, …\) are too few"):
        train(dataset.select(np.arange(4)), settings=settings(), seed=0)
    with pytest.raises(LabelError, match="windows are given for MG_FE"):
        train(dataset, settings=settings(), windows={"MG_FE": [(1, 2)]}, seed=0)
    with pytest.raises(LabelError, match="windows of FE_H hold none of the pixels"):
        train(dataset, settings=settings(), windows={"FE_H": [(1, 2)]}, seed=0)
    with pytest.raises(FitError, match="unknown method 'mcmc'"):
        TrainingSettings(method="mcmc")
    for impossible in (-1, "10", 2.5, None, True):
        with pytest.raises(FitError, match="factors must be 'auto' or a whole number from 0"):
            TrainingSettings(n_factors=impossible)
    with pytest.raises(FitError, match="folds must be 0"):
        TrainingSettings(folds=2.5)
    with pytest.raises(InvalidDataError, match="seed must be a whole number"):
        train(dataset, settings=settings(), seed=-3)
    with pytest.raises(FitError, match="'impute' or 'drop'"):
        TrainingSettings(missing="guess")


def test_constant_label_is_refused(simple):
    dataset, *_ = simple
    values = dataset.labels.values.copy()
    values[:, 1] = 2.5
    labels = Labels(NAMES, values, dataset.labels.errors, dataset.star_id)
    with pytest.raises(LabelError, match="LOGG: the label is the same"):
        train(replace(dataset, labels=labels), settings=settings(), seed=0)


@pytest.mark.parametrize("rounded", [False, True])
def test_labels_that_follow_from_one_another_are_refused_by_name(simple, rounded):
    dataset, *_ = simple
    values = dataset.labels.values.copy()
    values[:, 1] = 1e-3 * values[:, 0]
    if rounded:
        values = values.astype(np.float32).astype(np.float64)
    labels = Labels(NAMES, values, dataset.labels.errors, dataset.star_id)
    with pytest.raises(LabelError, match=r"TEFF and LOGG follow from one another.* leave LOGG out"):
        train(replace(dataset, labels=labels), settings=settings(), seed=0)
    values = dataset.labels.values.copy()
    values[:, 2] = values[:, 0] / 300 + values[:, 1]
    values[:20, 0] = np.nan
    labels = Labels(NAMES, values, dataset.labels.errors, dataset.star_id)
    with pytest.raises(LabelError, match=r"TEFF, LOGG and FE_H follow .* leave one of them out"):
        train(replace(dataset, labels=labels), settings=settings(), seed=0)


def test_labels_that_go_together_closely_can_be_trained(simple):
    dataset, *_ = simple
    values = dataset.labels.values.copy()
    values[:, 2] = values[:, 1] + 0.01 * values[:, 2]  # correlation 0.99997
    labels = Labels(NAMES, values, dataset.labels.errors, dataset.star_id)
    assert np.isfinite(
        train(replace(dataset, labels=labels), settings=settings(), seed=0).theta
    ).all()


def test_priors_are_checked_and_used(simple):

    with pytest.raises(InvalidDataError, match="coef_scale must be positive"):
        TrainingPriors(coef_scale=0)
    tight = TrainingPriors(coef_scale=1e-4)
    free = train(simple[0], settings=settings(), seed=0)
    shrunk = train(simple[0], settings=settings(priors=tight), seed=0)
    assert np.all(shrunk.hyper.tau < 0.3 * free.hyper.tau)
    assert np.abs(shrunk.theta[:, 1:]).mean() < np.abs(free.theta[:, 1:]).mean()


def test_numpy_numbers_are_numbers(simple):
    dataset, *_ = simple
    chosen = TrainingSettings(n_factors=np.int64(1), folds=np.int32(0))
    assert type(chosen.n_factors) is int
    cannon = train(dataset.select(np.arange(40)), settings=chosen, seed=np.int64(3))
    assert cannon.n_factors == 1
    assert cannon.settings["training"]["seed"] == 3


def test_a_seed_that_was_not_given_is_recorded(simple, tmp_path):
    dataset, *_ = simple
    few = dataset.select(np.arange(40))
    cannon = train(few, settings=replace(settings(), n_factors=1), seed=None)
    seed = cannon.settings["training"]["seed"]
    again = train(few, settings=replace(settings(), n_factors=1), seed=seed)
    np.testing.assert_array_equal(again.loadings, cannon.loadings)
    assert train(few, settings=settings(), seed=None).settings["training"]["seed"] != seed
    cannon.save(tmp_path / "model.nc")


@pytest.mark.parametrize(
    ("folds", "most", "fold"), [(0, 30, ""), (5, 23, r" \(of which 28 are in the smallest fold\)")]
)
def test_more_factors_than_the_stars_allow_are_refused_at_once(simple, folds, most, fold):
    dataset, *_ = simple
    few = dataset.select(np.arange(35))
    chosen = TrainingSettings(n_factors=most + 1, folds=folds)
    with pytest.raises(
        FitError, match=rf"too many for 35 .*{fold}, .* at most {most} are possible"
    ):
        train(few, settings=chosen, seed=0)
    if folds == 0:
        cannon = train(few, settings=replace(chosen, n_factors=most), seed=0)
        assert np.isfinite(cannon.theta).all()
        assert np.isfinite(cannon.factors).all()


def test_a_model_error_that_cannot_be_learnt_costs_itself_alone(simple, caplog, monkeypatch):
    import nutpie

    dataset, *_ = simple

    def failing(*arguments, **options):
        raise RuntimeError("All initialization points failed\nbacktrace")

    monkeypatch.setattr(nutpie, "sample", failing)
    few = dataset.select(np.arange(60))
    with caplog.at_level("WARNING"):
        cannon = train(few, settings=replace(settings(), folds=2), seed=0)
    assert cannon.model_error is None
    assert "(All initialization points failed)" in cannon.settings["training"]["no_model_error"]
    assert "results will have no calibrated posterior" in caplog.text
    assert "backtrace" not in caplog.text


def test_linear_algebra_that_fails_is_an_error_of_the_package(simple, monkeypatch):
    dataset, *_ = simple

    def failing(*arguments, **options):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr("bayes_cannon.training.pipeline.fit_map", failing)
    with pytest.raises(
        FitError, match=r"training failed numerically \(Singular matrix\); look for"
    ):
        train(dataset, settings=settings(), seed=0)


def test_labels_of_which_spectra_say_nothing_are_named(simple, caplog):
    dataset, *_ = simple
    assert (
        train(dataset, settings=settings(), seed=0).settings["training"]["uninformative_labels"]
        == []
    )
    # Labels of other stars: what is left of the coefficients is noise.
    values = dataset.labels.values.copy()
    values[:, 1] = np.random.default_rng(5).permutation(values[:, 1])
    labels = Labels(NAMES, values, dataset.labels.errors, dataset.star_id)
    errors = replace(labels, errors=dataset.labels.errors * [1, 150, 1])
    with caplog.at_level("WARNING"):
        cannon = train(replace(dataset, labels=errors), settings=settings(), seed=0)
    assert cannon.settings["training"]["uninformative_labels"] == ["LOGG"]
    assert "say little about LOGG" in caplog.text
    nothing = replace(dataset.spectra, flux=np.ones_like(dataset.spectra.flux))
    cannon = train(replace(dataset, spectra=nothing), settings=settings(), seed=0)
    assert cannon.settings["training"]["uninformative_labels"] == list(NAMES)


@pytest.mark.parametrize("n_factors", [2, 5])
def test_a_label_whose_errors_exceed_its_spread_does_not_break_the_factors(n_factors):
    """The mean of such a label given the catalogue hardly varies from star to star."""
    data, *_ = make_set(n_stars=80, n_pixels=120, seed=3)
    values, errors = data.labels.values.copy(), data.labels.errors.copy()
    values[:, 2] = 0.002 * np.random.default_rng(4).normal(size=80)
    errors[:, 2] = 0.015
    cluster = replace(data, labels=Labels(NAMES, values, errors, data.star_id))
    cannon = train(cluster, settings=replace(settings(), n_factors=n_factors), seed=0)
    assert cannon.used.all()
    assert cannon.hyper.usable
    assert np.abs(cannon.factors).max() < 10


class OnDisk:
    """Spectra of which only blocks are given, as those of a stored dataset."""

    def __init__(self, spectra, read):
        self._spectra, self.read = spectra, read

    def __getattr__(self, name):
        assert name not in ("flux", "ivar", "good"), "all of it was asked for"
        return getattr(self._spectra, name)

    def __len__(self):
        return len(self._spectra)

    def select(self, stars):
        return OnDisk(self._spectra.select(stars), self.read)

    def columns(self, pixels):
        assert len(self) * (pixels.stop - pixels.start) < self._spectra.flux.size or len(self) < 80
        self.read.append((len(self), pixels))
        return self._spectra.flux[:, pixels].copy(), self._spectra.ivar[:, pixels].copy()


class StoredSet:
    """A training set of such spectra."""

    def __init__(self, spectra, labels, settings):
        self.spectra, self.labels, self.settings = spectra, labels, settings

    def select(self, stars):
        return StoredSet(self.spectra.select(stars), self.labels.select(stars), self.settings)


@pytest.mark.parametrize("n_factors", [2, "auto"])
def test_spectra_on_disk_give_the_model_of_those_in_memory(monkeypatch, n_factors):
    """To 1e-6; missing labels, a pixel without a good value and cross-validation included."""
    monkeypatch.setattr("bayes_cannon.training.pixels.columns._BLOCK_BYTES", 1)
    dataset, *_ = make_set(degree=1, n_factors=2)
    dataset.labels.values[5, 1] = np.nan
    dataset.spectra.ivar[:, 33] = 0
    read = []
    stored = StoredSet(OnDisk(dataset.spectra, read), dataset.labels, dataset.settings)
    given = TrainingSettings(
        n_factors=n_factors, degree=1, folds=2, missing="impute", terms=()
    )  # fmt: skip
    monkeypatch.setattr("bayes_cannon.training.pipeline.fit_model_error", lambda *_, **__: None)
    found, expected = (train(stars, settings=given, seed=1) for stars in (stored, dataset))
    assert {pixels for n, pixels in read if n == 150} == {
        slice(0, 32),
        slice(32, 64),
        slice(64, 80),
    }
    assert found.settings == expected.settings
    for name in ("theta", "loadings", "coef_cov", "scatter", "factors", "kappa", "used"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9, err_msg=name
        )


@pytest.mark.slow
def test_advi_of_spectra_on_disk_is_that_of_those_in_memory(simple, by_advi, monkeypatch):
    monkeypatch.setattr("bayes_cannon.training.pixels.columns._BLOCK_BYTES", 1)
    dataset, *_ = simple
    stored = StoredSet(OnDisk(dataset.spectra, []), dataset.labels, dataset.settings)
    found = train(stored, settings=settings(method="advi"), seed=0)
    for name in ("theta", "coef_cov", "scatter"):
        np.testing.assert_array_equal(getattr(found, name), getattr(by_advi, name), err_msg=name)


def test_known_terms_of_spectra_on_disk_say_how_much_memory_they_take(simple, monkeypatch, caplog):
    dataset, *_ = simple
    stored = StoredSet(OnDisk(dataset.spectra, []), dataset.labels, dataset.settings)
    given = replace(settings(), terms=("shift",), n_factors=0)
    monkeypatch.setattr("bayes_cannon.training.pixels.columns._BLOCK_BYTES", 1)
    n, p = dataset.spectra.flux.shape
    monkeypatch.setattr(term_state, "memory_here", lambda: 12 * n * p)
    with pytest.raises(InvalidDataError, match=rf"machine has .*train on {int(n / 2.5)} stars"):
        train(stored, settings=given, seed=0)
    monkeypatch.setattr(term_state, "memory_here", lambda: 30 * n * p)
    monkeypatch.setattr("bayes_cannon.training.pipeline.fit_map", stopped)
    with pytest.raises(InterruptedError, match="before anything"):
        train(stored, settings=given, seed=0)
    assert f"0.0 GB for {n} stars of {p} pixels (of " in caplog.text
    assert memory_here() > 1e8


def stopped(*_, **__):
    raise InterruptedError("before anything is fitted")


def test_a_stored_set_is_trained_on_from_disk(simple, tmp_path, monkeypatch):
    """Bit by bit as in memory, some stars being too faint."""
    dataset, *_ = simple
    path = dataset.save(tmp_path / "set.zarr")
    given = settings(n_factors=1, degree=1, latent_labels=False, snr_min=80)
    expected = train(dataset, settings=given, seed=0)
    monkeypatch.setattr("bayes_cannon.spectra.stored.StoredSet.in_memory", None)
    found = train(path, settings=given, seed=0)
    assert 50 < len(found.training) < 150
    for name in ("theta", "loadings", "coef_cov", "scatter", "factors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
