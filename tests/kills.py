"""Killing a process at a chosen change of a folder."""

import os
import signal
import sys
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
