"""How often intervals of distances hold the truth: BCa's, and those that allow for chance.

    python benchmarks/distances.py --trials 80 --seed 0

Two regions of grey levels around 100 and 100 + ``apart``, whose means differ from plane to plane by
``between``; what planes come to without end is the truth. Nothing is timed: ``docs/statistics.md``
has the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import numpy as np

from thc_dask.kernels import statistics

MEASURES = ("kl", "js", "hellinger", "wasserstein", "total_variation", "cosine")
PLANES, BETWEEN, APART = (5, 8, 20), (0, 1, 2, 5, 10, 20), (0, 8, 20)
LEVELS, MEAN, SD = np.arange(256), 100, 60
SMOOTHING = 1e-6


def shares(mean: float) -> Any:
    """Return the shares of grey levels of a plane."""
    p = np.exp(-(((LEVELS - mean) / SD) ** 2) / 2)
    return p / p.sum()


def truth(mean: float, between: float) -> Any:
    """Return the shares of all planes there could be."""
    steps = np.linspace(-4, 4, 81)
    weights = np.exp(-(steps**2) / 2)
    return np.average([shares(mean + between * s) for s in steps], axis=0, weights=weights)


def held(trials: int, n_planes: int, between: float, apart: float, n_vox: int, seed: int) -> Any:
    """Return (BCa or ours, measure): how often an interval holds the truth."""
    rng = np.random.default_rng(seed)
    known = statistics.chosen(MEASURES, statistics.INTENSITY)

    def statistic(h: Any) -> Any:
        first, second = np.moveaxis((h + SMOOTHING) / (h + SMOOTHING).sum(-1, keepdims=True), -2, 0)
        return np.stack([m.of(first, second) for m in known.values()], axis=-1)

    wanted = statistic(1e12 * np.stack([truth(MEAN, between), truth(MEAN + apart, between)]))
    found = np.zeros((2, len(known)))
    for _ in range(trials):
        means = rng.normal([MEAN, MEAN + apart], between, (n_planes, 2))
        planes = np.array([[rng.multinomial(n_vox, shares(m)) for m in pair] for pair in means])
        how = statistics.Resampling(500, seed=int(rng.integers(2**31)))
        kinds = [m.distance for m in known.values()]
        for i, distances in enumerate(((), kinds)):
            low, high = statistics.intervals(statistic, planes, None, how, distances)
            found[i] += (low <= wanted) & (wanted <= high)
    return found / trials


def main() -> None:
    """Print a line of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--vox", type=int, default=16384, help="of a plane and region")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for n_planes, between, apart in itertools.product(PLANES, BETWEEN, APART):
        bca, ours = held(args.trials, n_planes, between, apart, args.vox, args.seed)
        case = {"planes": n_planes, "between": between, "apart": apart}
        rows = {"bca": bca, "ours": ours}
        print(json.dumps(case | {k: dict(zip(MEASURES, v.tolist(), strict=True))
                                 for k, v in rows.items()}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
