"""Which catalogue row belongs to which file: layout, names, and rows that lead astray."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.errors import FileFormatError, LabelError, SurveyError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.survey import Survey, open_survey

Row = tuple[str, str, str]
A: Row = ("apo25m", "M15", "2M21300001+1200001")
B: Row = ("apo25m", "060+00", "2M18500002-0300002")
C: Row = ("lco25m", "N6791", "2M19200003+3700003")


def write_catalogue(
    folder: Path,
    rows: list[Row],
    name: str = "allStar-dr17-synspec_rev1.fits",
    leave_out: tuple[str, ...] = (),
    **extra: object,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = Table()
    for k, column in enumerate(("TELESCOPE", "FIELD", "APOGEE_ID")):
        table[column] = np.array([row[k].encode() for row in rows])
    for k, label in enumerate(DEFAULT_LABELS):
        table[label] = np.linspace(1, 2, len(rows), dtype=np.float32) + k
        table[f"{label}_ERR"] = np.full(len(rows), 0.1, dtype=np.float32)
    table["SNR"] = np.full(len(rows), 100.0, dtype=np.float32)
    for column in ("STARFLAG", "ASPCAPFLAG", "EXTRATARG"):
        table[column] = np.zeros(len(rows), dtype=np.int64)
    for column, value in extra.items():
        table[column] = value
    table.remove_columns(list(leave_out))
    table.write(folder / name)


def put(folder: Path, relative: str) -> str:
    """An empty file: opening a survey does not read spectra."""
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def spectrum_name(row: Row, apred: str = "dr17") -> str:
    telescope, field, star = row
    prefix = "as" if telescope == "lco25m" else "ap"
    return f"{telescope}/{field}/{prefix}Star-{apred}-{star}.fits"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "survey"


def files_of(survey: Survey) -> dict[str, str]:
    return dict(zip(survey.catalogue.star_id.tolist(), survey.files.tolist(), strict=True))


def test_rows_find_their_files(folder: Path) -> None:
    write_catalogue(folder, [A, B, C])
    expected = {row[2]: put(folder, spectrum_name(row)) for row in (A, B, C)}
    survey = open_survey(folder)
    assert files_of(survey) == expected
    assert len(survey) == 3
    assert survey.orphans == ()
    assert survey.problems == ()
    assert survey.missing.size == 0
    assert survey.path == folder


def test_rows_without_files_and_files_without_rows(folder: Path) -> None:
    write_catalogue(folder, [A, B, C])
    put(folder, spectrum_name(A))
    lonely = spectrum_name(("apo25m", "M15", "2M00000000+0000000"))
    put(folder, lonely)
    put(folder, "mystery/apStar-dr17-2M99.fits")
    put(folder, "apo25m/M15/apStarC-dr17-2M21300001+1200001.fits")
    put(folder, "apo25m/M15/aspcapStar-dr17-2M21300001+1200001.fits")
    put(folder, f"apo25m/M15/.{A[2]}.fits.part")
    put(folder, f".hidden/M15/apStar-dr17-{A[2]}.fits")
    survey = open_survey(folder)
    assert survey.missing.tolist() == [B[2], C[2]]
    assert survey.orphans == (lonely, "mystery/apStar-dr17-2M99.fits")
    assert survey.problems == ()


@pytest.mark.parametrize(
    "name",
    [
        "apStar-r12-{}.fits",
        "apStar-dr17-{}.fits",
        "asStar-dr17-{}.fits",
        "apStar-1.3-apo25m-{}.fits",
        "apStar-r6-{}.fits.gz",
    ],
)
def test_file_names_of_every_release(folder: Path, name: str) -> None:
    write_catalogue(folder, [A])
    path = put(folder, f"apo25m/M15/{name.format(A[2])}")
    assert open_survey(folder).files.tolist() == [path]


def test_same_star_in_two_fields(folder: Path) -> None:
    twice = ("apo25m", "M15-2", A[2])
    write_catalogue(folder, [A, twice])
    paths = [put(folder, spectrum_name(row)) for row in (A, twice)]
    survey = open_survey(folder)
    assert survey.files.tolist() == paths
    assert len(set(survey.catalogue.star_id.tolist())) == 2


@pytest.mark.parametrize(
    "row",
    [
        ("apo25m", "..", A[2]),
        ("..", "outside", A[2]),
        ("apo25m", "../../outside", A[2]),
        ("/etc", "M15", A[2]),
        ("apo25m", "M15", "../../../outside/apo25m/x"),
        ("apo25m", "M15", "..\\x"),
        ("apo25m", ".", A[2]),
    ],
)
def test_rows_cannot_lead_out_of_the_survey(folder: Path, row: Row) -> None:
    write_catalogue(folder, [row, B])
    inside = put(folder, spectrum_name(B))
    outside = folder.parent / "outside"
    for place in (outside, outside / "M15", outside / "apo25m", folder / "apo25m", folder.parent):
        put(place, f"apStar-dr17-{A[2]}.fits")
        put(place, "apStar-dr17-x.fits")
    survey = open_survey(folder)
    assert survey.files.tolist() == ["", inside]
    assert [p.row for p in survey.problems] == [0]
    assert "not the name of a folder or a star" in survey.problems[0].message


def test_null_bytes_in_names(folder: Path) -> None:
    write_catalogue(folder, [("apo25m", "M1\0 5", A[2]), B])
    put(folder, spectrum_name(B))
    put(folder, spectrum_name(("apo25m", "M1", A[2])))
    survey = open_survey(folder)
    root = folder.resolve()
    assert survey.files[1] != ""
    for path in filter(None, survey.files.tolist()):
        assert "\0" not in path
        assert Path(path).resolve().is_relative_to(root)


def test_several_catalogues_are_stacked(folder: Path) -> None:
    write_catalogue(folder, [A, B], "allStar-dr17-x.fits", MEMBER=np.array([b"M15", b""]))
    write_catalogue(folder, [C], "allStar-r12-l33.fits", CHI2=np.array([1.5], dtype=np.float32))
    for row, apred in ((A, "dr17"), (B, "dr17"), (C, "r12")):
        put(folder, spectrum_name(row, apred))
    survey = open_survey(folder)
    assert sorted(survey.catalogue.star_id.tolist()) == sorted([A[2], B[2], C[2]])
    assert (survey.files != "").all()
    labels = survey.catalogue.labels(DEFAULT_LABELS)
    by_star = dict(zip(labels.star_id.tolist(), labels["TEFF"].tolist(), strict=True))
    assert by_star[C[2]] == 1.0
    assert by_star[B[2]] == 2.0


def test_a_star_in_two_releases_is_used_once(folder: Path) -> None:
    write_catalogue(folder, [A, B], "allStar-dr17-x.fits")
    write_catalogue(folder, [A], "allStar-r12-l33.fits", LOGG=np.array([9.0], dtype=np.float32))
    old = spectrum_name(A, "r12")
    put(folder, old)
    new = put(folder, spectrum_name(A, "dr17"))
    put(folder, spectrum_name(B))
    survey = open_survey(folder)
    assert files_of(survey)[A[2]] == new
    assert survey.orphans == (old,)
    assert [p.star_id for p in survey.problems] == [A[2]]
    assert "another row" in survey.problems[0].message
    assert (survey.catalogue.labels(["LOGG"])["LOGG"] < 9).all()


def test_hand_made_catalogue_without_places(folder: Path) -> None:
    write_catalogue(folder, [A, B, C], leave_out=("TELESCOPE",))
    paths = [put(folder, spectrum_name(row)) for row in (A, B)]
    for telescope in ("apo25m", "lco25m"):  # not clear which one is meant
        put(folder, f"{telescope}/{C[1]}/apStar-dr17-{C[2]}.fits")
    assert open_survey(folder).files.tolist() == [*paths, ""]


def test_non_ascii_field_names(folder: Path) -> None:
    write_catalogue(folder, [B])
    os.makedirs(folder / "apo25m" / "ω Cen")
    orphan = "apo25m/ω Cen/apStar-dr17-2M1.fits"
    put(folder, orphan)
    put(folder, spectrum_name(B))
    assert open_survey(folder).orphans == (orphan,)


def test_relative_paths_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalogue(folder, [A])
    put(folder, spectrum_name(A))
    monkeypatch.chdir(folder.parent)
    (file,) = open_survey("survey").files.tolist()
    assert Path(file).is_file()


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SurveyError, match="nowhere is not a directory"):
        open_survey(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(SurveyError, match="file is not a directory"):
        open_survey(tmp_path / "file")


def test_no_catalogue(folder: Path) -> None:
    put(folder, spectrum_name(A))
    (folder / "allStar-directory.fits").mkdir()
    with pytest.raises(SurveyError, match=r"has no catalogue: put an allStar\*\.fits file"):
        open_survey(folder)


def test_no_spectra(folder: Path) -> None:
    write_catalogue(folder, [A])
    with pytest.raises(SurveyError, match="has no spectra"):
        open_survey(folder)


def test_spectra_of_other_stars_only(folder: Path) -> None:
    write_catalogue(folder, [A])
    put(folder, spectrum_name(B))
    with pytest.raises(
        SurveyError, match=r"none of the 1 spectrum in .* belongs to one of the 1 row"
    ):
        open_survey(folder)


def test_unknown_label(folder: Path) -> None:
    write_catalogue(folder, [A])
    put(folder, spectrum_name(A))
    with pytest.raises(LabelError, match="NO_FE"):
        open_survey(folder, labels=("TEFF", "NO_FE"))


def test_damaged_catalogue(folder: Path) -> None:
    folder.mkdir()
    (folder / "allStar-dr17.fits").write_text("<html>not found</html>")
    put(folder, spectrum_name(A))
    with pytest.raises(FileFormatError, match="allStar-dr17"):
        open_survey(folder)


def test_simulated_is_seen(folder: Path) -> None:
    write_catalogue(folder, [A])
    put(folder, spectrum_name(A))
    assert not open_survey(folder).catalogue.simulated
    with fits.open(folder / "allStar-dr17-synspec_rev1.fits", mode="update") as hdus:
        for hdu in hdus:
            hdu.header["SIMULATE"] = True
    assert open_survey(folder).catalogue.simulated


def test_as_many_files_as_rows(folder: Path) -> None:
    write_catalogue(folder, [A, B])
    put(folder, spectrum_name(A))
    survey = open_survey(folder)
    with pytest.raises(SurveyError, match="1 file name for 2 rows"):
        Survey(folder, survey.catalogue, survey.files[:1])


def test_a_survey_shows_what_it_holds(folder: Path) -> None:
    write_catalogue(folder, [A, B])
    put(folder, spectrum_name(A))
    survey = open_survey(folder)
    shown = repr(survey)
    assert shown.startswith("Survey of 2 stars\n  folder         ")
    assert "labels of ASPCAP)" in shown
    assert "  spectra        1, 1 row without" in shown
    assert repr(survey.catalogue).startswith("Catalogue ASPCAP of 2 rows")
