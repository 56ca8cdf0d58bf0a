"""Results as DataFrames, taken back where a table is, and as a few lines in a terminal."""

import numpy as np
import pandas as pd
import pytest

import bayes_cannon as bc
from bayes_cannon.analysis.isochrones import packaged_isochrones
from bayes_cannon.analysis.sbc.ranks import Ranks
from bayes_cannon.analysis.sequences import LabelSequence
from tests.comparison_problem import ASPCAP, NAMES, make_catalogue, make_labels, make_result

TRUTH = make_labels(40)
THEIRS = make_catalogue(TRUTH)
RESULT = make_result(TRUTH)


@pytest.fixture(scope="module")
def table():
    return bc.catalogue(RESULT, aspcap=THEIRS)


def test_a_catalogue_is_a_frame_and_a_frame_a_catalogue(table):
    frame = table.to_pandas()
    assert frame.index.name == "APOGEE_ID"
    assert frame.index.tolist() == TRUTH.star_id.tolist()
    assert "LABEL_COV" not in frame
    np.testing.assert_array_equal(frame["TEFF"], table["TEFF"])
    for given in (frame, frame.reset_index()):
        np.testing.assert_array_equal(
            bc.comparison(given, THEIRS)["RMS"], bc.comparison(table, THEIRS)["RMS"]
        )
        assert bc.star_table(given, "2S00003")["OURS"][0] == table["TEFF"][3]
    found, whole = bc.aspcap_comparison(frame), bc.aspcap_comparison(table)
    np.testing.assert_array_equal(found.pull(), whole.pull())
    # The draws of these stars are uncorrelated: variances are all that there is.
    np.testing.assert_allclose(found.stars["CHI2"], whole.stars["CHI2"], rtol=1e-6)
    part = table[:3]
    assert len(part.to_pandas()) == 3


def test_a_reference_may_be_a_frame(table):
    frame = THEIRS.to_pandas()
    np.testing.assert_array_equal(
        bc.comparison(table, frame)["RMS"], bc.comparison(table, THEIRS)["RMS"]
    )
    found = bc.analysis.check_calibration(RESULT, {"catalogue": frame})
    again = bc.analysis.check_calibration(RESULT, {"catalogue": THEIRS})
    pd.testing.assert_frame_equal(found.to_pandas(), again.to_pandas())


def test_frames_of_comparison_and_scores(table):
    compared = bc.aspcap_comparison(table)
    frame = compared.to_pandas()
    assert frame.index.name == "APOGEE_ID"
    assert {"TEFF", "TEFF_ERR", "TEFF_ASPCAP", "TEFF_ASPCAP_ERR", "TEFF_PULL"} <= set(frame)
    np.testing.assert_allclose(frame["TEFF_ASPCAP_ERR"], ASPCAP[0])
    found = bc.analysis.score(RESULT, TRUTH)
    np.testing.assert_array_equal(found.to_pandas()["LOGG_PIT"], found.pit[:, 1])
    coverage = bc.analysis.check_calibration(RESULT, {"truth": TRUTH})
    assert len(coverage.to_pandas()) == 2 * len(NAMES)
    story = bc.mystery_story(table, "2S00003")
    assert story.to_pandas().loc["TEFF", "MEAN"] == pytest.approx(table["TEFF"][3])


def test_frames_of_sequences_isochrones_and_ranks():
    steps = LabelSequence("s", ("TEFF", "FE_H"), ("FE_H",), np.array([[4500.0, -1], [4500, 0]]),
                          np.array([True, False]))  # fmt: skip
    assert steps.to_pandas()["FE_H"].tolist() == [-1, 0]
    assert steps.to_pandas()["OUTSIDE"].tolist() == [True, False]
    assert "1 of 2 outside the training labels" in repr(steps)
    isochrones = packaged_isochrones()
    frame = isochrones.to_pandas()
    assert frame.groupby("feh").ngroups == len(isochrones)
    assert "MIST" in repr(isochrones)
    ranks = Ranks(("a", "b"), np.array([[1, 2], [3, 4]]), 99, np.array([0.5, np.nan]))
    assert ranks.to_pandas()["b"].tolist() == [2, 4]
    assert "a 0.50" in repr(ranks)


def test_cards_say_what_was_found_in_a_few_lines(table):
    objects = {
        "40 stars compared with ASPCAP (SIMULATED)": bc.aspcap_comparison(table),
        "Check of calibrated posteriors (SIMULATED)": bc.analysis.check_calibration(
            RESULT, {"truth": TRUTH}
        ),
        "Scores of 40 stars": bc.analysis.score(RESULT, TRUTH),
        "2S00003 (SIMULATED)": bc.mystery_story(table, "2S00003"),
    }
    for title, one in objects.items():
        lines = repr(one).splitlines()
        assert lines[0] == title
        assert 2 <= len(lines) <= 8
        assert "<table>" in one._repr_html_()
