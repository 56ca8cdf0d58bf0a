"""The house keeps its form: sizes of modules and wings, and what no module may need."""

import subprocess
import sys
from pathlib import Path

import pytest

import bayes_cannon

HOUSE = Path(bayes_cannon.__file__).parent
MODULES = sorted(HOUSE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})
MOST_LINES, MOST_MODULES = 450, 14
EVERYTHING = """
import importlib, pkgutil, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # as on Windows: importing it is an ImportError
import bayes_cannon
for module in pkgutil.walk_packages(bayes_cannon.__path__, "bayes_cannon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_no_module_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_no_folder_has_too_many_modules(folder):
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.parent == HOUSE], ids=lambda p: p.name)
def test_every_wing_says_what_it_is_for_and_exports_by_a_stub(folder):
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert (folder / "__init__.pyi").exists()


def test_every_module_can_be_imported_where_there_is_no_posix():
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) >= len(MODULES) - 2
