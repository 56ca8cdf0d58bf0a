"""Runs and commands on a dataset whose spectra stay on disk, beside the same from NetCDF."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from bayes_cannon.base.engines import engine as engines
from bayes_cannon.base.engines.opening import open_engine
from bayes_cannon.base.stores import rows
from bayes_cannon.base.stores.blocks import read_json
from bayes_cannon.cli.commands import app
from bayes_cannon.errors import FileFormatError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.runs.inputs import spectra_to_infer
from bayes_cannon.runs.report.loading import load_inputs
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.stored import StoredSet, StoredSpectra, open_dataset
from bayes_cannon.training.pipeline import _as_training_set
from tests.run_problem import CANNON, QUICK, write_files
from tests.spectra.test_stored import assert_same, damage

N_STARS = 22


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and dataset, the latter in both layouts, in chunks of eight stars."""
    folder = tmp_path_factory.mktemp("both")
    write_files(folder, N_STARS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", 8)
        TrainingSet.load(folder / "dataset.nc").save(folder / "dataset.zarr")
    return folder


def inferred(folder: Path, kind: str, run: Path, **options):
    inputs = [folder / f"dataset.{kind}"]
    spectra, labels = spectra_to_infer(CANNON, inputs, all_stars=True)
    assert isinstance(spectra, StoredSpectra) == (kind == "zarr")
    return infer_run(
        CANNON, spectra, run, settings=QUICK, seed=3, aspcap=labels,
        inputs={"cannon": [folder / "cannon.nc"], "spectra": inputs}, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_of_file(folder):
    return inferred(folder, "nc", folder / "of-file")


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of stars of all reads."""
    numbers: list[int] = []
    read = rows.RowReader.read

    def noted(self, name, some, *columns):
        numbers.append(some.size)
        return read(self, name, some, *columns)

    monkeypatch.setattr(rows.RowReader, "read", noted)
    monkeypatch.setattr("bayes_cannon.spectra.stored.BLOCK", 8)
    return numbers


def assert_same_posteriors(one: xr.DataTree, other: xr.DataTree) -> None:
    assert set(one.children) == set(other.children)
    for name in one.children:
        xr.testing.assert_identical(one[name].to_dataset(), other[name].to_dataset())


@pytest.mark.filterwarnings("ignore:1 of 22 stars")
def test_a_run_is_the_same_to_the_last_bit_and_reads_by_blocks(folder, run_of_file, tmp_path, most):
    run = inferred(folder, "zarr", tmp_path / "run")
    assert_same_posteriors(run.result, run_of_file.result)
    noted = [read_json(r / "progress" / "run.json") for r in (tmp_path / "run", folder / "of-file")]
    assert noted[0] == noted[1]
    assert max(most) <= 8
    most.clear()
    (tmp_path / "run" / "progress" / "000002").unlink()
    assert_same_posteriors(inferred(folder, "zarr", tmp_path / "run").result, run.result)
    # Once more for the fingerprint, and the one block of four stars that was lost.
    assert sum(most) == 2 * (N_STARS + 4)
    assert_same_posteriors(inferred(folder, "nc", tmp_path / "run").result, run.result)


@pytest.mark.filterwarnings("ignore:1 of 22 stars")
def test_workers_read_their_blocks_themselves(folder, run_of_file, tmp_path, monkeypatch):
    sent, honest = [], engines.pack

    def weighed(task):
        content, shared = honest(task)
        sent.append(len(content))
        return content, shared

    monkeypatch.setattr(engines, "pack", weighed)
    with open_engine(2) as engine:
        run = inferred(folder, "zarr", tmp_path / "run", executor=engine)
    assert_same_posteriors(run.result, run_of_file.result)
    assert len(sent) == 6
    assert max(sent) < 1500, "neither spectra nor the model"


@pytest.mark.filterwarnings("ignore:1 of 22 stars")
def test_posteriors_of_some_stars_of_a_stored_set(folder):
    stars = [4, 17, 5]
    stored, held = open_dataset(folder / "dataset.zarr"), TrainingSet.load(folder / "dataset.nc")
    one = infer_labels(CANNON, stored.select(stars), settings=QUICK, seed=1)
    assert_same_posteriors(one, infer_labels(CANNON, held.select(stars), settings=QUICK, seed=1))


def test_a_damaged_block_ends_a_run_before_it_begins(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 8)
    made = TrainingSet.load(folder / "dataset.nc").save(tmp_path / "dataset.zarr")
    damage(made / "pixels" / "flux" / "2.0")
    with pytest.raises(FileFormatError, match="run the command that made the dataset again"):
        inferred(tmp_path, "zarr", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:1 of 22 stars")
def test_the_command_infers_and_a_report_finds_the_dataset(folder, run_of_file, tmp_path):
    arguments = ["infer", folder / "cannon.nc", folder / "dataset.zarr", "-o", tmp_path / "run"]
    options = ["--method", "laplace", "--draws", "20", "--chains", "2", "--corner", "none"]
    options += ["--seed", "3", "--quiet", "--all-stars"]
    done = CliRunner().invoke(app, [*map(str, arguments), *options])
    assert done.exit_code == 1, done.output  # the star without a good pixel
    assert "22 stars, 1 without a posterior" in done.output.replace("\n", " ")
    found = load_inputs(open_run(tmp_path / "run"))
    assert found.dataset is not None
    assert found.spectra is not None
    assert {"dataset", "spectra"}.isdisjoint(found.missing)
    assert found.spectra.star_id.tolist() == open_run(tmp_path / "run").star_id.tolist()
    np.testing.assert_array_equal(
        found.spectra.flux, TrainingSet.load(folder / "dataset.nc").spectra.flux
    )


def test_training_leaves_its_spectra_on_disk(folder):
    whole = TrainingSet.load(folder / "dataset.nc")
    for given in (folder / "dataset.zarr", open_dataset(folder / "dataset.zarr")):
        stars = _as_training_set(given)
        assert isinstance(stars, StoredSet)
        assert_same(stars.in_memory(), whole)
