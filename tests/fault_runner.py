"""A process that runs commands in children of its own, killed at a chosen moment or not.

Tests talk to it by `FaultRunner`: the package is imported once, and a child that crashes takes
nothing with it.
"""

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status (minus the signal), what it said, what it changed."""

    status: int
    said: str
    changes: list[str] = field(default_factory=list)

    def require_one_line_error(self, *words: str) -> None:
        """Check that it ended with status 2 and one line, which has the words."""
        lines = [line for line in self.said.splitlines() if not line.startswith("WARNING ")]
        assert self.status == 2, self.said
        assert len(lines) == 1, self.said
        assert lines[0].startswith("error: "), self.said
        for word in words:
            assert word in lines[0], self.said


class FaultRunner:
    """The process, as the tests see it."""

    def __init__(self) -> None:
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fault_runner"], cwd=ROOT, text=True,
            env=os.environ | quiet, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def command(
        self,
        *arguments: object,
        watch: Path | None = None,
        fatal: int = -1,
        env: dict[str, str] | None = None,
    ) -> Ended:
        """Run a command; it dies before change `fatal` of the folder `watch`."""
        return self._ask(
            arguments=[str(a) for a in arguments], watch=str(watch), fatal=fatal, env=env or {}
        )

    def function(
        self, name: str, *arguments: object, watch: Path | None = None, fatal: int = -1
    ) -> Ended:
        """Call a function, ``package.module:function``, with texts."""
        texts = [str(a) for a in arguments]
        return self._ask(function=name, arguments=texts, watch=str(watch), fatal=fatal)

    def _ask(self, **request: object) -> Ended:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def _serve(request: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        said, changes = Path(folder) / "said", Path(folder) / "changes"
        child = os.fork()
        if child == 0:
            with said.open("w") as sink:
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
            os._exit(_work(request, changes))
        status = os.waitpid(child, 0)[1]
        return {
            "status": -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status),
            "said": said.read_text(),
            "changes": json.loads(changes.read_text()) if changes.exists() else [],
        }


def _work(request: dict, file: Path) -> int:
    from tests.kills import Changes

    os.environ.update(request.get("env", {}))
    watched = None
    if request.get("watch", "None") != "None":
        watched = Changes(Path(request["watch"]), request["fatal"])
    try:
        status = _call(request)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    if watched is not None:
        file.write_text(json.dumps(watched.names))
    return status


def _call(request: dict) -> int:
    if "function" in request:
        module, _, name = request["function"].partition(":")
        getattr(importlib.import_module(module), name)(*request["arguments"])
        return 0
    from bayes_cannon.cli import commands as cli

    sys.argv = ["bayes-cannon", *request["arguments"]]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _import_everything() -> None:
    """What any child may need: seconds once, instead of seconds in every child."""
    import bayes_cannon

    importlib.import_module("h5netcdf.legacyapi")
    importlib.import_module("tests.kills")
    for module in pkgutil.walk_packages(bayes_cannon.__path__, "bayes_cannon."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def main() -> None:
    """Serve requests, one a line, until there are no more."""

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    _import_everything()
    for line in sys.stdin:
        out.write(json.dumps(_serve(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
