"""Reading allStar catalogues: columns by name, sentinels, flags, names of stars."""

import gzip
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.errors import FileFormatError, InvalidDataError, LabelError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee import allstar as fits_table
from bayes_cannon.surveys.apogee.allstar import read_allstar
from bayes_cannon.surveys.catalogue import Catalogue


def table(n: int = 6, *, dr16: bool = False) -> Table:
    """Rows as the archive has them, in an order of columns of its own."""
    flag = np.int32 if dr16 else np.int64
    missing = -9999.99 if dr16 else np.nan
    result = Table()
    result["SI_FE"] = np.linspace(-0.1, 0.3, n, dtype="f4")
    result["SI_FE_ERR"] = np.full(n, 0.02, dtype="f4")
    result["APOGEE_ID"] = np.array([f"2M{k}".ljust(18) for k in range(n)], dtype="S18")
    result["TELESCOPE"] = np.full(n, b"apo25m  ")
    result["FIELD"] = np.full(n, b"M15   ")
    result["SNR"] = np.linspace(40, 140, n, dtype="f4")
    result["RA"] = np.linspace(10.123456789, 20, n)
    result["STARFLAG"] = (2 ** np.arange(n)).astype(flag)
    result["ASPCAPFLAG"] = np.zeros(n, dtype=flag)
    result["EXTRATARG"] = np.zeros(n, dtype=np.int16 if dr16 else np.int32)
    result["PARAM"] = np.zeros((n, 9), dtype="f4")
    result["NVISITS"] = np.arange(1, n + 1, dtype="i4")
    for k, name in enumerate(("MG_FE", "FE_H", "LOGG", "TEFF")):
        result[name] = np.full(n, 4000.0 if name == "TEFF" else 0.5 + k, dtype="f4")
        result[f"{name}_ERR"] = np.full(n, 0.1 * (k + 1), dtype="f4")
    result["TEFF"][1] = missing
    result["TEFF_ERR"][1] = -999.99 if dr16 else np.nan
    result["VMICRO"] = np.full(n, 1.5, dtype="f4")
    result["MIN_H"] = np.full(n, -9999.99, dtype="f4")
    result["J"], result["J_ERR"] = np.full(n, 9.5, dtype="f4"), np.full(n, 0.1, dtype="f4")
    return result


def write(path: Path, rows: Table, cards: dict | None = None) -> Path:
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(rows), fits.ImageHDU()])
    hdus[0].header.update(cards or {})
    hdus.writeto(path, overwrite=True)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "allStar-dr17-synspec_rev1.fits", table())


def test_columns_in_other_units_are_converted(tmp_path: Path, caplog) -> None:
    rows = table()
    rows["TEFF"] /= 1000
    rows["TEFF"].unit = "kK"
    rows["TEFF_ERR"].unit = "K"
    rows["VMICRO"].unit = "m / s"
    rows["AGE"] = np.full(6, 3.0)
    rows["AGE"].unit = "Gyr"
    rows["AK_TARG"] = np.full(6, 0.1)
    rows["AK_TARG"].unit = "K"
    labels = ("TEFF", "LOGG", "VMICRO", "AGE", "AK_TARG")
    with caplog.at_level(logging.WARNING):
        found = read_allstar(write(tmp_path / "allStar-mine.fits", rows), labels).labels(labels)
    np.testing.assert_allclose(found["TEFF"][0], 4000.0, rtol=1e-6)
    np.testing.assert_allclose(found.error("TEFF")[0], 0.4, rtol=1e-6)
    np.testing.assert_allclose(found["VMICRO"], 0.0015, rtol=1e-6)
    np.testing.assert_allclose(found["LOGG"][0], 2.5)
    assert found.units == ("K", "dex", "km/s", "Gyr", "mag")
    assert "AK_TARG is said to be in K" in caplog.text
    np.testing.assert_allclose(found["AK_TARG"], 0.1)


