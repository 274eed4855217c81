"""What a conversion of any size needs, from what was measured and from what is assumed.

Everything that is a count (shards, tasks, requests) comes from the planner of the package itself.
The tables of docs/scaling.md are made from this by ``bench_scaling.py tables``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from thc_dask.grid import Grid
from thc_dask.store.layout import Level, make_levels, plan_blocks, waves
from thc_dask.store.write import MOST_COMMITS, WAITING_BYTES

REFERENCE = (720, 1420, 5805)
MEMORY_BYTES = 2**30  # of a task's buffers: what the package takes without --memory
SINK_BYTES = 256**3 + 128**3 + 64**3  # the shards of a column that wait for their PUTs
UNIT = (64, 64, 64)  # what a source in a bucket decodes at a time


@dataclass(frozen=True)
class Rates:
    """What was measured; see bench_scaling.py for how."""

    core_vox_per_s: float
    """Voxels of level 0 that one core converts a second, all levels included."""
    stored_bytes_per_vox: float
    """Bytes in the store, all levels, for a voxel of level 0."""
    scheduler_s: float
    """Of the scheduler, for a task, with a thousand workers that come and ask all the time."""
    client_s: float
    """Of the client, for a task."""
    column_bytes: float
    """That the client holds for each column of shards until the store is published."""
    box_bytes: float
    """That the client holds for each task of the plan."""
    clear_s: float
    """To remove the receipt of a column when the store is published."""
    requests_to_resume: float = 4.0
    """For each column: its receipt, and the size of each of its three shards."""


@dataclass(frozen=True)
class Assumed:
    """What no measurement on one machine can tell; put your own in."""

    latency_s: float = 0.15
    """Of a request to object storage far away: Amazon names 0.1 to 0.2 s for small objects."""
    core_network_bytes_per_s: float = 1.5e8
    """A core's share of its machine's network: 10 Gbit/s for eight cores."""
    puts_per_s: float = 3500.0
    """That Amazon promises for each prefix at first; it grows with use."""
    core_hour_usd: float = 0.04
    put_usd: float = 5e-6
    gb_month_usd: float = 0.023
    spread: float = 0.3
    """Of task times, as standard deviation over mean: machines that others use too."""


ASSUMED = Assumed()


@dataclass(frozen=True)
class Work:
    """What a volume comes to, decided from its shape alone."""

    n_vox: float
    shape: tuple[int, int, int]
    n_levels: int
    n_shards: int
    """Of all levels."""
    n_columns: tuple[int, ...]
    """Of each wave: shards over the same microns, one receipt each."""
    n_tasks: tuple[int, ...]
    """Of each wave: rows of columns, each read once."""
    n_puts: int
    """Shards and receipts."""


@dataclass(frozen=True)
class Forecast:
    """What it takes on some workers."""

    work: Work
    n_workers: int
    compute_s: float
    """If nothing but the cores limited it."""
    network_s: float
    """If nothing but the workers' network did: voxels in, shards out."""
    puts_s: float
    """If nothing but the store's requests did."""
    scheduler_s: float
    client_s: float
    tail_s: float
    """Workers that wait for the last tasks of each wave."""
    client_bytes: float
    """Plan and receipts."""

    @property
    def limit(self) -> str:
        """What limits it most."""
        return max(self._limits, key=lambda name: self._limits[name])

    @property
    def _limits(self) -> dict[str, float]:
        return {
            "cores": self.compute_s,
            "network": self.network_s,
            "requests": self.puts_s,
            "scheduler": self.scheduler_s,
            "client": self.client_s,
        }

    @property
    def seconds(self) -> float:
        """Of the whole run: the slowest of all that overlap, and what does not overlap."""
        return max(self._limits.values()) + self.tail_s

    @property
    def core_hours(self) -> float:
        return self.seconds * self.n_workers / 3600

    def usd(self, assumed: Assumed = ASSUMED) -> float:
        """Return the price of the run; keeping the store comes to it every month."""
        return self.core_hours * assumed.core_hour_usd + self.work.n_puts * assumed.put_usd


def shape_of(n_vox: float) -> tuple[int, int, int]:
    """Return the reference volume, grown or shrunk to ``n_vox`` voxels."""
    scale = (n_vox / math.prod(REFERENCE)) ** (1 / 3)
    z, y, x = (max(1, round(n * scale)) for n in REFERENCE)
    return z, y, x


