"""A run is the same to the last bit, whichever engine samples it and whoever is lost meanwhile."""

import dataclasses
import os
import signal
import threading

import pytest
import xarray as xr

from bayes_cannon.base.engines import cluster as clusters
from bayes_cannon.base.engines.cluster import Cluster
from bayes_cannon.base.engines.opening import open_engine
from bayes_cannon.errors import BayesCannonWarning, FitError, InvalidDataError
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.writing import SESSION, BlockWriter
from tests.run_problem import CANNON, QUICK, make_spectra

SPECTRA = make_spectra(bad=())
NUTS = InferenceSettings(draws=60, tune=60, chains=2, block_size=2, ess_limit=1.0, rhat_limit=9.0)
SEED = 5


@pytest.fixture(scope="module")
def dask():
    """Two worker processes, and the address of their scheduler."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as started:
        yield started.scheduler_address


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


def test_processes_make_the_same_run(alone, tmp_path, monkeypatch):
    with open_engine(2) as engine:
        run, own = written_by_workers(tmp_path / "run", monkeypatch, engine)
    assert_same(alone, run)
    assert 0 in own
    assert len(own) <= 4, "those that were done before the first one laid out the arrays"
    names = {path.name for path in (run.folder / "progress").iterdir()}
    assert names == {"run.json", "layout", "corner", *(f"{i:06d}" for i in range(6))}


def test_dask_makes_the_same_run(alone, dask, tmp_path, monkeypatch):
    with open_engine(scheduler=dask) as engine:
        run, own = written_by_workers(tmp_path / "run", monkeypatch, engine)
    assert_same(alone, run)
    assert 0 in own
    assert len(own) <= 4


def test_a_killed_worker_of_either_engine_costs_nothing(dask, tmp_path, monkeypatch):
    settings = dataclasses.replace(QUICK, block_size=1)
    whole = infer_run(CANNON, SPECTRA, tmp_path / "alone", settings=settings, seed=SEED)
    for name, given in (("pool", {"workers": 2}), ("dask", {"scheduler": dask})):
        with open_engine(**given) as engine:
            pids = list(engine._client.run(os.getpid).values()) if name == "dask" else None

            def kill(done, _total, what, engine=engine, pids=pids, killed=[]):  # noqa: B006
                if what == "inference" and done >= 3 and not killed:
                    killed.append((pids or engine.processes)[0])
                    os.kill(killed[0], signal.SIGKILL)

            run = infer_run(
                CANNON, SPECTRA, tmp_path / name, settings=settings, seed=SEED, executor=engine,
                progress=kill,
            )  # fmt: skip
        assert_same(whole, run)


def test_a_lost_scheduler_ends_with_an_error_and_the_run_goes_on(tmp_path):
    distributed = pytest.importorskip("distributed")
    settings = dataclasses.replace(QUICK, block_size=1)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as started:
        client = distributed.Client(started.scheduler_address, set_as_default=False)
        engine = Cluster(client, address=started.scheduler_address, patience=0.1)
        gone = threading.Event()

        def cut(done, _total, _what):
            if done >= 3 and not gone.is_set():
                gone.set()
                started.close()

        with pytest.raises(FitError, match=r"Dask scheduler .* is not done"):
            infer_run(
                CANNON, SPECTRA, tmp_path / "run", settings=settings, seed=SEED, executor=engine,
                progress=cut,
            )  # fmt: skip
        engine.shutdown()
    run = infer_run(CANNON, SPECTRA, tmp_path / "run", settings=settings, seed=SEED)
    assert run.summary["n_from_earlier"] >= 2
    whole = infer_run(CANNON, SPECTRA, tmp_path / "whole", settings=settings, seed=SEED)
    assert_same(whole, run)


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
        open_engine(scheduler=dask),
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