@pytest.mark.parametrize("dr16", [False, True])
def test_columns_by_name(tmp_path: Path, dr16: bool) -> None:
    rows = table(dr16=dr16)
    catalogue = read_allstar(write(tmp_path / "allStar-r12-l33.fits", rows))
    assert len(catalogue) == 6
    got = catalogue.table
    assert got["APOGEE_ID"].tolist() == [f"2M{k}" for k in range(6)]
    assert set(got["TELESCOPE"].tolist()) == {"apo25m"}
    assert set(got["FIELD"].tolist()) == {"M15"}
    for name in ("STARFLAG", "ASPCAPFLAG", "EXTRATARG", "NVISITS"):
        assert got[name].dtype == np.int64
        assert got[name].tolist() == rows[name].tolist()
    for name in ("SNR", "RA", "SI_FE", "SI_FE_ERR", "LOGG"):
        assert got[name].dtype == np.float64
        np.testing.assert_array_equal(got[name], np.asarray(rows[name], dtype=float))
    assert np.isnan(got["TEFF"]).tolist() == [k == 1 for k in range(6)]
    assert np.isnan(got["TEFF_ERR"]).tolist() == [k == 1 for k in range(6)]
    assert all(got[name].dtype.isnative for name in got.colnames)
    assert not {"PARAM", "MIN_H", "VMICRO"} & set(got.colnames)


@pytest.mark.parametrize("value", [-9999.99, -9999.0, -999.99, -999.0, np.nan, np.inf, -np.inf])
def test_sentinels(tmp_path: Path, value: float) -> None:
    rows = table()
    rows["FE_H"][2] = rows["MG_FE_ERR"][3] = rows["SNR"][4] = value
    labels = read_allstar(write(tmp_path / "a.fits", rows)).labels()
    assert np.isnan(labels["FE_H"]).tolist() == [k == 2 for k in range(6)]
    assert np.isnan(labels.error("MG_FE")).tolist() == [k == 3 for k in range(6)]
    assert labels.complete.tolist() == [True, False, False, True, True, True]
    assert np.isnan(read_allstar(tmp_path / "a.fits").table["SNR"][4])


def test_labels_and_errors(path: Path) -> None:
    catalogue = read_allstar(path)
    labels = catalogue.labels()
    assert labels.names == DEFAULT_LABELS
    assert labels.star_id.tolist() == [f"2M{k}" for k in range(6)]
    np.testing.assert_allclose(labels["LOGG"], 2.5)
    np.testing.assert_allclose(labels.error("LOGG"), 0.3, rtol=1e-6)
    assert catalogue.available_labels() == ("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE")
    assert catalogue.labels(["SI_FE", "teff"]).names == ("SI_FE", "TEFF")
    with pytest.raises(LabelError, match=r"C_FE: not read from .*there are TEFF, LOGG, FE_H"):
        catalogue.labels(["C_FE"])


def test_errors_that_are_not_positive(tmp_path: Path) -> None:
    rows = table()
    rows["LOGG_ERR"][:3] = [0.0, -1.0, 1e-3]
    error = read_allstar(write(tmp_path / "a.fits", rows)).labels().error("LOGG")
    assert np.isnan(error).tolist() == [True, True, False, False, False, False]


def test_label_without_errors(path: Path) -> None:
    catalogue = read_allstar(path, labels=("VMICRO", "TEFF"))
    labels = catalogue.labels(("VMICRO",))
    np.testing.assert_array_equal(labels.values[:, 0], 1.5)
    assert np.isnan(labels.errors).all()
    assert labels.units == ("km/s",)
    assert "MG_FE" not in catalogue.table.colnames
    assert {"TEFF", "LOGG", "FE_H"} <= set(catalogue.table.colnames)  # the cuts need them


def test_unknown_labels(path: Path) -> None:
    with pytest.raises(LabelError, match=r"no column MGFE; did you mean MG_FE.* are SI_FE, MG_FE,"):
        read_allstar(path, labels=("TEFF", "MGFE"))
    with pytest.raises(LabelError, match="no column XYZXYZ; Its labels with errors are"):
        read_allstar(path, extra=("XYZXYZ",))
    for name in ("FIELD", "PARAM"):
        with pytest.raises(LabelError, match=f"{name} cannot be labels: they are not one number"):
            read_allstar(path, labels=(name,))


