"""Comparing uncertainties with ASPCAP: numbers in closed form, and the figures' contents."""

from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import chi2 as chi2_law

import bayes_cannon as bc
from bayes_cannon import plots
from bayes_cannon.analysis.aspcap import AspcapComparison, aspcap_comparison
from bayes_cannon.analysis.aspcap_tables import snr_bins
from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.apogee.bits import ASPCAP_BITS, STAR_BITS, flag_names
from tests.comparison_problem import (
    ASPCAP,
    CALIBRATED,
    FORMAL,
    NAMES,
    make_catalogue,
    make_labels,
    make_means,
    make_result,
    make_set,
)
from tests.models.test_cannon import make_cannon

N = 200
TRUTH = make_labels(N)
THEIRS = make_catalogue(TRUTH)
SNR = np.geomspace(60, 400, N)


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before


@pytest.fixture(scope="module")
def compared() -> AspcapComparison:
    flags = np.where(np.arange(N) == 5, int(LabelFlag.POOR_CHI2), 0)
    result = make_result(TRUTH, flags=flags, formal_shift=0.5)
    return aspcap_comparison(result, make_set(THEIRS, snr=SNR))


# Numbers ----------------------------------------------------------------------------------


def test_pulls_are_over_both_errors(compared: AspcapComparison) -> None:
    off = make_means(TRUTH) - THEIRS.values
    np.testing.assert_allclose(
        compared.pull("calibrated"), off / np.hypot(CALIBRATED, ASPCAP), rtol=1e-9
    )
    shifted = (off + 0.5 * FORMAL) / np.hypot(FORMAL, ASPCAP)
    np.testing.assert_allclose(compared.pull("formal"), shifted, rtol=1e-9)
    np.testing.assert_array_equal(compared.pull(), compared.pull("calibrated"))
    assert compared.kinds == ("formal", "calibrated")
    assert compared.units == ("K", "dex", "dex")
    with pytest.raises(InvalidDataError, match="no robust posterior, only formal, calibrated"):
        compared.pull("robust")


def test_table_of_pulls(compared: AspcapComparison) -> None:
    """Calibrated errors are right here: with seed 1 to 3, sd within three standard errors of 1."""
    table = compared.pulls
    assert [tuple(r) for r in table["LABEL", "KIND"][:2]] == [
        ("TEFF", "formal"), ("TEFF", "calibrated"),
    ]  # fmt: skip
    for i, name in enumerate(NAMES):
        for kind in compared.kinds:
            row = table[(table["LABEL"] == name) & (table["KIND"] == kind)][0]
            pull = compared.pull(kind)[:, i]
            assert row["N"] == N
            assert row["PULL_SD"] == pytest.approx(pull.std(ddof=1))
            assert row["PULL_MEAN"] == pytest.approx(pull.mean())
            assert row["COVER_68"] == np.mean(np.abs(pull) < 0.9944578832)
            assert row["COVER_95"] == np.mean(np.abs(pull) < 1.9599639845)
            assert row["ASPCAP_ERR"] == pytest.approx(ASPCAP[i])
            off = compared.mean[kind][:, i] - THEIRS.values[:, i]
            assert row["BIAS"] == pytest.approx(off.mean())
            assert row["RMS"] == pytest.approx(np.sqrt(np.mean(off**2)))
        assert row["ERR"] == pytest.approx(CALIBRATED[i])
        assert row["PULL_SD"] == pytest.approx(1, abs=3 / np.sqrt(2 * N))
        assert row["PULL_ROBUST_SD"] == pytest.approx(1, abs=0.25)
        assert row["COVER_68"] == pytest.approx(0.68, abs=3 * np.sqrt(0.68 * 0.32 / N))
        formal = table[(table["LABEL"] == name) & (table["KIND"] == "formal")][0]
        assert formal["PULL_SD"] > 1.5
        assert formal["COVER_68"] < 0.6


def test_errors_in_bins_of_snr(compared: AspcapComparison) -> None:
    table = compared.errors
    rows = table[table["LABEL"] == "LOGG"]
    assert len(rows) == 6
    assert rows["N"].sum() == N
    assert (np.diff(rows["SNR"]) > 0).all()
    assert (rows["SNR_HIGH"][:-1] < rows["SNR_LOW"][1:]).all()
    for column, error in (("FORMAL", 0.02), ("CALIBRATED", 0.06), ("ASPCAP", 0.03)):
        np.testing.assert_allclose(rows[column], error)


