"""Run a function over many items on whatever scheduler is current, a few at a time.

The items are never all in flight: a graph of a million shards does not exist anywhere.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from concurrent.futures import ThreadPoolExecutor as ThreadPool
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from thc_dask import dispatch
from thc_dask.errors import FailureError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT_PER_WORKER = 3  # one runs, one waits, one travels


def n_threads() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def current_client() -> Any | None:
    """Return the ``distributed.Client`` that is current, None where there is none."""
    # Nobody can have made one without importing the package; importing it costs half a second.
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    try:
        return Client.current()  # also one that only `with client.as_current()` names
    except ValueError:
        return None


def is_local() -> bool:
    """Whether work runs in threads of this process."""
    return current_client() is None and _configured() in (None, "threads", "threading")


def task_bytes() -> int | None:
    """Return what the buffers of a task may hold on the current cluster, in bytes.

    None where no cluster is current, or its workers have no limit.
    """
    client = current_client()
    return None if client is None else dispatch.task_bytes(client)


def room(asked_bytes: int) -> int:
    """Return what to plan a task for: what was asked for, or less where workers have less."""
    return min(asked_bytes, task_bytes() or asked_bytes)


def _configured() -> str | None:
    if "dask" not in sys.modules:
        return None
    import dask

    name = dask.config.get("scheduler", None)
    return name if isinstance(name, str) else None


def run(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    what: Callable[[Item], str] = repr,
    memory_bytes: int = 0,
    verb: str = "task",
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in the order in which they finish.

    Uses the current ``distributed.Client``; else what ``dask.config`` names as scheduler
    (``threads``, ``processes``, ``synchronous``); else threads. The first error is raised and
    what has not begun is given up. ``what`` names an item, ``memory_bytes`` is what it was planned
    to hold: errors of a cluster say so. ``verb`` names tasks on its dashboard.
    """
    client = current_client()
    if client is not None:
        yield from dispatch.run(
            client, function, items, what=what, memory_bytes=memory_bytes, verb=verb
        )
        return
    name = _configured()
    if name in ("synchronous", "sync", "single-threaded"):
        yield from map(function, items)
        return
    if name not in ("processes", "multiprocessing"):
        with ThreadPool(n_threads()) as pool:
            yield from _on_pool(pool, function, items, n_threads() * IN_FLIGHT_PER_WORKER)
        return
    try:
        yield from _on_pool(_processes(), function, items, n_threads() * IN_FLIGHT_PER_WORKER)
    except BrokenExecutor as error:
        _processes.cache_clear()
        raise FailureError(
            "a worker process was ended from outside, perhaps because memory was short; see that "
            "there is enough, then run it again"
        ) from error
    except KeyboardInterrupt:  # ends the processes too
        _processes.cache_clear()
        raise


@cache
def _processes() -> Executor:
    """Return worker processes that stay: to start them costs more than most waves."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # A forked child would inherit locks that other threads hold.
    pool = ProcessPoolExecutor(n_threads(), multiprocessing.get_context("spawn"))
    # Before the executor's own: one that is killed while it takes its leave may hold the lock that
    # the others wait for, and then nobody would ever leave.
    threading._register_atexit(_end, weakref.ref(pool))  # type: ignore[attr-defined]
    return pool


def _end(pool: weakref.ref[ProcessPoolExecutor]) -> None:
    """End worker processes that have nothing to do."""
    found = pool()
    if found is None or found._pending_work_items:
        return
    for process in list((found._processes or {}).values()):
        process.kill()


def _on_pool(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], in_flight: int
) -> Iterator[Result]:
    source = iter(items)
    pending: set[Future[Result]] = {pool.submit(function, i) for i in islice(source, in_flight)}
    try:
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(function, i) for i in islice(source, len(done))}
            for future in done:
                yield future.result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)  # nobody writes on while the caller cleans up
