"""Run the package and its peers side by side, and print medians and ratios.

    python benchmarks/run.py convert [--runs 5] [--peers tensorstore,ngff_zarr] [--json out.json]
    python benchmarks/run.py count

Each contender is a whole process of its own, run several times in a row; the first run of such
a block is dropped; the blocks go forth and back (A B C, C B A, A B C). See README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Contender, command, store_commands
from measure import environment_python, last_json, machine, remove, run_process
from tables import table

HERE = Path(__file__).parent
TEXTURE = HERE.parent.parent / "shared" / "data" / "prasad2020" / "slice_z309.tif"
N_ROUNDS = 3
N_RUNS_SLOW = 2


def blocks(contenders: list[Contender], runs: int) -> Iterator[tuple[Contender, int]]:
    """Yield contenders forth and back, with the number of runs to keep of each block."""
    for i in range(N_ROUNDS):
        for contender in contenders[:: -1 if i % 2 else 1]:
            total = min(runs, N_RUNS_SLOW) if contender.slow else runs
            keep = len(range(i, total, N_ROUNDS))
            if keep:
                yield contender, keep


class Bench:
    """One job on one input: its contenders, and what they took."""

    def __init__(self, args: argparse.Namespace, contenders: list[Contender]) -> None:
        self.args, self.contenders = args, contenders
        self.pythons = {c.name: self._python(c) for c in contenders}
        self.source = args.work / ("input" if args.job == "convert" else "count.ome.zarr")
        self.results: dict[str, Any] = {c.name: {"runs": [], "check": {}} for c in contenders}
        self.floors: list[dict[str, Any]] = []

    def _python(self, contender: Contender) -> str:
        if self.args.here or not contender.environment:
            return sys.executable
        return environment_python(contender.environment, self.args.cache)

    def run(self) -> None:
        """Run all blocks, with the floor measured before, between and after."""
        self.floors.append(self.floor())
        half = len(self.contenders)
        for i, (contender, keep) in enumerate(blocks(self.contenders, self.args.runs), 1):
            self.run_block(contender, keep)
            if i == half:
                self.floors.append(self.floor())
        self.floors.append(self.floor())

    def run_block(self, contender: Contender, keep: int) -> None:
        """Run a contender once to warm it up, then as often as is kept."""
        output = self.args.work / "output" / contender.name
        output.parent.mkdir(exist_ok=True)
        line = command(contender, self.args.job, self.pythons[contender.name], self.source, output)
        entry = self.results[contender.name]
        for i in range(keep + 1):
            self.reset(output)
            run = run_process(line, output)
            say(f"{contender.name}: {run.wall_s:.2f} s{'' if i else ' (dropped)'}")
            if i:
                entry["runs"].append(run.as_dict())
            if not entry["check"]:
                entry["check"] = self.check(contender, output)
        self.reset(output)

    def reset(self, output: Path) -> None:
        """Take away what a run wrote."""
        for path in (output, output.with_suffix(".npy")):
            remove(path)
        if self.args.job == "count" and (self.source / "counts").exists():
            # so that a count that is there already cannot be answered again
            remove(self.source / "counts")
            shutil.copy(self.args.work / "count.zarr.json", self.source / "zarr.json")

    def check(self, contender: Contender, output: Path) -> dict[str, Any]:
        """Return what ``compare.py`` says of an output."""
        if self.args.job == "convert":
            where = [str(output), "--path", contender.path]
            return own_script("compare.py", "convert", str(self.source), *where)
        counted = output.with_suffix(".npy") if contender.script else self.source
        return own_script("compare.py", "count", str(self.args.work / "truth.npy"), str(counted))

    def floor(self) -> dict[str, Any]:
        """Return what the machine allows just now."""
        work = ["--work", str(self.args.work)]
        return own_script("floor.py", self.args.job, str(self.source), *work)

    def prepare(self) -> dict[str, Any]:
        """Make what is read, unless it is there; return what ``make_input.py`` said of it."""
        facts = make_input(self.args.work, self.args.shape)
        if self.args.job == "count":
            remove(self.source)
            python = self.pythons["tensorstore"] if self.args.without_package else None
            for line in store_commands(self.args.work, self.source, python):
                run_process(line, self.source)
            if python is None:
                shutil.copy(self.source / "zarr.json", self.args.work / "count.zarr.json")
        return facts


def own_script(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder in this environment; return the JSON that it prints."""
    line = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return last_json(done.stdout)


def make_input(work: Path, shape: str) -> dict[str, Any]:
    """Return the facts of the input, which is made unless it is there in that shape."""
    facts = work / "input.json"
    if facts.exists():
        known = dict(json.loads(facts.read_text()))
        if known["shape"] == [int(n) for n in shape.split(",")]:
            return known
    texture = ["--texture", str(TEXTURE)] if TEXTURE.exists() else []
    return own_script("make_input.py", str(work), "--shape", shape, *texture)


def say(text: str) -> None:
    """Tell how far it is, away from the table."""
    print(text, file=sys.stderr, flush=True)


def choose(args: argparse.Namespace) -> list[Contender]:
    """Return the contenders that were asked for, the package first."""
    known = [c for c in CONTENDERS[args.job] if not (args.without_package and c.is_package)]
    if args.peers is None:
        return [c for c in known if not c.small]
    names = [c.name for c in known]
    wanted = [name for name in args.peers.split(",") if name]
    for name in wanted:
        if name not in names:
            sys.exit(f"peer {name!r} is not known; known: {', '.join(names)}")
    return [c for c in known if c.name in wanted or c.is_package]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("job", choices=sorted(CONTENDERS))
    parser.add_argument("--runs", type=int, default=5, help="runs to keep of each contender")
    parser.add_argument("--peers", help="names with commas; default: all")
    parser.add_argument("--shape", default="256,1420,2816", help="z,y,x voxels of the input")
    parser.add_argument("--work", type=Path, default=Path("/tmp/thc-bench"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/thc_dask-benchmarks")
    parser.add_argument("--here", action="store_true", help="run the peers in this environment")
    parser.add_argument("--without-package", action="store_true", help="run the peers only")
    parser.add_argument("--json", type=Path, help="results file; default: under results/")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args, choose(args))
    facts = bench.prepare()
    bench.run()
    print(table(bench.results, bench.floors, args.job))
    record = {
        "job": args.job,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "input": facts,
        "floor": bench.floors,
        "results": bench.results,
    }
    target = args.json or HERE / "results" / f"{record['date']}-{args.job}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
