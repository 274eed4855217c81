"""The tables of docs/scaling.md: what was measured and what follows from it."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from scaling_events import Cluster, Wave, simulate
from scaling_model import (
    ASSUMED,
    Rates,
    decades,
    forecast,
    publish_s,
    resume_s,
    smallest,
    task_s,
    work_of,
)

from thc_dask.store.target import LOOKS

WORKERS = (1, 10, 100, 1000)
HOUR = 3600.0


def blocks(found: dict[str, Any]) -> dict[str, str]:
    """Return each table as lines of markdown, by the name of its place."""
    rates = rates_of(found)
    return {
        "tasks": tasks(found),
        "rates": rates_table(rates),
        "simulation": simulation(found, rates),
        "sizes": sizes(rates),
        "hours": hours(rates),
        "agreement": agreement(rates),
        "what if": what_if(rates),
        "breaks": breaks(rates),
        "side by side": side_by_side(found),
    }


def rates_of(found: dict[str, Any]) -> Rates:
    """Return the measured rates of a file of results."""
    names = [field.name for field in fields(Rates)]
    return Rates(**{name: found["rates"][name] for name in names if name in found["rates"]})


PLANS = (
    # gigabytes, workers, where
    (6, 1, "a laptop: threads"),
    (6, 8, "Compose or one node"),
    (600, 32, "`sizes/600gb`, or `sbatch --ntasks=32`"),
    (60_000, 256, "`sizes/60tb`, or profile `nodes`"),
)


def plans(rates: Rates) -> dict[str, str]:
    """Return the table of deploy/README.md: which size needs what."""
    rows = []
    for gigabytes, n, where in PLANS:
        n_vox = gigabytes * 1e9
        made, work = forecast(n_vox, n, rates), work_of(n_vox)
        if n == 1:  # from disk to disk, on two cores
            rows.append(
                ["6 GB", where, "2 cores", lasts(n_vox / rates.core_vox_per_s / 2), "cores", "",
                 whole(sum(work.n_tasks)), size(made.client_bytes)]
            )  # fmt: skip
            continue
        rows.append(
            [
                f"{gigabytes} GB" if gigabytes < 1000 else f"{gigabytes // 1000} TB", where,
                f"{n} workers of 1 core, 4 GiB", lasts(made.seconds), made.limit,
                f"{made.usd():.2f}", whole(sum(work.n_tasks)), size(made.client_bytes),
            ]
        )  # fmt: skip
    head = ["data", "where", "with", "takes", "limited by", "USD", "tasks", "client's memory"]
    return {"sizes of clusters": table(head, rows)}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def power(n: float) -> str:
    return f"10^{len(f'{n:.0f}') - 1}"


def whole(n: float) -> str:
    """Return a count with its thousands apart; large ones rounded."""
    return f"{n:,.0f}" if n < 1e7 else f"{n / 1e6:,.0f} million"


def count_of(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n > 1)}"


def lasts(seconds: float) -> str:
    """Return a time in the unit that fits it."""
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def size(n: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n / 1e3:.3g} kB"


def tasks(found: dict[str, Any]) -> str:
    """Return what a task costs that does nothing."""
    names = {
        "thc": "as conversions do it",
        "map": "plain `Client.map`, all at once",
        "submit": "one `submit` each",
    }
    rows = [
        ["threads of one process", whole(one["n"]), f"{one['ms_per_task']:.3f}", "", ""]
        for one in found["threads"]
    ]
    rows += [
        [f"2 worker processes, {names[one['way']]}", whole(one["n"]), *_costs(one)]
        for one in found["processes"]
    ]
    rows += [
        [f"{count_of(one['n_workers'], 'fake worker')}", whole(one["n"]), *_costs(one)]
        for one in [*found["workers"], *found["many"]]
    ]
    [one] = found["saturated"]
    rows.append(
        [
            f"{whole(one['n_workers'])} fake workers, tasks of {one['task_s']} s",
            whole(one["n"]),
            *_costs(one),
        ]
    )
    return table(["where", "tasks", "ms a task", "scheduler's CPU, ms", "client's CPU, ms"], rows)


def _costs(one: dict[str, Any]) -> list[str]:
    keys = ("ms_per_task", "scheduler_cpu_ms", "client_cpu_ms")
    return [f"{one[key]:.2f}" for key in keys]


def rates_table(rates: Rates) -> str:
    """Return the numbers that the model takes from measurements, and those that it assumes."""
    a = ASSUMED
    rows = [
        [
            "one core converts",
            f"{rates.core_vox_per_s / 1e6:.0f} million voxels a second",
            "measured",
        ],
        [
            "bytes in the store for a voxel, all levels",
            f"{rates.stored_bytes_per_vox:.2f}",
            "measured",
        ],
        ["scheduler, a task", f"{1000 * rates.scheduler_s:.2f} ms", "measured"],
        ["client, a task", f"{1000 * rates.client_s:.2f} ms", "measured"],
        ["client's memory, a column", f"{rates.column_bytes / 1000:.2f} kB", "measured"],
        ["client's memory, a task of the plan", f"{rates.box_bytes / 1000:.2f} kB", "measured"],
        ["removing a receipt at the end", f"{1000 * rates.clear_s:.2f} ms", "measured"],
        ["a request to the store, far away", f"{1000 * a.latency_s:.0f} ms", "assumed"],
        ["requests that the store takes", f"{a.puts_per_s:.0f} a second", "assumed"],
        ["network of a core", f"{a.core_network_bytes_per_s / 1e6:.0f} MB/s", "assumed"],
        ["task times: deviation over mean", f"{a.spread}", "assumed"],
        ["an hour of a core", f"{a.core_hour_usd} USD", "assumed"],
        ["a thousand PUTs", f"{1000 * a.put_usd} USD", "assumed"],
        ["a GB in the store for a month", f"{a.gb_month_usd} USD", "assumed"],
    ]
    return table(["what", "number", ""], rows)


def simulation(found: dict[str, Any], rates: Rates) -> str:
    """Return real runs of the scheduler beside simulated ones, and simulated conversions."""
    rows = []
    for one in [*found["saturated"], *found["checks"]]:
        cluster = Cluster(one["n_workers"], rates.scheduler_s, rates.client_s)
        made = simulate(cluster, [Wave(one["n"], one["task_s"], one["spread"])])
        difference = made.seconds / one["wall_s"] - 1
        rows.append(
            [
                whole(one["n_workers"]), whole(one["n"]), f"{one['task_s']} s",
                f"{one['wall_s']:.1f} s", f"{made.seconds:.1f} s", f"{100 * difference:+.0f} %",
            ]
        )  # fmt: skip
    return table(["workers", "tasks", "a task", "real scheduler", "simulated", "difference"], rows)


def sizes(rates: Rates) -> str:
    """Return what volumes come to."""
    rows = []
    for n_vox in decades():
        work = work_of(n_vox)
        held = forecast(n_vox, 1, rates).client_bytes
        rows.append(
            [
                power(n_vox), " x ".join(f"{n:,}" for n in work.shape), str(len(work.n_tasks)),
                whole(work.n_shards), whole(sum(work.n_tasks)), whole(work.n_puts), size(held),
                size(n_vox * rates.stored_bytes_per_vox),
            ]
        )  # fmt: skip
    head = [
        "voxels",
        "z, y, x",
        "waves",
        "shards",
        "tasks",
        "PUTs",
        "client's memory",
        "in the store",
    ]
    return table(head, rows)


def hours(rates: Rates) -> str:
    """Return how long it takes, what limits it, and what it costs, from bucket to bucket."""
    rows = []
    for n_vox in decades():
        made = {n: forecast(n_vox, n, rates) for n in WORKERS}
        cells = [f"{lasts(one.seconds)}, {one.limit}" for one in made.values()]
        month = n_vox * rates.stored_bytes_per_vox / 1e9 * ASSUMED.gb_month_usd
        price = [f"{made[100].usd():,.2f}", f"{month:,.2f}"]
        rows.append([power(n_vox), *cells, *price])
    head = ["voxels", *(count_of(n, "worker") for n in WORKERS)]
    return table([*head, "USD, by 100 workers", "USD a month"], rows)


def simulated_conversion(n_vox: float, n_workers: int, rates: Rates) -> float:
    """Return the seconds of a conversion, event by event."""
    work = work_of(n_vox)
    waves = []
    for i, n_tasks in enumerate(work.n_tasks):
        seconds = task_s(rates, ASSUMED, n_vox / 64**i / n_tasks)
        n_puts = round(work.n_puts / len(work.n_columns[:1]) / work.n_tasks[0]) if i == 0 else 1
        waves.append(Wave(n_tasks, seconds, ASSUMED.spread, n_puts))
    cluster = Cluster(n_workers, rates.scheduler_s, rates.client_s, ASSUMED.puts_per_s)
    return simulate(cluster, waves).seconds


def agreement(rates: Rates) -> str:
    """Return model and simulation side by side at each size of cluster."""
    rows = []
    for n_vox in (1e10, 1e11, 1e12, 1e13):
        row = [power(n_vox)]
        for n in WORKERS:
            made = forecast(n_vox, n, rates).seconds
            row.append(f"{lasts(made)} / {lasts(simulated_conversion(n_vox, n, rates))}")
        rows.append(row)
    return table(["voxels", *(count_of(n, "worker") for n in WORKERS)], rows)


def what_if(rates: Rates) -> str:
    """Return 10^14 voxels simulated with more workers, in slabs, with workers that go."""
    work, endless = work_of(1e14), math.inf
    n_tasks = work.n_tasks[0]
    seconds = task_s(rates, ASSUMED, 1e14 / n_tasks)
    n_puts = round(work.n_puts / n_tasks)
    cases = [
        # workers, slabs, requests a task, those the store takes a second, mean life of a worker
        ("1,000 workers", 1000, 1, n_puts, ASSUMED.puts_per_s, endless),
        ("the same with shards of 512 a side", 1000, 1, n_puts // 8, ASSUMED.puts_per_s, endless),
        ("the same, a store without limit", 1000, 1, 0, endless, endless),
        ("workers live an hour, another comes after a minute", 1000, 1, 0, endless, HOUR),
        ("10,000 workers", 10_000, 1, 0, endless, endless),
        ("10,000 workers, ten slabs", 10_000, 10, 0, endless, endless),
    ]
    rows = []
    for name, n, slabs, puts, puts_per_s, life_s in cases:
        cluster = Cluster(n // slabs, rates.scheduler_s, rates.client_s, puts_per_s, life_s)
        made = simulate(cluster, [Wave(-(-n_tasks // slabs), seconds, ASSUMED.spread, puts)])
        rows.append(
            [name, lasts(made.seconds), f"{100 * made.busy:.0f} %",
             f"{100 * made.scheduler_busy:.0f} %", whole(slabs * made.most_in_flight),
             whole(slabs * made.n_again)]
        )  # fmt: skip
    head = ["first wave of 10^14 voxels", "takes", "workers busy", "scheduler busy"]
    return table([*head, "tasks that exist, at most", "begun again"], rows)


def breaks(rates: Rates) -> str:
    """Return what breaks, the smallest volume or cluster first, and what is done there."""

    def memory(n_vox: float) -> float:
        return forecast(n_vox, 1, rates).client_bytes

    rows = [
        ["cores wait for their network", count_of(int(workers_until("network", rates)), "worker"),
         "nothing to do but machines with more network for each core: see the table above"],
        ["the store's requests limit a conversion",
         f"{workers_until('requests', rates)} workers",
         "the service makes partitions as it is used: begin with fewer workers; or "
         "`--shard 512,512,512`, an eighth of the requests"],
        ["`--resume` looks at receipts for an hour",
         volume(lambda n: resume_s(work_of(n), rates, at_a_time=LOOKS) > HOUR),
         f"{LOOKS} requests at a time; beyond it: list the shards with their sizes, a "
         "thousand by one request"],
        ["publishing clears receipts for an hour",
         volume(lambda n: publish_s(work_of(n), rates) > HOUR),
         "remove them side by side; or leave them to a rule of the bucket"],
        ["the scheduler limits a conversion", f"{workers_until('scheduler', rates)} workers",
         "longer tasks (`--memory 4GiB`: four times the columns); then a scheduler for each slab"],
        ["the client holds 16 GB", volume(lambda n: memory(n) > 16e9),
         "slabs, each with a client of its own; a task that is a wave of tasks sends back the sum "
         "of its receipts, which stay in the store"],
        ["a wave has a million tasks", volume(lambda n: max(work_of(n).n_tasks) >= 1e6),
         "holds: a bounded number exists at a time"],
    ]  # fmt: skip
    return table(["what", "from", "what we do"], rows)


def volume(reached: Any) -> str:
    """Return from how many voxels on something holds."""
    n = smallest(reached)
    return "beyond 10^15" if n > 1e15 else f"{n:.1e} voxels".replace("e+", " x 10^")


def workers_until(what: str, rates: Rates, n_vox: float = 1e14) -> str:
    """Return from how many workers on something limits a conversion of 10^14 voxels."""
    for tenth in range(61):
        n = round(10 ** (tenth / 10))
        made = forecast(n_vox, n, rates, replace(ASSUMED, puts_per_s=math.inf)) if (
            what == "scheduler"
        ) else forecast(n_vox, n, rates)  # fmt: skip
        if made.limit == what:
            return whole(float(f"{n:.2g}"))
    return "more than a million"


def side_by_side(found: dict[str, Any]) -> str:
    """Return the three comparisons that must hold."""
    names = ("two_workers", "gigavoxel", "stores", "apart")
    two, giga, stores, apart = (found[name][0] for name in names)
    w, g, s, a = two["wall_s"], giga["wall_s"], stores["wall_s"], apart["wall_s"]
    p = two["work_s"]
    server = found["puts"][0]
    best = max(server[f"shard_{n}"]["gb_per_s"] for n in (1, 4, 16))
    alone = stores["written_bytes"] / 1e9 / best
    rows = [
        ["two workers against one, what they do", f"{p['workers1']:.2f} s, {p['workers2']:.2f} s",
         f"{p['workers1'] / p['workers2']:.2f} times", "1.8 times"],
        ["two workers against one, the whole command",
         f"{w['workers1']:.2f} s, {w['workers2']:.2f} s",
         f"{w['workers1'] / w['workers2']:.2f} times", ""],
        ["two workers against threads", f"{g['workers2']:.2f} s, {g['threads']:.2f} s",
         f"{100 * (g['workers2'] / g['threads'] - 1):+.0f} %", "+15 %"],
        ["S3 on loopback against a disk, the server on a core of its own",
         f"{a['s3']:.2f} s, {a['disk']:.2f} s",
         f"{a['s3'] / a['disk']:.2f} times", "1.5 times"],
        ["the same, both on both cores, four times as fast", f"{s['s3']:.2f} s, {s['disk']:.2f} s",
         f"{s['s3'] / s['disk']:.2f} times", "the server is the limit"],
        ["the server alone takes the same bytes", f"{alone:.2f} s, at {best:.2f} GB/s",
         f"{alone / s['disk']:.2f} times", ""],
    ]  # fmt: skip
    return table(["what", "seconds", "ratio", "wanted"], rows)
