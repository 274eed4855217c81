"""Run a function over many items on a Dask cluster, a bounded number of them at a time.

A graph of a million items never exists: as many are in flight as keep every worker busy while the
next are on their way. Few messages carry many items, so that an item costs the scheduler little.
Workers may come, go and be killed; what they had begun is done again by others.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count, islice
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

from thc_dask.errors import FailureError

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger("thc_dask")

PER_THREAD = 3  # in flight at least: one runs, one waits, one travels
MOST_PER_THREAD = 256
AHEAD_S = 0.5  # in flight for as long as this, where items are short
LOOK_S = 1.0  # how often to see which workers there are
FIRST_LOOK_S = 0.1  # then twice as long: how short items are is soon known
PATIENCE_S = 30.0  # without any worker before that is said; then twice as long

PAUSED = 0.8  # of its memory a worker may hold; then it begins nothing more
PROCESS_BYTES = 200 * 2**20  # what a worker holds that does nothing
LEAST_BYTES = 2**24


def run(
    client: Any,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    what: Callable[[Item], str] = repr,
    memory_bytes: int = 0,
    verb: str = "task",
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for every item, in the order in which they finish.

    Before an error leaves, what has not begun is given up and what runs has ended, so that nobody
    writes on while the caller cleans up.

    Parameters
    ----------
    client
        A ``distributed.Client``; its workers need this package and what ``function`` is made of.
    function
        Is sent to each worker once for each task, as bytes, and made of them once a process.
    items
        Taken as they are needed, never all at a time.
    what
        Names an item in errors.
    memory_bytes
        What an item was planned to hold, in bytes, for errors; 0 where nobody knows.
    verb
        Name of the tasks on Dask's dashboard.

    Raises
    ------
    FailureError
        The scheduler was lost; or an item ended every worker that tried it, or found no memory.

    Examples
    --------
    >>> from distributed import Client
    >>> with Client(processes=False, dashboard_address="127.0.0.1:0") as client:
    ...     sorted(run(client, abs, range(-3, 1)))
    [0, 1, 2, 3]
    """
    job = _Job(client, function, iter(items), what, memory_bytes, verb)
    try:
        while job.goes_on():
            yield from job.results(job.ended())
    except BaseException:
        job.end()
        raise


def task_bytes(client: Any) -> int | None:
    """Return what the buffers of a task may hold: a thread's share of the smallest worker.

    In bytes; None where there is no worker, or no limit.
    """
    shares = [
        (PAUSED * limit - PROCESS_BYTES) / n
        for limit, n in client.run_on_scheduler(_limits)
        if limit
    ]
    return max(LEAST_BYTES, int(min(shares))) if shares else None


def _limits(dask_scheduler: Any) -> list[tuple[int, int]]:
    return [(ws.memory_limit, ws.nthreads) for ws in dask_scheduler.workers.values()]


