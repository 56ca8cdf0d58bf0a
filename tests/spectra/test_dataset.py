"""From a survey on disk to a training set: cuts, reading, splits, the file, and what goes wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.errors import (
    BayesCannonWarning,
    FileFormatError,
    InvalidDataError,
    LabelError,
    NoStarsError,
    OutputExistsError,
)
from bayes_cannon.spectra.continuum import ContinuumSettings, normalize, published_pixels
from bayes_cannon.spectra.dataset import CutStep, TrainingSet
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.apogee.apstar import read_spectra
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS, CHIPS_8575, WAVELENGTH
from bayes_cannon.surveys.preparing import prepare, prepare_spectra
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.survey import open_survey

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
DETECTORS = ((197, 3324), (3533, 6130), (6291, 8382))
GOOD_LABELS = {"TEFF": 4500.0, "LOGG": 2.0, "FE_H": -0.3, "MG_FE": 0.1, "SI_FE": 0.05}

Edit = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def star_name(number: int) -> str:
    return f"2M0000{number:04d}+0000000"


def write_spectrum(path: Path, number: int, *, edit: Edit | None = None, factor: float = 1) -> None:
    """A single visit as DR17 writes it: row 0 the spectrum, NaN in the gaps, row 1 empty."""
    rng = np.random.default_rng(number)
    x = (WAVELENGTH - 16000) / 1000
    flux = np.full((2, WAVELENGTH.size), np.nan)
    err = flux.copy()
    mask = np.zeros(flux.shape, dtype=np.int64)
    for start, stop in DETECTORS:
        curve = 500 * (1 + 0.2 * x[start:stop] * rng.normal())
        flux[0, start:stop] = curve * (1 + 0.01 * rng.normal(size=stop - start))
        err[0, start:stop] = 0.01 * curve
    mask[0, rng.integers(300, 8300, 50)] = 2
    mask[0, rng.integers(300, 8300, 50)] = 4096
    if edit is not None:
        edit(flux[0], err[0], mask[0])
    flux[1] = err[1] = 0
    header = fits.Header([("OBJID", star_name(number)), ("FIELD", "M15"), ("SNR", 100.0 + number),
                          ("NVISITS", 1), ("VHELIO", 0.0)])  # fmt: skip
    wcs = fits.Header(
        [("CRVAL1", 4.179), ("CDELT1", 6e-6), ("CRPIX1", 1), ("CTYPE1", "LOG-LINEAR")]
    )
    images = [fits.ImageHDU(a, header=wcs) for a in (flux * factor, err * factor, mask)]
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(header=header), *images]).writeto(path, overwrite=True)


def make_survey(folder: Path, numbers: list[int], **columns: list[float]) -> Path:
    """Write spectra and catalogue; `columns` replace catalogue columns."""
    table = Table()
    table["APOGEE_ID"] = [star_name(n) for n in numbers]
    table["TELESCOPE"] = ["apo25m"] * len(numbers)
    table["FIELD"] = ["M15"] * len(numbers)
    table["SNR"] = np.full(len(numbers), 120.0)
    table["NVISITS"] = np.ones(len(numbers), dtype=np.int32)
    for name in ("STARFLAG", "ASPCAPFLAG"):
        table[name] = np.array([16 * n for n in numbers], dtype=np.int64)
    table["EXTRATARG"] = np.zeros(len(numbers), dtype=np.int32)
    for name, value in GOOD_LABELS.items():
        table[name] = np.array([value + 0.001 * n for n in numbers])
        table[f"{name}_ERR"] = np.full(len(numbers), 0.02)
    for name, values in columns.items():
        table[name] = values
    folder.mkdir(parents=True, exist_ok=True)
    table.write(folder / "allStar-dr17-made.fits", overwrite=True)
    for n in numbers:
        write_spectrum(spectrum_path(folder, n), n)
    return folder


def spectrum_path(folder: Path, number: int) -> Path:
    return folder / "apo25m" / "M15" / f"apStar-dr17-{star_name(number)}.fits"


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_survey(tmp_path_factory.mktemp("six") / "survey", [4, 1, 6, 2, 5, 3])


@pytest.fixture(scope="module")
def dataset(six: Path) -> TrainingSet:
    return prepare(open_survey(six))


def made(ids: list[str], *, seed: int = 0, n_pixels: int = 40) -> TrainingSet:
    """A training set from arrays, with everything that a file must keep."""
    rng = np.random.default_rng(seed)
    n = len(ids)
    ivar = rng.uniform(0, 1e4, (n, n_pixels)) * (rng.random((n, n_pixels)) < 0.8)
    values = rng.normal(size=(n, 2))
    values[0, 1] = np.nan
    return TrainingSet(
        NormalizedSpectra(
            star_id=np.array(ids), wavelength=15000.0 + np.arange(n_pixels) / 3,
            flux=np.where(ivar > 0, rng.normal(1, 0.01, ivar.shape), 1.0), ivar=ivar,
            snr=np.where(np.arange(n) == 1, np.nan, 80.0), chips=((0, 11), (13, 40)),
            simulated=True,
        ),
        Labels(("TEFF", "CE_FE"), values, np.full((n, 2), 0.1), np.array(ids), ("K", "dex")),
        (CutStep("snr", "S/N of at least 50", 3, n),),
        (StarProblem("2M1", "a/ä.fits", "damaged"), StarProblem("2M2", "", "none")),
        {"bad_bits": 20735, "continuum_pixels": "published", "scale": 0.1, "flag": True},
        {"field": np.array(["ω Cen"] + ["M15"] * (n - 1)), "starflag": np.arange(n) + 2**41,
         "weight": rng.normal(size=n), "known": np.arange(n) % 2 == 0},
    )  # fmt: skip


def assert_same(a: TrainingSet, b: TrainingSet) -> None:
    for name in ("star_id", "wavelength", "flux", "ivar", "snr"):
        first, second = getattr(a.spectra, name), getattr(b.spectra, name)
        assert first.dtype.kind == second.dtype.kind, name
        np.testing.assert_array_equal(first, second, err_msg=name)
    assert a.spectra.flux.dtype == b.spectra.flux.dtype == np.float32
    assert (a.spectra.chips, a.spectra.simulated) == (b.spectra.chips, b.spectra.simulated)
    np.testing.assert_array_equal(a.labels.values, b.labels.values)
    np.testing.assert_array_equal(a.labels.errors, b.labels.errors)
    assert (a.labels.names, a.labels.units) == (b.labels.names, b.labels.units)
    assert (a.cut_steps, a.problems) == (b.cut_steps, b.problems)
    assert dict(a.settings) == dict(b.settings)
    assert a.info.keys() == b.info.keys()
    for name, column in a.info.items():
        assert column.dtype.kind == b.info[name].dtype.kind, name
        np.testing.assert_array_equal(column, b.info[name], err_msg=name)


# Reading a survey


def test_order_labels_and_facts_are_the_catalogues(dataset: TrainingSet) -> None:
    numbers = [4, 1, 6, 2, 5, 3]
    assert dataset.star_id.tolist() == [star_name(n) for n in numbers]
    assert dataset.labels.names == DEFAULT_LABELS
    np.testing.assert_allclose(dataset.labels["LOGG"], [2.0 + 0.001 * n for n in numbers])
    assert dataset.info["starflag"].tolist() == [16 * n for n in numbers]
    assert dataset.info["apogee_id"].tolist() == dataset.star_id.tolist()
    assert set(dataset.info["telescope"].tolist()) == {"apo25m"}
    assert set(dataset.info["field"].tolist()) == {"M15"}
    assert dataset.problems == ()
    assert len(dataset) == 6
    np.testing.assert_allclose(dataset.spectra.snr, [100.0 + n for n in numbers])


def test_spectra_are_normalised_then_trimmed(six: Path, dataset: TrainingSet) -> None:
    paths = [spectrum_path(six, n) for n in (4, 1, 6, 2, 5, 3)]
    observed, _ = read_spectra(paths)
    expected, _ = normalize(observed)
    pixels = np.concatenate([np.arange(a, b) for a, b in ASPCAP_WINDOWS])
    assert dataset.spectra.n_pixels == 7514
    assert dataset.spectra.chips == ((0, 3028), (3028, 5523), (5523, 7514))
    np.testing.assert_array_equal(dataset.spectra.wavelength, WAVELENGTH[pixels])
    np.testing.assert_array_equal(dataset.spectra.flux, expected.flux[:, pixels])
    np.testing.assert_array_equal(dataset.spectra.ivar, expected.ivar[:, pixels])
    good = dataset.spectra.good
    assert 7000 < good[0].sum() < 7514
    assert abs(dataset.spectra.flux[good].mean() - 1) < 1e-3
    assert dataset.spectra.flux[good].std() == pytest.approx(0.01, rel=0.05)


def test_blocks_do_not_show(
    six: Path, dataset: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayes_cannon.surveys.reading._BLOCK", 4)
    calls = []
    in_blocks = prepare(open_survey(six), progress=lambda *n: calls.append(n))
    np.testing.assert_allclose(in_blocks.spectra.flux, dataset.spectra.flux, rtol=1e-6)
    assert in_blocks.star_id.tolist() == dataset.star_id.tolist()
    assert calls == [(k, 6, "reading spectra") for k in range(1, 7)]


def test_permuted_catalogue_gives_permuted_stars(tmp_path: Path, dataset: TrainingSet) -> None:
    permuted = prepare(open_survey(make_survey(tmp_path / "s", [1, 2, 3, 4, 5, 6])))
    assert sorted(permuted.star_id) == sorted(dataset.star_id)
    back = permuted.select(dataset.star_id)
    np.testing.assert_allclose(back.spectra.flux, dataset.spectra.flux, rtol=1e-6)
    np.testing.assert_array_equal(back.labels.values, dataset.labels.values)
    np.testing.assert_array_equal(back.info["starflag"], dataset.info["starflag"])


def test_flux_unit_does_not_matter(tmp_path: Path, dataset: TrainingSet) -> None:
    folder = make_survey(tmp_path / "s", [4, 1, 6, 2, 5, 3])
    for n in range(1, 7):
        write_spectrum(spectrum_path(folder, n), n, factor=37.5)
    scaled = prepare(open_survey(folder))
    np.testing.assert_allclose(scaled.spectra.flux, dataset.spectra.flux, rtol=2e-6)
    np.testing.assert_allclose(scaled.spectra.ivar, dataset.spectra.ivar, rtol=2e-6)


def test_other_windows_bits_and_degree(six: Path) -> None:
    survey = open_survey(six)
    default = prepare(survey, windows=None)
    assert default.spectra.n_pixels == sum(b - a for a, b in CHIPS_8575)
    lax = prepare(survey, windows=None, bad_bits="pipeline")
    assert lax.spectra.good.sum() > default.spectra.good.sum()
    one = prepare(survey, windows=((300, 400),), continuum=ContinuumSettings(degree=2))
    assert one.spectra.chips == ((0, 100),)
    assert one.settings["continuum_degree"] == 2
    assert json.loads(one.settings["windows"]) == [[300, 400]]


@pytest.mark.parametrize(
    "windows", [(), ((0, 9000),), ((-1, 10),), ((10, 20), (15, 30)), ((20, 10),), ((10, 10),)]
)
def test_impossible_windows(six: Path, windows: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InvalidDataError, match=r"windows .* must be ordered"):
        prepare(open_survey(six), windows=windows)


def test_cuts_come_before_reading(tmp_path: Path) -> None:
    folder = make_survey(tmp_path / "s", [1, 2, 3], SNR=[10.0, 200.0, 200.0])
    spectrum_path(folder, 1).write_text("never opened")
    result = prepare(open_survey(folder))
    assert result.star_id.tolist() == [star_name(2), star_name(3)]
    assert result.problems == ()
    assert sum(s.removed for s in result.cut_steps) == 1


def test_troubles_with_files_are_problems_and_counted(tmp_path: Path) -> None:
    folder = make_survey(tmp_path / "s", [1, 2, 3, 4, 5])
    spectrum_path(folder, 1).unlink()
    spectrum_path(folder, 2).write_text("<html>404</html>")
    whole = spectrum_path(folder, 3).read_bytes()
    spectrum_path(folder, 3).write_bytes(whole[: len(whole) // 2])

    def all_bad(flux: np.ndarray, err: np.ndarray, mask: np.ndarray) -> None:
        mask[:] = 1

    write_spectrum(spectrum_path(folder, 4), 4, edit=all_bad)
    result = prepare(open_survey(folder))
    assert result.star_id.tolist() == [star_name(5)]
    by_star = {p.star_id: p for p in result.problems}
    assert by_star.keys() == {star_name(n) for n in (1, 2, 3, 4)}
    assert by_star[star_name(1)].path == ""
    assert "not in the survey's directory" in by_star[star_name(1)].message
    assert by_star[star_name(2)].path == str(spectrum_path(folder, 2))
    assert "no pixel of the spectrum is good" in by_star[star_name(4)].message
    steps = {s.name: (s.removed, s.remaining) for s in result.cut_steps}
    assert steps["spectrum found"] == (1, 4)
    assert steps["spectrum readable"] == (2, 2)
    assert steps["good pixels"] == (1, 1)
    table = result.cut_table()
    assert table["removed"].sum() == 4
    assert table["remaining"][-1] == 1


def test_unsafe_row_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    folder = make_survey(tmp_path / "s", [1, 2], FIELD=["..", "M15"])
    (problem,) = prepare(open_survey(folder)).problems
    assert problem.star_id == star_name(1)
    assert "'..' is not the name of a folder" in problem.message


def test_star_without_continuum_is_dropped_and_one_chip_is_warned_of(tmp_path: Path) -> None:
    folder = make_survey(tmp_path / "s", [1, 2, 3])
    pixels = published_pixels()

    def no_continuum(flux: np.ndarray, err: np.ndarray, mask: np.ndarray) -> None:
        mask[pixels] = 1

    def no_blue(flux: np.ndarray, err: np.ndarray, mask: np.ndarray) -> None:
        mask[pixels[pixels < 3400]] = 1

    write_spectrum(spectrum_path(folder, 1), 1, edit=no_continuum)
    write_spectrum(spectrum_path(folder, 2), 2, edit=no_blue)
    with pytest.warns(BayesCannonWarning, match=r"1 of 2 stars \(2M00000002.*1 in chip 0") as seen:
        result = prepare(open_survey(folder))
    assert len(seen) == 1
    assert [p.message for p in result.problems] == [
        "no chip with good pixels has a usable continuum"
    ]
    assert result.info["n_masked_chips"].tolist() == [1, 0]
    assert not result.spectra.good[0, :3028].any()


def test_star_good_only_outside_the_windows(tmp_path: Path) -> None:
    folder = make_survey(tmp_path / "s", [1, 2])

    def only_blue(flux: np.ndarray, err: np.ndarray, mask: np.ndarray) -> None:
        mask[3400:] = 1

    write_spectrum(spectrum_path(folder, 1), 1, edit=only_blue)
    result = prepare(open_survey(folder), windows=((6344, 8335),))
    assert [p.message for p in result.problems] == [
        "no good pixel lies in the windows that are used"
    ]


def test_missing_labels(tmp_path: Path) -> None:
    folder = make_survey(tmp_path / "s", [1, 2, 3], MG_FE=[-9999.99, 0.1, np.nan])
    survey = open_survey(folder)
    assert prepare(survey).star_id.tolist() == [star_name(2)]
    lax = prepare(survey, allow_missing_labels=True)
    assert lax.n_stars == 3
    np.testing.assert_array_equal(np.isnan(lax.labels["MG_FE"]), [True, False, True])
    assert prepare(survey, label_names=("TEFF", "LOGG", "FE_H")).n_stars == 3


def test_unknown_label(six: Path) -> None:
    with pytest.raises(LabelError, match="NO_FE"):
        prepare(open_survey(six), label_names=("TEFF", "NO_FE"))


def test_nothing_left_names_the_cuts(six: Path, tmp_path: Path) -> None:
    with pytest.raises(
        NoStarsError, match=r"none of 6 stars is left: .* removed 6.*loosen the cuts"
    ):
        prepare(open_survey(six), cuts=Cuts(snr_min=1e6))
    folder = make_survey(tmp_path / "s", [1, 2], SNR=[10.0, 200.0])
    spectrum_path(folder, 2).unlink()
    with pytest.raises(NoStarsError, match="spectrum found removed 1"):
        prepare(open_survey(folder))
    spectrum_path(folder, 2).write_text("not a spectrum")
    with pytest.raises(NoStarsError, match=r"spectrum readable removed 1 \(first: 2M00000002"):
        prepare(open_survey(folder))


def test_settings_are_plain_and_complete(dataset: TrainingSet) -> None:
    assert all(isinstance(v, str | int | float | bool) for v in dataset.settings.values())
    assert json.loads(json.dumps(dict(dataset.settings))) == dict(dataset.settings)
    assert dataset.settings["bad_bits"] == 20735
    assert dataset.settings["continuum_degree"] == 4
    assert dataset.settings["release"] == "dr17"
    assert json.loads(dataset.settings["cuts"])["snr_min"] == 50


def test_simulated_survey(tmp_path: Path, shipped_dir: Path) -> None:
    folder = simulate_survey(tmp_path / "s", n_stars=12, seed=3)
    survey = open_survey(folder)
    assert len(survey.orphans) == 1
    assert survey.orphans[0].startswith("mystery/")
    result = prepare(survey)
    truth = Table.read(folder / "truth.ecsv")
    kind = dict(zip(truth["STAR_ID"].tolist(), truth["KIND"].tolist(), strict=True))
    assert {kind[s] for s in result.star_id.tolist()} == {"star"}
    assert 8 <= result.n_stars <= 12
    assert result.spectra.simulated
    assert result.settings["release"] == "dr17"
    (mystery, problems) = prepare_spectra([folder / survey.orphans[0]], like=result)
    assert problems == ()
    assert mystery.simulated
    assert mystery.n_pixels == result.spectra.n_pixels
    real = sorted(shipped_dir.glob("apStar-*.fits.gz"))
    both, _ = prepare_spectra([folder / survey.orphans[0], *real], like=result)
    assert both.simulated_stars.tolist() == [True, False, False]
    assert repr(both).startswith("NormalizedSpectra of 3 stars (1 of 3 SIMULATED)")
    assert not both.select([1, 2]).simulated
    assert both.select([0]).simulated


# Other files treated alike


def test_prepared_spectra_equal_those_of_the_training_set(six: Path) -> None:
    own = ContinuumSettings(degree=3, pixels=tuple(WAVELENGTH[250:8300:20]), min_pixels=10)
    trained = prepare(open_survey(six), continuum=own, bad_bits="lenient", windows=((300, 3000),))
    paths = [spectrum_path(six, n) for n in (4, 1, 6, 2, 5, 3)]
    for like in (trained, trained.settings):
        spectra, problems = prepare_spectra(paths, like=like)
        assert problems == ()
        np.testing.assert_array_equal(spectra.star_id, trained.star_id)
        np.testing.assert_array_equal(spectra.flux, trained.spectra.flux)
        np.testing.assert_array_equal(spectra.ivar, trained.spectra.ivar)
        assert spectra.chips == trained.spectra.chips


def test_one_broken_file_does_not_stop_the_others(
    dataset: TrainingSet, six: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE  = nonsense")
    paths = [spectrum_path(six, 1), broken, tmp_path / "absent.fits", spectrum_path(six, 2)]
    spectra, problems = prepare_spectra(paths, like=dataset, star_ids=list("abcd"))
    assert spectra.star_id.tolist() == ["a", "d"]
    assert [(p.star_id, p.path) for p in problems] == [("b", str(broken)), ("c", str(paths[2]))]


def test_repeated_files_get_names_of_their_own(dataset: TrainingSet, six: Path) -> None:
    path = spectrum_path(six, 1)
    spectra, _ = prepare_spectra([path, path, spectrum_path(six, 2)], like=dataset)
    assert len(set(spectra.star_id.tolist())) == 3
    assert spectra.star_id[2] == star_name(2)
    np.testing.assert_array_equal(spectra.flux[0], spectra.flux[1])


def test_prepare_spectra_refuses(dataset: TrainingSet, six: Path, tmp_path: Path) -> None:
    paths = [spectrum_path(six, 1), spectrum_path(six, 2)]
    with pytest.raises(NoStarsError, match=r"none of 1 file holds a usable spectrum; the first"):
        prepare_spectra([tmp_path / "absent.fits"], like=dataset)
    with pytest.raises(NoStarsError, match="none of 0 files"):
        prepare_spectra([], like=dataset)
    with pytest.raises(InvalidDataError, match="1 star id for 2 files"):
        prepare_spectra(paths, like=dataset, star_ids=["a"])
    with pytest.raises(InvalidDataError, match="must differ from each other"):
        prepare_spectra(paths, like=dataset, star_ids=["a", "a"])
    with pytest.raises(InvalidDataError, match="not the settings of a training set"):
        prepare_spectra(paths, like={"bad_bits": 1})


def test_real_files_of_dr17(dataset: TrainingSet, shipped_dir: Path) -> None:
    spectra, problems = prepare_spectra(sorted(shipped_dir.glob("apStar-*.fits.gz")), like=dataset)
    assert problems == ()
    assert spectra.star_id.tolist() == ["2M17335483-2753043", "2M19485057+5005279"]
    assert not spectra.simulated
    assert (spectra.good.mean(axis=1) > 0.8).all()
    for flux, good in zip(spectra.flux, spectra.good, strict=True):
        assert 0.95 < np.quantile(flux[good], 0.85) < 1.08


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_real_files_of_several_releases(dataset: TrainingSet) -> None:
    names = [
        "apStar-dr17-2M17335483-2753043.fits",
        "apStar-dr17-2M19485057+5005279.fits",
        "apStar-r6-2M13564148+4342587.fits",
        "mystery_spec_wiped.fits",
    ]
    spectra, problems = prepare_spectra([REAL / n for n in names], like=dataset)
    assert problems == ()
    assert spectra.n_stars == 4
    assert not spectra.simulated
    assert (spectra.good.mean(axis=1) > 0.8).all()
    for flux, good in zip(spectra.flux, spectra.good, strict=True):
        assert 0.95 < np.quantile(flux[good], 0.85) < 1.08


# Splits and selections


def test_split_by_seed() -> None:
    whole = made([f"star{k}" for k in range(41)])
    first, second = whole.split(0.5, seed=3)
    assert (first.n_stars, second.n_stars) == (20, 21)
    assert set(first.star_id) | set(second.star_id) == set(whole.star_id)
    again, _ = whole.split(0.5, seed=3)
    assert_same(first, again)
    other, _ = whole.split(0.5, seed=4)
    assert set(other.star_id) != set(first.star_id)
    places = whole.spectra.index_of(first.star_id)
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(first.labels.values, whole.labels.values[places])


def test_split_does_not_depend_on_the_order_of_stars() -> None:
    whole = made([f"star{k}" for k in range(30)])
    shuffled = whole.select(np.random.default_rng(0).permutation(30))
    for a, b in zip(whole.split(0.3, seed=1), shuffled.split(0.3, seed=1), strict=True):
        assert set(a.star_id) == set(b.star_id)
    assert whole.split(0.3, seed=1)[0].n_stars == 9


def test_split_refuses() -> None:
    whole = made(["a", "b", "c"])
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InvalidDataError, match="must be inside 0 to 1"):
            whole.split(fraction, seed=1)
    with pytest.raises(InvalidDataError, match="leaves one part empty"):
        whole.split(0.01, seed=1)


def test_select_by_mask_index_and_id() -> None:
    whole = made(["a", "b", "c"])
    mask = np.array([True, False, True])
    assert_same(whole.select(mask), whole.select(["a", "c"]))
    assert_same(whole.select(mask), whole.select([0, 2]))
    assert whole.select(["c"]).info["starflag"].tolist() == [2**41 + 2]
    with pytest.raises(InvalidDataError, match="not in these 3 spectra: z"):
        whole.select(["z"])


def test_parts_must_belong_together() -> None:
    whole = made(["a", "b", "c"])
    with pytest.raises(InvalidDataError, match="same stars in the same order"):
        replace(whole, labels=whole.labels.select([1, 0, 2]))
    with pytest.raises(InvalidDataError, match=r"x of info must have shape \(3,\)"):
        replace(whole, info={"x": np.zeros(2)})


# The file


@pytest.mark.parametrize("ids", [["2M1", "2M2", "2M3"], ["Θ Tauri", "星", "a/b+c"]])
def test_loaded_equals_saved(tmp_path: Path, ids: list[str]) -> None:
    whole = made(ids)
    path = whole.save(tmp_path / "new" / "data.nc")
    assert [p.name for p in path.parent.iterdir()] == ["data.nc"]
    assert_same(TrainingSet.load(path), whole)


def test_prepared_survey_survives_the_file(dataset: TrainingSet, tmp_path: Path) -> None:
    loaded = TrainingSet.load(dataset.save(tmp_path / "d.nc"))
    assert_same(loaded, dataset)
    train, _ = loaded.split(0.5, seed=1)
    assert_same(TrainingSet.load(train.save(tmp_path / "t.nc")), train)


def test_long_lists_fit_into_the_file(tmp_path: Path) -> None:
    many = tuple(StarProblem(f"2M{k}", "x" * 90, "damaged") for k in range(2000))
    own = {"continuum_pixels": json.dumps(list(range(20000)))}
    whole = replace(made(["a", "b"]), problems=many, settings=own)
    assert_same(TrainingSet.load(whole.save(tmp_path / "d.nc")), whole)


def test_nothing_but_spectra_and_labels(tmp_path: Path) -> None:
    full = made(["a"])
    bare = TrainingSet(full.spectra, full.labels)
    assert_same(TrainingSet.load(bare.save(tmp_path / "d.nc")), bare)


def test_existing_output_needs_overwrite(tmp_path: Path) -> None:
    path = made(["a", "b"]).save(tmp_path / "d.nc")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="exists"):
        made(["c"]).save(path)
    assert path.read_bytes() == before
    made(["c"]).save(path, overwrite=True)
    assert TrainingSet.load(path).star_id.tolist() == ["c"]


def test_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputExistsError, match="not a writable directory"):
        made(["a"]).save(tmp_path / "file" / "d.nc")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OutputExistsError, match="No space left"):
        made(["a"]).save(tmp_path / "d.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_load_refuses_what_is_not_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "d.nc"
    with pytest.raises(FileFormatError, match="does not exist"):
        TrainingSet.load(path)
    path.write_text("hello")
    with pytest.raises(FileFormatError, match="cannot be read as NetCDF"):
        TrainingSet.load(path)
    path.unlink()
    made(["a", "b"], n_pixels=4000).save(path)
    content = path.read_bytes()
    for part in (0.3, 0.7, 0.98):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(FileFormatError, match=r"d\.nc"):
            TrainingSet.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "newer than 1; upgrade bayes_cannon"),
        ({"format": "bayes_cannon.cannon"}, "holds bayes_cannon.cannon, not bayes_cannon.dataset"),
    ],
)
def test_load_refuses_other_formats(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = made(["a"]).save(tmp_path / "d.nc")
    with h5py.File(path, "r+") as file:
        file.attrs.update(change)
    with pytest.raises(FileFormatError, match=message):
        TrainingSet.load(path)


@pytest.mark.parametrize("name", ["flux", "settings", "label_values", "info"])
def test_load_refuses_files_that_lack_parts(tmp_path: Path, name: str) -> None:
    path = made(["a"]).save(tmp_path / "d.nc")
    with h5py.File(path, "r+") as file:
        del file[name]
        del file.attrs["sealed"]  # as files without a seal were written
    with pytest.raises(FileFormatError, match="lacks parts of a training set"):
        TrainingSet.load(path)


def test_load_refuses_values_that_cannot_be(tmp_path: Path) -> None:
    path = made(["a", "b"]).save(tmp_path / "d.nc")
    with h5py.File(path, "r+") as file:
        file["ivar"][0, 0] = -1
        del file.attrs["sealed"]  # as files without a seal were written
    with pytest.raises(FileFormatError, match=r"lacks parts.*negative ivar"):
        TrainingSet.load(path)


# Names of the stars' column and of the catalogue -------------------------------------------


def test_a_training_set_knows_what_its_stars_and_its_catalogue_are_called(tmp_path: Path) -> None:
    dataset = bc.load_gaia_xp_giants().select(np.arange(5))
    assert (dataset.id_name, dataset.labels.id_name, dataset.catalogue) == (
        "APOGEE_ID", "APOGEE_ID", "ASPCAP",
    )  # fmt: skip
    dataset.save(tmp_path / "d.nc")
    again = TrainingSet.load(tmp_path / "d.nc")
    assert (again.id_name, again.labels.id_name, again.catalogue) == (
        "APOGEE_ID", "APOGEE_ID", "ASPCAP",
    )  # fmt: skip
    part = again.split(0.5, seed=1)[0]
    assert part.id_name == part.labels.only(["TEFF"]).id_name == "APOGEE_ID"
    assert part.spectra.rows(slice(0, 1)).id_name == "APOGEE_ID"


def _own(labels, **options) -> TrainingSet:
    grid = np.linspace(5000, 5100, 30)
    return bc.training_set_from_arrays(
        grid, np.ones((3, 30)), labels, error=np.full((3, 30), 0.01), **options
    )


def test_names_of_stars_come_with_their_columns_name() -> None:
    columns = {"TEFF": [4500.0, 4600.0, 4700.0]}
    plain = _own(columns)
    assert (plain.id_name, plain.catalogue) == ("STAR_ID", "CATALOGUE")
    sdss = _own({**columns, "sdss_id": [11, 12, 13]}, catalogue="GALAH DR4")
    assert (sdss.id_name, sdss.catalogue) == ("SDSS_ID", "GALAH_DR4")
    assert sdss.star_id.tolist() == ["11", "12", "13"]
    assert sdss.labels.names == ("TEFF",)
    frame = pd.DataFrame(columns, index=pd.Index(["a", "b", "c"], name="gaia_id"))
    assert _own(frame).id_name == "GAIA_ID"
    assert _own(frame).star_id.tolist() == ["a", "b", "c"]
    assert _own(frame, id_name="TIC").id_name == "TIC"
    assert _own(sdss.labels).id_name == "SDSS_ID"
    with pytest.raises(InvalidDataError, match="letters, digits and _"):
        _own(columns, id_name="Gaia ID")
