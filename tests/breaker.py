"""Break conversions at moments spread over the whole run, go on, and hold what comes out against an
undisturbed run. ``python -m tests.breaker KIND`` does so fifty times and prints a line of JSON for
each; ``tests/test_breaks.py`` does it a few times.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

SHAPE = (128, 128, 256)
OPTIONS = ["--spacing", "1um", "--levels", "5", "--chunk", "16", "--shard", "32", "--count"]
KINDS = {
    "kill": "SIGKILL of the process, which works in threads",
    "interrupt": "SIGINT (Ctrl-C) of the process, which works in threads",
    "terminate": "SIGTERM of the process, which works in threads",
    "kill processes": "SIGKILL of a process and its worker processes",
    "kill a process": "SIGKILL of one of the worker processes",
    "kill cluster": "SIGKILL of a process and the scheduler and workers that it started",
    "kill a worker": "SIGKILL of one of two distributed workers",
}
TOLD = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
LIMIT_S = 600  # nothing here takes that long, on a busy machine either


def convert(kind, source, store):
    """Convert, on what ``kind`` says, and print a line for each report of progress."""
    import dask

    from thc_dask.cli import main, progress

    def watch(self, standing):
        print(standing.done, standing.total, standing.kept, flush=True)

    progress.Meter.watch = watch
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    command = ["convert", source, store, *OPTIONS, "--resume"]
    if kind in ("kill processes", "kill a process"):
        dask.config.set(scheduler="processes")
    if kind not in ("kill cluster", "kill a worker"):
        main(command)
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        main(command)


def make_source(folder):
    voxels = np.random.default_rng(7).integers(0, 60, SHAPE, np.uint8)
    voxels[40:90, :, 100:140] = 0  # some shards are not stored
    for z, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"z{z:03}.tif", plane)
    return folder


class Run:
    """A conversion that runs, in a group of processes of its own."""

    def __init__(self, kind, source, store):
        self.kind = kind
        self.begun_s = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.breaker", "--convert", kind, source, store],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def line(self):
        """Return the next report as (done, total, kept), None where there are no more."""
        parts = self.process.stdout.readline().split()
        return tuple(map(int, parts)) if all(p.isdigit() for p in parts) and parts else None

    def strike(self, rng):
        """Break it; return whether there was anything to break."""
        pid = self.process.pid
        try:
            if self.kind in TOLD:
                os.kill(pid, TOLD[self.kind])
            elif self.kind in ("kill a process", "kill a worker"):
                workers = workers_of(pid)
                if not workers:
                    return False
                os.kill(rng.choice(workers), signal.SIGKILL)
            else:
                os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def end(self):
        """Wait for its end; return exit code, the number of reports left, and what it said."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, len(out.splitlines()), err


def workers_of(pid):
    """Return the processes below one that do the work."""
    import psutil

    try:
        below = psutil.Process(pid).children(recursive=True)
        return [p.pid for p in below if "spawn_main" in " ".join(p.cmdline())]
    except psutil.NoSuchProcess:
        return []


def files_of(store):
    return {p.relative_to(store).as_posix(): p for p in Path(store).rglob("*") if p.is_file()}


def kept_of(store):
    """Return what an interrupted run may not make again: stored shards that have a receipt."""
    found = {}
    for path in Path(store).glob("thc/receipts/image/*/*.json"):
        shards = json.loads(path.read_bytes().partition(b"\n")[0])["shards"]
        if all((store / s["key"]).exists() for s in shards if s["n_bytes"]):
            stored = (s["key"] for s in shards if s["n_bytes"])
            found |= {key: (store / key).stat().st_mtime_ns for key in stored}
    return found