def columns_of_task(level: Level) -> int:
    """Return how many columns a task makes, as the planner has it for a chunked source."""
    # A block is a row of shards: how many rows there are does not matter to it.
    z, y, x = level.grid.shape
    row = Grid((min(z, level.shard[0]), min(y, 2 * level.shard[1]), x), (1.0, 1.0, 1.0))
    plan = plan_blocks(replace(level, grid=row), UNIT, 1, MEMORY_BYTES, sink_bytes=SINK_BYTES)
    sides = zip(plan.boxes[0].shape, level.shard, strict=True)
    return math.prod(-(-n // s) for n, s in sides)


@cache
def work_of(n_vox: float) -> Work:
    """Return what a volume of ``n_vox`` voxels comes to."""
    shape = shape_of(n_vox)
    levels = make_levels(Grid(shape, (1.0, 1.0, 1.0)))
    columns, tasks, puts = [], [], 0
    for wave in waves(levels):
        n_z, n_y, n_x = (-(-n // s) for n, s in zip(wave[0].grid.shape, wave[0].shard, strict=True))
        columns.append(n_z * n_y * n_x)
        tasks.append(n_z * n_y * -(-n_x // columns_of_task(wave[0])))
        puts += columns[-1] * (len(wave) + 1)
    n_shards = sum(level.n_shards for level in levels)
    return Work(n_vox, shape, len(levels), n_shards, tuple(columns), tuple(tasks), puts)


def task_s(rates: Rates, assumed: Assumed, n_vox: float) -> float:
    """Return the seconds of a task of ``n_vox`` voxels: the slower of core and network."""
    compute = n_vox / rates.core_vox_per_s
    network = n_vox * (1 + rates.stored_bytes_per_vox) / assumed.core_network_bytes_per_s
    return max(compute, network) + assumed.latency_s  # its last PUT is waited for


def forecast(n_vox: float, n_workers: int, rates: Rates, assumed: Assumed = ASSUMED) -> Forecast:
    """Return what a conversion needs on ``n_workers`` workers of one core, bucket to bucket."""
    work = work_of(n_vox)
    levels = sum(1 / 64**i for i in range(len(work.n_tasks)))  # later waves read what is left
    n_tasks = sum(work.n_tasks)
    tail = sum(
        _tail_s(n, task_s(rates, assumed, math.prod(work.shape) / 64**i / n), n_workers, assumed)
        for i, n in enumerate(work.n_tasks)
    )
    read_and_written = n_vox * (1 + rates.stored_bytes_per_vox) * levels
    latency = n_tasks * assumed.latency_s / n_workers
    return Forecast(
        work=work,
        n_workers=n_workers,
        compute_s=n_vox * levels / rates.core_vox_per_s / n_workers + latency,
        network_s=read_and_written / assumed.core_network_bytes_per_s / n_workers + latency,
        puts_s=max(
            work.n_puts / assumed.puts_per_s,
            work.n_puts * assumed.latency_s / (n_workers * puts_at_a_time()),
        ),
        scheduler_s=n_tasks * rates.scheduler_s,
        client_s=n_tasks * rates.client_s,
        tail_s=tail,
        client_bytes=sum(work.n_columns) * rates.column_bytes + n_tasks * rates.box_bytes,
    )


def puts_at_a_time() -> int:
    """Return how many PUTs a task has on their way."""
    return min(MOST_COMMITS, max(1, WAITING_BYTES // SINK_BYTES))


def _tail_s(n_tasks: int, seconds: float, n_workers: int, assumed: Assumed) -> float:
    """Return what a wave takes beyond an even share of its work: workers without any wait."""
    rounds = n_tasks / n_workers
    idle = math.ceil(rounds) - rounds if rounds < 4 else 0.5
    return seconds * (idle + assumed.spread * min(2.0, math.log(max(2, min(n_tasks, n_workers)))))


def publish_s(work: Work, rates: Rates, assumed: Assumed = ASSUMED) -> float:
    """Return what removing all receipts takes, a thousand by one request."""
    n = sum(work.n_columns)
    return max(n * rates.clear_s, n / 1000 * assumed.latency_s)


def resume_s(work: Work, rates: Rates, assumed: Assumed = ASSUMED, at_a_time: int = 1) -> float:
    """Return what ``--resume`` takes to see what is there, one request after the other."""
    return sum(work.n_columns) * rates.requests_to_resume * assumed.latency_s / at_a_time


def smallest(reached: Any, decades: range = range(9, 16)) -> float:
    """Return the smallest number of voxels, to a tenth of a decade, for which ``reached`` holds."""
    for tenth in range(10 * decades.start, 10 * (decades.stop - 1) + 1):
        if reached(10 ** (tenth / 10)):
            return 10 ** (tenth / 10)
    return math.inf


def decades() -> Iterator[float]:
    for exponent in range(9, 16):
        yield 10.0**exponent
