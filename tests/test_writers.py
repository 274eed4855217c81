"""Several processes that change one store: none loses what another wrote."""

import subprocess
import sys

import numpy as np
import pytest

from tests.assertions import read_voxels
from tests.strategies import source
from thc_dask import verify
from thc_dask.convert import write_store
from thc_dask.labels import write_labels
from thc_dask.schemes import find_scheme
from thc_dask.sources import open_reader
from thc_dask.store.read import Store

SHAPE = "16,24,32?seed=2"
ROI = f"phantom:{SHAPE}&channel=roi"
# As often as the lock is somebody else's: nothing here waits for long.
WRITER = """
import sys
from thc_dask.count import write_counts
from thc_dask.errors import ExistsError
from thc_dask.labels import write_labels
store, source, *names = sys.argv[1:]
tries = 0
while names and tries < 20000:
    tries += 1
    try:
        if names[0] == "count":
            write_counts(store, "first")
        elif names[0] == "into":
            write_labels(source, store, into="first", planes=[9])
        else:
            write_labels(source, store, names[0], "prasad2020-roi", planes=[3])
    except ExistsError as error:
        if "being written by another process" not in str(error):
            raise
    else:
        names.pop(0)
print(len(names))
"""


@pytest.fixture
def store(tmp_path):
    store = tmp_path / "v.ome.zarr"
    write_store(f"phantom:{SHAPE}", store, levels=2, chunk=(16, 16, 16), shard=(16, 16, 16))
    write_labels(ROI, store, "first", "prasad2020-roi", planes=[5])
    return store


def test_writers_at_once_lose_nothing(store):
    jobs = [["a", "into", "b", "count"], ["c", "count", "d"]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), ROI, *job],
            stdout=subprocess.PIPE, text=True,
        )
        for job in jobs
    ]  # fmt: skip
    left = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert left == ["0", "0"]
    opened = Store(store)
    assert sorted(opened.label_sets) == sorted(["first", *"abcd"])
    assert "counts/first/plane" in opened.nodes
    assert {e.start[0] for e in opened.label_set("first").extents} == {5, 9}
    found = verify(store)
    assert (found["problems"], found["unknown"], found["left_over"]) == ([], [], [])


class Held:
    """A source that is opened while another process tries to write."""

    def __init__(self, reader, command):
        self._reader, self._command, self.said = reader, command, None

    def __getattr__(self, name):
        if self.said is None:
            done = subprocess.run(self._command, capture_output=True, text=True, check=False)
            self.said = done.stderr
        return getattr(self._reader, name)


def test_nobody_comes_between_reading_and_writing(store):
    labels = np.full((16, 24, 32), 1, np.uint8)
    code = (
        "import sys; from thc_dask.labels import write_labels; "
        "write_labels(*sys.argv[1:3], 'other', 'prasad2020-roi')"
    )
    command = [sys.executable, "-c", code, ROI, str(store)]
    held = Held(open_reader(source(labels), None, None), command)
    write_labels(held, store, "mine", find_scheme("prasad2020-roi"))
    assert "being written by another process; wait for it to end" in held.said
    subprocess.run(command, check=True)
    assert sorted(Store(store).label_sets) == ["first", "mine", "other"]
    np.testing.assert_array_equal(read_voxels(store, "labels/mine/0/mine"), labels)
