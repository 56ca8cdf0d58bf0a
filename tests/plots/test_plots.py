"""Tests of the figures: what they say and the numbers they draw, not their pixels."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import linregress

from bayes_cannon import plots
from bayes_cannon.analysis.catalogues import catalogue, comparison
from bayes_cannon.analysis.diagnostics import Diagnostics, diagnose
from bayes_cannon.analysis.lines import lines_of
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import _spread, mark_lines, with_gaps
from bayes_cannon.plots.corner import _interval_text
from bayes_cannon.spectra.continuum import ContinuumSettings, normalize
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pixels.fit import Design

NAMES = ("TEFF", "FE_H", "SI_FE")
N_STARS, N_TRAINING = 60, 50
STAR = "S003"
SI_LINE = 16099.184  # Å, vacuum
PIXEL_STEP = 10**6e-6


@pytest.fixture(autouse=True)
def _clean_figures() -> Iterator[None]:
    """Figures are closed, and no function may change matplotlib's settings."""
    mpl.use("Agg")
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def labels() -> Labels:
    rng = np.random.default_rng(4)
    values = np.stack(
        [
            rng.normal(4500, 200, N_STARS),
            rng.normal(-0.2, 0.3, N_STARS),
            rng.normal(0, 0.1, N_STARS),
        ],
        axis=1,
    )
    ids = np.array([f"S{i:03d}" for i in range(N_STARS)])
    return Labels(NAMES, values, np.array([20.0, 0.02, 0.02]), ids)


@pytest.fixture(scope="module")
def spectra(labels: Labels) -> NormalizedSpectra:
    """Two chips with a gap; a silicon line that grows with SI_FE and a peak of scatter."""
    rng = np.random.default_rng(5)
    wavelength = 16050 * PIXEL_STEP ** np.r_[0:400, 440:840]
    line = np.exp(-0.5 * ((wavelength - SI_LINE) / 0.35) ** 2)
    flux = 1 - line * (0.3 + labels["SI_FE"])[:, None]
    for shape in (np.sin(wavelength), np.cos(wavelength)):
        flux += 0.02 * rng.standard_normal(N_STARS)[:, None] * shape
    flux += np.hypot(0.01, np.where(np.arange(800) == 700, 0.05, 0)) * rng.standard_normal(
        flux.shape
    )
    ivar = np.full(flux.shape, 1e4)
    ivar[:, 500] = 0
    ivar[3, 100:110] = 0
    flux[ivar == 0] = 1
    snr = np.full(N_STARS, 100.0)
    return NormalizedSpectra(
        labels.star_id, wavelength, flux, ivar, snr, ((0, 400), (400, 800)), True
    )


