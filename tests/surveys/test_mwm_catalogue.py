"""Catalogues of SDSS-V, surveys of its files, and what `prepare` makes of them."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.errors import (
    FileFormatError,
    InvalidDataError,
    LabelError,
    NoStarsError,
    SurveyError,
)
from bayes_cannon.surveys.mwm import columns
from bayes_cannon.surveys.mwm.catalogue import (
    FLAG_BAD_BITS,
    read_astra_catalogue,
    read_drp_allstar,
)
from bayes_cannon.surveys.mwm.survey import MWM
from tests.surveys.sdssv_files import (
    Star,
    astra_row,
    mwm_file,
    mwm_row,
    write_astra,
    write_dr17,
    write_drp,
    write_mwmstar,
    write_sdss5_apstar,
)

LABELS = ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE")


def some_stars(n: int, **given) -> list[Star]:
    return [
        Star(sdss_id=54392544 + k, apogee_id=f"2M0000{k:04d}+6025311", seed=k, **given)
        for k in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A survey of six stars: three of 1.3, two copies of DR17, one observed from both places."""
    stars = some_stars(6)
    rows = []
    for k, star in enumerate(stars):
        release = "dr17" if k in (3, 4) else "sdss5"
        if k < 5:
            write_mwmstar(tmp_path, star, release)
            rows.append(astra_row(star, release=release))
    both = stars[5]
    for telescope, snr in (("lco25m", 300.0), ("apo25m", 90.0)):
        rows.append(astra_row(both, telescope=telescope, snr=snr))
    apo, lco = (mwm_row(both, telescope=t, snr=s) for t, s in (("apo25m", 90.0), ("lco25m", 300.0)))
    mwm_file(tmp_path, both, [apo], [lco])
    write_astra(tmp_path, rows)
    return tmp_path


@pytest.mark.parametrize("gz", [False, True])
def test_labels_of_astra(tmp_path: Path, gz: bool, caplog) -> None:
    caplog.set_level(logging.INFO)
    path = write_astra(tmp_path, [astra_row(s) for s in some_stars(3)], gz=gz)
    found = read_astra_catalogue(path, (*LABELS, "M_H", "MG_H", "RAW_TEFF"))
    labels = found.labels((*LABELS, "MG_H", "RAW_TEFF"))
    np.testing.assert_allclose(labels["MG_FE"], -0.05 + 0.25, atol=1e-7)
    np.testing.assert_allclose(labels.error("MG_FE"), np.hypot(0.04, 0.03), rtol=1e-6)
    np.testing.assert_allclose(labels["RAW_TEFF"], 4650)
    np.testing.assert_allclose(labels.error("RAW_TEFF"), 3)
    assert (found.name, found.release, found.id_name) == ("ASPCAP DR19", "dr19", "SDSS_ID")
    assert found.star_id.tolist() == ["54392544", "54392545", "54392546"]
    assert found.table["APOGEE_ID"][1] == "2M00000001+6025311"
    assert found.table["GAIA_ID"][0] == "5860080419780127104"
    assert found.table.meta["DERIVED"] == "MG_FE = MG_H - FE_H; SI_FE = SI_H - FE_H"
    assert "MG_FE = MG_H - FE_H" in caplog.text
    assert "quadrature" in caplog.text
    assert "quadrature" in found.table["MG_FE"].description
    assert "FE_H" in labels.names
    assert found.table["TEFF"].unit == "K"


