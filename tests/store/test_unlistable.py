"""A store behind plain HTTP: objects can be read by name, and nothing can be listed."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import thc_dask as thc
from thc_dask.grid import parse_box

SHAPE = "phantom:32,64,96"


class Unlistable(MemoryFileSystem):
    """What is in memory, by name only."""

    protocol = ("unlistable",)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("unlistable://", "memory://"))

    def ls(self, path, detail=True, **kwargs):
        raise NotImplementedError("a web server does not list")


@pytest.fixture
def url():
    """A counted volume that was written where it could be listed, and is read where not."""
    fsspec.register_implementation("unlistable", Unlistable, clobber=True)
    sizes = {"chunk": (16,) * 3, "shard": (64,) * 3}
    volume = thc.convert(SHAPE, "memory://web/volume.ome.zarr", **sizes, overwrite=True)
    volume = thc.labels(f"{SHAPE}?channel=roi", volume, "roi", "prasad2020-roi")
    thc.count(volume)
    return "unlistable://web/volume.ome.zarr"


@pytest.mark.parametrize("box", [None, "0:20,0:40,0:40", ":,0:40,0:40"])
def test_tables_answer_without_a_listing(url, box):
    box = None if box is None else parse_box(box)
    found = thc.histogram(url, "roi", box).compute()
    expected = thc.histogram("memory://web/volume.ome.zarr", "roi", box).compute()
    assert "table" in found.attrs["answered_from"]
    assert found.equals(expected)
    assert int(found.sum()) > 0


def test_open_volume_finds_everything(url):
    volume = thc.open_volume(url)
    assert {"/0", "/labels/roi/0", "/counts/roi/plane"} <= set(volume.groups)
