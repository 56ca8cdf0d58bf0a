"""The search for binaries: its null, its positives, and what it finds."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bayes_cannon.analysis.binaries import finding
from bayes_cannon.analysis.binaries.evidence import learn_evidence
from bayes_cannon.analysis.binaries.finding import BinarySearch, find_binaries
from bayes_cannon.analysis.binaries.pair_errors import learn_errors
from bayes_cannon.analysis.binaries.pairs import Pairs, draw_pairs, sum_spectra, with_tied_light
from bayes_cannon.analysis.isochrones import IsochroneSet, packaged_isochrones
from bayes_cannon.errors import FitError, InvalidDataError, NoStarsError
from bayes_cannon.inference.binaries.fast_pass import FastPass
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.models.two_stars import log_light_ratio
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.preparing import prepare_spectra
from bayes_cannon.surveys.simulation.library import load_library
from tests.binary_problem import (
    N_TRAINING,
    NAMES,
    WINDOWS,
    pairs,
    second_cannon,
    small_cannon,
    stars,
    true_labels,
)
from tests.inference.test_binaries import seconds

TEST = np.arange(N_TRAINING, N_TRAINING + 30)
N_BLENDS = 15


def made_up(
    gain: np.ndarray, *, misfit: float = 1.0, improvement: float | np.ndarray = 0.0
) -> FastPass:
    """Results of a fast pass with a given improvement of chi-square."""
    n = gain.size
    rows, columns = np.zeros(n), np.zeros((n, 1))
    many = "single primary secondary single_sd primary_sd secondary_sd theta"
    one = "light dv light_sd dv_sd shift broadening chi2_single mode_gap other_light other_dv"
    of_many, of_one = dict.fromkeys(many.split(), columns), dict.fromkeys(one.split(), rows)
    return FastPass(
        star_id=np.array([f"s{i}" for i in range(n)]), delta_chi2=gain,
        improvement=np.broadcast_to(improvement, n), chi2_pair=np.full(n, 1000.0 * misfit),
        independent_pixels=np.full(n, 1000.0), log_snr=np.full(n, 5.0), n_starts=np.ones(n, int),
        **of_many, **of_one,
    )  # fmt: skip


# Errors -----------------------------------------------------------------------------------


def off_by(n: int, scale: float, floor: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences with the tails of a t of 5 degrees of freedom, and their formal errors."""
    rng = np.random.default_rng(seed)
    formal = np.exp(0.5 * rng.standard_normal((n, 1)))
    return np.hypot(scale * formal, floor) * rng.standard_t(5, (n, 1)), formal


@pytest.mark.parametrize(("scale", "floor", "noise"), [(1.5, 1.0, 0.5), (0.9, 0.0, 1.0)])
def test_learnt_errors_hold_what_they_say(scale: float, floor: float, noise: float) -> None:
    """Errors of the catalogue are taken away; 0.05 is three standard errors of 1000 stars' fit."""
    off, formal = off_by(1000, scale, floor, 1)
    seen = off + noise * np.random.default_rng(2).standard_normal(off.shape)
    learnt = learn_errors(seen, formal, np.full(off.shape, noise), ("TEFF",))
    off, formal = off_by(20000, scale, floor, 3)
    assert np.mean(np.abs(off) < learnt.of(formal)) == pytest.approx(0.683, abs=0.05)


def test_errors_of_a_label_that_few_stars_have_are_not_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    off, formal = (np.hstack([x, x]) for x in off_by(100, 1.0, 0.0, 1))
    off[19:, 1] = np.nan
    learnt = learn_errors(off, formal, np.zeros(off.shape), ("TEFF", "MG_FE"))
    errors = learnt.of(formal)
    assert np.isfinite(errors[:, 0]).all()
    assert np.isnan(errors[:, 1]).all()
    assert "MG_FE: the catalogue has it for 19 stars alone; 20 are needed" in caplog.text


# Evidence ---------------------------------------------------------------------------------


def drawn(n: int, mean: float, seed: int) -> FastPass:
    rng = np.random.default_rng(seed)
    return made_up(np.expm1(np.maximum(rng.normal(mean, 1.0, n), 0.0)))


