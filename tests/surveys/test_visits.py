"""Spectra of the visits to the stars of a survey."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.errors import InvalidDataError, NoStarsError, SurveyError
from bayes_cannon.surveys.apogee.apstar import read_apstar, read_visits
from bayes_cannon.surveys.apogee.survey import APOGEE
from bayes_cannon.surveys.preparing import prepare
from bayes_cannon.surveys.readers import SurveyReader
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.surveys.survey import open_survey
from bayes_cannon.surveys.visits import visit_spectra

SETTINGS = SimulationSettings(decoys_per_cut=1, visit_shares=(0.4, 0.3, 0.3))


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return simulate_survey(
        tmp_path_factory.mktemp("visits") / "survey", n_stars=12, seed=3, settings=SETTINGS
    )


@pytest.fixture(scope="module")
def stars(survey):
    return prepare(survey)


def test_every_visit_of_stars_with_several_is_there(survey, stars):
    found = visit_spectra(survey, like=stars)
    many = {s for s, n in zip(stars.star_id, stars.info["nvisits"], strict=True) if n > 1}
    table = found.table
    # The decoy that lacks a label passes: repeats need no labels of the catalogue.
    assert many <= set(table["STAR"])
    assert set(table["STAR"]) - set(stars.star_id) <= set(open_survey(survey).catalogue.star_id)
    assert not found.problems
    for star in many:
        rows = table[table["STAR"] == star]
        assert rows["VISIT"].tolist() == list(range(1, len(rows) + 1))
        assert rows["APOGEE_ID"].tolist() == [f"{star}/visit-{v}" for v in rows["VISIT"]]
        assert np.all(np.diff(rows["MJD"]) > 0)
    assert table["APOGEE_ID"].tolist() == found.spectra.star_id.tolist()
    np.testing.assert_array_equal(table["SNR"], found.spectra.snr)
    assert found.spectra.simulated
    assert table.meta["SIMULATE"]
    assert found.n_single + len(set(table["STAR"])) == len(open_survey(survey)) - found.n_cut


def test_visits_have_noise_of_their_own_and_the_sn_they_say(survey, stars):
    """chi-square of the difference of two visits is that of their errors, within 25 %."""
    found = visit_spectra(survey, like=stars)
    spectra = found.spectra
    same = np.flatnonzero(found.table["STAR"][1:] == found.table["STAR"][:-1])
    chi2 = []
    for i in same:
        good = (spectra.ivar[i] > 0) & (spectra.ivar[i + 1] > 0)
        pull = (spectra.flux[i] - spectra.flux[i + 1])[good]
        pull /= np.sqrt(1 / spectra.ivar[i, good] + 1 / spectra.ivar[i + 1, good])
        chi2.append(np.median(pull**2) / 0.455)
    assert 0.8 < np.median(chi2) < 1.25
    snr = np.nanmedian(np.where(spectra.ivar > 0, np.sqrt(spectra.ivar), np.nan), axis=1)
    np.testing.assert_allclose(snr, found.table["SNR"], rtol=0.15)


def test_velocity_sky_and_bad_pixels_differ_from_visit_to_visit(survey, stars):
    found = visit_spectra(survey, like=stars)
    opened = open_survey(survey)
    files = dict(zip(opened.catalogue.star_id, opened.files, strict=True))
    star = found.table["STAR"][0]
    one, two = (read_apstar(files[star], visit=v) for v in (1, 2))
    assert one.vhelio != two.vhelio
    assert len(read_visits(files[star])) >= 2
    bad = [~(v.ivar > 0) & ~v.gap for v in (one, two)]
    assert np.sum(bad[0] != bad[1]) > 20


def test_stars_can_be_left_out(survey, stars):
    every = visit_spectra(survey, like=stars)
    some = set(every.table["STAR"][:3])
    rest = visit_spectra(survey, like=stars, without=some)
    assert set(rest.table["STAR"]) == set(every.table["STAR"]) - some
    three = visit_spectra(survey, like=stars.settings, min_visits=3)
    counts = np.unique(three.table["STAR"], return_counts=True)[1]
    assert (counts >= 3).all()


def test_what_is_wrong_is_told(survey, stars, tmp_path):
    with pytest.raises(NoStarsError, match="visited 9 times"):
        visit_spectra(survey, like=stars, min_visits=9)
    with pytest.raises(InvalidDataError, match="how its stars were chosen"):
        visit_spectra(survey, like={k: v for k, v in stars.settings.items() if k != "cuts"})
    opened = open_survey(survey)

    class Other(type(APOGEE)):
        name = "other"

    with pytest.raises(SurveyError, match="trained on one of apogee"):
        visit_spectra(replace(opened, reader=Other()), like=stars)
    copy = tmp_path / "copy"
    shutil.copytree(survey, copy)
    first = visit_spectra(survey, like=stars).table["STAR"][0]
    next(copy.rglob(f"*{first}*.fits")).write_bytes(b"no FITS")
    found = visit_spectra(copy, like=stars)
    assert [p.star_id for p in found.problems] == [first]
    assert first not in found.table["STAR"]


def test_readers_without_visits_have_none(tmp_path):
    assert SurveyReader.visits(APOGEE, tmp_path / "a.fits") == ()
