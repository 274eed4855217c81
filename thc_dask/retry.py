"""What may get better is tried again: a bounded number of times, with growing, uneven pauses.

Disks, network mounts and servers fail for a moment and are well again. Every such failure is logged
as a warning; the error that ends it says how often it was tried.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from thc_dask.errors import FailureError, ReadError, ThcError, number_of

Answer = TypeVar("Answer")

log = logging.getLogger("thc_dask")

# Of a failing disk or cable, and of network file systems whose server is away or was started anew.
# Not: no room, no permission, no such file. To try those again would only take time.
PASSING = frozenset({
    errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE,
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNABORTED, errno.ECONNRESET,
    errno.ECONNREFUSED, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENOBUFS, errno.EPIPE, errno.EPROTO, *(
        getattr(errno, name) for name in ("EREMOTEIO", "ENOLINK", "ECOMM") if hasattr(errno, name)
    ),
})  # fmt: skip


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and how long to wait in between."""

    n_tries: int = 6
    """Tries before it is given up."""
    first_s: float = 0.25
    """Pause after the first try, in seconds; it doubles each time."""
    longest_s: float = 8.0
    """Longest pause that is chosen here; the other side may ask for more."""
    deadline_s: float = 600.0
    """Longest time for all tries and pauses together."""
    pause: Callable[[threading.Event, float], Any] = threading.Event.wait
    """Waits that long, or until the event is set."""

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after that many tries; never the same for two who wait."""
        return float(
            min(self.longest_s, self.first_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
        )


FILES = Patience()  # of the system's files: less than ten seconds


@dataclass(frozen=True)
class Fault:
    """A failure that may be gone at the next try."""

    reason: str
    """What went wrong, in words."""
    wait_s: float = 0.0
    """What the other side asked to wait, in seconds."""
    n_tries: int = 2**31
    """Tries after which there is no hope."""


class StoppedError(FailureError):
    """Something was not tried again because it is not wanted any more."""


def passing(error: BaseException) -> Fault | None:
    """Return the fault if an error of the system, or one made of it, may pass; else None.

    >>> passing(OSError(errno.EIO, "Input/output error")), passing(OSError(errno.ENOSPC, "full"))
    (Fault(reason='Input/output error', wait_s=0.0, n_tries=2147483648), None)
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    # Whoever raised it has tried often enough.
    if any(hasattr(e, "n_tries") for e in chain):
        return None
    for e in chain:
        if isinstance(e, ConnectionError | TimeoutError) or (
            isinstance(e, OSError) and number_of(e) in PASSING
        ):
            return Fault(_words(error))
    return None


def _words(error: BaseException) -> str:
    if isinstance(error, ThcError) or not isinstance(error, OSError):
        return " ".join(str(error).split()) or type(error).__name__
    where = f": {error.filename}" if error.filename else ""
    text = str(error.strerror or error) or type(error).__name__
    return " ".join(f"{text}{where}".split())


def tired(what: str, error: Exception, fault: Fault, n_tries: int) -> Exception:
    """Return the error that ends it all: of the same kind if that is ours, else a ReadError.

    >>> tired("a.tif", OSError(errno.EIO, "Input/output error"), Fault("Input/output error"), 6)
    ReadError('cannot read a.tif: Input/output error (tried 6 times); see that it can be reached')
    """
    if isinstance(error, ThcError):
        return type(error)(f"{error} (tried {times(n_tries)})")
    return ReadError(
        f"cannot read {what}: {fault.reason} (tried {times(n_tries)}); see that it can be reached"
    )


def times(n: int) -> str:
    """Return how often, in words.

    >>> times(1), times(6)
    ('once', '6 times')
    """
    return "once" if n == 1 else f"{n} times"


@dataclass
class Attempts:
    """Tries of one thing: counts them, waits after each that failed, and knows when to end."""

    what: str
    """Begins every warning, and stands in the last error."""
    patience: Patience
    judge: Callable[[Exception], Fault | None] = passing
    """Returns the fault if it may pass; None, or an error of its own, where it will not."""
    give_up: Callable[[str, Exception, Fault, int], Exception] = tired
    """Makes the last error of ``what``, the last failure, its fault and the number of tries."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Once set, no pause is waited out and nothing is tried again."""
    n_failed: int = 0
    """Tries that failed, since the last success."""
    begun_s: float = field(default_factory=time.monotonic)
    """When the first try began, on the clock of ``time.monotonic``."""

    def succeeded(self) -> None:
        """Begin to count anew: what goes on bit by bit has all its tries for every bit."""
        self.n_failed, self.begun_s = 0, time.monotonic()

    def failed(self, error: Exception) -> None:
        """Wait until it is time to try again; raise where there is no hope.

        Raises
        ------
        StoppedError
            It is not wanted any more.
        """
        fault = self.judge(error)
        if fault is None:
            raise error
        self.n_failed += 1
        patience, left_s = self.patience, self.begun_s + self.patience.deadline_s - time.monotonic()
        n_tries = min(patience.n_tries, fault.n_tries)
        if self.n_failed >= n_tries:
            self._end(error, fault)
        wait_s = max(fault.wait_s, patience.delay(self.n_failed))
        if wait_s > left_s:
            self._end(error, Fault(f"{fault.reason}, and to wait {wait_s:.0f} s more is too long"))
        what = "" if self.what in fault.reason else f"{self.what}: "
        log.warning(
            "%s%s; trying again in %.1f s (%d of %d)",
            what, fault.reason, wait_s, self.n_failed + 1, n_tries,
        )  # fmt: skip
        patience.pause(self.stop, wait_s)
        if self.stop.is_set():
            raise StoppedError(f"{self.what}: given up, because another request failed")

    def _end(self, error: Exception, fault: Fault) -> NoReturn:
        end = self.give_up(self.what, error, fault, self.n_failed)
        end.n_tries = self.n_failed  # type: ignore[attr-defined]
        raise end from error


def persist(
    action: Callable[[], Answer], what: str, patience: Patience | None = None, **more: Any
) -> Answer:
    """Return ``action()``, tried again while there is hope; it must be harmless to repeat.

    ``more`` are fields of ``Attempts``; ``patience`` is that of files where none is given.

    Examples
    --------
    >>> answers = iter([OSError(errno.EIO, "Input/output error"), 7])
    >>> def read():
    ...     answer = next(answers)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> persist(read, "a.tif", Patience(first_s=0.001))
    7
    """
    begun_s = time.monotonic()
    try:  # nothing is made ready for what succeeds at once: chunks are read like this
        return action()
    except Exception as error:
        attempts = Attempts(what, patience or FILES, **more, begun_s=begun_s)
        attempts.failed(error)
    while True:
        try:
            return action()
        except Exception as error:
            attempts.failed(error)
