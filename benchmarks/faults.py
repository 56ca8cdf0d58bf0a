"""Faults at random moments of `infer`, over both engines: nothing done is lost, it goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import library_set, many, say, table

from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

TITLE = "Faults"
_QUIET = {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}


class DaskHere:
    """A scheduler and two workers in processes of their own, as a cluster has them."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        self.start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.scheduler = self._run("scheduler", "--port", str(self.port), "--no-dashboard")
        for _ in range(2):
            self._run("worker", self.address, "--nthreads", "1", "--no-dashboard")

    def _run(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + what, *options], cwd=self.folder,
            env=os.environ | _QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def workers(self) -> list[psutil.Process]:
        """Processes that do tasks: children of the nannies."""
        found = []
        for process in self.processes:
            if process is not self.scheduler and process.poll() is None:
                found += _spawned(process.pid)
        return found

    def restart(self) -> None:
        """Kill the scheduler; start another and, as the site would, its workers."""
        self.close()
        time.sleep(2)
        self.start()

    def close(self) -> None:
        for process in self.processes:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
        self.processes.clear()


def _spawned(pid: int) -> list[psutil.Process]:
    """Processes below one that Python spawned to work, without the one that tracks resources."""
    with suppress(psutil.Error):
        below = psutil.Process(pid).children(recursive=True)
        return [p for p in below if "spawn_main" in " ".join(p.cmdline())]
    return []


class Bench:
    """One set of stars, the run that nothing happened to, and commands beside it."""

    def __init__(self, folder: Path, n_stars: int) -> None:
        self.folder = folder
        stars, _ = library_set(seed=1)
        thin = NormalizedSpectra(
            stars.star_id, stars.spectra.wavelength[::16], stars.spectra.flux[:, ::16],
            stars.spectra.ivar[:, ::16], simulated=True,
        )  # fmt: skip
        training = TrainingSet(thin, stars.labels).select(np.arange(300))
        cannon = train(training, settings=TrainingSettings(n_factors=5, folds=0), seed=1)
        spectra = many(thin.select(np.arange(300, 600)), n_stars)
        values = np.broadcast_to(cannon.training.values[:1], (n_stars, len(cannon.names)))
        labels = Labels(cannon.names, values, cannon.training.errors[:1] + 0 * values,
                        spectra.star_id)  # fmt: skip
        cannon.save(folder / "cannon.nc")
        TrainingSet(spectra, labels).save(folder / "dataset.nc")

    def command(self, run: Path, *options: str) -> list[str]:
        return [
            sys.executable, "-m", "bayes_cannon", "infer", str(self.folder / "cannon.nc"),
            str(self.folder / "dataset.nc"), "-o", str(run), "--all-stars", "--corner", "none",
            "--method", "laplace", "--draws", "50", "--quiet", *options,
        ]  # fmt: skip


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env=os.environ | _QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def content(run: Path) -> str:
    """Digest of what must not depend on what happened."""
    digest = hashlib.sha256()
    for path in sorted([*(run / "posterior.zarr").rglob("*"), run / "catalogue.ecsv"]):
        if path.is_file():
            digest.update(str(path.relative_to(run)).encode() + path.read_bytes())
    return digest.hexdigest()


def done(run: Path) -> dict[str, int]:
    """Marks of blocks that are done, with the time when they were."""
    marks = {}
    for path in (run / "progress").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if path.suffix != ".part" and "seconds" in json.loads(path.read_text()):
                marks[path.name] = path.stat().st_mtime_ns
    return marks


def fill_disk(process: psutil.Process) -> None:
    """Let a process write no more than nothing, as on a full disk."""
    with suppress(psutil.Error, OSError):
        process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def cut_off(process: psutil.Process) -> None:
    """Stop a process for five seconds: nothing comes from it, and nothing gets to it."""
    with suppress(psutil.Error):
        process.suspend()
        time.sleep(5)
        process.resume()


def kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()


