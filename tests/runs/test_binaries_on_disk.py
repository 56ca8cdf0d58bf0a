"""A search for binaries on disk, and its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.analysis.binaries.evidence import learn_evidence
from bayes_cannon.analysis.binaries.finding import BinarySearch
from bayes_cannon.errors import FileFormatError, OutputExistsError
from bayes_cannon.inference.binaries.fast_pass import fast_pass
from bayes_cannon.inference.binaries.search import BinarySettings
from bayes_cannon.plots.binaries import plot_completeness, plot_pair
from bayes_cannon.runs.binaries import read_binaries, write_binaries
from tests.binary_problem import N_TRAINING, pairs, small_cannon, stars
from tests.inference.test_binaries import seconds

SETTINGS = BinarySettings(rest_frame=0.1)


@pytest.fixture(scope="module")
def search() -> BinarySearch:
    """As `find_binaries` makes it, the null of stars that the model knows: quicker."""
    from bayes_cannon.analysis.binaries import finding

    singles = stars().select(np.arange(60)).spectra
    first = np.arange(40)
    light, dv = np.full(40, 0.3), np.where(first % 2, 20.0, 0.0)
    fast, slow = (pairs(first, seconds(first), 0.3, v) for v in (20.0, 0.0))
    flux = np.where((dv > 0)[:, None], fast.flux, slow.flux)
    ivar = np.where((dv > 0)[:, None], fast.ivar, slow.ivar)
    null, injected = (
        fast_pass(small_cannon(), ids, f, i, SETTINGS)
        for ids, f, i in (
            (singles.star_id, singles.flux, singles.ivar), (fast.star_id, flux, ivar),
        )
    )  # fmt: skip
    evidence = learn_evidence(null, injected)
    threshold = evidence.threshold(0.05)
    labels = stars().labels.values
    table = Table({"STAR_1": fast.star_id, "LIGHT": light, "DV": dv})
    table["TEFF_1"], table["TEFF_2"] = labels[first, 0], labels[first, 0] + 400 * (first % 3)
    table["FOUND"] = evidence.score(injected) >= threshold
    test = pairs(np.arange(N_TRAINING, N_TRAINING + 5), np.arange(5), 0.4, 25.0)
    found = fast_pass(small_cannon(), test.star_id, test.flux, test.ivar, SETTINGS)
    result = finding._table(small_cannon(), test, found, evidence, 0.03, threshold)
    result.meta |= {"SEED": 1, "SIMULATE": True, "FPR": 0.05}
    return BinarySearch(
        result, found, evidence, table, null, SETTINGS, 0.03, 0.05, threshold
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(search: BinarySearch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    test = pairs(np.arange(N_TRAINING, N_TRAINING + 5), np.arange(5), 0.4, 25.0)
    out = tmp_path_factory.mktemp("binaries") / "out"
    return write_binaries(
        search, out, cannon=small_cannon(), spectra=test, most_figures=1
    )  # fmt: skip


def test_tables_are_the_same_in_both_formats(search: BinarySearch, folder: Path) -> None:
    ecsv = read_binaries(folder)
    binary = Table.read(folder / "binaries.fits", hdu=1)
    assert ecsv.colnames == binary.colnames == search.table.colnames
    np.testing.assert_allclose(ecsv["P_BINARY"], binary["P_BINARY"])
    np.testing.assert_array_equal(ecsv["CANDIDATE"], search.table["CANDIDATE"])
    assert str(ecsv["TEFF_1"].unit) == str(binary["TEFF_1"].unit) == "K"
    header = fits.getheader(folder / "binaries.fits", 1)
    assert header["SIMULATE"] is True
    assert "SIMULATED" in str(header["HISTORY"])
    assert "dwarf" in str(header["HISTORY"])
    assert len(Table.read(folder / "pairs.ecsv")) == 40


def test_figures_are_drawn(search: BinarySearch, folder: Path) -> None:
    assert (folder / "completeness.png").stat().st_size > 10_000
    assert len(search.candidates) > 0
    assert len(list((folder / "spectra").glob("*.png"))) == 1


def test_completeness_counts_the_pairs(search: BinarySearch) -> None:
    ax = plot_completeness(search)
    texts = [text.get_text() for text in ax.texts]
    assert sum(int(text.rpartition(" ")[2]) for text in texts) == 40
    assert "simulated" in ax.get_title()
    far = plot_completeness(search, teff=(300.0, np.inf))
    assert "300 or more K apart" in far.get_title()
    assert sum(int(t.get_text().rpartition(" ")[2]) for t in far.texts) < 40


def test_pair_is_drawn_with_both_stars(search: BinarySearch) -> None:
    test = pairs(np.arange(N_TRAINING, N_TRAINING + 5), np.arange(5), 0.4, 25.0)
    ax = plot_pair(small_cannon(), test, search, str(test.star_id[0]))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names[:2] == ["observed", "pair"]
    assert names[3].startswith("second star (")
    observed, total = ax.get_lines()[0].get_ydata(), ax.get_lines()[1].get_ydata()
    both = np.isfinite(observed) & np.isfinite(total)
    assert np.std((observed - total)[both]) < 0.03


def test_existing_output_is_kept_unless_asked(search: BinarySearch, folder: Path) -> None:
    with pytest.raises(OutputExistsError, match="exists"):
        write_binaries(search, folder, cannon=small_cannon(), spectra=stars().spectra)


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="run `bayes-cannon binaries`"):
        read_binaries(tmp_path)
    Table({"STAR_ID": ["a"]}).write(tmp_path / "t.ecsv")
    with pytest.raises(FileFormatError, match="no table of binaries"):
        read_binaries(tmp_path / "t.ecsv")
