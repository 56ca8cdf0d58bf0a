"""Wavelengths in air: files, figures, lines and models say so, and nothing is mixed."""

from collections.abc import Iterator
from dataclasses import replace

import h5py
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from bayes_cannon.analysis.diagnostics import diagnose
from bayes_cannon.analysis.gradients import gradient_extrema, line_groups
from bayes_cannon.analysis.lines import explain_peaks, lines_in, lines_of, nearest_lines
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import wavelength_label
from bayes_cannon.plots.gradients import plot_gradients, plot_line_group
from bayes_cannon.plots.sequences import plot_metallicity
from bayes_cannon.plots.spectra import plot_model, plot_spectrum
from bayes_cannon.plots.training import plot_scatter
from bayes_cannon.spectra.air import air_to_vacuum, in_medium, vacuum_to_air
from bayes_cannon.spectra.arrays import spectra_from_arrays, training_set_from_arrays
from bayes_cannon.spectra.continuum import ContinuumSettings, match_pixels, normalize
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra
from bayes_cannon.surveys.apogee.layout import WAVELENGTH
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

MG = (15745.017, 15753.291, 15770.147)  # Mg I, vacuum
VACUUM = np.linspace(15730.0, 15780.0, 251)
AIR = vacuum_to_air(VACUUM)


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def dataset() -> TrainingSet:
    rng = np.random.default_rng(0)
    teff, fe_h, mg = rng.uniform(4000, 5000, 60), rng.normal(0, 0.2, 60), rng.normal(0, 0.2, 60)
    lines = sum(np.exp(-0.5 * ((VACUUM - center) / 0.35) ** 2) for center in MG)
    flux = 1 - np.outer(0.2 + 0.15 * mg + 0.05 * fe_h + (4500 - teff) / 1e4, lines)
    flux += 0.005 * rng.normal(size=flux.shape)
    labels = {"TEFF": teff, "FE_H": fe_h, "MG_FE": mg}
    return training_set_from_arrays(AIR, flux, labels, error=0.005, medium="air")


@pytest.fixture(scope="module")
def cannon(dataset) -> Cannon:
    return train(dataset, settings=TrainingSettings(n_factors=0, folds=0), seed=0)


def test_files_keep_the_medium(dataset, cannon, tmp_path):
    for thing, place in ((dataset, "wavelength"), (cannon, "pixels/wavelength")):
        path = thing.save(tmp_path / f"{type(thing).__name__}.nc")
        with h5py.File(path) as file:
            assert file[place].attrs["medium"] == "air"
        loaded = type(thing).load(path)
        assert getattr(loaded, "spectra", loaded).medium == "air"
    vacuum = replace(cannon, medium="vacuum").save(tmp_path / "vacuum.nc")
    assert Cannon.load(vacuum).medium == "vacuum"


def test_the_medium_is_kept_on_the_way(dataset, cannon):
    assert cannon.medium == "air"
    assert dataset.select([0, 1]).spectra.medium == "air"
    assert dataset.split(0.5, seed=1)[0].spectra.medium == "air"
    assert diagnose(cannon, dataset.spectra, dataset.labels).medium == "air"
    with pytest.raises(InvalidDataError, match="'vacuum' or 'air', not 'water'"):
        replace(dataset.spectra, medium="water")


def test_lines_are_looked_up_in_air(cannon):
    """The gradient's extrema lie at the lines, and the figure names these, 4.3 Å bluer."""
    table = gradient_extrema(cannon, "MG_FE", MG)
    np.testing.assert_allclose(table["vacuum"], MG)
    np.testing.assert_allclose(table["extremum"], vacuum_to_air(MG), atol=0.06)
    np.testing.assert_allclose(table["offset"], 0, atol=0.06)
    figure = plot_gradients(cannon, names=["MG_FE"], window=None)
    named = {a.get_text(): a.xy[0] for a in figure.axes[0].texts if "Mg I" in a.get_text()}
    for line in vacuum_to_air(MG):
        assert named[f"Mg I {line:.1f}"] == pytest.approx(line, abs=0.01)
    group = line_groups("MG_FE", medium="air")[0]
    assert group.names == tuple(f"Mg I {line:.1f}" for line in vacuum_to_air(MG))
    np.testing.assert_allclose(group.places("air"), vacuum_to_air(MG))
    page = plot_line_group(cannon, group)
    assert [ax.get_xlim()[0] for ax in page.axes[::2]] == pytest.approx(
        vacuum_to_air(MG) - 5.0, abs=0.01
    )


