"""The shipped library of synthesised giants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bayes_cannon.base.resources import data_path
from bayes_cannon.errors import FileFormatError, InvalidDataError, LabelError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.simulation.library import ELEMENTS, Library, load_library


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library()


def small_library(**changes: object) -> Library:
    parts = {
        "wavelength": np.linspace(15100, 15200, 5),
        "flux": np.ones((3, 5), np.float32),
        "labels": {"TEFF": np.array([4000.0, 4500.0, 5000.0])},
    }
    return Library(**(parts | changes))


def test_library_has_600_giants_on_the_apstar_grid(library: Library) -> None:
    assert library.flux.shape == (600, 8575)
    assert len(library) == library.n_stars == 600
    assert library.wavelength[[0, -1]] == pytest.approx([15100.802, 16999.807], abs=1e-3)
    np.testing.assert_allclose(np.diff(np.log10(library.wavelength)), 6e-6, rtol=1e-6)


def test_flux_is_in_units_of_the_continuum(library: Library) -> None:
    assert 0.35 < library.flux.min() < 0.6
    assert 0.98 < np.percentile(library.flux, 90) < library.flux.max() <= 1.0


def test_labels_are_in_the_documented_ranges(library: Library) -> None:
    limits = {"TEFF": (3979, 5421), "LOGG": (0.9, 3.9), "FE_H": (-0.95, 0.33)}
    for name, (low, high) in limits.items():
        assert low < library.values(name).min() < library.values(name).max() < high
    assert set(DEFAULT_LABELS) <= set(library.names)
    assert {f"{element}_FE" for element in ELEMENTS} <= set(library.names)
    assert library.values("RESOLUTION").mean() == pytest.approx(22500, abs=200)


def test_cooler_metal_rich_giants_have_stronger_lines(library: Library) -> None:
    covered = slice(250, 8300)
    depth = 1 - library.flux[:, covered].mean(axis=1)
    rich = library.values("FE_H") > 0
    cool = library.values("TEFF") < 4500
    assert depth[rich & cool].min() > depth[~rich & ~cool].mean()


def test_library_is_read_once_and_cannot_be_changed(library: Library) -> None:
    assert load_library() is library
    with pytest.raises(ValueError, match="read-only"):
        library.flux[0, 0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        library.values("TEFF")[0] = 2.0
    with pytest.raises(TypeError, match="assignment"):
        library.labels["TEFF"] = np.zeros(600)  # type: ignore[index]


def test_unknown_label_names_close_ones(library: Library) -> None:
    with pytest.raises(LabelError, match=r"no label 'MG_H'; did you mean .*MG_FE"):
        library.values("MG_H")
    with pytest.raises(LabelError, match="no label 'colour'; it has TEFF, LOGG"):
        library.values("colour")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wavelength": np.linspace(1, 2, 4)}, r"must have shape \(n_stars, n_pixels\)"),
        ({"flux": np.ones(5)}, "must have shape"),
        ({"flux": np.full((3, 5), np.nan)}, "flux or wavelength must be finite"),
        ({"labels": {"TEFF": np.ones(2)}}, "TEFF must be finite, with one value for each of 3"),
        ({"labels": {"LOGG": np.full(3, np.inf)}}, "LOGG must be finite"),
    ],
)
def test_bad_arrays_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        small_library(**changes)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"nothing\.npz does not exist"):
        load_library(tmp_path / "nothing.npz")


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.npz"
    path.write_text("<html>not found</html>")
    with pytest.raises(FileFormatError, match="cannot be read as an npz file"):
        load_library(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.npz"
    path.write_bytes(data_path("giants.npz").read_bytes()[:100_000])
    with pytest.raises(FileFormatError, match="cannot be read as an npz file"):
        load_library(path)


def test_file_without_its_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, flux=np.ones((2, 3)))
    with pytest.raises(FileFormatError, match=r"lacks flux_scale, crval1"):
        load_library(path)


def stored(library: Library, n_stars: int) -> dict[str, np.ndarray]:
    labels = {name: library.values(name)[:n_stars] for name in library.names}
    grid = {"flux_scale": np.array(2e-5), "crval1": np.array(4.179), "cdelt1": np.array(6e-6)}
    return {"flux": np.full((n_stars, 7), 40000, np.uint16), **grid, **labels}


def test_other_file_of_the_same_form_is_read(library: Library, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", **stored(library, 2))
    other = load_library(tmp_path / "two.npz")
    np.testing.assert_allclose(other.flux, 0.8, rtol=1e-6)
    np.testing.assert_array_equal(other.values("MG_FE"), library.values("MG_FE")[:2])


def test_file_with_arrays_that_do_not_match_is_refused(library: Library, tmp_path: Path) -> None:
    arrays = stored(library, 2) | {"TEFF": np.ones(3)}
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(FileFormatError, match=r"odd\.npz is damaged: the library's TEFF"):
        load_library(tmp_path / "odd.npz")


def test_pickled_objects_are_not_loaded(library: Library, tmp_path: Path) -> None:
    arrays = stored(library, 2) | {"TEFF": np.array([{}, {}], dtype=object)}
    np.savez(tmp_path / "objects.npz", **arrays)
    with pytest.raises(FileFormatError, match="cannot be read as an npz file"):
        load_library(tmp_path / "objects.npz")