def test_medians_follow_the_errors() -> None:
    """ASPCAP's errors halve above S/N 150: so do the medians of the upper bins."""
    errors = np.where(SNR > 150, 0.5, 1.0)[:, None] * ASPCAP
    theirs = Labels(NAMES, THEIRS.values, errors, THEIRS.star_id)
    found = aspcap_comparison(make_result(TRUTH), make_set(theirs, snr=SNR), n_bins=2).errors
    teff = found[found["LABEL"] == "TEFF"]
    np.testing.assert_allclose(teff["ASPCAP"], [12, 6])


def test_bins_of_snr_leave_unknown_stars_out() -> None:
    snr = np.array([np.nan, *range(20)], dtype=float)
    bins = snr_bins(snr, 6)
    assert [int(b.sum()) for b in bins] == [10, 10]
    assert not any(b[0] for b in bins)
    assert snr_bins(np.full(3, np.nan), 6) == []
    assert len(snr_bins(np.array([5.0]), 6)) == 1


def test_stars_that_disagree_most_come_first(compared: AspcapComparison) -> None:
    table = compared.stars
    assert len(table) == N
    off = make_means(TRUTH) - THEIRS.values
    chi2 = np.sum(off**2 / (CALIBRATED**2 + ASPCAP**2), axis=1)
    assert table["APOGEE_ID"][0] == TRUTH.star_id[np.argmax(chi2)]
    np.testing.assert_allclose(table["CHI2"], np.sort(chi2)[::-1])
    np.testing.assert_allclose(table["P"], chi2_law.sf(table["CHI2"], 3))
    pull = compared.pull()[np.argmax(chi2)]
    assert table["WORST"][0] == NAMES[np.argmax(np.abs(pull))]
    assert table["PULL"][0] == pull[np.argmax(np.abs(pull))]
    flags = dict(zip(table["APOGEE_ID"], table["FLAGS"], strict=True))
    assert flags["2S00005"] == "POOR_CHI2"
    assert flags["2S00006"] == "none"
    starflags = dict(zip(table["APOGEE_ID"], table["STARFLAG"], strict=True))
    assert starflags["2S00000"] == "PERSIST_LOW"
    assert set(table["ASPCAPFLAG"]) == {"none"}


def test_correlated_errors_count_in_the_disagreement() -> None:
    """Off along the direction in which the posterior is long is no disagreement."""
    table = catalogue(make_result(TRUTH), aspcap=THEIRS)
    scale = np.array([30.0, 0.06])
    table["LABEL_COV"][:, :2, :2] = np.outer(scale, scale) * [[1, 0.95], [0.95, 1]]
    for i, sign in ((0, 1), (1, -1)):
        table["TEFF"][i] = THEIRS["TEFF"][i] + 60
        table["LOGG"][i] = THEIRS["LOGG"][i] + sign * 0.12
        table["FE_H"][i] = THEIRS["FE_H"][i]
    found = aspcap_comparison(table)
    chi2 = dict(zip(found.stars["APOGEE_ID"], found.stars["CHI2"], strict=True))
    assert chi2["2S00001"] > 5 * chi2["2S00000"]


def test_a_table_does_like_the_posteriors() -> None:
    result = make_result(TRUTH)
    table = catalogue(result, aspcap=THEIRS)
    one, other = aspcap_comparison(result, THEIRS), aspcap_comparison(table)
    for kind in ("formal", "calibrated"):
        np.testing.assert_allclose(one.pull(kind), other.pull(kind))
    assert len(other.errors) == 0  # no S/N
    again = aspcap_comparison(
        catalogue(result), THEIRS, snr=dict(zip(TRUTH.star_id, SNR, strict=True))
    )
    np.testing.assert_allclose(again.pull(), one.pull())
    np.testing.assert_array_equal(again.snr, SNR)
    assert bc.aspcap_comparison is aspcap_comparison


def test_text_says_which_error_is_which(compared: AspcapComparison) -> None:
    text = compared.describe()
    assert text.startswith("200 stars compared with ASPCAP (SIMULATED")
    for part in ("posterior alone", "cross-validation", "repeat observations", "covariances",
                 "not its accuracy"):  # fmt: skip
        assert part in text
    assert "TEFF 30 K (ASPCAP 12; pulls' standard deviation " in text
    assert "FE_H 0.030 dex (ASPCAP 0.010;" in text


# What is missing --------------------------------------------------------------------------


