from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.errors import LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.spectra.labels import Labels


def make_basis(degree: int, n_labels: int = 3) -> PolynomialBasis:
    names = tuple(f"L{k}" for k in range(n_labels))
    center, scale = np.arange(n_labels) * 100.0, np.arange(1, n_labels + 1) * 7.0
    return PolynomialBasis(names, ("dex",) * n_labels, center, scale, degree)


def test_quadratic_in_five_labels_has_21_terms():
    basis = make_basis(2, 5)
    assert basis.n_terms == 21
    assert basis.term_names[:3] == ("1", "L0", "L1")
    assert basis.term_names[6] == "L0*L0"


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_features_are_the_monomials(degree):
    basis = make_basis(degree)
    ell = np.array([0.5, -2.0, 3.0])
    expected = [np.prod([ell[k] for k in term]) for term in basis.terms]
    np.testing.assert_allclose(basis.features(ell), expected)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_derivatives_match_differences(degree):
    basis = make_basis(degree)
    ell, h = np.array([0.3, -1.1, 0.0]), 1e-5
    steps = h * np.eye(3)
    jacobian = np.stack(
        [(basis.features(ell + s) - basis.features(ell - s)) / (2 * h) for s in steps], axis=-1
    )
    hessian = np.stack(
        [(basis.jacobian(ell + s) - basis.jacobian(ell - s)) / (2 * h) for s in steps], axis=-1
    )
    np.testing.assert_allclose(basis.jacobian(ell), jacobian, atol=1e-8)
    np.testing.assert_allclose(basis.hessian(ell), hessian, atol=1e-8)


def test_symbolic_features_equal_numeric_ones_at_zero_too():
    import pytensor.tensor as pt

    basis = make_basis(3)
    points = np.array([[0.0, 0.0, 0.0], [0.4, -1.0, 2.0]])
    x = pt.dmatrix("x")
    features = basis.symbolic(x)
    gradient = pt.grad(features.sum(), x)
    np.testing.assert_allclose(features.eval({x: points}), basis.features(points))
    np.testing.assert_allclose(
        gradient.eval({x: points}), basis.jacobian(points).sum(axis=1), atol=1e-12
    )


def test_scaling_goes_there_and_back():
    basis = make_basis(2)
    values = np.array([[10.0, 20.0, 30.0], [-1.0, 0.0, 1.0]])
    np.testing.assert_allclose(basis.unstandardize(basis.standardize(values)), values)


def test_from_labels_ignores_missing_values():
    values = np.array([[1.0, 5.0], [3.0, np.nan], [5.0, 7.0]])
    labels = Labels(("A_FE", "B_FE"), values, np.nan, np.array(["a", "b", "c"]))
    basis = PolynomialBasis.from_labels(labels)
    np.testing.assert_allclose(basis.center, [3.0, 6.0])
    np.testing.assert_allclose(basis.scale, [np.std([1, 3, 5]), 1.0])


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e9])
def test_labels_may_be_of_any_size(size):
    values = size * np.array([[1.0], [2.0], [3.0]])
    labels = Labels(("AGE",), values, np.full((3, 1), np.nan), np.array(["a", "b", "c"]))
    basis = PolynomialBasis.from_labels(labels)
    np.testing.assert_allclose(
        basis.standardize(values)[:, 0], [-(1.5**0.5), 0, 1.5**0.5], atol=1e-12
    )
    with pytest.raises(LabelError, match="AGE: the label is the same for all"):
        PolynomialBasis.from_labels(replace(labels, values=np.full((3, 1), size)))


def test_constant_label_is_refused_by_name():
    values = np.array([[4500.0, 0.1], [4600.0, 0.1]])
    labels = Labels(("TEFF", "FE_H"), values, np.nan, np.array(["a", "b"]))
    with pytest.raises(LabelError, match="FE_H: the label is the same for all"):
        PolynomialBasis.from_labels(labels)


def test_label_known_for_one_star_is_refused():
    values = np.array([[4500.0, 0.1], [4600.0, np.nan]])
    labels = Labels(("TEFF", "FE_H"), values, np.nan, np.array(["a", "b"]))
    with pytest.raises(LabelError, match="fewer than two stars have a value of FE_H"):
        PolynomialBasis.from_labels(labels)


@pytest.mark.parametrize("degree", [0, 4])
def test_other_degrees_are_refused(degree):
    with pytest.raises(LabelError, match="must be 1, 2 or 3"):
        make_basis(degree)
