"""A search for binaries on disk, and its figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.analysis.binaries.evidence import learn_evidence
from bayes_cannon.analysis.binaries.finding import BinarySearch
from bayes_cannon.analysis.binaries.pair_errors import learn_pair_errors
from bayes_cannon.analysis.isochrones import IsochroneSet, packaged_isochrones
from bayes_cannon.cli.commands import main
from bayes_cannon.errors import FileFormatError, InvalidDataError, OutputExistsError
from bayes_cannon.inference.binaries.fast_pass import fast_pass
from bayes_cannon.inference.binaries.search import BinarySettings
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.plots.binaries import plot_completeness, plot_pair, plot_pair_corner
from bayes_cannon.runs.binaries import give_to_run, read_binaries, write_binaries
from bayes_cannon.runs.report.loading import load_inputs
from bayes_cannon.runs.report.pairs import binary_stars
from bayes_cannon.runs.report.registry import registered_sections
from bayes_cannon.runs.results import Run, open_run
from tests.binary_problem import N_TRAINING, pairs, small_cannon, stars, true_labels
from tests.inference.test_binaries import seconds
from tests.report_problem import make_run

SETTINGS = BinarySettings(rest_frame=0.1)


@pytest.fixture(scope="module")
def search() -> BinarySearch:
    """As `find_binaries` makes it, the null of stars that the model knows: quicker."""
    from bayes_cannon.analysis.binaries import finding

    singles = stars().select(np.arange(30)).spectra
    first = np.arange(24)
    light, dv = np.full(24, 0.3), np.where(first % 2, 20.0, 0.0)
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
    labels = stars().labels
    table = Table({"STAR_1": fast.star_id, "LIGHT": light, "DV": dv})
    for star, rows in (("1", first), ("2", seconds(first))):
        for name, values in zip(labels.names, true_labels(rows).T, strict=True):
            table[f"{name}_{star}"], table[f"{name}_{star}_ERR"] = values, 0.0
    table["FOUND"] = evidence.score(injected) >= threshold
    test = pairs(np.arange(N_TRAINING, N_TRAINING + 5), np.arange(5), 0.4, 25.0)
    found = fast_pass(small_cannon(), test.star_id, test.flux, test.ivar, SETTINGS)
    errors = learn_pair_errors(null, np.ones(30, dtype=bool), labels, injected, table)
    table["TEFF_2"] = table["TEFF_1"] + 400 * (first % 3)  # some of them alike
    result = finding._table(small_cannon(), test, found, evidence, errors, 0.03, threshold)
    result.meta |= {"SEED": 1, "SIMULATE": True, "FPR": 0.05}
    return BinarySearch(
        result, found, evidence, errors, table, null, SETTINGS, 0.03, 0.05, threshold
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
    assert len(Table.read(folder / "pairs.ecsv")) == 24


def test_figures_are_drawn(search: BinarySearch, folder: Path) -> None:
    assert (folder / "completeness.png").stat().st_size > 10_000
    assert len(search.candidates) > 0
    (drawn,) = (folder / "spectra").glob("*.png")
    assert drawn.name == f"{search.candidates[0]}.png"


def test_completeness_counts_the_pairs(search: BinarySearch) -> None:
    ax = plot_completeness(search).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert sum(int(text.rpartition(" ")[2]) for text in texts) == 24
    assert "simulated" in ax.get_title()
    far = plot_completeness(search, teff=(300.0, np.inf)).axes[0]
    assert "300 or more K apart" in far.get_title()
    assert sum(int(t.get_text().rpartition(" ")[2]) for t in far.texts) < 24


def test_pair_is_drawn_with_both_stars(search: BinarySearch) -> None:
    test = pairs(np.arange(N_TRAINING, N_TRAINING + 5), np.arange(5), 0.4, 25.0)
    ax = plot_pair(small_cannon(), test, search, str(test.star_id[0])).axes[0]
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


# Runs -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(make_run(tmp_path, n_stars=6, n_pixels=200))


def table_of(run: Run) -> Table:
    names = run.star_id[:4]
    n = names.size
    table = Table({"STAR_ID": names, "CANDIDATE": [False, True, False, True]})
    table["P_BINARY"], table["SCORE"] = [0.01, 0.9, 0.02, 0.99], np.arange(n, dtype=float)
    table["LIGHT"], table["DV"] = np.full(n, 0.25), np.full(n, -21.5)
    for name in run.names:
        table[f"{name}_1"], table[f"{name}_2"] = np.full(n, 1.5), np.full(n, 2.5)
    table.meta |= {"FPR": 0.01, "PRIORRAT": 0.03}
    return table


def test_run_that_is_given_a_search_flags_its_candidates(run: Run) -> None:
    before = np.asarray(run.table["LABEL_FLAG"])
    given = give_to_run(run, table_of(run))
    bit = int(LabelFlag.BINARY_CANDIDATE)
    after = np.asarray(given.table["LABEL_FLAG"])
    assert ((after & bit) != 0).tolist() == [False, True, False, True, False, False]
    np.testing.assert_array_equal(after & ~bit, before)
    assert any("two stars" in text for text in given.problems["FOUND"])
    written = Table.read(run.folder / "catalogue.fits", hdu=1)
    np.testing.assert_array_equal(written["LABEL_FLAG"], after)
    none = table_of(run)
    none["CANDIDATE"] = False
    np.testing.assert_array_equal(give_to_run(given, none).table["LABEL_FLAG"], before)


def test_report_shows_the_candidates(run: Run) -> None:
    inputs = load_inputs(give_to_run(run, table_of(run)))
    facts, _, grid = list(binary_stars(inputs))
    assert dict(facts.facts)["candidates"] == "2"
    assert dict(facts.facts)["sum of P(binary)"] == "1.9"
    assert dict(facts.facts)["light of the second star"] == "free"
    assert [row[0] for row in grid.rows] == [str(run.star_id[3]), str(run.star_id[1])]
    assert grid.rows[0][1:4] == (0.99, 0.25, -21.5)
    table = table_of(run)
    table["TEFF_1_ERR"], table["TEFF_1_FORMAL_ERR"] = [30.0, 41.0, 52.0, 63.0], 20.0
    table["VSCATTER"], table.meta["LIGHTIS"] = [0.1, 7.5, 0.2, 0.3], "tied"
    facts, text, grid = list(binary_stars(load_inputs(give_to_run(run, table))))
    assert dict(facts.facts)["light of the second star"] == "tied to the labels of both stars"
    assert "another sign of a pair" in text.text
    assert grid.columns[-1].title == "velocity scatter of visits (km/s)"
    assert [row[-1] for row in grid.rows] == [0.3, 7.5]
    error = [column.title for column in grid.columns].index("±")
    assert grid.columns[error - 1].title == "TEFF, star 1"
    assert [row[error] for row in grid.rows] == [63.0, 41.0]
    (section,) = [s for s in registered_sections() if s.key == "binaries"]
    assert section.optional
    assert load_inputs(run.folder).binaries is not None


def test_report_without_a_search_has_no_such_section(run: Run) -> None:
    assert load_inputs(run).binaries is None


def test_search_of_other_stars_is_refused(run: Run) -> None:
    other = table_of(run)
    other["STAR_ID"] = ["a", "b", "c", "d"]
    with pytest.raises(InvalidDataError, match="none of the stars of the run"):
        give_to_run(run, other)


def test_damaged_table_of_a_run_is_an_error(run: Run) -> None:
    (run.folder / "binaries.ecsv").write_text("nonsense")
    with pytest.raises(FileFormatError, match="cannot be read as a table of binaries"):
        _ = open_run(run.folder).table


def test_corner_plot_has_both_stars() -> None:
    rng = np.random.default_rng(1)
    labels = ("chain", "draw", "label_name")
    posterior = xr.Dataset(
        {
            "labels_1": (labels, 4500 + 20 * rng.standard_normal((2, 200, 3))),
            "labels_2": (labels, 4900 + 60 * rng.standard_normal((2, 200, 3))),
            "light": (labels[:2], 0.3 + 0.02 * rng.standard_normal((2, 200))),
            "dv": (labels[:2], 20 + 0.2 * rng.standard_normal((2, 200))),
        },
        coords={"label_name": ["TEFF", "LOGG", "FE_H"]},
        attrs={"star": "2M0", "simulated": 1},
    )
    figure = plot_pair_corner(xr.DataTree.from_dict({"posterior": posterior}))
    assert len(figure.axes) == 36
    assert figure.axes[-1].get_xlabel().endswith("star 2")
    assert "simulated" in figure.get_suptitle()


def mist_of(isochrones: IsochroneSet) -> str:
    """Solar isochrone in MIST's form, with luminosities."""
    (one,) = [one for one in isochrones if one.feh == 0.0]
    columns = {"EEP": one.eep, "log10_isochrone_age_yr": np.full(len(one), 9.8),
               "initial_mass": one.initial_mass, "log_Teff": one.log_Teff, "log_g": one.log_g,
               "log_L": one.log_L, "phase": one.phase}  # fmt: skip
    rows = zip(*columns.values(), strict=True)
    return "\n".join([
        "# MIST version number  =      1.2", "#  Yinit        Zinit   [Fe/H]   [a/Fe]  v/vcrit",
        "# 0.2700  1.4E-02     0.00     0.00     0.40", "# number of isochrones = 1",
        f"# number of EEPs, cols = {len(one)} 7", "#", "# " + " ".join(columns),
        *(" ".join(f"{value}" for value in row) for row in rows),
    ]) + "\n"  # fmt: skip


def test_command_needs_a_dataset_with_the_training_stars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_cannon().save(tmp_path / "cannon.nc")
    stars().select(np.arange(N_TRAINING, N_TRAINING + 5)).save(tmp_path / "stars.nc")
    words = ["binaries", tmp_path / "cannon.nc", tmp_path / "stars.nc", "-o", tmp_path / "out"]
    mist, other = tmp_path / "giants.iso", tmp_path / "other.iso"
    mist.write_text(mist_of(packaged_isochrones()))
    other.write_text("Gmag,logAge")
    for options, message in (
        ((), "none of the model's training stars"),
        (("--light", "isochrone", "--isochrones", mist), "none of the model's training stars"),
        (("--light", "isochrone"), "needs --isochrones FILE"),
        (("--isochrones", mist), "--isochrones needs --light isochrone"),
        (("--light", "isochrone", "--isochrones", other), "not a MIST isochrone file"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["bayes-cannon", *map(str, (*words, *options))])
            with pytest.raises(SystemExit, match="2"):
                main()
        assert message in " ".join(capsys.readouterr().err.split())
