"""Reading apStar, asStar and aspcapStar files: every layout, and everything that can be wrong."""

import gzip
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.errors import FileFormatError, InvalidDataError, NoStarsError
from bayes_cannon.surveys.apogee.apstar import read_apstar, read_aspcapstar, read_spectra
from bayes_cannon.surveys.apogee.bits import BAD_BITS, PixelBits, resolve_bits
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS, CHIPS_8575, WAVELENGTH
from bayes_cannon.surveys.apogee.names import unique_star_ids

N = 8575
DETECTORS = ((197, 3324), (3533, 6130), (6291, 8382))
WAVE = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR"}
LIMITS = {"BMIN": 197, "BMAX": 3323, "GMIN": 3533, "GMAX": 6129, "RMIN": 6291, "RMAX": 8381}
STAR = {"OBJID": "2M1", "FIELD": "M15", "SNR": 100.0, "VHELIO": -107.0, "RA": 1.5, "DEC": -2.5}

COVERED = np.zeros(N, dtype=bool)
for _start, _stop in DETECTORS:
    COVERED[_start:_stop] = True


def arrays(n_visits: int, *, dr17: bool, seed: int = 1) -> list[np.ndarray]:
    """Flux, error and mask as a release writes them: gaps, bad pixels, sky lines, rows."""
    rng = np.random.default_rng(seed)
    rows = n_visits + 2 if n_visits > 1 else 2
    flux = 100 + rng.normal(size=(rows, N))
    err = np.full((rows, N), 0.5)
    mask = np.zeros((rows, N), dtype=np.int64)
    mask[:, 1000:1010] = PixelBits.SIG_SKYLINE
    mask[:, 2000:2005] = PixelBits.BADPIX
    mask[2:, 4000:4010] = PixelBits.CRPIX  # in visits only
    if dr17:
        err[mask & 255 > 0] = 1e12
        flux[:2, ~COVERED] = err[:2, ~COVERED] = np.nan
        flux[2:, ~COVERED] = err[2:, ~COVERED] = 0
        mask[:, ~COVERED] = 0
        mask[1] = 0
        if n_visits == 1:
            flux[1] = err[1] = 0
        return [flux, err, mask]
    mask[0, 4000:4010] = PixelBits.CRPIX  # the OR of the visits
    flux[:, ~COVERED] = 0
    err[:, ~COVERED] = 1e10
    err[1, ~COVERED] = 1.5
    mask[:, ~COVERED] = 1
    mask[1, ~COVERED] = 0
    result = [flux.astype("f4"), err.astype("f4"), mask.astype("i2")]
    return [a[0] for a in result] if n_visits == 1 else result


def write(path: Path, images: list[np.ndarray], cards: dict | None = None) -> Path:
    """Write an apStar file."""
    primary = fits.PrimaryHDU()
    primary.header.update({**WAVE, **LIMITS, **STAR, **(cards or {})})
    hdus = [primary]
    for image in images:
        hdu = fits.ImageHDU(image)
        hdu.header.update(WAVE)
        hdus.append(hdu)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "apStar-dr17-2M1.fits", arrays(3, dr17=True), {"NVISITS": 3})


@pytest.fixture(params=["dr17", "r12"])
def dr17(request: pytest.FixtureRequest) -> bool:
    return request.param == "dr17"


def expected_bad(*, gap: bool = True, visit: bool = False, bits: int = 20735) -> np.ndarray:
    bad = ~COVERED if gap else np.zeros(N, dtype=bool)
    bad[2000:2005] = True
    if bits & PixelBits.SIG_SKYLINE:
        bad[1000:1010] = True
    if visit and bits & PixelBits.CRPIX:
        bad[4000:4010] = True
    return bad


def test_grid() -> None:
    assert WAVELENGTH.shape == (N,)
    np.testing.assert_allclose(WAVELENGTH[[0, -1]], [15100.802, 16999.807], atol=1e-3)
    with pytest.raises(ValueError, match="read-only"):
        WAVELENGTH[0] = 1
    assert sum(b - a for a, b in ASPCAP_WINDOWS) == 7514
    for chip, window, detector in zip(CHIPS_8575, ASPCAP_WINDOWS, DETECTORS, strict=True):
        assert chip[0] <= window[0] < window[1] <= chip[1]
        # 500 km/s outwards at the ends of the grid, 335 km/s in the middle of the gaps
        assert chip[0] <= detector[0] - 80
        assert chip[1] >= detector[1] + 80
    assert CHIPS_8575[0][0] <= DETECTORS[0][0] - 121
    assert CHIPS_8575[2][1] >= DETECTORS[2][1] + 121


