"""How often intervals hold the truth, and tests say that equal regions differ, on the phantom.

    python benchmarks/intervals.py --shape 512,256,768 --draws 1000 --seed 0

A phantom is converted, labelled and counted once. What all its planes come to is the truth; then
some planes are drawn, again and again, and from each draw intervals are made as for annotated
planes. Nothing is timed: the figures of ``docs/statistics.md`` come from here.
"""

from __future__ import annotations

import argparse
import itertools
import json
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from thc_dask import fractions, histogram
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.kernels import statistics
from thc_dask.labels import write_labels
from thc_dask.query import ask
from thc_dask.store.read import Store

DISTANCES = ("js", "wasserstein", "cliffs_delta", "mean_difference")


def tables(shape: str, seed: int) -> tuple[Any, Any]:
    """Return counts by plane of a phantom: (plane, region, structure) and (..., intensity)."""
    with TemporaryDirectory() as folder:
        store = f"{folder}/v.ome.zarr"
        write_store(f"phantom:{shape}?seed={seed}", store)
        for name in ("roi", "microstructure"):
            channel = f"phantom:{shape}?channel={name}&seed={seed}"
            write_labels(channel, store, name, f"prasad2020-{name}")
        write_counts(store)
        of = ask(Store(store), "roi", "microstructure", by_plane=True).data
        keep = fractions(store, n_resamples=0)["region_code"].values != 0
        return of[:, keep], histogram(store, by_plane=True).values[:, keep]


def drawn(rng: np.random.Generator, n_planes: int, k: int, how: str) -> Any:
    """Return k planes: far apart as annotators take them, or a run of neighbours."""
    if how == "apart":
        return np.sort(rng.choice(n_planes, k, replace=False))
    start = rng.integers(n_planes - k + 1)
    return np.arange(start, start + k)


def pooled(table: Any, block: int) -> Any:
    """Return counts by block of planes."""
    return np.add.reduceat(table, np.arange(0, len(table), block), axis=0)


def share_held(truth: Any, low: Any, high: Any) -> float:
    """Return how often an interval holds the truth, where there is one."""
    there = np.isfinite(low) & np.isfinite(high) & np.isfinite(truth)
    return float(((low <= truth) & (truth <= high))[there].mean())


def coverage(of: Any, grey: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows (what, how planes were drawn, planes, block, coverage)."""
    rows = []
    held = [r for r in range(of.shape[1]) if of[:, r].any(axis=1).mean() > 0.9]
    of, grey = of[:, held], grey[:, held]
    measures = statistics.chosen(DISTANCES, statistics.INTENSITY)
    true_of = statistics.fractions(of)
    true_grey = np.stack(list(statistics.summary_of(grey.sum(axis=0)).values()))
    whole = statistics.Resampling(0)
    true_far = statistics.compared(grey, None, measures, 0.0, whole)
    for (how, k), block in itertools.product(
        [("apart", k) for k in args.planes] + [("neighbours", 64)], (1, 16)
    ):
        if block > 1 and how == "apart":
            continue
        rng = np.random.default_rng(args.seed)
        found: dict[str, list[float]] = {}
        for i in range(args.draws):
            planes = drawn(rng, len(of), k, how)
            draws = statistics.Resampling(args.resamples, 0.95, args.seed + i)
            some = pooled(of[planes], block)
            low, high = statistics.bootstrap_fractions(some, args.resamples, seed=draws.seed)
            found.setdefault("fractions", []).append(
                share_held(true_of[:, 1:], low[:, 1:], high[:, 1:])
            )
            if i % args.thin:
                continue
            ends = statistics.bootstrap_summary(pooled(grey[planes], block), how=draws)
            for j, name in enumerate(statistics.UNITS):
                found.setdefault(name, []).append(share_held(true_grey[j], *ends[1:, j]))
            far = statistics.compared(pooled(grey[planes], block), None, measures, 0.0, draws)
            upper = np.triu_indices(len(held), 1)
            for name in DISTANCES:
                found.setdefault(name, []).append(
                    share_held(*(v[upper] for v in (true_far[name][0], *far[name][1:])))
                )
        rows += [
            {"what": name, "drawn": how, "planes": k, "block": block, "draws": len(v),
             "coverage": round(float(np.nanmean(v)), 3)}
            for name, v in found.items()
        ]  # fmt: skip
    return rows


def size(grey: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return how often p < 0.05 for two sets of planes of one region, which do not differ."""
    rng = np.random.default_rng(args.seed)
    region = int(np.argmax(grey.sum(axis=(0, 2))))
    profiles = statistics.shares_of(grey[:, region][grey[:, region].any(axis=1)])
    rows = []
    for k in args.planes:
        p = []
        for i in range(args.draws):
            planes = rng.choice(len(profiles), 2 * k, replace=False)
            a, b = profiles[planes[:k]], profiles[planes[k:]]
            p.append(statistics.permuted(
                a, b, (np.arange(k), np.arange(k, 2 * k)),
                lambda x, y: statistics.wasserstein(x, y)[..., None], 999, i,
            ).p[0])  # fmt: skip
        rows.append({"what": "p < 0.05", "planes": k, "draws": len(p),
                     "share": round(float(np.mean(np.array(p) < 0.05)), 3)})  # fmt: skip
    return rows


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="512,256,768")
    parser.add_argument("--planes", type=lambda t: [int(k) for k in t.split(",")],
                        default=[2, 3, 5, 8, 11, 30])  # fmt: skip
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--thin", type=int, default=5, help="intensities of every so many draws")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    of, grey = tables(args.shape, args.seed)
    print(json.dumps({**vars(args), "coverage": coverage(of, grey, args),
                      "tests": size(grey, args)}))  # fmt: skip


if __name__ == "__main__":
    main()
