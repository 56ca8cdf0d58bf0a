"""Simulated surveys and spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.errors import InvalidDataError, OutputExistsError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee.apstar import read_apstar, read_spectra
from bayes_cannon.surveys.simulation.catalogue import label_error
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.simulation.stars import DECOY_REASONS, SimulationSettings, draw_survey
from bayes_cannon.surveys.simulation.telescope import DETECTORS, KMS_PER_PIXEL

N_STARS = 30
SETTINGS = SimulationSettings(decoys_per_cut=1)
BAD_BITS = 0x40FF
LAB_BITS = 4351


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "survey"
    return simulate_survey(out, n_stars=N_STARS, seed=3, settings=SETTINGS)


@pytest.fixture(scope="session")
def truth(survey: Path) -> Table:
    return Table.read(survey / "truth.ecsv")


@pytest.fixture(scope="session")
def catalogue(survey: Path) -> Table:
    return Table.read(survey / "allStar-dr17-simulated.fits", hdu=1, mask_invalid=False)


def spectra_files(survey: Path) -> list[Path]:
    return sorted(survey.glob("*/*/*Star-dr17-*.fits"))


def rows(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with fits.open(path) as hdus:
        return tuple(hdus[k].data.astype(t) for k, t in ((1, float), (2, float), (3, np.int64)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The survey as a directory ----------------------------------------------------------------


def test_every_catalogue_row_has_its_file_and_every_file_its_row(
    survey: Path, catalogue: Table
) -> None:
    named = {
        survey / row["TELESCOPE"] / row["FIELD"] / row["FILE"].strip() for row in catalogue
    }  # the archive's layout
    assert named == set(spectra_files(survey))
    assert len(catalogue) == len(named) == N_STARS + len(DECOY_REASONS)


def test_lco_stars_are_asstar_files_in_one_field(survey: Path) -> None:
    lco = [p for p in spectra_files(survey) if p.parts[-3] == "lco25m"]
    assert lco
    assert {p.parent.name for p in lco} == {"M15"}
    assert all(p.name.startswith("asStar-") for p in lco)
    assert all(p.name.startswith("apStar-") for p in spectra_files(survey) if p not in lco)


def test_fields_are_the_four_real_names(catalogue: Table) -> None:
    assert set(catalogue["FIELD"]) == {"M15", "N6791", "K2_C4_168-21", "060+00"}


def test_mystery_star_is_apart(survey: Path, truth: Table, catalogue: Table) -> None:
    (path,) = (survey / "mystery").iterdir()
    (row,) = truth[truth["KIND"] == "mystery"]
    assert path.name == f"apStar-dr17-{row['APOGEE_ID']}.fits"
    assert row["APOGEE_ID"] not in set(catalogue["APOGEE_ID"])
    assert row["LIBRARY_INDEX"] not in set(truth["LIBRARY_INDEX"][truth["KIND"] != "mystery"])


def test_ids_look_like_apogee_ids_but_cannot_be_taken_for_one(catalogue: Table) -> None:
    for row in catalogue:
        name = row["APOGEE_ID"]
        assert len(name) == 18
        assert name.startswith("2S")
        hours = int(name[2:4]) + int(name[4:6]) / 60 + int(name[6:10]) / 360000
        assert hours * 15 == pytest.approx(row["RA"], abs=1e-4)
        degrees = int(name[11:13]) + int(name[13:15]) / 60 + int(name[15:18]) / 36000
        assert degrees == pytest.approx(row["DEC"], abs=1e-4)


def test_every_header_of_every_file_says_simulated(survey: Path) -> None:
    files = [*spectra_files(survey), survey / "allStar-dr17-simulated.fits"]
    for path in [*files, *(survey / "mystery").iterdir()]:
        with fits.open(path) as hdus:
            hdus.verify("exception")
            for hdu in hdus:
                assert hdu.header["SIMULATE"] is True
                assert "SIMULATED" in str(hdu.header["HISTORY"])


# Spectra ----------------------------------------------------------------------------------


def test_spectra_have_the_layout_of_dr17(survey: Path) -> None:
    for path in spectra_files(survey):
        with fits.open(path) as hdus:
            header = hdus[0].header
            n = header["NVISITS"]
            shape = (n + 2 if n > 1 else 2, 8575)
            assert len(hdus) == 11
            assert [hdus[k].data.shape for k in (1, 2, 3)] == [shape] * 3
            assert [hdus[k].data.dtype.str for k in (1, 2, 3)] == [">f8", ">f8", ">i8"]
            assert all(hdus[k].data is None for k in (4, 5, 6, 7, 8))
            assert hdus[1].header["BUNIT"] == "Flux (10^-17 erg/s/cm^2/Ang)"
            assert (len(hdus[9].data), len(hdus[10].data)) == (n, 1)
            for key in ("CRVAL1", "CDELT1", "NWAVE", "OBJID", "FIELD", "SNR", "VHELIO", "VERR"):
                assert key in header
            assert (f"SFILE{n}" in header, f"SFILE{n + 1}" in header) == (True, False)


def test_gaps_follow_dr17(survey: Path) -> None:
    for path in spectra_files(survey):
        flux, err, mask = rows(path)
        header = fits.getheader(path)
        finite = np.isfinite(flux[0])
        over = np.zeros(8575, dtype=bool)
        for chip in "BGR":
            over[header[f"{chip}OVERMIN"] : header[f"{chip}OVERMAX"] + 1] = True
            assert header[f"{chip}MIN"] <= header[f"{chip}OVERMIN"]
            assert header[f"{chip}MAX"] >= header[f"{chip}OVERMAX"]
        np.testing.assert_array_equal(finite, over)
        np.testing.assert_array_equal(np.isfinite(err[0]), over)
        assert not mask[0, ~finite].any()
        assert 700 < (~finite).sum() < 850
        if len(flux) == 2:
            assert np.count_nonzero([flux[1], err[1], mask[1]]) == 0
            continue
        np.testing.assert_array_equal(np.isfinite(flux[1]), over)
        assert not mask[1].any()
        gap = err[2:] == 0
        assert np.count_nonzero([flux[2:][gap], mask[2:][gap]]) == 0
        np.testing.assert_array_equal(~gap.any(axis=0), over)


def test_gaps_move_with_the_velocity(survey: Path) -> None:
    velocity, edge = [], []
    for path in spectra_files(survey):
        header = fits.getheader(path)
        for n in range(1, header["NVISITS"] + 1):
            velocity.append(header[f"VRAD{n}"])
        flux, _, _ = rows(path)
        covered = flux[2:] != 0 if len(flux) > 2 else np.isfinite(flux[:1])
        edge += covered.argmax(axis=1).tolist()
    slope, _ = np.polyfit(velocity, edge, 1)
    assert slope == pytest.approx(-1 / KMS_PER_PIXEL, rel=0.1)
    assert np.ptp(edge) > 20


def test_errors_and_masks_follow_dr17(survey: Path) -> None:
    for path in spectra_files(survey):
        flux, err, mask = rows(path)
        finite = np.isfinite(flux[0])
        bad = (mask[0] & BAD_BITS) != 0
        np.testing.assert_array_equal(err[0, finite] > 1e9, bad[finite])
        assert err[0, finite & bad].min() > 1e9 * np.nanmedian(flux[0])
        sky = finite & ~bad & ((mask[0] & 4096) != 0)
        snr = flux[0] / err[0]
        assert np.median(snr[sky]) < 0.2 * np.nanmedian(snr)
        if len(flux) > 2:
            together = np.bitwise_and.reduce(mask[2:], axis=0)
            np.testing.assert_array_equal(mask[0, finite], together[finite])


def flagged_share(path: Path) -> tuple[int, float]:
    flux, _, mask = rows(path)
    finite = np.isfinite(flux[0])
    return len(flux), float(((mask[0] & LAB_BITS) != 0)[finite].mean())


def test_as_many_pixels_are_flagged_as_in_real_files(survey: Path) -> None:
    shares = [flagged_share(path) for path in spectra_files(survey)]
    single = np.array([share for n, share in shares if n == 2])
    several = np.array([share for n, share in shares if n > 2])
    assert 0.03 < single.mean() < 0.045  # a real single visit has 0.040
    assert 0.015 < several.mean() < 0.035  # real combinations of three have 0.022


def test_structure_is_that_of_a_real_file(survey: Path, shipped_dir: Path) -> None:
    real = shipped_dir / "apStar-dr17-2M17335483-2753043.fits.gz"
    three = next(p for p in spectra_files(survey) if fits.getval(p, "NVISITS") == 3)
    with fits.open(real) as theirs, fits.open(three) as ours:
        assert len(theirs) == len(ours)
        for k in (1, 2, 3):
            assert theirs[k].data.shape == ours[k].data.shape
            assert theirs[k].data.dtype == ours[k].data.dtype
            assert theirs[k].header["BUNIT"] == ours[k].header["BUNIT"]
        wanted = {
            "OBJID",
            "FIELD",
            "SNR",
            "SNREV",
            "NVISITS",
            "VHELIO",
            "VERR",
            "VSCATTER",
            "NWAVE",
        }
        wanted |= {f"{c}{e}" for c in "RGB" for e in ("MIN", "MAX", "OVERMIN", "OVERMAX")}
        wanted |= {f"{key}3" for key in ("SFILE", "DATE", "JD", "FIBER", "BC", "VRAD", "VHELIO")}
        assert wanted <= set(theirs[0].header) & set(ours[0].header)
        assert set(ours[9].columns.names) <= set(theirs[9].columns.names)
    gaps = [np.isnan(rows(p)[0][0]).sum() for p in (real, three)]
    assert abs(gaps[0] - gaps[1]) < 30


def test_package_reads_what_it_wrote(survey: Path) -> None:
    paths = [*spectra_files(survey), *(survey / "mystery").iterdir()]
    spectra, problems = read_spectra(paths, bad_bits="lenient")
    assert problems == []
    assert spectra.simulated
    assert spectra.n_stars == len(paths)
    assert 0.86 < spectra.good.mean() < 0.90  # a tenth of the grid is gaps
    for path in paths[:10]:
        star = read_apstar(path)
        assert star.simulated
        assert (star.telescope, star.field) == path.parts[-3:-1]
        assert star.release == "dr17"
        assert 0.005 < star.bad_fraction < 0.06
        if star.n_visits > 1:
            last = read_apstar(path, visit=star.n_visits)
            assert last.snr == pytest.approx(star.snr / np.sqrt(star.n_visits), rel=0.6)


def test_spectrum_is_the_library_star_times_a_smooth_continuum(survey: Path, truth: Table) -> None:
    library = load_library()
    worst = []
    for row in truth[truth["KIND"] == "star"][:10]:
        (path,) = (survey / row["TELESCOPE"] / row["FIELD"]).glob(f"*{row['APOGEE_ID']}.fits")
        flux, err, mask = rows(path)
        good = np.isfinite(flux[0]) & (err[0] < 1e9) & ((mask[0] & 0x50FF) == 0)
        model = library.flux[row["LIBRARY_INDEX"]]
        for low, high in DETECTORS:
            use = good & (np.arange(8575) > low + 40) & (np.arange(8575) < high - 40)
            x = np.flatnonzero(use)
            ratio = flux[0, use] / model[use]
            fit = np.polynomial.Chebyshev.fit(x, ratio, 5, w=model[use] / err[0, use])(x)
            worst.append(np.std((flux[0, use] - fit * model[use]) / err[0, use]))
    assert 0.95 < np.median(worst) < 1.1  # errors are honest
    assert max(worst) < 1.35


def test_signal_to_noise_is_that_of_the_pixels(survey: Path, catalogue: Table) -> None:
    for row in catalogue:
        path = survey / row["TELESCOPE"] / row["FIELD"] / row["FILE"].strip()
        flux, err, _ = rows(path)
        assert row["SNR"] == pytest.approx(np.nanmedian(flux[0] / err[0]), rel=1e-5)
        assert fits.getval(path, "SNR") == pytest.approx(row["SNR"], rel=1e-5)
        # The magnitude gives the flux.
        assert np.nanmedian(flux[0]) == pytest.approx(1.133e7 * 10 ** (-0.4 * row["H"]), rel=0.5)


# Catalogue and truth ----------------------------------------------------------------------


def test_catalogue_has_the_columns_and_types_of_dr17(catalogue: Table) -> None:
    wanted = (
        "FILE APOGEE_ID TELESCOPE LOCATION_ID FIELD RA DEC GLON GLAT J H K NVISITS SNR SNREV "
        "STARFLAG ANDFLAG ASPCAPFLAG EXTRATARG VHELIO_AVG VSCATTER VERR TEFF TEFF_ERR LOGG "
        "LOGG_ERR M_H ALPHA_M VMICRO VMACRO FE_H FE_H_ERR FE_H_FLAG MG_FE SI_FE SI_FE_FLAG C_FE "
        "N_FE O_FE NI_FE NI_FE_ERR"
    )
    assert set(wanted.split()) <= set(catalogue.colnames)
    assert catalogue["STARFLAG"].dtype == catalogue["ASPCAPFLAG"].dtype == np.dtype(">i8")
    assert catalogue["TEFF"].dtype == np.dtype(">f4")
    assert catalogue["SIMULATED"].all()
    assert catalogue["SFD_EBV"][0] == pytest.approx(-9999.99)
    assert np.isnan(catalogue["VSINI"]).all()


def failed_cuts(row: Table.Row) -> set[str]:
    labels = [row[name] for name in DEFAULT_LABELS]
    return {
        name
        for name, failed in {
            "SNR": row["SNR"] < 50,
            "LOGG": row["LOGG"] > 4,
            "TEFF": row["TEFF"] > 5700,
            "FE_H": -999 < row["FE_H"] < -1,
            "STAR_BAD": row["ASPCAPFLAG"] >> 23 & 1,
            **{f"STARFLAG_{bit}": row["STARFLAG"] >> bit & 1 for bit in (0, 3, 18, 22)},
            "DUPLICATE": row["EXTRATARG"] >> 4 & 1,
            "MISSING_LABEL": not np.all(np.isfinite(labels) & (np.array(labels) > -999)),
        }.items()
        if failed
    }


def test_each_decoy_fails_its_own_cut_and_no_star_fails_any(catalogue: Table, truth: Table) -> None:
    reasons = {(r["APOGEE_ID"], r["FIELD"]): r["REASON"] or "" for r in truth.filled("")}
    found = []
    for row in catalogue:
        reason = reasons[row["APOGEE_ID"], row["FIELD"]]
        assert failed_cuts(row) == ({reason} if reason else set())
        found.append(reason)
    assert sorted(filter(None, found)) == sorted(DECOY_REASONS)


def test_duplicate_repeats_a_star_in_another_field(truth: Table) -> None:
    filled = truth.filled("")
    (again,) = filled[filled["REASON"] == "DUPLICATE"]
    same = filled[(filled["APOGEE_ID"] == again["APOGEE_ID"]) & (filled["KIND"] == "star")]
    assert len(same) == 1
    assert same["FIELD"][0] != again["FIELD"]
    assert same["LIBRARY_INDEX"][0] == again["LIBRARY_INDEX"]
    assert again["STAR_ID"] == f"{again['TELESCOPE']}/{again['FIELD']}/{again['APOGEE_ID']}"
    assert len(set(filled["STAR_ID"])) == len(filled)


def test_truth_is_the_library(truth: Table) -> None:
    library = load_library()
    for name in library.names:
        np.testing.assert_array_equal(truth[name], library.values(name)[truth["LIBRARY_INDEX"]])
    stars = truth["LIBRARY_INDEX"][truth["KIND"] == "star"]
    assert len(set(stars)) == len(stars) == N_STARS


def test_label_errors_are_those_of_dr17_giants() -> None:
    at_150 = {"TEFF": 12.0, "LOGG": 0.034, "FE_H": 0.0104, "MG_FE": 0.018, "SI_FE": 0.021}
    for name, error in at_150.items():
        assert label_error(name, 150.0) == pytest.approx(error)
    assert label_error("TEFF", [60.0, 115.0, 190.0, 400.0]) == pytest.approx(
        [16.7, 14.1, 11.2, 10.0], rel=0.1
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_label_error_scale_multiplies_true_and_quoted_errors(tmp_path: Path, scale: float) -> None:
    settings = SimulationSettings(label_error_scale=scale, decoys_per_cut=0)
    out = simulate_survey(tmp_path / "s", n_stars=60, seed=5, settings=settings)
    table = Table.read(out / "allStar-dr17-simulated.fits", hdu=1, mask_invalid=False)
    truth = Table.read(out / "truth.ecsv")[:-1]
    truth.sort("APOGEE_ID")
    for name in DEFAULT_LABELS:
        usual = label_error(name, table["SNR"])
        assert table[f"{name}_ERR"] == pytest.approx(max(scale, 1e-6) * usual, rel=1e-4)
        assert truth[f"{name}_ERR"] == pytest.approx(scale * usual, rel=1e-4)
        z = (table[name] - truth[name]) / usual
        # 60 draws: the standard deviation is within 40 % (false alarm 1e-5 a label).
        assert np.std(z) == pytest.approx(scale, rel=0.4, abs=1e-3)


# Reproducibility, output ------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes(survey: Path, tmp_path: Path) -> None:
    again = simulate_survey(tmp_path / "again", n_stars=N_STARS, seed=3, settings=SETTINGS)
    assert contents(again) == contents(survey)


def test_other_seed_gives_other_stars(survey: Path, tmp_path: Path) -> None:
    other = simulate_survey(tmp_path / "other", n_stars=2, seed=4, settings=SETTINGS)
    assert not {p.name for p in spectra_files(other)} & {p.name for p in spectra_files(survey)}


def test_number_of_stars_does_not_change_a_star(survey: Path, tmp_path: Path) -> None:
    few = simulate_survey(tmp_path / "few", n_stars=4, seed=3, settings=SETTINGS)
    long = contents(survey)
    truth = Table.read(few / "truth.ecsv")
    for row in truth[:4]:
        name = next(n for n in long if row["APOGEE_ID"] in n and row["FIELD"] in n)
        assert contents(few)[name] == long[name]
    before = Table.read(survey / "allStar-dr17-simulated.fits", hdu=1, mask_invalid=False)
    after = Table.read(few / "allStar-dr17-simulated.fits", hdu=1, mask_invalid=False)
    for row in truth[:4]:
        same = [t[(t["APOGEE_ID"] == row["APOGEE_ID"]) & (t["FIELD"] == row["FIELD"])]
                for t in (before, after)]  # fmt: skip
        assert list(same[0]["TEFF"]) == list(same[1]["TEFF"])


@pytest.mark.parametrize("n_stars", [0, 600])
def test_impossible_number_of_stars_is_refused(tmp_path: Path, n_stars: int) -> None:
    with pytest.raises(InvalidDataError, match=f"n_stars = {n_stars}, but .* 1 to 599 stars"):
        simulate_survey(tmp_path / "s", n_stars=n_stars, seed=1)
    assert not list(tmp_path.iterdir())


def test_all_of_the_library_but_the_mystery_star_is_used() -> None:
    stars = draw_survey(load_library(), None, seed=1, settings=SimulationSettings())
    kinds = [star.kind for star in stars]
    assert (kinds.count("star"), kinds.count("decoy"), kinds.count("mystery")) == (599, 55, 1)
    used = {star.library_index for star in stars if star.kind == "star"}
    assert used | {stars[-1].library_index} == set(range(600))
    snr = np.array([np.sqrt((s.visits.snr**2).sum()) for s in stars if s.kind == "star"])
    assert 130 < np.median(snr) < 170
    assert 50 < snr.min() < snr.max() <= 500.001


def test_existing_output_is_kept_unless_asked(tmp_path: Path) -> None:
    out = simulate_survey(tmp_path / "s", n_stars=1, seed=1, settings=SETTINGS)
    with pytest.raises(OutputExistsError, match="exists; choose another folder"):
        simulate_survey(out, n_stars=1, seed=2, settings=SETTINGS)
    before = contents(out)
    simulate_survey(out, n_stars=1, seed=2, settings=SETTINGS, overwrite=True)
    assert not contents(out).keys() & {n for n in before if n.startswith(("apo25m", "lco25m"))}
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_other_folders_are_never_overwritten(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"does not have \(chapter.tex\)"):
        simulate_survey(thesis, n_stars=1, overwrite=True, seed=1)
    real = tmp_path / "real"
    (real / "apo25m").mkdir(parents=True)
    fits.PrimaryHDU().writeto(real / "allStar-dr17-simulated.fits")
    with pytest.raises(OutputExistsError, match="is not a simulated survey"):
        simulate_survey(real, n_stars=1, overwrite=True, seed=1)
    (tmp_path / "link").symlink_to(thesis)
    with pytest.raises(OutputExistsError, match="is not a folder"):
        simulate_survey(tmp_path / "link", n_stars=1, overwrite=True, seed=1)
    with pytest.raises(OutputExistsError, match="is not a folder"):
        simulate_survey(thesis / "chapter.tex", n_stars=1, overwrite=True, seed=1)
    assert (thesis / "chapter.tex").read_text() == "years of work"


def test_results_kept_inside_a_simulated_survey_are_not_lost(tmp_path: Path) -> None:
    out = simulate_survey(tmp_path / "s", n_stars=1, settings=SETTINGS, seed=1)
    (out / "my-run").mkdir()
    with pytest.raises(OutputExistsError, match="my-run"):
        simulate_survey(out, n_stars=1, settings=SETTINGS, overwrite=True, seed=1)


def test_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(OutputExistsError, match="exists"):
        simulate_survey(tmp_path / "s", n_stars=1, settings=SETTINGS, seed=1)
    simulate_survey(tmp_path / "s", n_stars=1, settings=SETTINGS, overwrite=True, seed=1)
    assert (tmp_path / "s" / "truth.ecsv").is_file()


def test_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        simulate_survey(tmp_path / "s", n_stars=3, settings=SETTINGS, progress=stop, seed=1)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_spectrum(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    settings = SimulationSettings(decoys_per_cut=0)
    simulate_survey(
        tmp_path / "s", n_stars=3, settings=settings, progress=lambda *n: calls.append(n), seed=1
    )
    assert calls == [(k, 4, "simulating spectra") for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snr_median": 20.0}, "snr_range and snr_median"),
        ({"snr_sigma": -1.0}, "snr_sigma"),
        ({"visit_shares": (0.5, 0.4)}, "visit_shares"),
        ({"visit_shares": ()}, "visit_shares"),
        ({"label_error_scale": -1.0}, "label_error_scale"),
        ({"label_error_scale": np.nan}, "label_error_scale"),
        ({"decoys_per_cut": -1}, "decoys_per_cut"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        SimulationSettings(**changes)


def test_visit_shares_are_followed() -> None:
    settings = SimulationSettings(visit_shares=(0.0, 0.0, 1.0), decoys_per_cut=0)
    stars = draw_survey(load_library(), 20, seed=1, settings=settings)
    assert {len(star.visits) for star in stars} == {3}


@pytest.mark.slow
def test_whole_library_survey_is_quick_and_small(tmp_path: Path) -> None:
    out = simulate_survey(tmp_path / "all", seed=1)
    files = [*spectra_files(out), *(out / "mystery").iterdir()]
    assert len(files) == 655
    assert np.mean([path.stat().st_size for path in files]) < 0.8e6
    table = Table.read(out / "allStar-dr17-simulated.fits", hdu=1, mask_invalid=False)
    passed = sum(not failed_cuts(row) for row in table)
    assert passed == 599
