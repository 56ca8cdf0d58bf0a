"""Line list, and wavelengths in vacuum and in air."""

import numpy as np
import pytest

from bayes_cannon.analysis.lines import (
    LINE_KINDS,
    explain_peaks,
    lines_in,
    lines_of,
    load_lines,
    nearest_lines,
)
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.air import air_to_vacuum, vacuum_to_air

GRID = 10 ** (4.179 + 6e-6 * np.arange(8575))


@pytest.mark.parametrize(
    ("air", "difference"),
    [
        (15100, 4.127),
        (15400, 4.208),
        (15750, 4.304),
        (16000, 4.372),
        (16400, 4.480),
        (16700, 4.562),
        (16950, 4.630),
    ],
)
def test_vacuum_minus_air(air: float, difference: float) -> None:
    assert air_to_vacuum(air) - air == pytest.approx(difference, abs=0.0006)
    assert vacuum_to_air(air + difference) == pytest.approx(air, abs=0.0006)


def test_sodium_d2_as_measured() -> None:
    # NIST Atomic Spectra Database: 5889.950954 Å in air, 5891.583264 Å in vacuum.
    assert air_to_vacuum(5889.950954) == pytest.approx(5891.583264, abs=2e-4)


def test_air_and_vacuum_are_inverse_in_any_shape() -> None:
    vacuum = np.linspace(2301, 19990, 600).reshape(20, 30)
    np.testing.assert_allclose(air_to_vacuum(vacuum_to_air(vacuum)), vacuum, rtol=0, atol=1e-10)
    assert (vacuum_to_air(vacuum) < vacuum).all()


@pytest.mark.parametrize("wavelength", [1.6, 2299.0, 20001.0, np.nan, -15000.0, np.inf])
def test_wavelengths_where_air_is_not_known(wavelength: float) -> None:
    for convert in (air_to_vacuum, vacuum_to_air):
        with pytest.raises(InvalidDataError, match=r"1 of 2 wavelengths .* outside 2300-20000 Å"):
            convert([16000.0, wavelength])


