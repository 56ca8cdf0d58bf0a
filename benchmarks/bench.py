"""Measure speed, memory and accuracy; write them into ``benchmarks/results.md``.

python benchmarks/bench.py                        everything
python benchmarks/bench.py training inference     these sections; the others stay as they are
python benchmarks/bench.py --quick -o FILE        smaller problems, into another file
"""

from __future__ import annotations

import argparse
import importlib
import logging
import time
from pathlib import Path

from common import busy, machine, say

SECTIONS = (
    "reading",
    "training",
    "inference",
    "accuracy",
    "label_errors",
    "calibration",
    "information",
    "population",
    "repeats",
    "real",
    "zoo",
    "binaries",
    "profiled",
    "peers",
    "workers",
    "faults",
    "terms",
)
RESULTS = Path(__file__).parent / "results.md"
HEAD = """# Benchmarks

Written by `make bench`; `benchmarks/README.md` says what is measured. Every spectrum here, those of
the real giants excepted, is simulated from synthesised giants or drawn from the model itself: real
data are not as kind.
Goals are in the tables. Times are wall-clock seconds.
"""


def read_sections(path: Path) -> dict[str, str]:
    """Sections that are already in the file, by name."""
    found: dict[str, str] = {}
    if path.exists():
        for part in path.read_text().split("\n<!-- section ")[1:]:
            name, _, text = part.partition(" -->\n")
            found[name] = text.strip()
    return found


def write_sections(path: Path, sections: dict[str, str]) -> None:
    """Write the sections in their order."""
    parts = [HEAD.strip()]
    parts += [f"<!-- section {name} -->\n{sections[name]}" for name in SECTIONS if name in sections]
    path.write_text("\n\n".join(parts) + "\n")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", nargs="*", help=f"of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="smaller problems")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    unknown = sorted(set(options.section) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    logging.getLogger("pymc").setLevel(logging.ERROR)
    sections = read_sections(options.output)
    for name in options.section or SECTIONS:
        say(f"{name} …")
        module = importlib.import_module(name)
        start, parts = time.perf_counter(), []
        for part in module.section(quick=options.quick):
            parts.append(part)
            seconds = time.perf_counter() - start
            how = " Quick run: smaller problems." if options.quick else ""
            facts = f"{machine()} {busy()} {seconds:.0f} s in all.{how}"
            sections[name] = "\n\n".join([f"## {module.TITLE}", facts, *parts])
            write_sections(options.output, sections)
        say(f"{name}: {seconds:.0f} s")


if __name__ == "__main__":
    main()
