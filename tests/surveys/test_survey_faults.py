"""Hard surveys: each fault does what it says, to the spectra it names, and nothing else."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.cli.commands import main
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.simulation.faults import (
    BROADENING,
    GHOST_HEIGHT,
    LIGHT,
    SurveyFaults,
    moved,
)
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import observe, observed_faults, simulate_survey
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.surveys.simulation.telescope import KMS_PER_PIXEL

LIBRARY = load_library()
WHOLE = ((0, 8575),)
N_STARS = 40
SEED = 7
HARD = SurveyFaults.hard()
# As bright as this, noise is far below what the faults do.
BRIGHT = 1e5


def seen(faults: SurveyFaults | None, *, snr: float = BRIGHT) -> NormalizedSpectra:
    return observe(
        LIBRARY, np.arange(N_STARS), snr=snr, seed=SEED, windows=WHOLE, faults=faults
    )  # fmt: skip


def told(faults: SurveyFaults) -> Table:
    return observed_faults(LIBRARY, np.arange(N_STARS), seed=SEED, faults=faults)


@pytest.fixture(scope="module")
def clean() -> NormalizedSpectra:
    return seen(None)


@pytest.fixture(scope="module")
def noisy() -> NormalizedSpectra:
    return seen(None, snr=100.0)


def change(with_fault: NormalizedSpectra, without: NormalizedSpectra) -> np.ndarray:
    """What the fault did to the flux, NaN in bad pixels, with the large errors of sky left out."""
    np.testing.assert_array_equal(with_fault.ivar > 0, without.ivar > 0)
    usual = without.ivar > 0.2 * np.median(without.ivar, axis=1, keepdims=True)
    return np.where(usual, with_fault.flux.astype(float) - without.flux, np.nan)


def test_no_fault_changes_nothing(clean: NormalizedSpectra) -> None:
    same = seen(SurveyFaults())
    np.testing.assert_array_equal(same.flux, clean.flux)
    np.testing.assert_array_equal(same.ivar, clean.ivar)
    np.testing.assert_array_equal(same.snr, clean.snr)
    with pytest.raises(InvalidDataError, match="no faults to tell of"):
        told(SurveyFaults())


def test_a_fault_does_not_change_what_others_draw() -> None:
    all_of_them = told(HARD)
    columns = {
        "rest_frame": ["SHIFT"], "ghosts": ["GHOST"], "error_scale": ["ERROR_FACTOR"],
        "broadened": ["BROADENING"], "blends": ["BLEND_W", "BLEND_DV", "BLEND_INDEX"],
    }  # fmt: skip
    for name, own in columns.items():
        alone = told(replace(SurveyFaults(), **{name: getattr(HARD, name)}))
        for column in own:
            np.testing.assert_array_equal(alone[column], all_of_them[column])


def test_rest_frame_is_off_by_what_is_told(clean: NormalizedSpectra) -> None:
    faults = SurveyFaults(rest_frame=0.4)
    moved_by = change(seen(faults), clean)
    shift = np.asarray(told(faults)["SHIFT"])
    for k in range(N_STARS):
        star = LIBRARY.flux[k]
        slope = (moved(star, 0.1) - moved(star, -0.1)) / 0.2
        use = np.isfinite(moved_by[k])
        fitted = np.sum(slope[use] * moved_by[k, use]) / np.sum(slope[use] ** 2)
        assert fitted == pytest.approx(shift[k], rel=0.05, abs=0.01)
    # 40 draws: within 40 % (false alarm 3e-4).
    assert np.std(shift) == pytest.approx(0.4, rel=0.4)


def test_noise_of_neighbours_is_correlated(noisy: NormalizedSpectra) -> None:
    kernel = np.array([0.3, 1.0, 0.3])
    expected = np.correlate(kernel, kernel, "full")[3:] / np.sum(kernel**2)
    for faults, rho in ((SurveyFaults(correlation=0.3), expected), (None, np.zeros(2))):
        spectra = noisy if faults is None else seen(faults, snr=100.0)
        z = (spectra.flux - LIBRARY.flux[:N_STARS]) * np.sqrt(spectra.ivar)
        z[(np.abs(z) > 5) | (spectra.ivar == 0)] = np.nan
        assert np.nanvar(z) == pytest.approx(1.0, abs=0.15)
        for lag, wanted in enumerate(rho, start=1):
            assert np.nanmean(z[:, lag:] * z[:, :-lag]) == pytest.approx(wanted, abs=0.07)


def test_ghosts_add_light_to_the_blue_chip_of_the_stars_named(clean: NormalizedSpectra) -> None:
    faults = SurveyFaults(ghosts=0.15)
    added = change(seen(faults), clean)
    height = np.asarray(told(faults)["GHOST"])
    ghosts = height > 0
    assert 1 <= ghosts.sum() <= 15  # 6 expected (false alarm 1e-3)
    assert np.all((height[ghosts] >= GHOST_HEIGHT[0]) & (height[ghosts] <= GHOST_HEIGHT[1]))
    assert np.nanmax(np.abs(added[~ghosts])) == 0
    assert np.nanmax(np.abs(added[:, 3400:])) < 1e-3
    for k in np.flatnonzero(ghosts):
        assert np.nanmax(added[k]) == pytest.approx(height[k], rel=0.25)
        assert np.nanmin(added[k]) > -1e-3


def test_telluric_lines_leave_residuals_of_one_per_cent(clean: NormalizedSpectra) -> None:
    left = change(seen(SurveyFaults(tellurics=0.01)), clean) / LIBRARY.flux[:N_STARS]
    peak = np.array([np.nanmax(np.abs(star)) for star in left])
    assert np.all(peak < 0.06)  # 107 lines a star
    centre = np.nanstd(left[:, 4257])  # the line at 4257, moved by 10 pixels rms
    assert 0.001 < centre < 0.012
    assert np.nanmax(np.abs(left[:, 1100:2700])) < 1e-3  # no line there
    spread = np.sqrt(np.nanmean(left**2))
    assert 0.0005 < spread < 0.01


def test_sky_leaves_residuals_that_no_mask_knows(noisy: NormalizedSpectra) -> None:
    left = change(seen(SurveyFaults(sky=3.0), snr=100.0), noisy) * np.sqrt(noisy.ivar)
    peaks = np.sort(np.abs(left), axis=1)
    strong = np.nansum(np.abs(left) > 3, axis=1)
    # 60 lines, a third of them above 3 sigma for about two pixels.
    assert 10 < np.mean(strong) < 80
    assert np.nanmax(peaks) < 3 * 6
    assert np.nanmedian(np.abs(left)) < 1e-3  # most pixels have none


def test_quoted_errors_are_off_by_the_factor_told(noisy: NormalizedSpectra) -> None:
    faults = SurveyFaults(error_scale=0.2)
    wrong, factor = seen(faults, snr=100.0), np.asarray(told(faults)["ERROR_FACTOR"])
    np.testing.assert_array_equal(wrong.flux, noisy.flux)
    ratio = np.sqrt(
        np.where(noisy.ivar > 0, noisy.ivar, 1) / np.where(wrong.ivar > 0, wrong.ivar, 1)
    )
    for k in range(N_STARS):
        np.testing.assert_allclose(ratio[k, noisy.ivar[k] > 0], factor[k], rtol=1e-5)
    np.testing.assert_allclose(wrong.snr * factor, noisy.snr)
    assert np.std(np.log(factor)) == pytest.approx(0.2, rel=0.4)


def test_broadened_stars_have_shallower_lines_of_the_same_width(clean: NormalizedSpectra) -> None:
    faults = SurveyFaults(broadened=0.2)
    spectra, width = seen(faults), np.asarray(told(faults)["BROADENING"])
    there = width > 0
    assert 2 <= there.sum() <= 18
    assert np.all((width[there] >= BROADENING[0]) & (width[there] <= BROADENING[1]))
    difference = change(spectra, clean)
    assert np.nanmax(np.abs(difference[~there])) == 0
    for k in np.flatnonzero(there):
        use = np.isfinite(difference[k])
        # Shallower lines, equal widths: the sum over the spectrum stays.
        assert np.std(spectra.flux[k, use]) < 0.97 * np.std(clean.flux[k, use])
        assert abs(difference[k, use].mean()) < 0.02 * (1 - clean.flux[k, use]).mean()


def test_blends_are_the_sum_of_two_giants(clean: NormalizedSpectra) -> None:
    faults = SurveyFaults(blends=0.3)
    spectra, table = seen(faults), told(faults)
    blends = np.asarray(table["BLEND"])
    assert 4 <= blends.sum() <= 22  # 12 expected (false alarm 1e-3)
    difference = change(spectra, clean)
    assert np.nanmax(np.abs(difference[~blends])) == 0
    for k in np.flatnonzero(blends):
        row = table[k]
        assert LIGHT[0] <= row["BLEND_W"] <= LIGHT[1]
        assert abs(row["BLEND_DV"]) <= 60
        assert abs(row["BLEND_FE_H"] - LIBRARY.values("FE_H")[k]) < 0.1
        for name in ("TEFF", "LOGG", "MG_FE"):
            assert row[f"BLEND_{name}"] == LIBRARY.values(name)[row["BLEND_INDEX"]]
        second = moved(LIBRARY.flux[row["BLEND_INDEX"]], row["BLEND_DV"])
        expected = row["BLEND_W"] * (second - LIBRARY.flux[k])
        use = np.isfinite(difference[k])
        assert np.std(difference[k, use] - expected[use]) < 0.05 * np.std(expected[use])
    single = table[~blends]
    assert np.all(single["BLEND_INDEX"] == -1)
    assert np.isnan(single["BLEND_TEFF"]).all()


@pytest.mark.parametrize("velocity", [0.4, -13.7, 60.0])
def test_moving_a_line_moves_its_centre(velocity: float) -> None:
    x = np.arange(8575)
    line = 1 - 0.5 * np.exp(-0.5 * ((x - 4000) / 1.5) ** 2)
    depth = 1 - moved(line, velocity)
    assert np.sum(x * depth) / depth.sum() - 4000 == pytest.approx(
        velocity / KMS_PER_PIXEL, abs=1e-3
    )
    assert depth.sum() == pytest.approx((1 - line).sum(), rel=1e-3)


@pytest.mark.parametrize("name", [f.name for f in fields(SurveyFaults)])
@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_faults_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidDataError, match=f"{name}: the faults of a survey"):
        SurveyFaults(**{name: value})


@pytest.mark.parametrize("name", ["ghosts", "broadened", "blends"])
def test_shares_above_one_are_refused(name: str) -> None:
    with pytest.raises(InvalidDataError, match=name):
        SurveyFaults(**{name: 1.1})


# On disk ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hard_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hard") / "survey"
    words = ("simulate", out, "--n-stars", 25, "--hard", "--blends", 0.4, "--seed", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bayes-cannon", *map(str, words)])
        with contextlib.suppress(SystemExit):
            main()
    return out


def test_option_beside_hard_replaces_its_value(hard_survey: Path) -> None:
    again = simulate_survey(
        hard_survey.with_name("again"), n_stars=25, seed=3,
        settings=SimulationSettings(faults=replace(HARD, blends=0.4)),
    )  # fmt: skip
    for path in sorted(again.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (hard_survey / path.relative_to(again)).read_bytes()


def test_truth_and_headers_name_every_fault(hard_survey: Path) -> None:
    truth = Table.read(hard_survey / "truth.ecsv")
    assert 3 <= np.sum(truth["BLEND"]) <= 60
    keys = {
        "SIMSHIFT": "SHIFT", "SIMGHOST": "GHOST", "SIMERROR": "ERROR_FACTOR",
        "SIMBROAD": "BROADENING", "SIMBLEND": "BLEND", "SIMLIGHT": "BLEND_W", "SIMDV": "BLEND_DV",
        "SIMSECND": "BLEND_INDEX",
    }  # fmt: skip
    rows = {(row["APOGEE_ID"], row["FIELD"]): row for row in truth}
    for path in hard_survey.rglob("*Star-*.fits"):
        if path.name.startswith("allStar"):
            continue
        header = fits.getheader(path)
        row = rows[header["OBJID"], header["FIELD"]]
        for key, column in keys.items():
            assert header[key] == pytest.approx(row[column], rel=1e-12)
        assert "blends=0.4" in str(header["HISTORY"])
    assert "rest_frame=0.4" in str(fits.getheader(hard_survey / "allStar-dr17-simulated.fits"))
    (mystery,) = truth[truth["KIND"] == "mystery"]
    assert not mystery["BLEND"]
    assert mystery["BROADENING"] == 0


def test_a_repeated_star_is_the_same_blend(hard_survey: Path) -> None:
    truth = Table.read(hard_survey / "truth.ecsv").filled()
    repeated = truth[truth["REASON"] == "DUPLICATE"]
    for again in repeated:
        (first,) = truth[(truth["APOGEE_ID"] == again["APOGEE_ID"]) & (truth["KIND"] == "star")]
        assert (first["BLEND"], first["BLEND_DV"]) == (again["BLEND"], again["BLEND_DV"])
        assert first["BROADENING"] == again["BROADENING"]
        assert first["SHIFT"] != again["SHIFT"]


def test_clean_survey_tells_of_no_fault(tmp_path: Path) -> None:
    out = simulate_survey(
        tmp_path / "s", n_stars=2, seed=3, settings=SimulationSettings(decoys_per_cut=0)
    )
    assert "BLEND" not in Table.read(out / "truth.ecsv").colnames
    for path in out.rglob("*.fits"):
        header = fits.getheader(path)
        assert "SIMSHIFT" not in header
        assert "faults" not in str(header["HISTORY"])
