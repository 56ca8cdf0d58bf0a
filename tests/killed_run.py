"""Runs that are killed at chosen moments; started by a test as a process of its own.

Before every change of the run's folder (a file opened for writing, renamed or removed, a folder
made) a process forked for one attempt may kill itself. Prints a report as JSON.
"""

import hashlib
import json
import sys
from functools import partial
from pathlib import Path

from bayes_cannon.runs.run import infer_run
from tests.kills import attempt, changes_of, spread
from tests.run_problem import CANNON, QUICK, make_spectra

SPECTRA = make_spectra()


run = partial(infer_run, CANNON, SPECTRA, settings=QUICK, seed=2)


def content(folder: Path) -> dict[str, str]:
    """Digests of what must not depend on when a run was killed."""
    kept = [*(folder / "posterior.zarr").rglob("*"), folder / "catalogue.ecsv"]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in kept
        if p.is_file()
    }


def chunks_done(folder: Path) -> dict[str, int]:
    """Time of writing of the chunks of the blocks that are noted as done."""
    done = {int(p.name) for p in (folder / "progress").glob("[0-9]*") if p.suffix != ".part"}
    chunks = (folder / "posterior.zarr").glob("*/*/0.0.*")
    return {
        str(p): p.stat().st_mtime_ns
        for p in chunks
        if p.suffix != ".partial" and int(p.name.split(".")[-1]) in done
    }


def main(root: Path, n_kills: int) -> None:
    """Kill at moments spread over the whole run, twice each, and look at the end."""
    assert attempt(run, root / "whole")
    names = changes_of(root / "whole")
    whole = content(root / "whole")
    marks = [i for i, name in enumerate(names) if name.startswith("os.rename 00000")]
    report = {"n_changes": len(names), "n_marks": len(marks), "wrong": [], "touched": []}
    moments = sorted({*spread(len(names), n_kills), *marks, *(m + 1 for m in marks)})
    for moment in moments:
        folder = root / f"killed{moment}"
        assert not attempt(run, folder, moment)
        before = chunks_done(folder)
        ended = attempt(run, folder, moment // 2) or attempt(run, folder)
        after = chunks_done(folder)
        if not ended or content(folder) != whole:
            report["wrong"].append(names[moment])
        if any(after.get(path) != time for path, time in before.items()):
            report["touched"].append(names[moment])
        left = [p.name for p in folder.rglob("*") if ".part" in p.name or p.name == ".lock"]
        report["wrong"] += left
    report["moments"] = len(moments)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
