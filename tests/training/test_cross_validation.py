"""Cross-validation: what a left-out star is told must not depend on its own label."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training import effective_pixels
from bayes_cannon.training.cross_validation import assign_folds, cross_validate, same_spectra
from bayes_cannon.training.pipeline import label_design, train
from bayes_cannon.training.pixels.fit import Design
from bayes_cannon.training.settings import TrainingSettings

NAMES = ("TEFF", "LOGG", "FE_H")


def make_set(n_stars=120, n_pixels=150, n_factors=0, seed=0):
    rng = np.random.default_rng(seed)
    ell = rng.normal(size=(n_stars, 3))
    center, scale = np.array([4700, 2.4, -0.2]), np.array([300, 0.6, 0.3])
    basis = PolynomialBasis(NAMES, ("K", "dex", "dex"), center, scale, 2)
    theta = rng.normal(size=(n_pixels, basis.n_terms)) * 0.03
    theta[:, 0] = 0.9
    flux = basis.features(ell) @ theta.T
    z = rng.normal(size=(n_stars, n_factors))
    flux += z @ rng.normal(size=(n_factors, n_pixels)) * 0.02
    flux += rng.normal(size=flux.shape) * 0.01
    ids = np.array([f"2M{i:04d}" for i in range(n_stars)])
    ivar = np.full(flux.shape, 1e4)
    spectra = NormalizedSpectra(ids, np.linspace(15200, 15300, n_pixels), flux, ivar)
    labels = Labels(NAMES, basis.unstandardize(ell), np.array([5.0, 0.01, 0.005]), ids)
    return TrainingSet(spectra, labels, settings={"degree": 4})


def trained(dataset, n_factors=0):
    cannon = train(dataset, settings=TrainingSettings(n_factors=n_factors, folds=0), seed=0)
    design, _ = label_design(cannon.training, cannon.basis)
    return cannon, design


@pytest.fixture(scope="module")
def plain():
    dataset = make_set()
    return (dataset, *trained(dataset))


def test_folds_are_even_and_follow_the_stars():
    ids = np.array([f"star{i}" for i in range(23)])
    folds = assign_folds(ids, 5, seed=1)
    assert sorted(np.bincount(folds)) == [4, 4, 5, 5, 5]
    order = np.random.default_rng(0).permutation(23)
    np.testing.assert_array_equal(assign_folds(ids[order], 5, seed=1), folds[order])
    assert np.any(assign_folds(ids, 5, seed=2) != folds)


def test_stars_with_one_spectrum_share_a_fold(plain, caplog):
    dataset, cannon, design = plain
    flux = dataset.spectra.flux.copy()
    flux[60:] = flux[:60]
    same = same_spectra(flux)
    np.testing.assert_array_equal(same, np.arange(120) % 60)
    found = cross_validate(cannon, replace(dataset.spectra, flux=flux), design, folds=3, seed=3)
    np.testing.assert_array_equal(found.fold[:60], found.fold[60:])
    assert sorted(np.bincount(found.fold)) == [40, 40, 40]
    assert "60 of 120 training stars (2M0060, 2M0061" in caplog.text


def test_fewer_spectra_than_folds_are_refused():
    with pytest.raises(InvalidDataError, match="5 folds, but only 4 different spectra of 8"):
        assign_folds(np.arange(8).astype(str), 5, seed=1, same=np.arange(8) % 4)


@pytest.mark.parametrize("folds", [1, 24])
def test_impossible_folds_are_refused(folds):
    with pytest.raises(InvalidDataError, match=rf"{folds} folds? of 23 stars; choose 2 to 23"):
        assign_folds(np.arange(23).astype(str), folds, seed=1)


def test_labels_of_left_out_stars_are_found_with_their_errors(plain):
    dataset, cannon, design = plain
    found = cross_validate(cannon, dataset.spectra, design, seed=3)
    assert found.complete.all()
    pulls = np.einsum(
        "ni,nij,nj->n", found.difference, np.linalg.inv(found.cov), found.difference
    )  # fmt: skip
    # The model is the truth: chi-square of 3 dims, 120 stars; mean 3 +- 0.22. False alarm 1e-5.
    assert 2.0 < pulls.mean() < 4.0
    assert 0.9 < found.fit.chi2_reduced.mean() < 1.1


def test_a_star_does_not_know_its_own_label(plain):
    dataset, cannon, design = plain
    spoiled = design.mean.copy()
    spoiled[7] = spoiled[8]
    one = cross_validate(cannon, dataset.spectra, design, seed=3)
    two = cross_validate(cannon, dataset.spectra, Design.exact(spoiled), seed=3)
    np.testing.assert_array_equal(one.predicted[7], two.predicted[7])
    other = np.flatnonzero(one.fold != one.fold[7])
    assert np.any(one.predicted[other] != two.predicted[other])


def test_nothing_of_a_left_out_star_is_known(monkeypatch):
    """With factors: what a fold says is what a model says that never heard of the star.

    The multiplier of kappa, one number learnt from the labels of all stars, is held.
    """
    held = np.log([1.0])
    monkeypatch.setattr(effective_pixels, "_LOG_GRID", held)
    monkeypatch.setattr(
        effective_pixels, "_from_residuals", lambda b: (np.ones((1, 1)), np.ones(1))
    )
    monkeypatch.setattr(effective_pixels, "minimize_scalar", lambda *args, **kwargs: None)
    dataset = make_set(n_factors=2, seed=4)
    cannon, design = trained(dataset, n_factors=2)
    found = cross_validate(cannon, dataset.spectra, design, seed=3)
    rows = np.flatnonzero(found.fold == 0)
    flux = dataset.spectra.flux.copy()
    flux[rows] = np.random.default_rng(1).normal(1, 0.1, flux[rows].shape)
    spoiled = replace(dataset.spectra, flux=flux)
    again = cross_validate(cannon, spoiled, design, seed=3)
    # Other spectra of the stars of fold 0 change all models but that of fold 0.
    other = np.flatnonzero(found.fold != 0)
    assert np.all(np.any(again.predicted[other] != found.predicted[other], axis=1))
    flux = dataset.spectra.flux.copy()
    flux[rows[1:]] = np.random.default_rng(2).normal(1, 0.1, flux[rows[1:]].shape)
    once_more = cross_validate(cannon, replace(spoiled, flux=flux), design, seed=3)
    np.testing.assert_allclose(once_more.predicted[rows[0]], found.predicted[rows[0]], rtol=1e-9)


def test_stars_without_pixels_have_no_prediction(plain):
    dataset, cannon, design = plain
    ivar = dataset.spectra.ivar.copy()
    ivar[5] = 0
    spectra = replace(dataset.spectra, ivar=ivar)
    found = cross_validate(cannon, spectra, design, seed=3)
    assert np.isnan(found.predicted[5]).all()
    assert found.complete.sum() == 119


def test_spectra_of_other_stars_are_refused(plain):
    dataset, cannon, design = plain
    with pytest.raises(InvalidDataError, match="not those of the model's training stars"):
        cross_validate(cannon, dataset.spectra.select(np.arange(120)[::-1]), design, seed=0)


def test_progress_is_told(plain):
    dataset, cannon, design = plain
    told = []
    cross_validate(
        cannon, dataset.spectra, design, folds=3, progress=lambda *n: told.append(n), seed=0
    )
    assert told == [(i, 3, "cross-validation") for i in range(4)]


def test_number_of_folds_is_checked():
    with pytest.raises(FitError, match=r"folds must be 0 .* or from 2, not 1"):
        TrainingSettings(folds=1)


def test_training_with_too_few_stars_goes_without(caplog):
    dataset = make_set(n_stars=11)
    cannon = train(dataset, settings=TrainingSettings(n_factors=0, folds=5), seed=0)
    assert cannon.model_error is None
    assert "too few to learn the model error" in caplog.text


def test_a_pixel_that_only_the_left_out_stars_have_is_not_used_for_them(plain, monkeypatch):
    """Its coefficients are those of the prior, whatever its flux."""
    from bayes_cannon.training import cross_validation

    dataset, cannon, design = plain
    fold = assign_folds(dataset.spectra.star_id, 5, seed=3)
    ivar = dataset.spectra.ivar.copy()
    ivar[fold != 2, 10] = 0
    seen = []
    original = cross_validation._with_fit

    def spy(*arguments):
        seen.append(original(*arguments).used[10])
        return original(*arguments)

    monkeypatch.setattr(cross_validation, "_with_fit", spy)
    odd = replace(dataset.spectra, ivar=ivar)
    found = cross_validate(cannon, odd, design, seed=3)
    assert seen == [True, True, False, True, True]
    assert found.complete.all()


def test_a_star_that_fails_costs_itself_not_its_block(plain, monkeypatch, caplog):
    from bayes_cannon.training import cross_validation

    dataset, cannon, design = plain
    bad = dataset.spectra.flux[7]
    original = cross_validation.fit_laplace

    def failing(pixels, priors, flux, ivar, settings):
        if (flux == pixels.take(bad)).all(axis=1).any():
            raise np.linalg.LinAlgError("Singular matrix")
        return original(pixels, priors, flux, ivar, settings)

    monkeypatch.setattr(cross_validation, "fit_laplace", failing)
    with caplog.at_level("WARNING"):
        found = cross_validate(cannon, dataset.spectra, design, seed=3)
    assert np.flatnonzero(~found.complete).tolist() == [7]
    assert "no labels of 2M0007: Singular matrix" in caplog.text


def test_a_fold_that_cannot_be_fitted_is_an_error_of_the_package(plain, monkeypatch):
    from bayes_cannon.training import cross_validation

    def failing(*arguments, **options):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(cross_validation, "fit_map", failing)
    dataset, cannon, design = plain
    with pytest.raises(FitError, match=r"cross-validation failed numerically \(Eigenvalues"):
        cross_validate(cannon, dataset.spectra, design, seed=3)
