"""Isochrones: the packaged extract, and files in the formats of MIST made here."""

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from bayes_cannon.analysis.isochrones import (
    Isochrone,
    IsochroneSet,
    _read_table,
    packaged_isochrones,
    read_mist,
)
from bayes_cannon.errors import BayesCannonWarning, FileFormatError, InvalidDataError

DASHES = "# " + "-" * 86
EEPS = np.array([150, 300, 454, 480, 520, 560, 605, 631, 680, 707, 760, 900, 1500])
PHASES = np.array([-1, 0, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6])
ISO = ("EEP", "log10_isochrone_age_yr", "initial_mass", "star_mass", "star_mdot", "he_core_mass",
       "log_L", "log_LH", "log_Teff", "log_R", "log_g", "surface_h1", "phase")  # fmt: skip
CMD1 = ("EEP", "log10_isochrone_age_yr", "initial_mass", "star_mass", "log_Teff", "log_g", "log_L",
        "[Fe/H]_init", "[Fe/H]", "Bessell_U", "2MASS_J", "phase")  # fmt: skip
CMD2 = (*CMD1[:5], "log_R", *CMD1[5:])


def linear(names: Sequence[str]) -> tuple[str, ...]:
    return tuple("isochrone_age_yr" if n == "log10_isochrone_age_yr" else n for n in names)


def true_columns(log_age: float, feh: float) -> dict[str, np.ndarray]:
    step = np.arange(EEPS.size)
    return {
        "EEP": EEPS,
        "log10_isochrone_age_yr": np.full(EEPS.size, log_age),
        "log_age": np.full(EEPS.size, log_age),
        "isochrone_age_yr": np.full(EEPS.size, 10**log_age),
        "initial_mass": 1 + 0.01 * step,
        "log_Teff": 3.80 - 0.02 * step - 0.01 * feh,
        "log_g": 4.5 - 0.35 * step + 0.1 * feh,
        "[Fe/H]_init": np.full(EEPS.size, feh),
        "phase": PHASES,
    }


def block(names: Sequence[str], log_age: float, feh: float) -> list[str]:
    columns = true_columns(log_age, feh)
    width = 32
    text = [
        f"# number of EEPs, cols = {EEPS.size:5d}{len(names):5d}",
        "#" + "".join(f"{i + 1:{4 if i == 0 else width}d}" for i in range(len(names))),
        "#" + "".join(f"{n:>{4 if i == 0 else width}}" for i, n in enumerate(names)),
    ]
    for i in range(EEPS.size):
        row = ""
        for name in names:
            value = float(columns[name][i]) if name in columns else -7.25
            if name == "EEP":
                row += f"{EEPS[i]:5d}"
            elif name[0].isupper() or name[0].isdigit():
                row += f"{value:20.6f}"
            else:  # as Fortran writes it, with three digits in the exponent
                number, _, power = f"{value:.16E}".partition("E")
                row += f"{number}E{power[0]}{int(power[1:]):03d}".rjust(width)
        text.append(row)
    return text


def mist_text(
    names: Sequence[str] = ISO,
    log_ages: Sequence[float] = (9.0, 9.8),
    feh: float = 0.25,
    version: str = "1.2",
    alpha: float = 0.0,
) -> str:
    """A whole file: ``.iso.cmd`` if there are magnitudes among the columns, else ``.iso``."""
    composition = [
        "#  Yinit        Zinit   [Fe/H]   [a/Fe]  v/vcrit".ljust(88),
        f"# {0.27:6.4f} {1.42857e-2:12.5E}{feh:9.2f}{alpha:9.2f}{0.4:9.2f}",
        DASHES,
        f"# number of isochrones = {len(log_ages):5d}",
    ]
    head = [f"# MIST version number  = {version:>8}", "# MESA revision number =    11701"]
    if "2MASS_J" in names:
        head += ["# photometric system   = UBVRIplus", DASHES, *composition]
        head += [f"# Av = {0:8.3f}", DASHES]
    else:
        head += [DASHES, *composition, DASHES]
    return "\n\n\n".join(
        "\n".join((head if i == 0 else []) + block(names, age, feh))
        for i, age in enumerate(log_ages)
    ) + "\n"  # fmt: skip


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "test.iso") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def assert_true(one: Isochrone, log_age: float, feh: float) -> None:
    expected = true_columns(log_age, feh)
    assert one.log10_age == pytest.approx(log_age, abs=1e-9)
    assert one.feh == pytest.approx(feh)
    np.testing.assert_array_equal(one.eep, EEPS)
    np.testing.assert_array_equal(one.phase, PHASES)
    for name in ("initial_mass", "log_Teff", "log_g"):
        np.testing.assert_allclose(getattr(one, name), expected[name], rtol=1e-12)


