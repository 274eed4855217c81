"""Many workers in one process, that say they work: what a real scheduler takes for a cluster.

They speak the protocol of ``distributed``'s workers over TCP, hold every task for as long as it is
said to take, and answer with a result of a given size. What is measured beside them, scheduler and
client, is the real thing.

Usage: python benchmarks/fake_workers.py SCHEDULER --n 1000 --seconds 0.5 --spread 0.3
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pickle
import random
import time
from collections import deque
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import connect, listen
from distributed.protocol import to_serialize
from distributed.versions import get_versions

TYPE = pickle.dumps(dict)
METRICS: dict[str, Any] = {
    "task_counts": {}, "bandwidth": {"total": 10**8, "workers": {}, "types": {}},
    "digests_total_since_heartbeat": {}, "managed_bytes": 0,
    "spilled_bytes": {"memory": 0, "disk": 0},
    "transfer": {"incoming_bytes": 0, "incoming_count": 0, "incoming_count_total": 0,
                 "outgoing_bytes": 0, "outgoing_count": 0, "outgoing_count_total": 0},
    "event_loop_interval": 0.02, "cpu": 0.0, "memory": 2**27, "time": 0.0, "num_fds": 10,
    "host_net_io": {"read_bps": 0.0, "write_bps": 0.0},
    "host_disk_io": {"read_bps": 0.0, "write_bps": 0.0},
}  # fmt: skip


class FakeWorker:
    """One connection to the scheduler, one task at a time."""

    def __init__(self, number: int, address: str, n_bytes: int, spread: Spread) -> None:
        self._number, self._address, self._n_bytes, self._spread = number, address, n_bytes, spread
        self._waiting: deque[dict[str, Any]] = deque()
        self._busy = False
        self._out = BatchedSend(interval="2ms")

    async def run(self, scheduler: str) -> None:
        """Register, and work until the scheduler hangs up."""
        # Nobody unpacks the task itself.
        comm = await connect(scheduler, deserialize=False, timeout=60)
        await comm.write(
            {
                "op": "register-worker", "reply": False, "address": self._address,
                "status": "running", "nthreads": 1, "name": f"fake-{self._number}",
                "now": time.time(), "resources": {}, "memory_limit": 2**32, "extra": {},
                "local_directory": "", "services": {}, "nanny": None, "pid": os.getpid(),
                "versions": get_versions(), "metrics": METRICS | {"time": time.time()},
                "stimulus_id": f"worker-connect-{self._number}",
                "server_id": f"Worker-fake-{self._number}",
            },
            serializers=["msgpack"],
        )  # fmt: skip
        answer = await comm.read()
        if answer["status"] != "OK":
            raise RuntimeError(f"the scheduler refused a worker: {answer}")
        self._out.start(comm)
        try:
            while True:
                for message in await comm.read():
                    if message["op"] == "compute-task":
                        self._waiting.append(message)
                        self._next()
                    elif message["op"] == "steal-request":
                        self._out.send(
                            {
                                "op": "steal-response", "key": message["key"],
                                "state": "executing", "stimulus_id": message["stimulus_id"],
                            }
                        )  # fmt: skip
                    elif message["op"] == "close":
                        return
        except OSError:
            return
        finally:
            self._out.abort()

    def _next(self) -> None:
        if self._busy or not self._waiting:
            return
        task = self._waiting.popleft()
        seconds = self._spread.draw()
        if not seconds:
            self._end(task, time.time())
            return
        self._busy = True
        asyncio.get_running_loop().call_later(seconds, self._ended, task, time.time())

    def _ended(self, task: dict[str, Any], start: float) -> None:
        self._busy = False
        self._end(task, start)

    def _end(self, task: dict[str, Any], start: float) -> None:
        self._out.send(
            {
                "op": "task-finished", "status": "OK", "key": task["key"],
                "run_id": task["run_id"], "nbytes": self._n_bytes, "type": TYPE,
                "typename": "dict", "metadata": {}, "thread": self._number,
                "startstops": [{"action": "compute", "start": start, "stop": time.time()}],
                "stimulus_id": f"task-finished-{time.time()}",
            }
        )  # fmt: skip
        self._next()


class Spread:
    """Draws how long tasks take: log-normal, with a mean and a coefficient of variation."""

    def __init__(self, seconds: float, variation: float, seed: int = 0) -> None:
        self._seconds, self._variation, self._random = seconds, variation, random.Random(seed)

    def draw(self) -> float:
        if not self._seconds or not self._variation:
            return self._seconds
        from math import exp, log, sqrt

        sigma = sqrt(log(1 + self._variation**2))
        return self._seconds * exp(self._random.gauss(-(sigma**2) / 2, sigma))


def answerer(n_bytes: int) -> Any:
    """Return what answers those who ask a worker for results: bytes of the size of a receipt."""
    result = to_serialize(bytes(n_bytes))

    async def answer(comm: Any) -> None:
        try:
            while True:
                asked = await comm.read()
                if asked.get("op") == "get_data":
                    await comm.write({"status": "OK", "data": dict.fromkeys(asked["keys"], result)})
                    await comm.read()
                else:
                    await comm.write({"status": "OK"})
        except OSError:
            pass

    return answer


async def work(args: argparse.Namespace) -> None:
    """Run all of them until the scheduler ends."""
    # Every address of 127.0.0.0/8 is this machine: one listener is as many workers.
    listener = await listen("tcp://0.0.0.0:0" if args.n > 1 else "tcp://127.0.0.1:0",
                            answerer(args.bytes))  # fmt: skip
    port = listener.contact_address.rsplit(":", 1)[1]
    spread = Spread(args.seconds, args.spread)
    workers = [
        FakeWorker(i, f"tcp://127.{i >> 16}.{i >> 8 & 255}.{i & 255}:{port}", args.bytes, spread)
        for i in range(1, args.n + 1)
    ]
    await asyncio.gather(*(worker.run(args.scheduler) for worker in workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scheduler")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.0, help="mean time of a task")
    parser.add_argument("--spread", type=float, default=0.0, help="its coefficient of variation")
    parser.add_argument("--bytes", type=int, default=1800, help="of a result")
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
