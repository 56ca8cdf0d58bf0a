"""Arrays of every kind that users have: numbers with mask and unit, names, choices, paths."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy import units as u
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked

from bayes_cannon.base.columns import (
    names_of,
    numbers_of,
    one_or_more,
    plain_numbers,
    whole_number,
)
from bayes_cannon.base.paths import is_fits_name, user_path, without_fits_ending
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.spectra import NormalizedSpectra

MASKED = np.ma.array([1.0, -9999.0, 3.0], mask=[0, 1, 0])


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        (MASKED, None),
        (Masked(np.array([1.0, 2.0, 3.0]), mask=[False, True, False]), None),
        (Masked([1.0, 2.0, 3.0] * u.nm, mask=[False, True, False]), u.nm),
        (MaskedColumn(MASKED, unit="nm"), u.nm),
        (pd.Series([1, None, 3], dtype="Int64"), None),
        (pd.Series([1.0, pd.NA, 3.0], dtype=object), None),
        (pd.array([1, pd.NA, 3], dtype="Int32"), None),
        ([1.0, None, 3.0], None),
        (np.array([1, None, 3.0], dtype=object), None),
    ],
)
def test_masked_numbers(given, unit):
    found = numbers_of(given, "flux")
    np.testing.assert_array_equal(found.values, [1.0, np.nan, 3.0])
    assert found.mask.tolist() == [False, True, False]
    assert found.unit == unit


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        ([1, 2], None),
        ((1.0, 2.0), None),
        (np.array([1, 2], dtype=">i2"), None),
        (np.array([1.0, 2.0], dtype=">f4"), None),
        (["1.0", "2"], None),
        ([1 * u.nm, 2 * u.nm], u.nm),
        (np.array([1, 2]) * u.percent, u.percent),
        (Column([1.0, 2.0], unit="micron"), u.micron),
        (Column([1.0, 2.0]), None),
        (xr.DataArray([1.0, 2.0], attrs={"units": "nm"}), u.nm),
        (pd.Series([1.0, 2.0]), None),
        (np.array([1, 2]) * u.dex(u.cm / u.s**2), u.dex(u.cm / u.s**2)),
    ],
)
def test_numbers_with_their_unit(given, unit):
    found = numbers_of(given, "flux")
    np.testing.assert_array_equal(found.values, [1.0, 2.0])
    assert found.values.dtype == np.float64
    assert not found.mask.any()
    assert found.unit == unit


@pytest.mark.parametrize(
    "given",
    [["a", "b"], [[1.0], [1.0, 2.0]], np.array([1j]), {"a": 1}, object(), np.array(["2020"], "M8"),
     Column([1.0], unit="furlongs_of_old"), [1 * u.nm, 2 * u.K], [1 * u.nm, 3.0]],
)  # fmt: skip
def test_what_is_no_number(given):
    with pytest.raises(InvalidDataError, match="flux"):
        numbers_of(given, "flux")


@pytest.mark.parametrize(
    "given",
    [["a", "b"], (b"a ", b"b"), np.array(["a", "b"], dtype=object), np.array([b"a", b"b"]),
     pd.Series(["a", "b"]), pd.Index(["a", "b"]), Column(["a", "b"]), np.array(["a", "b"]),
     MaskedColumn(["a", "b"]), iter("ab")],
)  # fmt: skip
def test_names(given):
    names = names_of(given)
    assert names.tolist() == ["a", "b"]
    assert names.dtype.kind == "U"


def test_names_of_numbers_and_of_one_star():
    assert names_of(np.array([2, 10])).tolist() == ["2", "10"]
    assert names_of("2M1").tolist() == ["2M1"]
    assert names_of(np.array("2M1")).tolist() == ["2M1"]
    assert one_or_more("TEFF") == ("TEFF",)
    assert one_or_more(np.array(["TEFF", "LOGG"])) == ("TEFF", "LOGG")


@pytest.mark.parametrize(
    "given",
    [np.ma.array(["a", "b"], mask=[0, 1]), ["a", None], pd.Series(["a", pd.NA]), [["a"], ["b"]],
     {"a", "b"}, np.array([1.0, np.nan]), MaskedColumn([1, 2], mask=[False, True])],
)  # fmt: skip
def test_what_is_no_name(given):
    with pytest.raises(InvalidDataError, match="star_id"):
        names_of(given)


@pytest.mark.parametrize("given", [2, 2.0, np.int8(2), np.float32(2)])
def test_whole_numbers(given):
    found = whole_number(given, "n")
    assert found == 2
    assert type(found) is int


@pytest.mark.parametrize("given", ["2", 2.5, None, True, float("nan"), [2]])
def test_what_is_no_whole_number(given):
    with pytest.raises(InvalidDataError, match="n must be a whole number"):
        whole_number(given, "n")


# Choosing stars ----------------------------------------------------------------------------

SPECTRA = NormalizedSpectra(["a", "b", "c"], [1.0, 2.0], np.ones((3, 2)), np.ones((3, 2)))


@pytest.mark.parametrize(
    "given",
    [[0, 2], ["a", "c"], (b"a", b"c"), np.array(["a", "c"], dtype=object), pd.Series(["a", "c"]),
     [True, False, True], pd.Series([True, False, True]), np.array([True, False, True], object),
     np.array([0, -1]), np.uint8([0, 2]), slice(0, 3, 2), xr.DataArray([True, False, True]),
     np.ma.array([True, True, True], mask=[False, True, False])],
)  # fmt: skip
def test_stars_are_chosen_in_many_ways(given):
    assert SPECTRA.select(given).star_id.tolist() == ["a", "c"]


@pytest.mark.parametrize(
    "given", [[3], [-4], ["d"], [True, False], [0.5], [None], np.ma.array([0, 1], mask=[0, 1])]
)
def test_stars_that_cannot_be_chosen(given):
    with pytest.raises(InvalidDataError, match="star"):
        SPECTRA.select(given)


# Paths -------------------------------------------------------------------------------------


class _Path:
    def __fspath__(self):
        return "~/x.nc"


@pytest.mark.parametrize("given", ["~/x.nc", b"~/x.nc", Path("~/x.nc"), _Path()])
def test_the_home_folder_is_found(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path(given) == tmp_path / "x.nc"


@pytest.mark.parametrize("given", [None, 3, ["a"], "~nobody-of-this-name/x"])
def test_what_is_no_path(given):
    with pytest.raises(InvalidDataError, match=r"path must be|home"):
        user_path(given)


def test_endings_in_capitals():
    assert is_fits_name("a.FITS")
    assert is_fits_name("a.Fits.GZ")
    assert not is_fits_name("a.fits.txt")
    assert without_fits_ending("a.FITS.gz") == "a"
    assert without_fits_ending("a.b") == "a.b"


def test_training_sets_are_saved_in_the_home_folder(tmp_path, monkeypatch):
    from bayes_cannon.spectra.dataset import TrainingSet
    from bayes_cannon.spectra.labels import Labels

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    labels = Labels("TEFF", [4000.0, 4500.0, 5000.0], 50.0, SPECTRA.star_id)
    path = TrainingSet(SPECTRA, labels).save("~/x.nc")
    assert path == tmp_path / "x.nc"
    assert not os.path.exists("~")
    assert TrainingSet.load("~/x.nc").labels["TEFF"].tolist() == [4000, 4500, 5000]


def test_one_name_or_more():
    assert one_or_more("TEFF") == one_or_more(["TEFF"]) == one_or_more(np.array(["TEFF"]))
    assert one_or_more(17, ids=True) == one_or_more([17]) == ("17",)
    for odd in (17, 1.5, None, np.array("TEFF")):
        with pytest.raises(InvalidDataError, match="names must be text"):
            one_or_more(odd)


def test_masked_numbers_are_nan():
    column = MaskedColumn([1, 2], mask=[False, True])
    np.testing.assert_array_equal(plain_numbers(column), [1.0, np.nan])
    assert np.isnan(plain_numbers(np.ma.masked))
