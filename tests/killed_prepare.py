"""`prepare_to` killed at chosen moments, as `killed_run` kills runs; prints a report as JSON."""

import json
import sys
from pathlib import Path

from bayes_cannon.base.stores import rows
from bayes_cannon.surveys.storing import prepare_to
from tests.kills import attempt, changes_of, spread
from tests.spectra.test_stored import contents


def main(survey: Path, root: Path, n_kills: int) -> None:
    """Kill at moments spread over the whole work, and look at the end."""

    def prepare(out: Path) -> None:
        prepare_to(out, survey)

    assert attempt(prepare, root / "whole.zarr")
    names = changes_of(root / "whole.zarr")
    whole, wrong, again = contents(root / "whole.zarr"), [], []
    moments = sorted(set(spread(len(names), n_kills)))
    for moment in moments:
        out = root / f"killed{moment}.zarr"
        assert not attempt(prepare, out, moment)
        marks = [p for p in (out / "progress").glob("0*") if p.suffix != ".part"]
        done = {path: path.stat().st_mtime_ns for path in marks}
        if not attempt(prepare, out) or contents(out) != whole:
            wrong.append(names[moment])
        again += [names[moment] for path, t in done.items() if path.stat().st_mtime_ns != t]
    report = {"moments": len(moments), "changes": len(names), "wrong": wrong, "again": again}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    rows.BLOCK = 2  # small blocks, so that there are several
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