class _Job:
    """What is in flight of one run."""

    def __init__(
        self, client: Any, function: Callable[[Any], Any], source: Iterator[Any],
        what: Callable[[Any], str], memory_bytes: int, verb: str,
    ) -> None:  # fmt: skip
        from distributed.protocol.pickle import dumps

        self._client, self._source, self._dumps = client, source, dumps
        self._what, self._memory_bytes = what, memory_bytes
        self._token = uuid4().hex
        self._group = f"{verb}-{self._token}"
        self._numbers, self._parts = count(), count()
        self._task = _Task(self._token, dumps(function))
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pace = _Pace(client)
        self._pending: dict[Any, tuple[Any, Any]] = {}
        """Futures by key, each with its item."""
        self._accused: list[Any] = []
        """Items that were on workers when these ended, too often."""
        self._alone = False
        """Whether one of these is all that is in flight."""

    def goes_on(self) -> bool:
        """Send the next items, if there is room for more than a few; whether any are in flight."""
        self._alone = self._alone and bool(self._pending)
        if self._accused or self._alone:
            # Whatever waits on a worker is accused with what runs there: alone it shows who it was.
            if not self._pending:
                self._alone = True
                self._send([self._accused.pop()])
            return True
        wanted = self._pace.wanted()
        room = wanted - len(self._pending)
        if room >= max(1, wanted // PER_THREAD):
            self._send(list(islice(self._source, room)))
        return bool(self._pending)

    def _send(self, items: list[Any]) -> None:
        if not items:
            return
        keys = self._keys(len(items))
        with self._reached():
            futures = self._client.map(
                self._task, [self._dumps(item) for item in items], key=keys, pure=False
            )
        for future, item in zip(futures, items, strict=True):
            self._pending[future.key] = future, item
            future.add_done_callback(self._done.put)

    def _keys(self, n: int) -> list[tuple[str, int]]:
        """Return names for ``n`` items.

        Of a group of tasks that is larger than twice its threads the scheduler gives a worker one
        more than it runs, and the next when it hears that one has ended: items that are shorter
        than a message would wait for it. Those of small groups go out at once.
        """
        size = self._pace.group() or n
        groups = [self._group if size == n else f"{self._group}-{next(self._parts)}"
                  for _ in range(0, n, size)]  # fmt: skip
        return [(groups[i // size], next(self._numbers)) for i in range(n)]

    def ended(self) -> list[Any]:
        """Wait for some to end, and return the futures of all that have."""
        while True:
            with suppress(queue.Empty):
                found = [self._done.get(timeout=LOOK_S)]
                break
            self._pace.look()
            self.goes_on()  # for workers that have come meanwhile
        with suppress(queue.Empty):
            while True:
                found.append(self._done.get_nowait())
        return found

    def results(self, ended: list[Any]) -> list[Any]:
        """Return what those that ended well have found, and let go of it on the cluster."""
        sound = [future for future in ended if not self._failed(future)]
        try:
            with self._reached():
                found: list[Any] = self._client.gather(sound)
        except Exception:
            # A result that was lost with its worker is made again, and that may fail.
            left = [future for future in sound if not self._failed(future)]
            if len(left) == len(sound):
                raise
            return self.results(left)
        for future in sound:
            del self._pending[future.key]
        self._pace.count(len(sound))
        return found

    def end(self) -> None:
        """Give up what has not begun and wait for what runs."""
        with suppress(Exception):  # what ended the run is the news
            self._client.cancel([future for future, _ in self._pending.values()], force=True)
            wait_s = 0.02
            while self._client.status == "running" and sum(
                self._client.run(_stop, self._token, on_error="ignore").values()
            ):
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LOOK_S)

    def _failed(self, future: Any) -> bool:
        """Whether an item ended its workers; raise what else it may have ended with."""
        if future.status not in ("error", "cancelled"):
            return False
        from distributed import KilledWorker

        item = self._pending[future.key][1]
        try:
            future.result()
        except KilledWorker as error:
            if self._alone:
                raise self._killed(item, error) from error
            log.warning(
                "%s: %d workers ended while they had it; trying it alone",
                self._what(item), error.allowed_failures + 1,
            )  # fmt: skip
            del self._pending[future.key]
            self._accused.append(item)
        except MemoryError as error:
            raise FailureError(
                f"{self._what(item)}: a worker had no memory left for it{self._planned()}; give "
                "workers more of it or fewer threads"
            ) from error
        except CancelledError as error:
            self._lost(error)
        return True

    def _killed(self, item: Any, error: Any) -> FailureError:
        from dask.utils import format_bytes

        worker, n = error.last_worker, error.allowed_failures + 1
        limit = ""
        if worker.memory_limit:
            limit = f", which might hold {format_bytes(worker.memory_limit)}"
        return FailureError(
            f"{self._what(item)}: {'a worker' if n == 1 else f'{n} workers'} ended while working "
            f"on nothing else{self._planned()}, the last at {worker.address}{limit}; if memory was "
            "short give workers more of it, else see their logs"
        )

    def _planned(self) -> str:
        if not self._memory_bytes:
            return ""
        from dask.utils import format_bytes

        return f" (it was planned to hold {format_bytes(self._memory_bytes)})"

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what a message to a lost scheduler comes to into one error."""
        try:
            yield
        except (OSError, CancelledError) as error:
            self._lost(error)
        except Exception as error:
            if self._client.status == "running":
                raise
            self._lost(error)

    def _lost(self, error: Exception) -> NoReturn:
        scheduler = self._client.scheduler
        raise FailureError(
            f"the scheduler at {scheduler.address if scheduler else 'some address'} was lost, and "
            "with it what it knew of the work; see that it runs, then run it again"
        ) from error


class _Pace:
    """How many items are to be in flight: by what workers there are, and how short items are."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._n_threads = 0
        self._n_ended, self._looked_s = 0, time.monotonic()
        self._look_s = FIRST_LOOK_S
        self._alone_s = self._looked_s
        self._patience_s = PATIENCE_S
        self._per_s = 0.0
        self.look()

    def count(self, n: int) -> None:
        """Take note that ``n`` items have ended."""
        self._n_ended += n
        if time.monotonic() - self._looked_s >= self._look_s:
            self._look_s = min(2 * self._look_s, LOOK_S)
            self.look()

    def look(self) -> None:
        """See which workers there are, and how fast items have ended since the last look."""
        with suppress(OSError, CancelledError):  # what waits for it hears of a lost scheduler
            self._n_threads = sum(self._client.nthreads().values())
        now = time.monotonic()
        self._per_s = self._n_ended / max(now - self._looked_s, 1e-3)
        self._n_ended, self._looked_s = 0, now
        if self._n_threads:
            self._alone_s, self._patience_s = now, PATIENCE_S
        elif now - self._alone_s >= self._patience_s:
            self._patience_s *= 2
            log.warning("no worker has been there for %.0f s; waiting for one", now - self._alone_s)

    def wanted(self) -> int:
        """Return how many items are to be in flight."""
        return in_flight(self._n_threads, self._per_s)

    def group(self) -> int:
        """Return how many items are to be a group of tasks; 0 where that does not matter."""
        n = 2 * max(1, self._n_threads)
        return n if self.wanted() > PER_THREAD * n else 0


def in_flight(n_threads: int, items_per_s: float) -> int:
    """Return how many items keep workers busy: a few a thread, more where items are short.

    >>> in_flight(4, 2.0), in_flight(4, 100.0), in_flight(4, 5000.0), in_flight(0, 0.0)
    (12, 50, 1024, 3)
    """
    n = max(1, n_threads)
    return min(max(PER_THREAD * n, round(items_per_s * AHEAD_S)), MOST_PER_THREAD * n)


# ---- what follows runs on workers ---------------------------------------------------------

_lock = threading.Lock()
_running: Counter[str] = Counter()
_stopped: deque[str] = deque(maxlen=1000)


class _Task:
    """The function of a run, as bytes: a worker makes it of them once, not for every item."""

    def __init__(self, token: str, function: bytes) -> None:
        self._token, self._function = token, function

    def __call__(self, item: bytes) -> Any:
        from distributed.protocol.pickle import loads

        with _lock:
            if self._token in _stopped:
                return None  # nobody wants it any more
            _running[self._token] += 1
        try:
            return _made(self._token, self._function)(loads(item))
        finally:
            with _lock:
                _running[self._token] -= 1
                if not _running[self._token]:
                    del _running[self._token]


@lru_cache(maxsize=8)
def _made(token: str, function: bytes) -> Callable[[Any], Any]:
    # By run: what a function remembers of a store must not outlive the run it was made for.
    from distributed.protocol.pickle import loads

    made: Callable[[Any], Any] = loads(function)
    return made


def _stop(token: str) -> int:
    """Begin no more of a run here; return how much of it still runs."""
    with _lock:
        if token not in _stopped:
            _stopped.append(token)
        return _running[token]
