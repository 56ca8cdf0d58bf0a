"""Names of stars: their column, and the rows of stars among others."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import (
    check_id_name,
    id_column,
    near_names,
    refuse_unnamed,
    row_of,
    rows_of,
)
from bayes_cannon.surveys.apogee.survey import APOGEE
from bayes_cannon.surveys.catalogue import Catalogue
from bayes_cannon.surveys.survey import Survey, survey_of

NAMES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=8)


@given(NAMES, NAMES)
def test_rows_of_stars(known, wanted):
    expected = [known.index(name) if name in known else -1 for name in wanted]
    assert rows_of(np.array(known, dtype=np.str_), wanted).tolist() == expected


def test_row_of_a_star():
    assert row_of(np.array(["b", "a"]), "a") == 1
    with pytest.raises(InvalidDataError, match=r"no star 'x' among 4 \(a, b, c, …\)"):
        row_of(np.array(["a", "b", "c", "d"]), "x")


def test_an_unknown_star_is_answered_with_those_near():
    with pytest.raises(InvalidDataError, match=r"; did you mean 2M0351\+10\?"):
        row_of(np.array(["2M0351+10", "2M9999-99"]), "2m0350+10")
    assert near_names("x", ["2M0351+10"]) == ""


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\ta", "a\x07b"])
def test_names_that_are_none_are_refused_with_their_row(name):
    ids = np.array(["2M1", name, "HD 122563"])
    with pytest.raises(InvalidDataError, match=r"1 of 3 star ids are empty or have .* in row 1"):
        refuse_unnamed(ids)
    flux = np.ones((3, 4))
    with pytest.raises(InvalidDataError, match="empty or have line breaks"):
        NormalizedSpectra(ids, np.arange(4.0) + 15100, flux, flux)
    refuse_unnamed(ids[::2])
    refuse_unnamed(np.array([], dtype=np.str_))
    catalogue = Catalogue(Table({"APOGEE_ID": ids}))
    if name.strip():
        with pytest.raises(InvalidDataError, match="in row 1"):
            Survey(Path(), catalogue, np.array(["", "", ""]))
    with pytest.raises(InvalidDataError, match="empty or have line breaks"):
        survey_of(APOGEE, Path(), Table({"APOGEE_ID": ids}), (), ["a", "b", "c"])


def test_the_column_of_names():
    assert id_column(["TEFF"]) is None
    assert id_column(["star_id", "APOGEE_ID"]) == "APOGEE_ID"
    assert id_column(["tic", "STAR_ID"], {"ID": "TIC"}) == "tic"
    assert id_column(["STAR_ID"], {"ID": "TIC"}) == "STAR_ID"
    assert check_id_name("sdss_id") == "SDSS_ID"
