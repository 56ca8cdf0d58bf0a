"""Sequences of labels, what is outside the training labels, and the spectra drawn along them."""

from collections.abc import Iterator
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from bayes_cannon.analysis.isochrones import packaged_isochrones
from bayes_cannon.analysis.sequences import (
    GIANT_BRANCH,
    METALLICITIES,
    LabelSequence,
    isochrone_sequence,
    metallicity_sequence,
    ridge_sequence,
)
from bayes_cannon.base.packing import packed_size
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.plots.sequences import plot_giant_branch, plot_metallicity, plot_sequence
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.surveys.simulation.library import load_library

NAMES = ("LOGG", "TEFF", "FE_H", "MG_FE")
SI_LINE = 16099.184


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    mpl.use("Agg")
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def model_of(names: tuple[str, ...], values: np.ndarray) -> Cannon:
    """A model with given training labels; its flux has one line, which grows with the last."""
    wavelength = 16000 * (10**6e-6) ** np.arange(900)
    ids = np.array([f"S{i}" for i in range(len(values))])
    labels = Labels(names, values, np.full(values.shape, np.nan), ids)
    basis = PolynomialBasis.from_labels(labels)
    theta = np.zeros((900, basis.n_terms))
    theta[:, 0] = 1
    line = np.exp(-0.5 * ((wavelength - SI_LINE) / 0.4) ** 2)
    theta[:, 0] -= 0.2 * line
    theta[:, len(names)] = -0.05 * line
    cov = np.full((900, packed_size(basis.n_terms)), 0.0, dtype=np.float32)
    cov[:, 0] = 1e-6
    return Cannon(
        basis=basis, wavelength=wavelength, chips=((0, 900),), theta=theta,
        loadings=np.zeros((900, 0)), coef_cov=cov, scatter=np.full(900, 0.01),
        log_scatter_sd=np.full(900, 0.1), used=np.arange(900) != 5,
        hyper=Hyperparameters(1e-4 * np.eye(basis.n_terms), -5.0, 0.5), training=labels,
        held_out=np.array([], dtype=np.str_), factors=np.zeros((len(values), 0)), simulated=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cannon() -> Cannon:
    """Trained on the labels of the library's giants."""
    library = load_library()
    return model_of(NAMES, np.stack([library.values(n) for n in NAMES], axis=1))


# Labels -------------------------------------------------------------------------------------


def test_metallicity_sequence_changes_metallicity_alone(cannon: Cannon) -> None:
    sequence = metallicity_sequence(cannon)
    median = np.median(cannon.training.values, axis=0)
    np.testing.assert_allclose(sequence.values[:, 2], METALLICITIES)
    others = np.delete(sequence.values, 2, axis=1)
    np.testing.assert_allclose(others, np.tile(np.delete(median, 2), (7, 1)))
    assert sequence.varies == ("FE_H",)
    # The library has giants from −0.94 to 0.33.
    assert sequence.outside[[0, -1]].all()
    assert not sequence.outside[2:5].any()
    assert sequence.text(0) == "[Fe/H] = −1.00"
    assert r"$T_\mathrm{eff}$ = " in sequence.rest
    assert "[Fe/H]" not in sequence.rest
    mine = metallicity_sequence(cannon, [0.1], at=[2.0, 4400, 9, 0.1])
    np.testing.assert_allclose(mine.values, [[2.0, 4400, 0.1, 0.1]])


def test_isochrone_sequence_follows_the_isochrone(cannon: Cannon) -> None:
    sequence = isochrone_sequence(cannon)
    solar = packaged_isochrones().select(log10_age=9.778, feh=0.0)
    np.testing.assert_allclose(sequence.values[:, 0], GIANT_BRANCH)
    np.testing.assert_allclose(sequence.values[:, 1], solar.ridge(GIANT_BRANCH))
    assert (sequence.values[:, 2] == 0).all()
    assert sequence.outside[-1]  # 3550 K; the library begins at 3980 K
    assert not sequence.outside[1:4].any()
    assert "Choi et al. 2016" in sequence.source
    assert "6.31 Gyr" in sequence.title
    poor = packaged_isochrones().select(log10_age=9.8, feh=-0.5)
    other = isochrone_sequence(cannon, [2.5], isochrone=poor)
    assert other.values[0, 2] == -0.5
    with pytest.raises(InvalidDataError, match="1 of 1 gravity are outside the giant branch"):
        isochrone_sequence(cannon, [4.4])


def test_ridge_sequence_finds_the_ridge_despite_outliers() -> None:
    rng = np.random.default_rng(1)
    logg, feh = rng.uniform(1, 3.5, 200), rng.normal(-0.2, 0.3, 200)
    teff = 3600 + 500 * logg - 20 * logg**2 - 200 * feh + 5 * rng.standard_normal(200)
    teff[:8] += 1500
    cannon = model_of(("TEFF", "LOGG", "FE_H"), np.stack([teff, logg, feh], axis=1))
    sequence = ridge_sequence(cannon, [3.0, 2.0], at=[0, 0, 0.1])
    expected = [3600 + 500 * g - 20 * g**2 - 20 for g in (3.0, 2.0)]
    np.testing.assert_allclose(sequence.values[:, 0], expected, atol=4)
    np.testing.assert_allclose(sequence.values[:, 1:], [[3.0, 0.1], [2.0, 0.1]])
    assert not sequence.outside.any()
    assert ridge_sequence(cannon, [0.5]).outside.all()


def test_ridge_of_the_library_is_a_giant_branch(cannon: Cannon) -> None:
    sequence = ridge_sequence(cannon)
    assert (np.diff(sequence.values[:, 1]) < 0).all()
    near = packaged_isochrones().select(log10_age=9.8, feh=0.0).ridge([3.0, 2.5, 2.0])
    np.testing.assert_allclose(sequence.values[1:4, 1], near, atol=200)


def test_model_without_metallicity() -> None:
    rng = np.random.default_rng(2)
    logg = rng.uniform(1, 3.5, 60)
    values = np.stack([logg, 3600 + 450 * logg], axis=1)
    cannon = model_of(("LOGG", "TEFF"), values + 0.01 * rng.standard_normal(values.shape))
    assert ridge_sequence(cannon, [2.0]).values[0, 1] == pytest.approx(4500, abs=5)
    assert "[Fe/H] = 0.00" in isochrone_sequence(cannon, [2.0]).title
    with pytest.raises(LabelError, match="needs the label FE_H; the model has LOGG, TEFF"):
        metallicity_sequence(cannon)
    alone = model_of(("TEFF", "FE_H"), rng.normal([4500, 0], [100, 0.2], (60, 2)))
    with pytest.raises(LabelError, match="needs the label LOGG"):
        isochrone_sequence(alone)


def test_sequences_are_checked(cannon: Cannon) -> None:
    with pytest.raises(InvalidDataError, match=r"labels have shape \(2,\); give one value"):
        metallicity_sequence(cannon, at=[1, 2])
    with pytest.raises(InvalidDataError, match="must be finite"):
        metallicity_sequence(cannon, [np.nan])
    with pytest.raises(InvalidDataError, match=r"values have shape \(1, 2\), expected \(1, 1\)"):
        LabelSequence("t", ("FE_H",), ("FE_H",), np.ones((1, 2)), np.array([False]))
    few = model_of(NAMES, cannon.training.values[:11])
    with pytest.raises(InvalidDataError, match=r"11 training stars .* too few"):
        ridge_sequence(few)


# Figures ------------------------------------------------------------------------------------


def curves(ax: Axes) -> list:
    return [line for line in ax.lines if str(line.get_label()).startswith(("[Fe/H]", r"$\log"))]


def test_spectra_are_stacked_and_dashed_outside(cannon: Cannon) -> None:
    ax = plot_metallicity(cannon).axes[0]
    sequence, drawn = metallicity_sequence(cannon), curves(ax)
    assert len(drawn) == 7
    flux = cannon.predict(sequence.values).flux[:, cannon.used]
    heights = [np.asarray(line.get_ydata(), float) for line in drawn]
    heights = [h[np.isfinite(h)] for h in heights]
    step = np.median(heights[1] - flux[1])
    for i, height in enumerate(heights):
        np.testing.assert_allclose(height, flux[i] + i * step, atol=1e-12)
        dashed = drawn[i].get_linestyle() != "-"
        assert dashed == sequence.outside[i]
        assert ax.get_ylim()[0] < height.min() < height.max() < ax.get_ylim()[1]
    notes = [t.get_text() for t in ax.texts]
    assert "[Fe/H] = −1.00\noutside training" in notes
    assert "[Fe/H] = 0.00" in notes
    assert f"each {step:.2f} above" in ax.get_ylabel()
    assert "(simulated)" in ax.get_title()
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert "labels outside those of the training stars: extrapolated" in legend


def test_lines_to_look_at_are_named(cannon: Cannon) -> None:
    ax = plot_giant_branch(cannon, log_g=[2.5, 2.0]).axes[0]
    named = {t.get_text() for t in ax.texts}
    expected = {
        "Fe I 16014.0", "Fe I 16045.0", "Fe I 16130.3", "Fe I 16157.7", "Fe I 16169.4",
        "Fe I 16199.5", "Si I 16064.4", "Si I 16099.2", "Si I 16168.1", "Ca I 16141.2",
        "Ca I 16155.2", "Ca I 16161.8", "OH 16057.2", "OH 16059.8", "OH 16073.9", "OH 16196.6",
        "Br 13", "CO 6–3",
    }  # fmt: skip
    assert expected <= named
    assert any("log g$ = 2.50" in text and "4" in text for text in named)
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert any("Choi et al. 2016" in text for text in legend)
    assert not any("extrapolated" in text for text in legend)


def test_deepest_lines_are_named_where_there_are_many(cannon: Cannon) -> None:
    mine = plt.figure().add_subplot()
    ax = plot_sequence(cannon, ridge_sequence(cannon, [2.5]), window=None, n_lines=1, ax=mine).axes[
        0
    ]
    assert ax is mine
    names = [t.get_text() for t in ax.texts if "I " in t.get_text()]
    assert names == ["Si I 16099.2"]
    bare = plot_sequence(cannon, ridge_sequence(cannon, [2.5]), n_lines=0).axes[0]
    assert len(bare.texts) == 1


def test_sequence_of_another_model(cannon: Cannon) -> None:
    sequence = metallicity_sequence(cannon)
    swapped = replace(sequence, names=("TEFF", "LOGG", "FE_H", "MG_FE"))
    with pytest.raises(InvalidDataError, match=r"the sequence is of TEFF.* the model of LOGG"):
        plot_sequence(cannon, swapped)
    with pytest.raises(InvalidDataError, match="holds no pixel"):
        plot_metallicity(cannon, window=(17000, 17100))
