"""A run is the same to the last bit, whichever engine samples it and whoever is lost meanwhile."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from typer.testing import CliRunner

from bayes_cannon.analysis.binaries import finding
from bayes_cannon.base.engines import cluster as clusters
from bayes_cannon.base.engines import opening
from bayes_cannon.base.engines.cluster import Cluster
from bayes_cannon.base.engines.opening import open_engine
from bayes_cannon.base.parallel import as_executor
from bayes_cannon.cli.commands import app
from bayes_cannon.errors import (
    BayesCannonWarning,
    FitError,
    InvalidDataError,
    OutputExistsError,
)
from bayes_cannon.inference.binaries import fast_pass as fast_pass_module
from bayes_cannon.inference.binaries.fast_pass import fast_pass
from bayes_cannon.inference.binaries.search import BinarySettings
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.writing import SESSION, BlockWriter
from bayes_cannon.spectra.stored import open_dataset
from bayes_cannon.training.map_fit import fit_map
from bayes_cannon.training.pipeline import label_design
from bayes_cannon.training.pixels import columns
from bayes_cannon.training.pixels.columns import survey_arrays
from tests.line_survey import LineSurvey
from tests.run_problem import CANNON, QUICK, make_spectra, write_files

SPECTRA = make_spectra(bad=())
NUTS = InferenceSettings(draws=60, tune=60, chains=2, block_size=2, ess_limit=1.0, rhat_limit=9.0)
SEED = 5
ROOT = Path(__file__).parents[2]


class DaskProcesses:
    """`dask scheduler` and `dask worker`; their address, and the file that says it."""

    def __init__(self, folder):
        self.file, self._started = folder / "scheduler.json", []

    def __enter__(self):
        self.start(port=0)
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def address(self):
        return json.loads(self.file.read_text())["address"]

    def start(self, port, *workers):
        file = ("--scheduler-file", str(self.file))
        self.file.unlink(missing_ok=True)
        self._run("scheduler", "--host", "127.0.0.1", "--port", str(port), *file)
        while not self.file.exists():
            assert self._started[0].poll() is None
            time.sleep(0.05)
        self._run("worker", "--nthreads", "1", *(workers or ("--nworkers", "2")), *file)

    def kill(self):
        """The scheduler at once; workers, which would end by themselves, with it."""
        for process in self._started:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.wait()
        self._started.clear()

    def _run(self, *command):
        program = [sys.executable, "-m", "distributed.cli.dask_" + command[0]]
        self._started.append(subprocess.Popen([*program, *command[1:], "--no-dashboard"], cwd=ROOT))


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """A scheduler and two workers, as a user starts them."""
    pytest.importorskip("distributed")
    with DaskProcesses(tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture(scope="module")
def pool():
    """Two processes of ours."""
    with open_engine(2) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run that one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return infer_run(CANNON, SPECTRA, folder, settings=NUTS, seed=SEED)


def written_by_workers(folder, monkeypatch, engine, settings=NUTS):
    """A run, and the blocks that this process wrote itself."""
    from bayes_cannon.runs.store import RunStore

    own, honest = [], RunStore.write

    def write(self, block, tree, *, seconds=0.0):
        own.append(block)
        honest(self, block, tree, seconds=seconds)

    monkeypatch.setattr(RunStore, "write", write)
    run = infer_run(CANNON, SPECTRA, folder, settings=settings, seed=SEED, executor=engine)
    return run, own


def assert_same(one, other):
    one, other = open_run(one.folder).result, open_run(other.folder).result
    assert set(one.children) == set(other.children)
    for name in one.children:
        xr.testing.assert_identical(one[name].to_dataset(), other[name].to_dataset())


def test_processes_make_the_same_run(alone, pool, tmp_path, monkeypatch):
    run, own = written_by_workers(tmp_path / "run", monkeypatch, pool)
    assert_same(alone, run)
    assert 0 in own
    assert len(own) <= 4, "those that were done before the first one laid out the arrays"
    names = {path.name for path in (run.folder / "progress").iterdir()}
    assert names == {"run.json", "layout", "corner", *(f"{i:06d}" for i in range(6))}


def test_dask_makes_the_same_run(alone, dask, tmp_path, monkeypatch):
    with open_engine(scheduler=dask.address) as engine:
        run, own = written_by_workers(tmp_path / "run", monkeypatch, engine)
    assert_same(alone, run)
    assert 0 in own
    assert len(own) <= 4


def test_second_stars_are_the_same(pool, monkeypatch):
    monkeypatch.setattr(fast_pass_module, "_BLOCK", 4)
    arrays = (SPECTRA.star_id, SPECTRA.flux, SPECTRA.ivar * (SPECTRA.flux > 0.7))
    settings, told = BinarySettings(n_starts=2), []
    alone = fast_pass(CANNON, *arrays, settings)
    found = fast_pass(CANNON, *arrays, settings, executor=pool, progress=told.append)
    assert set(told[-1:]) == {SPECTRA.n_stars}
    assert np.isfinite(alone.delta_chi2).all()
    for name, values in vars(alone).items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


@pytest.mark.parametrize("n_factors", [0, 1])
def test_pixels_on_disk_are_fitted_the_same(pool, tmp_path, monkeypatch, n_factors):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 1)  # read by 32 pixels
    stars = LineSurvey(n_pixels=90).training_set(60)
    kept = open_dataset(stars.save(tmp_path / "set.zarr"))
    design = label_design(stars.labels, CANNON.basis.from_labels(stars.labels, 1))[0]
    handed = []
    submit = pool.submit_named
    monkeypatch.setattr(
        pool, "submit_named", lambda name, *task: handed.append(name) or submit(name, *task)
    )
    here, disk, away = (
        fit_map(*survey_arrays(some), design, n_factors=n_factors, seed=1, executor=executor)
        for some, executor in ((stars.spectra, pool), (kept.spectra, None), (kept.spectra, pool))
    )
    assert {"pixels 0 to 45", "pixels 46 to 68", "pixels 69 to 89"} == set(handed)
    for name in ("mean", "cov", "log_scatter", "log_scatter_sd", "bound"):
        for other in (disk, away):
            np.testing.assert_array_equal(getattr(other, name), getattr(here, name), err_msg=name)


ONE = dataclasses.replace(QUICK, block_size=1)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """The run of many small blocks that one process makes."""
    folder = tmp_path_factory.mktemp("by_one") / "run"
    return infer_run(CANNON, SPECTRA, folder, settings=ONE, seed=SEED)


def dask_config(values):
    return pytest.importorskip("dask.config").set(values)


def after_three(act):
    """Progress that acts once, when three stars are done."""
    acted = []

    def tell(done, _total, what):
        if what == "inference" and done >= 3 and not acted:
            acted.append(done)
            act()

    return tell


def test_a_killed_process_costs_nothing(by_one, pool, tmp_path):
    kill = after_three(lambda: os.kill(pool.processes[0], signal.SIGKILL))
    run = infer_run(
        CANNON, SPECTRA, tmp_path / "run", settings=ONE, seed=SEED, executor=pool, progress=kill
    )
    assert_same(by_one, run)


def test_a_killed_dask_worker_costs_nothing(by_one, dask, tmp_path):
    with open_engine(scheduler=dask.address) as engine:
        pid = next(iter(engine._client.run(os.getpid).values()))
        kill = after_three(lambda: os.kill(pid, signal.SIGKILL))
        run = infer_run(
            CANNON, SPECTRA, tmp_path / "run", settings=ONE, seed=SEED, executor=engine,
            progress=kill,
        )  # fmt: skip
    assert_same(by_one, run)


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of other processes")
def test_a_full_disk_at_one_worker_is_told_and_the_run_goes_on(by_one, pool, tmp_path):
    def limit(size):
        for pid in pool.processes[:1]:
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))

    options = {"settings": ONE, "seed": SEED}
    with pytest.raises(OutputExistsError, match="make space, then run the same command again"):
        infer_run(
            CANNON, SPECTRA, tmp_path / "run", **options, executor=pool,
            progress=after_three(lambda: limit(0)),
        )  # fmt: skip
    limit(psutil.RLIM_INFINITY)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "progress").glob("0*")}
    assert before
    run = infer_run(CANNON, SPECTRA, tmp_path / "run", **options, executor=pool)
    assert run.summary["n_from_earlier"] == len(before)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_same(by_one, run)


def test_a_scheduler_that_is_started_again_is_found(by_one, dask, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(clusters, "_LOOK", 0.1)
    where_it_was = int(dask.address.rsplit(":")[-1])
    again = [(where_it_was, "--no-nanny"), (0,)]  # then anywhere

    def restart(done, _total, what):
        if what == "inference" and again and done >= 9 - 3 * len(again):
            dask.kill()
            dask.start(*again.pop(0))

    with open_engine(scheduler=str(dask.file)) as engine:
        monkeypatch.setattr(clusters, "_CONNECT", 4.0)
        run = infer_run(
            CANNON, SPECTRA, tmp_path / "run", settings=ONE, seed=SEED, executor=engine,
            progress=restart,
        )  # fmt: skip
    assert not again
    assert caplog.text.count("the connection to the Dask scheduler was lost; waiting") == 2
    assert_same(by_one, run)


def test_a_lost_scheduler_ends_with_an_error_and_the_run_goes_on(by_one, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        dask_config({"distributed.comm.timeouts.connect": "1s"}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as started,
    ):
        client = distributed.Client(started.scheduler_address, timeout=1, set_as_default=False)
        engine = Cluster(client, where={"address": started.scheduler_address}, patience=0.1)
        assert as_executor(engine) is engine
        with pytest.raises(FitError, match=r"Dask scheduler .*same command again.* is not done"):
            infer_run(
                CANNON, SPECTRA, tmp_path / "run", settings=ONE, seed=SEED, executor=engine,
                progress=after_three(started.close),
            )  # fmt: skip
        engine.shutdown()
    run = infer_run(CANNON, SPECTRA, tmp_path / "run", settings=ONE, seed=SEED)
    assert run.summary["n_from_earlier"] >= 2
    assert_same(by_one, run)


def test_a_scheduler_that_is_not_there_is_told(dask, monkeypatch):
    monkeypatch.setattr(clusters, "_CONNECT", 0.5)
    with (
        pytest.raises(InvalidDataError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"),
        open_engine(scheduler="tcp://127.0.0.1:9"),
    ):
        pass
    monkeypatch.setattr(clusters, "_CONNECT", 10.0)
    monkeypatch.setattr(clusters, "__version__", "0.0.0")
    with (
        pytest.raises(InvalidDataError, match=r"must have bayes_cannon 0\.0\.0, and has \d"),
        open_engine(scheduler=dask.address),
    ):
        pass


@pytest.mark.parametrize("where", ["", "no_such_file.json", "tcp://127.0.0.1"])
def test_what_is_neither_an_address_nor_a_scheduler_file_is_not_waited_for(where, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", None)
    with (
        pytest.raises(InvalidDataError, match=r"is no file, and no address"),
        open_engine(scheduler=where),
    ):
        pass


def test_workers_that_do_not_see_the_run_hand_their_blocks_over(tmp_path, monkeypatch):
    honest = BlockWriter.__call__

    def elsewhere(self, rows, tree, seconds):
        return honest(dataclasses.replace(self, folder=tmp_path / "nothing"), rows, tree, seconds)

    monkeypatch.setattr(BlockWriter, "__call__", elsewhere)
    with pytest.warns(BayesCannonWarning, match="does not see .*run: its results travel") as told:
        run = infer_run(CANNON, SPECTRA, tmp_path / "run", settings=QUICK, seed=SEED)
    assert len(told) == 1
    monkeypatch.undo()
    assert_same(infer_run(CANNON, SPECTRA, tmp_path / "b", settings=QUICK, seed=SEED), run)


def test_a_worker_of_another_session_writes_nothing(tmp_path):
    run = infer_run(CANNON, SPECTRA, tmp_path / "run", settings=QUICK, seed=SEED)
    progress = run.folder / "progress"
    (progress / SESSION).write_text('{"session": "of another process"}')
    tree = run.result.isel(star=slice(0, 4))
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    given = BlockWriter(run.folder, "mine", 4)(slice(0, 4), tree, 1.0)
    assert given.tree is tree
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


class Counting(ThreadPoolExecutor):
    """Counts what it is asked for."""

    asked = 0

    def submit(self, *args, **kwargs):
        type(self).asked += 1
        return super().submit(*args, **kwargs)


@contextmanager
def three(workers, scheduler):
    assert (workers, scheduler) == (3, None)
    with Counting(2) as executor:
        yield executor


def test_the_command_works_by_the_engine_that_it_is_told(tmp_path, monkeypatch):
    write_files(tmp_path, 80)
    monkeypatch.setattr(opening, "open_engine", three)
    inputs = [str(tmp_path / name) for name in ("cannon.nc", "dataset.nc")]
    options = ["--method", "laplace", "--draws", "8", "--corner", "none", "--all-stars", "--quiet"]
    done = CliRunner().invoke(
        app, ["infer", *inputs, "-o", str(tmp_path / "run"), *options, "--workers", "3"]
    )
    assert "80 stars, 1 without a posterior" in done.output, done.output
    assert Counting.asked == 2, "blocks of 64 stars"


def test_binaries_are_searched_by_the_engine_that_the_command_is_told(tmp_path, monkeypatch):
    def search(*_, executor, **__):
        raise FitError(f"by {type(executor).__name__}")

    write_files(tmp_path, 4)
    monkeypatch.setattr(opening, "open_engine", three)
    monkeypatch.setattr(finding, "find_binaries", search)
    inputs = [str(tmp_path / name) for name in ("cannon.nc", "dataset.nc")]
    options = ["-o", str(tmp_path / "out"), "--workers", "3"]
    done = CliRunner().invoke(app, ["binaries", *inputs, *options])
    assert str(done.exception) == "by Counting"
