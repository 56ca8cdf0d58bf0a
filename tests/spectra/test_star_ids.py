"""Names of stars: their column, and the rows of stars among others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.star_ids import check_id_name, id_column, row_of, rows_of

NAMES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=8)


@given(NAMES, NAMES)
def test_rows_of_stars(known, wanted):
    expected = [known.index(name) if name in known else -1 for name in wanted]
    assert rows_of(np.array(known, dtype=np.str_), wanted).tolist() == expected


def test_row_of_a_star():
    assert row_of(np.array(["b", "a"]), "a") == 1
    with pytest.raises(InvalidDataError, match=r"no star 'x' among 4 \(a, b, c, …\)"):
        row_of(np.array(["a", "b", "c", "d"]), "x")


def test_the_column_of_names():
    assert id_column(["TEFF"]) is None
    assert id_column(["star_id", "APOGEE_ID"]) == "APOGEE_ID"
    assert id_column(["tic", "STAR_ID"], {"ID": "TIC"}) == "tic"
    assert id_column(["STAR_ID"], {"ID": "TIC"}) == "STAR_ID"
    assert check_id_name("sdss_id") == "SDSS_ID"