@pytest.mark.parametrize("version", ["1.2", "2.5"])
@pytest.mark.parametrize(
    "names",
    [
        *(ISO, CMD1, CMD2, linear(ISO), linear(CMD1), linear(CMD2)),
        (ISO[0], *ISO[:0:-1]),
        ("EEP", "phase", "log_g", "log_Teff", "star_mass", "initial_mass", "log_age"),
        tuple(name for name in CMD1 if name != "phase"),
        tuple(name for name in linear(ISO) if name != "phase"),
    ],
    ids=lambda names: "-".join(names[1:3]) + f"-{len(names)}",
)
def test_columns_are_found_by_name(write, names: Sequence[str], version: str) -> None:
    path = write(mist_text(names, (8.95, 9.8, 10.1), feh=-0.75, version=version, alpha=0.2))
    found = read_mist(path)
    assert len(found) == 3
    for one, log_age in zip(found, (8.95, 9.8, 10.1), strict=True):
        assert_true(one, log_age, -0.75)
        assert one.alpha_fe == pytest.approx(0.2)
    assert found.source.startswith(f"MIST {version} (Choi et al. 2016")


def test_log_age_under_the_name_of_years(write) -> None:
    text = mist_text(ISO).replace(" log10_isochrone_age_yr", "       isochrone_age_yr")
    assert [one.log10_age for one in read_mist(write(text))] == [9.0, 9.8]


def test_composition_from_a_column(write) -> None:
    lines = [x for x in mist_text(CMD1, feh=-1.5).splitlines() if "Yinit" not in x]
    (one, _) = read_mist(write("\n".join(lines)))
    assert one.feh == -1.5
    assert one.alpha_fe is None
    assert one.label == "1 Gyr, [Fe/H] = −1.50"


def test_windows_line_ends(write) -> None:
    assert_true(read_mist(write(mist_text().replace("\n", "\r\n"))).isochrones[1], 9.8, 0.25)


def test_several_and_packed_files(tmp_path: Path, write) -> None:
    packed = tmp_path / "a.iso.gz"
    packed.write_bytes(gzip.compress(mist_text(CMD2, feh=-0.5).encode()))
    archive = tmp_path / "b.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("x/readme.txt", "not this one")
        target.writestr("x/p000.iso", mist_text(feh=0.0))
        target.writestr("x/p050.iso.cmd", mist_text(CMD1, feh=0.5))
    found = read_mist(write(mist_text(feh=-1.0)), str(packed), archive)
    assert [one.feh for one in found] == [-1, -1, -0.5, -0.5, 0, 0, 0.5, 0.5]


def cut(text: str, n_lines: int) -> str:
    return "\n".join(text.splitlines()[:n_lines])


def replaced(text: str, number: int, line: str) -> str:
    lines = text.splitlines()
    lines[number - 1] = line
    return "\n".join(lines)


def without(name: str, names: Sequence[str] = ISO) -> str:
    return mist_text([n for n in names if n != name])