def test_false_positives_come_at_the_rate_asked_for() -> None:
    evidence = learn_evidence(drawn(2000, 2.0, 1), drawn(2000, 6.0, 2))
    fresh = evidence.score(drawn(20000, 2.0, 3))
    for rate in (0.1, 0.03, 0.01):
        found = np.mean(fresh >= evidence.threshold(rate))
        # The threshold of 2000 stars is itself uncertain: three of its standard errors.
        assert abs(found - rate) < 3.5 * np.sqrt(rate / 2000)
    assert np.mean(evidence.score(drawn(1000, 6.0, 4)) >= evidence.threshold(0.01)) > 0.9


@pytest.mark.parametrize("n_hidden", [16, 50])
def test_pairs_among_the_training_stars_do_not_raise_the_threshold(n_hidden: int) -> None:
    singles = drawn(400, 2.0, 1)
    mixed = joined(singles, drawn(n_hidden, 7.5, 5))
    clean = learn_evidence(singles, drawn(400, 6.0, 2))
    found = learn_evidence(mixed, drawn(400, 6.0, 2))
    assert found.share == pytest.approx(n_hidden / (400 + n_hidden), rel=0.3)
    assert clean.share < 0.01
    fresh = drawn(20000, 2.0, 3)
    for evidence in (clean, found):
        rate = np.mean(evidence.score(fresh) >= evidence.threshold(0.01))
        assert 0.002 < rate < 0.03


def joined(a: FastPass, b: FastPass) -> FastPass:
    return FastPass(**{k: np.concatenate([v, getattr(b, k)]) for k, v in vars(a).items()})


def test_hidden_pairs_that_the_score_alone_tells_apart_do_not_either() -> None:
    """Their chi-square is in the single stars' tail; the improvement fraction says what they are.

    With all of them in the null 0.0 % of single stars pass, and 47 % of pairs.
    """

    def kind(n: int, mean: float, improvement: float, seed: int) -> FastPass:
        rng = np.random.default_rng(seed)
        gain = np.expm1(np.maximum(rng.normal(mean, 1.0, n), 0.0))
        return made_up(gain, improvement=improvement + 0.05 * rng.standard_normal(n))

    singles, sums = kind(400, 3.0, 0.05, 1), kind(400, 5.0, 0.25, 2)
    evidence = learn_evidence(joined(singles, kind(12, 5.0, 0.25, 5)), sums)
    assert evidence.share == pytest.approx(12 / 412, rel=0.5)
    assert np.all(evidence.null_weight[:400] > 0.3)
    threshold = evidence.threshold(0.01)
    assert np.mean(evidence.score(kind(20000, 3.0, 0.05, 3)) >= threshold) < 0.02
    assert np.mean(evidence.score(kind(20000, 5.0, 0.25, 4)) >= threshold) > 0.8
    alone = learn_evidence(singles, sums)
    assert alone.share < 0.003
    assert np.all(alone.null_weight > 0.95)


def test_probability_is_that_of_the_mixture() -> None:
    evidence = learn_evidence(drawn(2000, 3.0, 1), drawn(2000, 5.0, 2))
    rate = 0.2
    singles, doubles = drawn(16000, 3.0, 3), drawn(4000, 5.0, 4)
    p = [evidence.p_binary(evidence.score(x), rate) for x in (singles, doubles)]
    both = np.concatenate(p)
    is_pair = np.r_[np.zeros(16000), np.ones(4000)]
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (both >= low) & (both < low + 0.2)
        assert abs(is_pair[some].mean() - both[some].mean()) < 0.08


def test_misfit_counts_against_the_star() -> None:
    null = FastPass(
        **{
            k: np.concatenate([v, getattr(drawn_with_misfit(), k)])
            for k, v in vars(drawn(200, 2.0, 1)).items()
        }
    )
    evidence = learn_evidence(null, drawn(400, 6.0, 2))
    gain = np.array([np.expm1(5.0)])
    assert evidence.score(made_up(gain, misfit=8.0)) < evidence.score(made_up(gain))


def drawn_with_misfit() -> FastPass:
    rng = np.random.default_rng(8)
    return made_up(8 * np.expm1(np.maximum(rng.normal(2.0, 1.0, 200), 0.0)), misfit=8.0)


def test_too_few_stars_are_refused() -> None:
    with pytest.raises(FitError, match="12 single stars and 50 pairs"):
        learn_evidence(drawn(12, 2.0, 1), drawn(50, 6.0, 2))


# Pairs ------------------------------------------------------------------------------------


