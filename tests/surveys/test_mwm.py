"""Reading mwmStar, mwmVisit and apStar files of SDSS-V: every layout, and what can go wrong."""

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.surveys.apogee.apstar import read_apstar
from bayes_cannon.surveys.apogee.layout import WAVELENGTH
from bayes_cannon.surveys.checksums import sum_of
from bayes_cannon.surveys.mwm.apstar import read_sdss5_apstar
from bayes_cannon.surveys.mwm.layout import read_mwm_name
from bayes_cannon.surveys.mwm.spectra import read_mwmstar, read_mwmvisit, sdss5_bits
from bayes_cannon.surveys.mwm.survey import MWM, SDSS5_APSTAR
from bayes_cannon.surveys.mwm.tables import read_tables
from tests.surveys.sdssv_files import (
    ALL_BAD,
    N,
    Star,
    mwm_file,
    mwm_row,
    write_aspcapstar,
    write_dr17,
    write_mwmstar,
    write_mwmvisit,
    write_sdss5_apstar,
)


@pytest.fixture
def star() -> Star:
    return Star()


def bad_of(star: Star) -> np.ndarray:
    return star.gap | ((star.mask & ALL_BAD) != 0)


def test_layouts_are_those_of_the_data_model(tmp_path: Path, star: Star) -> None:
    path = write_mwmstar(tmp_path, replace(star, telescope="lco25m"))
    with fits.open(path, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == [
            "BOSS/APO",
            "BOSS/LCO",
            "APOGEE/APO",
            "APOGEE/LCO",
        ]
        assert [hdu.header["NAXIS2"] for hdu in hdus[1:]] == [0, 0, 0, 1]
        assert [hdu.header["NAXIS1"] for hdu in hdus[1:4]] == [121, 121, 158]
        assert hdus[3].header["TFORM38"] == "0E"
        assert hdus[3].header["TDIM38"] == "(0)"
        assert hdus[4].header["TFORM38"] == "8575E"
        assert hdus[4].header["TDIM38"] == "(8575)"
        assert hdus[4].columns["pixel_flags"].dtype.base == np.float32
        assert all("CHECKSUM" in hdu.header for hdu in hdus)


@pytest.mark.parametrize("release", ["sdss5", "dr17"])
@pytest.mark.parametrize("telescope", ["apo25m", "lco25m", "apo1m"])
def test_an_mwmstar_file(tmp_path: Path, star: Star, release: str, telescope: str) -> None:
    star = replace(star, telescope=telescope)
    read = read_mwmstar(write_mwmstar(tmp_path, star, release))
    np.testing.assert_array_equal(read.bad, bad_of(star))
    assert (read.star_id, read.telescope, read.snr) == ("54392544", telescope, 123.5)
    assert read.apred == ("1.3" if release == "sdss5" else "dr17")
    assert dict(read.notes) == {
        "APOGEE_ID": star.apogee_id, "GAIA_ID": "5860080419780127104", "REDUCTION": read.apred,
    }  # fmt: skip
    assert read.hdu == (4 if telescope == "lco25m" else 3)
    assert read.mask.dtype == np.int64
    assert read.wavelength is WAVELENGTH
    assert not read.simulated
    assert read.n_visits == 1


def test_bad_pixels_of_sdss5_have_ordinary_errors_so_the_mask_decides(
    tmp_path: Path, star: Star
) -> None:
    path = write_mwmstar(tmp_path, star)
    for bits in (0, "lenient", "default"):
        read = read_mwmstar(path, bad_bits=bits)
        assert np.all(read.ivar[2000:2005] > 1e-6)
        assert read.bad[2000:2005].all()
        assert read.bad[4500:4503].all()  # bit 14, which 'lenient' leaves out of DR17's
        assert read.bad[1000:1010].all() == (bits != 0)
    assert MWM.mask_bits("lenient") == sdss5_bits("lenient") == SDSS5_APSTAR.mask_bits(4351)


def test_copies_of_dr17_say_bad_by_a_tiny_ivar(tmp_path: Path, star: Star) -> None:
    star.mask[:] = 0  # even where no bit says so
    star.mask[2000:2005] = 1 << 1
    row = mwm_row(star, release="dr17") | {"pixel_flags": np.zeros(N)}
    read = read_mwmstar(mwm_file(tmp_path, star, [row], []))
    assert np.all((read.ivar[2000:2005] > 0) & (read.ivar[2000:2005] < 1e-24))
    assert read.bad[2000:2005].all()
    assert read.star_spectrum.ivar[2000:2005].max() == 0


def test_gaps_are_nan_with_ivar_0_and_mask_0(tmp_path: Path, star: Star) -> None:
    read = read_mwmstar(write_mwmstar(tmp_path, star))
    assert np.isnan(read.flux[:197]).all()
    assert not read.ivar[:197].any()
    assert not read.mask[:197].any()
    assert read.bad[:197].all()


def test_a_star_observed_twice(tmp_path: Path, star: Star) -> None:
    apo = mwm_row(star, telescope="apo25m", snr=60.0)
    one = mwm_row(star, telescope="apo1m", snr=80.0)
    lco = mwm_row(star, telescope="lco25m", snr=200.0, release="dr17")
    path = mwm_file(tmp_path, star, [apo, one], [lco])
    assert read_mwmstar(path).telescope == "apo1m"  # Apache Point, then the highest S/N
    assert read_mwmstar(path, telescope="apo25m").snr == 60.0
    south = read_mwmstar(f"{path}[lco25m]")
    assert (south.telescope, south.apred, south.hdu) == ("lco25m", "dr17", 4)
    assert MWM.read(Path(f"{path}[lco25m]"), visit=None, bad_bits=0).snr == 200.0
    with pytest.raises(InvalidDataError, match="telescope must be one of apo25m"):
        read_mwmstar(path, telescope="lamost")
    with pytest.raises(FileFormatError, match="no APOGEE spectrum of lco25m, only of apo25m"):
        read_mwmstar(mwm_file(tmp_path, star, [apo], []), telescope="lco25m")


def test_empty_tables_and_header_values(tmp_path: Path, star: Star) -> None:
    path = mwm_file(tmp_path, star, [], [])
    with pytest.raises(FileFormatError, match="holds no APOGEE spectrum: its tables are empty"):
        read_mwmstar(path)
    row = mwm_row(star, snr=-1.0, v_rad=np.nan, obj="", sdss_id=star.sdss_id)
    bare = mwm_file(tmp_path, star, [row], [], APOGEEID=None, GAIA3_ID="None")
    read = read_mwmstar(bare)
    assert np.isnan(read.snr)
    assert np.isnan(read.v_rad)
    assert dict(read.notes) == {"APOGEE_ID": "", "GAIA_ID": "", "REDUCTION": "1.3"}


def test_flags_that_are_no_bits_make_a_pixel_bad(tmp_path: Path, star: Star) -> None:
    flags = np.float32(star.mask)
    flags[3000:3004] = np.nan, -1, 0.5, 2.0**25
    read = read_mwmstar(mwm_file(tmp_path, star, [mwm_row(star) | {"pixel_flags": flags}], []))
    assert read.bad[3000:3004].all()
    assert not read.mask[3000:3004].any()


def test_checksums_tell_damage(tmp_path: Path, star: Star) -> None:
    path = write_mwmstar(tmp_path, star)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"HDU 3 add up to .*, its DATASUM says"):
        read_mwmstar(path)
    path = write_mwmstar(tmp_path, star)
    path.write_bytes(path.read_bytes().replace(b"54392544 / ", b"54392545 / ", 1))
    with pytest.raises(FileFormatError, match="HDU 0 do not add up to what its CHECKSUM says"):
        read_mwmstar(path)
    path = write_mwmstar(tmp_path, star)
    path.write_bytes(path.read_bytes()[: -2880 * 3])
    with pytest.raises(FileFormatError, match="cut short"):
        read_mwmstar(path)
    assert sum_of(b"\xff\xff\xff\xff\x00\x00\x00\x01") == 1


