"""The Kiel diagram: what it draws, cites and refuses."""

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.contour import QuadContourSet

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.isochrones import packaged_isochrones, read_mist
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError, LabelError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.plots.common import BLUE, ORANGE
from bayes_cannon.plots.kiel import plot_kiel, plot_kiel_stars
from bayes_cannon.plots.stars import plot_kiel_offsets
from bayes_cannon.spectra.labels import Labels
from tests.analysis.test_isochrones import mist_text
from tests.comparison_problem import make_catalogue, make_labels, make_means, make_result

N_STARS = 40


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    mpl.use("Agg")
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def truth() -> Labels:
    return make_labels(N_STARS)


@pytest.fixture(scope="module")
def result(truth: Labels) -> xr.DataTree:
    return make_result(truth)


@pytest.fixture
def table(result: xr.DataTree) -> Table:
    return catalogue(result)


def entries(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [t.get_text() for t in legend.get_texts()]


def points(ax: Axes) -> np.ndarray:
    """Positions and colours' values of the stars."""
    (drawn,) = [c for c in ax.collections if c.get_array() is not None and len(c.get_offsets())]
    return np.column_stack([drawn.get_offsets(), drawn.get_array()])


def test_stars_are_where_their_labels_are(table: Table) -> None:
    ax = plot_kiel(table).axes[0]
    expected = np.column_stack([table["TEFF"], table["LOGG"], table["FE_H"]])
    np.testing.assert_allclose(points(ax), expected)
    assert ax.get_xlim()[0] > ax.get_xlim()[1]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.get_xlabel() == r"$T_\mathrm{eff}$ (K)"
    assert ax.get_ylabel() == r"$\log g$ (dex)"
    assert ax.get_title() == f"Kiel diagram, {N_STARS} stars (simulated)"
    assert any("[Fe/H] (dex)" in a.get_ylabel() for a in ax.figure.axes)
    real = table.copy()
    real.meta.update(SIMULATE=False, SIMMODEL=True)
    assert plot_kiel(real).axes[0].get_title().endswith("(model trained on simulated stars)")


def test_error_bars_are_calibrated_where_known(table: Table, truth: Labels) -> None:
    for shown, kind in (
        (table, "calibrated"), (catalogue(make_result(truth, calibrated=False)), "formal"),
    ):  # fmt: skip
        ax = plot_kiel(shown).axes[0]
        column = "TEFF_ERR" if kind == "calibrated" else "TEFF_FORMAL_ERR"
        horizontal = ax.containers[0].lines[2][0].get_segments()
        np.testing.assert_allclose([np.ptp(b[:, 0]) / 2 for b in horizontal], shown[column])
        assert f"fitted labels ± {kind} sd" in entries(ax)


def test_packaged_isochrones_are_drawn_and_cited(table: Table) -> None:
    ax = plot_kiel(table).axes[0]
    shown = entries(ax)
    assert "MIST 2.5, 6.31 Gyr, [Fe/H] = 0.00" in shown
    assert "MIST 2.5, 6.31 Gyr, [Fe/H] = −1.00" in shown
    (cited,) = [t.get_text() for t in ax.texts]
    assert "Choi et al. 2016, ApJ 823, 102" in cited
    assert "Dotter 2016, ApJS 222, 8" in cited
    solar = packaged_isochrones().select(log10_age=9.778, feh=0.0)
    branch, clump = solar.giant_branch(), solar.red_clump()
    lines = [line for line in ax.lines if line.get_linestyle() == "-"][:2]
    for line, part in zip(lines, (branch, clump), strict=True):
        np.testing.assert_allclose(line.get_xdata(), part.teff)
        np.testing.assert_allclose(line.get_ydata(), part.log_g)
    assert {line.get_linestyle() for line in ax.lines} == {"-", "--", "-.", ":"}
    (drawn,) = [c for c in ax.collections if c.get_array() is not None and len(c.get_offsets())]
    assert to_hex(lines[0].get_color()) == to_hex(drawn.to_rgba(0.0)), "coloured as the stars are"
    assert sum(entry.startswith("MIST") for entry in shown) == 4


def test_isochrones_of_the_users_own(table: Table, tmp_path) -> None:
    path = tmp_path / "own.iso"
    path.write_text(mist_text(log_ages=(9.5, 9.8), feh=0.25, version="1.2"))
    ax = plot_kiel(table, isochrones=read_mist(path), log10_age=9.5, feh=[0.25, 0.3]).axes[0]
    assert [e for e in entries(ax) if "MIST" in e] == ["MIST 1.2, 3.16 Gyr, [Fe/H] = 0.25"]
    assert "MIST 1.2" in ax.texts[0].get_text()
    with pytest.warns(BayesCannonWarning, match="no isochrone near"):
        plot_kiel(table, isochrones=read_mist(path), feh=[-1.0])


def test_posteriors_of_chosen_stars(table: Table, result: xr.DataTree, truth: Labels) -> None:
    stars = [str(s) for s in truth.star_id[:2]]
    mine = plt.figure().add_subplot()
    ax = plot_kiel(table, result=result, stars=stars, ax=mine).axes[0]
    assert ax is mine
    shown = entries(ax)
    handles = ax.get_legend().legend_handles
    symbols = {h.get_label(): h.get_marker() for h in handles if h.get_label() in stars}
    assert symbols == {stars[0]: "$A$", stars[1]: "$B$"}
    assert shown[-2:] == ["formal posterior", "calibrated posterior"]
    flagged = table.copy()
    flagged["LABEL_FLAG"][0] = int(LabelFlag.OUTSIDE_LABELS)
    named = entries(plot_kiel(flagged, result=result, stars=stars).axes[0])
    assert f"{stars[0]} (flagged BAD)" in named
    assert stars[1] in named
    assert {"A", "B"} <= {t.get_text() for t in ax.texts}
    for row, mean in enumerate(make_means(truth)[:2, :2]):
        around = [
            to_hex(c.get_edgecolor()[0]).upper() for c in ax.collections
            if isinstance(c, QuadContourSet) and not c.filled
            and c.get_paths()[0].contains_point(mean)
        ]  # fmt: skip
        assert around == [ORANGE, BLUE], row


def test_contours_are_as_wide_as_the_posteriors(result: xr.DataTree, truth: Labels) -> None:
    """The calibrated standard deviations are three times the formal ones."""
    figure = plot_kiel_stars(result, [str(truth.star_id[0])])
    lines = [c for c in figure.axes[0].collections if not c.get_fill()]
    calibrated, formal = lines
    for outer in (0, 1):
        wide, narrow = (np.ptp(c.get_paths()[outer].vertices, axis=0) for c in (calibrated, formal))
        np.testing.assert_allclose(wide / narrow, 3, rtol=0.02)


def test_panels_show_the_catalogues_value(result: xr.DataTree, truth: Labels) -> None:
    theirs = make_catalogue(truth).select(np.arange(1, N_STARS))
    stars = [str(s) for s in truth.star_id[:4]]
    figure = plot_kiel_stars(result, stars, aspcap=theirs)
    assert [ax.get_title() for ax in figure.axes] == stars
    marks = [ax.containers for ax in figure.axes]
    assert [len(m) for m in marks] == [0, 1, 1, 1]  # the catalogue does not know the first
    x, y = marks[1][0].lines[0].get_data()
    np.testing.assert_allclose([x[0], y[0]], theirs.values[0, :2])
    for ax in figure.axes:
        assert ax.get_xlim()[0] > ax.get_xlim()[1]
        assert ax.get_ylim()[0] > ax.get_ylim()[1]
    legend = figure.legends[0]
    assert "ASPCAP ± 1 sd" in [t.get_text() for t in legend.get_texts()]
    assert "Choi et al. 2016" in legend.get_title().get_text()
    assert "(simulated)" in figure.get_suptitle()
    real = result.copy()
    real.attrs["simulated"] = 0
    real["posterior"].attrs["model_simulated"] = 1
    mixed = plot_kiel_stars(real, stars).get_suptitle()
    assert "(model trained on simulated stars)" in mixed


def test_stars_without_values(table: Table) -> None:
    table["TEFF"][3] = np.nan
    table["FE_H"][5] = np.nan
    ax = plot_kiel(table).axes[0]
    assert f"{N_STARS - 1} stars" in ax.get_title()
    assert len(points(ax)) == N_STARS - 2
    del table["FE_H"]
    assert len(plot_kiel(table).axes) == 1
    table["LOGG"] = np.nan
    with pytest.raises(InvalidDataError, match=f"none of the {N_STARS} stars"):
        plot_kiel(table)
    del table["LOGG"]
    with pytest.raises(LabelError, match="no column LOGG"):
        plot_kiel(table)


def test_what_cannot_be_drawn(table: Table, result: xr.DataTree) -> None:
    with pytest.raises(InvalidDataError, match="no star 'nobody' among 40"):
        plot_kiel(table, result=result, stars=["nobody"])
    with pytest.raises(InvalidDataError, match="need the result of inference"):
        plot_kiel(table, stars=["2S00000"])
    with pytest.raises(InvalidDataError, match="at most 26 stars"):
        plot_kiel(table, result=result, stars=["2S00000"] * 27)
    with pytest.raises(InvalidDataError, match="choose at least one star"):
        plot_kiel_stars(result, [])
    bare = xr.DataTree.from_dict({"posterior": result["posterior"].to_dataset()[["TEFF"]]})
    with pytest.raises(InvalidDataError, match="the result has no LOGG"):
        plot_kiel_stars(bare, ["2S00000"])


def test_offsets_are_from_the_branch_of_each_stars_own_metallicity() -> None:
    isochrones = packaged_isochrones()
    logg, feh = np.linspace(1.0, 3.2, 60), np.tile([-0.8, -0.25, 0.4], 20)
    branch = isochrones.ridge(logg, feh, log10_age=9.8)
    solar = isochrones.select(log10_age=9.8, feh=0.0)
    np.testing.assert_allclose(
        isochrones.ridge(logg, np.zeros(60), log10_age=9.8), solar.ridge(logg)
    )
    outside = isochrones.ridge([2.0, 2.0, 9.0], [-1.5, 0.9, 0.0], log10_age=9.8)
    assert np.isnan(outside).all()
    known = Table({"TEFF": branch + 37.0, "LOGG": logg, "FE_H": feh})
    known["FE_H"][5] = -3.0
    ax = plot_kiel_offsets(known).axes[0]
    (drawn,) = [c for c in ax.collections if len(c.get_offsets())]
    np.testing.assert_allclose(drawn.get_offsets()[:, 1], 37.0)
    assert len(drawn.get_offsets()) == 59, "no point beyond the isochrones"
    assert ax.get_title() == "Offsets from MIST giant branches of 6.3 Gyr"
    known["FE_H"] = -3.0
    with pytest.raises(InvalidDataError, match="no star has"):
        plot_kiel_offsets(known)
    with pytest.raises(LabelError, match="no column FE_H"):
        plot_kiel_offsets(known["TEFF", "LOGG"])


def test_a_posterior_much_wider_than_the_others_is_an_outline(
    result: xr.DataTree, table: Table
) -> None:
    star = str(result["posterior"]["star"].values[3])
    usual = plot_kiel(table, result=result, stars=star).axes[0]
    small = table.copy()
    for name in ("TEFF_ERR", "LOGG_ERR"):
        small[name] = small[name] / 5
    wide = plot_kiel(small, result=result, stars=star).axes[0]
    filled = [
        sum(isinstance(c, QuadContourSet) and c.filled for c in ax.collections)
        for ax in (usual, wide)
    ]
    assert filled == [2, 0]