@pytest.mark.parametrize("n_visits", [1, 2, 15])
def test_combined_spectrum(tmp_path: Path, n_visits: int, dr17: bool) -> None:
    images = arrays(n_visits, dr17=dr17)
    star = read_apstar(write(tmp_path / "s.fits", images, {"NVISITS": n_visits}))
    assert (star.row, star.mask_row, star.n_visits) == (0, 0, n_visits)
    np.testing.assert_array_equal(star.flux, np.atleast_2d(images[0])[0])
    np.testing.assert_array_equal(star.mask, np.atleast_2d(images[2])[0])
    np.testing.assert_array_equal(star.gap, ~COVERED)
    np.testing.assert_array_equal(star.bad, expected_bad(visit=not dr17))
    np.testing.assert_array_equal(star.ivar[star.bad], 0)
    np.testing.assert_allclose(star.ivar[~star.bad], 4.0)
    assert star.n_good == np.sum(~star.bad)
    assert star.bad_fraction == pytest.approx(np.mean(star.bad[COVERED]))
    for array in (star.flux, star.err, star.mask, star.ivar):
        assert array.dtype.isnative
    assert star.mask.dtype == np.int64
    assert star.flux.dtype == np.float64


def test_globally_weighted_combination(tmp_path: Path, dr17: bool) -> None:
    images = arrays(3, dr17=dr17)
    path = write(tmp_path / "s.fits", images, {"NVISITS": 3})
    star = read_apstar(path, weighting="global")
    # Row 1 has no mask in DR17, and small errors in the gaps before.
    assert (star.row, star.mask_row) == (1, 0 if dr17 else 1)
    np.testing.assert_array_equal(star.flux, images[0][1])
    np.testing.assert_array_equal(star.gap, ~COVERED)
    np.testing.assert_array_equal(star.bad, expected_bad())


def test_single_visit_has_no_second_combination(tmp_path: Path, dr17: bool) -> None:
    images = arrays(1, dr17=dr17)
    path = write(tmp_path / "s.fits", images, {"NVISITS": 1})
    for options in ({"weighting": "global"}, {"visit": 1}, {"mask_row": 1}):
        star = read_apstar(path, **options)
        assert (star.row, star.mask_row) == (0, 0)
        np.testing.assert_array_equal(star.flux, np.atleast_2d(images[0])[0])
    with pytest.raises(FileFormatError, match="no visit 2: its header counts 1"):
        read_apstar(path, visit=2)


def test_visits(tmp_path: Path, dr17: bool) -> None:
    images = arrays(3, dr17=dr17)
    cards = {"NVISITS": 3} | {f"SNRVIS{k}": 10.0 * k for k in (1, 2, 3)}
    path = write(tmp_path / "s.fits", images, cards | {"VHELIO2": 7.5, "VHELIO3": 999999})
    for visit in (1, 2, 3):
        star = read_apstar(path, visit=visit)
        assert (star.row, star.mask_row, star.snr) == (visit + 1, visit + 1, 10.0 * visit)
        np.testing.assert_array_equal(star.flux, images[0][visit + 1])
        np.testing.assert_array_equal(star.gap, ~COVERED)
        np.testing.assert_array_equal(star.bad, expected_bad(visit=True))
    assert read_apstar(path, visit=2).vhelio == 7.5
    assert np.isnan(read_apstar(path, visit=3).vhelio)
    with pytest.raises(FileFormatError, match="no visit 4: its header counts 3 and it holds 3"):
        read_apstar(path, visit=4)


def test_more_visits_in_the_header_than_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "s.fits", arrays(1, dr17=True), {"NVISITS": 3})
    assert read_apstar(path).row == 0
    with pytest.raises(FileFormatError, match="no visit 1"):
        read_apstar(path, visit=1)


@pytest.mark.parametrize("value", [None, "x", float("nan"), -9999, 0])
def test_visits_are_counted_where_the_header_does_not_say(tmp_path: Path, value: object) -> None:
    path = tmp_path / "s.fits"
    cards = {} if value is None or value != value else {"NVISITS": value}
    write(path, arrays(3, dr17=True), cards)
    if value is not None and value != value:
        set_card(path, "FIELD", "NVISITS=                  NaN")
    assert read_apstar(path).n_visits == 3


def test_mask_row(tmp_path: Path) -> None:
    path = write(tmp_path / "s.fits", arrays(3, dr17=False), {"NVISITS": 3})
    star = read_apstar(path, mask_row=1)
    assert (star.row, star.mask_row) == (0, 1)
    np.testing.assert_array_equal(star.bad, expected_bad())
    with pytest.raises(FileFormatError, match="no row 9 to take the mask from, only 5 rows"):
        read_apstar(path, mask_row=9)