def test_missing_values_are_left_out_and_counted() -> None:
    values, errors = THEIRS.values.copy(), THEIRS.errors.copy()
    values[:10, 0] = np.nan
    errors[10:15, 0] = np.nan
    values[20] = np.nan
    theirs = Labels(NAMES, values, errors, THEIRS.star_id).select(np.arange(N - 1))
    found = aspcap_comparison(make_result(TRUTH), theirs)
    count = {r["LABEL"]: r["N"] for r in found.pulls if r["KIND"] == "calibrated"}
    assert count == {"TEFF": N - 17, "LOGG": N - 2, "FE_H": N - 2}
    assert len(found.stars) == N - 2
    rows = dict(zip(found.stars["APOGEE_ID"], found.stars["N_LABELS"], strict=True))
    assert rows["2S00003"] == 2
    assert np.isnan(found.pull()[20]).all()
    figure = plots.plot_forest(found, ["2S00020", "2S00003"])
    assert len(figure.axes) == 3


def test_catalogue_without_a_label() -> None:
    found = aspcap_comparison(make_result(TRUTH), THEIRS.only(["TEFF", "LOGG"]))
    row = found.pulls[found.pulls["LABEL"] == "FE_H"][0]
    assert row["N"] == 0
    assert np.isnan(row["PULL_SD"])
    assert "FE_H" not in found.describe()
    plots.plot_pulls(found)


def test_formal_posteriors_alone() -> None:
    found = aspcap_comparison(make_result(TRUTH, calibrated=False), make_set(THEIRS, snr=SNR))
    assert found.kinds == ("formal",)
    assert found.judged == "formal"
    assert np.isnan(found.errors["CALIBRATED"]).all()
    assert "formal ones alone are too small" in found.describe()
    for figure in (plots.plot_errors(found), plots.plot_pulls(found), plots.plot_forest(found)):
        legend = [t.get_text() for lg in figure.legends for t in lg.get_texts()]
        assert not any("calibrated" in text for text in legend)


def test_a_single_star() -> None:
    truth = TRUTH.select([0])
    found = aspcap_comparison(make_result(truth), make_set(THEIRS.select([0]), snr=SNR[:1]))
    assert len(found.stars) == 1
    assert np.isnan(found.pulls["PULL_SD"]).all()
    assert found.describe().startswith("1 star compared")
    for figure in (plots.plot_errors(found), plots.plot_pulls(found), plots.plot_forest(found)):
        figure.canvas.draw()


def test_a_star_without_posterior_is_left_out() -> None:
    result = make_result(TRUTH)
    for group in ("posterior", "calibrated_posterior"):
        result[group]["TEFF"][:, :, 4] = np.nan
    found = aspcap_comparison(result, THEIRS)
    assert "2S00004" not in found.stars["APOGEE_ID"]
    assert np.isnan(found.mean["formal"][4]).all()


def test_nothing_to_compare() -> None:
    other = Labels(NAMES, THEIRS.values, ASPCAP, [f"X{i}" for i in range(N)])
    with pytest.raises(InvalidDataError, match="none of 200 stars has both a posterior"):
        aspcap_comparison(make_result(TRUTH), other)
    with pytest.raises(InvalidDataError, match="pass the labels of these stars"):
        aspcap_comparison(make_result(TRUTH))
    with pytest.raises(InvalidDataError, match="at least one bin of S/N"):
        aspcap_comparison(make_result(TRUTH), THEIRS, n_bins=0)


def test_names_of_the_archives_bits() -> None:
    assert flag_names((1 << 23) | (1 << 41), ASPCAP_BITS) == ["STAR_BAD", "MULTIPLE_SUSPECT"]
    assert flag_names((1 << 0) | (1 << 22) | (1 << 30), STAR_BITS) == [
        "BAD_PIXELS", "RV_FAIL", "BIT_30",
    ]  # fmt: skip
    assert ASPCAP_BITS[14] == "VSINI_WARN"
    assert ASPCAP_BITS[30] == "VSINI_BAD"
    assert 15 not in ASPCAP_BITS
    assert flag_names(0, STAR_BITS) == []


# Figures ----------------------------------------------------------------------------------