@pytest.mark.parametrize("medium", ["vacuum", "air"])
def test_axes_say_what_wavelengths_are_in(medium, dataset, cannon):
    model, spectra = replace(cannon, medium=medium), replace(dataset.spectra, medium=medium)
    star = str(spectra.star_id[0])
    shown = [
        plot_spectrum(spectra, star),
        plot_scatter(model),
        plot_metallicity(model, window=None),
        plot_gradients(model, window=None),
        plot_model(model, spectra, star, dataset.labels.values[0], window=None),
    ]
    axes = [[ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()] for figure in shown]
    assert {labels[-1] for labels in axes} == {f"wavelength in {medium}, rest frame (Å)"}
    page = plot_line_group(model, line_groups("MG_FE", medium=medium)[0])
    assert page.get_supxlabel() == wavelength_label(medium)


def test_media_are_not_mixed(dataset, cannon):
    vacuum = replace(dataset.spectra, medium="vacuum")
    star = str(vacuum.star_id[0])
    for call in (
        lambda: infer_labels(cannon, vacuum, seed=1),
        lambda: diagnose(cannon, vacuum, dataset.labels),
        lambda: plot_model(cannon, vacuum, star, dataset.labels.values[0]),
    ):
        with pytest.raises(InvalidDataError, match="are in vacuum, those of the trained mod"):
            call()


def test_line_list_in_air():
    line = float(vacuum_to_air(15770.147))
    assert nearest_lines([line], medium="air")["name"].tolist() == ["Mg I 15765.8"]
    found = nearest_lines([line], medium="air")
    assert found["vacuum"][0] == pytest.approx(15770.147, abs=0.002)
    assert found["offset"][0] == pytest.approx(0, abs=0.002)
    assert "Mg I 15765.8" in lines_in(line - 1, line + 1, medium="air")["name"]
    assert "Mg I 15765.8" in lines_of("MG_FE", medium="air")["name"]
    peak = explain_peaks(AIR, np.exp(-((AIR - line) ** 2)), n=1, medium="air")
    assert peak["name"].tolist() == ["Mg I 15765.8"]
    with pytest.raises(InvalidDataError, match="'vacuum' or 'air'"):
        lines_in(15700, 15800, medium="ether")
    np.testing.assert_array_equal(in_medium(MG, "vacuum"), MG)
    np.testing.assert_allclose(air_to_vacuum(in_medium(MG, "air")), MG)


def test_published_continuum_pixels_are_found_on_a_grid_in_air():
    """They are the same pixels of the detector; a user's own wavelengths are as the grid."""
    settings = ContinuumSettings()
    grid = vacuum_to_air(WAVELENGTH)
    np.testing.assert_array_equal(
        match_pixels(grid, settings.wavelengths_in("air")),
        match_pixels(WAVELENGTH, settings.wavelengths_in("vacuum")),
    )
    own = ContinuumSettings(degree=2, pixels=tuple(AIR[::5]), min_pixels=5)
    np.testing.assert_array_equal(own.wavelengths_in("air"), AIR[::5])
    flux, ivar = np.full((1, AIR.size), 2.0), np.full((1, AIR.size), 1e4)
    raw = ObservedSpectra(["A"], AIR, flux, ivar, medium="air")
    normal, _ = normalize(raw, own)
    assert isinstance(normal, NormalizedSpectra)
    assert normal.medium == "air"
    given = spectra_from_arrays(AIR, flux, ivar=ivar, continuum=own, medium="air")
    assert given.medium == "air"
    np.testing.assert_allclose(given.flux, 1.0, rtol=1e-5)
