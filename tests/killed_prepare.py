"""`prepare_to` killed at chosen moments, as `killed_run` kills runs; prints a report as JSON."""

import json
import os
import signal
import sys
from pathlib import Path

from bayes_cannon.base.stores import rows
from bayes_cannon.surveys.storing import prepare_to
from tests.kills import Changes
from tests.spectra.test_stored import contents


def attempt(survey: Path, out: Path, fatal: int = -1) -> bool:
    """Prepare in a forked process; whether it came to the end."""
    child = os.fork()
    if child == 0:
        changes = Changes(out, fatal)
        prepare_to(out, survey)
        (out.parent / "changes.json").write_text(json.dumps(changes.names))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert status == 0
    return True


def main(survey: Path, root: Path, n_kills: int) -> None:
    """Kill at moments spread over the whole work, and look at the end."""
    assert attempt(survey, root / "whole.zarr")
    names = json.loads((root / "changes.json").read_text())
    whole, wrong, again = contents(root / "whole.zarr"), [], []
    moments = sorted({round(i * (len(names) - 1) / (n_kills - 1)) for i in range(n_kills)})
    for moment in moments:
        out = root / f"killed{moment}.zarr"
        assert not attempt(survey, out, moment)
        marks = [p for p in (out / "progress").glob("0*") if p.suffix != ".part"]
        done = {path: path.stat().st_mtime_ns for path in marks}
        if not attempt(survey, out) or contents(out) != whole:
            wrong.append(names[moment])
        again += [names[moment] for path, t in done.items() if path.stat().st_mtime_ns != t]
    report = {"moments": len(moments), "changes": len(names), "wrong": wrong, "again": again}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    rows.BLOCK = 2  # small blocks, so that there are several
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
