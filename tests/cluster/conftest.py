"""A small volume that every cluster makes, and what threads make of it."""

import pytest

from tests.assertions import read_files
from thc_dask import convert, count, labels

SOURCE = "phantom:32,64,96"
LAYOUT = {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 3}


def make(store):
    """Convert, label and count; return all bytes of the store."""
    convert(SOURCE, store, **LAYOUT)
    labels(f"{SOURCE}?channel=roi", store, "roi", "prasad2020-roi")
    count(store)
    return read_files(store)


@pytest.fixture(scope="session")
def volume():
    """The source, and the options of its conversion."""
    return SOURCE, LAYOUT


@pytest.fixture(scope="session")
def build():
    """The function that makes a whole store."""
    return make


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """What threads of this process make: a store, and its files."""
    store = tmp_path_factory.mktemp("threads") / "v.ome.zarr"
    return store, make(store)


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """Return a function that writes the file of profiles, for this test alone."""
    folder = tmp_path / "settings"
    folder.mkdir()
    monkeypatch.setenv("DASK_CONFIG", str(folder))

    def write(text):
        (folder / "thc_dask.yaml").write_text(text)
        return folder / "thc_dask.yaml"

    return write
