"""An HTTP client with manners: few retries, ever longer pauses, ``Retry-After`` obeyed."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import requests

from bayes_cannon._version import __version__
from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import DownloadError

__all__ = [
    "CHUNK",
    "FetchError",
    "FetchSettings",
    "HttpClient",
    "RetryError",
    "Stopped",
    "header_number",
    "innermost",
]


CHUNK = 1 << 13
"""Bytes that are read at a time; a cut connection loses less than that."""

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSWORD = 401
_MOST_DAMAGED = 2
_MOST_TRIES = 200


class FetchError(DownloadError):
    """Something could not be fetched; `general` tells whether others will fail too.

    Attributes
    ----------
    general : bool
        True if the server, the network or the disk is at fault rather than this one file.
    status : int
        HTTP status, 0 if there was none.
    """

    def __init__(self, message: str, *, general: bool = False, status: int = 0) -> None:
        super().__init__(message)
        self.general = general
        self.status = status


class Stopped(Exception):  # noqa: N818
    """Work was stopped on purpose (`HttpClient.stop`); nothing is wrong with the file."""

    def __init__(self) -> None:
        super().__init__("stopped on purpose")


class RetryError(Exception):
    """An attempt failed in a way that another attempt may mend.

    Attributes
    ----------
    wait : float, optional
        Seconds that the server asks to wait.
    damaged : bool
        The content came whole and was wrong; a second time is the last.
    gain : bool
        The attempt brought part of the file, so that failures are counted anew.
    """

    def __init__(
        self, reason: str, *, wait: float | None = None, damaged: bool = False, gain: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.damaged = damaged
        self.gain = gain


@dataclass(frozen=True)
class FetchSettings:
    """How patiently to fetch.

    Attributes
    ----------
    attempts : int
        Attempts in a row that bring nothing before a file is given up.
    connect_timeout, read_timeout : float
        Seconds to wait for a connection, and for the next bytes.
    backoff, backoff_max : float
        Seconds before the second attempt, doubled with each further one up to the maximum, and
        prolonged by up to half at random so that streams do not come back together.
    wait_max : float
        Longest ``Retry-After`` that is waited for, in seconds.
    max_bytes : int
        Largest spectrum that is accepted.
    sleep : callable, optional
        Called with seconds in place of waiting; for tests.
    """

    attempts: int = 5
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    backoff: float = 1.0
    backoff_max: float = 60.0
    wait_max: float = 600.0
    max_bytes: int = 200_000_000
    sleep: Callable[[float], None] | None = None


def header_number(response: requests.Response, name: str) -> int | None:
    """Value of a header that holds a number of bytes, None where it does not.

    Parameters
    ----------
    response
        Of a server.
    name
        Of the header.
    """
    value = response.headers.get(name, "").strip()
    return int(value) if value.isdecimal() else None


def innermost(error: BaseException) -> str:
    """Innermost reason of a network error, in one line.

    Parameters
    ----------
    error
        With its causes.
    """
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a ``Retry-After`` header asks to wait (a number or an HTTP date)."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())


class HttpClient:
    """An HTTP client that several threads share.

    Proxies and passwords (netrc) come from the environment. Setting `stop` makes every thread
    leave with `Stopped` at its next chunk or pause. When the server says ``Retry-After``, all
    threads wait.

    Parameters
    ----------
    settings : FetchSettings, optional
    """

    def __init__(self, settings: FetchSettings | None = None) -> None:
        self.settings = settings or FetchSettings()
        self.stop = threading.Event()
        self._local = threading.local()
        self._random = random.Random()
        self._not_before = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait, but not past `stop`.

        Parameters
        ----------
        seconds
            How long.

        Raises
        ------
        Stopped
        """
        if self.settings.sleep is not None:
            self.settings.sleep(seconds)
        else:
            self.stop.wait(seconds)
        if self.stop.is_set():
            raise Stopped

    def text(self, url: str, *, params: Mapping[str, str] | None = None, max_bytes: int) -> str:
        """Fetch a text of at most `max_bytes`.

        Parameters
        ----------
        url
            Address.
        params
            Of the query.
        max_bytes
            Largest size.

        Returns
        -------
        str

        Raises
        ------
        FetchError
        """

        def once() -> str:
            content = bytearray()
            with closing(self.open("GET", url, params=params)) as response:
                try:
                    for chunk in response.iter_content(CHUNK):
                        content += chunk
                        if len(content) > max_bytes:
                            raise FetchError(f"the answer is larger than {max_bytes} bytes")
                except requests.RequestException as error:
                    raise RetryError(f"connection cut ({innermost(error)})") from error
            return content.decode("utf-8", "replace")

        return self.retrying(once)

    def size(self, url: str) -> int | None:
        """Size of a file by a HEAD request, None if the server does not say; tried once.

        Parameters
        ----------
        url
            Address.
        """
        try:
            with closing(self.open("HEAD", url)) as response:
                return header_number(response, "Content-Length")
        except (FetchError, RetryError):
            return None

    def open(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request; return the answer, not yet read, if it is one to read from.

        Status 416 (nothing there to go on with) is returned as well.

        Parameters
        ----------
        method
            ``'GET'`` or ``'HEAD'``.
        url
            Address.
        params
            Of the query.
        headers
            Of the request.

        Raises
        ------
        RetryError
            Where another attempt may help.
        FetchError
            Where it would not.
        """
        timeout = (self.settings.connect_timeout, self.settings.read_timeout)
        try:
            response = self._session().request(
                method, url, params=params, headers=headers, timeout=timeout, stream=True,
                allow_redirects=True,
            )  # fmt: skip
        except (
            requests.TooManyRedirects, requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema,
        ) as error:  # fmt: skip
            raise FetchError(f"no valid address: {innermost(error)}", general=True) from error
        except requests.RequestException as error:
            raise RetryError(f"no connection ({innermost(error)})") from error
        status = response.status_code
        if status < 400 or status == 416:
            return response
        response.close()
        reason = f"the server answered {status} {response.reason or ''}".strip()
        if status in _TRANSIENT_STATUS:
            raise RetryError(reason, wait=_retry_after(response.headers))
        if status == _PASSWORD:
            reason = f"{reason}: it asks for a password, which goes into ~/.netrc"
        raise FetchError(reason, status=status, general=status == _PASSWORD)

    def retrying[T](self, once: Callable[[], T]) -> T:
        """Call `once` until it succeeds, waiting longer after each `RetryError`.

        Parameters
        ----------
        once
            Makes one attempt.

        Raises
        ------
        FetchError
            After too many attempts.
        Stopped
        """
        failures = damaged = 0
        reason = ""
        for _ in range(_MOST_TRIES):
            pause = self._not_before - time.monotonic()
            if pause > 0:
                self.sleep(pause)
            if self.stop.is_set():
                raise Stopped
            try:
                return once()
            except RetryError as error:
                reason = str(error)
                damaged += error.damaged
                if damaged >= _MOST_DAMAGED:
                    raise FetchError(f"{reason}, twice") from error
                failures = 1 if error.gain else failures + 1
                if failures >= self.settings.attempts:
                    break
                self._back_off(failures, error)
        raise FetchError(f"{reason}, after {count_text(failures, 'attempt')}", general=True)

    def _back_off(self, failures: int, error: RetryError) -> None:
        """Wait as long as the server asks, or ever longer."""
        if not error.wait:
            longest = self.settings.backoff_max
            seconds = min(longest, self.settings.backoff * 2 ** (failures - 1))
            self.sleep(seconds * self._random.uniform(1.0, 1.5))
        elif error.wait > self.settings.wait_max:
            raise FetchError(
                f"{error}, and asks to wait {error.wait:.0f} s; try again later", general=True
            )
        else:
            self._not_before = max(self._not_before, time.monotonic() + error.wait)

    def _session(self) -> requests.Session:
        """One session a thread."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["User-Agent"] = f"bayes_cannon/{__version__}"
            session.headers["Accept-Encoding"] = "identity"
        return session
