"""Tables 1 and 2 beside what others published, and the story of a single star."""

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.tables import PUBLISHED, mystery_story, scatter_table, star_table
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.spectra.labels import Labels
from tests.comparison_problem import (
    ASPCAP,
    CALIBRATED,
    FORMAL,
    NAMES,
    make_catalogue,
    make_labels,
    make_means,
    make_result,
)

TRUTH = make_labels(40)
THEIRS = make_catalogue(TRUTH)
RESULT = make_result(TRUTH)
STAR = "2S00003"


def test_table_of_one_star() -> None:
    assert star_table(RESULT, STAR, aspcap=THEIRS).colnames[-1] == "PULL", "nobody's unless asked"
    table = star_table(RESULT, STAR, aspcap=THEIRS, published=PUBLISHED)
    assert list(table["LABEL"]) == list(NAMES)
    assert list(table["UNIT"]) == ["K", "dex", "dex"]
    means = make_means(TRUTH)[3]
    np.testing.assert_allclose(table["OURS"], means)
    np.testing.assert_allclose(table["ERR"], CALIBRATED)
    np.testing.assert_allclose(table["FORMAL_ERR"], FORMAL)
    np.testing.assert_allclose(table["ASPCAP"], THEIRS.values[3])
    np.testing.assert_allclose(
        table["PULL"], (means - THEIRS.values[3]) / np.hypot(CALIBRATED, ASPCAP)
    )
    assert list(table["FORMAL: Ness et al. 2015"]) == [5.6, 0.01, 0.006]
    assert "ApJ 808, 16" in table["FORMAL: Ness et al. 2015"].description
    assert table.meta["STAR"] == STAR
    assert table.meta["SIMULATE"] is True
    assert "SIMULATED" in table.meta["comments"][0]


def test_table_of_one_star_from_a_catalogue_and_without_one() -> None:
    table = catalogue(RESULT, aspcap=THEIRS)
    np.testing.assert_allclose(star_table(table, STAR)["ASPCAP"], THEIRS.values[3])
    shifted = Labels(NAMES, THEIRS.values + 1, ASPCAP, TRUTH.star_id)
    np.testing.assert_allclose(star_table(table, STAR, aspcap=shifted)["ASPCAP"],
                               THEIRS.values[3] + 1)  # fmt: skip
    alone = star_table(make_result(TRUTH.select([3]), calibrated=False))
    assert np.isnan(alone["ASPCAP"]).all()
    assert np.isnan(alone["ERR"]).all()
    formal = star_table(make_result(TRUTH, calibrated=False), STAR, aspcap=THEIRS)
    np.testing.assert_allclose(formal["PULL"], formal["DIFFERENCE"] / np.hypot(FORMAL, ASPCAP))
    with pytest.raises(InvalidDataError, match="no star 'nobody' among 40"):
        star_table(RESULT, "nobody")
    with pytest.raises(InvalidDataError, match="40 stars; name one with star="):
        star_table(RESULT)


def test_table_of_scatter_has_the_reports_numbers_beside_ours() -> None:
    table = scatter_table(RESULT, THEIRS, published=PUBLISHED)
    off = make_means(TRUTH) - THEIRS.values
    np.testing.assert_allclose(table["RMS"], np.sqrt(np.mean(off**2, axis=0)))
    assert list(table["Ness et al. 2015"]) == [95.0, 0.24, 0.08]
    assert "DR10" in table["Ness et al. 2015"].description
    assert set(table.meta["SOURCES"]) == {"Ness et al. 2015"}
    np.testing.assert_allclose(table["ERR"], CALIBRATED)
    assert scatter_table(RESULT, THEIRS).colnames[-1] == "ERR"
    with pytest.raises(InvalidDataError, match="share no star"):
        scatter_table(RESULT, Labels(NAMES, [[1.0, 1, 1]], ASPCAP, ["X"]))


def test_story_of_formal_and_calibrated() -> None:
    story = mystery_story(RESULT, STAR)
    np.testing.assert_allclose(story.table["RATIO"], 3)
    assert story.text.startswith(f"{STAR} (SIMULATED): TEFF ")
    mean = make_means(TRUTH)[3, 0]
    assert f"TEFF {mean:.0f} ± 30 K, formal ± 10;" in story.text
    assert "calibrated errors are 3.0 times the formal ones" in story.text
    assert "No flag is set." in story.text
    assert len(story.flags) == 0
    assert str(story) == story.text
    assert story.simulated
    assert bc.mystery_story(catalogue(RESULT), STAR).text == story.text


def test_story_tells_flags_in_words() -> None:
    flags = int(LabelFlag.POOR_CHI2 | LabelFlag.RHAT)
    story = mystery_story(make_result(TRUTH.select([0]), flags=flags))
    assert list(story.flags["FLAG"]) == ["RHAT", "POOR_CHI2"]
    assert "POOR_CHI2 (fitted worse than 99 % of left-out training stars" in story.text
    assert "unlike those that the model was trained on" in story.text
    only = mystery_story(make_result(TRUTH.select([0]), flags=int(LabelFlag.RHAT)))
    assert "unlike" not in only.text


def test_story_without_a_calibrated_posterior_or_any() -> None:
    formal = mystery_story(make_result(TRUTH, calibrated=False), STAR)
    assert "the model error was not measured" in formal.text
    assert "± 10 K" in formal.text
    assert np.isnan(formal.table["ERR"]).all()
    result = make_result(TRUTH.select([0]), flags=int(LabelFlag.NO_PIXELS))
    for group in ("posterior", "calibrated_posterior"):
        for name in NAMES:
            result[group][name][:] = np.nan
    story = mystery_story(result)
    assert story.text.startswith("2S00000 (SIMULATED) has no posterior.")
    assert "NO_PIXELS (too few usable pixels: no posterior)" in story.text
    with pytest.raises(InvalidDataError, match="name one with star="):
        mystery_story(RESULT)
