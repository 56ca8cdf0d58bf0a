"""Tests of the table of results and of its comparison with other labels."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.io.votable import parse as parse_votable
from astropy.io.votable.ucd import parse_ucd
from astropy.table import Table
from scipy.stats import norm

from bayes_cannon.analysis.catalogued.files import write_catalogue, write_votable
from bayes_cannon.analysis.catalogues import catalogue, comparison
from bayes_cannon.analysis.tables import PUBLISHED
from bayes_cannon.errors import InvalidDataError, OutputExistsError
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.surveys.fits import is_simulated

NAMES = ("TEFF", "LOGG", "MG_FE")
IDS = np.array(["2M00000001+0000001", "2M00000002+0000002", "2M00000003+0000003", "2M4"])
CENTER = np.array([4500.0, 2.0, 0.1])
SD = np.array([20.0, 0.05, 0.02])


def _dataset(draws: np.ndarray) -> xr.Dataset:
    variables = {
        name: (("chain", "draw", "star"), draws[..., i].astype(np.float32))
        for i, name in enumerate(NAMES)
    }
    return xr.Dataset(variables, {"star": IDS})


def make_result(*, calibrated: bool = True, simulated: bool = False) -> xr.DataTree:
    """Result of four stars, the third of which failed."""
    rng = np.random.default_rng(5)
    draws = CENTER + SD * rng.standard_normal((4, 250, 4, 3))
    draws[:, :, 2] = np.nan
    wide = CENTER + 2 * (draws - CENTER)
    stats = {
        "rhat_max": [1.0, 1.02, np.nan, 1.01],
        "ess_bulk_min": [900.0, 300.0, np.nan, 800.0],
        "ess_tail_min": [700.0, 500.0, np.nan, 900.0],
        "divergences": [0.0, 3.0, np.nan, 0.0],
        "chi2_p": [0.5, 0.01, np.nan, 0.9],
    }
    rows = {name: ("star", np.array(values)) for name, values in stats.items()}
    attrs = {"flag_masks": np.array([1, 2, 64]), "flag_meanings": "NO_PIXELS FAILED RHAT"}
    rows["status"] = ("star", np.array([0, 64, 1, 0], dtype=np.int32), attrs)
    groups = {"posterior": _dataset(draws), "star_stats": xr.Dataset(rows, {"star": IDS})}
    if calibrated:
        groups["calibrated_posterior"] = _dataset(wide)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["simulated"] = int(simulated)
    return tree


def aspcap() -> Labels:
    """Catalogue labels of stars 1 and 4, in another order, without MG_FE, and of a stranger."""
    values = np.array([[4510.0, 2.1], [4490.0, 1.9], [4000.0, 1.0]])
    errors = np.array([[15.0, 0.04], [16.0, np.nan], [1.0, 1.0]])
    return Labels(("TEFF", "LOGG"), values, errors, np.array(["2M4", IDS[0], "other"]))


def test_columns_are_those_promised() -> None:
    table = catalogue(make_result(), aspcap=aspcap())
    expected = ["APOGEE_ID"]
    for name in NAMES:
        expected += [name, f"{name}_ERR", f"{name}_FORMAL_ERR"]
        expected += [f"{name}_{q}" for q in ("Q16", "Q50", "Q84", "ASPCAP", "ASPCAP_ERR")]
    expected += ["RHAT_MAX", "ESS_MIN", "DIVERGENCES", "CHI2_P", "LABEL_FLAG"]
    expected += ["TEFF_LOGG_CORR", "TEFF_MG_FE_CORR", "LOGG_MG_FE_CORR", "LABEL_COV"]
    assert table.colnames == expected
    assert all(table[name].description for name in table.colnames)
    assert str(table["TEFF_Q84"].unit) == "K"
    assert str(table["MG_FE_ASPCAP_ERR"].unit) == "dex"
    assert table.meta["KIND"] == "calibrated"
    assert table.meta["FLAGS"] == "1=NO_PIXELS,2=FAILED,64=RHAT"
    assert list(table["APOGEE_ID"]) == list(IDS)


def test_numbers_are_moments_of_the_draws() -> None:
    result = make_result()
    table = catalogue(result)
    for i, name in enumerate(NAMES):
        formal = result["posterior"][name].values[..., 1].astype(np.float64).ravel()
        wide = result["calibrated_posterior"][name].values[..., 1].astype(np.float64).ravel()
        assert table[name][1] == pytest.approx(wide.mean(), rel=1e-10)
        assert table[f"{name}_ERR"][1] == pytest.approx(wide.std(ddof=1), rel=1e-10)
        assert table[f"{name}_FORMAL_ERR"][1] == pytest.approx(formal.std(ddof=1), rel=1e-10)
        quantiles = [table[f"{name}_{q}"][1] for q in ("Q16", "Q50", "Q84")]
        np.testing.assert_allclose(quantiles, np.quantile(wide, [0.16, 0.5, 0.84]))
        assert table["LABEL_COV"][1, i, i] == pytest.approx(wide.var(ddof=1), rel=1e-10)
    pair = np.stack([result["calibrated_posterior"][n].values[..., 1].ravel() for n in NAMES[:2]])
    assert table["LABEL_COV"][1, 0, 1] == pytest.approx(np.cov(pair.astype(float))[0, 1], rel=1e-6)
    correlation = np.corrcoef(pair.astype(float))[0, 1]
    assert table["TEFF_LOGG_CORR"][1] == pytest.approx(correlation, abs=1e-6)
    assert table["ESS_MIN"][0] == 700
    assert table["ESS_MIN"][1] == 300
    assert table["DIVERGENCES"][1] == 3


def test_without_calibration_the_calibrated_error_is_not_made_up() -> None:
    table = catalogue(make_result(calibrated=False))
    assert np.isnan(table["TEFF_ERR"]).all()
    assert table["TEFF_FORMAL_ERR"][0] == pytest.approx(20, rel=0.1)
    assert table.meta["KIND"] == "formal"
    assert "formal" in table["TEFF_Q16"].description


def test_failed_star_keeps_its_row_and_its_flag() -> None:
    table = catalogue(make_result(), aspcap=aspcap())
    assert np.isnan([table[c][2] for c in ("TEFF", "LOGG_ERR", "MG_FE_Q84", "RHAT_MAX")]).all()
    assert np.isnan(table["LABEL_COV"][2]).all()
    assert table["LABEL_FLAG"][2] == 1
    assert table["DIVERGENCES"][2] == -1


def test_a_label_flag_of_the_result_goes_before_the_status() -> None:
    result = make_result()
    stats = result["star_stats"].to_dataset()
    result["star_stats"] = stats.assign(label_flag=("star", np.array([8, 8, 9, 8])))
    table = catalogue(result)
    assert list(table["LABEL_FLAG"]) == [8, 8, 9, 8]
    assert "FLAGS" not in table.meta or table.meta["FLAGS"] == ""


def test_aspcap_is_matched_by_id() -> None:
    table = catalogue(make_result(), aspcap=aspcap())
    np.testing.assert_array_equal(table["TEFF_ASPCAP"], [4490, np.nan, np.nan, 4510])
    np.testing.assert_array_equal(table["LOGG_ASPCAP_ERR"], [np.nan, np.nan, np.nan, 0.04])
    assert np.isnan(table["MG_FE_ASPCAP"]).all()


def test_stars_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = catalogue(make_result())
    monkeypatch.setattr("bayes_cannon.inference.posterior._BLOCK", 3)
    parts = catalogue(make_result())
    for name in whole.colnames[1:]:
        np.testing.assert_array_equal(whole[name], parts[name])


@pytest.mark.parametrize("simulated", [True, False])
def test_files_hold_the_table(tmp_path: Path, *, simulated: bool) -> None:
    table = catalogue(make_result(simulated=simulated), aspcap=aspcap())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = write_catalogue(table, tmp_path / "run")
        found = [Table.read(path) for path in paths]
    assert [p.name for p in paths] == ["catalogue.fits", "catalogue.ecsv"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(p.name for p in paths)
    for read in found:
        assert read.colnames == table.colnames
        assert list(np.asarray(read["APOGEE_ID"], dtype=str)) == list(IDS)
        for name in table.colnames[1:]:
            values = np.asarray(np.ma.getdata(read[name]), dtype=float)
            np.testing.assert_array_equal(values, np.asarray(table[name], dtype=float))
        assert bool(read.meta["SIMULATE"]) is simulated
        assert str(read["TEFF"].unit) == "K"
    assert str(found[1]["LOGG"].unit) == "dex"
    header = fits.getheader(paths[0], 1)
    assert header["TUNIT2"] == "K"
    assert header["TCOMM10"].endswith("[dex]")
    assert ("SIMULATED" in str(header.get("HISTORY", ""))) is simulated
    assert str(table["LOGG"].unit) == "dex"  # writing leaves the table as it was


def noted_result() -> xr.DataTree:
    """Result of stars of which the survey says more than their names; the second is seen twice."""
    result = make_result()
    result["posterior"].attrs["id_name"] = "APOGEE_ID"
    notes = {
        "APOGEE_ID": [*IDS[:1], IDS[0], *IDS[2:]], "GAIA_ID": ["5860080419780127104", "", "7", "8"],
        "RA": ["10.123456789", "", "0.5", "359.0"], "DEC": ["-5.25", "", "0.0", "89.5"],
        "TELESCOPE": ["apo25m"] * 4, "FIELD": ["M15", "M15", "060+00", ""],
        "NVISITS": ["3", "", "1", "12"], "STARFLAG": ["0", "", str(1 << 30), "4"],
        "SNR": ["75.25", "", "120", "80"], "COLOUR": ["red", "", "", "blue"],
    }  # fmt: skip
    stats = result["star_stats"].to_dataset()
    noted = {f"note_{name}": ("star", np.array(texts)) for name, texts in notes.items()}
    result["star_stats"] = stats.assign(noted)
    return result


def test_what_the_survey_says_of_a_star_stands_beside_its_name(tmp_path: Path) -> None:
    table = catalogue(noted_result())
    head = ["STAR_ID", "APOGEE_ID", "GAIA_ID", "RA", "DEC", "TELESCOPE", "FIELD", "NVISITS", "SNR"]
    assert table.colnames[: len(head) + 2] == [*head, "STARFLAG", "COLOUR"]
    assert table.meta["ID"] == "STAR_ID"
    assert list(table["STAR_ID"]) == list(IDS)
    assert list(table["APOGEE_ID"])[:2] == [IDS[0], IDS[0]]
    np.testing.assert_array_equal(table["RA"], [10.123456789, np.nan, 0.5, 359])
    np.testing.assert_array_equal(table["NVISITS"], [3, -1, 1, 12])
    assert str(table["RA"].unit) == "deg"
    assert all(table[name].description for name in table.colnames)
    fits_file, ecsv = write_catalogue(table, tmp_path)
    for read in (Table.read(fits_file), Table.read(ecsv)):
        assert float(read["RA"][0]) == 10.123456789
        assert str(read["GAIA_ID"][0]).strip() == "5860080419780127104"
    assert list(Table.read(fits_file)["NVISITS"].mask) == [False, True, False, False]


def test_columns_of_the_fits_file_have_ucds_formats_and_null_values(tmp_path: Path) -> None:
    table = catalogue(noted_result(), aspcap=aspcap())
    table.meta |= {"SEED": "1"}
    path = write_catalogue(table, tmp_path)[0]
    with fits.open(path, checksum=True) as file, warnings.catch_warnings():
        warnings.simplefilter("error")  # a checksum that is wrong is a warning
        header = file[1].header
        columns = {c.name: k for k, c in enumerate(file[1].columns, start=1)}
    assert {"CHECKSUM", "DATASUM", "DATE", "ORIGIN", "SEED"} <= set(header)
    ucds = {name: header[f"TUCD{k}"] for name, k in columns.items()}
    for ucd in ucds.values():
        parse_ucd(ucd, check_controlled_vocabulary=True, has_colon=False)
    assert ucds["STAR_ID"] == "meta.id;meta.main"
    assert ucds["APOGEE_ID"] == "meta.id"
    assert ucds["RA"] == "pos.eq.ra;meta.main"
    assert ucds["TEFF"] == ucds["TEFF_ASPCAP"] == "phys.temperature.effective"
    assert ucds["LOGG_ERR"] == ucds["LOGG_ASPCAP_ERR"] == "stat.error;phys.gravity"
    assert ucds["MG_FE_Q16"] == "phys.abund;stat.min"
    shown = {name: header.get(f"TDISP{k}") for name, k in columns.items()}
    assert (shown["TEFF"], shown["LOGG"], shown["RA"]) == ("F10.1", "F10.4", "F11.6")
    numbers = [name for name, k in columns.items() if not header[f"TFORM{k}"].endswith("A")]
    assert [name for name in numbers if not shown[name]] == ["LABEL_COV"]
    nulls = [name for name, k in columns.items() if f"TNULL{k}" in header]
    assert nulls == ["NVISITS", "STARFLAG", "DIVERGENCES"]


def test_votable_is_valid_and_holds_the_table(tmp_path: Path) -> None:
    table = catalogue(noted_result(), aspcap=aspcap())
    paths = write_catalogue(table, tmp_path, votable=True)
    assert [path.name for path in paths] == ["catalogue.fits", "catalogue.ecsv", "catalogue.vot"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = parse_votable(paths[2], verify="exception").get_first_table()
    fields = {field.name: field for field in found.fields}
    assert list(fields) == table.colnames
    assert fields["RA"].unit.to_string() == "deg"
    assert (fields["RA"].ucd, fields["RA"].ref) == ("pos.eq.ra;meta.main", "ICRS")
    assert fields["LOGG"].unit is not None
    assert str(fields["LOGG"].unit).strip("'") == "dex"
    assert all(field.description and field.ucd for field in fields.values())
    assert fields["NVISITS"].values.null == -1
    read = found.to_table()
    assert list(read["NVISITS"].mask) == [False, True, False, False]
    np.testing.assert_array_equal(np.ma.getdata(read["RA"]), table["RA"])
    for name in ("TEFF", "LOGG_ERR", "LABEL_COV", "TEFF_LOGG_CORR"):
        values = np.ma.filled(np.ma.asarray(read[name]), np.nan)
        np.testing.assert_array_equal(values, table[name])
    assert [str(star) for star in read["STAR_ID"]] == list(IDS)
    infos = {info.name: info.value for info in found.infos}
    assert infos["LABELS"] == "TEFF,LOGG,MG_FE"
    # Read again as a table, it can be compared and written again.
    again = Table.read(paths[2])
    assert write_votable(again, tmp_path / "again.vot").is_file()
    with pytest.raises(OutputExistsError, match=r"again\.vot"):
        write_votable(again, tmp_path / "again.vot")


def test_a_real_star_says_that_its_model_is_of_simulated_ones(tmp_path: Path) -> None:
    result = make_result()
    result["posterior"].attrs["model_simulated"] = 1
    table = catalogue(result)
    assert (table.meta["SIMULATE"], table.meta["SIMMODEL"]) == (False, True)
    fits_file, ecsv = write_catalogue(table, tmp_path)
    header = fits.getheader(fits_file, 1)
    assert "trained on SIMULATED" in str(header["HISTORY"])
    assert not is_simulated(header)
    assert Table.read(ecsv).meta["SIMMODEL"] is True


def test_existing_files_are_not_overwritten_unasked(tmp_path: Path) -> None:
    table = catalogue(make_result())
    (tmp_path / "catalogue.ecsv").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"catalogue\.ecsv exists"):
        write_catalogue(table, tmp_path)
    assert not (tmp_path / "catalogue.fits").exists()
    assert (tmp_path / "catalogue.ecsv").read_text() == "mine"
    write_catalogue(table, tmp_path, overwrite=True)
    assert len(Table.read(tmp_path / "catalogue.fits")) == 4


def test_comparison_of_known_differences() -> None:
    table = catalogue(make_result())
    offset = np.array([10.0, -20.0, 5.0, 40.0])
    values = np.stack([np.asarray(table[n]) for n in NAMES], axis=1)
    values[2] = CENTER  # the star that failed: not compared
    values[:, 0] -= offset
    values[0, 2] = np.nan
    found = comparison(table, Labels(NAMES, values, np.nan, IDS))
    assert list(found["LABEL"]) == list(NAMES)
    assert list(found["UNIT"]) == ["K", "dex", "dex"]
    assert list(found["N"]) == [3, 3, 2]
    difference = np.array([10.0, -20.0, 40.0])
    assert found["BIAS"][0] == pytest.approx(10)
    assert found["RMS"][0] == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert found["ROBUST_SCATTER"][0] == pytest.approx(30 / norm.ppf(0.75))
    sound = np.asarray(table["TEFF_ERR"])[[0, 1, 3]]
    assert found["ERR"][0] == pytest.approx(np.median(sound))
    assert found["FORMAL_ERR"][0] == pytest.approx(np.median(sound) / 2, rel=1e-4)


def test_comparison_takes_results_and_tables_read_from_a_file(tmp_path: Path) -> None:
    result = make_result(calibrated=False)
    direct = comparison(result, aspcap())
    path = write_catalogue(catalogue(result), tmp_path)[0]
    read = comparison(Table.read(path), aspcap())
    assert list(direct["LABEL"]) == list(read["LABEL"]) == ["TEFF", "LOGG"]
    np.testing.assert_allclose(direct["RMS"], read["RMS"])
    assert list(read["UNIT"]) == ["K", "dex"]
    assert np.isnan(direct["ERR"]).all()


def test_comparison_needs_common_stars_and_labels() -> None:
    table = catalogue(make_result())
    stranger = Labels(("TEFF",), np.array([[4000.0]]), np.nan, np.array(["nobody"]))
    with pytest.raises(InvalidDataError, match="share no star"):
        comparison(table, stranger)
    other = Labels(("NI_FE",), np.zeros((4, 1)), np.nan, IDS)
    with pytest.raises(InvalidDataError, match="or no label"):
        comparison(table, other)


def test_results_without_their_groups() -> None:
    result = make_result()
    with pytest.raises(InvalidDataError, match="no group 'posterior'"):
        catalogue(xr.DataTree.from_dict({"star_stats": result["star_stats"].to_dataset()}))
    with pytest.raises(InvalidDataError, match="no group 'star_stats'"):
        catalogue(xr.DataTree.from_dict({"posterior": result["posterior"].to_dataset()}))
    stats = result["star_stats"].to_dataset().drop_vars(["rhat_max", "status"])
    result["star_stats"] = stats
    with pytest.raises(InvalidDataError, match="lacks rhat_max, status"):
        catalogue(result)
    with pytest.raises(InvalidDataError, match=r"no variable with dims \(chain, draw, star\)"):
        catalogue(xr.DataTree.from_dict({"posterior": xr.Dataset({"x": ("star", np.ones(2))})}))


def test_published_numbers() -> None:
    by_name = {p.name: p for p in PUBLISHED}
    ness = by_name["Ness et al. 2015"]
    assert ness.scatter == {"TEFF": 95.0, "LOGG": 0.24, "FE_H": 0.08}
    ratio = [ness.scatter[n] / ness.formal[n] for n in ness.scatter]
    assert min(ratio) > 10, "formal errors far below the scatter: what calibration is for"


def test_a_catalogue_is_printed_with_its_labels_first() -> None:
    table = catalogue(make_result())
    names = table.meta["LABELS"].split(",")
    for text in (str(table), repr(table)):
        head = next(line for line in text.splitlines() if names[0] in line).split()
        assert head[: 1 + len(names)] == ["APOGEE_ID", *names]
        assert "LABEL_COV" not in text
    assert table.colnames[-1] == "LABEL_COV", "as it was"
    assert table["TEFF"].info.format is None
    assert "TEFF_ERR" in table._repr_html_()


def test_a_part_of_a_catalogue_is_printed_as_it_was_asked_for() -> None:
    part = catalogue(make_result())[["LABEL_FLAG", "TEFF_ERR", "TEFF"]]
    for text in (str(part), repr(part), part._repr_html_()):
        assert text.index("LABEL_FLAG") < text.index("TEFF_ERR") < text.rindex("TEFF")
    every = catalogue(make_result())
    parts = every[[n for n in every.colnames if n not in ("APOGEE_ID", "LABEL_COV")]]
    assert "TEFF" in str(parts)
