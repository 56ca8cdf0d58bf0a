"""Fixtures that several test modules share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with real APOGEE files, beside the checkout; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("the real APOGEE files are not here")
    return folder