@pytest.mark.parametrize(
    ("bits", "number"), [("default", 20735), ("lenient", 4351), ("pipeline", 16639), (0, 0), (2, 2)]
)
def test_bits_that_make_a_pixel_bad(tmp_path: Path, bits: str | int, number: int) -> None:
    images = arrays(1, dr17=False)
    star = read_apstar(write(tmp_path / "s.fits", images), bad_bits=bits)
    wanted = ~COVERED | ((images[2] & number) != 0)
    np.testing.assert_array_equal(star.bad, wanted)
    assert resolve_bits(bits) == number


def test_named_bits() -> None:
    assert resolve_bits("CRPIX|satpix") == 6
    assert resolve_bits("0x10FF") == resolve_bits("4351") == BAD_BITS["lenient"]
    assert resolve_bits(PixelBits.NOT_ENOUGH_PSF) == 16384
    assert resolve_bits(np.int64(5)) == 5
    for wrong in ("labs", "CRPIX|", -1, 1.5, True, None, "-4", 2**70):
        with pytest.raises(InvalidDataError, match="does not say which pixels are bad"):
            resolve_bits(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4", "i8", "u8", "u1"])
def test_masks_of_every_width(tmp_path: Path, dtype: str) -> None:
    flux, err, _ = arrays(1, dr17=False)
    mask = np.zeros(N, dtype=dtype)
    mask[500] = np.iinfo(dtype).min
    mask[501] = 66
    star = read_apstar(write(tmp_path / "s.fits", [flux, err, mask]))
    top = 0 if dtype.startswith("u") else 1 << (8 * np.dtype(dtype).itemsize - 1)
    assert star.mask[500] == np.array(top, dtype=np.uint64).astype(np.int64)
    assert star.mask[501] == 66
    assert not star.mask[~COVERED].any()


def test_unusable_values(tmp_path: Path) -> None:
    flux, err, mask = (a[0] for a in arrays(1, dr17=True))
    mask = mask * 0
    err[2000:2005] = 0.5
    values = [
        (np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (1.0, np.inf), (1.0, 0.0), (1.0, -1.0),
        (1.0, 1e10), (1.0, 1.4e14), (1e300, 1.0), (1.0, 1e-300), (0.0, 1.0), (-np.inf, -np.inf),
    ]  # fmt: skip
    for k, (f, e) in enumerate(values):
        flux[1500 + k], err[1500 + k] = f, e
    flux[1600], err[1601] = -3.0, 1e8  # odd, but usable
    path = write(tmp_path / "s.fits", [flux, err, mask])
    star = read_apstar(path)
    assert star.bad[1500 : 1500 + len(values)].all()
    assert np.sum(star.bad & COVERED) == len(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectra, _ = read_spectra([path])
    assert np.isfinite(spectra.flux).all()
    np.testing.assert_array_equal(spectra.good[0], ~star.bad)
    np.testing.assert_array_equal(spectra.flux[0, star.bad], 0)


def test_all_pixels_bad_is_no_error(tmp_path: Path) -> None:
    flux, err, mask = (a[0] for a in arrays(1, dr17=True))
    bad = write(tmp_path / "bad.fits", [flux, err, mask | 1])
    empty = write(tmp_path / "empty.fits", [flux * np.nan, err, mask], {"OBJID": "2M2"})
    assert (read_apstar(bad).n_good, read_apstar(bad).bad_fraction) == (0, 1.0)
    assert np.isnan(read_apstar(empty).bad_fraction)
    spectra, problems = read_spectra([bad, empty])
    assert problems == []
    assert not spectra.good.any()


def shifted(pixels: int) -> tuple[list[np.ndarray], dict]:
    """A star so fast that its detectors are elsewhere, and where they are."""
    flux, err, mask = np.full(N, 100.0), np.full(N, 0.5), np.zeros(N, dtype=np.int64)
    flux[~np.roll(COVERED, pixels)] = np.nan
    cards = {key: value + pixels for key, value in LIMITS.items()}
    return [flux, err, mask], cards


@pytest.mark.parametrize(("velocity", "n_stray"), [(330, 0), (-330, 0), (500, 56), (-500, 58)])
def test_light_of_a_neighbouring_detector(tmp_path: Path, velocity: int, n_stray: int) -> None:
    images, cards = shifted(-round(velocity / 4.1418))
    star = read_apstar(write(tmp_path / "s.fits", images, cards))
    stray = star.bad & ~star.gap
    pixel = np.arange(N)
    for (start, stop), chip in zip(CHIPS_8575, "BGR", strict=True):
        seen = (pixel >= cards[f"{chip}MIN"]) & (pixel <= cards[f"{chip}MAX"])
        np.testing.assert_array_equal(stray & seen, seen & ((pixel < start) | (pixel >= stop)))
    assert stray.sum() == n_stray
    for start, stop in ASPCAP_WINDOWS:
        assert not stray[start:stop].any()


def test_unknown_chip_limits_mark_nothing(tmp_path: Path) -> None:
    images, _ = shifted(0)
    for wrong in ({"BMIN": -9999}, {"BMAX": 5000}, {"RMAX": 9000}, {"GMIN": "x"}):
        star = read_apstar(write(tmp_path / "s.fits", images, wrong))
        np.testing.assert_array_equal(star.bad, ~COVERED)


def set_card(path: Path, key: str, card: str) -> None:
    """Replace a card of the primary header by any text."""
    content = bytearray(path.read_bytes())
    place = next(
        p for p in range(0, 28800, 80) if content[p : p + 8].decode().strip() == key
    )  # fmt: skip
    content[place : place + 80] = card.ljust(80).encode()
    path.write_bytes(content)


def test_facts_from_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "s.fits", arrays(1, dr17=False), {"TELESCOP": "apo25m  "})
    star = read_apstar(path)
    assert (star.star_id, star.telescope, star.field) == ("2M1", "apo25m", "M15")
    assert (star.snr, star.vhelio, star.ra, star.dec) == (100.0, -107.0, 1.5, -2.5)
    assert (star.release, star.simulated, star.path) == ("", False, path)


@pytest.mark.parametrize(
    ("name", "star_id", "telescope", "release"),
    [
        ("apo25m/060+00/apStar-dr17-2M1+2.fits", "2M1+2", "apo25m", "dr17"),
        ("lco25m/060+00/asStar-dr17-2M1-2.fits", "2M1-2", "lco25m", "dr17"),
        ("elsewhere/asStar-r12-2M1-2.fits", "2M1-2", "lco25m", "dr16"),
        ("apo1m/060+00/apStar-r8-VESTA.fits", "VESTA", "apo1m", "dr14"),
        ("apStar-1.3-apo25m-2M1-2.fits", "2M1-2", "", "dr19"),
        ("apStar-r6-2M1.fits", "2M1", "", "dr13"),
        ("apStar-r99-2M1.fits", "2M1", "", ""),
        ("mine.fits", "mine", "", "dr14"),
    ],
)
def test_facts_from_the_path(
    tmp_path: Path, name: str, star_id: str, telescope: str, release: str
) -> None:
    cards = {"OBJID": "", "FIELD": "", "SFILE1": "apVisit-r8-5815-56396-212.fits"}
    star = read_apstar(write(tmp_path / name, arrays(1, dr17=True), cards))
    assert (star.star_id, star.telescope, star.release) == (star_id, telescope, release)
    assert star.field == ("060+00" if "060+00" in name else "")


@pytest.mark.parametrize("value", ["NaN", "'NAN     '", "'", "", "Infinity", "-9999.99", "T F"])
def test_header_values_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "s.fits", arrays(1, dr17=True))
    for key in ("SNR", "VHELIO", "RA", "OBJID", "FIELD", "BMIN"):
        set_card(path, key, f"{key:<8}= {value}")
    star = read_apstar(path)
    assert np.isnan([star.snr, star.vhelio, star.ra]).all()
    assert star.star_id in ("s", "NAN")


def test_header_without_anything(tmp_path: Path) -> None:
    path = tmp_path / "s.fits"
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(a) for a in arrays(1, dr17=True))]
    hdus[1].header.update({k: WAVE[k] for k in ("CRVAL1", "CDELT1")})
    fits.HDUList(hdus).writeto(path)
    star = read_apstar(path)
    assert (star.star_id, star.field, star.telescope, star.n_visits) == ("s", "", "", 1)
    assert np.isnan(star.snr)


