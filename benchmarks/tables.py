"""Runs to a markdown table: medians, ranges, ratios, and what the floor says."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

Value = Callable[[dict[str, Any]], float | None]


def in_process(run: dict[str, Any]) -> float | None:
    """Return the seconds that the contender counted itself, without its imports."""
    stages = run["report"].get("stages_s")
    return sum(stages.values()) if stages else None


def values(entry: dict[str, Any], value: Value) -> list[float]:
    """Return one figure of every kept run that has it."""
    return [v for run in entry["runs"] if (v := value(run)) is not None]


def cell(entry: dict[str, Any], value: Value, form: str = ".2f", scale: float = 1) -> str:
    """Return the median as text, a dash where there is none."""
    found = values(entry, value)
    return format(statistics.median(found) / scale, form) if found else "-"


def ratio(entry: dict[str, Any], base: dict[str, Any] | None, value: Value) -> str:
    """Return the median as a multiple of the base's."""
    own, of = values(entry, value), values(base, value) if base else []
    return f"{statistics.median(own) / statistics.median(of):.2f}x" if own and of else "-"


def figure(key: str) -> Value:
    """Return the function that takes one figure out of a run."""
    return lambda run: run[key]


def table(results: dict[str, Any], floors: list[dict[str, Any]], job: str) -> str:
    """Return the table; ratios are to the first row, those in process to the first that has one."""
    first = next(iter(results.values()))
    inside = next((e for e in results.values() if values(e, in_process)), None)
    name_of = {id(entry): f"x {name}" for name, entry in results.items()}
    to_first, to_inside = name_of[id(first)], name_of.get(id(inside), "")
    head = ["who", "wall s (min-max)", to_first, "CPU s", to_first]
    head += ["in process s", to_inside, "peak MB"]
    head += ["written MB", "files"] if job == "convert" else []
    head += ["others' CPU s"]
    lines = [row([*head, "right"]), row(["---"] * (len(head) + 1))]
    for name, entry in results.items():
        walls = values(entry, figure("wall_s"))
        cells = [
            name,
            f"{statistics.median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})",
            ratio(entry, first, figure("wall_s")),
            cell(entry, figure("cpu_s")),
            ratio(entry, first, figure("cpu_s")),
            cell(entry, in_process),
            ratio(entry, inside, in_process),
            cell(entry, figure("peak_bytes"), ".0f", 1e6),
        ]
        if job == "convert":
            cells += [cell(entry, figure("written_bytes"), ".0f", 1e6)]
            cells += [cell(entry, figure("n_files"), ".0f")]
        cells += [cell(entry, lambda run: run.get("other_cpu_s"))]
        lines.append(row([*cells, "yes" if entry["check"].get("agrees") else "NO"]))
    return "\n".join([*lines, "", *floor_lines(floors, first, inside, job)])


def row(cells: list[str]) -> str:
    """Return a line of a markdown table."""
    return f"| {' | '.join(cells)} |"


def floor_lines(
    floors: list[dict[str, Any]], first: dict[str, Any], inside: dict[str, Any] | None, job: str
) -> list[str]:
    """Return what the floor is, and what part of it the first row reaches."""
    wall = median_of(floors, "wall_s")
    reached = wall / statistics.median(values(first, figure("wall_s")))
    cpu = median_of(floors, "cpu_s")
    lines = [
        f"Floor: {wall:.2f} s ({cpu:.2f} CPU s) on {floors[0]['n_cores']} cores; "
        f"the first row reaches {reached:.0%} of it."
    ]
    if job == "convert":
        stages = floors[0]["stages_wall_s"]
        parts = [
            f"{s} {statistics.median(f['stages_wall_s'][s] for f in floors):.2f}" for s in stages
        ]
        hidden = median_of(floors, "wall_s_if_writing_hides")
        lines.append(f"Its stages: {', '.join(parts)} s; {hidden:.2f} s if writing hides.")
    elif inside is not None:
        part = wall / statistics.median(values(inside, in_process))
        lines.append(f"In process the first that says so reaches {part:.0%} of decoding alone.")
    return lines


def median_of(floors: list[dict[str, Any]], key: str) -> float:
    """Return the median of one figure of the floors."""
    return float(statistics.median(floor[key] for floor in floors))
