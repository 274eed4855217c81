"""Damage one file of a store at a time, in every way and place, and ask ``verify`` for it.
``python -m tests.damager -n 400`` does so many times; ``tests/test_verify.py`` a few.
"""

import argparse
import collections
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from thc_dask import convert, count, labels, verify
from thc_dask.store.location import LOCK

SHAPE = "70,90,150?seed=2"
WAYS = ("missing", "truncated", "flipped")


def make_store(store):
    """Write a store with everything in it: image, two label sets, tables."""
    volume = convert(f"phantom:{SHAPE}", store, levels=4, chunk=(16, 16, 16), shard=(64, 64, 64),
                     count=True)  # fmt: skip
    roi = f"phantom:{SHAPE}&channel=roi"
    volume = labels(roi, volume, "roi", "prasad2020-roi", planes=[10, 40])
    volume = labels(roi, volume, into="roi", planes=[60])
    structures = f"phantom:{SHAPE}&channel=microstructure"
    count(labels(structures, volume, "ms", "prasad2020-microstructure"))
    return store


def files_of(store):
    """Return the keys of all files but the lock, which is empty."""
    every = (os.path.relpath(Path(d, f), store) for d, _, fs in os.walk(store) for f in fs)
    return sorted(key for key in every if key != LOCK)


def damage(path, how, rng):
    """Remove a file, cut it off anywhere, or flip one bit of it."""
    data = bytearray(path.read_bytes())
    if how == "missing" or not data:
        path.unlink()
        return
    at = int(rng.integers(len(data)))
    if how == "truncated":
        data = data[:at]
    else:
        data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def kind_of(key):
    """Return what kind of file a key is, for a table of what was damaged."""
    top = "labels" if key.startswith("labels/") else "counts" if key.startswith("counts/") else ""
    if key.endswith("zarr.json") or key == "thc/root.json":
        return "metadata"
    if key.startswith("thc/"):
        return "receipts"
    if key.rsplit("/c/", 1)[0].rsplit("/", 1)[-1] in "zyx":
        return "coordinates"
    return f"{top} shard" if top != "counts" else "count table"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400, help="how many damages, each alone")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, found = np.random.default_rng(args.seed), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "volume.ome.zarr"))
        before = {key: (store / key).read_bytes() for key in files_of(store)}
        order = [
            key for _ in range(-(-args.n // len(before))) for key in rng.permutation(list(before))
        ]
        for i, key in enumerate(order[: args.n]):
            how = WAYS[(i + i // len(before)) % 3]
            damage(store / key, how, rng)
            first = verify(store, spot_checks=0)
            assert [p["key"] for p in first["problems"]] == [key], (key, how, first)
            last = verify(store, repair=True, spot_checks=0)
            assert last["whole"], (key, how, last)
            assert last["mended"] == [key], (key, how, last)
            assert {k: (store / k).read_bytes() for k in files_of(store)} == before, (key, how)
            found[f"{kind_of(key).strip()}, {how}"] += 1
    facts = {"files": len(before), "damages": sum(found.values()), **dict(sorted(found.items()))}
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
