"""Run the package and its peers side by side, and print medians and ratios.

    python benchmarks/run.py convert [--runs 5] [--peers tensorstore,ngff_zarr] [--json out.json]
    python benchmarks/run.py count

Each contender is a whole process of its own, run several times in a row; the first run of such
a block is dropped; the blocks go forth and back (A B C, C B A). See README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import environment_python, last_json, machine, remove, run_process

HERE = Path(__file__).parent
PACKAGE = "thc"
TEXTURE = HERE.parent.parent / "shared" / "data" / "prasad2020" / "slice_z309.tif"


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    name: str
    """Name in the table and for ``--peers``."""
    script: str = ""
    """File under ``peers/``; none for the package's own command."""
    environment: str = ""
    """File under ``environments/``; none for the environment of this runner."""
    path: str = "{level}/image"
    """Where a level's array is in the output."""
    slow: bool = False
    """Takes so long that two kept runs are enough."""


CONVERT = [
    Contender(PACKAGE),
    Contender("tensorstore", "tensorstore_convert.py", "tensorstore"),
]
JOBS = {"convert": CONVERT}


def command(contender: Contender, job: str, python: str, work: Path, output: Path) -> list[str]:
    """Return the command line of one run."""
    sizes = ["--levels", "5", "--chunk", "64", "--shard", "256"]
    if contender.script:
        script = str(HERE / "peers" / contender.script)
        return [python, script, str(source(job, work)), str(output), *sizes]
    thc = str(Path(sys.executable).parent / "thc")
    if job == "convert":
        source_dir = str(source(job, work))
        return [
            thc,
            "convert",
            source_dir,
            str(output),
            "--spacing",
            "1.17um",
            *sizes,
            "--overwrite",
        ]
    return [thc, "count", str(source(job, work)), "--labels", "roi"]


def source(job: str, work: Path) -> Path:
    """Return what the job reads."""
    return work / ("input" if job == "convert" else "count.ome.zarr")


def blocks(contenders: list[Contender], runs: int) -> Iterator[tuple[Contender, int]]:
    """Yield the contenders forth and back with the number of runs to keep of each block."""
    for contender in contenders:
        yield contender, 1 if contender.slow else -(-runs // 2)
    for contender in reversed(contenders):
        keep = 1 if contender.slow else runs // 2
        if keep:
            yield contender, keep


def measure(args: argparse.Namespace, contenders: list[Contender]) -> dict[str, Any]:
    """Return the runs of each contender and whether its output is right."""
    pythons = {
        c.name: sys.executable
        if args.here or not c.environment
        else environment_python(c.environment, args.cache)
        for c in contenders
    }
    results: dict[str, Any] = {c.name: {"runs": [], "check": None} for c in contenders}
    for contender, keep in blocks(contenders, args.runs):
        entry = results[contender.name]
        for i in range(keep + 1):
            output = args.work / "output" / contender.name
            remove(output)
            line = command(contender, args.job, pythons[contender.name], args.work, output)
            run = run_process(line, output)
            if entry["check"] is None:
                entry["check"] = check(args, contender, output)
            remove(output)
            say(f"{contender.name}: {run.wall_s:.2f} s{' (dropped)' if i == 0 else ''}")
            if i > 0:
                entry["runs"].append(run.as_dict())
    return results


def check(args: argparse.Namespace, contender: Contender, output: Path) -> dict[str, Any]:
    """Return what ``compare.py`` says of an output."""
    return own_script("compare.py", str(args.work / "input"), str(output), "--path", contender.path)


def own_script(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder in this environment; return the JSON that it prints."""
    line = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return last_json(done.stdout)


def say(text: str) -> None:
    """Tell how far it is, away from the table."""
    print(text, file=sys.stderr, flush=True)


def make_input(args: argparse.Namespace) -> dict[str, Any]:
    """Return the facts of the input, which is made unless it is there in that shape."""
    facts = args.work / "input.json"
    shape = [int(n) for n in args.shape.split(",")]
    if facts.exists() and json.loads(facts.read_text())["shape"] == shape:
        return dict(json.loads(facts.read_text()))
    texture = ["--texture", str(TEXTURE)] if TEXTURE.exists() else []
    return own_script("make_input.py", str(args.work), "--shape", args.shape, *texture)


def table(results: dict[str, Any], base: str) -> str:
    """Return the markdown table of medians, ranges and ratios to ``base``."""
    rows = [
        f"| who | wall s (min-max) | x {base} | CPU s | x {base} | peak MB | written MB | files |"
        " agrees |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    reference = {k: median(results[base], k) for k in ("wall_s", "cpu_s")}
    for name, entry in results.items():
        walls = [run["wall_s"] for run in entry["runs"]]
        wall, cpu = median(entry, "wall_s"), median(entry, "cpu_s")
        rows.append(
            f"| {name} | {wall:.2f} ({min(walls):.2f}-{max(walls):.2f}) "
            f"| {wall / reference['wall_s']:.2f} | {cpu:.2f} | {cpu / reference['cpu_s']:.2f} "
            f"| {median(entry, 'peak_bytes') / 1e6:.0f} "
            f"| {median(entry, 'written_bytes') / 1e6:.0f} | {median(entry, 'n_files'):.0f} "
            f"| {'yes' if entry['check'].get('agrees') else 'no'} |"
        )
    return "\n".join(rows)


def median(entry: dict[str, Any], key: str) -> float:
    """Return the median of one figure over the kept runs."""
    return float(statistics.median(run[key] for run in entry["runs"]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--runs", type=int, default=5, help="runs to keep of each contender")
    parser.add_argument("--peers", help="names with commas; default: all")
    parser.add_argument("--shape", default="256,1420,2816", help="z,y,x voxels of the input")
    parser.add_argument("--work", type=Path, default=Path("/tmp/thc-bench"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/thc_dask-benchmarks")
    parser.add_argument("--here", action="store_true", help="run peers in this environment")
    parser.add_argument("--without-package", action="store_true", help="peers only")
    parser.add_argument("--json", type=Path, help="results file; default: under results/")
    return parser.parse_args()


def choose(args: argparse.Namespace) -> list[Contender]:
    """Return the contenders that were asked for, the package first."""
    known = [c for c in JOBS[args.job] if c.name != PACKAGE or not args.without_package]
    if args.peers is None:
        return known
    wanted = [name for name in args.peers.split(",") if name]
    names = [c.name for c in known]
    for name in wanted:
        if name not in names:
            sys.exit(f"peer {name!r} is not known; known: {', '.join(names)}")
    return [c for c in known if c.name in wanted or c.name == PACKAGE]


def main() -> None:
    args = parse_arguments()
    contenders = choose(args)
    args.work.mkdir(parents=True, exist_ok=True)
    facts = make_input(args)
    results = measure(args, contenders)
    print(table(results, contenders[0].name))
    record = {
        "job": args.job,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "input": facts,
        "results": results,
    }
    target = args.json or HERE / "results" / f"{record['date']}-{args.job}.json"
    target.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
