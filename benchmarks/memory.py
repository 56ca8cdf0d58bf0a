"""Time and peak memory of one fit in a process of its own; prints one line of JSON.

python memory.py arrays N_STARS N_PIXELS N_FACTORS       fit_map on synthetic arrays
python memory.py train N_STARS N_FACTORS|auto            train on library spectra
python memory.py infer N_STARS                           infer_run on every fourth pixel
python memory.py prepare N_STARS                         simulate a survey, then prepare it
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(*arguments: object) -> dict[str, Any]:
    """Run this file with `arguments`; seconds, GB and what else it says."""
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak() -> float:
    """Largest resident memory of this process so far, GB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the process was before exec
        line = next(t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _arrays(n_stars: int, n_pixels: int, n_factors: int) -> dict[str, Any]:
    from common import synthetic

    from bayes_cannon.training.map_fit import fit_map
    from bayes_cannon.training.pixels.fit import Design

    flux, ivar, x = synthetic(n_stars, n_pixels)
    before, start = peak(), time.perf_counter()
    fit = fit_map(flux, ivar, Design.exact(x), n_factors=n_factors, seed=0)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds, "peak": peak(), "data": before, "rounds": len(fit.bound),
        "converged": fit.converged,
    }  # fmt: skip


def _train(n_stars: int, n_factors: str) -> dict[str, Any]:
    from common import library_set

    from bayes_cannon.training.pipeline import train

    stars, _ = library_set(n_stars, seed=1)
    before, start = peak(), time.perf_counter()
    cannon = train(stars, n_factors="auto" if n_factors == "auto" else int(n_factors), seed=1)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": peak(), "data": before, "factors": cannon.n_factors}


def _infer(n_stars: int) -> dict[str, Any]:
    from common import many, thinned_problem

    from bayes_cannon.inference.infer import infer_labels
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.runs.run import infer_run

    # Few draws would fail the limits of 2000: no star is to be sampled twice for that.
    settings = InferenceSettings(draws=100, chains=2, rhat_limit=1.5, ess_limit=1, n_khat=0)
    cannon, spectra = thinned_problem()
    infer_labels(cannon, spectra.select([0]), settings=settings, seed=1)
    spectra = many(spectra, n_stars)
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        infer_run(cannon, spectra, Path(folder) / "run", settings=settings, seed=1)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": peak(), "data": before}


def _prepare(n_stars: int) -> dict[str, Any]:
    from bayes_cannon.surveys.preparing import prepare
    from bayes_cannon.surveys.survey import open_survey

    with tempfile.TemporaryDirectory() as folder:
        # In another process: what writing takes must not count as what reading takes.
        code = (
            "import sys; from bayes_cannon.surveys.simulation.simulate import simulate_survey; "
            "simulate_survey(sys.argv[1], n_stars=int(sys.argv[2]), seed=1)"
        )
        start = time.perf_counter()
        out = str(Path(folder) / "survey")
        subprocess.run([sys.executable, "-c", code, out, str(n_stars)], check=True)
        simulate = time.perf_counter() - start
        survey = open_survey(out)
        before, start = peak(), time.perf_counter()
        prepare(survey)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": peak(), "data": before, "simulate": simulate}


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        print(json.dumps(_prepare(int(sys.argv[2]))))
    elif sys.argv[1] == "infer":
        print(json.dumps(_infer(int(sys.argv[2]))))
    elif sys.argv[1] == "arrays":
        print(json.dumps(_arrays(*map(int, sys.argv[2:5]))))
    else:
        print(json.dumps(_train(int(sys.argv[2]), sys.argv[3])))