@pytest.mark.parametrize(
    ("cards", "simulated"),
    [
        ({"SIMULATE": True}, True),
        ({"HISTORY": "SIMULATED by someone"}, True),
        ({"SIMULATE": False}, False),
        ({"HISTORY": "observed"}, False),
    ],
)
def test_simulated_is_seen(tmp_path: Path, cards: dict, simulated: bool) -> None:
    path = write(tmp_path / "s.fits", arrays(1, dr17=True), cards)
    assert read_apstar(path).simulated is simulated
    real = write(tmp_path / "t.fits", arrays(1, dr17=True), {"OBJID": "2M2"})
    assert read_spectra([real, path])[0].simulated is simulated


def test_gzipped_file(good: Path) -> None:
    packed = good.with_name(good.name + ".gz")
    packed.write_bytes(gzip.compress(good.read_bytes()))
    star, same = read_apstar(packed), read_apstar(good)
    np.testing.assert_array_equal(star.flux, same.flux)
    assert star.release == "dr17"
    packed.write_bytes(packed.read_bytes()[:20000])
    with pytest.raises(FileFormatError, match=r"cannot be read .*EOFError.* download it again"):
        read_apstar(packed)


def test_scaled_flux(tmp_path: Path) -> None:
    flux, err, mask = arrays(1, dr17=False)
    path = write(tmp_path / "s.fits", [flux, err, mask])
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["BSCALE"] = 2.0
        hdus[1].header["BZERO"] = 1.0
        raw = hdus[1].header.copy()
    assert raw["BSCALE"] == 2.0
    with fits.open(path) as hdus:
        expected = hdus[1].data
    np.testing.assert_allclose(read_apstar(path).flux, expected, rtol=1e-6)


