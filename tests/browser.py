"""A headless Chromium that is told what to do over its debugging pipe, without any package."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = ("CI", "BAYES_CANNON_NEED_BROWSER")
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_WAIT = 60.0


def find_browser() -> str | None:
    """Path of the first browser there is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def browser_is_needed() -> bool:
    """Whether tests must fail rather than skip where there is no browser."""
    return any(os.environ.get(name) not in (None, "", "0") for name in NEEDED)


def _high(descriptor: int) -> int:
    """The same file under a number that nothing else is moved to."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20)
    os.close(descriptor)
    return moved


class Browser:
    """One page of a headless browser; ends with the context.

    Attributes
    ----------
    events : list of dict
        What the browser said by itself: requests, messages of the console, errors.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._number, self._buffer, self._session = 0, b"", None
        from_us, self._out = map(_high, os.pipe())
        self._in, from_it = map(_high, os.pipe())
        options = [
            "--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
            "--disable-extensions", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
        ]  # fmt: skip
        if os.geteuid() == 0:
            options.append("--no-sandbox")
        command = [sys.executable, "-c", _LAUNCH, str(from_us), str(from_it), program, *options]
        self._process = subprocess.Popen(
            command, pass_fds=(from_us, from_it), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(from_it)

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, url: str) -> None:
        """Go to an address and wait until everything of it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not self.said("Page.loadEventFired"):
            self.events.append(self._read())

    def said(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of one kind."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def value(self, expression: str) -> Any:
        """Value of an expression of JavaScript in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press a key."""
        code = {"Enter": 13, " ": 32, "Tab": 9}[key]
        more = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def _read(self) -> dict[str, Any]:
        """Next message; an answer that does not come in time is an error."""
        end = time.monotonic() + _WAIT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, f"the browser ended with status {self._process.poll()}"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
