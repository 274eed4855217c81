"""How much of a slow network's latency a conversion from bossDB waits for.

    python benchmarks/bench_bossdb.py [--latency-ms 5] [--shape 256,1024,2048] [--runs 3]

A server that speaks the protocol (``tests/boss_server.py``) runs on loopback in a process of its
own and waits so long before each answer. ``thc convert bossdb://...`` runs with and without that
wait, turn about. Beside it: the very cutouts the conversion asked for, fetched by bare HTTP over
as many connections and thrown away, and what they take one after the other.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from contenders import SIZES, thc
from make_input import NOISE_ON_SYNTHETIC, image_slice, parse_shape, texture_of
from measure import machine, remove, run_process

SHAPE = (256, 1024, 2048)
CHANNEL = "bench/volume/image"
N_CONNECTIONS = 8  # as many as the package opens


def volume(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Return the voxels that the server holds."""
    base = texture_of(None, shape[1:], seed)
    return np.stack(
        [image_slice(base, z, shape[1:], seed, NOISE_ON_SYNTHETIC) for z in range(shape[0])]
    )


def serve(shape: tuple[int, int, int]) -> None:
    """Answer until standard input ends; each line of it is a new latency in seconds.

    Prints the host, then after each line the paths of the cutouts since the last one.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from boss_server import BossServer

    with BossServer() as server:
        server.add(CHANNEL, volume(shape), spacing=(1.17,) * 3)
        print(json.dumps({"host": server.host}), flush=True)
        for line in sys.stdin:
            asked = [request.path for request in server.cutouts]
            server.requests.clear()
            server.latency_s = float(line)
            print(json.dumps(asked), flush=True)


class Served:
    """The server's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.host = str(self._answer()["host"])

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def latency(self, seconds: float) -> list[str]:
        """Set the latency; return the paths of the cutouts since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return list(self._answer())


@contextmanager
def serving(shape: tuple[int, int, int]) -> Iterator[Served]:
    """Start the server in a process of its own, and end it."""
    line = [sys.executable, __file__, "--serve", "--shape", ",".join(map(str, shape))]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Served(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def fetch(host: str, paths: list[str], n_connections: int) -> float:
    """Return the seconds to fetch the paths over some connections and throw the bytes away."""

    def some(first: int) -> None:
        connection = http.client.HTTPConnection(host)
        headers = {"Authorization": "Token public", "Accept": "application/blosc"}
        for path in paths[first::n_connections]:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(n_connections) as pool:
        list(pool.map(some, range(n_connections)))
    return time.perf_counter() - start


def check(store: Path, shape: tuple[int, int, int]) -> bool:
    """Return whether level 0 holds the server's voxels, in three planes."""
    array = zarr.open_array(str(store / "0" / "image"), mode="r")
    base = texture_of(None, shape[1:], 0)
    return all(
        np.array_equal(array[z], image_slice(base, z, shape[1:], 0, NOISE_ON_SYNTHETIC))
        for z in (0, shape[0] // 2, shape[0] - 1)
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return what conversions and bare fetching take, with and without latency."""
    store = args.work / "bossdb.ome.zarr"
    line = thc("convert", f"bossdb://{CHANNEL}", str(store), *SIZES)
    waits = {"none": 0.0, "latency": args.latency_ms / 1000}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in waits}
    bare: dict[str, list[float]] = {name: [] for name in waits}
    with serving(args.shape) as server:
        setting = {"INTERN_PROTOCOL": "http", "INTERN_HOST": server.host, "INTERN_TOKEN": "public"}
        right, paths = False, []
        for i in range(args.runs + 1):
            for name in list(waits)[:: -1 if i % 2 else 1]:
                server.latency(waits[name])
                remove(store)
                run = run_process(line, store, setting)
                paths = server.latency(waits[name])
                seconds = fetch(server.host, paths, N_CONNECTIONS)
                if i == 0:  # pays for fresh memory
                    right = check(store, args.shape)
                else:
                    runs[name].append(run.as_dict())
                    bare[name].append(seconds)
        server.latency(waits["latency"])
        one_by_one = fetch(server.host, paths, 1)
    remove(store)
    wall = {name: statistics.median(run["wall_s"] for run in found) for name, found in runs.items()}
    sum_of_waits = len(paths) * waits["latency"]
    return {
        "shape": list(args.shape),
        "latency_ms": args.latency_ms,
        "n_cutouts": len(paths),
        "wall_s": wall["latency"],
        "wall_s_without_latency": wall["none"],
        "slower_by": wall["latency"] / wall["none"],
        "sum_of_waits_s": sum_of_waits,
        "hidden": 1 - (wall["latency"] - wall["none"]) / sum_of_waits if sum_of_waits else None,
        "bare_s": statistics.median(bare["latency"]),
        "bare_s_without_latency": statistics.median(bare["none"]),
        "bare_one_by_one_s": one_by_one,
        "agrees": right,
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--latency-ms", type=float, default=5.0)
    parser.add_argument("--shape", type=parse_shape, default=SHAPE, help="z,y,x voxels")
    parser.add_argument("--runs", type=int, default=3, help="runs to keep; one more is dropped")
    parser.add_argument("--work", type=Path, default=Path("/tmp/thc-bench"))
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.shape)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    found = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **measure(args)}
    print(json.dumps(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