def test_values_that_are_no_measurements_are_missing(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    stars = some_stars(5)
    rows = [
        astra_row(stars[0], mg_h_flags=1 << 3),  # an upper limit
        astra_row(stars[1], mg_h_flags=1 << 9),  # near the edge: a warning
        astra_row(stars[2], fe_h_flags=1 << 8),
        astra_row(stars[3], si_h=-9999.0, e_teff=-1.0, teff=-10000.0),
        astra_row(stars[4], logg=np.nan),
    ]
    found = read_astra_catalogue(write_astra(tmp_path, rows), LABELS)
    missing = {name: np.isnan(found.labels(LABELS)[name]).tolist() for name in LABELS}
    assert missing["MG_FE"] == [True, False, True, False, False]
    assert missing["SI_FE"] == [False, False, True, True, False]
    assert missing["FE_H"] == [False, False, True, False, False]
    assert missing["TEFF"] == [False, False, False, True, False]
    assert missing["LOGG"] == [False, False, False, False, True]
    assert np.isnan(found.labels(["TEFF"]).error("TEFF")[3])
    assert found.table["MG_FE_FLAG"].tolist() == [8, 512, 256, 0, 0]
    assert "1 values of FE_H are upper limits" in caplog.text


def test_a_large_catalogue_goes_by_in_pieces(tmp_path: Path, monkeypatch) -> None:
    stars = some_stars(23)
    path = write_astra(tmp_path, [astra_row(s, teff=4000.0 + i) for i, s in enumerate(stars)])
    whole = read_astra_catalogue(path, ["TEFF"])
    monkeypatch.setattr(columns, "_CHUNK_BYTES", 12_000)  # four rows
    sizes = []
    read = np.frombuffer

    def watched(content, dtype, *args):
        sizes.append(len(content))
        return read(content, dtype, *args)

    monkeypatch.setattr(columns.np, "frombuffer", watched)
    some = read_astra_catalogue(path, ["TEFF"], sdss_ids={"54392546", "54392550", "7"})
    assert some.table["TEFF"].tolist() == [4002, 4006]
    assert sorted(sizes)[-2] < 15_000
    assert len(sizes) > 5
    assert len(whole) == 23


def test_damage_of_a_catalogue_is_told(tmp_path: Path) -> None:
    path = write_astra(tmp_path, [astra_row(s) for s in some_stars(5)])
    content = bytearray(path.read_bytes())
    content[-2880] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="DATASUM says"):
        read_astra_catalogue(path)
    with pytest.raises(FileFormatError, match=r"0 rows of APOGEE in 2.*give astraAllStarASPCAP"):
        read_astra_catalogue(write_astra(tmp_path, [], boss=2))
    with pytest.raises(LabelError, match=r"no label MG_XE; did you mean MG_H"):
        read_astra_catalogue(write_astra(tmp_path, [astra_row(Star())]), ["MG_XE"])


def test_a_table_of_boss_stars_is_passed_over(tmp_path: Path) -> None:
    found = read_astra_catalogue(write_astra(tmp_path, [astra_row(Star())], boss=3))
    assert found.star_id.tolist() == ["54392544"]


def test_another_version_of_astra_has_another_name(tmp_path: Path) -> None:
    found = read_astra_catalogue(write_astra(tmp_path, [astra_row(Star())], name="0.8.1"))
    assert (found.name, found.release) == ("ASPCAP ASTRA 0.8.1", "astra 0.8.1")


def test_a_survey_of_mwmstar_files(folder: Path) -> None:
    survey = bc.open_survey(folder)
    assert survey.reader is MWM
    assert len(survey) == 7
    assert survey.files[0].endswith("spectra/star/25/44/mwmStar-0.6.0-54392544.fits[apo25m]")
    assert survey.catalogue.star_id.tolist()[-2:] == [
        "lco25m/1.3/54392549", "apo25m/1.3/54392549"
    ]  # fmt: skip


def test_two_reductions_are_mixed_by_name_only(folder: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"several reductions \(1.3: 4, dr17: 2\)"):
        bc.prepare(folder)
    new = bc.prepare(folder, cuts=replace(MWM.cuts, reductions=("1.3",)))
    assert new.n_stars == 4
    assert new.settings["reduction"] == "1.3"
    removed = {step.name: step.removed for step in new.cut_steps if step.removed}
    assert removed == {"reduction": 2, "duplicate": 1}
    assert new.star_id[-1] == "apo25m/1.3/54392549"
    assert new.spectra.snr[-1] == 90
    old = bc.prepare(folder, cuts=replace(MWM.cuts, reductions="dr17"))
    assert old.n_stars == 2
    assert set(old.spectra.notes["REDUCTION"]) == {"dr17"}
    both = bc.prepare(folder, cuts=replace(MWM.cuts, reductions=("dr17", "1.3")))
    assert both.n_stars == 6
    assert both.settings["reduction"] == "1.3+dr17"
    with pytest.raises(NoStarsError, match="reduction removed 7"):
        bc.prepare(folder, cuts=replace(MWM.cuts, reductions=("1.4",)))


