"""Requests to bossDB through ``intern``: who asks, how often, and what an answer means.

``intern`` itself has neither time limits nor retries, and one session for all threads. Here each
thread of a small pool has a client of its own, and every request that may succeed later is made
again, with growing pauses, a bounded number of times.
"""

from __future__ import annotations

import configparser
import importlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

from thc_dask import retry
from thc_dask.errors import DataError, FailureError, MissingError, RequestError, ThcError
from thc_dask.retry import Fault

Answer = TypeVar("Answer")

PUBLIC = {"protocol": "https", "host": "api.bossdb.io", "token": "public"}


@dataclass(frozen=True)
class Server:
    """Where to ask, and as whom."""

    protocol: str
    host: str
    token: str = field(repr=False)

    def client(self, patience: Patience) -> Any:
        """Return a new ``BossRemote``, for one thread."""
        remote = import_intern("remote.boss").BossRemote(
            {"protocol": self.protocol, "host": self.host, "token": self.token.replace("%", "%%")}
        )
        for service in (remote.volume_service, remote.project_service):
            limit(service, patience)
        return remote


@dataclass(frozen=True)
class Patience(retry.Patience):
    """How long to wait for an answer, and how often to ask again."""

    first_s: float = 0.5
    longest_s: float = 30.0
    timeout_s: tuple[float, float] = (10.0, 120.0)
    """Longest time to connect, and to wait for bytes."""


def import_intern(part: str) -> Any:
    """Return a module of ``intern``; raise RequestError where that is not installed."""
    try:
        return importlib.import_module(f"intern.{part}")
    except ImportError as error:
        raise RequestError(
            f"bossdb:// addresses need a package that is missing ({error.name}); "
            'pip install "thc_dask[bossdb]"'
        ) from error


def find_server() -> Server:
    """Return what ``~/.intern/intern.cfg`` says, else the environment, else the public server.

    Raises
    ------
    RequestError
        ``intern`` is missing, or its settings cannot be understood.
    """
    boss = import_intern("remote.boss")
    try:
        remote = boss.BossRemote()
    except OSError as error:
        if error.errno is not None:
            raise RequestError(f"settings of intern: {error}; make the file readable") from error
        # No file, and not all of the variables.
        found = {k: os.environ.get(f"INTERN_{k.upper()}") or v for k, v in PUBLIC.items()}
        return Server(**found)
    except (KeyError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise RequestError(
            f"settings of intern (~/.intern/intern.cfg or INTERN_*): {reason}; give protocol, host "
            "and token in a section [Default]"
        ) from error
    volume = remote.volume_service
    return Server(volume.base_protocol, volume.base_url, remote.token_volume)


def limit(service: Any, patience: Patience) -> None:
    """Give the session of a service time limits, and the proxies that hold for its host."""
    options = service.session.merge_environment_settings(service.url_prefix, {}, None, None, None)
    service.session_send_opts = {**options, "timeout": patience.timeout_s}


class Connections:
    """A few threads, each with a client of its own."""

    def __init__(self, server: Server, n: int, patience: Patience) -> None:
        self.pool = ThreadPoolExecutor(n, "bossdb")
        self._server, self._patience = server, patience
        self._mine = threading.local()

    def client(self) -> Any:
        """Return the client of the current thread."""
        if not hasattr(self._mine, "client"):
            self._mine.client = self._server.client(self._patience)
        return self._mine.client


def connections(server: Server, n: int, patience: Patience) -> Connections:
    """Return the connections to a server that all readers of a process share."""
    with _ONE_AT_A_TIME:
        return _connections(server, n, patience, os.getpid())


_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=4)
def _connections(server: Server, n: int, patience: Patience, process: int) -> Connections:
    # A forked child has the cache but not the threads, hence its number.
    return Connections(server, n, patience)


def ask(
    request: Callable[[], Answer], what: str, server: Server, patience: Patience,
    stop: threading.Event | None = None,
) -> Answer:  # fmt: skip
    """Return the answer to a request, made again while there is hope.

    ``what`` begins every error. Once ``stop`` is set no pause is waited out.

    Raises
    ------
    MissingError, RequestError
        There is no such thing, or no permission.
    DataError
        The answer is not what it should be.
    FailureError
        The server cannot be reached, is out of order or throttles for too long.
    """
    return retry.persist(
        request, what, patience,
        judge=lambda error: _judge(error, what, server), give_up=_given_up,
        stop=stop or threading.Event(),
    )  # fmt: skip


def _given_up(what: str, error: Exception, fault: Fault, n_tries: int) -> ThcError:
    """Return the error of a request that was made that often."""
    if fault.n_tries < 2**31:
        return DataError(f"{what}: {fault.reason}; ask those who keep the channel")
    return FailureError(f"{what}: {fault.reason} (tried {retry.times(n_tries)}); try again later")


def _judge(error: Exception, what: str, server: Server) -> Fault:
    """Return what may get better; raise what cannot."""
    import requests

    reason = " ".join(str(error).split())
    if isinstance(error, ThcError):
        raise error
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _judge_status(error.response, what, server)
    if isinstance(error, requests.JSONDecodeError):
        raise odd_answer(what, server) from error
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        raise RequestError(
            f"{what}: {server.protocol}://{server.host} is no address; see ~/.intern/intern.cfg or "
            "INTERN_PROTOCOL and INTERN_HOST"
        ) from error
    if isinstance(error, requests.Timeout):
        return Fault(f"{server.host} does not answer in time")
    if isinstance(error, requests.ConnectionError):
        return Fault(
            f"{server.protocol}://{server.host} cannot be reached; see that the network is there "
            "and ~/.intern/intern.cfg or INTERN_HOST right"
        )
    if isinstance(error, requests.RequestException):
        return Fault(f"the answer of {server.host} was cut off")
    if type(error).__module__.startswith("blosc"):
        return Fault(f"{server.host} sent damaged voxels")
    if isinstance(error, ValueError):
        # A body that is whole but of the wrong size does not become right by asking often.
        return Fault(f"{server.host} sent voxels of another type or number: {reason}", n_tries=2)
    raise error


def odd_answer(what: str, server: Server) -> DataError:
    """Return the error of an answer that is none of bossDB's."""
    return DataError(
        f"{what}: {server.host} does not answer as bossDB does; see that the host in "
        "~/.intern/intern.cfg or INTERN_HOST is right"
    )


def _judge_status(response: Any, what: str, server: Server) -> Fault:
    """Return what an HTTP status other than success means, if it may get better."""
    status, said = response.status_code, message(response)
    if status == 404:
        raise MissingError(f"{what}: not on {server.host}: {said}")
    if status in (401, 403):
        raise RequestError(
            f"{what}: no permission on {server.host}: {said}; give a token that may read it in "
            "~/.intern/intern.cfg or INTERN_TOKEN"
        )
    if status == 429:
        return Fault(f"{server.host} throttles: {said}", wait_s=retry_after(response))
    if status >= 500 or status == 408:
        reason = f"{server.host} is out of order: {status} {said}"
        return Fault(reason, wait_s=retry_after(response))
    raise FailureError(f"{what}: {server.host} refused it: {status} {said}")


def message(response: Any) -> str:
    """Return what the server says of an error, in one short line."""
    try:
        said = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text
    line = " ".join(str(said).split())
    return line if len(line) <= 200 else f"{line[:200]}..."


def retry_after(response: Any) -> float:
    """Return the seconds that a server asks to wait; 0 where it does not say.

    >>> from types import SimpleNamespace
    >>> retry_after(SimpleNamespace(headers={"Retry-After": "7"}))
    7.0
    """
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
