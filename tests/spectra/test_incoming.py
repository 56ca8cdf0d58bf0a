"""Data as users have them: masks, units, fill values, unusable stars, text files, odd kinds."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy import units as u
from astropy.table import QTable, Table
from astropy.utils.masked import Masked

from bayes_cannon.errors import (
    BayesCannonWarning,
    DownloadError,
    FileFormatError,
    InvalidDataError,
    LabelError,
    NoStarsError,
)
from bayes_cannon.spectra.arrays import spectra_from_arrays, training_set_from_arrays
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra
from bayes_cannon.spectra.tables import read_spectrum, training_set_from_table
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.archive.download import download_survey
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.survey import open_survey

N = 8
W = np.linspace(5000.0, 5100.0, 51)
TEFF = np.linspace(4500.0, 5500.0, N)
FEH = np.linspace(-0.8, 0.3, N)
FLUX = 1 - np.outer(0.3 + (TEFF - 5000) / 5e3, np.exp(-0.5 * ((W - 5050) / 4) ** 2))
ERROR = np.full_like(FLUX, 0.01)
BAD = np.random.default_rng(1).random(FLUX.shape) < 0.05
DIRTY = np.where(BAD, FLUX + 3.0, FLUX)
IDS = [f"star-{i + 1}" for i in range(N)]
CGS = u.erg / u.s / u.cm**2 / u.AA


# Masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flux", "spread"),
    [
        (np.ma.array(DIRTY, mask=BAD), {"error": ERROR}),
        (DIRTY, {"error": np.ma.array(ERROR, mask=BAD)}),
        (DIRTY, {"ivar": np.ma.array(ERROR**-2, mask=BAD)}),
        (Masked(DIRTY, mask=BAD), {"error": ERROR}),
        (Masked(DIRTY * CGS, mask=BAD), {"error": ERROR * CGS}),
        (pd.DataFrame(DIRTY).mask(BAD), {"error": ERROR}),
        (np.where(BAD, None, DIRTY), {"error": ERROR}),
        (list(np.ma.array(DIRTY, mask=BAD)), {"error": 0.01}),
        (np.where(BAD, np.nan, DIRTY), {"error": pd.DataFrame(ERROR)}),
        (DIRTY, {"error": np.where(BAD, np.inf, ERROR)}),
        (DIRTY, {"error": np.where(BAD, np.nan, ERROR)}),
        (DIRTY, {"error": np.where(BAD, 0.0, ERROR)}),
        (DIRTY, {"error": np.where(BAD, -1.0, ERROR)}),
        (DIRTY, {"ivar": np.where(BAD, np.inf, ERROR**-2)}),
        (DIRTY, {"ivar": np.where(BAD, np.nan, ERROR**-2)}),
        (DIRTY, {"ivar": np.where(BAD, -1e4, ERROR**-2)}),
    ],
)
def test_masked_and_impossible_pixels_are_not_used(flux, spread, caplog):
    with caplog.at_level(logging.INFO):
        spectra = spectra_from_arrays(W, flux, **spread)
    np.testing.assert_array_equal(spectra.good, ~BAD)
    np.testing.assert_array_equal(spectra.flux[~BAD], FLUX.astype(np.float32)[~BAD])
    np.testing.assert_allclose(spectra.ivar[~BAD], 1e4, rtol=1e-6)
    infinite = "error" in spread and np.isinf(np.ma.filled(spread["error"], 0)).any()
    assert infinite or f"not used: {BAD.sum()} pixels of " in caplog.text


def test_how_many_pixels_are_left_out_is_in_the_cut_table():
    error = ERROR.copy()
    error[2, 3] = 0.0
    labels = {"TEFF": TEFF}
    dataset = training_set_from_arrays(W, np.ma.array(DIRTY, mask=BAD), labels, error=error)
    masked = f"{BAD.sum()} pixels of {BAD.any(axis=1).sum()} stars (star-"
    assert masked in dataset.cut_table()["description"][-1]
    assert "1 pixel of 1 star (star-3) have no usable flux or error" in (
        dataset.cut_steps[-1].description
    )


@pytest.mark.parametrize("kind", [NormalizedSpectra, ObservedSpectra])
def test_masks_of_spectra_made_by_hand(kind):
    flux, ivar = np.ma.array(DIRTY, mask=BAD), ERROR**-2
    for given in ((flux, ivar), (DIRTY, np.ma.array(ivar, mask=BAD)), (Masked(DIRTY, BAD), ivar)):
        spectra = kind(IDS, W, *given)
        np.testing.assert_array_equal(spectra.good, ~BAD)
        assert (spectra.flux[BAD] == 1).all()
    with pytest.raises(InvalidDataError, match="the mask covers 1 wavelength;"):
        kind(IDS, np.ma.array(W, mask=W == 5050), DIRTY, ivar)
    with pytest.raises(InvalidDataError, match="flux has the unit"):
        kind(IDS, W, DIRTY * CGS, ivar)
    assert kind(IDS, W[:] * u.AA.to(u.nm) * u.nm, DIRTY, ivar).wavelength[0] == pytest.approx(5000)


def test_a_masked_wavelength_is_refused():
    with pytest.raises(InvalidDataError, match=r"1 of 51 wavelengths are masked \(the first at p"):
        spectra_from_arrays(np.ma.array(W, mask=W == 5050), FLUX, error=ERROR)


def test_masked_labels_and_label_errors_are_unknown():
    values = np.ma.array(TEFF, mask=np.arange(N) == 2)
    errors = np.ma.array(np.full(N, 50.0), mask=np.arange(N) == 1)
    for given in (values, Masked(values.data, values.mask), pd.Series(values.filled(np.nan))):
        dataset = training_set_from_arrays(
            W, FLUX, {"TEFF": given}, error=ERROR, label_errors={"TEFF": errors},
            allow_missing_labels=True,
        )  # fmt: skip
        assert np.flatnonzero(np.isnan(dataset.labels["TEFF"])).tolist() == [2]
        assert np.flatnonzero(np.isnan(dataset.labels.error("TEFF"))).tolist() == [1]
    labels = Labels("TEFF", np.ma.array([5000.0, -9999.0], mask=[0, 1]), np.nan, ["a", "b"])
    np.testing.assert_array_equal(labels["TEFF"], [5000, np.nan])
    with pytest.raises(InvalidDataError, match="values of star_id are masked"):
        training_set_from_arrays(
            W, FLUX, {"TEFF": TEFF}, error=ERROR,
            star_id=np.ma.array(IDS, mask=np.arange(N) == 0),
        )  # fmt: skip


def test_masks_of_files_and_of_readers(tmp_path):
    table = Table({"WAVELENGTH": W, "FLUX": DIRTY[0], "ERROR": ERROR[0]}, masked=True)
    for column in ("FLUX", "ERROR"):
        table["FLUX"].mask = table["ERROR"].mask = False
        table[column].mask = BAD[0]
        table.write(tmp_path / "a.ecsv", overwrite=True)
        np.testing.assert_array_equal(read_spectrum(tmp_path / "a.ecsv")[2] > 0, ~BAD[0])

    def reader(path: Path):
        row = int(path.stem)
        return W, np.ma.array(DIRTY[row], mask=BAD[row]), ERROR[row] ** -2

    listed = Table({"PATH": [f"{i}.x" for i in range(N)], "TEFF": TEFF})
    dataset = training_set_from_table(listed, "TEFF", reader=reader)
    np.testing.assert_array_equal(dataset.spectra.good, ~BAD)


# Units -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [(W * u.AA).to(u.nm), (W * u.AA).to(u.um), Table({"w": (W * u.AA).to(u.nm)})["w"],
     list((W * u.AA).to(u.nm)), xr.DataArray(W / 10, attrs={"units": "nm"}), W.astype(np.float32)],
)  # fmt: skip
def test_wavelengths_become_angstrom(given):
    spectra = spectra_from_arrays(given, FLUX, error=ERROR)
    np.testing.assert_allclose(spectra.wavelength, W, rtol=1e-7)


@pytest.mark.parametrize(
    ("flux", "spread"),
    [
        (FLUX * CGS, {"error": (ERROR * CGS).to(1e-3 * CGS)}),
        (FLUX * CGS, {"error": ERROR}),
        (FLUX * CGS, {"ivar": (ERROR**-2 / CGS**2).to(1 / (1e-3 * CGS) ** 2)}),
        (FLUX, {"error": 100 * ERROR * u.percent}),
        (FLUX, {"ivar": 1e-4 * ERROR**-2 / u.percent**2}),
        (100 * FLUX * u.percent, {"error": ERROR * u.dimensionless_unscaled}),
        (100 * FLUX * u.percent, {"error": 100 * ERROR * u.percent}),
    ],
)
def test_errors_are_in_the_unit_of_the_flux(flux, spread):
    spectra = spectra_from_arrays(W, flux, **spread)
    np.testing.assert_allclose(spectra.ivar, 1e4, rtol=1e-5)
    np.testing.assert_allclose(spectra.flux, FLUX, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"wavelength": W * u.Hz}, "wavelength is in Hz, which is not a length; convert it"),
        ({"wavelength": W * u.dimensionless_unscaled}, "which is not a length"),
        ({"wavelength": xr.DataArray(W, attrs={"units": "pixels of ours"})}, "cannot be interpr"),
        ({"error": ERROR * CGS}, "error is in erg .* cannot be converted to no unit"),
        ({"flux": FLUX * CGS, "error": ERROR * u.Jy}, "error is in Jy, which cannot be converted"),
        ({"flux": FLUX * CGS, "error": None, "ivar": ERROR * CGS}, "ivar is in erg"),
        ({"flux": 100 * FLUX * u.percent}, "flux is in % and error has no unit"),
        ({"flux": FLUX * u.mag}, "logarithmic unit"),
        ({"flux": FLUX * u.ABmag}, "logarithmic unit"),
        ({"chips": [(5000 * u.AA, 5 * u.K)]}, "chips"),
        ({"chips": 5}, "chips 5 must be ordered"),
        ({"flux": "spectra.fits"}, "flux must hold numbers; str does not"),
        ({"error": [[0.1], [0.1, 0.2]]}, "error must hold numbers"),
        ({"flux": FLUX + 0j}, "flux must hold numbers"),
        ({"continuum": {"degree": 2}}, "continuum must be a ContinuumSettings"),
        ({"medium": "glass"}, "'vacuum' or 'air', not 'glass'"),
    ],
)
def test_what_spectra_cannot_be_made_of(change, match):
    arguments = {"wavelength": W, "flux": FLUX, "error": ERROR} | change
    with pytest.raises(InvalidDataError, match=match):
        spectra_from_arrays(arguments.pop("wavelength"), arguments.pop("flux"), **arguments)


@pytest.mark.parametrize(
    ("labels", "errors", "units", "expected"),
    [
        ({"TEFF": (TEFF * u.K).to(u.kK)}, {"TEFF": 50 * u.K}, None, (TEFF, 50.0, "K")),
        ({"TEFF": TEFF}, {"TEFF": 0.05 * u.kK}, None, (TEFF, 50.0, "K")),
        ({"TEFF": (TEFF * u.K).to(u.kK)}, {"TEFF": np.full(N, 0.05) * u.kK}, None,
         (TEFF, 50.0, "K")),
        ({"LOGG": FEH * u.dex(u.cm / u.s**2)}, {"LOGG": 0.1 * u.dex}, None, (FEH, 0.1, "dex")),
        ({"FE_H": FEH * u.dex}, {"FE_H": 0.1}, None, (FEH, 0.1, "dex")),
        ({"FE_H": FEH * u.dimensionless_unscaled}, None, None, (FEH, np.nan, "dex")),
        ({"AGE": FEH * u.Gyr}, {"AGE": 100 * u.Myr}, None, (FEH, 0.1, "Gyr")),
        ({"AGE": FEH * u.Gyr}, {"AGE": 0.1 * u.Gyr}, {"AGE": "Myr"}, (1e3 * FEH, 100.0, "Myr")),
        ({"VSINI": FEH * 1e3 * u.m / u.s}, None, None, (FEH, np.nan, "km/s")),
    ],
)  # fmt: skip
def test_labels_are_converted_to_their_unit(labels, errors, units, expected):
    dataset = training_set_from_arrays(
        W, FLUX, labels, error=ERROR, label_errors=errors, units=units
    )
    (name,) = dataset.labels.names
    np.testing.assert_allclose(dataset.labels[name], expected[0], rtol=1e-12)
    np.testing.assert_allclose(dataset.labels.error(name), expected[1], rtol=1e-12)
    assert dataset.labels.units == (expected[2],)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": {"TEFF": TEFF * u.Jy}}, "TEFF is in Jy, which cannot be converted to K"),
        ({"labels": {"FE_H": FEH * u.K}}, "FE_H is in K, which cannot be converted to dex"),
        ({"labels": {"FE_H": FEH * u.percent}}, "FE_H is in %"),
        ({"labels": {"TEFF": TEFF / 1e3 * u.kK}, "label_errors": {"TEFF": 50.0}},
         "TEFF is in kK, its errors have no unit"),
        ({"labels": {"TEFF": TEFF}, "label_errors": {"TEFF": 50 * u.dex}}, "error of TEFF is in"),
        ({"labels": {"AGE": FEH * u.Gyr}, "units": {"AGE": "eons"}}, "unit 'eons' of AGE"),
        ({"labels": {"TEFF": ["hot"] * N}}, "TEFF must hold numbers"),
        ({"labels": TEFF}, "labels must be a mapping of names to arrays, a table or"),
        ({"labels": {"star": TEFF}}, "a label cannot be named star: results use that name"),
        ({"labels": {"TEFF": TEFF, "draw": TEFF}}, "cannot be named draw"),
        ({"labels": {"TEFF": TEFF, "teff": TEFF}}, "once each"),
        ({"labels": {"TEFF": TEFF, "TEFF_ERR": TEFF}, "label_errors": {"TEFF": 1.0}},
         "errors of TEFF are given twice"),
    ],
)  # fmt: skip
def test_what_labels_cannot_be_made_of(options, match):
    with pytest.raises(LabelError, match=match):
        training_set_from_arrays(W, FLUX, error=ERROR, **options)


def test_units_of_files(tmp_path):
    columns = {"WAVELENGTH": (W * u.AA).to(u.nm), "FLUX": FLUX[0] * CGS,
               "ERROR": (ERROR[0] * CGS).to(1e-3 * CGS)}  # fmt: skip
    for ending in ("fits", "ecsv"):
        path = tmp_path / f"nm.{ending}"
        QTable(columns).write(path)
        wavelength, flux, ivar = read_spectrum(path)
        np.testing.assert_allclose(wavelength, W)
        np.testing.assert_allclose(flux, FLUX[0])
        np.testing.assert_allclose(ivar, 1e4)
    listed = QTable({"PATH": ["nm.fits"], "TEFF": [5.2] * u.kK, "TEFF_ERR": [50] * u.K})
    listed.write(tmp_path / "list.ecsv")
    dataset = training_set_from_table(tmp_path / "list.ecsv", ["TEFF"], folder=tmp_path)
    assert dataset.labels["TEFF"] == pytest.approx([5200])
    assert dataset.labels.error("TEFF") == pytest.approx([50])
    assert dataset.labels.units == ("K",)


# Fill values -------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [-9999.0, -999.0, -99.0, -9.99, 99.0, np.inf, -9999.99])
def test_fill_values_are_missing_labels(fill, caplog):
    feh = FEH.copy()
    feh[:2] = fill
    with pytest.raises(LabelError, match=r"2 of 8 stars \(star-1, star-2\) lack labels.*FE_H in 2"):
        training_set_from_arrays(W, FLUX, {"TEFF": TEFF, "FE_H": feh}, error=ERROR)
    dataset = training_set_from_arrays(
        W, FLUX, {"TEFF": TEFF, "FE_H": feh}, error=ERROR, allow_missing_labels=True
    )
    np.testing.assert_array_equal(dataset.labels["FE_H"], [np.nan, np.nan, *FEH[2:]])
    if np.isfinite(fill):
        assert "2 of 8 stars (star-1, star-2) have a fill value of FE_H" in caplog.text


@pytest.mark.parametrize("fill", [-9999.0, 0.0, -1.0, np.inf, -9.99])
def test_an_error_that_cannot_be_costs_that_error_alone(fill, caplog):
    errors = np.full(N, 50.0)
    errors[1] = fill
    labels = {"TEFF": TEFF, "FE_H": FEH}
    dataset = training_set_from_arrays(
        W, FLUX, labels, error=ERROR, label_errors={"TEFF": errors, "FE_H": 0.1}
    )
    np.testing.assert_array_equal(dataset.labels["TEFF"], TEFF)
    assert np.flatnonzero(np.isnan(dataset.labels.errors).any(axis=1)).tolist() == [1]
    assert (dataset.labels.error("FE_H") == 0.1).all()
    assert "1 of 8 stars (star-2) have no positive error of TEFF" in caplog.text


# Stars that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (-0.02, "-0.02"), (40.0, "40"), (1e-3, "0.001")]
)
def test_one_unusable_star_does_not_stop_the_others(value, said):
    flux = FLUX.copy()
    flux[3] = value
    why = f"its median flux is {said}, not near 1"
    with pytest.warns(BayesCannonWarning, match=rf"1 of 8 stars \(spectrum-4\) have no .*: {why}"):
        spectra = spectra_from_arrays(W, flux, error=ERROR)
    assert np.flatnonzero(~spectra.good.any(axis=1)).tolist() == [3]
    with pytest.warns(BayesCannonWarning, match=rf"1 of 8 stars \(star-4\) are left out.*{why}"):
        dataset = training_set_from_arrays(W, flux, {"TEFF": TEFF}, error=ERROR)
    np.testing.assert_array_equal(dataset.labels["TEFF"], np.delete(TEFF, 3))
    assert [(p.star_id, why in p.message) for p in dataset.problems] == [("star-4", True)]
    assert dataset.cut_steps[-1].removed == 1


def test_most_stars_being_unusable_is_an_error():
    flux = FLUX.copy()
    flux[: N - 2] *= 1e3
    with pytest.raises(InvalidDataError, match=r"6 of 8 stars .*are not normalised; give `contin"):
        spectra_from_arrays(W, flux, error=ERROR)
    with pytest.raises(InvalidDataError, match=r"the median flux of all 8 stars .* is 0 or negat"):
        spectra_from_arrays(W, 0 * FLUX, error=ERROR)


def test_unusable_files_and_pixels_of_files(tmp_path):
    flux = FLUX.copy()
    flux[3] = 0.0
    for i in range(N):
        Table({"WAVELENGTH": W, "FLUX": flux[i], "ERROR": ERROR[i]}).write(tmp_path / f"{i}.fits")
    listed = Table({"PATH": [f"{i}.fits" for i in range(N)], "TEFF": TEFF})
    with pytest.warns(BayesCannonWarning, match=r"1 of 8 stars \(3\) are left out; 3: its median"):
        assert len(training_set_from_table(listed, ["TEFF"], folder=tmp_path)) == N - 1
    ivar = np.where(np.arange(W.size) == 7, np.inf, 1e4)
    Table({"WAVELENGTH": W, "FLUX": FLUX[3], "IVAR": ivar}).write(
        tmp_path / "3.fits", overwrite=True
    )
    dataset = training_set_from_table(listed, ["TEFF"], folder=tmp_path)
    assert len(dataset) == N
    assert np.argwhere(~dataset.spectra.good).tolist() == [[3, 7]]


# Text files --------------------------------------------------------------------------------

ROWS = "\n".join(f"{x:.2f} {y:.4f} 0.0100" for x, y in zip(W, FLUX[0], strict=True))
TEXT = f"WAVELENGTH FLUX ERROR\n{ROWS}"


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [("a.txt", TEXT, None), ("a.dat", TEXT, None), ("a.asc", TEXT, None), ("a.spec", TEXT, None),
     ("a.tab", TEXT.replace(" ", "\t"), None), ("a.csv", TEXT.replace(" ", ","), None),
     ("a", TEXT, None), ("a.DAT", f"# {TEXT}", "ascii.commented_header"), ("b.dat", TEXT, "ascii"),
     ("c.dat", TEXT.replace(" ", ",").lower(), None), ("d.txt", TEXT.replace(" ", " | "), None)],
)  # fmt: skip
def test_text_files(name, text, form, tmp_path):
    (tmp_path / name).write_text(text)
    table = Table({"PATH": [name], "TEFF": [5000.0]})
    dataset = training_set_from_table(table, ["TEFF"], folder=tmp_path, format=form)
    np.testing.assert_allclose(dataset.spectra.flux[0], FLUX[0], atol=1e-4)
    np.testing.assert_allclose(dataset.spectra.ivar[0], 1e4, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [("nohead.dat", ROWS, "needs columns WAVELENGTH, FLUX.*names, or a reader"),
     ("de.csv", TEXT.replace(".", ",").replace(" ", ";"), "name its form with format="),
     ("empty.txt", "", "cannot be read as a table"), ("a.fits", TEXT, "cannot be read as a table")],
)  # fmt: skip
def test_text_files_that_cannot_be_read(name, text, match, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileFormatError, match=match):
        read_spectrum(tmp_path / name)
    with pytest.raises(NoStarsError, match=match):
        training_set_from_table(Table({"PATH": [name], "TEFF": [5e3]}), "TEFF", folder=tmp_path)


# Kinds of arguments ------------------------------------------------------------------------

LISTED = {"PATH": [f"{i}.ecsv" for i in range(N)], "TEFF": TEFF.tolist()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("spectra")
    for i in range(N):
        Table({"WAVELENGTH": W * (1 + 1e-9 * i), "FLUX": FLUX[i], "ERROR": ERROR[i]}).write(
            root / f"{i}.ecsv"
        )
    Table(LISTED).write(root / "list.csv")
    (root / "list.txt").write_text(
        "path teff\n" + "\n".join(f"{p} {t}" for p, t in zip(*LISTED.values(), strict=True))
    )
    return root


@pytest.mark.parametrize(
    "table",
    [Table(LISTED), QTable(LISTED), pd.DataFrame(LISTED), LISTED, "list.csv", "list.txt",
     Path("list.csv"), Table({"path": LISTED["PATH"], "Teff": TEFF}), Table(LISTED).as_array(),
     Table({"PATH": np.array(LISTED["PATH"], "S"), "TEFF": TEFF}),
     Table({"PATH": np.array(LISTED["PATH"], object), "TEFF": TEFF.astype(object)})],
)  # fmt: skip
@pytest.mark.parametrize("labels", ["TEFF", ["TEFF"], ("TEFF",), np.array(["TEFF"])])
def test_tables_of_many_kinds(table, labels, folder):
    if isinstance(table, str | Path):
        table = folder / table
    dataset = training_set_from_table(table, labels, folder=folder, chips=None)
    assert dataset.star_id.tolist() == [str(i) for i in range(N)]
    assert dataset.labels.names == ("TEFF",)
    np.testing.assert_allclose(dataset.labels["TEFF"], TEFF)


def test_folders_and_paths_from_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert len(training_set_from_table("~/list.csv", "TEFF", folder="~")) == N
    table = Table({"PATH": [f"~/{i}.ecsv" for i in range(N)], "TEFF": TEFF})
    assert len(training_set_from_table(table, "TEFF")) == N


@pytest.mark.parametrize(
    ("table", "options", "error", "match"),
    [
        (5, {}, LabelError, "the table must be a mapping"),
        (None, {}, LabelError, "the table must be a mapping"),
        ("nowhere.csv", {}, FileFormatError, "nowhere.csv does not exist"),
        ({"PATH": ["a"], "TEFF": [1.0], "teff": [2.0]}, {"labels": "Teff"}, LabelError,
         "several columns Teff: TEFF, teff"),
        ({"PATH": ["a", None], "TEFF": [1.0, 2.0]}, {}, InvalidDataError, "values of PATH are mas"),
        (LISTED, {"reader": print, "format": "ascii"}, InvalidDataError, "either a reader, or"),
        (LISTED, {"reader": lambda path: (W, FLUX[0])}, NoStarsError, "must return wavelength"),
        (LISTED, {"labels": 5}, InvalidDataError, "names must be text"),
        (LISTED, {"folder": None}, InvalidDataError, "a path must be text"),
        (LISTED, {"medium": "water"}, InvalidDataError, "'vacuum' or 'air'"),
    ],
)  # fmt: skip
def test_tables_that_are_none(table, options, error, match, folder):
    options = {"labels": "TEFF", "folder": folder} | options
    with pytest.raises(error, match=match):
        training_set_from_table(table, options.pop("labels"), **options)


@pytest.mark.parametrize(
    "labels",
    [{"TEFF": TEFF}, Table({"TEFF": TEFF}), pd.DataFrame({"TEFF": TEFF}), {"TEFF": TEFF.tolist()},
     {"TEFF": pd.Series(TEFF, index=range(5, 5 + N))}, {"TEFF": TEFF[:, None]},
     Table({"TEFF": TEFF}).as_array(), {"TEFF": TEFF.astype(">f4")}, {"TEFF": TEFF.astype(object)},
     {"TEFF": xr.DataArray(TEFF)}, Labels("TEFF", TEFF, np.nan, IDS)],
)  # fmt: skip
def test_labels_of_many_kinds(labels):
    dataset = training_set_from_arrays(W, FLUX, labels, error=ERROR)
    assert dataset.labels.names == ("TEFF",)
    np.testing.assert_allclose(dataset.labels["TEFF"], TEFF, rtol=1e-6)
    assert dataset.star_id.tolist() == IDS


def test_tables_of_labels_bring_errors_and_names():
    table = Table(
        {"STAR_ID": [f"S{i}" for i in range(N)], "TEFF": TEFF, "TEFF_ERR": 50.0 + 0 * TEFF}
    )
    dataset = training_set_from_arrays(W, FLUX, table, error=ERROR)
    assert dataset.star_id[0] == "S0"
    assert (dataset.labels.error("TEFF") == 50).all()
    assert dataset.labels.names == ("TEFF",)


@pytest.mark.parametrize(
    "options",
    [{"chips": None}, {"chips": []}, {"chips": np.array([[5000, 5050], [5050, 5100]])},
     {"chips": [[500, 505], [505, 510]] * u.nm}, {"chips": (5000, 5100)}, {"star_id": range(N)},
     {"star_id": pd.Series(IDS)}, {"star_id": np.array(IDS, dtype=object)},
     {"star_id": np.array(IDS, dtype="S")}, {"simulated": np.True_}, {"error": 0.01},
     {"error": np.float32(0.01)}, {"error": u.Quantity(0.01)}, {"error": ERROR.tolist()},
     {"medium": "air"}],
)  # fmt: skip
def test_arguments_of_many_kinds(options):
    spectra = spectra_from_arrays(W, FLUX, **({"error": ERROR} | options))
    assert spectra.good.all()
    assert len(spectra) == N
    assert spectra.medium == options.get("medium", "vacuum")


def test_one_star_of_every_shape():
    for flux in (FLUX[0], FLUX[:1], FLUX[0].tolist(), pd.Series(FLUX[0])):
        dataset = training_set_from_arrays(W[None], flux, {"TEFF": 5000.0}, error=0.01)
        assert dataset.labels["TEFF"].tolist() == [5000]
        assert spectra_from_arrays(W, flux, error=0.01, star_id="A").star_id.tolist() == ["A"]


STAR = "2M00000001+0000001"
DATASET = training_set_from_arrays(W, FLUX, {"TEFF": TEFF}, error=ERROR)


def test_a_fresh_seed_of_a_split_is_kept():
    parts = DATASET.split(0.5)
    seeds = {part.settings["split_seed"] for part in (*parts, *DATASET.split(0.5))}
    assert len(seeds) == 2
    again = DATASET.split(0.5, seed=parts[0].settings["split_seed"])
    assert [p.star_id.tolist() for p in again] == [p.star_id.tolist() for p in parts]


def test_splits_with_numbers_of_every_kind():
    whole = [part.star_id.tolist() for part in DATASET.split(0.5, seed=1)]
    for fraction, seed in ((np.float32(0.5), np.int64(1)), (0.5, 1.0)):
        again = DATASET.split(fraction, seed=seed)
        assert [part.star_id.tolist() for part in again] == whole


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: DATASET.split("half", seed=1), "fraction of a split must be a number"),
        (lambda: DATASET.split(0.5, seed="1"), "seed must be a whole number from 0"),
        (lambda: DATASET.split(0.5, seed=-1), "seed must be a whole number from 0"),
        (lambda: DATASET.select(["nobody"]), "1 of 1 star id are not in these 8 spectra"),
        (lambda: DATASET.select([99]), "star numbers run from 0 to 7"),
        (lambda: DATASET.save(None), "a path must be text"),
        (lambda: TrainingSet.load(7), "a path must be text"),
        (lambda: TrainingSet(FLUX, DATASET.labels), "needs NormalizedSpectra, not ndarray"),
        (lambda: TrainingSet(ObservedSpectra(IDS, W, FLUX, ERROR), DATASET.labels), "divide obs"),
        (lambda: TrainingSet(DATASET.spectra, {"TEFF": TEFF}), "labels must be a Labels"),
        (lambda: ContinuumSettings(pixels="all"), "continuum pixels are"),
        (lambda: ContinuumSettings(pixels=[5000 * u.K]), "continuum pixels is in K"),
        (lambda: ContinuumSettings(pixels=np.ones((2, 2))), "list of wavelengths"),
        (lambda: ContinuumSettings(pixels=7.0j), "continuum pixels must hold numbers"),
        (lambda: ContinuumSettings(min_pixels="10"), "min_pixels must be a whole number"),
        (lambda: ContinuumSettings(degree="2"), "degree of the continuum must be"),
        (lambda: Cuts(star_bad="3"), "star_bad must be bit numbers"),
        (lambda: Cuts(star_bad=True), "star_bad must be bit numbers"),
        (lambda: Cuts(aspcap_bad=2.5), "aspcap_bad must be bit numbers"),
        (lambda: NormalizedSpectra(IDS, W, FLUX, ERROR, chips=5), "chips must be pairs of pixel"),
        (lambda: NormalizedSpectra(IDS, W, FLUX, [["a"] * 51] * N), "must hold numbers"),
        (lambda: simulate_survey("x", n_stars="6", seed=1), "n_stars must be a whole number"),
        (lambda: simulate_survey("x", n_stars=6, seed="7"), "seed must be a whole number from 0"),
        (lambda: simulate_survey("x", n_stars=6, seed=-1), "seed must be a whole number from 0"),
        (lambda: simulate_survey("x", settings={"snr": 1}, seed=1), "must be a SimulationSettings"),
        (lambda: simulate_survey(None, seed=1), "a path must be text"),
        (lambda: load_library(3), "a path must be text"),
        (lambda: open_survey(None), "a path must be text"),
        (lambda: open_survey(".", labels=5), "names must be text"),
        (lambda: download_survey("x", stars=5), "names must be text"),
        (lambda: download_survey("x", stars=[STAR], labels=5), "names must be text"),
        (lambda: download_survey("x", stars=[STAR], limit="3"), "limit must be a whole number"),
        (lambda: download_survey("x", stars=[STAR], streams="4"), "streams must be a whole"),
    ],
)
def test_impossible_arguments_are_said_to_be(call, match):
    with pytest.raises(InvalidDataError, match=match):
        call()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"release": 17}, "unknown release '17'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"snr_min": "a"}, "snr_min must be a number or None, got 'a'"),
        ({"cuts": {"snr_min": 20}}, "cuts must be a Cuts or a function, got dict"),
    ],
)
def test_downloads_say_what_their_arguments_must_be(options, match, tmp_path):
    with pytest.raises(DownloadError, match=match):
        download_survey(tmp_path / "x", stars=[STAR], **options)
    assert not (tmp_path / "x").exists()


def test_settings_of_many_kinds():
    settings = ContinuumSettings(degree=np.int64(2), pixels=W / 10 * u.nm, min_pixels=10.0)
    np.testing.assert_allclose(settings.pixels, W)
    assert (settings.degree, settings.min_pixels) == (2, 10)
    assert type(settings.min_pixels) is int
    cuts = Cuts(star_bad=3, aspcap_bad=np.array([23, 7]), snr_min=np.float32(20))
    assert (cuts.star_bad, cuts.aspcap_bad) == ((3,), (23, 7))
    assert Cuts(star_bad=None).star_bad == ()


def test_info_of_stars_keeps_no_masked_value():
    first, last = np.arange(N) == 0, np.arange(N) == N - 1
    info = {
        "field": np.ma.array(IDS, mask=first),
        "n": np.ma.array(np.arange(N), mask=last),
        "c": pd.Series(IDS),
    }
    found = TrainingSet(DATASET.spectra, DATASET.labels, info=info).info
    assert found["field"][0] == ""
    np.testing.assert_array_equal(found["n"], [*range(N - 1), np.nan])
    assert found["c"].tolist() == IDS