def test_what_a_training_set_keeps(folder: Path, tmp_path: Path) -> None:
    made = bc.prepare(folder, cuts=replace(MWM.cuts, reductions=("1.3",)))
    assert made.id_name == "SDSS_ID"
    assert made.catalogue == "ASPCAP_DR19"
    assert made.settings["reader"] == "mwm"
    assert made.settings["release"] == "dr19"
    assert made.settings["derived_labels"].startswith("MG_FE = MG_H - FE_H")
    assert made.info["apogee_id"][0] == made.spectra.notes["APOGEE_ID"][0] == "2M00000000+6025311"
    assert made.spectra.notes["GAIA_ID"][0] == "5860080419780127104"
    made.save(tmp_path / "set.nc")
    same = bc.TrainingSet.load(tmp_path / "set.nc")
    assert {n: c.tolist() for n, c in same.spectra.notes.items()} == {
        n: c.tolist() for n, c in made.spectra.notes.items()
    }
    assert same.select([1]).spectra.notes["APOGEE_ID"].tolist() == ["2M00000001+6025311"]
    spectra, _ = bc.prepare_spectra([folder / f for f in ("x.fits",)] + [
        path.removesuffix("[apo25m]") for path in bc.open_survey(folder).files[:2]
    ], like=made)  # fmt: skip
    np.testing.assert_array_equal(spectra.flux, made.spectra.flux[:2])
    assert spectra.star_id.tolist() == ["54392544", "54392545"]


def test_astras_flags_cut(tmp_path: Path) -> None:
    stars = some_stars(5)
    rows = [
        astra_row(stars[0]),
        astra_row(stars[1], result_flags=1 << 21),
        astra_row(stars[2], result_flags=1 << 5),  # a warning
        astra_row(stars[3], flag_bad=True),
        astra_row(stars[4], spectrum_flags=1 << 18),
    ]
    for star in stars:
        write_mwmstar(tmp_path, star)
    write_astra(tmp_path, rows)
    made = bc.prepare(tmp_path)
    assert made.star_id.tolist() == ["54392544", "54392546"]
    removed = {step.name: step.removed for step in made.cut_steps if step.removed}
    assert removed == {"result": 1, "flag_bad": 1, "star": 1}
    assert FLAG_BAD_BITS == (0, 1, 2, 3, 4, 6, 8, 21, 22, 23, 24, 25, 26, 27)


def test_a_file_of_another_reduction_than_its_row_is_left_out(tmp_path: Path) -> None:
    stars = some_stars(3)
    for k, star in enumerate(stars):
        write_mwmstar(tmp_path, star, "dr17" if k == 1 else "sdss5")
    write_astra(tmp_path, [astra_row(s) for s in stars])
    made = bc.prepare(tmp_path)
    assert made.star_id.tolist() == ["54392544", "54392546"]
    (problem,) = made.problems
    assert "of the reduction dr17, the catalogue's row of 1.3" in problem.message


