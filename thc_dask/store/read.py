"""Open a store: its record, its voxels chunk by chunk, and all of it as xarray."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask.errors import MissingError, RequestError, UnfinishedError
from thc_dask.grid import Extent, Grid, Vox
from thc_dask.schemes import Scheme
from thc_dask.store import metadata
from thc_dask.store.books import Book, book_key
from thc_dask.store.layout import Level, make_levels
from thc_dask.store.location import Location, locate
from thc_dask.store.publish import PLAN, is_free
from thc_dask.store.root import ROOT, UNSETTLED
from thc_dask.store.shards import ArrayReader

if TYPE_CHECKING:
    import xarray as xr

OPENED = "open_volume:"  # of graphs, before the store that they read


class Store:
    """A finished store and what its metadata say; opening it reads one object.

    Raises
    ------
    MissingError
        There is nothing.
    UnfinishedError
        A conversion began there and did not end.
    RequestError
        What is there is not one of our stores.
    """

    def __init__(self, store: str | os.PathLike[str] | Location) -> None:
        self.location = locate(store) if isinstance(store, str | os.PathLike) else store
        data = self.location.get(ROOT)
        if data is None:
            raise self._why_not()
        self.root_bytes = data
        try:
            self.root: metadata.Node = json.loads(data)
            self.thc: dict[str, Any] = self.root["attributes"]["thc"]
            self.nodes: dict[str, metadata.Node] = self.root["consolidated_metadata"]["metadata"]
            made_with = int(self.thc["format"])
        except (KeyError, TypeError, ValueError):
            raise RequestError(
                f"{self.url} is not a store of thc_dask; make one: thc convert {self.url} STORE"
            ) from None
        if made_with > metadata.FORMAT:
            raise RequestError(
                f"{self.url} has store format {made_with}; this version of thc_dask reads "
                f"up to {metadata.FORMAT}: upgrade it"
            )

    @property
    def unsettled(self) -> str | None:
        """The group whose files are being moved into place, ``labels/roi``; None as a rule."""
        found = self.thc.get(UNSETTLED)
        return None if found is None else str(found)

    def _why_not(self) -> Exception:
        if self.location.get(PLAN) is not None:
            return UnfinishedError(
                f"{self.url} is not finished: its conversion is still running, or was interrupted; "
                "wait for it, or convert again with --resume, or with --overwrite to begin anew"
            )
        if os.path.isfile(self.url):
            return RequestError(
                f"{self.url} is a file and not a store; make one of it with: "
                f"thc convert {self.url} STORE"
            )
        if not is_free(self.location):
            return RequestError(
                f"{self.url} is not a store; make one with: thc convert SOURCE STORE"
            )
        return MissingError(f"{self.url} does not exist; make it with: thc convert SOURCE STORE")

    @property
    def url(self) -> str:
        """Where it is, as it was named."""
        return self.location.url

    @cached_property
    def levels(self) -> list[Level]:
        """The levels, finest first."""
        layout = self.thc["layout"]
        grid = Grid(*(tuple(layout[k]) for k in ("shape", "spacing_um", "origin_um")))
        chunk, shard = (tuple(layout[k]) for k in ("chunk", "shard"))
        return make_levels(grid, layout["levels"], chunk, shard)

    @property
    def grid(self) -> Grid:
        """The finest grid."""
        return self.levels[0].grid

    @cached_property
    def label_sets(self) -> dict[str, LabelSet]:
        """The label sets by name."""
        names = [
            p.split("/")[1] for p in self.nodes if p.startswith("labels/") and p.count("/") == 1
        ]
        return {name: LabelSet(self, name) for name in sorted(names)}

    def label_set(self, name: str) -> LabelSet:
        """Return one label set; MissingError names those that exist."""
        if self.unsettled == f"labels/{name}":
            raise MissingError(f"{self.url}: {_being_replaced(self.unsettled)}")
        if name not in self.label_sets:
            known = ", ".join(self.label_sets) or "none yet: add one with thc labels"
            raise MissingError(f"{self.url} has no label set {name!r}; it has: {known}")
        return self.label_sets[name]

    def array(self, path: str, level: int = 0) -> ArrayReader:
        """Return a reader of the voxels at ``path`` of that level."""
        node, geometry = self.nodes[path], self.levels[level]
        dtype = np.dtype(node["data_type"])
        parts = path.split("/")
        named = Named(self, "/".join(parts[:2]) if parts[2:] else "image")
        return ArrayReader(
            self.location, path, geometry.grid.shape, geometry.chunk, geometry.shard, dtype, named
        )

    def book(self, what: str) -> Book:
        """Return where the receipts of ``image``, a label set, a table or a map are."""
        if what == "image":
            return Book(book_key(what), self.digest)
        if what.startswith("labels/"):
            labels = self.label_sets[what.removeprefix("labels/")]
            meaning = {"scheme": labels.thc["scheme"], "extents": labels.thc["extents"]}
            return Book(book_key(what), labels.digest, meaning)
        if what.startswith("counts/"):
            return Book(book_key(what), self.nodes[f"{what}/plane"]["attributes"]["files"])
        return Book(book_key(what), self.nodes[what]["attributes"]["thc"]["files"])

    def image(self, level: int = 0) -> ArrayReader:
        """Return a reader of the image."""
        return self.array(f"{level}/image", level)

    @property
    def digest(self) -> str:
        """What identifies the image's voxels."""
        return str(self.thc["digest"])