# Files that are not what they should be ----------------------------------------------------


def card(key: str, value: object) -> bytes:
    return f"{key:<8}= {value:>20}".encode()


def damaged(tmp_path: Path, good: Path, kind: str) -> Path:
    path = tmp_path / "apStar-dr17-2M9.fits"
    content = good.read_bytes()
    images = arrays(3, dr17=True)
    match kind:
        case "missing":
            pass
        case "directory":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "page":
            path.write_bytes(b"\n<!DOCTYPE html><html>Not Found</html>" * 300)
        case "text":
            path.write_bytes(b"nothing of the kind")
        case "cut in header":
            path.write_bytes(content[:2880])
        case "cut in data":
            path.write_bytes(content[: 2880 * 100])
        case "cut anywhere":
            path.write_bytes(content[:-1])
        case "no end of header":
            path.write_bytes(content[:80] + b" " * (2880 * 40 - 80))
        case "one HDU":
            fits.PrimaryHDU().writeto(path)
        case "two images":
            write(path, images[:2])
        case "table":
            write(path, images[:2])
            fits.append(path, np.zeros(3, dtype=[("a", "f8")]))
        case "no data":
            fits.HDUList([fits.PrimaryHDU(), *[fits.ImageHDU() for _ in range(3)]]).writeto(path)
        case "short arrays":
            write(path, [a[:, :7514] for a in images])
        case "different shapes":
            write(path, [images[0], images[1], images[2][0]])
        case "cube":
            write(path, [np.stack([a, a]) for a in images])
        case "other grid":
            write(path, images)
            with fits.open(path, mode="update") as hdus:
                hdus[1].header["CRVAL1"] = 4.18
        case "other step":
            write(path, images)
            with fits.open(path, mode="update") as hdus:
                hdus[1].header["CDELT1"] = 6.1e-6
        case "no grid":
            hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(a) for a in images)]
            fits.HDUList(hdus).writeto(path)
        case "model for mask":
            write(path, images[:2] + images[:1])
        case "damaged header":
            path.write_bytes(content.replace(card("BITPIX", -64), card("BITPIX", "'x'")))
        case "negative axis":
            path.write_bytes(content.replace(card("NAXIS1", N), card("NAXIS1", -N)))
        case "huge":
            path.write_bytes(content.replace(card("NAXIS2", 5), card("NAXIS2", 10**19)))
        case "pipe":
            os.mkfifo(path)
    return path


