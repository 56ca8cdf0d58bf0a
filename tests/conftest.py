"""Fixtures that several test modules share."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bayes_cannon.report import Report


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with real APOGEE files, beside the checkout; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("the real APOGEE files are not here")
    return folder


@pytest.fixture(scope="session")
def big_report(tmp_path_factory: pytest.TempPathFactory) -> "Report":
    """The report of a run of 500 stars, some of them with hostile names."""
    from bayes_cannon.report import write_report
    from tests.report_problem import make_run

    return write_report(make_run(tmp_path_factory.mktemp("big"), n_stars=500, hostile=True))
