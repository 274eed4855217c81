"""What a task costs that does nothing: in threads, on worker processes, on a thousand fake workers.

Prints one line of JSON: milliseconds a task in all, and what scheduler and client need of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def receipt(item: int) -> dict[str, Any]:
    """Return what a column of shards leaves: three shards, where they are, what is in them."""
    place = [item % 97, item % 89, item]
    key = "/".join(map(str, place))
    shards = [
        {
            "key": f"{k}/image/c/{key}",
            "n_bytes": 12_345_678 >> 3 * k,
            "crc32c": 4_000_000_000 - item,
        }
        for k in range(3)
    ]
    return {"place": place, "shards": shards}


def cpu_s(pid: int | None = None) -> float:
    """Return the CPU seconds that a process has used: this one, or one by its number."""
    if pid is None:
        return time.process_time()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int | None = None) -> int:
    """Return the memory that a process holds now: this one, or one by its number."""
    file = Path(f"/proc/{pid or 'self'}/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_threads(n: int) -> dict[str, Any]:
    """Return what ``n`` tasks cost in threads, and what keeping their receipts holds."""
    import gc

    from thc_dask import schedule

    list(schedule.run(receipt, range(1000)))
    gc.collect()
    before, start = resident_bytes(), time.perf_counter()
    kept = list(schedule.run(receipt, range(n)))
    seconds = time.perf_counter() - start
    gc.collect()
    held = resident_bytes() - before
    assert len(kept) == n
    # Beside what results hold, the run itself: nothing is to be kept of tasks that have ended.
    kept.clear()
    gc.collect()
    before = resident_bytes()
    for _ in schedule.run(receipt, range(n)):
        pass
    gc.collect()
    return {
        "n": n,
        "ms_per_task": 1000 * seconds / n,
        "kept_bytes_per_task": held / n,
        "run_bytes_per_task": max(0, resident_bytes() - before) / n,
    }


def by_submit(client: Any, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield results, one submission each, three in flight a worker: the plain way."""
    from itertools import islice

    from distributed import as_completed

    source, wide = iter(items), 3 * max(1, sum(client.nthreads().values()))

    def submit(n: int) -> list[Any]:
        return [client.submit(function, item, pure=False) for item in islice(source, n)]

    running = as_completed(submit(wide))
    for future in running:
        result = future.result()
        future.release()
        running.update(submit(1))
        yield result


def by_map(client: Any, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield results of all items, sent at once: nothing bounds what is in flight."""
    yield from client.gather(client.map(function, list(items), pure=False))


def by_thc(client: Any, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield results as conversions do it."""
    from thc_dask import schedule

    yield from schedule.run(function, items)


WAYS = {"submit": by_submit, "map": by_map, "thc": by_thc}


def end(process: subprocess.Popen[Any]) -> None:
    """End a process, if need be at once: nothing of it is wanted."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """Return an environment in which the package and this module are found as they are here."""
    import thc_dask

    places = [HERE, Path(thc_dask.__file__).parents[1]]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        # Not from where this is started: that may hold another version of the package.
        "PYTHONSAFEPATH": "1",
        "DASK_CONFIG": str(HERE.parent / "deploy" / "dask.yaml"),
    }


@contextmanager
def scheduler_process() -> Iterator[tuple[str, int]]:
    """Start a scheduler; yield its address and the number of its process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        line = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
        line += ["--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-dashboard"]
        line += ["--scheduler-file", str(file)]
        with subprocess.Popen(line, stderr=subprocess.DEVNULL, env=environment()) as process:
            try:
                while not file.exists() or not file.read_text().strip():
                    if process.poll() is not None:
                        raise RuntimeError(f"the scheduler has ended with {process.returncode}")
                    time.sleep(0.02)
                yield json.loads(file.read_text())["address"], process.pid
            finally:
                end(process)


@contextmanager
def fake_workers(address: str, n: int, seconds: float, spread: float) -> Iterator[int]:
    """Start ``n`` workers in one process; yield its number."""
    line = [sys.executable, str(HERE / "fake_workers.py"), address, "--n", str(n)]
    line += ["--seconds", str(seconds), "--spread", str(spread)]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            end(process)


@contextmanager
def cluster(kind: str, n: int, seconds: float, spread: float) -> Iterator[tuple[Any, int, int]]:
    """Yield a client of ``n`` workers, fake or real, the scheduler's process and the workers'."""
    from distributed import Client

    with scheduler_process() as (address, pid):
        if kind == "fake":
            workers = fake_workers(address, n, seconds, spread)
        else:
            workers = real_workers(address, n)
        with workers as worker_pid, Client(address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=120)
            yield client, pid, worker_pid


@contextmanager
def real_workers(address: str, n: int, own_core: bool = False) -> Iterator[int]:
    """Start ``n`` worker processes of one thread each; each may have a core of its own.

    Without, what writes for the one worker takes the other core, and two have less to gain.
    """
    line = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--host", "127.0.0.1"]
    line += ["--nworkers", "1", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    line += ["--dashboard-address", "127.0.0.1:0", "--memory-limit", "0"]
    with tempfile.TemporaryDirectory() as folder:
        line += ["--local-directory", folder]
        quiet = {"stderr": subprocess.DEVNULL, "env": environment()}
        started = [subprocess.Popen(line, **quiet) for _ in range(n)]
        if own_core:
            cores = sorted(os.sched_getaffinity(0))
            for i, process in enumerate(started):
                os.sched_setaffinity(process.pid, {cores[i % len(cores)]})
        try:
            yield started[0].pid
        finally:
            for process in started:
                end(process)


def on_cluster(
    kind: str, way: str, n_workers: int, n: int, seconds: float = 0.0, spread: float = 0.0
) -> dict[str, Any]:
    """Return what ``n`` tasks cost on a cluster."""
    # Workers must find the function by name, as they find those of the package.
    from scaling_tasks import receipt

    run = WAYS[way]
    with (
        cluster(kind, n_workers, seconds, spread) as (client, scheduler, workers),
        client.as_current(),
    ):
        for _ in run(client, receipt, range(min(n, 4 * n_workers))):
            pass  # connections are made, code is loaded
        cpu = [cpu_s(scheduler), cpu_s(workers), cpu_s()]
        memory = [resident_bytes(scheduler), resident_bytes()]
        start = time.perf_counter()
        found = sum(1 for _ in run(client, receipt, range(n)))
        wall = time.perf_counter() - start
        used = [cpu_s(scheduler) - cpu[0], cpu_s(workers) - cpu[1], cpu_s() - cpu[2]]
        grown = [resident_bytes(scheduler) - memory[0], resident_bytes() - memory[1]]
    assert found == n
    return {
        "workers": kind,
        "way": way,
        "n_workers": n_workers,
        "n": n,
        "task_s": seconds,
        "spread": spread,
        "wall_s": wall,
        "ms_per_task": 1000 * wall / n,
        "scheduler_cpu_ms": 1000 * used[0] / n,
        "workers_cpu_ms": 1000 * used[1] / n,
        "client_cpu_ms": 1000 * used[2] / n,
        "scheduler_grew_bytes": grown[0],
        "client_grew_bytes": grown[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=["threads", "fake", "real"])
    parser.add_argument("--way", choices=sorted(WAYS), default="thc")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="a task takes on fake workers")
    parser.add_argument("--spread", type=float, default=0.0, help="its coefficient of variation")
    args = parser.parse_args()
    if args.kind == "threads":
        print(json.dumps(in_threads(args.n)))
    else:
        found = on_cluster(args.kind, args.way, args.workers, args.n, args.seconds, args.spread)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