def test_list_is_complete_and_ordered() -> None:
    lines = load_lines()
    kinds, counts = np.unique(lines["kind"], return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {
        "atomic": 85, "brackett": 11, "oh": 24, "co_head": 7, "cn": 9, "13co": 2,
    }  # fmt: skip
    assert set(kinds) == set(LINE_KINDS)
    assert (np.diff(lines["vacuum"]) > 0).all()
    assert lines["vacuum"].min() > GRID[0]
    assert lines["vacuum"].max() < GRID[-1]
    assert lines["vacuum"].unit == "Angstrom"
    assert set(lines["source"]) == set(lines.meta["sources"])
    assert len(set(lines["name"])) == len(lines)


def test_pairs_of_every_line_agree() -> None:
    lines = load_lines()
    expected = air_to_vacuum(np.asarray(lines["air"]))
    np.testing.assert_allclose(lines["vacuum"], expected, rtol=0, atol=0.002)


@pytest.mark.parametrize(
    ("species", "air", "vacuum"),
    [
        ("Al I", 16718.957, 16723.524),
        ("Mg I", 15740.716, 15745.017),
        ("Mg I", 15748.988, 15753.291),
        ("Mg I", 15765.839, 15770.147),
        ("Si I", 15960.063, 15964.424),
        ("Si I", 16060.009, 16064.397),
        ("Si I", 16094.787, 16099.184),
        ("Si I", 16680.770, 16685.327),
        ("Fe I", 16195.057, 16199.482),
        ("S I", 15422.276, 15426.490),
        ("OH", 16052.77, 16057.16),
    ],
)
def test_lines_as_published(species: str, air: float, vacuum: float) -> None:
    lines = load_lines()
    row = lines[np.argmin(abs(lines["vacuum"] - vacuum) + 9 * (lines["species"] != species))]
    assert row["species"] == species
    assert row["air"] == pytest.approx(air, abs=0.001)
    assert row["vacuum"] == pytest.approx(vacuum, abs=0.006)


def test_brackett_series_by_rydberg() -> None:
    lines = load_lines("brackett")
    assert sorted(lines["upper"]) == list(range(11, 22))
    expected = 1e8 / (109677.5834 * (1 / 16 - 1 / np.asarray(lines["upper"]) ** 2))
    np.testing.assert_allclose(lines["vacuum"], expected, rtol=0, atol=0.001)
    assert list(lines["name"][lines["upper"] == 13]) == ["Br 13"]


def test_names_for_figures() -> None:
    names = {str(name) for name in load_lines()["name"]}
    assert {"Mg I 15745.0", "CO 6–3", "OH 16057.2", "CN 15415.0", "¹³CO 16126.9"} <= names


def test_changing_the_list_leaves_the_next_one_whole() -> None:
    load_lines()["vacuum"] += 5
    lines_of("MG_FE")["vacuum"] += 5
    assert 15745.017 in load_lines()["vacuum"]


def test_kinds_are_checked() -> None:
    assert set(load_lines(["oh", "cn"])["kind"]) == {"oh", "cn"}
    with pytest.raises(InvalidDataError, match=r"unknown kinds of lines H2O; there are atomic,"):
        load_lines(["oh", "H2O"])


@pytest.mark.parametrize(
    ("label", "species"),
    [
        ("MG_FE", {"Mg I"}),
        ("mg_h", {"Mg I"}),
        ("FE_H", {"Fe I"}),
        ("SI_M", {"Si I"}),
        ("C_FE", {"C I", "CO", "CN"}),
        ("CI_FE", {"C I"}),
        ("N_FE", {"CN"}),
        ("O_FE", {"OH", "CO"}),
        ("C12_C13", {"13CO"}),
        ("ALPHA_M", {"Mg I", "Si I", "S I", "Ca I", "Ti I", "OH"}),
        ("TEFF", {"H I", "OH", "CO"}),
        ("LOGG", {"H I", "CO"}),
        ("CE_FE", set()),
        ("VMICRO", set()),
        ("TIII_FE", set()),
    ],
)
def test_lines_of_a_label(label: str, species: set[str]) -> None:
    lines = lines_of(label)
    assert set(lines["species"]) == species
    every = load_lines()
    assert len(lines) == np.isin(every["species"], sorted(species)).sum()


def test_metallicity_acts_on_all_atoms() -> None:
    assert len(lines_of("M_H")) == 85


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("MG_EF", "not a label with lines; did you mean MG_FE"),
        ("TEF", "did you mean TEFF"),
        ("SNR_VISIT", "use a catalogue name such as MG_FE"),
        ("", "use a catalogue name"),
        ("TEFF_FE", "not a label with lines"),
        ("ALPHA", "not a label with lines"),
    ],
)
def test_unknown_labels(label: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        lines_of(label)


def test_lines_in_a_range() -> None:
    lines = lines_in(16000, 16200)
    assert {"Fe I 16014.0", "Si I 16064.4", "Ca I 16141.2", "OH 16057.2", "Br 13", "CO 6–3"} <= set(
        lines["name"]
    )
    assert lines["vacuum"].min() >= 16000
    assert lines["vacuum"].max() <= 16200
    assert len(lines_in(15745.017, 15745.018)) == 1
    assert set(lines_in(16000, 16200, kinds="oh")["species"]) == {"OH"}
    with pytest.raises(InvalidDataError, match="must run upwards, got 16200 to 16000"):
        lines_in(16200, 16000)


def test_nearest_lines_by_definition() -> None:
    wavelength = np.random.default_rng(1).permutation(GRID[200:8500:7])
    found = nearest_lines(wavelength, 0.6)
    lines = load_lines()
    for row in found[:200]:
        distance = np.abs(lines["vacuum"] - row["wavelength"])
        distance[distance > 0.6 + lines["precision"]] = np.inf
        best = np.argmin(distance)
        near = np.isfinite(distance[best])
        assert row["name"] == (lines["name"][best] if near else "")
        assert np.isfinite(row["offset"]) == near
    np.testing.assert_array_equal(found["wavelength"], wavelength)
    assert np.nanmax(abs(found["offset"])) <= 0.6 + 1.0


def test_nearest_lines_tell_offset_and_kind() -> None:
    found = nearest_lines([15745.317, 15746.0, 16189.6], 0.6)
    assert list(found["name"]) == ["Mg I 15745.0", "", "CO 6–3"]
    assert list(found["kind"]) == ["atomic", "", "co_head"]
    assert found["offset"][0] == pytest.approx(0.3)
    assert np.isnan(found["offset"][1])
    assert list(nearest_lines(15745.317, 0.6, kinds="oh")["name"]) == [""]


def test_nearest_lines_check_their_input() -> None:
    with pytest.raises(InvalidDataError, match="finite numbers"):
        nearest_lines([15745.0, np.nan])
    with pytest.raises(InvalidDataError, match="finite numbers"):
        nearest_lines([[15745.0]])
    with pytest.raises(InvalidDataError, match="tolerance must be positive, got 0"):
        nearest_lines([15745.0], 0)


def bump(centre: float, height: float) -> np.ndarray:
    return height * np.exp(-0.5 * ((GRID - centre) / 0.4) ** 2)


def test_peaks_are_explained_strongest_first() -> None:
    values = bump(15753.291, 0.3) + bump(16064.397, -0.5) + bump(16800.0, 0.1) + 1e-3
    found = explain_peaks(GRID, values, 3)
    assert list(found["name"]) == ["Si I 16064.4", "Mg I 15753.3", ""]
    np.testing.assert_allclose(found["value"], [-0.499, 0.301, 0.101], atol=0.02)  # between pixels
    np.testing.assert_allclose(abs(found["offset"][:2]), 0, atol=0.12)
    np.testing.assert_array_equal(GRID[found["pixel"]], found["wavelength"])


def test_close_peaks_count_once_and_gaps_are_left_out() -> None:
    values = bump(15753.291, 1.0) + bump(15754.7, 0.8) + bump(16064.397, 0.5)
    values[(GRID > 16063) & (GRID < 16066)] = np.nan
    found = explain_peaks(GRID, values, 2)
    assert list(found["name"][:1]) == ["Mg I 15753.3"]
    assert abs(found["wavelength"][1] - 15754.7) > 2
    assert np.isfinite(found["value"]).all()
    close = explain_peaks(GRID, values, 2, separation=0.5)
    np.testing.assert_allclose(close["wavelength"], [15753.291, 15754.7], atol=0.2)


def test_peaks_at_the_ends_and_on_plateaus_count_once() -> None:
    grid = 15745.0 + np.arange(6.0) * 5
    found = explain_peaks(grid, [3.0, 0, 2, 2, 0, 1], 9)
    assert list(found["pixel"]) == [0, 2, 5]


def test_no_peaks_give_no_rows() -> None:
    assert len(explain_peaks(GRID, np.zeros(GRID.size), 5)) == 0
    assert len(explain_peaks(GRID, np.full(GRID.size, np.nan), 5)) == 0


def test_peaks_check_their_input() -> None:
    with pytest.raises(InvalidDataError, match=r"wavelength \(8575,\) and values \(3,\)"):
        explain_peaks(GRID, [1, 2, 3])
    with pytest.raises(InvalidDataError, match="strictly increasing"):
        explain_peaks(GRID[::-1], GRID)
    with pytest.raises(InvalidDataError, match="n must be at least 1, got 0"):
        explain_peaks(GRID, GRID, 0)
