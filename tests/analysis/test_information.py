"""Where the information on labels is: shares against dense matrices, and windows of lines."""

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bayes_cannon.analysis.information import (
    OTHERS,
    OWN,
    line_information,
    line_windows,
    near_lines,
)
from bayes_cannon.analysis.lines import lines_of
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.information import plot_information
from bayes_cannon.spectra.air import vacuum_to_air
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import library_labels, observe
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings
from tests.models.test_cannon import make_cannon

SNR = 120.0
AT = np.array([4600.0, 0.1])


@pytest.fixture(scope="module")
def cannon() -> Cannon:
    """Two labels, one of an element, on pixels about the magnesium triplet."""
    found = make_cannon(n_pixels=400)
    names = ("TEFF", "MG_FE")
    basis = PolynomialBasis(
        names, found.basis.units, found.basis.center, found.basis.scale, found.basis.degree
    )
    own = found.training
    labels = Labels(names, own.values, own.errors, own.star_id, own.units)
    wavelength = 15730 * (10**6e-6) ** np.arange(400)
    return replace(
        found, basis=basis, training=labels, wavelength=wavelength, kappa=np.array([1.5, 2.5])
    )


def shares(table, label: str, column: str) -> dict[str, float]:
    rows = table[table["LABEL"] == label]
    return dict(zip(rows["GROUP"].tolist(), rows[column].tolist(), strict=True))