@pytest.fixture(scope="module")
def cannon(labels: Labels, spectra: NormalizedSpectra) -> Cannon:
    training = labels.select(np.arange(N_TRAINING))
    basis = PolynomialBasis.from_labels(training, 1)
    fit = fit_map(
        spectra.flux[:N_TRAINING], spectra.ivar[:N_TRAINING],
        Design.exact(basis(training.values)), n_factors=2, seed=0,
    )  # fmt: skip
    assert fit.factors is not None
    mean = fit.mean.copy()
    mean[:, 0] += 1
    history = {
        "bound": np.array(fit.bound),
        "factor_grid": np.array([0.0, 1, 2, 4]),
        "predictive": np.array([100.0, 180.0, 200.0, 199.0]),
        "predictive_error": np.array([10.0, 2.0, 0.0, 1.5]),
        "elbo": np.array([[-50.0, -5.0, -1.0, -1.0, np.nan], [-80.0, -9.0, -2.0, -2.0, -2.0]]),
    }
    return Cannon(
        basis, spectra.wavelength, spectra.chips, mean[:, :4], mean[:, 4:], fit.cov, fit.scatter,
        fit.log_scatter_sd, np.arange(800) != 500, fit.hyper, training,
        labels.star_id[N_TRAINING:], fit.factors.mean, history, simulated=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def diagnostics(cannon: Cannon, spectra: NormalizedSpectra, labels: Labels) -> Diagnostics:
    return diagnose(cannon, spectra, labels)


def make_result(labels: Labels, *, calibrated: bool = True) -> xr.DataTree:
    rng = np.random.default_rng(6)
    sd = np.array([10.0, 0.01, 0.02])
    noise = rng.standard_normal((2, 200, N_STARS, 3)) * sd
    noise[:, :, 7] = np.nan

    def dataset(draws: np.ndarray) -> xr.Dataset:
        variables = {n: (("chain", "draw", "star"), draws[..., i]) for i, n in enumerate(NAMES)}
        return xr.Dataset(variables, {"star": labels.star_id})

    names = ("rhat_max", "ess_bulk_min", "ess_tail_min", "divergences", "chi2_p", "status")
    stats = xr.Dataset({name: ("star", np.ones(N_STARS)) for name in names})
    groups = {"posterior": dataset(labels.values + noise), "star_stats": stats}
    if calibrated:
        groups["calibrated_posterior"] = dataset(labels.values + 3 * noise)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["simulated"] = 1
    return tree


@pytest.fixture(scope="module")
def result(labels: Labels) -> xr.DataTree:
    return make_result(labels)


def curve(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Points of the line with this label, breaks left out."""
    (line,) = [line for line in ax.lines if line.get_label() == label]
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    known = np.isfinite(y)
    return x[known], y[known]


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def texts(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.texts]


# Spectra ----------------------------------------------------------------------------------


def test_spectrum_draws_good_pixels_and_shades_the_others(spectra: NormalizedSpectra) -> None:
    ax = plots.plot_spectrum(spectra, STAR).axes[0]
    good = spectra.good[3]
    x, y = curve(ax, "pixels 400-800")
    np.testing.assert_array_equal(x, spectra.wavelength[400:][good[400:]])
    np.testing.assert_allclose(y, spectra.flux[3, 400:][good[400:]])
    spans = [p for p in ax.patches if p.get_width() > 0]
    low = sorted(p.get_x() for p in spans)
    assert len(spans) == 3  # ten pixels in a row, the gap, and one pixel
    assert spectra.wavelength[99] < low[0] < spectra.wavelength[100]
    gap = next(p for p in spans if p.get_x() == spectra.wavelength[399])
    assert gap.get_x() + gap.get_width() == pytest.approx(spectra.wavelength[400])
    entries = [t.get_text() for t in ax.get_legend().get_texts()]
    assert entries[-2:] == ["flagged pixels, not used", "gap between chips"]
    assert ax.get_xlabel().endswith("(Å)")
    assert ax.get_ylabel() == "normalised flux"
    assert ax.get_title() == "S003, S/N 100 per pixel (simulated)"


def test_spectrum_in_given_axes_and_window(spectra: NormalizedSpectra) -> None:
    mine = plt.figure().add_subplot()
    ax = plots.plot_spectrum(
        replace(spectra, simulated=False), STAR, window=(16060, 16070), ax=mine
    ).axes[0]
    assert ax is mine
    low, high = ax.get_xlim()
    assert 16060 <= low < high <= 16070
    assert len(ax.get_legend().get_texts()) == 1  # neither flagged pixels nor a gap here
    assert "simulated" not in ax.get_title()
    with pytest.raises(InvalidDataError, match="holds no pixel"):
        plots.plot_spectrum(spectra, STAR, window=(17000, 17100))
    with pytest.raises(InvalidDataError, match="no star 'nobody' among 60"):
        plots.plot_spectrum(spectra, "nobody")


def test_continuum_figure_shows_what_was_fitted() -> None:
    wavelength = 16050 * PIXEL_STEP ** np.arange(300)
    x = np.linspace(-1, 1, 300)
    flux = 200 * (1 + 0.2 * x)[None]
    ivar = np.full((1, 300), 0.01)
    ivar[0, 40:50] = 0
    raw = ObservedSpectra(["A"], wavelength, flux, ivar, [20.0], ((0, 300),))
    settings = ContinuumSettings(degree=2, pixels=tuple(wavelength[5::10]))
    normalized, fit = normalize(raw, settings)
    figure = plots.plot_continuum(raw, normalized, fit, "A", settings=settings)
    top, bottom = figure.axes
    np.testing.assert_allclose(curve(top, "fit, one per chip")[1], fit.continuum(0))
    pixels = curve(top, "continuum pixels")[0]
    expected = [w for i, w in enumerate(wavelength) if i % 10 == 5 and not 40 <= i < 50]
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_allclose(curve(bottom, "normalised")[1], 1, atol=1e-6)
    assert "erg" in top.get_ylabel()
    assert title(figure) == "Continuum of A"
    with pytest.raises(InvalidDataError, match="no star 'B'"):
        plots.plot_continuum(raw, normalized, fit, "B", settings=settings)


def test_model_figure_draws_prediction_and_residuals(
    cannon: Cannon, spectra: NormalizedSpectra, labels: Labels
) -> None:
    figure = plots.plot_model(cannon, spectra, STAR, labels.values[3], window=None)
    top, bottom = figure.axes
    prediction = cannon.predict(labels.values[3])
    np.testing.assert_allclose(curve(top, "model")[1], prediction.flux[cannon.used])
    good = spectra.good[3] & cannon.used
    sigma = np.hypot(spectra.ivar[3, good].astype(float) ** -0.5, prediction.sd[good])
    expected = (spectra.flux[3] - prediction.flux)[good] / sigma
    drawn = np.asarray(bottom.lines[0].get_ydata(), float)
    np.testing.assert_allclose(drawn[np.isfinite(drawn)], expected, rtol=1e-5)
    assert texts(bottom) == [f"rms {np.sqrt(np.mean(expected**2)):.2f} sigma (expected: 1)"]
    lines = [name for name in ("FE_H", "SI_FE") for name in lines_of(name)["name"]]
    assert set(texts(top)) <= set(lines)
    assert "Si I 16099.2" in texts(top)
    x = np.array([line.get_xdata()[0] for line in top.lines if line.get_ls() == ":"])
    assert x.size == len(texts(top)) <= 20
    assert np.abs(x - SI_LINE).min() < 0.01
    # Over all stars the residuals have the size that the band and the errors say (60 stars share
    # two factors each, so that the rms has an error near 0.05).
    everything = cannon.predict(labels.values)
    use = spectra.good & cannon.used
    variance = 1 / spectra.ivar[use].astype(float) + everything.sd[use] ** 2
    rms = np.sqrt(np.mean((spectra.flux - everything.flux)[use] ** 2 / variance))
    assert rms == pytest.approx(1, abs=0.2)
    assert "sigma" in bottom.get_ylabel()
    assert "(simulated)" in title(figure)
    assert f"{labels.values[3, 0]:.0f} K" in title(figure)
    entries = [t.get_text() for t in top.get_legend().get_texts()]
    assert entries == ["model ± 1 sd", "observed", "model", "flagged pixels, not used"]


def test_model_figure_says_whether_star_or_model_is_simulated(
    cannon: Cannon, spectra: NormalizedSpectra, labels: Labels
) -> None:
    real = replace(spectra, simulated=False)
    mixed = title(plots.plot_model(cannon, real, STAR, labels.values[3]))
    assert "(model trained on simulated stars)" in mixed
    assert "(simulated)" not in mixed
    plain = title(plots.plot_model(replace(cannon, simulated=False), real, STAR, labels.values[3]))
    assert "simulated" not in plain


def test_model_figure_wants_the_models_pixels(
    cannon: Cannon, spectra: NormalizedSpectra, labels: Labels
) -> None:
    short = NormalizedSpectra(
        ["A"], spectra.wavelength[:10], spectra.flux[:1, :10], spectra.ivar[:1, :10]
    )
    with pytest.raises(InvalidDataError, match="have 10 pixels, the model 800"):
        plots.plot_model(cannon, short, "A", labels.values[0])
    with pytest.raises(InvalidDataError, match="no star 'B'"):
        plots.plot_model(cannon, spectra, "B", labels.values[0])


# The trained model ------------------------------------------------------------------------


def test_scatter_names_its_peak(cannon: Cannon) -> None:
    ax = plots.plot_scatter(cannon, n_lines=3).axes[0]
    x, y = curve(ax, "intrinsic scatter")
    np.testing.assert_array_equal(x, cannon.wavelength[cannon.used])
    np.testing.assert_array_equal(y, cannon.scatter[cannon.used])
    assert int(np.argmax(cannon.scatter)) == 700
    marked = [float(np.asarray(a.xy)[0]) for a in ax.texts]
    unknown = curve(ax, "no line known")[0].tolist()
    assert cannon.wavelength[700] in [*marked, *unknown]
    assert len(marked) + len(unknown) == 3
    assert "?" not in texts(ax)
    assert ax.get_title().endswith("(simulated)")
    assert not plots.plot_scatter(cannon, n_lines=0).axes[0].texts


def test_loadings_are_drawn_with_the_lines_they_follow(cannon: Cannon) -> None:
    peak = int(np.argmin(np.abs(cannon.wavelength - SI_LINE)))
    loadings = 1e-4 * np.ones_like(cannon.loadings)
    loadings[peak, 1] = 0.1
    figure = plots.plot_loadings(replace(cannon, loadings=loadings))
    assert len(figure.axes) == 2
    drawn = np.asarray(figure.axes[1].lines[0].get_ydata(), float)
    np.testing.assert_array_equal(drawn[np.isfinite(drawn)], loadings[cannon.used, 1])
    assert texts(figure.axes[1])[0].startswith("Si I 16099")
    assert "factor 2" in figure.axes[1].get_ylabel()
    assert "2 of 2 factors" in title(figure)
    only = plots.plot_loadings(cannon, factors=[1])
    assert "factor 2" in only.axes[0].get_ylabel()
    with pytest.raises(InvalidDataError, match="factors have numbers below 2"):
        plots.plot_loadings(cannon, factors=[2])


def test_spectra_beyond_the_list_of_lines_are_drawn_without_marks_for_lines(cannon: Cannon) -> None:
    optical = replace(cannon, wavelength=cannon.wavelength / 3)
    ax = plots.plot_scatter(optical, n_lines=25).axes[0]
    assert not ax.texts
    assert "no line known" not in ax.get_title()
    figure = plots.plot_loadings(optical)
    assert title(figure) == "Loadings of 2 of 2 factors (simulated)"
    low, high = figure.axes[0].get_ylim()
    drawn = np.asarray(figure.axes[0].lines[0].get_ydata(), float)
    assert high - np.nanmax(drawn) < 0.1 * (high - low)
    gradients = plots.plot_gradients(optical, window=None)
    assert [t.get_text() for t in gradients.legends[0].get_texts()] == [
        "posterior mean",
        "95 % band",
    ]


def test_gradients_have_units_band_and_lines(cannon: Cannon) -> None:
    figure = plots.plot_gradients(cannon, window=(16090, 16110))
    assert figure.axes[0].get_shared_x_axes().joined(*figure.axes[:2])
    assert len(figure.axes) == 3
    assert figure.axes[0].get_ylabel().endswith("flux per 100 K")
    assert figure.axes[2].get_ylabel() == "[Si/Fe]\nflux per 0.1 dex"
    x, y = curve(figure.axes[2], "posterior mean")
    gradient = cannon.gradient(cannon.label_mean)
    inside = (cannon.wavelength >= 16090) & (cannon.wavelength < 16110) & cannon.used
    np.testing.assert_allclose(y, 0.1 * gradient.value[2, inside])
    assert abs(x[np.argmin(y)] - SI_LINE) < 0.3
    dotted = [line.get_xdata()[0] for line in figure.axes[2].lines if line.get_linestyle() == ":"]
    known = [w for w in lines_of("SI_FE")["vacuum"] if 16090 < w < 16110]
    np.testing.assert_allclose(dotted, known)
    assert known
    two = plots.plot_gradients(cannon, names=["FE_H"], window=None, labels=cannon.label_mean)
    assert len(two.axes) == 1
    with pytest.raises(LabelError, match="unknown label 'NI_FE'"):
        plots.plot_gradients(cannon, names=["NI_FE"])


def test_only_narrow_peaks_of_a_loading_are_named_on_their_side(cannon: Cannon) -> None:
    """A broad wave and noise have no names; a line downwards is named below the curve."""
    w = cannon.wavelength
    up, down = (np.exp(-0.5 * ((w - at) / 0.3) ** 2) for at in (SI_LINE, 16064.397))
    loading = 0.05 * np.sin((w - w[0]) / 30)
    loading += 0.001 * np.random.default_rng(3).standard_normal(w.size)
    figure = plots.plot_loadings(replace(cannon, loadings=np.stack([loading] * 2, axis=1)))
    slow = "mostly a slow wave: continuum or edges of chips"
    assert texts(figure.axes[0]) == []
    assert figure.axes[0].get_title(loc="right") == slow, "where no name of a line is"
    loading += 0.03 * up - 0.03 * down
    figure = plots.plot_loadings(replace(cannon, loadings=np.stack([loading] * 2, axis=1)))
    place = {t.get_text(): t.get_position()[1] for t in figure.axes[0].texts}
    assert sorted(place) == ["Si I 16064.4", "Si I 16099.2"]
    assert place["Si I 16064.4"] < 0.2
    assert place["Si I 16099.2"] > 0.8


def test_choice_of_factors_marks_the_chosen(cannon: Cannon) -> None:
    ax = plots.plot_factor_choice(cannon).axes[0]
    x, y = ax.containers[0][0].get_data()
    np.testing.assert_array_equal(x, [0, 1, 2, 4])
    np.testing.assert_array_equal(y, [-100, -20, 0, -1])
    assert "largest" not in ax.get_title()
    rising = cannon.history | {"predictive": np.array([100.0, 180, 190, 200])}
    assert (
        "the largest number tried is the best"
        in plots.plot_factor_choice(replace(cannon, history=rising)).axes[0].get_title()
    )
    assert curve(ax, "chosen: 2 factors")[0][0] == 2
    with pytest.raises(InvalidDataError, match="'factor_grid': the number of factors was given"):
        plots.plot_factor_choice(replace(cannon, history={}))


def test_bound_is_drawn_relative_to_its_end(cannon: Cannon) -> None:
    ax = plots.plot_bound(cannon).axes[0]
    bound = cannon.history["bound"]
    np.testing.assert_allclose(curve(ax, "bound after each round")[1], bound - bound[-1])
    assert ax.get_ylabel().endswith("(nat)")
    with pytest.raises(InvalidDataError, match="no 'bound'"):
        plots.plot_bound(replace(cannon, history={}))


def test_elbo_leaves_padding_out(cannon: Cannon) -> None:
    ax = plots.plot_elbo(cannon).axes[0]
    first, second = (np.asarray(line.get_ydata(), float) for line in ax.lines[:2])
    np.testing.assert_array_equal(first, [-49, -4, 0, 0])
    np.testing.assert_array_equal(second, [-78, -7, 0, 0, 0])
    assert "2 chunks" in ax.get_title()
    with pytest.raises(InvalidDataError, match="train with method 'advi'"):
        plots.plot_elbo(replace(cannon, history={}))


# Diagnostics ------------------------------------------------------------------------------


def test_chi_square_of_pixels(diagnostics: Diagnostics) -> None:
    ax = plots.plot_chi2_pixels(diagnostics).axes[0]
    chi2 = diagnostics.quality.chi2_pixel
    np.testing.assert_array_equal(curve(ax, "pixels")[1], chi2[np.isfinite(chi2)])
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert f"median {np.nanmedian(chi2):.2f}" in legend
    assert "60 stars (simulated)" in ax.get_title()


def test_chi_square_of_stars_names_the_worst(diagnostics: Diagnostics) -> None:
    ax = plots.plot_chi2_stars(diagnostics, n_named=2).axes[0]
    drawn = np.concatenate([np.asarray(c.get_offsets())[:, 1] for c in ax.collections])
    np.testing.assert_allclose(np.sort(drawn), np.sort(diagnostics.quality.chi2_star))
    worst = diagnostics.quality.worst_stars(2)
    assert all(star in texts(ax)[0] for star, _ in worst)
    assert not plots.plot_chi2_stars(diagnostics, n_named=0).axes[0].texts


def test_residual_correlation_before_and_after(diagnostics: Diagnostics, cannon: Cannon) -> None:
    figure = plots.plot_residual_correlation(diagnostics)
    lag, _, share = figure.axes
    found = diagnostics.correlation
    for i, label in enumerate(("before factors", "after 2 factors")):
        known = np.isfinite(found.lag_mean_abs[:, i])
        np.testing.assert_array_equal(curve(lag, label)[1], found.lag_mean_abs[known, i])
        np.testing.assert_allclose(curve(share, label)[1], 100 * found.eigenvalue_share[:, i])
    assert "over 60 stars" in title(figure)
    alone = plots.plot_residual_correlation(replace(diagnostics, n_factors=0))
    labels = [line.get_label() for line in alone.axes[0].lines]
    assert "before factors" in labels
    assert not any(str(text).startswith("after") for text in labels)


def test_leverage_names_the_highest(diagnostics: Diagnostics) -> None:
    ax = plots.plot_leverage(diagnostics, n_named=1).axes[0]
    highest = diagnostics.quality.star_id[np.argmax(diagnostics.quality.leverage)]
    assert highest in texts(ax)[0]
    drawn = np.concatenate([np.asarray(c.get_offsets())[:, 1] for c in ax.collections])
    np.testing.assert_allclose(np.sort(drawn), np.sort(diagnostics.quality.leverage))


# Inferred labels --------------------------------------------------------------------------


def test_corner_shows_both_posteriors_with_units(result: xr.DataTree, labels: Labels) -> None:
    figure = plots.plot_corner(result, STAR, truth=labels.values[3], aspcap=labels)
    axes = np.array(figure.axes).reshape(3, 3)
    assert [ax.get_xlabel() for ax in axes[2]] == [
        r"$T_\mathrm{eff}$ (K)", "[Fe/H] (dex)", "[Si/Fe] (dex)",
    ]  # fmt: skip
    entries = [t.get_text() for t in figure.legends[0].get_texts()]
    assert entries == ["formal posterior", "calibrated posterior", "truth", "ASPCAP ± 1 sd"]
    assert title(figure) == "Labels of S003 (simulated)"
    real = result.copy()
    real.attrs["simulated"] = 0
    real["posterior"].attrs["model_simulated"] = 1
    mixed = title(plots.plot_corner(real, STAR))
    assert mixed == "Labels of S003 (model trained on simulated stars)"
    wide = result["calibrated_posterior"]["TEFF"].values[..., 3]
    low, middle, high = np.quantile(wide, [0.16, 0.5, 0.84])
    formal_text, shown, name = texts(axes[0, 0])
    assert f"{middle:.0f}" in shown
    assert f"{0.5 * (high - low):.0f}" in shown or f"+{high - middle:.0f}" in shown
    assert shown.endswith(" K")
    assert name == r"$T_\mathrm{eff}$"
    narrow, broad = (
        next(p for p in axes[0, 0].patches if p.get_label() == f"{kind} posterior").get_xy()
        for kind in ("formal", "calibrated")
    )
    assert np.ptp(narrow[:, 0]) < 0.5 * np.ptp(broad[:, 0])  # bins of its own
    for outline in (narrow, broad):  # closed, along the steps and back along zero
        x, y = outline.T
        assert 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) == pytest.approx(1)
    assert narrow[:, 1].max() > 2 * broad[:, 1].max()  # densities: formal is narrower
    (dotted,) = (c for c in axes[0, 0].collections if c.get_label().startswith("_"))
    at = [segment[0, 0] for segment in dotted.get_segments()]
    np.testing.assert_allclose(at, [low, high])
    assert labels.values[3, 0] in [line.get_xdata()[0] for line in axes[0, 0].lines]
    assert axes[0, 0].get_ylim()[1] > narrow[:, 1].max()
    note = figure.legends[0].get_title().get_text()
    assert "39.3 and 86.5 % of the draws\n(1σ, 2σ in 2-D)" in note
    assert "cut" not in note
    assert formal_text.startswith("formal $4632.4^{+")


def test_corner_names_snr_and_flags_where_they_are_known(result: xr.DataTree) -> None:
    def lines(figure: Figure) -> list[str]:
        return [text.get_text() for text in figure.texts]

    assert lines(plots.plot_corner(result, STAR)) == ["Labels of S003 (simulated)"]
    assert lines(plots.plot_corner(result, STAR, snr=87.4))[1:] == ["S/N 87"]
    flag = np.zeros(N_STARS, dtype=np.int32)
    flag[3] = 64 + 4096
    known = result.copy()
    star = {"star": result["posterior"]["star"].values}
    columns = {"label_flag": ("star", flag), "snr": ("star", np.arange(N_STARS) + 50.0)}
    known["star_stats"] = xr.DataTree(xr.Dataset(columns, star))
    assert lines(plots.plot_corner(known, STAR))[1:] == ["S/N 53; flags: RHAT, POOR_CHI2"]
    assert lines(plots.plot_corner(known, "S004", snr=np.nan))[1:] == ["S/N 54; no flags"]


def test_corner_cuts_a_formal_peak_that_would_flatten_the_calibrated_one(
    result: xr.DataTree,
) -> None:
    narrow = result.copy()
    formal = result["posterior"].to_dataset()
    narrow["posterior"] = xr.DataTree(
        formal.mean(["chain", "draw"]) + 0.1 * (formal - formal.mean())
    )
    figure = plots.plot_corner(narrow, STAR)
    lowest, highest = sorted(p.get_xy()[:, 1].max() for p in figure.axes[0].patches)
    assert highest > 8 * lowest
    assert figure.axes[0].get_ylim()[1] == pytest.approx(4.4 * lowest)
    assert "cut at 4 times the lower" in figure.legends[0].get_title().get_text()


def test_corner_on_a_canvas_used_before_is_that_on_a_new_one(
    result: xr.DataTree, labels: Labels
) -> None:
    canvas = plots.plot_corner(result, "S005", truth=labels.values[5], aspcap=labels, snr=80)
    assert plots.plot_corner(result, STAR, figure=canvas) is canvas
    fresh = plots.plot_corner(result, STAR)
    for figure in (canvas, fresh):
        figure.canvas.draw()
    np.testing.assert_array_equal(canvas.canvas.buffer_rgba(), fresh.canvas.buffer_rgba())
    with pytest.raises(InvalidDataError, match="has 9 axes, and 2 labels need 4"):
        plots.plot_corner(result, STAR, names=["TEFF", "FE_H"], figure=canvas)


@pytest.mark.parametrize(
    ("middle", "down", "up", "text"),
    [
        (4780.4, 28.2, 28.6, "4780 ± 28"),
        (0.0501, 0.0081, 0.0082, "0.0501 ± 0.0082"),
        (-0.031, 0.0602, 0.0601, "\N{MINUS SIGN}0.031 ± 0.060"),
        (2.5, 0.1, 0.25, "$2.50^{+0.25}_{-0.10}$"),
        (4780.4, 3.02, 3.9, "$4780.4^{+3.9}_{-3.0}$"),
        (1.0, 0.0, 0.0, "1.000 ± 0.000"),
    ],
)
def test_numbers_have_two_digits_of_the_error(
    middle: float, down: float, up: float, text: str
) -> None:
    assert _interval_text(middle, down, up) == text


def test_corner_contours_of_each_posterior_are_as_wide_as_its_draws(
    result: xr.DataTree, labels: Labels
) -> None:
    """The calibrated draws are the formal ones three times as far from the true labels."""
    figure = plots.plot_corner(result, STAR, names=["TEFF", "FE_H"])
    panel = np.array(figure.axes).reshape(2, 2)[1, 0]
    # The narrow formal one is drawn last, above the other.
    calibrated, formal = [c for c in panel.collections if not c.get_fill()]
    for outer in (0, 1):  # 86 and 39 %
        narrow, broad = (
            np.ptp(c.get_paths()[outer].vertices, axis=0) for c in (formal, calibrated)
        )
        np.testing.assert_allclose(broad / narrow, 3, rtol=1e-3)


def test_corner_of_a_formal_posterior_alone(labels: Labels) -> None:
    result = make_result(labels, calibrated=False)
    figure = plots.plot_corner(result, STAR, names=["FE_H", "SI_FE"])
    assert len(figure.axes) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["formal posterior"]


def test_corner_of_one_label_and_a_long_name_keeps_its_title_inside(labels: Labels) -> None:
    ids = labels.star_id.astype("<U40")
    ids[3] = "mystery_apo25m-57.2-00042+5-apStar-dr17"
    result = make_result(replace(labels, star_id=ids))
    figure = plots.plot_corner(result, ids[3], names=["TEFF"])
    figure.canvas.draw()
    title = figure.texts[0].get_window_extent()
    assert 0 < title.x0 < title.x1 < figure.bbox.x1
    assert "contours" not in figure.legends[0].get_title().get_text()


def test_corner_takes_a_catalogue_that_lacks_a_label(result: xr.DataTree, labels: Labels) -> None:
    figure = plots.plot_corner(result, STAR, aspcap=labels.only(["FE_H"]))
    assert np.isfinite([ax.get_xlim() for ax in figure.axes]).all()


def test_corner_of_what_is_not_there(result: xr.DataTree, labels: Labels) -> None:
    with pytest.raises(InvalidDataError, match="no star 'nobody'"):
        plots.plot_corner(result, "nobody")
    with pytest.raises(InvalidDataError, match="S007 has no posterior: its inference failed"):
        plots.plot_corner(result, "S007")
    with pytest.raises(LabelError, match="unknown labels NI_FE"):
        plots.plot_corner(result, STAR, names=["NI_FE"])
    with pytest.raises(
        InvalidDataError, match="S003 has 10 draws; a corner plot needs at least 20"
    ):
        plots.plot_corner(result.isel(draw=slice(5)), STAR)
    with pytest.raises(InvalidDataError, match=r"truth has shape \(2,\), expected \(3,\)"):
        plots.plot_corner(result, STAR, truth=[1.0, 2.0])


def test_one_to_one_draws_the_table(result: xr.DataTree, labels: Labels) -> None:
    table = catalogue(result, aspcap=labels)
    figure = plots.plot_one_to_one(table)
    assert len(figure.axes) == 7
    top, bottom = figure.axes[:2]
    x, y = points(top).get_offsets().T
    known = np.isfinite(table["TEFF"])
    np.testing.assert_array_equal(x, table["TEFF_ASPCAP"][known])
    np.testing.assert_array_equal(y, table["TEFF"][known])
    np.testing.assert_allclose(points(bottom).get_offsets()[:, 1], y - x)
    for ax in (top, bottom):
        np.testing.assert_array_equal(points(ax).get_array(), table["FE_H"][known])
    assert figure.axes[6].get_ylabel() == "[Fe/H] (dex)"
    bars = top.containers[0].lines[2][1].get_segments()  # vertical ones
    np.testing.assert_allclose([np.ptp(b[:, 1]) / 2 for b in bars], table["TEFF_ERR"][known])
    row = comparison(table, labels)[1]
    for value in (f"bias {row['BIAS']:+.3f}".replace("-", "−"), f"rms {row['RMS']:.3f} dex"):
        assert value in texts(figure.axes[2])[0]
    assert f"robust {row['ROBUST_SCATTER']:.3f} dex" in texts(figure.axes[2])[0]
    assert bottom.get_xlabel() == r"ASPCAP: $T_\mathrm{eff}$ (K)"
    assert bottom.get_ylabel() == r"Δ $T_\mathrm{eff}$ (K)"
    fit = linregress(x, y - x)
    (trend,) = texts(bottom)
    assert trend.startswith("n = 59, slope ")
    assert trend.endswith(f"{fit.slope:+.5f} ± {fit.stderr:.5f}".replace("-", "−"))
    assert title(figure) == "Labels against ASPCAP, 59 stars (simulated)"
    assert "calibrated sd" in figure.legends[0].get_texts()[0].get_text()


def points(ax: Axes) -> PathCollection:
    return next(c for c in ax.collections if isinstance(c, PathCollection))


def test_one_to_one_coloured_by_another_column_or_by_none(labels: Labels) -> None:
    table = catalogue(make_result(labels), aspcap=labels)
    table["SNR"] = np.linspace(50, 200, len(table))
    table["SNR"][3] = np.nan
    figure = plots.plot_one_to_one(table, names=["TEFF"], color_by="SNR")
    known = np.isfinite(table["TEFF"])
    np.testing.assert_array_equal(points(figure.axes[0]).get_array(), table["SNR"][known])
    assert figure.axes[2].get_ylabel() == "S/N per pixel"
    figure.canvas.draw()
    grey = mpl.colors.to_rgba("#808080")
    assert points(figure.axes[0]).get_facecolors()[3] == pytest.approx(grey), "no S/N: grey"
    assert len(plots.plot_one_to_one(table, names=["TEFF"], color_by=None).axes) == 2
    with pytest.raises(LabelError, match="no column COLOUR to colour the stars by; it has"):
        plots.plot_one_to_one(table, color_by="COLOUR")
    table["FE_H"] = np.nan
    assert len(plots.plot_one_to_one(table, names=["TEFF"]).axes) == 2


def test_one_to_one_bars_of_differences_and_stars_beyond(
    result: xr.DataTree, labels: Labels
) -> None:
    table = catalogue(result, aspcap=labels)
    table["TEFF"][5] += 5000
    top, bottom, _ = plots.plot_one_to_one(table, names=["TEFF"]).axes
    known = np.isfinite(table["TEFF"])
    joint = np.hypot(table["TEFF_ERR"], table["TEFF_ASPCAP_ERR"])[known]
    bars = bottom.containers[0].lines[2][1].get_segments()
    np.testing.assert_allclose([np.ptp(b[:, 1]) / 2 for b in bars], joint)
    up, down = (line for line in bottom.lines if line.get_marker() in ("^", "v"))
    np.testing.assert_array_equal(up.get_xdata(), table["TEFF_ASPCAP"][[5]])
    assert up.get_ydata()[0] < bottom.get_ylim()[1]
    assert len(down.get_xdata()) == 0
    (cross,) = top.containers[1].lines[2][1].get_segments()
    assert np.ptp(cross[:, 1]) / 2 == pytest.approx(np.median(table["TEFF_ERR"][known]))


def test_one_to_one_against_the_truth(labels: Labels) -> None:
    table = catalogue(make_result(labels, calibrated=False))
    order = np.arange(N_STARS)[::-1]
    figure = plots.plot_one_to_one(
        table, reference=labels.select(order), reference_name="truth", names=["SI_FE"]
    )
    x = points(figure.axes[0]).get_offsets()[:, 0]
    np.testing.assert_array_equal(x, np.delete(labels["SI_FE"], 7))
    assert figure.axes[1].get_xlabel() == "truth: [Si/Fe] (dex)"
    assert "formal sd" in figure.legends[0].get_texts()[0].get_text()


def test_one_to_one_of_nothing(labels: Labels) -> None:
    table = catalogue(make_result(labels))
    with pytest.raises(InvalidDataError, match="no star of the table has both"):
        plots.plot_one_to_one(table)
    with pytest.raises(LabelError, match="unknown labels NI_FE"):
        plots.plot_one_to_one(table, names=["NI_FE"])


def test_pulls_beyond_the_training_labels_are_outward_and_coloured_by_flag(labels: Labels) -> None:
    table = catalogue(make_result(labels))
    training = labels.select(np.flatnonzero(labels["TEFF"] < 4600))
    top, sd = training["TEFF"].max(), training["TEFF"].std()
    flag = np.where(labels["TEFF"] > top, 2, 0)
    table["TEFF_FLAG"] = flag
    figure = plots.plot_edge_pulls(
        table, training, reference=labels.only(("TEFF",)), reference_name="truth"
    )
    (ax,) = figure.axes
    bad = next(line for line in ax.lines if line.get_marker() == "D")
    known = np.isfinite(table["TEFF"]) & (flag > 0)
    np.testing.assert_allclose(bad.get_xdata(), (labels["TEFF"][known] - top) / sd)
    error = np.hypot(table["TEFF_ERR"], labels.error("TEFF"))
    pull = np.clip((table["TEFF"] - labels["TEFF"]) / error, -6, 6)[known]
    np.testing.assert_allclose(bad.get_ydata(), pull)
    assert f"{known.sum()} labels beyond" in ax.get_title()
    assert ax.get_xlabel() == "truth beyond the training labels (sd of these)"
    below = replace(training, values=training.values + np.array([1000, 0, 0]))
    low = plots.plot_edge_pulls(table, below, reference=labels.only(["TEFF"])).axes[0]
    y = np.concatenate([line.get_ydata() for line in low.lines if line.get_marker() in "oD"])
    whole = np.clip((table["TEFF"] - labels["TEFF"]) / error, -6, 6)[np.isfinite(table["TEFF"])]
    np.testing.assert_allclose(np.sort(y), np.sort(-whole), err_msg="outward of a lower edge")
    wide = np.linspace(-1, 1, len(training))[:, None] * [900, 9, 9] + [4500, -0.2, 0]
    far = replace(training, values=wide)
    inner = plots.plot_edge_pulls(table, far, reference=labels.only(["FE_H"])).axes[0]
    assert sum(line.get_xdata().size for line in inner.lines if line.get_marker() == "o") == 59
    with pytest.raises(InvalidDataError, match="no star has a label and its reference"):
        plots.plot_edge_pulls(table, far, reference=labels.select([7]))


def test_a_figure_for_a_paper_fits_a_column_and_stays_readable(labels: Labels, tmp_path) -> None:
    table = catalogue(make_result(labels), aspcap=labels)
    wide = plots.for_paper(plots.plot_one_to_one(table))
    assert wide.get_size_inches()[0] == pytest.approx(7.1)
    renderer = wide.canvas.get_renderer()
    for ax in wide.axes:
        box = ax.get_tightbbox(renderer)
        assert 0 <= box.x0 <= box.x1 <= wide.bbox.x1, "the colour bar's text is inside, too"
    one = plots.for_paper(plots.plot_one_to_one(table, names=["TEFF"]))
    assert one.get_size_inches()[0] == pytest.approx(3.4), "a pair of panels and a colour bar"
    narrow = plots.for_paper(plots.plot_kiel(table_of_kiel()))
    assert narrow.get_size_inches()[0] == pytest.approx(3.4), "a panel and its colour bar"
    for figure in (wide, narrow):
        sizes = [text.get_fontsize() for text in figure.findobj(Text)]
        assert 6 <= min(sizes) <= max(sizes) <= 8.5
    with pytest.raises(InvalidDataError, match="1 or 2 columns, not 3"):
        plots.for_paper(wide, columns=3)
    path = plots.save_figure(narrow, tmp_path / "kiel.png", dpi=100, style="paper")
    assert plt.imread(path).shape[1] == 340


def table_of_kiel() -> Table:
    values = {"TEFF": np.linspace(4000, 5000, 20), "LOGG": np.linspace(1, 3, 20)}
    return Table(values | {"FE_H": np.zeros(20)})


# Parts ------------------------------------------------------------------------------------


def test_curves_break_at_gaps() -> None:
    x, y = with_gaps(np.array([1.0, 2, 3, 10, 11]), np.arange(5.0), np.array([1, 1, 0, 1, 1]) > 0)
    np.testing.assert_array_equal(x, [1, 2, 3, 6.5, 10, 11])
    np.testing.assert_array_equal(y, [0, 1, np.nan, np.nan, 3, 4])
    np.testing.assert_array_equal(with_gaps(np.array([1.0, 9.0]), np.ones(2))[1], [1, 1])


def test_names_of_lines_are_moved_apart() -> None:
    moved = _spread(np.array([0.0, 0.001, 0.002, 0.5, 1.0]), 0.05)
    assert (np.diff(moved) > 0.045).all()
    assert moved[0] >= 0
    assert moved[3] == 0.5
    ax = plt.figure().add_subplot()
    ax.set_xlim(15200, 15300)
    mark_lines(ax, [15100, 15250], ["outside", "inside"])
    assert texts(ax) == ["inside"]
    mark_lines(ax, [15100], ["outside"])
    assert texts(ax) == ["inside"]


def test_every_figure_is_exported() -> None:
    folder = Path(plots.__file__).parent
    made = {
        found
        for path in folder.rglob("*.py")
        for found in re.findall(r"^def (plot_\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert {name for name in plots.__all__ if name.startswith("plot_")} == made
    assert all(callable(getattr(plots, name)) for name in plots.__all__)


def test_every_figure_is_returned_as_such_and_one_panel_can_be_drawn_elsewhere() -> None:
    names = [n for n in plots.__all__ if n.startswith("plot_")]
    kinds = {name: inspect.signature(getattr(plots, name)) for name in names}
    assert {name for name, kind in kinds.items() if kind.return_annotation != "Figure"} == set()
    one_panel = {name for name, kind in kinds.items() if "ax" in kind.parameters}
    assert {"plot_spectrum", "plot_kiel", "plot_scatter", "plot_sequence"} <= one_panel
    assert all(kinds[name].parameters["ax"].default is None for name in one_panel)