class LabelSet:
    """One label set of a store: scheme, what is known, and its voxels."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.thc: dict[str, Any] = store.nodes[f"labels/{name}"]["attributes"]["thc"]

    @cached_property
    def scheme(self) -> Scheme:
        """Codes, names, colours."""
        return Scheme.from_dict(self.thc["scheme"])

    @cached_property
    def extents(self) -> list[Extent]:
        """Where the labels are known: boxes of voxels of level 0."""
        return metadata.extents_from_lists(self.thc["extents"])

    @property
    def digest(self) -> str:
        """What identifies its voxels."""
        return str(self.thc["digest"])

    def array(self, level: int = 0) -> ArrayReader:
        """Return a reader of its voxels."""
        return self.store.array(f"labels/{self.name}/{level}/{self.name}", level)


class Named:
    """Which files the receipts of a pyramid name, as ``Store.book`` has it.

    They are read when that is asked first: as a rule nobody does.
    """

    def __init__(self, store: Store, what: str) -> None:
        self._location, self._what = store.location, what
        self._store: Store | None = store
        self._keys: set[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None, "_keys": None}  # a task must be small

    def __contains__(self, key: object) -> bool:
        if self._keys is None:
            store = self._store or Store(self._location)
            found, _ = store.book(self._what).read(self._location)
            self._keys = set(found)
        return key in self._keys


def open_volume(store: str | os.PathLike[str]) -> xr.DataTree:
    """Return a store as a lazy ``xarray.DataTree``; nothing but metadata is read.

    Node ``/0`` holds ``image`` (z, y, x) of the finest level and its coordinates in micrometers,
    ``/labels/roi/0`` the label set ``roi``, ``/counts/...`` the count tables. Voxels are dask
    arrays, one dask chunk for each shard.

    Warns where a label set is missing because its new files are just being moved into place.

    Raises
    ------
    MissingError, UnfinishedError, RequestError
        There is no store, a conversion did not end, or it is not one of ours.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert
    >>> path = mkdtemp() + "/volume.ome.zarr"
    >>> _ = convert("phantom:32,64,96", path)
    >>> open_volume(path)["0/image"].dims
    ('z', 'y', 'x')
    """
    import xarray as xr

    opened = Store(store)
    if opened.unsettled is not None:
        warnings.warn(f"{opened.url}: {_being_replaced(opened.unsettled)}", stacklevel=2)
    tree = xr.open_datatree(opened.location.for_zarr(), engine="zarr", chunks=None)
    nodes = {
        path: _in_shards(node.to_dataset(inherit=False), opened, path) for path, node in _walk(tree)
    }
    volume = xr.DataTree.from_dict(nodes)
    volume.attrs["store"] = opened.url
    return volume


def _being_replaced(group: str) -> str:
    return (
        f"{group} is just being replaced, or that was cut off, and cannot be read; open it again, "
        "or complete it with thc verify --repair"
    )


def _walk(tree: xr.DataTree) -> list[tuple[str, xr.DataTree]]:
    return [(node.path, node) for node in tree.subtree]


def _in_shards(dataset: xr.Dataset, store: Store, path: str) -> xr.Dataset:
    """Return the dataset with voxels as dask arrays of a shard a chunk."""
    name = path.rsplit("/", 1)[-1]
    if set(dataset.dims) != {"z", "y", "x"} or not name.isdigit():
        return dataset
    shard: Vox = store.levels[int(name)].shard
    chunks: Mapping[Any, Any] = dict(zip("zyx", shard, strict=True))
    return dataset.chunk(chunks, name_prefix=f"{OPENED}{store.url}#")


def stores_behind(array: Any) -> Iterator[str]:
    """Yield the stores that a lazy array of voxels is computed from, if ``open_volume`` gave it."""
    layers = getattr(getattr(array.data, "dask", None), "layers", {})
    for name in layers:
        if str(name).startswith(OPENED):
            yield str(name).removeprefix(OPENED).rpartition("#")[0]


def store_of(volume: Any) -> Store:
    """Return the store behind what a user gives: a path, a URL, or an opened volume."""
    if isinstance(volume, Store):
        return volume
    if isinstance(volume, str | os.PathLike):
        return Store(volume)
    url = getattr(volume, "attrs", {}).get("store")
    if url is None:
        raise RequestError(
            f"{type(volume).__name__} is not a volume: give what open_volume returned, or a path"
        )
    return Store(url)