def test_gzip_and_web_pages(tmp_path: Path, star: Star) -> None:
    path = write_mwmstar(tmp_path, star)
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_mwmstar(packed).star_id == "54392544"
    path.write_text("<html>Please log in</html>")
    with pytest.raises(FileFormatError, match="web page"):
        read_mwmstar(path)


def test_the_grid_comes_from_the_header(tmp_path: Path, star: Star) -> None:
    path = mwm_file(tmp_path, star, [mwm_row(star)], [])
    _, tables = read_tables(path)
    assert tables[2].header.get("CRVAL") == 4.179
    assert "wavelength" in tables[2].columns
    content = path.read_bytes().replace(
        b"CRVAL   =                4.179", b"CRVAL   =                4.180"
    )
    path.write_bytes(content.replace(b"CHECKSUM", b"CHECKSUN"))
    with pytest.raises(FileFormatError, match="on another wavelength grid"):
        read_mwmstar(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path, star: Star) -> None:
    for other in (write_dr17(tmp_path, star), write_sdss5_apstar(tmp_path, star)):
        with pytest.raises(FileFormatError, match="no tables APOGEE/APO and APOGEE/LCO"):
            read_mwmstar(other)
    visits = write_mwmvisit(tmp_path, star)
    with pytest.raises(FileFormatError, match="holds visits, one a row"):
        read_mwmstar(visits)
    stars = tmp_path / "mwmVisit-0.6.0-54392544.fits"
    shutil.copy(write_mwmstar(tmp_path, star), stars)
    with pytest.raises(FileFormatError, match="holds combined spectra, no visits"):
        read_mwmvisit(stars, 1)
    with pytest.raises(FileFormatError, match="no mask in HDU 3 but a model"):
        read_apstar(write_aspcapstar(tmp_path, star))


