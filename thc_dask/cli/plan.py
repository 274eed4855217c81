"""Plans and outcomes of conversions, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from thc_dask.cli.printing import duration, short
from thc_dask.convert import Outcome
from thc_dask.plan import Plan


def times(numbers: Sequence[int]) -> str:
    """Return sizes along z, y, x.

    >>> times((720, 1420, 5805))
    '720 x 1,420 x 5,805'
    """
    return " x ".join(f"{n:,}" for n in numbers)


def _um(numbers: Sequence[float]) -> str:
    return ", ".join(f"{n:g}" for n in numbers)


def outcome(done: Outcome) -> str:
    """Return what a conversion came to, in one line."""
    made = f"{times(done.plan.shape)} voxels, {done.plan.n_levels} levels"
    if not done.n_files:
        return f"{made}; nothing was missing"
    return (
        f"{made}; {short(done.written_bytes)}B in {done.n_files:,} files, "
        f"{duration(done.seconds)}, {short(done.n_vox / done.seconds)}voxels/s"
    )


def plan_lines(plan: Plan) -> list[str]:
    """Return a plan as two tables: what it costs, and its levels."""
    costs = [(name, text) for name, text in _costs(plan) if text]
    width = max(len(name) for name, _ in costs) + 2
    lines = [f"{name:<{width}}{text}" for name, text in costs]
    table = [("level", "voxels (z, y, x)", "um", "chunk", "shard", "shards")]
    table += [
        (str(k), times(p.shape), _um(p.spacing_um), times(p.chunk), times(p.shard),
         f"{p.n_shards:,}")
        for k, p in enumerate(plan.levels)
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = ("  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in table)
    return [*lines, "", *rows]


def _costs(plan: Plan) -> list[tuple[str, str]]:
    passes = "once" if plan.n_passes == 1 else "twice: its grey levels are counted first"
    decoded = "" if plan.waste < 1.005 else f"; each voxel is decoded {plan.waste:.2f} times"
    looked = after = room = ""
    if plan.estimate is not None:
        after = f"about {short(plan.estimate.write_bytes)}B, {plan.estimate.ratio:.2f} times less"
        looked = (
            f"; an estimate from {plan.estimate.n_vox / math.prod(plan.shape):.2%} of the voxels"
        )
    if plan.free_bytes is not None:
        room = f"{short(plan.free_bytes)}B where the store will be"
    buffers, decoding = plan.buffers, ""
    if buffers.unit is not None:
        decoding = (
            f", {short(buffers.decoding_bytes)}B to decode the source in units of "
            f"{times(buffers.unit)} voxels"
        )
    return [
        ("voxels", f"{times(plan.shape)} of {plan.dtype}, {_um(plan.spacing_um)} um"),
        ("read", f"{short(plan.read_bytes)}B of {plan.source_dtype}, {passes}{decoded}"),
        ("to compress", f"{short(plan.write_bytes)}B, all levels"),
        ("written", after + looked),
        ("free", room),
        ("files", f"{plan.n_files:,} at most, {plan.n_shards:,} of them shards"),
        ("tasks", f"{plan.n_tasks:,}"),
        (
            "memory",
            f"{short(plan.memory_bytes)}B for each process: {short(buffers.slab_bytes)}B for "
            f"voxels of {buffers.n_planes} planes x {buffers.n_rows} rows at a time, "
            f"{short(buffers.shard_bytes)}B for open shards{decoding}",
        ),
    ]
