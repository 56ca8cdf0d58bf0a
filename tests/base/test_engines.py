"""Processes that work for us: killed ones are replaced, and nothing that was done is lost."""

import logging
import os
import signal
import sys
import time

import pytest

from bayes_cannon.base.engines.engine import WorkerLostError
from bayes_cannon.base.engines.opening import open_engine
from bayes_cannon.base.engines.pool import WorkerPool
from bayes_cannon.base.engines.shared import pack, sharing, unpack
from bayes_cannon.base.parallel import in_order
from bayes_cannon.errors import FitError, InvalidDataError


def add(task):
    shared, number = task
    time.sleep(0.01)
    return number + shared.value[0], os.getpid(), id(shared.value)


def dies(task):
    if task == "poison":
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    return task


def raises(_task):
    raise InvalidDataError("no such thing")


def threads(_task):
    return os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]


def numbered(tasks):
    return [result[0] for result in tasks]


@pytest.fixture(scope="module")
def pool():
    with open_engine(2) as engine:
        yield engine


def test_what_is_shared_goes_to_each_worker_once(pool):
    before = dict(os.environ)
    with sharing(pool, [100]) as shared:
        content, found = pack((shared, 3))
        assert list(found) == [shared.key]
        assert len(content) < 150
        assert unpack(content, {shared.key: [7]})[0].value == [7]
        results = list(in_order(pool, add, [(shared, i) for i in range(30)], named=str))
    assert numbered(results) == list(range(100, 130))
    places = {(pid, place) for _, pid, place in results}
    assert len(places) == len({pid for pid, _ in places}) <= 2, "unpickled once in each"
    assert set(in_order(pool, threads, range(4), named=str)) == {("1", "1")}
    assert dict(os.environ) == before


def test_work_of_a_killed_worker_is_done_again(pool, caplog):
    with sharing(pool, [100]) as shared:
        tasks = [(shared, i) for i in range(60)]
        results = in_order(pool, add, tasks, named=lambda task: f"star{task[1]}")
        found = [next(results)]
        os.kill(pool.processes[0], signal.SIGKILL)
        with caplog.at_level(logging.WARNING):
            found += results
    assert numbered(found) == list(range(100, 160))
    assert len(caplog.records) <= 1, "only the task that it had"


def test_work_that_kills_its_worker_is_named_in_the_end(caplog):
    pool = WorkerPool(2, retries=1)
    results = in_order(pool, dies, ["a", "poison", "b"], named=str)
    assert next(results) == "a"
    with pytest.raises(FitError, match=r"2 worker processes ended early, .*SIGKILL.* on poison is"):
        next(results)
    assert "ended early (by SIGKILL" in caplog.text
    assert "work on poison, which is done again" in caplog.text
    assert list(in_order(pool, dies, ["a", "b"], named=str)) == ["a", "b"], "the pool lives"
    pool.kill()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(dies, "a")
    assert pool.processes == []


def test_workers_that_end_as_they_start_are_given_up():
    pool = WorkerPool(1, setup=[(sys.exit, (3,))])
    with pytest.raises(WorkerLostError, match=r"end as they start, .*exit status 3.*__main__"):
        pool.submit(dies, "a").result(60)
    with pytest.raises(WorkerLostError, match="end as they start"):
        pool.submit(dies, "a")
    pool.shutdown()


def test_errors_come_back_with_where_they_were_raised(pool):
    with pytest.raises(InvalidDataError, match=r"^no such thing") as caught:
        list(in_order(pool, raises, ["a"], named=str))
    assert "in raises" in caught.value.__notes__[0]


def test_giving_up_ends_the_workers():
    with pytest.raises(KeyboardInterrupt, match=r"^$"), open_engine(1) as engine:  # noqa: PT012
        future = engine.submit(time.sleep, 600)
        engine.submit(os.getpid)
        while not engine.processes:
            time.sleep(0.01)
        (pid,) = engine.processes
        raise KeyboardInterrupt
    assert engine.processes == []
    assert future.done()
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(pid, 0)


def test_one_engine_at_most_and_one_that_is_there(monkeypatch):
    with open_engine() as engine:
        assert engine is None
    for given, why in (
        ({"workers": 2, "scheduler": "x"}, "either --workers or --scheduler"),
        ({"workers": 0}, "--workers must be at least 1"),
    ):
        with pytest.raises(InvalidDataError, match=why), open_engine(**given):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InvalidDataError, match=r"pip install 'bayes_cannon\[dask\]'"),
        open_engine(scheduler="tcp://127.0.0.1:1"),
    ):
        pass
