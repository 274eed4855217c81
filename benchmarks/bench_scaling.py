"""What limits a conversion as volumes and clusters grow: measured piece by piece, then modelled.

Usage: python benchmarks/bench_scaling.py PIECE... --results FILE
       python benchmarks/bench_scaling.py tables --results FILE    # writes docs/scaling.md's tables

Each piece is a process of its own, takes less than three minutes, and is put into the file beside
those that are there. ``rates`` takes the model's numbers out of them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import machine
from scaling_pages import blocks, plans, rates_of

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scaling.md"
PLANS = HERE.parent / "deploy" / "README.md"
GIGAVOXEL = ["--shape", "256,1420,2816", "--input", "/tmp/thc-bench"]

TASKS, STORE, SPEED = "scaling_tasks.py", "scaling_store.py", "scaling_speed.py"


def fake(n_workers: int, n: int, seconds: float = 0.0) -> list[str]:
    words = [TASKS, "fake", "--workers", n_workers, "--n", n]
    words += ["--seconds", seconds, "--spread", 0.3] if seconds else []
    return [str(word) for word in words]


def real(way: str, n: int) -> list[str]:
    return [TASKS, "real", "--workers", "2", "--way", way, "--n", str(n)]


PIECES: dict[str, list[list[str]]] = {
    "threads": [[TASKS, "threads", "--n", "100000"], [TASKS, "threads", "--n", "1000000"]],
    "processes": [real("thc", 10_000), real("map", 10_000), real("submit", 2_000)],
    "workers": [fake(n, 10_000) for n in (1, 10, 100, 1000)],
    "many": [fake(1000, 100_000)],
    "saturated": [fake(1000, 20_000, 0.2)],
    "checks": [fake(1000, 20_000, 1.0), fake(100, 5_000, 0.1), fake(10, 200, 1.0)],
    "puts": [[STORE, "puts", "--n", "1000", "--shards", "32"]],
    "columns": [[STORE, "columns", "--n", "10000"],
                [STORE, "columns", "--n", "2000", "--where", "s3"]],
    "core": [[SPEED, "core", *GIGAVOXEL, "--runs", "2"]],
    "two_workers": [[SPEED, "workers", "--shape", "1024,1024,1024", "--runs", "3",
                     "--output", "/dev/shm/thc-bench-scaling"]],
    "gigavoxel": [[SPEED, "threads", *GIGAVOXEL]],
    "apart": [[SPEED, "apart", "--shape", "256,1024,1024"]],
    "stores": [[SPEED, "stores", *GIGAVOXEL, "--runs", "2"]],
}  # fmt: skip


def measured(lines: list[list[str]]) -> list[dict[str, Any]]:
    """Return what each line prints."""
    found = []
    for script, *words in lines:
        line = [sys.executable, str(HERE / script), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)}: exit {done.returncode}\n{done.stderr[-3000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def rates(found: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of the model."""
    [saturated], [giga], [stores] = found["saturated"], found["gigavoxel"], found["stores"]
    threads, n_vox = found["threads"][-1], math.prod(giga["shape"])
    return {
        # By the clock: what the system does for the disk meanwhile takes cores too.
        "core_vox_per_s": n_vox / giga["wall_s"]["threads"] / found["machine"]["n_cores"],
        "stored_bytes_per_vox": stores["written_bytes"] / math.prod(stores["shape"]),
        # By the clock, not by its CPU time: what else a task of its does not do meanwhile counts.
        "scheduler_s": saturated["ms_per_task"] / 1000,
        "client_s": saturated["client_cpu_ms"] / 1000,
        "column_bytes": threads["kept_bytes_per_task"],
        "box_bytes": box_bytes(),
        "clear_s": found["columns"][0]["clear_ms_per_column"] / 1000,
    }


def box_bytes() -> float:
    """Return what the client holds for each block of a plan."""
    from scaling_tasks import resident_bytes

    from thc_dask.grid import blocks as cut

    n = 64
    before = resident_bytes()
    boxes = list(cut((256 * n, 256 * n, 256 * n), (256, 256, 256)))
    return (resident_bytes() - before) / len(boxes)


def pages(found: dict[str, Any]) -> dict[Path, dict[str, str]]:
    """Return the tables of each page by their names."""
    return {PAGE: blocks(found), PLANS: plans(rates_of(found))}


def write_tables(found: dict[str, Any]) -> None:
    """Put each table into its place."""
    for page, tables in pages(found).items():
        text = page.read_text(encoding="utf-8")
        for name, lines in tables.items():
            text = put_in(text, name, lines)
        page.write_text(text, encoding="utf-8")


def put_in(text: str, name: str, lines: str) -> str:
    """Return the page with another block of that name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{name}: the page needs {begin.strip()} and {end} once each")
    return re.sub(
        re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + lines + end, text, flags=re.S
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pieces", nargs="+", choices=[*PIECES, "rates", "tables"])
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    for piece in args.pieces:
        if piece == "tables":
            write_tables(results)
            continue
        if piece == "rates":
            results["rates"] = rates(results)
        else:
            results[piece] = measured(PIECES[piece])
        results["date"], results["machine"] = datetime.now(UTC).date().isoformat(), machine()
        args.results.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps({piece: results[piece]}))


if __name__ == "__main__":
    main()