def test_rows_of_other_stars_in_a_large_catalogue_are_not_kept(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("bayes_cannon.surveys.mwm.survey._WHOLE", 5)
    (folder / "spectra/star/25/44/mwmStar-0.6.0-54392544.fits").unlink()
    survey = bc.open_survey(folder)
    assert len(survey) == 6
    assert "54392544" not in survey.catalogue.star_id


def test_what_a_folder_lacks_is_told(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    write_astra(empty, [astra_row(Star())])
    with pytest.raises(SurveyError, match=r"mwm: it has no mwmStar-\*.fits files"):
        bc.open_survey(empty)
    write_mwmstar(empty, Star(sdss_id=7))
    with pytest.raises(SurveyError, match=r"none of the spectra in .* belongs to one of the 1 row"):
        bc.open_survey(empty)
    write_astra(folder, [astra_row(Star())], name="0.8.1")
    with pytest.raises(SurveyError, match=r"has several catalogues .* not mixed; leave one"):
        bc.open_survey(folder)


@pytest.mark.parametrize("uri_only", [False, True])
def test_a_survey_of_apstar_files_with_labels_of_astra(tmp_path: Path, uri_only: bool) -> None:
    stars = some_stars(3)
    for star in stars:
        write_sdss5_apstar(tmp_path, star)
    write_drp(tmp_path, stars, uri_only=uri_only)
    alone = bc.open_survey(tmp_path, "RV_TEFF")
    assert alone.reader.name == "sdss5-apstar"
    assert alone.catalogue.name == "APOGEE DRP"
    assert alone.catalogue.labels(["RV_TEFF"]).error("RV_TEFF").tolist() == [20.0] * 3
    with pytest.raises(LabelError, match=r"no labels of ASPCAP.*astraAllStarASPCAP beside it"):
        bc.open_survey(tmp_path)
    rows = [astra_row(s, teff=4500.0 + k) for k, s in enumerate(stars[:2])]
    rows.append(astra_row(stars[2], release="dr17"))  # labels of another reduction
    write_astra(tmp_path, rows)
    made = bc.prepare(tmp_path)
    assert made.labels["TEFF"].tolist() == [4500, 4501]
    assert made.catalogue == "ASPCAP_DR19"
    assert made.star_id.tolist() == ["54392544", "54392545"]
    assert made.spectra.notes["APOGEE_ID"][1] == "2M00000001+6025311"
    assert made.settings["reduction"] == "1.3"


def test_the_drp_list_alone(tmp_path: Path) -> None:
    found = read_drp_allstar(write_drp(tmp_path, some_stars(2)))
    assert found.table["STARFLAG"].tolist() == [4, 4]
    assert found.table["FILE"][0] == "apStar-1.3-apo25m-2M00000000+6025311-59830.fits"


def test_the_list_of_sdss5_is_no_catalogue_of_dr17(tmp_path: Path) -> None:
    write_drp(tmp_path, some_stars(1))
    with pytest.raises(SurveyError, match="apogee: it has no catalogue"):
        bc.open_survey(tmp_path)


def test_spectra_of_dr17_and_dr19_under_dr17_labels_are_not_mixed(tmp_path: Path) -> None:
    """A 1.3 spectrum in the folder of a DR17 field is not trained on with DR17's labels."""
    from tests.surveys.test_survey import write_catalogue

    stars = [Star(apogee_id=f"2M0000{k:04d}+6025311", seed=k) for k in range(2)]
    write_dr17(tmp_path, stars[0])
    new = write_sdss5_apstar(tmp_path / "elsewhere", stars[1])
    new.rename(tmp_path / "apo25m/M15" / f"apStar-1.3-apo25m-{stars[1].apogee_id}.fits")
    write_catalogue(tmp_path, [("apo25m", "M15", s.apogee_id) for s in stars])
    made = bc.prepare(tmp_path, label_names="TEFF", cuts=replace(MWM.cuts, snr_min=None))
    assert made.n_stars == 1
    assert "of the reduction 1.3, the catalogue's row of dr17" in made.problems[0].message


def test_datasets_of_every_layout_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    from tests.surveys.test_survey import write_catalogue

    stars = [*some_stars(2), Star(sdss_id=7, apogee_id="2M3", telescope="lco25m", seed=9)]
    folders = {name: tmp_path / name for name in ("dr17", "copy", "mwm", "apstar")}
    for star in stars:
        write_dr17(folders["dr17"], star)
        write_mwmstar(folders["copy"], star, "dr17")
        write_mwmstar(folders["mwm"], star)
        write_sdss5_apstar(folders["apstar"], star)
    write_catalogue(folders["dr17"], [(s.telescope, "M15", s.apogee_id) for s in stars])
    write_astra(folders["copy"], [astra_row(s, release="dr17") for s in stars], gz=True)
    for name in ("mwm", "apstar"):
        write_astra(folders[name], [astra_row(s) for s in stars])
    write_drp(folders["apstar"], stars)
    no_cuts = bc.surveys.Cuts(
        snr_min=None, logg_max=None, teff_max=None, feh_min=None, drop_duplicates=False
    )
    made = {name: bc.prepare(folder, cuts=no_cuts) for name, folder in folders.items()}
    assert [made[n].settings["reduction"] for n in folders] == ["dr17", "dr17", "1.3", "1.3"]
    first = made.pop("dr17")
    for name, other in made.items():
        assert other.spectra.notes["APOGEE_ID"].tolist() == first.star_id.tolist(), name
        for values in ("flux", "ivar", "snr", "wavelength"):
            own, theirs = (getattr(d.spectra, values) for d in (first, other))
            np.testing.assert_array_equal(own, theirs, err_msg=f"{values} of {name}")
        assert other.star_id.tolist() == ["54392544", "54392545", "7"]


def test_labels_of_two_catalogues_are_mixed_by_name_only(tmp_path: Path) -> None:
    from tests.surveys.test_survey import write_catalogue

    stars = some_stars(2)
    for star, apred in zip(stars, ("r12", "dr17"), strict=True):
        path = write_dr17(tmp_path, star)
        path.rename(path.with_name(path.name.replace("dr17", apred)))
        name = "allStar-r12-l33.fits" if apred == "r12" else "allStar-dr17-synspec_rev1.fits"
        write_catalogue(tmp_path, [("apo25m", "M15", star.apogee_id)], name)
    given = {"logg_max": None, "teff_max": None, "feh_min": None}
    with pytest.raises(InvalidDataError, match=r"several reductions \(dr17: 1, r12: 1\)"):
        bc.prepare(tmp_path, cuts=bc.surveys.Cuts(**given))
    one = bc.prepare(tmp_path, cuts=bc.surveys.Cuts(**given, reductions=("r12",)))
    assert one.star_id.tolist() == ["2M00000000+6025311"]
    both = bc.prepare(tmp_path, cuts=bc.surveys.Cuts(**given, reductions=("r12", "dr17")))
    assert both.settings["reduction"] == "dr17+r12"
    assert sorted(both.info["release"].tolist()) == ["dr16", "dr17"]
    with pytest.raises(InvalidDataError, match="reductions must be names"):
        bc.surveys.Cuts(reductions=(17,))


def test_the_command_takes_reductions(folder: Path, tmp_path: Path) -> None:
    from bayes_cannon.cli.surveys import prepare

    prepare(folder, tmp_path / "new.nc", reduction=["1.3"])
    assert bc.TrainingSet.load(tmp_path / "new.nc").settings["reduction"] == "1.3"


def test_labels_with_names_of_their_own(tmp_path: Path) -> None:
    row = astra_row(
        Star(), c_12_13=12.0, e_c_12_13=2.0, c_12_13_flags=0, irfm_teff=4710.0,
        irfm_teff_flags=1 << 2, v_micro=1.5, e_v_micro=0.1, ti_2_h=0.1, e_ti_2_h=0.05,
        ti_2_h_flags=0,
    )  # fmt: skip
    path = write_astra(tmp_path, [row])
    found = read_astra_catalogue(path, ["C12_C13", "IRFM_TEFF", "VMICRO", "TIII_FE", "M_H"])
    got = found.labels(["C12_C13", "IRFM_TEFF", "VMICRO", "TIII_FE", "M_H"]).values[0]
    np.testing.assert_allclose(got, [12.0, 4710.0, 1.5, 0.35, -0.2], rtol=1e-6)
    assert np.isnan(found.labels(["IRFM_TEFF"]).error("IRFM_TEFF")[0])
