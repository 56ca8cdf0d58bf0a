"""Every notebook runs from a clean kernel, and holds no function of its own."""

import ast
import importlib
import re

import nbformat
import pytest

from tests.notebook_runner import (
    FROM_ARCHIVE,
    MYSTERY,
    NOTEBOOKS,
    execute,
    simulated_archive,
)

REAL = "6_real_gaia_xp_giants"
"""The notebook on the real giants that come with the package."""
LONG = "7_abundances_and_groups"
"""Its fits to groups and visits are tested in `tests/analysis`, and say nothing of few stars: the
committed run alone is looked at."""
N_STARS = 84
"""Twice the stars that a model of 21 terms can be trained and cross-validated on."""
SMALL = {
    "BAYES_CANNON_NOTEBOOK_STARS": str(N_STARS),
    "BAYES_CANNON_NOTEBOOK_FACTORS": "3",
    "BAYES_CANNON_NOTEBOOK_SECTIONS": "4",
}
OF_THIS_MACHINE = re.compile(r"127\.0\.0\.1|localhost|/(?:root|home|tmp|work|Users)/|site-packages")


def outputs(notebook):
    return [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]


def has_figures(notebook):
    return any("image/png" in o.get("data", {}) for o in outputs(notebook))


def printed(notebook):
    return "".join(o.get("text", "") for o in outputs(notebook))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.stem not in (FROM_ARCHIVE, LONG)], ids=lambda p: p.stem
)
def test_notebook_runs_from_a_clean_kernel(path, tmp_path, shipped_dir):
    own = shipped_dir / "apStar-dr17-2M17335483-2753043.fits.gz"
    notebook = execute(path, tmp_path, {**SMALL, MYSTERY: str(own)})
    assert has_figures(notebook)
    if MYSTERY in str(notebook.cells):
        assert "a real spectrum" in printed(notebook)
        assert "2M17335483-2753043" in printed(notebook)


@pytest.mark.slow
def test_notebook_on_real_fields_downloads_them_from_what_answers_as_sdss_does(tmp_path):
    (path,) = [p for p in NOTEBOOKS if p.stem == FROM_ARCHIVE]
    limit = N_STARS - 4
    with simulated_archive(tmp_path, n_stars=N_STARS) as (server, variables):
        notebook = execute(path, tmp_path, {**SMALL, **variables, "BAYES_CANNON_LIMIT": str(limit)})
        spectra = [r for r in server.requests if re.search(r"/a[ps]Star-[^/]*\.fits$", r.path)]
        assert len({r.path for r in spectra if r.method == "GET"}) == limit
        assert server.asked("/SqlSearch")
    text = printed(notebook)
    assert f"{limit} spectra wanted: {limit} fetched" in text
    assert f"{limit} SIMULATED giants" in text
    assert "could not be made: nothing" in text
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    everything = str(outputs(notebook))
    assert server.url not in everything
    assert str(tmp_path) not in everything


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_with_its_figures_and_calls_the_package(path):
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code)
    assert has_figures(notebook)
    assert not any(o.output_type == "error" for o in outputs(notebook))
    assert not any("def " in c.source for c in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_do_not_tell_of_the_machine_that_made_them(path):
    for output in outputs(nbformat.read(path, as_version=4)):
        texts = [v for k, v in output.get("data", {}).items() if not k.startswith("image/")]
        for text in (output.get("text", ""), *map(str, texts)):
            assert not OF_THIS_MACHINE.search(text), text[:300]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebook_shows_no_spectrum_of_the_users(path):
    notebook = nbformat.read(path, as_version=4)
    assert "a real spectrum" not in printed(notebook)
    assert "mystery_spec" not in str(notebook)


def test_committed_notebook_on_real_giants_simulates_nothing():
    (path,) = [p for p in NOTEBOOKS if p.stem == REAL]
    notebook = nbformat.read(path, as_version=4)
    assert "1500 real stars" in printed(notebook)
    assert "1000 to train on, 500 held out" in printed(notebook)
    assert "simulated" not in printed(notebook).lower()


def test_committed_notebook_on_real_fields_says_that_its_stars_are_simulated():
    (path,) = [p for p in NOTEBOOKS if p.stem == FROM_ARCHIVE]
    notebook = nbformat.read(path, as_version=4)
    assert "not from SDSS" in notebook.cells[0].source
    assert "SIMULATED giants" in printed(notebook)


def test_committed_notebook_on_groups_finds_the_scatter_that_is_there():
    (path,) = [p for p in NOTEBOOKS if p.stem == LONG]
    notebook = nbformat.read(path, as_version=4)
    assert "299 held out and sampled with NUTS" in printed(notebook)
    assert sum("image/png" in o.get("data", {}) for o in outputs(notebook)) == 4


def test_there_are_notebooks():
    assert {FROM_ARCHIVE, REAL} <= {p.stem for p in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_names_that_a_notebook_imports_are_in_the_package(path):
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    plain = ["\n".join(s for s in c.splitlines() if not s.startswith(("%", "!"))) for c in code]
    nodes = [n for text in plain for n in ast.walk(ast.parse(text))]
    wanted = [
        (n.module, a.name)
        for n in nodes
        if isinstance(n, ast.ImportFrom) and str(n.module).startswith("bayes_cannon")
        for a in n.names
    ]
    missing = [f"{m}.{n}" for m, n in wanted if not hasattr(importlib.import_module(m), n)]
    assert not missing
