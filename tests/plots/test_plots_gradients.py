"""Gradient spectra: their extrema lie at known lines in vacuum, and the figures say so."""

from collections.abc import Iterator
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from bayes_cannon.analysis.gradients import LineGroup, gradient_extrema, line_groups
from bayes_cannon.analysis.lines import lines_of, load_lines
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import ORANGE
from bayes_cannon.plots.gradients import plot_gradients, plot_line_group
from bayes_cannon.spectra.air import vacuum_to_air
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import library_labels, observe
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings
from tests.models.test_cannon import make_cannon

LINES = {
    "MG_FE": (15745.017, 15753.291, 15770.147),
    "SI_FE": (15964.424, 16064.397, 16099.184, 16685.327),
}
CASES = [(label, line) for label, lines in LINES.items() for line in lines]
RANGES = ((15730, 15790), (15950, 15980), (16040, 16120), (16670, 16700))  # Å


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def trained() -> Cannon:
    """Trained on the library, S/N 150, on the pixels around the lines."""
    library = load_library()
    edges = np.searchsorted(library.wavelength, RANGES)
    windows = tuple((int(a), int(b)) for a, b in edges)
    index = np.arange(400)
    spectra = observe(library, index, snr=150.0, seed=1, windows=windows)
    labels, _ = library_labels(library, index=index, seed=1)
    settings = TrainingSettings(n_factors=0, folds=0)
    return train(TrainingSet(spectra, labels), settings=settings, seed=1)


def painted(lines: dict[float, float], *, names: tuple[str, ...] = ("TEFF", "FE_H")) -> Cannon:
    """A model whose gradient with the second label is a sum of lines of given strengths."""
    wavelength = 16050 * (10**6e-6) ** np.arange(400)
    cannon = make_cannon(n_pixels=400)
    theta = np.zeros_like(cannon.theta)
    theta[:, 0] = 1
    (column,) = [i for i, t in enumerate(cannon.basis.terms) if t == (1,)]
    for center, strength in lines.items():
        theta[:, column] += strength * np.exp(-0.5 * ((wavelength - center) / 0.35) ** 2)
    basis = PolynomialBasis(
        names, cannon.basis.units, cannon.basis.center, cannon.basis.scale, cannon.basis.degree
    )
    own = cannon.training
    training = Labels(names, own.values, own.errors, own.star_id, own.units)
    return replace(
        cannon, wavelength=wavelength, theta=theta, basis=basis, training=training,
        used=np.ones(400, dtype=bool),
    )  # fmt: skip


# What the library taught -------------------------------------------------------------------


@pytest.mark.parametrize(("label", "line"), CASES)
def test_gradient_is_strongest_at_the_line(trained: Cannon, label: str, line: float) -> None:
    """Of all pixels within 2 Å, the one where the flux changes most is within 0.6 Å."""
    k = trained.names.index(label)
    gradient = trained.gradient(trained.label_mean)
    near = np.flatnonzero((np.abs(trained.wavelength - line) < 2) & trained.used)
    i = near[np.argmax(np.abs(gradient.value[k, near]))]
    assert abs(trained.wavelength[i] - line) < 0.6
    assert gradient.value[k, i] < -8 * gradient.sd[k, i]


@pytest.mark.parametrize("label", LINES)
def test_extrema_that_belong_to_the_lines(trained: Cannon, label: str) -> None:
    found = gradient_extrema(trained, label, LINES[label])
    assert (np.abs(found["offset"]) < 0.6).all()
    np.testing.assert_allclose(found["offset"], found["extremum"] - found["vacuum"])
    assert (found["value"] < -8 * found["sd"]).all()


@pytest.mark.parametrize(("label", "line"), CASES)
def test_air_wavelengths_would_not_do(trained: Cannon, label: str, line: float) -> None:
    """The check above can fail: 4.4 Å to the blue the flux changes less than half as much."""
    k = trained.names.index(label)
    strength = np.abs(trained.gradient(trained.label_mean).value[k])
    at = [
        strength[(np.abs(trained.wavelength - place) < 0.6) & trained.used].max()
        for place in (line, float(vacuum_to_air(line)))
    ]
    assert at[1] < 0.5 * at[0]


# Extrema of painted gradients ---------------------------------------------------------------


def test_extrema_are_found_between_pixels() -> None:
    cannon = painted({16060.05: -0.2, 16099.17: 0.1})
    found = gradient_extrema(cannon, "FE_H", [16060.0, 16099.184], at=[4600.0, -0.2])
    np.testing.assert_allclose(found["extremum"], [16060.05, 16099.17], atol=0.02)
    np.testing.assert_allclose(found["offset"], [0.05, -0.014], atol=0.02)
    assert found["value"][0] < 0 < found["value"][1]


