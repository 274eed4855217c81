"""Conversions side by side: threads, one worker process and two, a disk and object storage.

Every way converts the same slices to the same bytes. Each runs once unmeasured, then in turn.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from make_input import parse_shape
from measure import remove
from scaling_store import served
from scaling_tasks import cpu_s, real_workers, scheduler_process

HERE = Path(__file__).parent
SIZES = {"chunk": (64, 64, 64), "shard": (256, 256, 256), "levels": 5, "spacing": "1.17um"}


def slices(work: Path, shape: tuple[int, int, int]) -> Path:
    """Return a folder of slices of that shape; made once."""
    facts = work / "input.json"
    if not facts.exists() or json.loads(facts.read_text())["shape"] != list(shape):
        line = [sys.executable, str(HERE / "make_input.py"), str(work)]
        subprocess.run(
            [*line, "--shape", ",".join(map(str, shape))], check=True, stdout=subprocess.DEVNULL
        )
    return work / "input"


@contextmanager
def workers(n: int, own_core: bool = False) -> Iterator[Any]:
    """Yield a client of ``n`` worker processes, each perhaps with a core of its own."""
    from distributed import Client

    with (
        scheduler_process() as (address, _),
        real_workers(address, n, own_core),
        Client(address, set_as_default=False) as client,
    ):
        client.wait_for_workers(n, timeout=60)
        yield client


Seconds = tuple[float, float]
"""Of a whole conversion, and of the part that workers do: from the first voxel to the last."""


def convert_once(source: Path | str, store: str, **more: Any) -> Seconds:
    """Return the seconds of one conversion, in this process."""
    from thc_dask import convert

    reports: list[float] = []

    def watch(done: int, total: int) -> None:
        reports.append(time.perf_counter())

    start = time.perf_counter()
    convert(source, store, **SIZES | more, overwrite=True, progress=watch)
    return time.perf_counter() - start, reports[-1] - reports[0]


def alternate(ways: dict[str, Callable[[], Seconds]], runs: int) -> dict[str, list[Seconds]]:
    """Return the seconds of each way, run in turn; the first round is thrown away."""
    found: dict[str, list[Seconds]] = {name: [] for name in ways}
    for i in range(runs + 1):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            seconds = ways[name]()
            if i:
                found[name].append(seconds)
    return found


def executors(
    source: Path | str, folder: Path, names: list[str], runs: int, own_core: bool = False,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the seconds of threads and of worker processes, all started before."""
    store = str(folder / "speed.ome.zarr")

    def way(name: str, client: Any) -> Callable[[], Seconds]:
        def run() -> Seconds:
            with client.as_current() if client else nullcontext():
                return convert_once(source, store, **more)

        return run

    with ExitStack() as started:
        ways = {}
        for name in names:
            client = None
            if name != "threads":
                client = started.enter_context(workers(int(name.removeprefix("workers")), own_core))
            ways[name] = way(name, client)
        found = alternate(ways, runs)
    remove(Path(store))
    return summary(found)


def synchronous(source: Path | str, folder: Path, runs: int) -> dict[str, Any]:
    """Return the CPU seconds of a conversion in one thread, task after task."""
    import dask

    used = []
    store = str(folder / "speed.ome.zarr")
    with dask.config.set(scheduler="synchronous"):
        for i in range(runs + 1):
            before = cpu_s()
            convert_once(source, store)
            if i:
                used.append(cpu_s() - before)
    remove(Path(store))
    return {"cpu_s": statistics.median(used), "runs": used}


def stores(source: Path | str, folder: Path, runs: int, apart: bool) -> dict[str, Any]:
    """Return the seconds to a folder and to object storage, in threads.

    ``apart`` gives the conversion one core and the server another.
    """
    store = str(folder / "speed.ome.zarr")
    first, *others = sorted(os.sched_getaffinity(0))
    with ExitStack() as started:
        if apart:
            os.sched_setaffinity(0, set(others))
        started.enter_context(served())
        if apart:
            os.sched_setaffinity(0, {first})
        there = "s3://bucket/speed.ome.zarr"
        more: dict[str, Any] = {"spacing": None} if apart else {}
        found = alternate(
            {
                "disk": lambda: convert_once(source, store, **more),
                "s3": lambda: convert_once(source, there, **more),
            },
            runs,
        )
    from measure import tree_size

    n_files, n_bytes = tree_size(Path(store))
    remove(Path(store))
    return {**summary(found), "written_bytes": n_bytes, "n_files": n_files}


def summary(found: dict[str, list[Seconds]]) -> dict[str, Any]:
    def median(part: int) -> dict[str, float]:
        return {name: statistics.median(run[part] for run in runs) for name, runs in found.items()}

    return {"wall_s": median(0), "work_s": median(1), "runs": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["workers", "threads", "stores", "apart", "core"])
    parser.add_argument("--shape", type=parse_shape, default=(256, 512, 1024), help="z,y,x voxels")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--input", type=Path, default=Path("/tmp/thc-bench-scaling"))
    parser.add_argument("--output", type=Path, default=Path("/tmp/thc-bench-scaling/out"))
    args = parser.parse_args()
    z, y, x = args.shape
    source: Path | str = f"phantom:{z},{y},{x}"
    if args.what not in ("workers", "apart"):
        source = slices(args.input, args.shape)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.what == "workers":
        # What is made is computed, so that cores limit it, in as many tasks as there are columns.
        more = {"spacing": None, "memory_bytes": 2**25}
        names = ["workers1", "workers2"]
        found = executors(source, args.output, names, args.runs, own_core=True, **more)
    elif args.what == "threads":
        found = executors(source, args.output, ["threads", "workers2"], args.runs)
    elif args.what == "core":
        found = synchronous(source, args.output, args.runs)
    else:
        found = stores(source, args.output, args.runs, args.what == "apart")
    print(json.dumps({"shape": list(args.shape), **found}))


if __name__ == "__main__":
    main()