DAMAGES = {
    "missing": "does not exist; check the path",
    "directory": "is a directory",
    "empty": "is empty; download it again",
    "page": "is a web page saved under the name of a FITS file.*download it again",
    "text": "is not a FITS file .it starts with b'nothing o'",
    "cut in header": "no HDU 1|cut short",
    "cut in data": "is cut short: it has 288000 bytes.*download it again",
    "cut anywhere": "is cut short: its .* not a multiple of 2880; download it again",
    "no end of header": "is cut short in the header of HDU 0",
    "one HDU": "has no HDU 1, only 1",
    "two images": "has no HDU 3, only 3",
    "table": "has no mask in HDU 3",
    "no data": "has no flux in HDU 1",
    "short arrays": r"\(5, 7514\).*Resample",
    "different shapes": r"\(5, 8575\), \(5, 8575\), \(8575,\)",
    "cube": r"\(2, 5, 8575\)",
    "other grid": "another wavelength grid .CRVAL1 4.18,.*Resample",
    "other step": "another wavelength grid",
    "no grid": "another wavelength grid .CRVAL1 nan",
    "model for mask": "no mask in HDU 3 but a model; read it with read_aspcapstar",
    "damaged header": "the header of HDU 1 is damaged; download it again",
    "negative axis": "the header of HDU 1 is damaged; download it again",
    "huge": "is cut short",
    "pipe": "is not a regular file",
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_damaged_files(tmp_path: Path, good: Path, kind: str) -> None:
    path = damaged(tmp_path, good, kind)
    before = len(os.listdir("/dev/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileFormatError, match=DAMAGES[kind]) as caught:
            read_apstar(path)
        assert str(path) in str(caught.value)
        spectra, problems = read_spectra([good, path])
    assert len(os.listdir("/dev/fd")) == before
    assert spectra.star_id.tolist() == ["2M1"]
    assert [(p.path, p.star_id, p.message) for p in problems] == [
        (str(path), "2M9", str(caught.value))
    ]


def test_file_that_may_not_be_read(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FileFormatError, match=r"cannot be read \(PermissionError"):
        read_apstar(good)


def test_random_damage_gives_no_other_error(good: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    content = np.frombuffer(good.read_bytes(), dtype=np.uint8)
    headers = np.concatenate([
        np.arange(start, start + 2880) for start in range(0, content.size, 2880)
        if bytes(content[start : start + 8]) in (b"SIMPLE  ", b"XTENSION")
    ])  # fmt: skip
    assert headers.size == 4 * 2880
    path, n_refused = tmp_path / "x.fits", 0
    cards = headers[np.isin(content[headers], np.frombuffer(b"0123456789=-T'", dtype=np.uint8))]
    for trial in range(200):
        hurt = content.copy()
        places = rng.choice(cards, size=3)
        hurt[places] = rng.integers(32, 127, 3) if trial % 2 else rng.integers(0, 256, 3)
        path.write_bytes(hurt.tobytes()[: len(hurt) if trial % 5 else 2880 * rng.integers(1, 300)])
        try:
            star = read_apstar(path)
        except FileFormatError:
            n_refused += 1
        else:
            assert star.flux.shape == (N,)
    assert 40 <= n_refused < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visit": 0}, "visit must be a number from 1 on, got 0"),
        ({"visit": True}, "visit must be"),
        ({"visit": 1.0}, "visit must be"),
        ({"mask_row": -1}, "mask_row must be a number from 0 on"),
        ({"weighting": "mean"}, "weighting must be 'pixel' or 'global', got 'mean'"),
        ({"bad_bits": "none"}, "does not say which pixels are bad"),
    ],
)
def test_impossible_arguments(good: Path, options: dict, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        read_apstar(good, **options)
    with pytest.raises(InvalidDataError, match=message):
        read_spectra([good], **options)


# Many files --------------------------------------------------------------------------------


def test_read_spectra(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{k}.fits", arrays(k, dr17=k % 2 == 0, seed=k),
              {"OBJID": f"2M{k}", "NVISITS": k, "SNR": 10.0 * k})
        for k in (1, 2, 3)
    ]  # fmt: skip
    seen: list[tuple[int, int]] = []
    spectra, problems = read_spectra(
        iter([paths[0], tmp_path / "none.fits", *paths[1:]]),
        progress=lambda *n: seen.append(n),
    )
    assert seen == [(k, 4, "reading spectra") for k in (1, 2, 3, 4)]
    assert spectra.star_id.tolist() == ["2M1", "2M2", "2M3"]
    assert spectra.snr.tolist() == [10.0, 20.0, 30.0]
    assert spectra.chips == CHIPS_8575
    assert [(Path(p.path).name, p.star_id) for p in problems] == [("none.fits", "none")]
    for k, path in enumerate(paths):
        star = read_apstar(path)
        np.testing.assert_allclose(spectra.flux[k, ~star.bad], star.flux[~star.bad], rtol=1e-6)
        np.testing.assert_allclose(spectra.ivar[k], star.ivar, rtol=1e-6)
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH)


def test_options_reach_every_file(tmp_path: Path) -> None:
    images = arrays(3, dr17=False)
    path = write(tmp_path / "s.fits", images, {"NVISITS": 3})
    spectra, _ = read_spectra([path], visit=2, bad_bits=0, mask_row=1)
    np.testing.assert_array_equal(spectra.flux[0, COVERED], images[0][3, COVERED])
    np.testing.assert_array_equal(spectra.good[0], COVERED)
    combined, _ = read_spectra(str(path), weighting="global")
    np.testing.assert_array_equal(combined.flux[0, COVERED & (np.arange(N) > 6000)],
                                  images[0][1, COVERED & (np.arange(N) > 6000)])  # fmt: skip


def test_one_broken_file_in_a_thousand(good: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"<html>")
    paths = [good] * 999
    paths.insert(500, broken)
    spectra, problems = read_spectra(paths, star_ids=[f"star {k}" for k in range(1000)])
    assert spectra.n_stars == 999
    assert [p.star_id for p in problems] == ["star 500"]
    assert "star 500" not in spectra.star_id
    assert spectra.star_id[500] == "star 501"


def test_star_ids_are_checked(good: Path) -> None:
    with pytest.raises(InvalidDataError, match="1 star id for 2 files"):
        read_spectra([good, good], star_ids=["a"])
    with pytest.raises(InvalidDataError, match=r"more than once \(a\); make them unique"):
        read_spectra([good, good], star_ids=["a", "a"])


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(NoStarsError, match="no files were given"):
        read_spectra([])
    with pytest.raises(NoStarsError, match=r"none of 2 files could be .*a.fits does not exist"):
        read_spectra([tmp_path / "a.fits", tmp_path / "b.fits"])


def test_repeated_stars_get_unique_names(tmp_path: Path) -> None:
    images = arrays(1, dr17=True)
    one = write(tmp_path / "apo25m/M15/apStar-dr17-2M1.fits", images)
    two = write(tmp_path / "lco25m/M15/asStar-dr17-2M1.fits", images)
    assert read_spectra([one, one])[0].star_id.tolist() == ["2M1", "2M1#2"]
    names = read_spectra([one, two, one])[0].star_id.tolist()
    assert names == ["apo25m/M15/2M1", "lco25m/M15/2M1", "apo25m/M15/2M1#2"]


def test_unique_star_ids() -> None:
    ids = ["a", "b", "a", "c", "c", "", "", "c#2", "c"]
    places = ["x", "x", "y", "x", "x", "", "", "x", "x"]
    names = unique_star_ids(ids, places, ["f"] * 9).tolist()
    assert len(set(names)) == 9
    assert names[:5] == ["x/f/a", "b", "y/f/a", "c", "c#2"]
    assert unique_star_ids([], [], []).tolist() == []


# aspcapStar --------------------------------------------------------------------------------


def test_aspcapstar(tmp_path: Path) -> None:
    flux = np.where(COVERED, 0.9, 0.0).astype("f4")
    err = np.where(COVERED, 0.01, 0.0).astype("f4")
    err[300] = 1e10
    path = tmp_path / "apo25m/M15/aspcapStar-r12-2M1.fits"
    write(path, [flux, err, flux * 1.01], {"OBJID": "", "OBJ": "2M7", "NVISITS": 4})
    star = read_aspcapstar(path)
    assert (star.star_id, star.release, star.n_visits) == ("2M7", "dr16", 4)
    expected = ~COVERED
    expected[300] = True
    np.testing.assert_array_equal(star.bad, expected)
    np.testing.assert_allclose(star.model, star.flux * 1.01, rtol=1e-6)
    np.testing.assert_allclose(star.ivar[~star.bad], 1e4, rtol=1e-5)
    np.testing.assert_array_equal(star.wavelength, WAVELENGTH)


def test_kinds_of_file_are_not_mixed_up(good: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no model in HDU 3 but a mask; read it with read_ap"):
        read_aspcapstar(good)
    with pytest.raises(FileFormatError, match="does not exist"):
        read_aspcapstar(tmp_path / "none.fits")


# Real files --------------------------------------------------------------------------------


def test_real_files_of_dr17_are_read_together(shipped_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectra, problems = read_spectra(sorted(shipped_dir.glob("apStar-*.fits.gz")))
    assert problems == []
    assert spectra.star_id.tolist() == ["2M17335483-2753043", "2M19485057+5005279"]
    assert (spectra.good.sum(axis=1) > 4000).all()
    np.testing.assert_allclose(spectra.snr, [154.16, 137.49], atol=0.01)
    assert not spectra.simulated


def test_real_files_are_all_read(real_dir: Path) -> None:
    paths = [*sorted(real_dir.glob("apStar-*.fits")), real_dir / "mystery_spec_wiped.fits"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectra, problems = read_spectra(paths)
    assert problems == []
    assert spectra.n_stars == 6
    assert (spectra.good.sum(axis=1) > 4000).all()
    assert (spectra.snr > 30).all()
    assert not spectra.simulated


@pytest.mark.parametrize(
    ("name", "n_visits", "n_gaps", "n_huge", "snr", "vhelio", "field"),
    [
        ("2M17335483-2753043", 3, 784, 49, 154.16, 15.68, "000+02"),
        ("2M19485057+5005279", 1, 774, 138, 137.49, 13.96, "K04_083+13"),
    ],
)
def test_real_dr17(shipped_dir: Path, name: str, n_visits: int, n_gaps: int, n_huge: int,
                   snr: float, vhelio: float, field: str) -> None:  # fmt: skip
    star = read_apstar(shipped_dir / f"apStar-dr17-{name}.fits.gz")
    assert (star.star_id, star.n_visits, star.field) == (name, n_visits, field)
    assert (star.release, star.telescope, star.row) == ("dr17", "", 0)
    assert star.snr == pytest.approx(snr, abs=0.01)
    assert star.vhelio == pytest.approx(vhelio, abs=0.01)
    assert star.gap.sum() == n_gaps
    huge = star.err > 1e9
    assert huge.sum() == n_huge
    # Errors above 1e9 and the pipeline's bad bits are the same pixels; the mask misses the gaps.
    np.testing.assert_array_equal(huge, (star.mask & BAD_BITS["pipeline"]) != 0)
    assert not star.mask[star.gap].any()
    assert not np.any(star.bad & ~star.gap & ~huge & (star.mask & PixelBits.SIG_SKYLINE == 0))
    for visit in range(1, n_visits + 1):
        one = read_apstar(star.path, visit=visit)
        assert one.snr > 60
        assert 750 < one.gap.sum() < 800


def test_real_dr17_globally_weighted(shipped_dir: Path) -> None:
    path = shipped_dir / "apStar-dr17-2M17335483-2753043.fits.gz"
    star = read_apstar(path, weighting="global", bad_bits="lenient")
    assert (star.row, star.mask_row) == (1, 0)
    assert star.bad_fraction == pytest.approx(0.022, abs=0.001)


def test_real_star_with_fifteen_visits(real_dir: Path) -> None:
    path = real_dir / "apStar-r6-2M03442721+3220288.fits"
    by_or = read_apstar(path, bad_bits="lenient")
    by_and = read_apstar(path, bad_bits="lenient", mask_row=1)
    assert (by_or.n_visits, by_or.telescope, by_or.release) == (15, "apo25m", "dr13")
    assert (by_or.mask_row, by_and.mask_row) == (0, 1)
    assert np.sum(by_or.bad & ~by_or.gap) == 3314
    assert np.sum(by_and.bad & ~by_and.gap) == 58
    combined = read_apstar(path, weighting="global", bad_bits="lenient")
    np.testing.assert_array_equal(combined.gap, by_or.gap)
    assert combined.mask_row == 1
    assert read_apstar(path, visit=15).snr == pytest.approx(10.9018)


@pytest.mark.parametrize("name", ["mystery_spec_wiped.fits", "apStar-r6-2M03290406+3117075.fits"])
def test_real_one_dimensional_files(real_dir: Path, name: str) -> None:
    star = read_apstar(real_dir / name)
    assert (star.n_visits, star.row, star.flux.shape) == (1, 0, (N,))
    assert 840 < star.gap.sum() < 860
    assert (star.mask[star.gap] == 1).all()
    assert (star.err[star.gap] == np.float32(1e10)).all()
    assert star.bad_fraction < 0.15
    with fits.open(real_dir / name) as hdus:
        np.testing.assert_array_equal(star.flux, hdus[1].data)


def test_real_mystery_star(real_dir: Path) -> None:
    star = read_apstar(real_dir / "mystery_spec_wiped.fits")
    assert (star.star_id, star.field) == ("2M16333217+3942519", "064+42_MGA")
    assert (star.release, star.telescope) == ("dr14", "apo25m")
    assert star.snr == pytest.approx(366.5, abs=0.1)


def test_real_aspcapstar(real_dir: Path) -> None:
    path = real_dir / "aspcapStar-r6-l30e.2-2M13564148+4342587.fits"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        star = read_aspcapstar(path)
    assert (star.star_id, star.field, star.release) == ("2M13564148+4342587", "089+70", "dr13")
    assert 1061 <= star.bad.sum() < 1200
    good = ~star.bad
    assert np.median(star.flux[good]) == pytest.approx(0.95, abs=0.06)
    assert np.std((star.flux - star.model)[good]) < 0.06
    with pytest.raises(FileFormatError, match="no mask in HDU 3 but a model"):
        read_apstar(path)