def test_extra_columns(path: Path) -> None:
    extra = read_allstar(path, extra=("MIN_H", "param", "VMICRO", "TEFF")).table
    assert extra["PARAM"].shape == (6, 9)
    assert extra["MIN_H"].dtype == np.float32
    assert extra["MIN_H"].dtype.isnative
    np.testing.assert_array_equal(extra["MIN_H"], np.float32(-9999.99))
    assert np.isnan(extra["TEFF"][1])


def test_small_letters_in_the_file(tmp_path: Path) -> None:
    rows = table()
    for name in rows.colnames:
        rows.rename_column(name, name.lower())
    catalogue = read_allstar(write(tmp_path / "a.fits", rows))
    assert catalogue.labels().n_labels == 5
    assert "SNR" in catalogue.table.colnames


def test_flags_beyond_32_bits_and_signs(tmp_path: Path) -> None:
    rows = table()
    rows["ASPCAPFLAG"][0] = 1 << 41
    assert read_allstar(write(tmp_path / "a.fits", rows)).table["ASPCAPFLAG"][0] == 1 << 41
    rows = table(dr16=True)
    rows["ASPCAPFLAG"][0] = -(2**31)  # bit 31 of 32: NO_ASPCAP_RESULT
    rows["EXTRATARG"][0] = -1
    got = read_allstar(write(tmp_path / "b.fits", rows)).table
    assert got["ASPCAPFLAG"][0] == 1 << 31
    assert got["EXTRATARG"][0] == 65535


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "f4", "i2"])
def test_flags_of_other_types(tmp_path: Path, dtype: str) -> None:
    rows = table()
    rows["STARFLAG"] = np.arange(6).astype(dtype)
    got = read_allstar(write(tmp_path / "a.fits", rows)).table["STARFLAG"]
    assert got.dtype == np.int64
    assert got.tolist() == list(range(6))
    if dtype == "u8":
        rows["STARFLAG"] = np.full(6, 2**63 - 3, dtype="u8")
        path = write(tmp_path / "a.fits", rows)
        assert read_allstar(path).table["STARFLAG"].tolist() == [2**63 - 3] * 6


def test_scaled_and_null_columns(tmp_path: Path) -> None:
    rows = table()
    rows["TEFF"] = np.array([4000, 4001, -32768, 4003, 4004, 4005], dtype="i2")
    rows["LOGG"] = np.arange(1000, 1006, dtype="i2")
    hdu = fits.table_to_hdu(rows)
    numbers = {name: k for k, name in enumerate(hdu.columns.names, start=1)}
    hdu.header[f"TNULL{numbers['TEFF']}"] = -32768
    hdu.header[f"TSCAL{numbers['LOGG']}"] = 0.001
    hdu.header[f"TZERO{numbers['LOGG']}"] = 0.5
    hdu.writeto(tmp_path / "a.fits")
    labels = read_allstar(tmp_path / "a.fits").labels()
    np.testing.assert_array_equal(labels["TEFF"], [4000, 4001, np.nan, 4003, 4004, 4005])
    np.testing.assert_allclose(labels["LOGG"], np.arange(1.5, 1.506, 0.001)[:6])


@pytest.mark.parametrize("name", ["VARIABLE", "STARFLAG", "APOGEE_ID", "SNR"])
def test_columns_of_the_wrong_kind(tmp_path: Path, name: str) -> None:
    rows = table()
    if name == "STARFLAG":
        rows[name] = np.array([0.5, np.nan, 1, 2, 3, 4])
    elif name == "APOGEE_ID":
        rows[name] = np.arange(6)
    elif name == "SNR":
        rows[name] = np.full(6, "high")
    hdu = fits.table_to_hdu(rows)
    if name == "VARIABLE":
        lists = np.array([np.arange(k + 1) for k in range(6)], dtype=object)
        hdu = fits.BinTableHDU.from_columns(hdu.columns + fits.Column(name, "PJ()", array=lists))
    hdu.writeto(tmp_path / "a.fits")
    with pytest.raises(FileFormatError, match=f"column {name} does not hold .* write it anew"):
        read_allstar(tmp_path / "a.fits", extra=(name,) if name == "VARIABLE" else ())


