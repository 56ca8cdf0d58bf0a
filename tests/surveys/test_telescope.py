"""The simulated telescope, and observations of the library in memory."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.simulation.library import load_library
from bayes_cannon.surveys.simulation.simulate import library_labels, observe
from bayes_cannon.surveys.simulation.telescope import (
    InstrumentSettings,
    chip_limits,
    combine,
    expose,
    observatory,
)

# The telescope ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["background", "cosmic_rays", "ripple"])
def test_instrument_settings_are_checked(name: str) -> None:
    with pytest.raises(InvalidDataError, match=f"{name} must be finite"):
        InstrumentSettings(**{name: -0.1})


QUIET = InstrumentSettings(
    background=0.0, sky_residual=0.0, telluric_residual=0.0, dead_pixels=0.0, cosmic_rays=0.0,
    persistence_share=0.0, velocity_error=0.0, response=0.0, ripple=0.0,
)  # fmt: skip


def test_detectors_move_against_the_velocity() -> None:
    still, moved = chip_limits(np.array([0.0, 10.0]))
    np.testing.assert_array_equal(still - moved, 10)
    assert still.tolist() == [[199, 3320], [3534, 6126], [6292, 8378]]


def test_sky_lines_flag_what_they_touch() -> None:
    there = observatory()
    unflagged = (there.flags & 4096) == 0
    assert there.sky.max() > 1
    # Left outside the flags: at most about half of the noise, where the error is ten times larger.
    assert there.sky[unflagged].max() < 0.06


def test_noise_has_the_signal_to_noise_asked_for() -> None:
    flux = np.ones(8575)
    seen = expose(flux, [0.0], [80.0], rng=np.random.default_rng(1), settings=QUIET)
    good = seen.covered[0] & (seen.err[0] < 1) & ((seen.mask[0] & 4096) == 0)
    assert np.median(1 / seen.clean_err[0, seen.covered[0]]) == pytest.approx(80, rel=0.01)
    z = (seen.flux[0, good] - 1) / seen.err[0, good]
    assert np.mean(z) == pytest.approx(0, abs=0.06)  # five standard errors of ~7500 pixels
    assert np.std(z) == pytest.approx(1, abs=0.045)


def test_combination_weights_pixels_by_their_errors() -> None:
    rng = np.random.default_rng(2)
    snr = np.array([50.0, 100.0])
    seen = expose(np.ones(8575), [0.0, 3.0], snr, rng=rng, settings=InstrumentSettings())
    continuum = np.stack([np.full(8575, 100.0), np.full(8575, 300.0)])
    flux, err, mask = combine(seen, continuum, snr)
    both = seen.covered.all(axis=0)
    w = 1 / seen.err[:, both] ** 2
    np.testing.assert_allclose(flux[0, both], 200 * (w * seen.flux[:, both]).sum(0) / w.sum(0))
    np.testing.assert_allclose(err[0, both], 200 / np.sqrt(w.sum(0)))
    np.testing.assert_allclose(flux[1, both], 200 * (seen.flux * [[0.2], [0.8]]).sum(0)[both])
    np.testing.assert_array_equal(flux[3], 300 * seen.flux[1])
    assert err[1, both].max() < 1e3
    assert mask.shape == (4, 8575)


def test_velocity_error_shifts_the_star() -> None:
    library = load_library()
    settings = InstrumentSettings(velocity_error=20.0, dead_pixels=0, cosmic_rays=0)
    seen = expose(library.flux[0], [0.0], [1e6], rng=np.random.default_rng(3), settings=settings)
    still = expose(library.flux[0], [0.0], [1e6], rng=np.random.default_rng(3), settings=QUIET)
    good = (seen.err[0] < 1) & seen.covered[0] & ((seen.mask[0] & 0x3000) == 0)
    change = (seen.flux - still.flux)[0, good]
    slope = np.gradient(library.flux[0])[good]
    assert abs(np.corrcoef(change, slope)[0, 1]) > 0.9


# In memory --------------------------------------------------------------------------------


def test_observe_gives_normalised_spectra_trimmed_to_windows() -> None:
    library = load_library()
    spectra = observe(library, [5, 7], snr=[100, 200], seed=1)
    assert spectra.flux.shape == (2, 7514)
    assert spectra.chips == ((0, 3028), (3028, 5523), (5523, 7514))
    assert spectra.wavelength[0] == library.wavelength[246]
    assert list(spectra.star_id) == ["giant-005", "giant-007"]
    assert spectra.simulated
    assert 0.93 < spectra.good.mean() < 0.99
    assert np.all(spectra.flux[~spectra.good] == 1)
    assert 1.8 < np.median(spectra.ivar[1]) ** 0.5 / np.median(spectra.ivar[0]) ** 0.5 < 2.2


def test_observed_noise_is_honest() -> None:
    library = load_library()
    stars = np.arange(0, 600, 60)
    spectra = observe(library, stars, seed=2, windows=[(4000, 5000), (7000, 8000)])
    truth = np.hstack([library.flux[stars, 4000:5000], library.flux[stars, 7000:8000]])
    z = ((spectra.flux - truth) * np.sqrt(spectra.ivar))[spectra.good]
    assert np.std(z) == pytest.approx(1, abs=0.05)
    assert np.abs(z).max() < 8


def test_observing_more_stars_changes_none() -> None:
    library = load_library()
    few, many = (observe(library, np.arange(n), seed=4) for n in (2, 4))
    np.testing.assert_array_equal(few.flux, many.flux[:2])
    np.testing.assert_array_equal(few.ivar, many.ivar[:2])
    other = observe(library, np.arange(2), seed=5)
    assert not np.array_equal(few.flux, other.flux)


def test_a_star_may_be_observed_twice() -> None:
    spectra = observe(load_library(), [3, 3], seed=1)
    assert list(spectra.star_id) == ["giant-003", "giant-003/2"]
    assert not np.array_equal(spectra.flux[0], spectra.flux[1])


def test_a_mask_chooses_stars() -> None:
    library = load_library()
    observed, _ = library_labels(library, index=library.values("TEFF") < 4050, seed=1)
    assert 0 < observed.n_stars < 50
    assert observed["TEFF"].max() < 4150


@pytest.mark.parametrize(
    ("index", "message"),
    [([600], r"1 of 1 number \(\[600\]\) belong"), ([-1, 2], "1 of 2"), ([0.5], "whole numbers"),
     ([True, False], "whole numbers")],
)  # fmt: skip
def test_unknown_stars_are_refused(index: list[float], message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        observe(load_library(), index, seed=1)


@pytest.mark.parametrize("snr", [0.0, np.nan, [100.0, -1.0]])
def test_impossible_signal_to_noise_is_refused(snr: float) -> None:
    with pytest.raises(InvalidDataError, match="S/N of every star must be positive"):
        observe(load_library(), [0, 1], snr=snr, seed=1)


def test_library_labels_have_honest_errors() -> None:
    observed, true = library_labels(load_library(), error_scale=2.0, seed=1)
    assert observed.names == true.names == DEFAULT_LABELS
    np.testing.assert_array_equal(observed.star_id, true.star_id)
    z = (observed.values - true.values) / observed.errors
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.13)  # 600 stars: 4.5 standard errors
    np.testing.assert_allclose(observed.error("TEFF"), 24.0)
    assert np.isnan(true.errors).all()


def test_label_errors_do_not_depend_on_which_labels_are_asked_for() -> None:
    library = load_library()
    all_five, _ = library_labels(library, seed=1)
    two, _ = library_labels(library, ("SI_FE", "TEFF"), seed=1, index=np.arange(10))
    np.testing.assert_array_equal(two["TEFF"], all_five["TEFF"][:10])
    np.testing.assert_array_equal(two["SI_FE"], all_five["SI_FE"][:10])


def test_library_labels_refuse_what_they_cannot_give() -> None:
    with pytest.raises(LabelError, match="no label 'P_FE'"):
        library_labels(load_library(), ("TEFF", "P_FE"), seed=1)
    with pytest.raises(InvalidDataError, match="error_scale = -1"):
        library_labels(load_library(), error_scale=-1, seed=1)
