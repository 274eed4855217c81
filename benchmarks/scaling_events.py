"""A conversion on a cluster, event by event: workers, scheduler, client and object store.

Costs a second for a hundred thousand tasks, so that a thousand workers can be looked at on paper.
What it is fed was measured: ``bench_scaling.py``. What it leaves out: the network between workers
(tasks do not talk to one another) and the time workers take to start.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from thc_dask.dispatch import in_flight

AT_HAND = 2  # tasks a worker is given at a time: one runs, one waits


@dataclass(frozen=True)
class Wave:
    """Tasks that may run side by side; the next wave begins when all have ended."""

    n_tasks: int
    seconds: float
    """Mean time of a task on a worker."""
    spread: float = 0.0
    """Its coefficient of variation."""
    n_puts: int = 0
    """Requests to the store, of a task."""


@dataclass(frozen=True)
class Cluster:
    """Where it runs."""

    n_workers: int
    scheduler_s: float
    """What a task needs of the scheduler, which does one thing at a time."""
    client_s: float
    """What a task needs of the client, which does one thing at a time."""
    puts_per_s: float = math.inf
    """What the store takes."""
    mean_life_s: float = math.inf
    """How long a worker lives, on average; its task is done again by another."""
    restart_s: float = 60.0
    """Until another is there in its place."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    seconds: float
    busy: float
    """Share of the workers' time that went into tasks that ended."""
    scheduler_busy: float
    """Share of the time in which the scheduler had something to do."""
    client_busy: float
    """The same of the client."""
    n_again: int
    """Tasks that were begun again, since their worker was gone."""
    most_in_flight: int
    """Tasks that existed at a time, at most."""


class _Serial:
    """Something that does one thing after the other."""

    def __init__(self) -> None:
        self.free_s = self.used_s = 0.0

    def serve(self, now: float, cost: float) -> float:
        """Return when something that comes ``now`` has been done."""
        self.free_s = max(self.free_s, now) + cost
        self.used_s += cost
        return self.free_s


class _Run:
    """One wave, from its first task to its last."""

    def __init__(self, cluster: Cluster, wave: Wave, now: float, parts: Sequence[_Serial]) -> None:
        self.cluster, self.wave, self.now = cluster, wave, now
        self.scheduler, self.client, self.store = parts
        self.random = random.Random(wave.n_tasks)
        self.events: list[tuple[float, int, str, int]] = []
        self.n_events = 0
        self.left, self.in_flight, self.most_in_flight, self.n_again = wave.n_tasks, 0, 0, 0
        self.waiting = 0
        self.busy_s = 0.0
        self.running = [False] * cluster.n_workers
        self.queued = [0] * cluster.n_workers
        self.given = [0] * cluster.n_workers
        # Workers by how many tasks they have been given; those with fewer come first.
        self.open: list[deque[int]] = [deque(range(cluster.n_workers))]
        self.open += [deque() for _ in range(1, AT_HAND)]
        self.per_s, self.n_ended, self.looked_s = 0.0, 0, now
        self.variance = math.log(1 + wave.spread**2)

    def at(self, when: float, what: str, number: int = 0) -> None:
        self.n_events += 1
        heapq.heappush(self.events, (when, self.n_events, what, number))

    def end(self) -> float:
        """Run until all has ended and return when that was."""
        self.refill()
        while self.events:
            self.now, _, what, number = heapq.heappop(self.events)
            getattr(self, what)(number)
        return self.now

    def refill(self) -> None:
        wanted = in_flight(self.cluster.n_workers, self.per_s)
        n = min(wanted - self.in_flight, self.left)
        if n < min(max(1, wanted // 3), self.left) or not n:
            return
        self.left -= n
        self.in_flight += n
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.at(self.now, "arrive", n)

    def arrive(self, n: int) -> None:
        self.waiting += n
        self.hand_out()

    def hand_out(self) -> None:
        while self.waiting:
            fewest = next((i for i, some in enumerate(self.open) if some), None)
            if fewest is None:
                return
            worker = self.open[fewest].popleft()
            self.given[worker] += 1
            if self.given[worker] < AT_HAND:
                self.open[self.given[worker]].append(worker)
            self.waiting -= 1
            self.at(
                self.scheduler.serve(self.now, self.cluster.scheduler_s / 2), "given_to", worker
            )

    def given_to(self, worker: int) -> None:
        self.queued[worker] += 1
        if not self.running[worker]:
            self.begin(worker)

    def begin(self, worker: int) -> None:
        self.queued[worker] -= 1
        self.running[worker] = True
        seconds = self.wave.seconds
        if self.variance:
            seconds *= math.exp(self.random.gauss(-self.variance / 2, math.sqrt(self.variance)))
        lives_s = self.cluster.mean_life_s
        if lives_s < math.inf and self.random.expovariate(1 / lives_s) < seconds:
            self.n_again += 1
            lost_s = seconds * self.random.random()
            self.at(self.now + lost_s + self.cluster.restart_s, "back", worker)
            return
        self.busy_s += seconds
        ends_s = self.now + seconds
        if self.wave.n_puts:
            ends_s = max(
                ends_s, self.store.serve(self.now, self.wave.n_puts / self.cluster.puts_per_s)
            )
        self.at(ends_s, "done", worker)

    def back(self, worker: int) -> None:
        """Another worker is there in the place of one that was lost, and does what that had."""
        self.queued[worker] += 1
        self.begin(worker)

    def done(self, worker: int) -> None:
        self.running[worker] = False
        if self.queued[worker]:
            self.begin(worker)
        self.at(self.scheduler.serve(self.now, self.cluster.scheduler_s / 2), "ended", worker)

    def ended(self, worker: int) -> None:
        if self.given[worker] < AT_HAND:
            self.open[self.given[worker]].remove(worker)
        self.given[worker] -= 1
        self.open[self.given[worker]].append(worker)
        self.hand_out()
        self.at(self.client.serve(self.now, self.cluster.client_s), "collected")

    def collected(self, _: int) -> None:
        self.in_flight -= 1
        self.n_ended += 1
        if self.now - self.looked_s >= 1:
            self.per_s = self.n_ended / (self.now - self.looked_s)
            self.n_ended, self.looked_s = 0, self.now
        self.refill()


def simulate(cluster: Cluster, waves: Sequence[Wave]) -> Outcome:
    """Return what becomes of waves of tasks; the same every time."""
    parts = [_Serial(), _Serial(), _Serial()]
    now = busy_s = 0.0
    n_again = most = 0
    for wave in waves:
        run = _Run(cluster, wave, now, parts)
        now = run.end()
        busy_s += run.busy_s
        n_again += run.n_again
        most = max(most, run.most_in_flight)
    return Outcome(
        seconds=now,
        busy=busy_s / (now * cluster.n_workers) if now else 1.0,
        scheduler_busy=parts[0].used_s / now if now else 0.0,
        client_busy=parts[1].used_s / now if now else 0.0,
        n_again=n_again,
        most_in_flight=most,
    )
