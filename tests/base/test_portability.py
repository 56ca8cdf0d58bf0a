"""The package runs where Python runs, Windows included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "bayes_cannon"
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
OF_POSIX = {
    "chown", "fork", "forkpty", "geteuid", "getgid", "getloadavg", "getpgid", "getppid", "getuid",
    "kill", "killpg", "lchown", "mkfifo", "nice", "pread", "preadv", "pwrite", "pwritev",
    "register_at_fork", "sched_getaffinity", "setsid", "statvfs", "sysconf", "uname", "wait",
}  # fmt: skip
"""Functions of `os` that Windows lacks, or that do something else there (``kill``)."""


def posix_calls(source: str) -> set[str]:
    """What a module's text takes from modules and functions that are of POSIX alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(MODULES & {alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            found.update(MODULES & {node.module})
            names = OF_POSIX if node.module == "os" else set()
            found.update(names & {alias.name for alias in node.names})
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.update(OF_POSIX & {node.attr} if node.value.id == "os" else ())
    return found


def test_no_call_of_posix_alone() -> None:
    sources = {p.name: p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py")}
    assert {name: calls for name, text in sources.items() if (calls := posix_calls(text))} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl, os", {"fcntl"}),
        ("def f():\n    from pwd import getpwnam", {"pwd"}),
        ("from os import uname, replace", {"uname"}),
        ("import os\nos.kill(1, 0), os.replace(a, b)", {"kill"}),
        ("process.kill()", set()),
    ],
)
def test_calls_of_posix_alone_are_seen(source: str, found: set[str]) -> None:
    assert posix_calls(source) == found


EVERY_MODULE = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({sorted(MODULES - {"posix"})}))
import bayes_cannon
names = [m.name for m in pkgutil.walk_packages(bayes_cannon.__path__, "bayes_cannon.")]
for name in names:
    if name != "bayes_cannon.__main__":
        importlib.import_module(name)
print(len(names))
"""


@pytest.mark.slow
def test_every_module_is_imported_without_the_modules_of_posix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_MODULE], cwd=PACKAGE.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