def test_errors_are_drawn_with_their_medians(compared: AspcapComparison) -> None:
    figure = plots.plot_errors(compared)
    assert [ax.get_ylabel() for ax in figure.axes[:3]] == [
        r"error of $T_\mathrm{eff}$ (K)", r"error of $\log g$ (dex)", "error of [Fe/H] (dex)",
    ]  # fmt: skip
    stars, medians = figure.axes[0].lines[-2:]
    np.testing.assert_array_equal(stars.get_xdata(), SNR)
    np.testing.assert_allclose(stars.get_ydata(), ASPCAP[0])
    np.testing.assert_allclose(medians.get_ydata(), ASPCAP[0])
    assert figure.axes[0].get_xscale() == "log"
    texts = [t.get_text() for lg in figure.legends for t in lg.get_texts()]
    assert texts == ["formal: posterior alone", "calibrated: with model error",
                     "ASPCAP: internal precision"]  # fmt: skip
    assert "(simulated)" in figure.get_suptitle()
    with pytest.raises(InvalidDataError, match="knows no S/N"):
        plots.plot_errors(replace(compared, errors=compared.errors[:0]))


def test_pulls_are_drawn_whole(compared: AspcapComparison) -> None:
    """Nothing is lost beyond the ends: every histogram has the area of one."""
    figure = plots.plot_pulls(compared)
    ax = figure.axes[1]
    steps = [p.get_data() for p in ax.patches]
    for step in steps:
        assert np.sum(step.values * np.diff(step.edges)) == pytest.approx(1)
    row = next(r for r in compared.pulls if r["LABEL"] == "LOGG" and r["KIND"] == "calibrated")
    shown = " ".join(t.get_text() for t in ax.texts)
    assert f"sd {row['PULL_SD']:.2f}" in shown
    assert f"within 68 %: {100 * row['COVER_68']:.0f} %" in shown
    normal = ax.lines[0]
    assert np.max(normal.get_ydata()) == pytest.approx(0.3989, abs=1e-3)


def test_forest_of_chosen_stars(compared: AspcapComparison) -> None:
    figure = plots.plot_forest(compared, ["2S00007", "2S00003"])
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        f"2S00007\nS/N {SNR[7]:.0f}", f"2S00003\nS/N {SNR[3]:.0f}",
    ]  # fmt: skip
    formal, calibrated, aspcap = (c[0].get_xdata() for c in ax.containers)
    np.testing.assert_allclose(formal, 0.5 * FORMAL[0])
    np.testing.assert_allclose(calibrated, 0)
    off = THEIRS.values - make_means(TRUTH)
    np.testing.assert_allclose(aspcap, off[[7, 3], 0])
    bars = ax.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose([np.ptp(b[:, 0]) / 2 for b in bars], CALIBRATED[0])
    assert ax.get_xlabel() == r"$T_\mathrm{eff}$ − ours (K)"
    worst = [
        t.get_text().split("\n")[0] for t in plots.plot_forest(compared).axes[0].get_yticklabels()
    ]
    assert worst == list(compared.stars["APOGEE_ID"][:10])
    with pytest.raises(InvalidDataError, match="no star 'nobody' among 200"):
        plots.plot_forest(compared, ["nobody"])
    with pytest.raises(InvalidDataError, match="at least one star"):
        plots.plot_forest(compared, [])


@pytest.fixture(scope="module")
def with_model():
    """A small model with spectra at the truth; ASPCAP has the first star 400 K off."""
    cannon = make_cannon(n_pixels=200)
    rng = np.random.default_rng(5)
    truth = cannon.training.values[:8]
    ids = np.array([f"S{i}" for i in range(8)])
    flux = cannon.predict(truth).flux + 0.003 * rng.standard_normal((8, 200))
    spectra = NormalizedSpectra(ids, cannon.wavelength, flux, np.full(flux.shape, 1e5))
    errors = np.full(truth.shape, [20.0, 0.05])
    theirs = truth.copy()
    theirs[0, 0] += 400
    compared = AspcapComparison(
        cannon.names, cannon.basis.units, ids, np.full(8, 100.0), {"formal": truth},
        {"formal": errors}, theirs, errors, None,  None, _stars_of(ids), False,
    )  # fmt: skip
    return compared, cannon, spectra


def _factors(off, noise, loadings):
    """Most probable nuisance factors of given residuals."""
    weighted = loadings.T / np.diag(noise)
    return np.linalg.solve(weighted @ loadings + np.eye(loadings.shape[1]), weighted @ off)


def _stars_of(ids):
    from astropy.table import Table

    return Table({"APOGEE_ID": ids, "N_LABELS": np.full(len(ids), 2),
                  "FLAGS": ["POOR_CHI2", *["none"] * (len(ids) - 1)]})  # fmt: skip