def test_reading_piece_by_piece_is_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_allstar(path, extra=("PARAM",)).table
    monkeypatch.setattr(fits_table, "_CHUNK_BYTES", 1000)
    pieces = read_allstar(path, extra=("PARAM",)).table
    assert pieces.colnames == whole.colnames
    for name in whole.colnames:
        np.testing.assert_array_equal(pieces[name], whole[name])


def test_gzipped_catalogue(path: Path) -> None:
    packed = path.with_name("allStar-dr17-x.fits.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    catalogue = read_allstar(packed)
    assert catalogue.release == "dr17"
    np.testing.assert_array_equal(catalogue.labels().values, read_allstar(path).labels().values)


def test_empty_catalogue(tmp_path: Path) -> None:
    catalogue = read_allstar(write(tmp_path / "a.fits", table()[:0]))
    assert (len(catalogue), catalogue.star_id.size) == (0, 0)
    assert catalogue.labels().values.shape == (0, 5)
    assert len(catalogue.select([])) == 0


@pytest.mark.parametrize(
    ("name", "cards", "release"),
    [
        ("allStar-dr17-synspec_rev1.fits", {}, "dr17"),
        ("allStarLite-dr17-synspec_rev1.fits", {}, "dr17"),
        ("allStar-r12-l33.fits", {}, "dr16"),
        ("allStar-l31c.2.fits", {}, "dr14"),
        ("allStar-mine.fits", {}, ""),
        ("allStar.fits", {}, ""),
        ("allStar-mine.fits", {"RELEASE": "DR16"}, "dr16"),
    ],
)
def test_release(tmp_path: Path, name: str, cards: dict, release: str) -> None:
    assert read_allstar(write(tmp_path / name, table(), cards)).release == release


def test_header_values_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "allStar-dr17-x.fits", table(), {"RELEASE": "dr16"})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"RELEASE = 'dr16    '", b"RELEASE = NaN       "))
    assert read_allstar(path).release == "dr17"


def test_simulated_is_seen(tmp_path: Path) -> None:
    rows = table()
    assert not read_allstar(write(tmp_path / "a.fits", rows)).simulated
    assert read_allstar(write(tmp_path / "a.fits", rows, {"SIMULATE": True})).simulated
    assert read_allstar(write(tmp_path / "a.fits", rows, {"HISTORY": "SIMULATED: x"})).simulated
    rows["SIMULATED"] = np.arange(6) == 5
    catalogue = read_allstar(write(tmp_path / "a.fits", rows))
    assert catalogue.simulated
    assert catalogue.table["SIMULATED"].tolist() == [False] * 5 + [True]


def test_names_of_stars_in_several_fields(tmp_path: Path) -> None:
    rows = table()
    rows["APOGEE_ID"] = np.array(["a", "b", "a", "c", "c", "d"], dtype="S18")
    rows["FIELD"][2] = b"M92"
    catalogue = read_allstar(write(tmp_path / "a.fits", rows))
    names = ["apo25m/M15/a", "b", "apo25m/M92/a", "c", "c#2", "d"]
    assert catalogue.star_id.tolist() == names
    # A selection keeps the names: which stars are cut does not rename the others.
    chosen = catalogue.select(np.array([True, True, False, False, True, True]))
    assert chosen.star_id.tolist() == ["apo25m/M15/a", "b", "c#2", "d"]
    assert chosen.labels().star_id.tolist() == chosen.star_id.tolist()
    assert catalogue.select([5, 0]).star_id.tolist() == ["d", "apo25m/M15/a"]
    assert chosen.release == catalogue.release
    with pytest.raises(InvalidDataError, match=r"mask of rows must have shape \(6,\)"):
        catalogue.select(np.array([True]))


def test_catalogue_is_checked() -> None:
    with pytest.raises(InvalidDataError, match="must have a column APOGEE_ID"):
        Catalogue(Table({"ID": ["a"]}))
    with pytest.raises(InvalidDataError, match="2 names for 1 row"):
        Catalogue(Table({"APOGEE_ID": ["a"]}), known_ids=np.array(["a", "b"]))
    bare = Catalogue(Table({"APOGEE_ID": ["a", "a", ""]}))
    assert bare.star_id.tolist() == ["a", "a#2", "unnamed"]