def one(
    bench: Bench, run: Path, options: list[str], wait: float,
    fault: Callable[[subprocess.Popen[str]], Any],
) -> tuple[dict[str, int], int, str, int]:  # fmt: skip
    """A command that something happens to, and the same command until it is through.

    Returns the marks at the moment, its status and last line, and how often it was run again.
    """
    process = start(bench.command(run, *options))
    limit = time.monotonic() + 600
    while process.poll() is None and len(done(run)) < 1 and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(wait)
    before = done(run)
    fault(process)
    said = process.communicate(timeout=900)[1].strip().splitlines() or [""]
    again = 0
    while process.returncode != 0 and again < 3:
        again += 1
        process = start(bench.command(run, *options))
        process.communicate(timeout=900)
    return before, (0 if again == 0 else process.returncode), said[-1], again


def section(*, quick: bool) -> Iterator[str]:
    """Twenty moments (quick: eight), one fault each, in turns over engines and faults."""
    n_stars, moments = (640, 8) if quick else (4000, 20)
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as name, _closing(DaskHere(Path(name))) as dask:
        folder = Path(name)
        bench = Bench(folder, n_stars)
        whole = start(bench.command(folder / "whole"))
        began = None
        while whole.poll() is None:
            if began is None and done(folder / "whole"):
                began = time.monotonic()
            time.sleep(0.02)
        length = time.monotonic() - (began or 0)
        expected, n_blocks = content(folder / "whole"), len(done(folder / "whole"))
        pick = lambda found: found[rng.integers(len(found))] if found else None  # noqa: E731

        def on(choose: Callable[..., list[psutil.Process]], what: Callable[..., Any]) -> Any:
            def fault(process: subprocess.Popen[str]) -> None:
                if (chosen := pick(choose(process))) is not None:
                    what(chosen)

            return fault

        def ours(process: subprocess.Popen[str]) -> list[psutil.Process]:
            return _spawned(process.pid)

        def theirs(_process: subprocess.Popen[str]) -> list[psutil.Process]:
            return dask.workers()

        def whole_command(process: subprocess.Popen[str]) -> None:
            process.send_signal(signal.SIGKILL)

        faults = {
            "--workers 2: a worker killed": on(ours, kill),
            "Dask: a worker killed": on(theirs, kill),
            "Dask: scheduler restarted": lambda _: dask.restart(),
            "--workers 2: disk full at a worker": on(ours, fill_disk),
            "Dask: a worker cut off for 5 s": on(theirs, cut_off),
            "--workers 2: the command killed": whole_command,
            "Dask: the command killed": whole_command,
            "Dask: disk full at a worker": on(theirs, fill_disk),
        }
        counts = {fault: Counter[str]() for fault in faults}
        lines = dict[str, str]()
        for number in range(moments):
            fault = list(faults)[number % len(faults)]
            run, count = folder / f"run{number}", counts[fault]
            engine = ["--workers", "2"]
            if fault.startswith("Dask"):
                engine = ["--scheduler", dask.address]
            wait = float(rng.uniform(0, 0.8 * length))
            before, status, line, again = one(bench, run, engine, wait, faults[fault])
            if "disk full" in fault and fault.startswith("Dask"):
                dask.restart()  # its worker's disk stays full
            after = done(run)
            touched = [block for block, when in before.items() if after.get(block) != when]
            good = status == 0 and content(run) == expected and not touched
            count["n"] += 1
            count["at once" if again == 0 else "again"] += 1
            count["lost"] += len(touched)
            count["good"] += good
            if again and line:
                lines[fault] = re.sub(r"/\S+/", "", line)
            say(f"  {fault}, {len(before)} of {n_blocks} blocks done: run again {again} times, "
                f"{'as it should be' if good else 'WRONG'}; {line}")  # fmt: skip
    yield table(
        ("fault", "moments", "went on by itself", "by the same command", "blocks done and lost",
         "in the end the same"),
        [(f, c["n"], c["at once"], c["again"], c["lost"], c["good"]) for f, c in counts.items()
         if c["n"]],
    )  # fmt: skip
    yield (
        f"{n_stars} stars in {n_blocks} blocks, Laplace; a fault at a random moment after the "
        "first block. In the end the same: posteriors and catalogue, byte for byte, of a run in "
        "one process that nothing happened to."
    )
    if lines:
        yield "\n".join(f"- {fault}: `{line}`" for fault, line in lines.items())


@contextmanager
def _closing(dask: DaskHere) -> Iterator[DaskHere]:
    try:
        yield dask
    finally:
        dask.close()