def test_sum_is_that_of_the_spectra_with_the_noise_of_the_first() -> None:
    model = TwoStarModel.from_cannon(small_cannon(), dv_max=60.0, inflate=1.5)
    rng = np.random.default_rng(1)
    level, flux = 100.0, np.ones((2, small_cannon().n_pixels))
    ivar = np.full_like(flux, level**2)
    ivar[1] *= 0.25
    ivar[1, 500:503] = 0
    many = Pairs(np.zeros(40, int), np.ones(40, int), np.full(40, 0.4), np.full(40, 12.3))
    noisy = flux + rng.standard_normal(flux.shape) / np.sqrt(np.where(ivar > 0, ivar, 1e4))
    out, weight = sum_spectra(model, noisy, ivar, many, rng)
    bad = np.flatnonzero(weight[0] == 0)
    assert bad.min() >= 500 + 2 or bad.min() < 20
    assert 3 <= np.sum((bad >= 490) & (bad < 520)) <= 8
    good = weight[0] > 0
    np.testing.assert_array_equal(weight[0, good], ivar[0, good])
    spread = (out - out.mean(axis=0))[:, good].std()
    left = (0.6 / level) ** 2 + (0.4 * 2 / level) ** 2
    expected = np.sqrt(max(1 / level**2 - left, 0.0))
    assert spread == pytest.approx(expected, abs=0.1 / level)


def test_pairs_are_alike_in_abundances() -> None:
    rng = np.random.default_rng(1)
    abundances = rng.standard_normal((100, 1))
    rows = np.arange(20, 80)
    drawn_pairs = draw_pairs(150, rows, abundances, rng, light_max=0.5, dv_max=60.0)
    assert len(drawn_pairs) == 150
    assert set(drawn_pairs.first) == set(rows)
    assert np.all(np.isin(drawn_pairs.second, rows))
    assert np.all(drawn_pairs.first != drawn_pairs.second)
    apart = np.abs(abundances[drawn_pairs.first] - abundances[drawn_pairs.second])
    assert np.median(apart) < 0.2
    assert 0.05 <= drawn_pairs.light.min() < drawn_pairs.light.max() <= 0.5
    assert np.abs(drawn_pairs.dv).max() <= 60


