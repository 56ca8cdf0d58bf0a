"""Where the time of one star goes, stage by stage, and the arithmetic floor of each."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numba
import numpy as np
from common import clock, library_set, say, short, table
from threadpoolctl import threadpool_limits

from bayes_cannon.base.packing import packed_size
from bayes_cannon.inference import block as block_module
from bayes_cannon.inference import infer as infer_module
from bayes_cannon.inference.likelihood.kinds import Gaussian
from bayes_cannon.inference.sampler import LabelSampler
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.label_model import coordinates
from bayes_cannon.runs import run as run_module
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.store import RunStore
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Where the time of a star goes"
FACTORS = 30
STAGES = ("read", "compress", "modes", "NUTS", "R-hat and ESS", "k-hat", "finish", "write", "rest")


def section(*, quick: bool) -> Iterator[str]:
    """A table for NUTS and one for the Gaussian at the mode."""
    stars, _ = library_set(seed=1)
    say(f"profile: training with {FACTORS} factors")
    settings = TrainingSettings(n_factors=FACTORS, folds=0)
    cannon = train(stars.select(np.arange(300)), settings=settings, seed=1)
    yield from tables(cannon, stars.select(np.arange(300, 332 if quick else 428)))


def tables(cannon, stars: TrainingSet) -> Iterator[str]:
    """Where the time goes with a Cannon, on one core.

    Parameters
    ----------
    cannon
        The trained model.
    stars
        Whose labels are inferred.
    """
    yield (
        f"One thread, {stars.n_stars} stars of {int(np.sum(cannon.used))} pixels, "
        f"{cannon.n_factors} factors, 4 chains of 500 draws after 100, warm (compiled before). "
        "Milliseconds per star. The floor of linear algebra is its multiplications at the rate of "
        "a large matrix product here; that of NUTS is the number of densities times the time of "
        "one; those of reading and writing the same bytes as one array. What has none is marked so."
        " Goal: in all at most 3 times the floor of the stages that have one."
    )
    rates = {np.float32: _rate(np.float32), np.float64: _rate(np.float64)}
    for method in ("nuts", "laplace"):
        with tempfile.TemporaryDirectory() as folder:
            yield _table(cannon, stars, method, Path(folder), rates)


def _rate(kind) -> float:
    """Multiplications (with their additions) per second of a large matrix product."""
    a = np.ones((512, 1024), dtype=kind)
    b = np.ones((1024, 1024), dtype=kind)
    with threadpool_limits(1, user_api="blas"):
        a @ b
        return a.shape[0] * a.shape[1] * b.shape[1] / min(clock(lambda: a @ b)[0] for _ in range(7))


class _Watch:
    """Seconds and calls of functions, by stage; a stage inside another counts as itself."""

    def __init__(self) -> None:
        self.seconds = defaultdict(float)
        self.calls = defaultdict(int)
        self.rows = defaultdict(int)
        self._open: list[float] = []

    def around(self, stage, function, rows=lambda *_: 0):
        def timed(*args, **options):
            self._open.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                took = time.process_time() - start
                self.seconds[stage] += took - self._open.pop()
                self.calls[stage] += 1
                self.rows[stage] += rows(*args)
                if self._open:
                    self._open[-1] += took

        return timed


def _table(cannon, stars, method, folder, rates) -> str:
    n, spectra = stars.n_stars, stars.spectra
    settings = InferenceSettings(method=method, cores=1, min_pixels=10)
    stars.save(folder / "stars.nc")
    infer_run(cannon, spectra.select([0]), folder / "warm", settings=settings, seed=1)
    watch, samples = _Watch(), []
    sample = LabelSampler.sample

    def kept(self, *args, **options):
        draws = sample(self, *args, **options)
        samples.append((self, args, draws))
        return draws

    places = (
        ("compress", Gaussian, "compress", lambda *a: len(a[2])),
        ("modes", block_module, "fit_laplace", None),
        ("k-hat", block_module, "pareto_khat", lambda *a: len(a[2])),
        ("k-hat", block_module, "laplace_khat", lambda *a: len(a[4])),
        ("R-hat and ESS", block_module, "check_convergence", None),
        ("finish", infer_module, "finish_block", None),
        ("finish", block_module, "assemble", None),
        ("write", RunStore, "write", None),
        ("write", run_module, "write_catalogue", None),
        ("write", run_module, "catalogue", None),
    )
    with ExitStack() as stack:
        for stage, owner, name, rows in places:
            given = watch.around(stage, getattr(owner, name), *([rows] if rows else []))
            stack.enter_context(patch.object(owner, name, given))
        stack.enter_context(patch.object(LabelSampler, "sample", watch.around("NUTS", kept)))
        say(f"profile: {method}")
        reading, loaded = clock(lambda: TrainingSet.load(folder / "stars.nc").spectra)
        whole = _cpu(lambda: infer_run(cannon, loaded, folder / "run", settings=settings, seed=1))
    watch.seconds["read"] = reading
    watch.seconds["rest"] = whole - sum(watch.seconds[s] for s in STAGES if s != "read")
    size = sum(f.stat().st_size for f in (folder / "run").rglob("*") if f.is_file())
    floor = {
        "read": _disk(spectra.flux.nbytes + spectra.ivar.nbytes, folder)[1],
        "write": _disk(size, folder)[0],
        **_arithmetic(cannon, watch, rates),
    }
    if samples:
        floor["NUTS"] = _density(*samples[0]) * sum(
            s.statistics["n_steps"].sum() * 600 / 500 for *_, s in samples
        )
    floor["R-hat and ESS"] = floor["finish"] = floor["rest"] = np.nan
    rows = []
    for stage in STAGES:
        if not watch.seconds[stage]:
            continue
        spent, least = 1e3 * watch.seconds[stage] / n, 1e3 * floor[stage] / n
        rows.append((stage, short(spent), short(least), short(spent / least)))
    total = 1e3 * (whole + reading) / n
    least = 1e3 * sum(floor[r[0]] for r in rows if np.isfinite(floor[r[0]])) / n
    rows.append(("in all", short(total), short(least), short(total / least)))
    title = "NUTS" if method == "nuts" else "The Gaussian at the mode (`--method laplace`)"
    per_star = watch.rows["compress"] / n
    return (
        f"**{title}.** Spectra are compressed {short(per_star)} times a star; "
        f"{short(size / n / 1e3)} kB a star on disk.\n\n"
        + table(("stage", "ms", "floor, ms", "over the floor"), rows)
    )


def _arithmetic(cannon, watch, rates) -> dict[str, float]:
    """Seconds of the multiplications of the linear algebra."""
    p, k, j = int(np.sum(cannon.used)), cannon.basis.n_terms, cannon.n_factors
    c = packed_size(k + j)
    compress = (
        watch.rows["compress"] * p * (c / rates[np.float32] + (c + k + j) / rates[np.float64])
    )
    return {"compress": compress, "modes": np.nan, "k-hat": _khat_floor(cannon, watch, rates)}


def _khat_floor(cannon, watch, rates) -> float:
    """Every draw: variances by their monomials, residuals, U'w r, and U'w U."""
    p, k, j = int(np.sum(cannon.used)), cannon.basis.n_terms, cannon.n_factors
    monomials = len({tuple(sorted(a + b)) for a in cannon.basis.terms for b in cannon.basis.terms})
    each = monomials + k + j + packed_size(j)
    return watch.rows["k-hat"] * p * each / rates[np.float32]


def _density(sampler, arguments, draws) -> float:
    """Seconds of one log density with its gradient, called from compiled code."""
    data, mean, chol = arguments[:3]
    shared = {**data, "coordinates": coordinates(sampler.basis, sampler.priors, mean, chol)}
    function = sampler.compiled.logp_func
    given = tuple(shared[v.name] for v in function.get_shared())
    density = function.vm.jit_fn

    @numba.njit
    def many(y, given, n):
        total = 0.0
        for _ in range(n):
            total += density(y, *given)[0].item()
        return total

    y = np.zeros(sampler.basis.n_labels)
    many(y, given, 1)
    return min(_cpu(lambda: many(y, given, 20_000)) for _ in range(7)) / 20_000


def _disk(size: int, folder: Path) -> tuple[float, float]:
    """Seconds to write and to read as many bytes as one array."""
    file, array = folder / "array.npy", np.random.default_rng(0).bytes(int(size))
    write = clock(lambda: file.write_bytes(array))[0]
    return write, clock(file.read_bytes)[0]


def _cpu(work) -> float:
    """Seconds of processor time of a call, all threads of this process together."""
    start = time.process_time()
    work()
    return time.process_time() - start