def test_normalised_flux_is_refused_among_raw_spectra(tmp_path: Path, star: Star) -> None:
    row = mwm_row(star)
    row |= {"flux": row["flux"] / star.clean, "ivar": row["ivar"] * star.clean**2}
    with pytest.raises(FileFormatError, match=r"holds normalised flux .* do not mix"):
        read_mwmstar(mwm_file(tmp_path, star, [row], []))


def test_visits(tmp_path: Path, star: Star) -> None:
    star = replace(star, n_visits=3)
    combined, path = write_mwmstar(tmp_path, star), write_mwmvisit(tmp_path, star)
    read = read_mwmvisit(path, 2)
    good = ~read.bad
    assert read.mjd == 59801
    assert good.sum() == (~bad_of(star)).sum()
    np.testing.assert_array_equal(
        read.flux[good], np.float32(star.arrays(dr17=False)[0] + 1.0)[good]
    )
    same = MWM.read(combined, visit=2, bad_bits=0)  # finds the file of visits in the archive
    np.testing.assert_array_equal(same.flux[good], read.flux[good])
    with pytest.raises(FileFormatError, match="no visit 4, it holds 3"):
        read_mwmvisit(path, 4)
    with pytest.raises(InvalidDataError, match="visit must be a number from 1"):
        read_mwmvisit(path, 0)
    old = read_mwmvisit(write_mwmvisit(tmp_path, star, "dr17"), 1)
    assert not old.ivar[:197].any()
    assert old.bad[:197].all()


@pytest.mark.parametrize("n_visits", [1, 3])
def test_apstar_files_of_sdss5(tmp_path: Path, star: Star, n_visits: int) -> None:
    star = replace(star, n_visits=n_visits)
    path = write_sdss5_apstar(tmp_path, star)
    with fits.open(path) as hdus:
        assert hdus[1].shape == ((1, N) if n_visits == 1 else (5, N))
        assert hdus[0].header["VSCATTER"] == "NaN"
        assert "BMIN" not in hdus[0].header
    read = read_sdss5_apstar(path)
    np.testing.assert_array_equal(read.spectrum.bad, bad_of(star))
    assert np.all(read.spectrum.err[2000:2005] < 1e3)  # an ordinary error: the mask tells
    assert (read.sdss_id, read.telescope, read.apred) == ("54392544", "apo25m", "1.3")
    assert read.v_rad == -12.2
    found = read.star_spectrum
    assert found.star_id == "54392544"
    assert found.place == "apo25m"
    assert dict(found.notes) == {"APOGEE_ID": star.apogee_id, "REDUCTION": "1.3"}
    first = read_sdss5_apstar(path, visit=1)
    assert first.v_rad == -12.0
    assert np.isnan(first.spectrum.snr) == (n_visits > 1)  # 'NaN', and of one visit the star's
    assert read_sdss5_apstar(path, bad_bits=0).spectrum.bad[4500:4503].all()