# Lines of the text below: header 1 to 8, block at 9, names at 11, rows 12 to 24, block at 27.
TEXT = mist_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 0: not a MIST isochrone file"),
        ("<!DOCTYPE html>\n<html>", "line 1: not a MIST isochrone file: it begins with '<!DOCTYPE"),
        ("Gmag,logAge\n1,2", "line 1: not a MIST isochrone file"),
        ("PK\0\3" + TEXT, "line 1: holds binary data"),
        (cut(TEXT, 1), "line 1: the file ends without an isochrone"),
        (cut(TEXT, 8), "line 8: the file ends without an isochrone"),
        (cut(TEXT, 9), "line 9: 13 names of columns expected, found 0"),
        (cut(TEXT, 11), "line 11: row 1 of 13 should have 13 values, found no more"),
        (cut(TEXT, 20), "line 20: row 10 of 13 should have 13 values, found no more"),
        (cut(TEXT, 20)[:-40], "line 20: row 9 of 13 should have 13 values, found 1. values"),
        (cut(TEXT, 26), "line 25: the file ends after 1 of 2 isochrones"),
        (cut(TEXT, 30), "line 30: row 2 of 13 .* found no more"),
        (replaced(TEXT, 18, ""), "line 18: row 7 of 13 .* found no more"),
        (replaced(TEXT, 18, TEXT.splitlines()[10]), "line 18: row 7 of 13"),
        (replaced(TEXT, 9, "# number of EEPs, cols =    12   13"), "line 24: a row of numbers"),
        (replaced(TEXT, 9, "# number of EEPs, cols =     0   13"), "line 11: .*without rows"),
        (replaced(TEXT, 9, "# number of EEPs, cols =    13   12"), "line 11: 12 names"),
        (replaced(TEXT, 11, "# a b"), "line 11: 13 names of columns expected, found 2"),
        (replaced(TEXT, 14, "454" + " *****" * 12), "line 14: could not convert .*'\\*\\*\\*"),
        (replaced(TEXT, 14, "454" + " NaN" * 12), "line 14: a value that is not finite"),
        (replaced(TEXT, 5, "# 0.27 0.014 0.0 none 0.4"), "line 5: expected the values of Yinit"),
        (replaced(TEXT, 5, "# 0.27 0.014 0.0"), "line 5: expected the values of Yinit"),
        (replaced(replaced(TEXT, 4, "#"), 5, "#"), "line 24: neither the header nor a column"),
        (without("log_g"), "line 11: the isochrone lacks log_g"),
        (without("EEP"), "line 11: the isochrone lacks EEP"),
        (without("initial_mass", CMD1), "line 13: the isochrone lacks initial_mass"),
        (without("log_Teff", CMD2), "line 13: the isochrone lacks log_Teff"),
        (without("log10_isochrone_age_yr"), r"lacks an age \(log10_isochrone_age_yr or"),
        (mist_text(log_ages=(2.0,)), "line 24: the ages of a block .* found 2"),
        (mist_text(linear(ISO), log_ages=(11.0,)), "line 24: the ages of a block"),
        (TEXT.replace("  480", "  300"), "test.iso is damaged: the EEPs .* must increase"),
    ],
)
def test_files_that_cannot_be_used(write, text: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_mist(write(text))


def test_ages_that_differ_within_a_block(write) -> None:
    lines = TEXT.splitlines()
    lines[14] = lines[14].replace("9.0000000000000000E+000", "9.1000000000000000E+000", 1)
    assert lines[14] != TEXT.splitlines()[14]
    with pytest.raises(FileFormatError, match="line 24: the ages of a block must be one"):
        read_mist(write("\n".join(lines)))


def test_files_that_cannot_be_opened(tmp_path: Path, write) -> None:
    with pytest.raises(FileFormatError, match=r"there is no file .*none.iso; give MIST isochr"):
        read_mist(tmp_path / "none.iso")
    with pytest.raises(FileFormatError, match=r"bad.zip cannot be read"):
        read_mist(write("text", "bad.zip"))
    with pytest.raises(FileFormatError, match=r"bad.iso.gz cannot be read"):
        read_mist(write("text", "bad.iso.gz"))
    whole = gzip.compress(TEXT.encode())
    for n_bytes in (len(whole) // 2, len(whole) - 4):
        (tmp_path / "short.gz").write_bytes(whole[:n_bytes])
        with pytest.raises(FileFormatError, match=r"short.gz cannot be read"):
            read_mist(tmp_path / "short.gz")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as target:
        target.writestr("a.txt", "")
    with pytest.raises(FileFormatError, match=r"empty.zip holds no .iso or .iso.cmd"):
        read_mist(tmp_path / "empty.zip")
    with pytest.raises(InvalidDataError, match="at least one"):
        read_mist()


def test_error_in_an_archive_names_the_member(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        target.writestr("x/y.iso", cut(TEXT, 15))
    with pytest.raises(FileFormatError, match=r"a.zip/x/y.iso, line 15: row 5 of 13"):
        read_mist(tmp_path / "a.zip")


def test_packaged_isochrones() -> None:
    found = packaged_isochrones()
    assert sorted(one.feh for one in found) == [-1, -0.5, 0, 0.25, 0.5]
    assert {one.log10_age for one in found} == {9.8}
    assert "Choi et al. 2016, ApJ 823, 102" in found.source
    assert "Dotter 2016, ApJS 222, 8" in found.source
    for one in found:
        assert len(one.giant_branch()) == 151
        assert one.giant_branch().log_g[-1] < 0.5 < 3.5 < one.giant_branch().log_g[0]
        clump = one.red_clump()
        assert (clump.eep[0], clump.eep[-1]) == (631, 706)
        # Observed red clumps lie between log g 2.2 and 2.6.
        assert 2.2 < clump.log_g.min() < clump.log_g.max() < 2.6


def test_packaged_table_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.ecsv"
    whole = Table({"log_g": [3.5, 3.4], "phase": [2, 2], "feh": [-1.0, -1.0],
                   "log10_age": [9.8, 9.8], "eep": [460, 461], "initial_mass": [0.9, 0.9],
                   "log_Teff": [3.7, 3.6]})  # fmt: skip
    whole.write(path, format="ascii.ecsv")
    (one,) = _read_table(path, "nowhere")
    assert (one.feh, one.log_g[0], one.eep[0]) == (-1, 3.5, 460)
    renamed = whole.copy()
    renamed.rename_column("log_g", "logg")
    for table, message in ((whole[:0], "holds no isochrone"), (renamed, "damaged .*log_g")):
        table.write(path, format="ascii.ecsv", overwrite=True)
        with pytest.raises(FileFormatError, match=message):
            _read_table(path, "nowhere")
    path.write_text("# %ECSV 1.0\n3.5,2\n")
    with pytest.raises(FileFormatError, match=r"t\.ecsv is damaged .*install bayes_cannon again"):
        _read_table(path, "nowhere")


def isochrone(feh: float = 0.0, log10_age: float = 9.8, **changes: object) -> Isochrone:
    columns = true_columns(log10_age, feh)
    values = {
        "feh": feh, "alpha_fe": 0.0, "log10_age": log10_age, "eep": EEPS,
        "initial_mass": columns["initial_mass"], "log_Teff": columns["log_Teff"],
        "log_g": columns["log_g"], "phase": PHASES, "source": "made here",
    }  # fmt: skip
    return Isochrone(**(values | changes))  # type: ignore[arg-type]


def test_selection_takes_the_nearest_and_says_which() -> None:
    every = IsochroneSet(
        tuple(
            isochrone(feh, age, alpha_fe=alpha)
            for feh in (-1.0, -0.75, 0.0)
            for age in (9.6, 9.8, 10.0)
            for alpha in (0.0, 0.4, None)
        )
    )
    assert len(every) == 27
    one = every.select(log10_age=9.778, feh=-0.9)
    assert (one.feh, one.log10_age, one.alpha_fe) == (-1.0, 9.8, 0.0)
    assert one.label == "6.31 Gyr, [Fe/H] = −1.00"
    one = every.select(log10_age=9.95, feh=-0.8, alpha_fe=0.3)
    assert (one.feh, one.log10_age, one.alpha_fe) == (-0.75, 10.0, 0.4)
    assert one.label == "10 Gyr, [Fe/H] = −0.75, [α/Fe] = 0.40"
    assert every.source == "made here"


@pytest.mark.parametrize(("log10_age", "feh"), [(9.8, -2.0), (8.0, 0.0)])
def test_selection_far_from_all_warns(log10_age: float, feh: float) -> None:
    with pytest.warns(BayesCannonWarning, match=r"no isochrone near .* the nearest is 6\.31 Gyr"):
        packaged_isochrones().select(log10_age=log10_age, feh=feh)


def test_parts_follow_phase_and_eep() -> None:
    one = isochrone()
    assert list(one.giant_branch().eep) == [454, 480, 520, 560]
    assert list(one.red_clump().eep) == [631, 680]
    assert one.giant_branch().label == one.label
    np.testing.assert_allclose(one.teff, 10**one.log_Teff)
    young = isochrone(phase=np.zeros(EEPS.size))
    with pytest.raises(InvalidDataError, match=r"6.31 Gyr, .* has no giant branch .*EEP 150 to"):
        young.giant_branch()
    with pytest.raises(InvalidDataError, match="has no red clump"):
        young.red_clump()


def test_ridge_passes_through_the_points() -> None:
    one = isochrone()
    branch = one.giant_branch()
    np.testing.assert_allclose(one.ridge(branch.log_g), branch.teff, rtol=1e-12)
    # The points of the test file lie on a straight line in the logarithms.
    middle = (branch.log_g[1:] + branch.log_g[:-1]) / 2
    expected = 10 ** ((branch.log_Teff[1:] + branch.log_Teff[:-1]) / 2)
    np.testing.assert_allclose(one.ridge(middle), expected, rtol=1e-12)
    assert one.ridge(middle[0]).shape == ()


def test_ridge_cools_all_the_way_up() -> None:
    grid = np.linspace(3.5, 0.5, 61)
    by_metallicity = [
        packaged_isochrones().select(log10_age=9.778, feh=feh).ridge(grid) for feh in (-1.0, 0.0)
    ]
    for teff in by_metallicity:
        assert (np.diff(teff) < 0).all()
        assert 3400 < teff[-1] < teff[0] < 5600
    assert (by_metallicity[0] > by_metallicity[1] + 200).all()


def test_ridge_skips_where_gravity_turns_back() -> None:
    log_g = np.array(isochrone().log_g)
    log_g[4] = log_g[3] + 0.05  # EEP 520
    one = isochrone(log_g=log_g)
    used = np.array([2, 3, 5])
    np.testing.assert_allclose(one.ridge(log_g[used]), one.teff[used], rtol=1e-12)
    assert (np.diff(one.ridge(np.linspace(log_g[2], log_g[5], 50))) < 0).all()


def test_ridge_outside_the_branch() -> None:
    with pytest.raises(InvalidDataError, match=r"2 of 3 gravities .* from log g 3\.80 to 2\.75"):
        isochrone().ridge([3.0, 4.5, np.nan])
    single = isochrone(phase=np.where(EEPS == 480, 2, 0))
    with pytest.raises(InvalidDataError, match="outside the giant branch"):
        single.ridge([float(single.log_g[3])])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_g": np.zeros(3)}, r"log_g of an isochrone has shape \(3,\)"),
        ({"log_Teff": np.zeros((EEPS.size, 1))}, "log_Teff of an isochrone has shape"),
        ({"initial_mass": np.full(EEPS.size, np.nan)}, "initial_mass .* not finite"),
        ({"eep": EEPS[::-1]}, "EEPs of an isochrone must increase"),
        ({"eep": np.array([])}, "not empty"),
    ],
)
def test_isochrones_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        isochrone(**changes)


def test_isochrones_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        isochrone().log_g[0] = 1


def test_a_set_needs_one() -> None:
    with pytest.raises(InvalidDataError, match="at least one"):
        IsochroneSet(())
