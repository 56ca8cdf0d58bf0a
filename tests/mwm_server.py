"""A local archive of SDSS-V: mwmStar and mwmVisit files and the catalogue of astra, served.

The files have the HDUs and the header cards that a download looks at, and a few of the columns.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
from astropy.io import fits

from tests.archive_server import ArchiveServer

STARS = (
    # sdss_id, name of 2MASS in SDSS-IV, in SDSS-V, field, ra, dec, S/N
    (54392544, "2M21290843+1209118", "2M21290843+1209118", "M15", 322.3, 12.16, 180.0),
    (54392544, "2M21290843+1209118", "2M21290843+1209118", "M15", 322.3, 12.16, 90.0),
    (117524931, "2M21294979+1211058", "2M21294979+1211058", "M15", 322.46, 12.18, 60.0),
    (54400160, "", "2M21301565+1208229", "", 322.57, 12.14, 30.0),
    (54487187, "2M00000032+5737103", "2M00000032+5737103", "060+00", 0.0013, 57.62, 150.0),
    (103020000, "", "2M23595000+5730000", "", 359.96, 57.5, np.nan),
    (7, "2M03282869-6941456", "2M03282869-6941456", "K2_C4", 52.1, -69.7, 110.0),
    (11, "", "", "", -9999.0, -9999.0, 40.0),
)
"""Rows of the catalogue: a star twice, one across RA = 0, one without coordinates."""

WITHOUT_ROW = 99560000
"""A star with spectra that the catalogue does not have."""

VERSION = "spectro/astra/0.6.0"
CATALOGUE = "astraAllStarASPCAP-0.6.0.fits.gz"


def star_bytes(sdss_id: int, n_rows: int = 1) -> bytes:
    """A file like mwmStar: four tables, of which that of APOGEE at APO has rows."""
    rng = np.random.default_rng(sdss_id)
    primary = fits.PrimaryHDU()
    primary.header["V_ASTRA"] = "0.6.0"
    primary.header["SDSS_ID"] = sdss_id
    hdus: list[fits.PrimaryHDU | fits.BinTableHDU] = [primary]
    for name in ("BOSS/APO", "BOSS/LCO", "APOGEE/APO", "APOGEE/LCO"):
        rows = n_rows if name == "APOGEE/APO" else 0
        flux = rng.normal(5e3, 50.0, (rows, 8575)).astype(np.float32)
        columns = [
            fits.Column("sdss_id", "K", array=np.full(rows, sdss_id)),
            fits.Column("flux", "8575E" if rows else "0E", array=flux if rows else None),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, nrows=rows, name=name))
    sink = io.BytesIO()
    fits.HDUList(hdus).writeto(sink, checksum=True)
    return sink.getvalue()


def catalogue_hdus() -> fits.HDUList:
    """The catalogue of astra with columns that no download needs, and a table of BOSS."""
    columns = list(zip(*STARS, strict=True))
    n = len(STARS)
    rng = np.random.default_rng(4)
    table = [
        fits.Column("sdss_id", "K", array=np.array(columns[0])),
        fits.Column("sdss4_apogee_id", "19A", array=np.array(columns[1])),
        fits.Column("sdss5_target_flags", "57L", array=rng.random((n, 57)) < 0.5),
        fits.Column("ra", "E", array=np.array(columns[4]), unit="deg"),
        fits.Column("dec", "E", array=np.array(columns[5]), unit="deg"),
        fits.Column("obj", "19A", array=np.array(columns[2])),
        fits.Column("field", "20A", array=np.array(columns[3])),
        fits.Column("snr", "E", array=np.array(columns[6])),
        fits.Column("teff", "E", array=rng.normal(4700, 200, n)),
        fits.Column("param_cov", "300E", array=rng.normal(0, 1, (n, 300))),
        fits.Column("flag_bad", "L", array=rng.random(n) < 0.5),
    ]
    apogee = fits.BinTableHDU.from_columns(table)
    boss = fits.BinTableHDU.from_columns([fits.Column("sdss_id", "K")], nrows=0)
    primary = fits.PrimaryHDU()
    for hdu, instrument in ((boss, "BOSS"), (apogee, "APOGEE")):
        hdu.header["INSTRMNT"] = instrument
    primary.header["PIPELINE"] = "ASPCAP"
    return fits.HDUList([primary, boss, apogee])


def make_mwm_archive(root: Path) -> Path:
    """Write the tree of DR19 below a folder."""
    base = root / "dr19" / VERSION
    for sdss_id in {row[0] for row in STARS} | {WITHOUT_ROW}:
        groups = (f"{sdss_id:04d}"[-4:-2], f"{sdss_id:04d}"[-2:])
        for kind, name in (("star", "mwmStar"), ("visit", "mwmVisit")):
            path = base.joinpath("spectra", kind, *groups, f"{name}-0.6.0-{sdss_id}.fits")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(star_bytes(sdss_id, 1 if kind == "star" else 2))
    (base / "summary").mkdir()
    plain = root / "plain.fits"
    catalogue_hdus().writeto(plain, checksum=True)
    (base / "summary" / CATALOGUE).write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    return root


class MwmServer(ArchiveServer):
    """Serves the tree that `make_mwm_archive` writes, below ``/sas``."""

    def file(self, path: str) -> bytes | None:
        """Content at an address below ``/sas``."""
        if not path.startswith("/sas/") or ".." in path:
            return None
        found = self.survey / path.removeprefix("/sas/")
        return found.read_bytes() if found.is_file() else None
