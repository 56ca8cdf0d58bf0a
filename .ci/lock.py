"""Write requirements.lock from the versions installed in the running Python's environment.

The lock holds what `pyproject.toml` asks for, all extras included, and what that needs in turn:
names and versions, nothing about where they came from.
"""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Exact versions of everything that bayes_cannon and its extras need. Written by `make lock`.
"""


def project_requirements(pyproject: Path) -> list[Requirement]:
    """Requirements of the project and all its extras."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    return [Requirement(text) for text in texts]


def installed_closure(requirements: list[Requirement]) -> dict[str, str]:
    """Version of each distribution that the requirements need here, by canonical name."""
    versions: dict[str, str] = {}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    todo = [(requirement, "") for requirement in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        versions[name] = found.version
        needs = [Requirement(text) for text in found.requires or []]
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo.extend((need, wanted) for need in needs)
    if missing:
        raise SystemExit(f"not installed, so not lockable: {', '.join(sorted(set(missing)))}")
    return dict(sorted(versions.items()))


if __name__ == "__main__":
    closure = installed_closure(project_requirements(ROOT / "pyproject.toml"))
    lines = [f"{name}=={version}\n" for name, version in closure.items()]
    (ROOT / "requirements.lock").write_text(HEADER + "".join(lines), encoding="utf-8")
