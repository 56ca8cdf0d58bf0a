"""Run notebooks from a clean kernel, the one on downloaded fields against a local archive.

``python -m tests.notebook_runner NOTEBOOK...`` executes notebooks in place, as they are committed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from bayes_cannon.surveys.simulation.simulate import simulate_survey
from tests.archive_server import ArchiveServer

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
FROM_ARCHIVE = "5_real_apogee_fields"
"""The notebook that downloads."""
MYSTERY = "BAYES_CANNON_MYSTERY"
"""Variable with which the user names a spectrum of his own."""
# With a back end of matplotlib's named, the figures would not be drawn into the notebook.
_OF_THE_USER = ("BAYES_CANNON_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "MPLBACKEND")


def execute(
    path: Path, folder: Path, environment: Mapping[str, str] | None = None, *, timeout: int = 600
) -> nbformat.NotebookNode:
    """Execute a notebook in `folder`, with no settings but these.

    Parameters
    ----------
    path
        The notebook, which is not changed.
    folder
        Where its kernel runs and its files go.
    environment
        Variables of the kernel besides the user's own.
    timeout
        Of a cell, in seconds.

    Returns
    -------
    nbformat.NotebookNode
        With its outputs.
    """
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(_OF_THE_USER)}
    own = {"BAYES_CANNON_NOTEBOOK_DIR": str(folder), **(environment or {})}
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": folder}},
    )  # fmt: skip
    client.execute(env=kept | own)
    return notebook


@contextmanager
def simulated_archive(
    folder: Path, n_stars: int | None
) -> Iterator[tuple[ArchiveServer, dict[str, str]]]:
    """Serve a simulated survey at the archive's addresses, with the variables that lead there."""
    survey = simulate_survey(folder / "archive", n_stars=n_stars, seed=17)
    with ArchiveServer(survey) as server:
        variables = {
            "BAYES_CANNON_SAS_URL": server.sas_url,
            "BAYES_CANNON_SKYSERVER_URL": server.skyserver_url,
        }
        yield server, variables


def execute_in_place(path: Path) -> None:
    """Execute a notebook as it is to be committed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if path.stem == FROM_ARCHIVE:
            with simulated_archive(folder, n_stars=None) as (_, variables):
                notebook = execute(path, folder, variables)
        else:
            notebook = execute(path, folder)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for argument in sys.argv[1:] or NOTEBOOKS:
        execute_in_place(Path(argument))
