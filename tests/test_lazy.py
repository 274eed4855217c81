"""Lazy answers: each voxel read once for all that is asked of it, and never of two states."""

import numpy as np
import pytest

from thc_dask import compare, convert, fractions, histogram, labels, profile, query, summary
from thc_dask.count import write_counts
from thc_dask.errors import DataError
from thc_dask.grid import Box
from thc_dask.maps import maps

SOURCE = "phantom:48,64,96?seed=3"
SIZES = {"chunk": (16, 16, 16), "shard": (32, 32, 32), "levels": 2}
CUT = Box((1, 1, 1), (44, 60, 90))
DRAWN = {"n_resamples": 20, "seed": 1}


@pytest.fixture
def store(tmp_path):
    store = tmp_path / "v.ome.zarr"
    convert(SOURCE, store, **SIZES)
    labels(f"{SOURCE}&channel=roi", store, "roi", "prasad2020-roi")
    labels(f"{SOURCE}&channel=microstructure", store, "micro", "prasad2020-microstructure")
    write_counts(store)
    return store


ASKED = {
    "histogram": lambda store: histogram(store, box=CUT),
    "fractions": lambda store: fractions(store, "micro", box=CUT, **DRAWN),
    "summary": lambda store: summary(store, box=CUT, **DRAWN),
    "compare": lambda store: compare(store, box=CUT, **DRAWN),
    "profile": lambda store: profile(store, "x", step_um=20, **DRAWN),
    "maps": lambda store: maps(store, "micro", cell_um=9),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
def test_voxels_are_read_once_for_all_variables(store, ask, monkeypatch):
    asked = []

    def watched(function):
        def call(task, places, *more):
            asked.append((id(function), tuple(map(tuple, np.asarray(places).tolist()))))
            return function(task, places, *more)

        return call

    for name in ("_sum_of_planes", "_some_planes"):
        monkeypatch.setattr(query, name, watched(getattr(query, name)))
    found = ask(store)
    assert asked == []  # nothing is computed while a graph is built
    found.compute(scheduler="synchronous")
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
def test_what_was_changed_after_it_was_asked_is_no_answer(store, ask):
    lazy = ask(store)
    lazy.compute()
    for name, channel, scheme in (
        ("roi", "roi", "prasad2020-roi"), ("micro", "microstructure", "prasad2020-microstructure"),
    ):  # fmt: skip
        new = f"phantom:48,64,96?seed=4&channel={channel}"
        labels(new, store, name, scheme, planes=[3, 20], overwrite=True)
    with pytest.raises(DataError, match=r"was changed after this was asked; ask again"):
        lazy.compute()
    assert ask(store).compute() is not None