def test_apstar_files_without_sdss_id_and_of_dr17(tmp_path: Path, star: Star) -> None:
    read = read_sdss5_apstar(write_sdss5_apstar(tmp_path, star, sdss_id=False))
    assert read.star_spectrum.star_id == star.apogee_id
    with pytest.raises(FileFormatError, match="neither APRED in its header nor the name"):
        read_sdss5_apstar(write_dr17(tmp_path, star))


def test_one_star_gives_the_same_numbers_in_every_layout(tmp_path: Path, star: Star) -> None:
    dr17 = read_apstar(write_dr17(tmp_path, star)).star_spectrum
    copy = write_mwmstar(tmp_path / "copy", star, "dr17")
    others = {
        "mwmStar, copied": read_mwmstar(copy).star_spectrum,
        "mwmStar": read_mwmstar(write_mwmstar(tmp_path, star)).star_spectrum,
        "mwmVisit": read_mwmvisit(write_mwmvisit(tmp_path, star), 1).star_spectrum,
        "apStar": read_sdss5_apstar(write_sdss5_apstar(tmp_path, star)).star_spectrum,
    }
    for name, other in others.items():
        for values in ("flux", "ivar"):
            own, theirs = (np.float32(getattr(s, values)) for s in (dr17, other))
            np.testing.assert_array_equal(own, theirs, err_msg=f"{values} of {name}")


def test_names() -> None:
    assert read_mwm_name("mwmStar-0.6.0-7.fits.gz").sdss_id == "7"
    assert read_mwm_name("mwmVisit-0.6.0-7.fits").kind == "Visit"
    for other in ("mwmAllStar-0.6.0.fits", "mwmStar-0.6.0-7.txt", "apStar-dr17-2M1.fits"):
        assert read_mwm_name(other) is None
    assert MWM.name_from_path(Path("x/mwmStar-0.6.0-12.fits[apo1m]")) == "12"
    assert SDSS5_APSTAR.is_spectrum("apStar-1.3-lco25m-2M00002479-6025311-59830.fits")
    path = Path("apStar-1.3-lco25m-2M00002479-6025311-59830.fits")
    assert SDSS5_APSTAR.name_from_path(path) == "2M00002479-6025311"


def renamed(path: Path, old: bytes, new: bytes) -> Path:
    """The file with other text of the same length, without checksums."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new).replace(b"CHECKSUM", b"CHECKXXX"))
    return path


def test_files_of_dr20_and_of_results(tmp_path: Path, star: Star) -> None:
    """DR20 calls a column otherwise; results of astra hold models in place of fluxes."""
    path = renamed(write_mwmstar(tmp_path, star), b"'spectrum_pk_id'", b"'spectrum_pk'   ")
    assert read_mwmstar(path).star_id == "54392544"
    visits = write_mwmvisit(tmp_path, replace(star, n_visits=2))
    # DR20 has in_stack; a logical column of DR19's stands for it here.
    renamed(visits, b"'fps     '", b"'in_stack'")
    assert read_mwmvisit(visits, 2).mjd == 59801
    content = visits.read_bytes()
    _, tables = read_tables(visits)
    place = content.index(tables[2].rows[1].tobytes()) + tables[2].rows.dtype.fields["in_stack"][1]
    visits.write_bytes(
        (content[:place] + b"F" + content[place + 1 :]).replace(b"DATASUM", b"DATAXXX")
    )
    assert read_mwmvisit(visits, 1).mjd == 59800
    with pytest.raises(FileFormatError, match="visit 2 was left out of the star's stack"):
        read_mwmvisit(visits, 2)
    path = renamed(write_mwmstar(tmp_path, star), b"'flux    '", b"'flux_no '")
    with pytest.raises(FileFormatError, match=r"no column flux: .* astraStarASPCAP, hold models"):
        read_mwmstar(path)


def test_tables_are_found_by_their_names_else_by_their_place(tmp_path: Path, star: Star) -> None:
    path = renamed(write_mwmstar(tmp_path, star), b"'APOGEE/", b"'SPECTRA")
    renamed(path, b"INSTRMNT= 'APOGEE  '", b"INSTRMNT= 'OTHER   '")
    assert read_mwmstar(path).hdu == 3
