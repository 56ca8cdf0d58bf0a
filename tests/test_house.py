"""The house keeps its form: sizes of modules and wings, and what no module may need."""

import ast
import itertools
import re
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


NOT_DOCUMENTED_BY_ARGUMENT = {"perform", "connection_pattern", "pullback"}
"""Of PyTensor's operations, whose arguments are PyTensor's."""


def public(tree: ast.Module):
    """Public functions and methods of a module with the bases of their class, and its classes."""
    for node in tree.body:
        if getattr(node, "name", "_").startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            yield node.name, node, ()
        elif isinstance(node, ast.ClassDef):
            yield node.name, node, ()
            bases = tuple(ast.unparse(base) for base in node.bases)
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method, bases


def exported(path: Path) -> set[str]:
    """Names that the stub of a module's wing exports from it."""
    wing = HOUSE / path.relative_to(HOUSE).parts[0]
    stub = wing / "__init__.pyi"
    if not stub.is_file():
        return set()
    module = ".".join(path.relative_to(wing).with_suffix("").parts)
    return set(re.findall(rf"^from \.{re.escape(module)} import (\w+) as", stub.read_text(), re.M))


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if "cli" not in path.parts and path.name != "__main__.py"],
    ids=lambda p: str(p.relative_to(HOUSE)),
)
def test_public_functions_say_what_their_arguments_are(path):
    lacking = []
    names = exported(path)
    for name, node, bases in public(ast.parse(path.read_text(encoding="utf-8"))):
        doc = ast.get_docstring(node) or ""
        if not doc:
            lacking.append((name, "docstring"))
        if isinstance(node, ast.ClassDef):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)
                      and "ClassVar" not in ast.unparse(n.annotation)
                      and not n.target.id.startswith("_")]  # fmt: skip
            if name in names and fields and not re.search(r"^(Attributes|Parameters)$", doc, re.M):
                lacking.append((name, "Attributes"))
            continue
        decorators = " ".join(map(ast.unparse, node.decorator_list))
        inherited = "override" in decorators or "Likelihood" in bases
        if inherited or "section(" in decorators or node.name in NOT_DOCUMENTED_BY_ARGUMENT:
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        told = [a.arg for a in arguments if a.arg not in ("self", "cls")]
        lacking += [(name, a) for a in told if not re.search(rf"\b{a}\b", doc)]
        if name in names and len(told) > 1 and not re.search(r"^Parameters$", doc, re.M):
            lacking.append((name, "Parameters"))
    assert lacking == []


COUNT = re.compile(
    r"len\(|\.size\b|\.sum\(|\bsum\(|\bn_(?!columns)|^n$|\.n\b|int\(|(failures|folds|deaths|losses)$"
)
COUNTED = re.compile(
    r" (?:(?!(?:of|and|has|have|with|in|from|outside|lie|differ) )[A-Za-z-]+ ){0,3}?"
    r"(?:stars|files|spectra|labels|draws|rows|visits|factors|names|values|wavelengths|star ids"
    r"|candidates|chips|members|plots|chunks|folds|blocks|pairs|simulations|problems)\b"
)
"""Plural nouns that may stand behind the number 1; a spectrum has many pixels."""


def counts_of_things(path: Path):
    """Counts in texts of a module, with a plural behind them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for value, behind in itertools.pairwise(parts):
            if not (isinstance(value, ast.FormattedValue) and isinstance(behind, ast.Constant)):
                continue
            number = ast.unparse(value.value)
            if "count_text" not in number and COUNT.search(number) and COUNTED.match(behind.value):
                yield f"{path.relative_to(HOUSE)}:{value.lineno}: {number}{behind.value[:40]}"


def test_counts_of_one_have_no_plural():
    """There is one home for counts in words, `count_text`; `errors.py` lies below it."""
    modules = [path for path in MODULES if path.name != "errors.py"]
    assert [text for path in modules for text in counts_of_things(path)] == []
