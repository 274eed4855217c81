"""What commands print: facts, tables, quantities."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts: JSON for machines, indented lines for people."""
    if as_json:
        print(json.dumps(facts))
        return
    for line in _lines(facts, ""):
        print(line)


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list | tuple) and item and isinstance(item[0], dict):
            for i, part in enumerate(item):
                lines += [f"{indent}{key} {i}:", *_lines(part, indent + "  ")]
        elif isinstance(item, list | tuple):
            lines.append(f"{indent}{key}: {', '.join(map(str, item))}")
        else:
            lines.append(f"{indent}{key}: {item if item not in ({}, None) else 'none'}")
    return lines


def answer(ask: Callable[[], Any], out: str | None, as_json: bool) -> None:
    """Print the table that ``ask`` gives, or write it to the file ``out``."""
    from thc_dask import output

    if out:
        output.check_target(out)
    table = ask().compute()
    if out:
        output.write_table(table, out)
        show({"written": out} | _to_know(table), as_json)
    else:
        print_table(table, as_json)
        if not as_json:
            show(_to_know(table), as_json)


def _to_know(table: Any) -> dict[str, Any]:
    """Return what numbers alone do not show: of which voxels they are, and what is missing."""
    names = ("answered_from", "denominator", "aligned", "interpolated", "no_known_voxels")
    return {name: table.attrs[name] for name in names if name in table.attrs}


def print_table(table: Any, as_json: bool) -> None:
    """Print a table: JSON for machines, at most sixty rows for people."""
    from thc_dask import output

    if as_json:
        print(output.as_json(table))
    else:
        print(output.long_table(table).to_string(index=False, max_rows=60))


def print_reproduction(made: Any) -> None:
    """Print what was made of the paper's figures, what was not, and what to know of them."""
    cited: dict[str, None] = {}
    for panel, files in made.files.items():
        print(f"figure {panel}: {' '.join(files)}")
        for note in made.notes[panel]:
            print(f"  {note}")
        print(f"  errata: {', '.join(e.partition(':')[0] for e in made.errata[panel])}")
        cited |= dict.fromkeys(made.errata[panel])
    for why in dict.fromkeys(made.missing.values()):
        print(f"not made: {', '.join(p for p, w in made.missing.items() if w == why)}: {why}")
    print("errata, where the paper's sources contradict one another:")
    for text in sorted(cited, key=lambda e: int(e.partition(":")[0][1:])):
        print(f"  {text}")
    print(f"written: {made.folder}")


def short(n: float) -> str:
    """Return a quantity with three digits and a prefix, for a unit to follow.

    >>> short(312_456_789) + "B", short(7) + "files"
    ('312 MB', '7 files')
    """
    for prefix in ("", "k", "M", "G", "T"):
        if n < 999.5 or prefix == "T":
            break
        n /= 1000
    return f"{n:.3g} {prefix}"


def duration(seconds: float) -> str:
    """Return a time that people can read.

    >>> duration(7.4), duration(125), duration(7500), duration(200_000)
    ('7 s', '2 min 5 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    for large, small, size, inner in (
        ("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1),
    ):  # fmt: skip
        if whole >= size:
            return f"{whole // size} {large} {whole % size // inner} {small}"
    return f"{whole} s"