def test_nearest_of_the_strong_extrema_counts() -> None:
    saturated = painted({16059.5: -0.2, 16060.7: -0.15})
    assert gradient_extrema(saturated, "FE_H", 16060.2)["offset"][0] == pytest.approx(0.5, abs=0.1)
    blended = painted({16060.9: -0.2, 16059.6: -0.03})  # the weak one does not count
    assert gradient_extrema(blended, "FE_H", 16060.0)["offset"][0] == pytest.approx(0.9, abs=0.1)
    far = gradient_extrema(blended, "FE_H", 16060.0, search=0.3)
    assert np.isnan(far["offset"][0])


def test_pixels_not_used_and_gaps_hold_no_extremum() -> None:
    cannon = painted({16060.0: -0.2})
    dark = replace(cannon, used=np.abs(cannon.wavelength - 16060) > 0.3)
    assert np.isnan(gradient_extrema(dark, "FE_H", 16060.0)["value"][0])
    moved = np.where(cannon.wavelength >= 16060.0, cannon.wavelength + 5, cannon.wavelength)
    split = replace(cannon, wavelength=moved)
    assert np.isnan(gradient_extrema(split, "FE_H", [16060.0, 16065.0])["value"]).all()


def test_what_extrema_cannot_be_found_of() -> None:
    cannon = painted({16060.0: -0.2})
    with pytest.raises(LabelError, match="unknown label 'NI_FE'"):
        gradient_extrema(cannon, "NI_FE", 16060.0)
    with pytest.raises(InvalidDataError, match="finite numbers"):
        gradient_extrema(cannon, "FE_H", [16060.0, np.nan])
    with pytest.raises(InvalidDataError, match="search must be positive, got 0"):
        gradient_extrema(cannon, "FE_H", 16060.0, search=0)


# Groups of lines ----------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["TEFF", "FE_H", "mg_fe", "SI_FE", "O_FE", "M_H"])
def test_groups_hold_every_line_once(label: str) -> None:
    groups = line_groups(label)
    every = [w for group in groups for w in group.vacuum]
    assert sorted(every) == sorted(lines_of(label)["vacuum"])
    name_of = dict(zip(load_lines()["vacuum"], load_lines()["name"], strict=True))
    for group in groups:
        assert 1 <= len(group.vacuum) <= 9
        assert group.label == label.upper()
        assert list(group.names) == [name_of[w] for w in group.vacuum]
        assert (np.diff(group.vacuum) > 0).all()
        assert len({n.split(" ")[0] for n in group.names}) == 1  # one species
    assert len({group.title for group in groups}) == len(groups)


def test_first_groups_are_the_lines_to_look_at() -> None:
    magnesium, silicon = line_groups("MG_FE")[0], line_groups("SI_FE")[0]
    assert magnesium.title == "Mg I triplet"
    assert magnesium.vacuum == LINES["MG_FE"]
    assert silicon.vacuum == LINES["SI_FE"]


def test_labels_without_groups() -> None:
    assert line_groups("VMICRO") == ()
    with pytest.raises(LabelError, match="not a label with lines"):
        line_groups("AGE")
    with pytest.raises(InvalidDataError, match="1 name and 0 wavelengths"):
        LineGroup("none", "FE_H", ("a",), ())


# Figures ------------------------------------------------------------------------------------


def test_page_marks_lines_in_vacuum_and_extrema(trained: Cannon) -> None:
    (group, *_) = line_groups("SI_FE")
    figure = plot_line_group(trained, group)
    assert len(figure.axes) == 8
    found = gradient_extrema(trained, "SI_FE", group.vacuum)
    gradient = trained.gradient(trained.label_mean).value[trained.names.index("SI_FE")]
    for i, line in enumerate(group.vacuum):
        top, bottom = figure.axes[2 * i : 2 * i + 2]
        np.testing.assert_allclose(bottom.get_xlim(), (line - 5, line + 5))
        for ax in (top, bottom):
            orange = [x for x in ax.lines if to_hex(x.get_color()).upper() == ORANGE]
            assert line in [float(x.get_xdata()[0]) for x in orange]
        assert f"{abs(found['offset'][i]):.2f} Å" in [t.get_text()[1:] for t in bottom.texts]
        (mark,) = [x for x in bottom.lines if x.get_marker() == "^"]
        assert mark.get_xdata()[0] == pytest.approx(found["extremum"][i])
        (curve,) = [x for x in bottom.lines if x.get_label() == "posterior mean"]
        drawn = np.asarray(curve.get_ydata(), float)
        near = np.abs(trained.wavelength - line) < 4
        assert np.nanmin(drawn) <= 0.1 * gradient[near].min() * 0.999
    assert "[Si/Fe]" in figure.get_suptitle()
    assert "(simulated)" in figure.get_suptitle()
    assert "not among" not in figure.get_suptitle()


