"""Fixtures that several test modules share."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bayes_cannon.runs.report.report import Report

# Modules of more than half a minute, the longest first. A module runs whole on one process: one
# that came last would keep the other processes waiting.
LONG_MODULES = (
    "test_notebooks",
    "test_advi",
    "test_demo",
    "test_zoo",
    "test_faults",
    "test_cli",
    "test_run",
    "test_calibration",
    "test_engines",
    "test_docs",
    "test_report",
    "test_label_model",
    "test_binary_search",
    "test_effective_pixels",
    "test_executors",
    "test_storing",
    "test_pixel_fit",
    "test_sbc",
    "test_training_model",
    "test_real_giants",
    "test_known_terms",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long modules first, the order within and between the others as it was drawn."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return LONG_MODULES.index(name) if name in LONG_MODULES else len(LONG_MODULES)

    items.sort(key=place)


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with real APOGEE files, beside the checkout; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("the real APOGEE files are not here")
    return folder


@pytest.fixture(scope="session")
def shipped_dir() -> Path:
    """Folder with the real APOGEE files that come with the tests."""
    return Path(__file__).resolve().parent / "data"


@pytest.fixture(scope="session")
def big_report(tmp_path_factory: pytest.TempPathFactory) -> "Report":
    """The report of a run of 500 stars, some of them with hostile names.

    Made by one of the processes of pytest-xdist, for all.
    """
    from filelock import FileLock

    from bayes_cannon.runs.report.report import Report

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    note = folder / "big-report.json"
    with FileLock(f"{note}.lock"):
        if not note.exists():
            note.write_text(json.dumps(asdict(_make_big_report(folder / "big")), default=str))
    known = json.loads(note.read_text())
    paths = {"path": Path(known["path"]), "figures": tuple(map(Path, known["figures"]))}
    return Report(**known | paths)


def _make_big_report(folder: Path) -> "Report":
    from PIL import Image

    from bayes_cannon.runs.corners import corner_files
    from bayes_cannon.runs.report.report import write_report
    from bayes_cannon.runs.results import open_run
    from tests.report_problem import make_run

    folder.mkdir()
    run = make_run(folder, n_stars=500, hostile=True)
    figures = corner_files(open_run(run).star_id.tolist(), run / "figures")
    for path in list(figures.values())[7:20]:  # more than a report takes over one by one
        path.parent.mkdir(exist_ok=True)
        Image.new("P", (957, 1063)).save(path)
    return write_report(run)
