"""Figures of the sample: what the cuts remove, and the labels in training."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table

from bayes_cannon import plots
from bayes_cannon.analysis.catalogues import catalogue as catalogue_of
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.spectra.dataset import CutStep
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.catalogue import Catalogue
from tests.comparison_problem import NAMES, make_catalogue, make_labels, make_result, make_set

N = 300
THEIRS = make_catalogue(make_labels(N))


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    rng = np.random.default_rng(3)
    columns = {
        "TEFF": rng.normal(5000, 400, N), "LOGG": rng.normal(3, 0.7, N),
        "FE_H": rng.normal(-0.5, 0.4, N), "MG_FE": rng.normal(0.1, 0.1, N),
        "SI_FE": rng.normal(0.1, 0.1, N), "SNR": rng.lognormal(4.5, 0.5, N),
    }  # fmt: skip
    columns["MG_FE"][:7] = np.nan
    errors = {f"{n}_ERR": np.full(N, 0.1) for n in DEFAULT_LABELS}
    flags = {"ASPCAPFLAG": np.where(np.arange(N) % 20 == 0, 1 << 23, 0)}
    ids = np.array([f"2M{i:04d}" for i in range(N)])
    return Catalogue(Table({"APOGEE_ID": ids, **columns, **errors, **flags}), "dr17")


def texts(ax) -> list[str]:
    return [t.get_text() for t in ax.texts]


def dashed(ax) -> list[float]:
    """Places of vertical dashed lines."""
    return [
        float(line.get_xdata()[0]) for line in ax.lines
        if line.get_linestyle() == "--" and len(set(line.get_xdata())) == 1
    ]  # fmt: skip


def test_slice_shows_what_the_cuts_keep_and_remove(catalogue: Catalogue) -> None:
    figure = plots.plot_catalogue_slice(catalogue)
    found = apply_cuts(catalogue)
    kiel, listed, *histograms = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    removed, kept = (np.asarray(c.get_offsets()) for c in kiel.collections[:2])
    np.testing.assert_array_equal(kept[:, 0], catalogue.table["TEFF"][found.keep])
    np.testing.assert_array_equal(removed[:, 1], catalogue.table["LOGG"][~found.keep])
    assert kiel.xaxis_inverted()
    assert kiel.yaxis_inverted()
    assert 5700.0 in dashed(kiel)
    assert kiel.get_xlabel() == r"$T_\mathrm{eff}$ (K)"
    assert f"{found.n_kept} of 300 stars" in figure.get_suptitle()
    assert "DR17" in figure.get_suptitle()
    assert "simulated" not in figure.get_suptitle()
    shown = texts(listed)
    for step in found.rows:
        assert any(text.startswith(f"{step.name}: ") for text in shown)
        assert str(step.remaining) in shown
        assert step.removed == 0 or f"−{step.removed}" in shown
    assert [bar.get_width() for bar in listed.patches] == [s.remaining for s in found.rows]
    assert [ax.get_xlabel() for ax in histograms] == [
        "S/N per pixel", "[Fe/H] (dex)", "[Mg/Fe] (dex)", "[Si/Fe] (dex)",
    ]  # fmt: skip
    assert dashed(histograms[0]) == [50.0]
    assert dashed(histograms[1]) == [-1.0]
    everything, passing = (p.get_data().values.sum() for p in histograms[2].patches[:2])
    assert everything == N - 7  # those without a value have no place in it
    assert passing == found.n_kept


def test_slice_with_counts_of_reading_and_other_cuts(catalogue: Catalogue) -> None:
    steps = (CutStep("catalogue", "all", 0, 300), CutStep("spectrum found", "x" * 90, 290, 10))
    cuts = Cuts(teff_max=None, logg_max=None, snr_min=None, feh_min=None)
    figure = plots.plot_catalogue_slice(catalogue, cuts, steps=steps)
    kiel, listed = figure.axes[:2]
    assert dashed(kiel) == []
    assert any(
        text.startswith("spectrum found: xxx") and text.endswith("…") for text in texts(listed)
    )
    assert "−290" in texts(listed)


def test_slice_that_nothing_passes_or_that_lacks_columns(catalogue: Catalogue) -> None:
    plots.plot_catalogue_slice(catalogue, Cuts(snr_min=1e9)).canvas.draw()
    table = catalogue.table.copy()
    table.remove_columns(["SNR", "ASPCAPFLAG"])
    table["SI_FE"] = np.nan
    figure = plots.plot_catalogue_slice(
        Catalogue(table, simulated=True), label_names=["TEFF", "LOGG", "FE_H", "SI_FE"],
        cuts=Cuts(require_labels=False),
    )  # fmt: skip
    assert "(simulated)" in figure.get_suptitle()
    assert any("unknown" in texts(ax) for ax in figure.axes)
    with pytest.raises(InvalidDataError, match="no row"):
        plots.plot_catalogue_slice(catalogue.select(np.zeros(N, dtype=bool)))
    with pytest.raises(LabelError, match="NI_FE"):
        plots.plot_catalogue_slice(catalogue, label_names=["NI_FE"])


def test_sample_corner_shows_both_parts_and_the_cuts() -> None:
    cuts = json.dumps(asdict(Cuts(teff_max=5200.0, logg_max=9.0)))
    dataset = make_set(THEIRS, snr=np.full(N, 100.0), cuts=cuts)
    training, held_out = dataset.split(0.6, seed=1)
    figure = plots.plot_sample(training, held_out)
    axes = np.array(figure.axes).reshape(3, 3)
    first, second = axes[1, 0].lines[:2]
    np.testing.assert_array_equal(first.get_xdata(), training.labels["TEFF"])
    np.testing.assert_array_equal(second.get_ydata(), held_out.labels["LOGG"])
    counts = [p.get_data().values.sum() for p in axes[2, 2].patches[:2]]
    assert counts == [180, 120]
    assert dashed(axes[1, 0]) == [5200.0]
    assert dashed(axes[1, 1]) == []  # log g of 9 is far outside
    assert axes[2, 0].get_ylabel() == "[Fe/H] (dex)"
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["training: 180 stars", "held-out: 120 stars", "cuts"]
    assert figure.get_suptitle() == "Labels of the sample (simulated)"
    assert not axes[0, 1].get_visible()


def test_sample_of_plain_labels() -> None:
    figure = plots.plot_sample(THEIRS, names=["FE_H", "TEFF"], cuts=Cuts(), simulated=False)
    axes = np.array(figure.axes).reshape(2, 2)
    assert axes[1, 0].get_xlabel() == "[Fe/H] (dex)"
    assert figure.get_suptitle() == "Labels of the sample"
    alone = plots.plot_sample(THEIRS, names=["LOGG"])
    assert len(alone.axes) == 1


def test_sample_leaves_incomplete_stars_out() -> None:
    values = THEIRS.values.copy()
    values[:5, 2] = np.nan
    holes = type(THEIRS)(NAMES, values, THEIRS.errors, THEIRS.star_id)
    figure = plots.plot_sample(holes)
    assert "training: 295 stars" in [t.get_text() for t in figure.legends[0].get_texts()]
    with pytest.raises(InvalidDataError, match="no star has all labels"):
        plots.plot_sample(holes.select([0, 1]))
    with pytest.raises(LabelError, match="unknown labels NI_FE; there are TEFF, LOGG, FE_H"):
        plots.plot_sample(THEIRS, names=["NI_FE"])
    with pytest.raises(LabelError, match="unknown labels FE_H"):
        plots.plot_sample(THEIRS, THEIRS.only(["TEFF", "LOGG"]))


def test_plane_shows_stars_with_their_joint_errors():
    truth = make_labels(60)
    bad = int(LabelFlag.RHAT)
    result = make_result(truth, flags=np.where(np.arange(60) < 4, bad, 0))
    table = catalogue_of(result)
    figure = plots.plot_plane(table, "FE_H", "LOGG", reference=make_catalogue(truth))
    (ax,) = figure.axes
    assert ax.get_title().endswith("against [Fe/H] (simulated)")
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["ASPCAP", "this work, 56 ± calibrated sd", "with a BAD flag: 4"]
    (ellipse,) = ax.patches
    np.testing.assert_allclose(sorted((ellipse.width, ellipse.height)), [0.06, 0.12], rtol=0.05)
    assert "median joint error" in texts(ax)
    alone = plots.plot_plane(make_result(truth, calibrated=False), "FE_H", "LOGG")
    assert "formal" in alone.axes[0].get_legend().get_texts()[0].get_text()
    with pytest.raises(LabelError, match="must be two of the labels TEFF, LOGG, FE_H"):
        plots.plot_plane(table, "FE_H", "MG_FE")
    table["FE_H"] = np.nan
    with pytest.raises(InvalidDataError, match="none of the stars of the table has both"):
        plots.plot_plane(table, "FE_H", "LOGG")
