"""Contours hold the parts of the draws that they say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.path import Path

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.plots.posteriors import ONE_TWO_SIGMA, mass_contours


def inside(draws: np.ndarray, contours, threshold: float) -> float:
    """Part of the draws inside a drawn contour."""
    figure, ax = plt.subplots()
    drawn = ax.contour(contours.x, contours.y, contours.density, [threshold])
    holds = np.zeros(len(draws), dtype=bool)
    for polygon in drawn.get_paths()[0].to_polygons():
        holds ^= Path(polygon).contains_points(draws)
    plt.close(figure)
    return float(holds.mean())


@pytest.mark.parametrize("correlation", [0.0, 0.9, -0.99])
def test_gaussian_draws(correlation: float) -> None:
    """Of other draws of the same law, as many are inside: 8 standard errors of 20 000 draws."""
    cov = np.array([[25.0**2, correlation * 25 * 0.05], [correlation * 25 * 0.05, 0.05**2]])
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal([4800, 2.5], cov, 2000)
    fresh = rng.multivariate_normal([4800, 2.5], cov, 20000)
    found = mass_contours(draws)
    assert found.thresholds[0] < found.thresholds[1]
    for level, threshold in zip(ONE_TWO_SIGMA[::-1], found.thresholds, strict=True):
        assert inside(draws, found, threshold) == pytest.approx(level, abs=0.01)
        assert inside(fresh, found, threshold) == pytest.approx(level, abs=0.03)
    # The contour of two sigma reaches two sigma on each axis.
    figure, ax = plt.subplots()
    path = ax.contour(found.x, found.y, found.density, found.thresholds[:1]).get_paths()[0]
    np.testing.assert_allclose(np.ptp(path.vertices, axis=0) / (4 * np.sqrt(np.diag(cov))), 1,
                               atol=0.15)  # fmt: skip
    plt.close(figure)


def test_contours_follow_a_change_of_units() -> None:
    draws = np.random.default_rng(2).standard_normal((1000, 2))
    one, other = mass_contours(draws), mass_contours(draws * [100, 0.01] + [5000, 1])
    np.testing.assert_allclose(other.x, one.x * 100 + 5000)
    np.testing.assert_allclose(other.y, one.y * 0.01 + 1)
    np.testing.assert_allclose(other.thresholds, one.thresholds, rtol=1e-6)


def test_two_clumps_stay_apart() -> None:
    rng = np.random.default_rng(3)
    draws = 0.3 * rng.standard_normal((4000, 2)) + np.where(np.arange(4000) < 2000, -3, 3)[:, None]
    found = mass_contours(draws, (0.5,))
    middle = np.argmin(found.x**2 + found.y**2)
    assert found.density.ravel()[middle] < found.thresholds[0]
    assert inside(draws, found, found.thresholds[0]) == pytest.approx(0.5, abs=0.02)


def test_draws_that_do_not_vary_have_a_contour() -> None:
    found = mass_contours(np.ones((100, 2)))
    assert np.isfinite(found.x).all()
    assert (np.diff(found.thresholds) > 0).all()


@pytest.mark.parametrize(
    ("draws", "levels", "match"),
    [
        (np.zeros((5, 2)), (0.5,), "at least 20 draws"),
        (np.zeros((50, 3)), (0.5,), r"shape \(50, 3\)"),
        (np.full((50, 2), np.nan), (0.5,), "finite draws"),
        (np.zeros((50, 2)), (1.0,), "between 0 and 1"),
    ],
)
def test_what_cannot_be_drawn(draws, levels, match) -> None:
    with pytest.raises(InvalidDataError, match=match):
        mass_contours(draws, levels)
