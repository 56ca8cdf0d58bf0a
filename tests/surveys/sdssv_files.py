"""One star's numbers written in the layouts of DR17 and of SDSS-V, for tests."""

import gzip
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

from bayes_cannon.surveys.mwm.layout import star_folder
from bayes_cannon.surveys.simulation.layouts import make_hdu
from tests.surveys.test_apogee import COVERED, WAVE, write

N = 8575
BAD, SKY, PSF = 1 << 1, 1 << 12, 1 << 14
ALL_BAD = 0xFF | SKY | PSF


@dataclass
class Star:
    """Flux, error and mask of one star, as DR17 has them; also SDSS-V's way with bad pixels."""

    sdss_id: int = 54392544
    apogee_id: str = "2M00002479+6025311"
    gaia_id: int = 5860080419780127104
    telescope: str = "apo25m"
    snr: float = 123.5
    level: float = 5800.0
    seed: int = 3
    n_visits: int = 1
    cards: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        x = np.arange(N)
        lines = 0.3 * np.abs(np.sin(x / 11.0)) ** 9
        self.clean = self.level * (1 + 0.1 * np.sin(x / 3000)) * (1 - lines)
        err = self.clean / self.snr
        # Numbers that float32 holds exactly, so that every layout holds the same.
        self.flux = np.float64(np.float32(self.clean + err * rng.normal(size=N)))
        self.err = np.float64(np.float32(err))
        self.mask = np.zeros(N, dtype=np.int64)
        self.mask[1000:1010] = SKY
        self.mask[2000:2005] = BAD
        self.mask[4500:4503] = PSF
        self.mask[5000:5050] = 1 << 8  # a remark, not bad
        self.gap = ~COVERED

    def arrays(self, *, dr17: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flux, error and mask of row 0: DR17's errors of bad pixels are inflated."""
        flux, err, mask = self.flux.copy(), self.err.copy(), self.mask.copy()
        given_up = (mask & (0xFF | PSF)) != 0
        if dr17:
            err[given_up] = 1e10 * self.clean[given_up]
        else:  # smoothed in place of what was seen
            flux[given_up] = self.clean[given_up]
        flux[self.gap] = err[self.gap] = np.nan
        mask[self.gap] = 0
        return flux, err, mask


def visits_of(star: Star, *, dr17: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Spectra of the visits: the star's own with other noise, but the first, which is row 0."""
    out = []
    for visit in range(star.n_visits):
        flux, err, mask = star.arrays(dr17=dr17)
        flux = flux + np.float32(visit)
        if dr17:  # gaps of visits are 0
            flux[star.gap] = err[star.gap] = 0
        out.append((flux, err, mask))
    return out


def write_dr17(folder: Path, star: Star, field_name: str = "M15") -> Path:
    """An apStar file of DR17: (n + 2, 8575), or (2, 8575) for one visit."""
    rows = [star.arrays(dr17=True)]
    rows.append(tuple(np.zeros_like(a) for a in rows[0]))
    rows += visits_of(star, dr17=True) if star.n_visits > 1 else []
    images = [np.array([row[k] for row in rows]) for k in range(3)]
    south = star.telescope == "lco25m"
    path = (
        folder
        / star.telescope
        / field_name
        / (f"{'as' if south else 'ap'}Star-dr17-{star.apogee_id}.fits")
    )
    cards = {"OBJID": star.apogee_id, "NVISITS": star.n_visits, "SNR": star.snr} | star.cards
    return write(path, images, cards)


def write_aspcapstar(folder: Path, star: Star) -> Path:
    """An aspcapStar file: normalised flux, error and model."""
    flux, err, _ = star.arrays(dr17=True)
    images = [np.nan_to_num(a).astype("f4") for a in (flux / star.clean, err / star.clean)]
    images.append(np.where(star.gap, 0, 1 - 0.01).astype("f4"))
    return write(folder / f"aspcapStar-dr17-{star.apogee_id}.fits", images, {"SNR": star.snr})


def mwm_row(star: Star, *, release: str = "sdss5", telescope: str = "", **columns) -> dict:
    """A row of mwmStar: row 0 of an apStar file in float32."""
    flux, err, mask = star.arrays(dr17=release == "dr17")
    with np.errstate(divide="ignore", invalid="ignore"):
        ivar = np.where(np.isfinite(err), 1 / err**2, 0)
    return {
        "spectrum_pk_id": 1, "release": release, "filetype": "apstar", "v_astra": "0.6.0",
        "healpix": 188421, "sdss_id": star.sdss_id, "apred": "dr17" if release == "dr17" else "1.3",
        "obj": star.apogee_id, "telescope": telescope or star.telescope, "snr": star.snr,
        "n_visits": star.n_visits, "v_rad": -12.2, "spectrum_flags": 0,
        "wavelength": 10 ** (4.179 + 6e-6 * np.arange(N)),
        "flux": flux, "ivar": ivar, "pixel_flags": mask, "continuum": np.where(
            star.gap, np.nan, star.level
        ),
    } | columns  # fmt: skip


def mwm_file(
    folder: Path, star: Star, apo: list[dict], lco: list[dict], kind: str = "Star", **cards
) -> Path:
    """An mwmStar or mwmVisit file with the rows given."""
    product = f"mwm{kind}"
    known = {
        "V_ASTRA": "0.6.0", "SDSS_ID": star.sdss_id, "APOGEEID": star.apogee_id,
        "GAIA3_ID": star.gaia_id, "RA": 187.12584, "N_APOGEE": star.n_visits,
    } | cards  # fmt: skip
    hdus = [make_hdu(product, 0, cards=known, simulated=False)]
    for number, rows in enumerate(([], [], apo, lco), start=1):
        hdus.append(
            make_hdu(product, number, rows, {"V_ASTRA": "0.6.0"}, fitted=True, simulated=False)
        )
    sub = "star" if kind == "Star" else "visit"
    path = (
        folder
        / "spectra"
        / sub
        / star_folder(star.sdss_id)
        / (f"{product}-0.6.0-{star.sdss_id}.fits")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(hdus))
    return path


def write_mwmstar(folder: Path, star: Star, release: str = "sdss5", **columns) -> Path:
    """An mwmStar file of one spectrum."""
    row = mwm_row(star, release=release, **columns)
    south = star.telescope == "lco25m"
    return mwm_file(folder, star, [] if south else [row], [row] if south else [])


def write_mwmvisit(folder: Path, star: Star, release: str = "sdss5") -> Path:
    """An mwmVisit file with a row a visit, and no wavelengths."""
    rows = []
    for number, (flux, err, mask) in enumerate(visits_of(star, dr17=release == "dr17")):
        with np.errstate(divide="ignore", invalid="ignore"):
            ivar = np.where(err > 0, 1 / err**2, 0)
        row = mwm_row(star, release=release) | {
            "flux": flux, "ivar": ivar, "pixel_flags": mask, "mjd": 59800 + number,
            "visit_pk": number, "plate": "15303", "fps": True, "jd": 2459800.5, "v_rel": 11.0,
        }  # fmt: skip
        rows.append(row)
    return mwm_file(folder, star, rows, [], "Visit")


def write_sdss5_apstar(
    folder: Path, star: Star, *, sdss_id: bool = True, starver: int = 59830
) -> Path:
    """An apStar file of SDSS-V: one visit makes one row, no chip limits, NaN as text."""
    rows = [star.arrays(dr17=False)]
    if star.n_visits > 1:
        unfilled = star.arrays(dr17=False)
        rows.append((unfilled[0], unfilled[1], np.zeros(N, dtype=np.int64)))
        rows += visits_of(star, dr17=False)
    images = [np.array([row[k] for row in rows]) for k in range(3)]
    cards = {
        "OBJID": star.apogee_id, "APRED": "1.3", "STARVER": str(starver), "HEALPIX": 12640,
        "SNR": star.snr, "RA": 0.1, "DEC": 60.4, "NVISITS": star.n_visits, "VRAD": -12.2,
        "VSCATTER": "NaN", "VERR": 0.0, "RV_TEFF": "NaN",
    }  # fmt: skip
    if sdss_id:
        cards["SDSSID"] = star.sdss_id
    for visit in range(star.n_visits):
        cards |= {
            f"SFILE{visit + 1}": f"apVisit-1.3-apo25m-15303-{59280 + visit}-271.fits",
            f"VRAD{visit + 1}": -12.0, f"SNRVIS{visit + 1}": "NaN", f"FLAG{visit + 1}": 0,
        }  # fmt: skip
    primary = make_hdu("apStar", 0, cards=cards | star.cards, simulated=False)
    hdus = [fits.PrimaryHDU()]
    for image in [*images, *[np.zeros_like(images[0])] * 4]:
        hdu = fits.ImageHDU(image)
        hdu.header.update(WAVE)
        hdus.append(hdu)
    hdus.append(fits.BinTableHDU())
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    extensions = buffer.getvalue()[2880:]
    velocities = make_hdu("apStar", 1, [{}] * star.n_visits, simulated=False)
    path = (
        folder
        / "stars"
        / star.telescope
        / "12"
        / "12640"
        / (f"apStar-1.3-{star.telescope}-{star.apogee_id}-{starver}.fits")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(primary + extensions + velocities)
    return path


ELEMENTS = ("mg", "si", "c", "n", "o", "al", "ti")


def astra_row(star: Star, *, release: str = "sdss5", telescope: str = "", **columns) -> dict:
    """A row of astraAllStarASPCAP."""
    row = {
        "sdss_id": star.sdss_id, "sdss4_apogee_id": star.apogee_id, "obj": star.apogee_id,
        "gaia_dr3_source_id": star.gaia_id, "release": release, "filetype": "apstar",
        "apred": "dr17" if release == "dr17" else "1.3", "telescope": telescope or star.telescope,
        "snr": star.snr, "spectrum_flags": 0, "result_flags": 0, "flag_bad": False,
        "v_astra": "0.6.0", "teff": 4700.0, "e_teff": 12.0, "logg": 2.5, "e_logg": 0.05,
        "m_h_atm": -0.2, "e_m_h_atm": 0.01, "fe_h": -0.25, "e_fe_h": 0.03, "fe_h_flags": 0,
        "raw_teff": 4650.0, "raw_e_teff": 3.0, "n_visits": star.n_visits, "h_mag": 10.1,
    }  # fmt: skip
    for element in ELEMENTS:
        row |= {f"{element}_h": -0.05, f"e_{element}_h": 0.04, f"{element}_h_flags": 0}
    return row | columns


def write_astra(
    folder: Path, rows: list[dict], *, gz: bool = False, name: str = "0.6.0", boss: int = 0
) -> Path:
    """An astraAllStarASPCAP catalogue; its table of BOSS has no rows, or some."""
    cards = {"V_ASTRA": name}
    content = b"".join([
        make_hdu("astraAllStarASPCAP", 0, cards=cards, simulated=False),
        make_hdu("astraAllStarASPCAP", 1, [{"sdss_id": 1}] * boss, cards, simulated=False),
        make_hdu("astraAllStarASPCAP", 2, rows, cards, simulated=False),
    ])  # fmt: skip
    path = folder / f"astraAllStarASPCAP-{name}.fits{'.gz' if gz else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if gz else content)
    return path


def write_drp(folder: Path, stars: list[Star], *, uri_only: bool = False) -> Path:
    """The pipeline's allStar list."""
    rows = []
    for star in stars:
        file = f"apStar-1.3-{star.telescope}-{star.apogee_id}-59830.fits"
        uri = f"apogee/spectro/redux/1.3/stars/{star.telescope}/12/12640/{file}"
        rows.append({
            "apogee_id": star.apogee_id, "file": "" if uri_only else file, "uri": uri,
            "starver": "59830", "telescope": star.telescope, "apred_vers": "1.3",
            "sdss_id": star.sdss_id, "gaia_sourceid": star.gaia_id, "snr": star.snr,
            "nvisits": star.n_visits, "starflag": 4, "rv_teff": 4750.0, "rv_tefferr": 20.0,
        })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "allStar-1.3-apo25m.fits"
    path.write_bytes(
        make_hdu("allStar", 0, simulated=False) + make_hdu("allStar", 1, rows, simulated=False)
    )
    return path
