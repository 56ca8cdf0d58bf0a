"""Every notebook runs from a clean kernel, and holds no function of its own."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_from_a_clean_kernel(path, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_CANNON_NOTEBOOK_DIR", str(tmp_path))
    monkeypatch.setenv("BAYES_CANNON_NOTEBOOK_STARS", "120")
    mystery = "mystery_spec_wiped.fits"
    real = Path(__file__).resolve().parents[2] / "shared" / "real" / mystery
    if real.exists():
        # The notebook on posteriors takes a real spectrum that lies beside it.
        shutil.copy(real, tmp_path / mystery)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    if mystery in str(notebook.cells) and real.exists():
        texts = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
        assert any(text.startswith("a real spectrum") for text in texts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_with_its_figures_and_calls_the_package(path):
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    outputs = [o for c in code for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not any(o.output_type == "error" for o in outputs)
    assert not any("def " in c.source for c in code)


def test_there_are_notebooks():
    assert NOTEBOOKS
