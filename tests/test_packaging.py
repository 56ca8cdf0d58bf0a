"""What is installed: dependencies, their locked versions, and what the wheel carries."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bayes_cannon._version import __version__

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]
]
LOCK_LINE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([a-z0-9.]+)(?: ; [^@/]+)?")
SMALL_PATH = {"PATH": "/nowhere", "HOME": "/nonexistent"}


@pytest.fixture(scope="module")
def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    versions: dict[str, Version] = {}
    for line in lines:
        if not line.startswith("#"):
            match = LOCK_LINE.fullmatch(line)
            assert match, f"not a name and a version: {line!r}"
            assert match[1] not in versions, f"locked twice: {match[1]}"
            versions[match[1]] = Version(match[2])
    return versions


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_lock_satisfies_requirement(requirement: Requirement, locked: dict[str, Version]) -> None:
    name = canonicalize_name(requirement.name)
    assert name in locked, f"{name} is not in requirements.lock; run `make lock`"
    assert requirement.specifier.contains(locked[name])


def needed_here(requirements: list[Requirement]) -> set[str]:
    """Names of the distributions that requirements need here, and those in turn."""
    seen: set[tuple[str, str]] = set()
    todo = set(names_with_extras(requirements))
    while todo:
        name, extra = todo.pop()
        seen.add((name, extra))
        found = [Requirement(text) for text in distribution(name).requires or []]
        wanted = [n for n in found if not n.marker or n.marker.evaluate({"extra": extra})]
        todo |= set(names_with_extras(wanted)) - seen
    return {name for name, _ in seen}


def names_with_extras(requirements: list[Requirement]) -> list[tuple[str, str]]:
    return [(canonicalize_name(r.name), extra) for r in requirements for extra in ("", *r.extras)]


def test_lock_is_complete(locked: dict[str, Version]) -> None:
    extended = needed_here([Requirement("arviz[matplotlib]")])
    assert "matplotlib" in extended - needed_here([Requirement("arviz")]), "extras count"
    extras = PROJECT["optional-dependencies"]
    without = set() if find_spec("sphinx") else set(extras["docs"])  # the tests do not need it
    wanted = [requirement for requirement in REQUIREMENTS if str(requirement) not in without]
    assert not needed_here(wanted) - locked.keys(), "run `make lock`"


def test_make_lock_writes_names_and_versions_alone(tmp_path: Path) -> None:
    """With a Python that answers as pip does."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".ci").mkdir()
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'"-m venv --clear "*) mkdir -p "$4/bin" && cp "{python}" "$4/bin/python";;\n'
        '*"pip list"*) printf "Jinja2==3.1.6\\nzarr==3\\ntyping_extensions==4.16.0\\n";;\nesac\n'
    )
    python.chmod(0o755)
    (tmp_path / ".ci" / "find-python").symlink_to(shutil.which("echo") or "")
    command = ["make", "lock", f"PYTHON={python}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    head, *lines = (tmp_path / "requirements.lock").read_text().splitlines()
    assert head.startswith("# Exact versions of everything")
    assert lines == ["jinja2==3.1.6", "typing-extensions==4.16.0", "zarr==3"]
    assert not (tmp_path / ".venv" / "lock").exists()


CONDA_NAMES = {"matplotlib": "matplotlib-base"}
"""Of packages that conda-forge calls otherwise."""


def test_environment_of_conda_needs_what_the_project_needs() -> None:
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    found = dict(m.groups() for line in lines if (m := re.fullmatch(r"  - (\S+) ([<>=].*)", line)))
    python = found.pop("python")
    assert SpecifierSet(python) == SpecifierSet(PROJECT["requires-python"])
    own = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in own}
    assert {name: SpecifierSet(limits) for name, limits in found.items()} == wanted
    assert list(found) == sorted(found)
    assert "      - --editable ." in lines


def test_lower_limits() -> None:
    limits = {requirement.name: requirement.specifier for requirement in REQUIREMENTS}
    assert limits["pymc"] == SpecifierSet(">=6.4,<7")
    assert not SpecifierSet(PROJECT["requires-python"]).contains("3.11")
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.12")


