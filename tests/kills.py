"""Killing a process at a chosen change of a folder."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


class Changes:
    """Counts changes of a folder, and kills the process before one of them."""

    def __init__(self, folder: Path, fatal: int) -> None:
        self.folder, self.fatal, self.names = str(folder), fatal, []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if event not in ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir"):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & 3):
            return
        if not isinstance(args[0], str | Path) or not str(args[0]).startswith(self.folder):
            return
        if len(self.names) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        place = args[1 if event in ("os.rename", "os.link") else 0]
        self.names.append(f"{event} {Path(str(place)).name}")


def attempt(work: Callable[[Path], object], folder: Path, fatal: int = -1) -> bool:
    """Work on a folder in a forked process, killed before change `fatal`; whether it ends.

    One that ends leaves the names of its changes for `changes_of`.
    """
    child = os.fork()
    if child == 0:
        changes = Changes(folder, fatal)
        work(folder)
        _names(folder).write_text(json.dumps(changes.names))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert status == 0
    return True


def changes_of(folder: Path) -> list[str]:
    """What an attempt that came to its end has changed."""
    return json.loads(_names(folder).read_text())


def spread(n_changes: int, n_kills: int) -> list[int]:
    """Moments from the first change to the last."""
    return [round(i * (n_changes - 1) / (n_kills - 1)) for i in range(n_kills)]


def _names(folder: Path) -> Path:
    return folder.parent / "changes.json"