# The search -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(shipped_dir: Path) -> TrainingSet:
    """Training stars, 30 singles, a real M giant and a K dwarf, and 15 blends under new names."""
    singles = stars()
    blends = pairs(TEST[:N_BLENDS], seconds(TEST[:N_BLENDS]), 0.3, 20.0)
    like = {"continuum_degree": 2, "continuum_pixels": "published", "continuum_min_pixels": 10,
            "bad_bits": 0, "windows": json.dumps(WINDOWS)}  # fmt: skip
    real, _ = prepare_spectra(sorted(shipped_dir.glob("apStar-*.fits.gz")), like=like)
    blended = np.array([f"blend-{i}" for i in range(N_BLENDS)])
    names = np.concatenate([real.star_id, blended])
    spectra = NormalizedSpectra(
        np.concatenate([singles.star_id, names]), singles.spectra.wavelength,
        np.concatenate([singles.spectra.flux, real.flux, blends.flux]),
        np.concatenate([singles.spectra.ivar, real.ivar, blends.ivar]),
        np.concatenate([singles.spectra.snr, real.snr, blends.snr]), singles.spectra.chips,
        simulated=True,
    )  # fmt: skip
    labels = singles.labels
    rows = np.r_[np.arange(len(labels)), 0, 1, TEST[:N_BLENDS]]
    labels = replace(
        labels, values=labels.values[rows], errors=labels.errors[rows], star_id=spectra.star_id
    )
    info = {"nvisits": np.full(len(rows), 3), "vscatter": np.linspace(0, 1, len(rows))}
    return TrainingSet(spectra=spectra, labels=labels, info=info)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What the search said."""
    return []


@pytest.fixture(scope="module")
def search(dataset: TrainingSet, told: list[str]) -> BinarySearch:
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(finding.__name__)
    logger.addHandler(handler)
    try:
        return find_binaries(small_cannon(), dataset, folds=2, n_pairs=80, seed=1)
    finally:
        logger.removeHandler(handler)


def test_real_spectra_unlike_the_training_stars_are_named(
    search: BinarySearch, told: list[str]
) -> None:
    """The model knows synthesised giants; the spectra are of a real M giant and a K dwarf."""
    table = search.table
    unlike = table["STAR_ID"][table["UNLIKE_TRAINING"]].tolist()
    assert unlike == ["2M17335483-2753043", "2M19485057+5005279"]
    (text,) = told
    assert text.startswith(f"2 of {len(table)} stars (2M17335483-2753043, 2M19485057+5005279) are")
    rows = np.flatnonzero(table["UNLIKE_TRAINING"])
    assert np.all(np.isfinite(table["SCORE"][rows]))
    assert np.all(table["CHI2_PAIR"][rows] > 3 * table["NPIX_INDEPENDENT"][rows])


def test_blends_are_found_and_singles_are_not(search: BinarySearch) -> None:
    table = search.table
    blend = np.char.startswith(np.asarray(table["STAR_ID"], str), "blend")
    assert np.mean(table["CANDIDATE"][blend]) > 0.85
    # 1 % of 150 stars: at most 6 (false alarm 1e-3).
    assert np.sum(table["CANDIDATE"][~blend]) <= 6
    assert np.median(table["P_BINARY"][blend]) > 0.9
    assert np.median(table["P_BINARY"][~blend]) < 0.05
    assert np.median(table["FALSE_POSITIVE_RATE"][~blend]) > 0.2
    assert set(search.candidates) == set(table["STAR_ID"][table["CANDIDATE"]])


def test_table_says_what_was_found(search: BinarySearch) -> None:
    table = search.table
    blend = np.char.startswith(np.asarray(table["STAR_ID"], str), "blend")
    assert np.median(table["LIGHT"][blend]) == pytest.approx(0.3, abs=0.03)
    assert np.median(table["DV"][blend]) == pytest.approx(20.0, abs=0.5)
    assert table["TEFF_1"].unit == "K"
    assert table["DV"].unit == "km/s"
    assert table.meta["SIMULATE"] is True
    assert table["VSCATTER"][-1] == 1.0
    assert np.all(table["NVISITS"] == 3)
    known = np.isfinite(table["MODE_GAP"])
    assert np.all(table["MODE_GAP"][known] >= 0)
    np.testing.assert_array_equal(known, np.isfinite(table["OTHER_DV"]))
    assert table.meta["RESTFRAM"] < 0.3
    library = load_library()
    teff = library.values("TEFF")[TEST[:N_BLENDS]]
    near, far = (np.median(np.abs(table[c][blend] - teff)) for c in ("TEFF_1", "TEFF_SINGLE"))
    assert near < far


def test_training_stars_are_judged_by_models_without_them(search: BinarySearch) -> None:
    names = search.null.star_id
    assert set(names) == set(small_cannon().training.star_id)
    rows = {str(s): i for i, s in enumerate(search.table["STAR_ID"])}
    for i, name in enumerate(names):
        assert search.table["DELTA_CHI2"][rows[name]] == search.null.delta_chi2[i]


def test_errors_of_labels_are_those_of_the_sums_of_known_stars(search: BinarySearch) -> None:
    table, found = search.table, search.found
    for kind, learnt, formal in (
        ("1", search.errors.primary, found.primary_sd),
        ("2", search.errors.secondary, found.secondary_sd),
        ("SINGLE", search.errors.single, found.single_sd),
    ):
        for k, name in enumerate(NAMES):
            np.testing.assert_array_equal(table[f"{name}_{kind}_FORMAL_ERR"], formal[:, k])
            np.testing.assert_array_equal(table[f"{name}_{kind}_ERR"], learnt.of(formal)[:, k])
    assert table["TEFF_1_FORMAL_ERR"].unit == table["TEFF_1_ERR"].unit == "K"
    blend = np.char.startswith(np.asarray(table["STAR_ID"], str), "blend")
    off = np.abs(found.primary[blend] - true_labels(TEST[:N_BLENDS]))
    errors = np.stack([table[f"{name}_1_ERR"][blend] for name in NAMES], axis=1)
    # 45 differences, those of a star are not independent: 30 of the 45 are to be expected.
    assert 20 <= np.sum(off < errors) <= 41


def test_completeness_is_told(search: BinarySearch) -> None:
    found = search.pairs
    assert len(found) == 80
    easy = (found["LIGHT"] > 0.2) & (np.abs(found["DV"]) > 15)
    assert found["FOUND"][easy].mean() > 0.8
    assert set(found["STAR_1"]) <= set(small_cannon().training.star_id)


def test_second_stars_of_another_model_with_tied_light(dataset: TrainingSet) -> None:
    second = second_cannon()
    some = dataset.select(np.r_[np.arange(N_TRAINING), np.arange(len(dataset) - 6, len(dataset))])
    found = find_binaries(
        small_cannon(), some, second=second, light="tied", folds=2, n_pairs=40, seed=1
    )
    assert found.second is second
    assert (found.settings.light, found.table.meta["LIGHTIS"]) == ("tied", "tied")
    assert found.table.meta["SECOND"] == "another model"
    pairs = found.pairs
    assert set(pairs["STAR_2"]) <= set(second.training.star_id)
    ratio = log_light_ratio((pairs["TEFF_1"], pairs["TEFF_2"]), (pairs["LOGG_1"], pairs["LOGG_2"]))
    off = np.log(pairs["LIGHT"] / (1 - pairs["LIGHT"])) - ratio
    below = pairs["LIGHT"] < found.settings.light_max
    assert np.std(off[below]) == pytest.approx(found.settings.light_scatter, rel=0.5)
    with pytest.raises(InvalidDataError, match="'free', 'tied' or 'isochrone'"):
        find_binaries(small_cannon(), some, light="whatever")
    shifting = replace(second, terms=("shift",), term_scale=np.ones(1))
    with pytest.raises(InvalidDataError, match=r"other known terms .* terms shift against none"):
        find_binaries(small_cannon(), some, second=shifting)


def test_isochrones_without_their_light_are_refused_before_any_warning(
    dataset: TrainingSet, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    far = IsochroneSet((packaged_isochrones().select(log10_age=9.8, feh=-1.0),))
    with pytest.raises(InvalidDataError, match="belong together"):
        find_binaries(small_cannon(), dataset, isochrones=far)
    assert not caplog.records
    assert not list(recwarn)


def test_both_stars_on_an_isochrone(dataset: TrainingSet) -> None:
    some, isochrones = dataset.select(np.arange(60)), packaged_isochrones()
    found = find_binaries(
        small_cannon(), some, light="isochrone", isochrones=isochrones, folds=2, n_pairs=30, seed=1
    )
    assert found.table.meta["LIGHTIS"] == "isochrone"
    assert found.table.meta["ISOLIGHT"] == "bolometric luminosity"
    assert found.table.meta["ISOCHRON"].startswith("MIST 2.5")
    pairs, one_age = found.pairs, found.settings.isochrones
    ratio = log_light_ratio((pairs["TEFF_1"], pairs["TEFF_2"]), (pairs["LOGG_1"], pairs["LOGG_2"]))
    labels = [np.stack([pairs[f"{n}_{i}"] for n in NAMES], axis=1) for i in (1, 2)]
    off = np.log(pairs["LIGHT"] / (1 - pairs["LIGHT"])) - ratio - one_age.excess_of_pair(*labels)
    below = pairs["LIGHT"] < found.settings.light_max
    assert np.std(off[below]) == pytest.approx(found.settings.light_scatter, rel=0.5)
    with pytest.raises(InvalidDataError, match="belong together"):
        find_binaries(small_cannon(), some, light="tied", isochrones=isochrones)


def test_fainter_star_of_a_pair_is_the_second() -> None:
    labels = np.array([[4500.0, 2.0], [4500.0, 2.5], [4500.0, np.nan]])
    some = Pairs(np.array([0, 1, 0]), np.array([1, 0, 2]), np.full(3, 0.4), np.array([3.0, 3, 3]))
    given = with_tied_light(
        some, labels, np.random.default_rng(1), scatter=1e-6, light_max=0.5, swap=True
    )
    assert given.first.tolist() == [0, 0, 0]
    np.testing.assert_allclose(given.light[:2], 1 / (1 + 10**0.5), rtol=1e-4)
    assert given.dv.tolist() == [3, -3, 3]
    assert given.light[2] == 0.4  # not known


def test_dataset_without_training_stars_is_refused(dataset: TrainingSet) -> None:
    with pytest.raises(NoStarsError, match="none of the model's training stars"):
        find_binaries(small_cannon(), dataset.select(TEST))
    with pytest.raises(NoStarsError, match="give the dataset that the model was trained on"):
        find_binaries(small_cannon(), dataset.spectra)


@pytest.mark.parametrize("name", ["prior_rate", "false_positive_rate"])
def test_impossible_rates_are_refused(dataset: TrainingSet, name: str) -> None:
    with pytest.raises(InvalidDataError, match=f"{name} = 1.5"):
        find_binaries(small_cannon(), dataset, **{name: 1.5})