def test_spectra_of_those_who_disagree(with_model) -> None:
    compared, cannon, spectra = with_model
    window = (float(cannon.wavelength[0]), float(cannon.wavelength[-1]) + 1)
    figure = plots.plot_disagreements(compared, cannon, spectra, window=window)
    assert len(figure.axes) == 6
    top, bottom = figure.axes[:2]
    drawn = {line.get_label(): np.asarray(line.get_ydata(), float) for line in top.lines}
    good = cannon.used
    for i, (label, values) in enumerate(
        (("our", compared.mean["formal"][0]), ("ASPCAP's", compared.aspcap[0]))
    ):
        # The closed form: chi-square under the full covariance, scatter and factors in it.
        off = (spectra.flux[0] - cannon.predict(values).flux)[good]
        noise = np.diag(1e-5 + cannon.scatter[good] ** 2)
        cov = noise + cannon.loadings[good] @ cannon.loadings[good].T
        chi2 = float(off @ np.linalg.solve(cov, off))
        text = top.get_title(loc="left").split("\n")[1 + i]
        assert text.startswith(f"at {label} labels, ")
        assert float(text.split("$")[-1].split()[0]) == pytest.approx(chi2, rel=0.02, abs=1)
        found = drawn[f"model at {label} labels"]
        expected = cannon.predict(values).flux[good] + cannon.loadings[good] @ _factors(
            off, noise, cannon.loadings[good]
        )
        np.testing.assert_allclose(found[np.isfinite(found)], expected, atol=1e-2)
    sigma = np.sqrt(1e-5 + cannon.scatter[good] ** 2)
    ours, theirs = (drawn[f"model at {kind} labels"] for kind in ("our", "ASPCAP's"))
    below = {line.get_label(): np.asarray(line.get_ydata(), float) for line in bottom.lines}
    residual = below["observed − model at our labels"]
    change = below["model at ASPCAP's − model at our labels"]
    off = spectra.flux[0, good] - ours[np.isfinite(ours)]
    np.testing.assert_allclose(residual[np.isfinite(residual)] * sigma, off, atol=1e-6)
    np.testing.assert_allclose(
        change[np.isfinite(change)] * sigma, (theirs - ours)[np.isfinite(ours)], atol=1e-6
    )
    assert top.get_title(loc="left").startswith("S0   our flags: POOR_CHI2")
    assert len(plots.plot_disagreements(compared, cannon, spectra, ["S4"], window=window).axes) == 2


def test_spectra_that_cannot_be_shown(with_model) -> None:
    compared, cannon, spectra = with_model
    window = (float(cannon.wavelength[0]), float(cannon.wavelength[-1]))
    short = NormalizedSpectra(
        spectra.star_id, spectra.wavelength[:9], spectra.flux[:, :9], spectra.ivar[:, :9]
    )
    with pytest.raises(InvalidDataError, match="have 9 pixels, the model 200"):
        plots.plot_disagreements(compared, cannon, short)
    with pytest.raises(InvalidDataError, match="no star 'nobody'"):
        plots.plot_disagreements(compared, cannon, spectra, ["nobody"], window=window)
    with pytest.raises(InvalidDataError, match="holds no pixel"):
        plots.plot_disagreements(compared, cannon, spectra, window=(100, 200))
    holes = compared.aspcap.copy()
    holes[0, 1] = np.nan
    hollow = replace(compared, aspcap=holes)
    with pytest.raises(InvalidDataError, match="star S0 lacks a label"):
        plots.plot_disagreements(hollow, cannon, spectra, ["S0"], window=window)
    with pytest.raises(InvalidDataError, match="no star has all labels"):
        plots.plot_disagreements(
            replace(compared, stars=compared.stars[:0]), cannon, spectra, window=window
        )


def test_label_without_catalogue_errors_has_no_panel_of_pulls() -> None:
    known = make_catalogue(TRUTH)
    errors = known.errors.copy()
    errors[:, 1] = np.nan
    found = aspcap_comparison(make_result(TRUTH), replace(known, errors=errors))
    figure = plots.plot_pulls(found)
    shown = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert len(shown) == 2
    assert not any("log" in text for text in shown)


def test_spectra_are_shown_of_stars_whose_catalogue_lacks_an_error(with_model) -> None:
    compared, cannon, spectra = with_model
    stars = compared.stars.copy()
    stars["N_LABELS"] = len(compared.names) - 1
    window = (float(cannon.wavelength[0]), float(cannon.wavelength[-1]))
    lacking = replace(compared, stars=stars)
    assert len(plots.plot_disagreements(lacking, cannon, spectra, window=window).axes) == 6
