"""Work by executors from outside: the same draws to the last bit, and nothing left behind."""

import dataclasses
import logging
import os
import pickle
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import AuthenticationError, current_process, get_context
from multiprocessing.connection import Client

import numpy as np
import pytest
import xarray as xr
from threadpoolctl import threadpool_info, threadpool_limits

from bayes_cannon.base.engines.shared import sharing
from bayes_cannon.base.parallel import StopSign, in_order, one_blas_thread
from bayes_cannon.errors import FitError, InvalidDataError, SingularPixelsError
from bayes_cannon.inference import block as star_block
from bayes_cannon.inference import infer_blocks, infer_labels
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.runs import infer_run, open_run
from bayes_cannon.training import cross_validate
from bayes_cannon.training.factor_choice import choose_factors
from bayes_cannon.training.pipeline import label_design
from tests.label_problem import make_problem
from tests.line_survey import LineSurvey
from tests.run_problem import CANNON, QUICK, make_spectra

SEED = 11
NUTS = InferenceSettings(draws=60, tune=60, chains=2, block_size=2, ess_limit=1.0, rhat_limit=9.0)
SURVEY = LineSurvey(n_pixels=90)


@pytest.fixture(scope="module")
def processes():
    """Spawned, as on macOS and Windows: all that is sent is pickled."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def problem():
    return make_problem(n_stars=7, seed=SEED)


@pytest.fixture(scope="module")
def serial(problem):
    return infer_labels(problem.cannon, problem.spectra, settings=NUTS, seed=SEED)


def dask_executor():
    distributed = pytest.importorskip("distributed")
    client = distributed.Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
    )
    return client


def same(one, other):
    assert set(one.children) == set(other.children)
    for name in one.children:
        xr.testing.assert_identical(one[name].to_dataset(), other[name].to_dataset())


def test_threads_draw_the_same(problem, serial):
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            found = infer_labels(
                problem.cannon, problem.spectra, settings=NUTS, seed=SEED, executor=pool
            )
            same(serial, found)


def test_processes_draw_the_same(problem, serial, processes):
    found = infer_labels(
        problem.cannon, problem.spectra, settings=NUTS, seed=SEED, executor=processes
    )
    same(serial, found)


def test_dask_draws_the_same(problem, serial):
    with dask_executor() as client:
        found = infer_labels(
            problem.cannon, problem.spectra, settings=NUTS, seed=SEED,
            executor=client.get_executor(),
        )  # fmt: skip
    same(serial, found)


def test_a_run_by_processes_is_the_run_of_one(tmp_path, processes):
    spectra = make_spectra(bad=())
    runs = [
        infer_run(CANNON, spectra, tmp_path / str(i), settings=QUICK, seed=SEED, executor=executor)
        for i, executor in enumerate((None, processes))
    ]
    same(*(open_run(run.folder).result for run in runs))


def test_cross_validation_is_the_same(processes):
    stars = SURVEY.training_set(60)
    cannon = SURVEY.model(60)
    design = label_design(stars.labels, cannon.basis)[0]
    told = {}

    def validate(name, executor):
        told[name] = []
        return cross_validate(
            cannon, stars.spectra, design, folds=5, seed=1, executor=executor,
            progress=lambda done, total, what: told[name].append(done / total),
        )  # fmt: skip

    serial = validate("serial", None)
    with ThreadPoolExecutor(3) as threads:
        for name, executor in (("threads", threads), ("processes", processes)):
            found = validate(name, executor)
            for array in ("predicted", "cov", "fold"):
                np.testing.assert_array_equal(getattr(found, array), getattr(serial, array))
    assert told["serial"] == told["threads"] == told["processes"] == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_choice_of_factors_is_the_same(processes):
    stars = SURVEY.training_set(60)
    design = label_design(stars.labels, SURVEY.model(60).basis)[0]
    serial, found = (
        choose_factors(
            stars.spectra.flux, stars.spectra.ivar, design, candidates=(0, 1, 2, 4, 8), seed=1,
            executor=executor,
        )
        for executor in (None, processes)
    )  # fmt: skip
    assert found.n_factors == serial.n_factors
    assert found.rising == serial.rising
    for array in ("grid", "predictive", "error"):
        np.testing.assert_array_equal(getattr(found, array), getattr(serial, array))


def test_progress_counts_stars_as_blocks_are_done(problem):
    calls = []
    with ThreadPoolExecutor(2) as pool:
        infer_labels(
            problem.cannon, problem.spectra, seed=SEED, executor=pool,
            settings=dataclasses.replace(NUTS, method="laplace"),
            progress=lambda done, total, what: calls.append((done, total)),
        )  # fmt: skip
    assert calls[0] == (0, 7)
    assert calls[-1] == (7, 7)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


class Counting(Executor):
    """An executor that does nothing before it is asked for the first result."""

    _max_workers = 2

    def __init__(self):
        self.waiting, self.most, self.futures = [], 0, []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.futures.append(future)
        self.waiting.append((future, fn, args))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) == 2 * self._max_workers:
            self.work(1)
        return future

    def work(self, n):
        for future, fn, args in self.waiting[:n]:
            future.set_result(fn(*args))
        del self.waiting[:n]


def double(x):
    return 2 * x


def test_no_more_is_handed_out_than_twice_the_workers():
    executor, seen = Counting(), []

    def tasks():
        for i in range(12):
            seen.append(i)
            yield i

    results = in_order(executor, double, tasks(), named=str)
    for i in range(9):
        assert next(results) == 2 * i
        assert len(seen) <= i + 1 + 2 * executor._max_workers
    assert executor.most <= 2 * executor._max_workers


def test_giving_up_cancels_what_is_not_begun():
    executor, stop = Counting(), StopSign()
    results = in_order(executor, double, range(20), named=str, stop=stop)
    assert next(results) == 0
    results.close()
    assert sum(future.cancelled() for future in executor.futures) == 3
    with pytest.raises(Exception, match=r"^$"):
        stop.check()
    pickle.loads(pickle.dumps(StopSign())).check()  # noqa: S301


def test_ctrl_c_cancels(problem, monkeypatch):
    done, wait = [], star_block.assemble

    def slow(*args, **options):
        done.append(threading.get_ident())
        return wait(*args, **options)

    def interrupt(_done, _total, _what):
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(star_block, "assemble", slow)
    settings = dataclasses.replace(NUTS, method="laplace", block_size=1)
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt, match=r"^$"):
        infer_labels(
            problem.cannon, problem.spectra, settings=settings, seed=1, executor=pool,
            progress=interrupt,
        )  # fmt: skip
    assert len(done) <= 3, "the block at hand, and none of the others"


def add(task):
    shared, number = task
    return number + shared.value[0], os.getpid(), id(shared.value)


@pytest.mark.parametrize("folder", ["short", "long" * 40])
def test_what_is_shared_goes_to_each_process_once_and_to_no_disk(
    processes, tmp_path, monkeypatch, folder
):
    (tmp_path / folder).mkdir()
    monkeypatch.setitem(current_process()._config, "tempdir", str(tmp_path / folder))
    with sharing(processes, [100]) as shared:
        tasks = [(shared, i) for i in range(20)]
        results = list(in_order(processes, add, tasks, named=str))
        assert all(path.is_socket() for path in (tmp_path / folder).iterdir())
        with pytest.raises(AuthenticationError, match=r"rejected|digest"):
            Client(shared.address, authkey=b"of a stranger")
    assert [result[0] for result in results] == list(range(100, 120))
    places = {(pid, place) for _, pid, place in results}
    assert len(places) == len({pid for pid, _ in places}) <= 2, "unpickled once in each"
    assert not list((tmp_path / folder).iterdir())
    with pytest.raises(OSError, match=r"refused|No such file"):
        Client(shared.address, authkey=current_process().authkey)


def test_what_cannot_be_shared_is_told(processes):
    with sharing(processes, [lambda: 1]) as shared:
        tasks = [(shared, 1)]
        with pytest.raises(FitError, match=r"work on it failed \(PicklingError: .*lambda"):
            list(in_order(processes, add, tasks, named=lambda _: "it"))


def dies(_task):
    os._exit(3)


def raises(task):
    raise TypeError(f"no {task}\n at all")


def singular(_task):
    raise SingularPixelsError([3, 4])


def test_errors_of_workers_are_ours_and_name_the_stars(processes):
    with pytest.raises(FitError, match=r"work on star one failed \(TypeError: no one at all\)"):
        list(in_order(processes, raises, ["one"], named=lambda t: f"star {t}"))
    with pytest.raises(SingularPixelsError, match=r"2 pixels \(3, 4\)"):
        list(in_order(processes, singular, ["one"], named=str))
    with pytest.raises(FitError, match=r"work on two failed \(PicklingError|\(AttributeError"):
        list(in_order(processes, lambda task: task, ["two"], named=str))
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(FitError, match=r"the executor's work on star9 failed \(BrokenProcessPool"),
    ):
        list(in_order(pool, dies, ["star9"], named=str))
    with ThreadPoolExecutor(1) as pool:
        pass
    with pytest.raises(FitError, match=r"work on star9 failed \(RuntimeError: cannot schedule"):
        list(in_order(pool, double, ["star9"], named=str))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_fault_of_ours_names_the_star(problem, monkeypatch, threads):
    honest = star_block._infer_star

    def fail(*args):
        if args[4].star_id == "star4":
            raise TypeError("no such thing")
        return honest(*args)

    monkeypatch.setattr(star_block, "_infer_star", fail)
    pool = ThreadPoolExecutor(threads) if threads else None
    with pytest.raises(FitError, match=r"labels of star4 cannot be inferred \(TypeError: no such"):
        infer_labels(
            problem.cannon, problem.spectra, seed=1, executor=pool,
            settings=dataclasses.replace(NUTS, method="laplace"),
        )  # fmt: skip
    if pool is not None:
        pool.shutdown()


def test_what_workers_log_is_logged_here(problem, processes, caplog):
    flux = problem.spectra.flux.copy()
    flux[3] = 1e38
    spectra = dataclasses.replace(problem.spectra, flux=flux, ivar=1e30 * problem.spectra.ivar)
    settings = dataclasses.replace(NUTS, method="laplace")
    with pytest.warns(UserWarning, match="star3"), caplog.at_level(logging.WARNING):
        infer_labels(problem.cannon, spectra, settings=settings, seed=1, executor=processes)
    assert "star3: no mode found" in caplog.text


def test_what_is_no_executor_is_refused(problem):
    class Client:
        def get_executor(self):
            return None

    for wrong, hint in ((4, "ThreadPoolExecutor"), (Client(), r"client\.get_executor\(\)")):
        with pytest.raises(InvalidDataError, match=hint):
            list(infer_blocks(problem.cannon, problem.spectra, seed=1, executor=wrong))


def test_threads_of_linear_algebra_are_limited_until_the_last_is_done():
    def now():
        return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert now() == {1}, "the second is at work still"
        second.__exit__(None, None, None)
        assert now() == {2}


def test_models_are_sent_without_what_follows_from_the_rest(problem):
    pixels = PixelModel.from_cannon(problem.cannon)
    _ = pixels.monomials, pixels.factor_products
    sent = pickle.dumps(pixels)
    assert len(sent) < 1.1 * (pixels.coef.nbytes + pixels.coef_cov.nbytes) + 20000
    found = pickle.loads(sent)  # noqa: S301
    np.testing.assert_array_equal(found.products, pixels.products)
    np.testing.assert_array_equal(found.coef_cov, pixels.coef_cov)