def test_no_tracked_file_names_a_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert "pyproject.toml" in names
    assert "uv.lock" not in names
    # Put together here so that this file does not hold them.
    hosts = ["py" + "pi.org", "python" + "hosted.org", "ana" + "conda.org", "--index" + "-url"]
    pattern = re.compile(
        "|".join(map(re.escape, hosts)).encode() + rb"|https?://[^\s\"')]*/simple/"
    )
    assert all(pattern.search(f"see {host}".encode()) for host in hosts)
    found = [name for name in names if pattern.search((ROOT / name).read_bytes())]
    assert found == []


def build(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


def data_files() -> list[str]:
    return [path.name for path in sorted((ROOT / "data").iterdir()) if path.is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_wheel_carries_package_and_data(wheel: Path) -> None:
    assert wheel.name == f"bayes_cannon-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        library = archive.read("bayes_cannon/data/giants.npz")
        entry_points = archive.read(
            f"bayes_cannon-{__version__}.dist-info/entry_points.txt"
        ).decode()
    assert library == (ROOT / "data" / "giants.npz").read_bytes()
    assert {f"bayes_cannon/data/{name}" for name in data_files()} <= names
    package = ROOT / "bayes_cannon"
    modules = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py*")
               if path.suffix in (".py", ".pyi")}  # fmt: skip
    assert modules <= names
    assert {name.split("/")[0] for name in names} == {
        "bayes_cannon",
        f"bayes_cannon-{__version__}.dist-info",
    }
    assert "bayes-cannon = bayes_cannon.cli.commands:main" in entry_points


@pytest.mark.slow
def test_unpacked_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from bayes_cannon.base.resources import data_path\n"
        "print(data_path('giants.npz'))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == site.resolve() / "bayes_cannon" / "data" / "giants.npz"


@pytest.mark.slow
def test_sdist_carries_what_make_needs(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"data/{name}" for name in data_files()} <= names
    assert {"Makefile", "requirements.lock", ".ci/find-python", "tests/test_packaging.py"} <= names


def find_python(*arguments: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(ROOT / ".ci" / "find-python"), *arguments]
    return subprocess.run(
        command, env=SMALL_PATH | {"PATH": path}, capture_output=True, text=True, check=False
    )


def fake_python(folder: Path, name: str, version: str, status: int) -> None:
    """A program that answers as a Python whose check ends with `status`."""
    program = folder / name
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}"\nexit {status}\n'
    )
    program.chmod(0o755)


def test_no_python_says_what_to_install() -> None:
    done = find_python()
    assert done.returncode == 1
    assert done.stdout == ""
    assert "needs Python 3.12 or newer, and none was found" in done.stderr
    assert "apt install python3.12 python3.12-venv" in done.stderr


def test_old_python_is_named(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.11.2", 1)
    done = find_python(path=str(tmp_path))
    assert done.returncode == 1
    assert "python3 here is Python 3.11.2, too old" in done.stderr


def test_newest_python_that_runs_is_taken(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3.14", "3.14.0", 127)
    fake_python(tmp_path, "python3.13", "3.13.0", 0)
    fake_python(tmp_path, "python3", "3.12.0", 0)
    assert find_python(path=str(tmp_path)).stdout == "python3.13\n"


def test_named_python_is_checked(tmp_path: Path) -> None:
    assert find_python(sys.executable).stdout == f"{sys.executable}\n"
    fake_python(tmp_path, "python3", "3.11.2", 1)
    done = find_python(str(tmp_path / "python3"))
    assert done.returncode == 1
    assert "is not a Python >= 3.12" in done.stderr


def test_make_without_target_lists_targets() -> None:
    make = shutil.which("make")
    assert make, "make is not installed"
    done = subprocess.run([make], cwd=ROOT, check=True, capture_output=True, text=True)
    for target in ("demo", "test", "bench", "sbc", "notebooks", "lint", "format", "clean"):
        assert f"make {target} " in done.stdout
