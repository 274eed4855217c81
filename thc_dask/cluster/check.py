"""Start a cluster, see that it can do the work, and measure how fast."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from thc_dask import schedule
from thc_dask.cluster import running
from thc_dask.cluster.expect import Expected, Rates, expect
from thc_dask.cluster.settings import settings_of
from thc_dask.grid import Vox
from thc_dask.store import sight
from thc_dask.store.location import Location, locate
from thc_dask.store.publish import PLAN
from thc_dask.store.root import ROOT
from thc_dask.store.staging import STAGED

SHAPE: Vox = (720, 1420, 5805)  # of Prasad et al. 2020
OBJECT_BYTES = 2**24  # of a shard, compressed
PER_THREAD, MOST = 4, 256  # objects that are written
CODEC_S = 0.4  # for which each thread compresses
TASKS = 500
ALL_S = 60.0  # to wait for all workers once the first is there


@dataclass(frozen=True)
class Checked:
    """What was found."""

    spec: str
    start_s: float
    """Until the first worker was there, in seconds."""
    n_workers: int
    n_hosts: int
    n_threads: int
    task_bytes: int | None
    """What the buffers of a task may hold; None where no limit is set."""
    disagreements: tuple[str, ...]
    """Versions that differ, in words."""
    task_s: float
    """To hand out, run and collect an item that does nothing, in seconds."""
    codec_bytes_per_s: float
    """Voxels halved and compressed, all threads together."""
    store: str | None
    write_bytes_per_s: float | None
    """To the store, all threads together."""
    read_bytes_per_s: float | None
    """From the store, what was just written: it may come out of memory."""
    expected: Expected
    """Of a volume of the shape that was asked for."""


def check(spec: str, store: str | None = None, shape: Vox | None = None) -> Checked:
    """Return what a cluster can do; it is started for that and ended again.

    Parameters
    ----------
    spec
        As ``thc_dask.cluster.running`` takes it.
    store
        Path or URL: workers must see it, and rates are measured there. Nothing stays.
    shape
        Voxels (z, y, x) of the volume to say what to expect of; by default that of the paper.

    Raises
    ------
    RequestError
        There is no such kind or profile, or its settings are wrong.
    FailureError
        It does not start, or its workers do not see the store.

    Examples
    --------
    >>> found = check("threads", shape=(64, 64, 64))
    >>> found.n_workers, found.expected.n_tasks
    (1, 1)
    """
    began_s = time.monotonic()
    settings = settings_of(spec)
    with running(settings) as client:
        start_s = time.monotonic() - began_s
        if client is not None:
            with suppress(TimeoutError):  # what is there by then is what is measured
                client.wait_for_workers(settings.workers or settings.minimum or 1, ALL_S)
        workers = _workers(client)
        n_threads = sum(workers.values())
        location = None if store is None else locate(store)
        rates = _rates(location, n_threads)
        return Checked(
            spec=spec, start_s=start_s, n_workers=len(workers), n_hosts=len({
                address.rpartition(":")[0] for address in workers
            }), n_threads=n_threads, task_bytes=schedule.task_bytes(),
            disagreements=_disagreements(client), task_s=rates.task_s,
            codec_bytes_per_s=rates.codec_bytes_per_s, store=store,
            write_bytes_per_s=rates.write_bytes_per_s, read_bytes_per_s=rates.read_bytes_per_s,
            expected=expect(shape or SHAPE, rates),
        )  # fmt: skip


def _workers(client: Any) -> dict[str, int]:
    """Return the threads of each worker by its address."""
    return {"here:0": schedule.n_threads()} if client is None else dict(client.nthreads())


def _disagreements(client: Any) -> tuple[str, ...]:
    if client is None:
        return ()
    from thc_dask.cluster.versions import disagreements

    return tuple(disagreements(client))


def _rates(location: Location | None, n_threads: int) -> Rates:
    _seconds(_nothing, range(n_threads))  # what is imported first is no rate
    _seconds(_compress, [0.01] * n_threads)
    task_s = _seconds(_nothing, range(TASKS))[0] / TASKS
    seconds, done = _seconds(_compress, [CODEC_S] * n_threads)
    codec = sum(done) / seconds
    if location is None:
        return Rates(codec, task_s)
    location.check_writable()
    fresh = location.get(ROOT) is None and location.get(PLAN) is None
    top = f"{STAGED}/check-{secrets.token_hex(4)}"
    keys = [f"{top}/{i}" for i in range(min(PER_THREAD * n_threads, MOST))]
    try:
        sight.exchange(location)
        write_s, sizes = _seconds(partial(_write, location), keys)
        read_s, _ = _seconds(partial(_read, location), keys)
    finally:
        location.delete("thc" if fresh else top)
        if fresh and "://" not in location.url:
            with suppress(OSError):  # only what is empty goes
                Path(location.url).rmdir()
    return Rates(codec, task_s, sum(sizes) / write_s, sum(sizes) / read_s)


def _seconds(function: Callable[[Any], Any], items: Sequence[Any]) -> tuple[float, list[Any]]:
    """Return how long all items take, in seconds, and what they give."""
    began_s = time.monotonic()
    found = list(schedule.run(function, items, verb="check"))
    return time.monotonic() - began_s, found


# ---- what follows runs on workers ---------------------------------------------------------


def _nothing(item: int) -> int:
    return item


def _compress(seconds: float) -> int:
    """Halve and compress noise as scanners make it for so long; return the bytes of voxels."""
    import numpy as np

    from thc_dask.kernels.mean import mean
    from thc_dask.store.shards import Codec, encode_chunk

    voxels = np.random.default_rng(0).normal(120, 20, (64, 64, 64)).clip(0, 255).astype(np.uint8)
    half, codec, done = np.empty((32, 32, 32), np.uint8), Codec.parse("zstd"), 0
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s or not done:
        encode_chunk(voxels, codec)
        mean(voxels, half)
        done += voxels.nbytes
    return done


def _write(location: Location, key: str) -> int:
    data = secrets.token_bytes(OBJECT_BYTES)
    location.put(key, data)
    return len(data)


def _read(location: Location, key: str) -> int:
    return len(location.get(key) or b"")