# Files that are not what they should be ----------------------------------------------------


def damaged(path: Path, kind: str) -> Path:
    content = path.read_bytes()
    match kind:
        case "missing":
            path.unlink()
        case "directory":
            path.unlink()
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "page":
            path.write_bytes(b"<html>503</html>")
        case "cut":
            write(path, table(300))
            path.write_bytes(path.read_bytes()[:-28800])
        case "cut anywhere":
            path.write_bytes(content[:-10])
        case "cut in header":
            path.write_bytes(content[:5760])
        case "image":
            fits.PrimaryHDU(np.zeros((5, 5))).writeto(path, overwrite=True)
        case "other table":
            Table({"A": [1]}).write(path, overwrite=True)
        case "wrong width":
            width = str(fits.getheader(path, 1)["NAXIS1"]).encode()
            at = content.index(b"NAXIS1  =") + 10
            changed = content[at : at + 20].replace(width, b"%d" % (int(width) - 1))
            path.write_bytes(content[:at] + changed + content[at + 20 :])
        case "wrong format":
            path.write_bytes(content.replace(b"TFORM3  = '18A", b"TFORM3  = '1?A"))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist; check the path"),
        ("directory", "is a directory"),
        ("empty", "is empty; download it again"),
        ("page", "is a web page saved under the name"),
        ("cut", "is cut short.*download it again"),
        ("cut anywhere", "is cut short: its .* not a multiple of 2880"),
        ("cut in header", "cannot be read|no table with a column|cut short"),
        ("image", "no table with a column APOGEE_ID; give an allStar catalogue"),
        ("other table", "no table with a column APOGEE_ID"),
        ("wrong width", "rows have .* bytes, their columns .* damaged: download it again"),
        ("wrong format", "cannot be read|damaged|no table with"),
    ],
)
def test_damaged_files(path: Path, kind: str, message: str) -> None:
    hurt = damaged(path, kind)
    before = len(os.listdir("/dev/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileFormatError, match=message) as caught:
            read_allstar(hurt)
    assert str(hurt) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(os.listdir("/dev/fd")) == before


def test_random_damage_gives_no_other_error(path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    end = fits.open(path)[1].fileinfo()["datLoc"]
    places = np.arange(2880, end)[content[2880:end] != ord(" ")]
    hurt, n_refused = tmp_path / "x.fits", 0
    for _ in range(100):
        changed = content.copy()
        changed[rng.choice(places, 3)] = rng.integers(32, 127, 3)
        hurt.write_bytes(changed.tobytes())
        try:
            n_rows = len(read_allstar(hurt))
        except (FileFormatError, LabelError):
            n_refused += 1
        else:
            assert n_rows >= 0
    assert 10 <= n_refused < 100


# Real rows ---------------------------------------------------------------------------------


def test_real_rows(real_dir: Path) -> None:
    path = real_dir / "Montalban2021_X_APOGEE_DR17.fits"
    catalogue = read_allstar(path, extra=("KIC", "MIN_H", "PARAMFLAG"))
    assert len(catalogue) == 95
    with fits.open(path) as hdus:
        rows = hdus[1].data
        for name in ("TEFF", "LOGG_ERR", "MG_FE", "SNR", "ASPCAPFLAG", "RA", "KIC", "PARAMFLAG"):
            np.testing.assert_array_equal(catalogue.table[name], rows[name])
        assert catalogue.star_id.tolist() == [s.strip() for s in rows["APOGEE_ID"]]
    labels = catalogue.labels()
    missing = ~labels.complete
    assert labels.star_id[missing].tolist() == ["2M19441360+4546111"]
    assert catalogue.table["ASPCAPFLAG"][missing].tolist() == [1 << 41 | 1 << 23 | 1 << 6]
    assert np.isnan(labels.values[missing]).all()
    assert (labels.errors[~missing] > 0).all()
    assert (labels["TEFF"][~missing] > 4000).all()
    assert (labels["FE_H"][~missing] > -2.5).all()
