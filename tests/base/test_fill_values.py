"""Fill values of catalogues: which numbers stand for 'no value', and which do not."""

import logging

import numpy as np
import pytest

from bayes_cannon.base.columns import known_values
from bayes_cannon.errors import LabelError
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.labels import Labels


@pytest.mark.parametrize(
    ("name", "fill", "real"),
    [
        ("TEFF", [-9999.0, -9999.99, -999.0, -99.99, 0.0, -1.0, 9999.0, 99.99], [3000.0, 9998.0]),
        ("LOGG", [-9999.0, -9.99, 9.99, 99.0, 999.0, 1e20, -1e4], [-0.5, 9.5, 5.0, 9.0]),
        ("FE_H", [-9999.0, -9.99, -99.9, -99.0, 99.0, 9999.0], [-7.0, 0.0, 0.99, -0.999]),
        ("ALPHA_M", [-9999.0, -9.999], [0.2]),
        ("AGE", [-9999.0, -999.0, -99.9, 9999.0, 99999.0], [13.8, 99.0, 999.0, 0.0, -1.0]),
        ("ENERGY", [-9999.0, -99999.0], [-153000.0, -10000.0]),
    ],
)
def test_fill_values_of_labels(name, fill, real):
    assert label_kind(name).is_fill(fill).all()
    assert label_kind(name).is_fill(np.float32(fill)).all(), "as read from a float32 column"
    assert not label_kind(name).is_fill([*real, np.nan]).any()


def test_values_of_the_archive():
    np.testing.assert_array_equal(known_values([-9999.99, 4500.0, np.inf]), [np.nan, 4500, np.nan])
    np.testing.assert_array_equal(known_values([-9999.0, 0.0, 2.0], positive=True)[:2], np.nan)


def test_labels_take_fill_values_as_unknown_and_say_so(caplog):
    with caplog.at_level(logging.WARNING):
        labels = Labels(
            ("TEFF", "FE_H"),
            [[4500.0, -9999.0], [-9999.0, -0.5], [4700.0, -9.99]],
            [[50.0, 0.1], [50.0, -9999.0], [60.0, 0.1]],
            ["a", "b", "c"],
        )
    np.testing.assert_array_equal(labels.values, [[4500, np.nan], [np.nan, -0.5], [4700, np.nan]])
    np.testing.assert_array_equal(labels.errors, [[50, 0.1], [50, np.nan], [60, 0.1]])
    assert "3 label values of 3 stars (a, b, c) are fill values" in caplog.text
    assert "1 label errors of 1 stars (b) are fill values" in caplog.text


@pytest.mark.parametrize(
    "names",
    [("star",), ("TEFF", "Draw"), ("chain",), ("TEFF", "teff"), ("TEFF", "TEFF_ERR"), ("pixel",),
     ("TEFF", "TEFF_ASPCAP"), ()],
)  # fmt: skip
def test_names_that_labels_cannot_have(names):
    with pytest.raises(LabelError, match=r"cannot be|once each"):
        Labels(names, np.ones((2, len(names))), np.nan, ["a", "b"])
