"""A survey prepared on disk: as in memory, by any workers, after any interruption."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bayes_cannon.base.stores import rows
from bayes_cannon.cli.commands import app
from bayes_cannon.errors import (
    BayesCannonError,
    BayesCannonWarning,
    FileFormatError,
    InvalidDataError,
    NoStarsError,
    OutputExistsError,
)
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.stored import StoredSet, open_dataset
from bayes_cannon.surveys import storing
from bayes_cannon.surveys.preparing import prepare
from bayes_cannon.surveys.storing import prepare_to
from tests.spectra.test_dataset import make_survey, spectrum_path, star_name, write_spectrum
from tests.spectra.test_stored import assert_same, contents, damage

ROOT = Path(__file__).parents[2]


def spoil(flux, err, mask):
    mask[:] = 1


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine stars; a file of one is damaged, another has no good pixel, a third no file."""
    folder = make_survey(tmp_path_factory.mktemp("nine") / "survey", [4, 1, 6, 2, 9, 5, 3, 8, 7])
    spectrum_path(folder, 1).write_bytes(b"not FITS")
    write_spectrum(spectrum_path(folder, 9), 9, edit=spoil)
    spectrum_path(folder, 8).unlink()
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 3)


@pytest.fixture(scope="module")
def in_memory(survey: Path) -> TrainingSet:
    return prepare(survey)


@pytest.fixture(scope="module")
def kept(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", 3)
        return prepare_to(tmp_path_factory.mktemp("kept") / "set.zarr", survey).path


def test_it_is_what_prepare_makes_in_memory(kept, in_memory, tmp_path):
    stored = open_dataset(kept)
    assert isinstance(stored, StoredSet)
    assert stored.star_id.tolist() == [star_name(n) for n in (4, 6, 2, 5, 3, 7)]
    assert stored.spectra.row.tolist() == [0, 2, 3, 5, 6, 7]
    assert_same(stored.in_memory(), in_memory)
    file = in_memory.save(tmp_path / "set.nc")
    assert_same(TrainingSet.load(kept), TrainingSet.load(file))
    assert [p.star_id for p in stored.problems] == [star_name(n) for n in (8, 1, 9)]


def test_workers_write_the_same_bytes(kept, survey, tmp_path):
    told: list[tuple[int, int]] = []
    with ThreadPoolExecutor(3) as executor:
        made = prepare_to(
            tmp_path / "set.zarr", survey, executor=executor,
            progress=lambda done, total, what: told.append((done, total)),
        )  # fmt: skip
    assert contents(made.path) == contents(kept)
    assert told[-1] == (8, 8)
    assert sorted(told) == told


def test_work_cut_off_goes_on_where_it_was(kept, survey, tmp_path, monkeypatch):
    out, done, write = tmp_path / "set.zarr", [], storing.write_block

    def cut_off(folder, block, *rest):
        if block == 1 and not done.count(0) > 1:
            raise KeyboardInterrupt
        done.append(block)
        write(folder, block, *rest)

    monkeypatch.setattr(storing, "write_block", cut_off)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT011
        prepare_to(out, survey)
    assert done == [0]
    with pytest.raises(FileFormatError, match="is not finished"):
        TrainingSet.load(out)
    monkeypatch.setattr(
        storing,
        "write_block",
        lambda folder, block, *rest: (done.append(block), write(folder, block, *rest)),
    )
    prepare_to(out, survey)
    assert done == [0, 1, 2]
    assert contents(out) == contents(kept)
    prepare_to(out, survey)
    assert done == [0, 1, 2]


@pytest.mark.slow
def test_a_process_killed_at_any_moment_loses_nothing(survey, tmp_path):
    command = [sys.executable, "-m", "tests.killed_prepare", str(survey), str(tmp_path), "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["moments"] == 5
    assert report["wrong"] == []
    assert report["again"] == []


def test_damaged_blocks_are_read_again(kept, survey, tmp_path):
    out = prepare_to(tmp_path / "set.zarr", survey).path
    damage(out / "pixels" / "ivar" / "1.3")
    with pytest.warns(BayesCannonWarning, match="1 of 3 blocks of 3 stars .* are done again"):
        prepare_to(out, survey)
    assert contents(out) == contents(kept)


def test_what_is_made_otherwise_is_not_continued(survey, tmp_path):
    out = prepare_to(tmp_path / "set.zarr", survey).path
    with pytest.raises(OutputExistsError, match="made of something else, in another way"):
        prepare_to(out, survey, bad_bits=1)
    with pytest.raises(OutputExistsError, match="made of something else, in another way"):
        prepare_to(out, survey, label_names=("TEFF", "LOGG"))
    made = prepare_to(out, survey, label_names=("TEFF", "LOGG"), overwrite=True)
    assert made.labels.names == ("TEFF", "LOGG")


def test_a_name_without_its_ending_and_a_survey_without_stars_are_refused(tmp_path):
    with pytest.raises(InvalidDataError, match=r"ends with \.zarr"):
        prepare_to(tmp_path / "set.nc", tmp_path)
    folder = make_survey(tmp_path / "survey", [1, 2])
    for number in (1, 2):
        spectrum_path(folder, number).write_bytes(b"not FITS")
    with pytest.raises(NoStarsError, match="none of 2 stars is left: spectrum readable removed 2"):
        prepare_to(tmp_path / "set.zarr", folder)
    assert not (tmp_path / "set.zarr").exists()
    for number in (1, 2):
        write_spectrum(spectrum_path(folder, number), number)
    assert len(prepare_to(tmp_path / "set.zarr", folder)) == 2


def test_the_command_writes_either_kind(kept, survey, tmp_path):
    for out, more in (("set.nc", []), ("set.zarr", []), ("two.zarr", ["--workers", "2"])):
        arguments = ["prepare", str(survey), "-o", str(tmp_path / out), "--quiet", *more]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert f"{out}: 6 stars, 7514 pixels" in done.output.replace("\n", "")
    assert_same(TrainingSet.load(tmp_path / "set.zarr"), TrainingSet.load(tmp_path / "set.nc"))
    assert contents(tmp_path / "two.zarr") == contents(kept)
    done = CliRunner().invoke(
        app, ["prepare", str(survey), "-o", str(tmp_path / "b.nc"), "--workers", "2", "--quiet"]
    )
    assert isinstance(done.exception, BayesCannonError)
    assert "ends with .zarr" in str(done.exception)
    assert not (tmp_path / "b.nc").exists()