class Campaign:
    """Breaks of one kind, after an undisturbed run that says how long things take."""

    def __init__(self, kind, folder, seed=0):
        self.kind, self.folder, self.rng = kind, Path(folder), random.Random(seed)
        self.source = self.folder / "source"
        self.source.mkdir()
        make_source(self.source)
        store = self.folder / "undisturbed"
        run = Run(kind, self.source, store)
        assert run.line() is not None, run.end()
        self.start_s = time.monotonic() - run.begun_s
        self.n_reports, self.last_s = 1, time.monotonic()
        while run.line():
            self.n_reports, self.last_s = self.n_reports + 1, time.monotonic()
        self.work_s = self.last_s - run.begun_s - self.start_s
        assert run.end()[0] == 0
        self.end_s = time.monotonic() - self.last_s
        self.expected = {key: path.read_bytes() for key, path in files_of(store).items()}

    def moment(self, share):
        """Return after how many reports, and how many seconds after that, a run is to be broken.

        ``share`` runs from 0, its start, to 1, its end: a tenth is what comes before the first
        report, a tenth what comes after the last.
        """
        if share < 0.1:
            return 0, share / 0.1 * self.start_s
        if share >= 0.9:
            return self.n_reports, (share - 0.9) / 0.1 * self.end_s
        n = int((share - 0.1) / 0.8 * self.n_reports)
        return n, self.rng.uniform(0, 2 * self.work_s / self.n_reports)

    def strike(self, store, share):
        """Begin a conversion or go on with one, and break it; return what came of it."""
        n, wait_s = self.moment(share)
        run = Run(self.kind, self.source, store)
        seen = 0
        while seen < n and run.line():
            seen += 1
        time.sleep(wait_s)
        struck = run.strike(self.rng)
        code, more, err = run.end()
        return {"share": round(share, 3), "struck": struck, "code": code, "reports": seen + more,
                "said": err.strip().splitlines()[-1:]}  # fmt: skip

    def trial(self, share, name, again=0.3):
        """Break a conversion, go on, and return what was found; assert that all is well.

        ``again`` is how likely what goes on is broken too, at any moment, and so on.
        """
        from thc_dask import verify

        store = self.folder / name
        outcomes = [self.strike(store, share)]
        self.check_broken(store, outcomes[-1])
        while outcomes[-1]["code"] and self.rng.random() < again:
            outcomes.append(self.strike(store, self.rng.random()))
            self.check_broken(store, outcomes[-1])
        kept = kept_of(store) if outcomes[-1]["code"] else {}
        run = Run("kill", self.source, store)  # whatever broke, threads go on with it
        first = run.line()
        code, more, err = run.end()
        assert code == 0, err
        assert {key: path.read_bytes() for key, path in files_of(store).items()} == self.expected
        again = [k for k, t in kept.items() if (store / k).stat().st_mtime_ns != t]
        assert not again, again
        found = verify(store)
        assert found["whole"], found
        assert found["left_over"] == found["unknown"] == [], found
        shutil.rmtree(store)
        return {"breaks": outcomes, "kept_shards": len(kept), "kept_vox": first[2] if first else -1,
                "reports_after": more}  # fmt: skip

    def check_broken(self, store, outcome):
        """A store that did not end never opens; one that has a root is whole."""
        import zarr

        from thc_dask import open_volume, verify
        from thc_dask.errors import MissingError, UnfinishedError

        if (store / "zarr.json").exists():
            assert verify(store)["problems"] == [], outcome
            outcome["left"] = "whole"
            return
        assert outcome["code"] != 0, outcome
        assert "Traceback" not in "".join(outcome["said"]), outcome
        for opening, errors in (
            (open_volume, (UnfinishedError, MissingError)),
            (lambda path: zarr.open_group(path, mode="r"), (FileNotFoundError,)),
        ):
            try:
                opening(store)
            except errors:
                continue
            raise AssertionError(f"{store} opens though {outcome}")
        outcome["left"] = "unfinished" if (store / "thc/plan.json").exists() else "nothing"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("-n", type=int, default=50, help="how often")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--convert", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        convert(*args.convert)
        return
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(args.kind, folder, args.seed)
        print(json.dumps({"kind": args.kind, "seed": args.seed, "start_s": campaign.start_s,
                          "work_s": campaign.work_s, "end_s": campaign.end_s,
                          "reports": campaign.n_reports, "files": len(campaign.expected)}),
              flush=True)  # fmt: skip
        for i in range(args.n):
            share = (i + campaign.rng.random()) / args.n  # spread over the run, and drawn
            print(json.dumps(campaign.trial(share, f"v{i}")), flush=True)


if __name__ == "__main__":
    main()