def test_page_says_which_lines_the_model_does_not_have(trained: Cannon) -> None:
    group = LineGroup("mine", "SI_FE", ("Si I 16064.4", "lost"), (16064.397, 16500.0))
    figure = plot_line_group(trained, group, half_width=3, labels=trained.label_mean)
    assert len(figure.axes) == 2
    assert "not among the model's pixels: lost" in figure.get_suptitle()
    with pytest.raises(InvalidDataError, match=r"no used pixel within 0\.6 Å of any line .*'gone'"):
        plot_line_group(trained, LineGroup("gone", "SI_FE", ("a",), (16500.0,)))
    with pytest.raises(LabelError, match="unknown label 'NI_FE'"):
        plot_line_group(trained, LineGroup("other", "NI_FE", ("a",), (16064.0,)))


def test_page_of_a_line_of_ones_own_that_grows() -> None:
    cannon = painted({16099.17: 0.1, 16060.0: -0.05})
    group = LineGroup("mine", "FE_H", ("x", "none"), (16099.0, 16120.0))
    figure = plot_line_group(cannon, group)
    (mark,) = [x for x in figure.axes[1].lines if x.get_marker() == "v"]
    assert mark.get_xdata()[0] == pytest.approx(16099.17, abs=0.02)
    assert "x" in [t.get_text() for t in figure.axes[0].texts]


def test_panels_name_the_strongest_lines() -> None:
    cannon = painted({16099.184: -0.2, 16064.397: -0.1, 16110.0: -0.05}, names=("TEFF", "SI_FE"))
    figure = plot_gradients(cannon, names=["SI_FE"], window=None, n_lines=1)
    assert [t.get_text() for t in figure.axes[0].texts] == ["Si I 16099.2"]
    figure = plot_gradients(cannon, names=["SI_FE"], window=None, n_lines=0)
    assert not figure.axes[0].texts
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "posterior mean", "95 % band", "known lines of the label",
    ]  # fmt: skip


def test_label_that_is_no_catalogues_has_no_lines() -> None:
    figure = plot_gradients(painted({}, names=("TEFF", "AGE")), window=None)
    assert not figure.axes[1].texts
    assert "AGE" in figure.axes[1].get_ylabel()


def test_each_label_is_shown_where_its_own_lines_change() -> None:
    """Silicon has three strong lines here; the strongest peak of all is nobody's."""
    wide = 15200 * (10**6e-6) ** np.arange(8000)
    small, own = make_cannon(n_pixels=wide.size), painted({}, names=("TEFF", "SI_FE"))
    theta = np.zeros_like(small.theta)
    theta[:, 0] = 1
    (column,) = [i for i, t in enumerate(small.basis.terms) if t == (1,)]
    for line, strength in ((15964.424, 0.1), (16064.397, 0.1), (16099.184, 0.1), (15300.0, 0.5)):
        theta[:, column] += strength * np.exp(-0.5 * ((wide - line) / 0.35) ** 2)
    cannon = replace(
        small, wavelength=wide, theta=theta, basis=own.basis, training=own.training,
        used=np.ones(wide.size, dtype=bool),
    )  # fmt: skip
    low, high = plot_gradients(cannon, names=["SI_FE"]).axes[0].get_xlim()
    assert high - low == pytest.approx(200, abs=1)
    assert low < 15964
    assert high > 16099.2
    part = ~((wide > 16120) & (wide < 16300))  # a gap between chips is kept out of the window
    broken = replace(
        cannon, wavelength=wide[part], theta=theta[part], used=np.ones(part.sum(), bool),
        **{name: getattr(cannon, name)[part] for name in ("loadings", "coef_cov", "scatter",
                                                          "log_scatter_sd")},
    )  # fmt: skip
    low, _ = plot_gradients(broken, names=["SI_FE"]).axes[0].get_xlim()
    assert low == pytest.approx(16099.2 - 180, abs=1)


def test_a_spectrum_of_few_pixels_is_shown_whole() -> None:
    """200 Å of a Gaia XP spectrum are ten pixels, in which no line can be seen."""
    coarse = replace(
        painted({}, names=("TEFF", "SI_FE")), wavelength=np.linspace(3400.0, 10000.0, 400),
    )  # fmt: skip
    low, high = plot_gradients(coarse).axes[0].get_xlim()
    assert (low, high) == pytest.approx((3400, 10000))
