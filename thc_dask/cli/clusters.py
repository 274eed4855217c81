"""``thc cluster``: what would be started, whether it works, and where profiles stand."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from thc_dask.cli.printing import duration, short, show
from thc_dask.errors import FailureError, RequestError


def _show(args: argparse.Namespace) -> None:
    from thc_dask.cluster import profiles, settings_of, shown
    from thc_dask.cluster.settings import HOW

    if args.spec is None:
        found = {name: f"{values.get('kind')}, {source}" if isinstance(values, dict) else source
                 for name, (source, values) in profiles.read().items()}  # fmt: skip
        show({"clusters": HOW, "profiles": found}, args.json)
        return
    settings = settings_of(args.spec)
    text = shown(settings)
    if args.json:
        show(asdict(settings) | {"starts": text}, as_json=True)
    elif args.dry_run:
        print(text)
    else:
        given = {k: v for k, v in asdict(settings).items() if v not in (None, "", (), {})}
        show(given, as_json=False)
        print("starts:", *text.splitlines(), sep="\n  ")


def _check(args: argparse.Namespace) -> None:
    from thc_dask.cluster.check import check
    from thc_dask.cluster.logs import quiet

    with quiet():
        found = check(args.spec or "threads", args.store, args.shape)
    if args.json:
        show(asdict(found), as_json=True)
    else:
        for name, text in _lines(found):
            print(f"{name:<10}{text}")
    if found.disagreements:
        raise FailureError(f"{found.disagreements[0]}; install the same everywhere")


def _lines(found: Any) -> list[tuple[str, str]]:
    lines = [
        ("cluster", f"{found.spec}: {found.n_workers} workers on {found.n_hosts} hosts, "
         f"{found.n_threads} threads, the first after {duration(found.start_s)}"),
        ("memory", f"{short(found.task_bytes)}B for each task" if found.task_bytes
         else "no limit is set"),
        ("versions", "; ".join(found.disagreements) or "the same everywhere"),
        ("task", f"{found.task_s * 1000:.2f} ms to hand out and collect one that does nothing"),
        ("compress", f"{short(found.codec_bytes_per_s)}B/s of voxels, all threads together"),
    ]  # fmt: skip
    if found.store:
        lines += [
            ("store", f"{found.store}: every worker sees it, and is seen there"),
            ("write", f"{short(found.write_bytes_per_s)}B/s, all threads together"),
            ("read", f"{short(found.read_bytes_per_s)}B/s, of what was just written"),
        ]
    e = found.expected
    shape = " x ".join(f"{n:,}" for n in e.shape)
    lines += [
        ("expect", f"{shape} voxels: {e.n_tasks:,} tasks, {short(e.read_bytes)}B read, "
         f"{short(e.write_bytes)}B written"),
        ("", f"about {duration(e.seconds)}, held up by {e.bound}"),
    ]  # fmt: skip
    return lines


def _init(args: argparse.Namespace) -> None:
    from thc_dask.cluster import profiles

    if args.spec is not None:
        raise RequestError(f"cluster init takes no {args.spec!r}; it makes the file of them all")
    show({"written": str(profiles.init())}, args.json)


ACTIONS = {"show": _show, "check": _check, "init": _init}
