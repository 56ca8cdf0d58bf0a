"""Tables of results as FITS files: one writer, one content of the header."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.sampler import Stage, star_seed
from bayes_cannon.inference.tables import MARK, reduction_story, write_fits


def test_header_says_all_that_a_reader_must_know(tmp_path: Path) -> None:
    table = Table({"STAR_ID": ["Ägir", "b"], "TEFF": [4500.0, 4600.0], "LOGG": [2.0, 1.0]})
    table["TEFF"].unit, table["LOGG"].unit = "K", "dex"
    table["TEFF"].description = "of the first star ± its error"
    table.meta = {
        "SIMULATE": True, "REDUCTN": "1.3", "REDUCMOD": "dr17", "false_positives": 0.01,
        "comments": [MARK, "a line of its own"],
    }  # fmt: skip
    write_fits(table, tmp_path / "t.fits", name="THINGS", overwrite=False)
    with fits.open(tmp_path / "t.fits") as hdus:
        header, data = hdus[1].header, hdus[1].data
    assert hdus[1].name == "THINGS"
    assert data["STAR_ID"].tolist() == ["\\xc4gir", "b"]
    assert (header["TUNIT2"], header["TCOMM3"]) == ("K", "[dex]")
    assert header["TCOMM2"] == "of the first star \\xb1 its error"
    assert "TUNIT3" not in header
    assert header["FALSE_PO"] == 0.01
    told = "".join(header["HISTORY"])
    assert told.count("SIMULATED") == 1
    assert "Spectra of another reduction (1.3)" in told
    assert "a line of its own" in told
    assert table["LOGG"].unit == "dex"


def test_spectra_of_another_reduction_are_told_with_their_distance() -> None:
    other = int(LabelFlag.OTHER_REDUCTION)
    table = Table({
        "STAR_ID": ["a", "b", "c", "d"], "CHI2_RED": [1.4, 1.5, 1.6, 0.9],
        "CHI2_RANK": [0.9, 0.96, 0.999, 0.1],
        "LABEL_FLAG": [other, other | int(LabelFlag.EXTREME_FACTORS),
                       other | int(LabelFlag.POOR_CHI2 | LabelFlag.UNLIKE_TRAINING), 0],
    })  # fmt: skip
    assert reduction_story(table) == ""
    table.meta = {"REDUCTN": "1.3", "REDUCMOD": "dr17"}
    told = reduction_story(table)
    assert "chi-square is 1.5 (median), larger than that of 96 % of left-out training stars" in told
    assert "33.3 % are fitted worse than 99 % of these, 33.3 % have larger factors" in told
    assert "33.3 % are beyond them all" in told
    table["CHI2_RANK"] = np.nan
    assert "not cross-validated" in reduction_story(table)
    table["LABEL_FLAG"] = 0
    assert reduction_story(table).endswith("not in their errors.")


def test_each_use_of_a_stars_seed_has_random_numbers_of_its_own() -> None:
    words = {int(star_seed(1, "a", stage).generate_state(1)[0]) for stage in Stage}
    assert len(words) == len(Stage) == 5