def dense(cannon: Cannon) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the used pixels, and gradients."""
    used = cannon.used
    variance = SNR**-2 + cannon.scatter**2 + cannon.predict(AT).coef_sd ** 2
    kappa = cannon.independent_pixels.kappa(np.where(used, SNR**2.0, 0.0)[None])[0]
    variance = (variance * kappa)[used]
    loadings = cannon.loadings[used]
    return np.diag(variance) + loadings @ loadings.T, cannon.gradient(AT).value[:, used]


def test_shares_are_those_of_dense_matrices(cannon):
    table = line_information(cannon, at=AT, snr=SNR)
    cov, gradient = dense(cannon)
    inverse = np.linalg.inv(cov)
    filter_ = np.linalg.inv(gradient @ inverse @ gradient.T) @ gradient @ inverse
    np.testing.assert_allclose(filter_ @ gradient.T, np.eye(2), atol=1e-8)
    near = np.zeros(400, dtype=bool)
    for line in lines_of("MG_FE")["vacuum"]:
        near |= np.abs(cannon.wavelength - line) <= 1.501
    near = near[cannon.used]
    assert 0 < near.sum() < near.size
    own = filter_[1, near] @ gradient[1, near]
    assert shares(table, "MG_FE", "FILTER")[OWN] == pytest.approx(own, rel=1e-8)
    loadings = cannon.loadings[cannon.used]
    known = gradient[1] ** 2 / np.diag(cov - loadings @ loadings.T)
    expected = known[near].sum() / known.sum()
    assert shares(table, "MG_FE", "INFORMATION")[OWN] == pytest.approx(expected, rel=1e-8)
    assert table.meta["at"] == {"TEFF": 4600.0, "MG_FE": 0.1}


def test_share_is_what_the_label_says_of_a_change_in_those_pixels_alone(cannon):
    """Generalised least squares with the factors as noise, on a spectrum changed near Mg lines."""
    cov, gradient = dense(cannon)
    near = near_lines(cannon.wavelength, lines_of("MG_FE"), 1.5)[cannon.used]
    change = np.where(near, 0.2 * gradient[1], 0.0)
    root = np.linalg.cholesky(cov)
    design = np.linalg.solve(root, gradient.T)
    inferred = np.linalg.lstsq(design, np.linalg.solve(root, change), rcond=None)[0]
    table = line_information(cannon, at=AT, snr=SNR)
    assert shares(table, "MG_FE", "FILTER")[OWN] == pytest.approx(inferred[1] / 0.2, rel=1e-6)


@pytest.mark.parametrize("column", ["INFORMATION", "FILTER"])
def test_groups_that_share_all_pixels_add_up_to_one(cannon, column):
    table = line_information(cannon, half_width=3.0)
    for label in cannon.names:
        groups = shares(table, label, column)
        assert sum(v for name, v in groups.items() if name != OWN) == pytest.approx(1)
    rows = table[(table["LABEL"] == "TEFF") & (table["GROUP"] != OWN)]
    assert rows["N_PIXELS"].sum() == cannon.used.sum()
    assert {"Mg I", OTHERS} <= set(rows["GROUP"])


def test_model_in_air_has_the_same_shares(cannon):
    air = replace(cannon, wavelength=vacuum_to_air(cannon.wavelength), medium="air")
    a, b = line_information(cannon), line_information(air)
    assert a["GROUP"].tolist() == b["GROUP"].tolist()
    np.testing.assert_allclose(a["FILTER"], b["FILTER"], atol=0.02)
    np.testing.assert_allclose(a["N_PIXELS"], b["N_PIXELS"], atol=2)


def test_confined_labels_come_from_their_lines():
    library = load_library()
    edges = np.searchsorted(library.wavelength, [15730, 15790])
    index = np.arange(150)
    spectra = observe(
        library, index, snr=150.0, seed=1, windows=[(int(edges[0]), int(edges[1]))]
    )  # fmt: skip
    labels, _ = library_labels(library, index=index, seed=1)
    stars = TrainingSet(spectra, labels)
    windows = {"MG_FE": line_windows(DEFAULT_LABELS)["MG_FE"]}
    settings = TrainingSettings(n_factors=0, folds=0)
    free, confined = (train(stars, settings=settings, windows=w, seed=1) for w in (None, windows))
    for column in ("INFORMATION", "FILTER"):
        table = line_information(confined)
        assert shares(table, "MG_FE", column)[OWN] == pytest.approx(1)
        assert shares(table, "TEFF", column)[OWN] < 1
        assert shares(line_information(free), "MG_FE", column)[OWN] < 0.99
    dark = replace(confined, used=~near_lines(confined.wavelength, lines_of("MG_FE"), 1.5))
    with pytest.raises(InvalidDataError, match="no pixel of the model changes with MG_FE"):
        line_information(dark)


def test_label_of_an_unknown_name_has_no_lines_of_its_own(cannon):
    names = ("TEFF", "AGE")
    own = cannon.training
    training = Labels(names, own.values, own.errors, own.star_id, own.units)
    basis = replace(cannon.basis, names=names)
    table = line_information(replace(cannon, basis=basis, training=training))
    assert OWN not in shares(table, "AGE", "FILTER")
    assert "Mg I" in shares(table, "AGE", "FILTER")


@pytest.mark.parametrize("options", [{"snr": 0}, {"half_width": -1}, {"snr": np.nan}])
def test_what_cannot_be(cannon, options):
    with pytest.raises(InvalidDataError, match="must be positive"):
        line_information(cannon, **options)


def test_windows_of_lines():
    windows = line_windows(DEFAULT_LABELS)
    assert list(windows) == ["MG_FE", "SI_FE"]
    for name, ranges in windows.items():
        assert ranges == sorted(ranges)
        assert all(a[1] < b[0] for a, b in pairwise(ranges))
        places = np.asarray(lines_of(name)["vacuum"])
        inside = [(places >= low) & (places <= high) for low, high in ranges]
        assert np.sum(inside, axis=0).tolist() == [1] * len(places)
        assert min(high - low for low, high in ranges) == pytest.approx(3.002)
    low = windows["MG_FE"][0][0]
    air = line_windows("MG_FE", medium="air")["MG_FE"][0][0]
    assert air == pytest.approx(float(vacuum_to_air(low)), abs=0.01)
    names = ("TEFF", "FE_H", "M_H", "ALPHA_M", "VMICRO", "AGE", "mn_fe", "SI_H", "C12_C13")
    assert list(line_windows(names)) == ["MN_FE", "SI_H"]


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (("TEFF", "FE_H"), {}, LabelError, "none of TEFF, FE_H is the abundance of one element"),
        (("XX_FE",), {}, LabelError, "XX_FE"),
        (("YB_FE",), {}, LabelError, "the list has no line of YB_FE"),
        (("MG_FE",), {"half_width": 0}, InvalidDataError, "half_width must be positive"),
    ],
)
def test_windows_that_cannot_be(labels, options, error, message):
    with pytest.raises(error, match=message):
        line_windows(labels, **options)


def test_figure_has_a_number_for_each_share(cannon):
    table = line_information(cannon)
    for share in ("FILTER", "INFORMATION"):
        ax = plot_information(table, share=share).axes[0]
        said = [text.get_text() for text in ax.texts]
        mine = shares(table, "MG_FE", share)
        assert f"{round(100 * mine[OWN])}" in said
        assert len(said) == len(cannon.names) * len(set(table["GROUP"]) | {OWN})
        assert "SIMULATED" in ax.get_title().upper()
    _, ax = plt.subplots()
    assert plot_information(table, ax=ax) is ax.figure
    with pytest.raises(InvalidDataError, match="share must be 'FILTER' or 'INFORMATION'"):
        plot_information(table, share="ALL")
    with pytest.raises(InvalidDataError, match="that of line_information"):
        plot_information(table["LABEL",])
    plt.close("all")
