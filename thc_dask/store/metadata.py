"""The JSON of a store: zarr v3 nodes, OME-Zarr 0.5, and our own ``thc`` record.

Written by hand because opening a store must not cost an import of zarr; the tests hold it
against zarr, xarray, yaozarrs, ome-zarr-models and TensorStore.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask.grid import AXES, Extent, Grid
from thc_dask.schemes import Scheme
from thc_dask.store.layout import Level
from thc_dask.store.shards import Codec

FORMAT = 1  # of the thc record; see docs/format.md
OME = "0.5"
TABLE_LEVEL = 1  # of zstd: tables are mostly zeros, and higher levels hardly smaller
LONG_NAMES = {
    "z": "voxel centres along z (plane)",
    "y": "voxel centres along y",
    "x": "voxel centres along x",
}

Node = dict[str, Any]

LINES_DEPTH = 3  # what lies deeper has no lines of its own


def dumps(node: Node) -> bytes:
    """Return JSON that is the same for the same content, with a line for each node or attribute.

    More lines would be made by Python, which takes four times as long.
    """
    return _lines(node, 0).encode()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(value: Any, depth: int) -> str:
    if depth == LINES_DEPTH or not isinstance(value, dict) or not value:
        return _compact(value)
    pad = " " * depth
    items = (f"{pad} {_compact(k)}: {_lines(v, depth + 1)}" for k, v in value.items())
    return "{\n" + ",\n".join(items) + f"\n{pad}}}"


def group(attributes: Node | None = None) -> Node:
    """Return the metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}


def _array(
    shape: Sequence[int], dtype: str, chunk: Sequence[int], names: Sequence[str],
    codecs: list[Node], attributes: Node, fill: float,
) -> Node:  # fmt: skip
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": attributes,
        "storage_transformers": [],
        "dimension_names": list(names),
    }


def sharded_array(level: Level, dtype: np.dtype[Any], codec: Codec, attributes: Node) -> Node:
    """Return the metadata of the voxels of one level."""
    little: Node = {"name": "bytes"}
    if dtype.itemsize > 1:
        little["configuration"] = {"endian": "little"}
    zstd = {"level": codec.level or 1, "checksum": False}
    inner = [little, {"name": "zstd", "configuration": zstd}, {"name": "crc32c"}]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": list(level.chunk),
        "codecs": inner,
        "index_codecs": index,
        "index_location": "end",
    }
    return _array(
        level.grid.shape, dtype.name, level.shard, AXES,
        [{"name": "sharding_indexed", "configuration": sharding}], attributes, 0,
    )  # fmt: skip


def coordinate_array(grid: Grid, axis: int) -> tuple[Node, bytes]:
    """Return the metadata and the only chunk of a coordinate array, float64 micrometers."""
    values = grid.coordinates(axis)
    attributes = {
        "units": "micrometer",
        "long_name": LONG_NAMES[AXES[axis]],
        "axis": AXES[axis].upper(),
    }
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    node = _array(values.shape, "float64", values.shape, [AXES[axis]], [little], attributes, 0.0)
    return node, values.astype("<f8").tobytes()


def table_node(
    shape: Sequence[int], dtype: np.dtype[Any], sizes: Sequence[int], names: Sequence[str],
    attributes: Node,
) -> Node:  # fmt: skip
    """Return the metadata of an array of a table."""
    little: Node = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": TABLE_LEVEL, "checksum": False}}
    return _array(shape, dtype.name, sizes, names, [little, zstd], attributes, 0)


def table_array(
    values: NDArray[Any], chunk: Sequence[int], names: Sequence[str], attributes: Node
) -> tuple[Node, dict[str, bytes]]:
    """Return the metadata of an array of a table, and its chunks by place; zeros have none."""
    sizes = [max(1, n) for n in chunk]
    dtype = values.dtype.newbyteorder("=")
    node = table_node(values.shape, dtype, sizes, names, attributes)
    compressor = zstandard.ZstdCompressor(level=TABLE_LEVEL, write_content_size=True)
    found: dict[str, bytes] = {}
    for place in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, sizes, strict=True))):
        part = values[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, sizes, strict=True))]
        if part.any():
            whole = np.zeros(sizes, dtype.newbyteorder("<"))
            whole[tuple(slice(0, n) for n in part.shape)] = part
            found["/".join(map(str, place))] = compressor.compress(whole.data.cast("B"))
    return node, found


def multiscales(name: str, levels: Sequence[Level], method: Node) -> list[Node]:
    """Return OME-Zarr 0.5 ``multiscales`` of the arrays ``<level>/<name>``."""
    datasets = [
        {
            "path": f"{level.index}/{name}",
            "coordinateTransformations": [
                {"type": "scale", "scale": list(level.grid.spacing_um)},
                {"type": "translation", "translation": list(level.grid.origin_um)},
            ],
        }
        for level in levels
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in AXES]
    return [
        {
            "name": name,
            "type": method["type"],
            "metadata": method,
            "axes": axes,
            "datasets": datasets,
        }
    ]


MEAN = {
    "type": "local_mean",
    "method": "mean of the up to 2x2x2 voxels of the finer level that exist",
    "rounding": "half to even, at every level",
}
MODE = {
    "type": "mode",
    "method": "most frequent of the up to 2x2x2 known voxels of the finer level",
    "ties": "smallest code",
}


def omero(name: str, window: tuple[float, float], limits: tuple[float, float], z: int) -> Node:
    """Return the display settings that viewers start with."""
    channel = {
        "label": name,
        "color": "FFFFFF",
        "active": True,
        "window": {"min": limits[0], "max": limits[1], "start": window[0], "end": window[1]},
    }
    return {"channels": [channel], "rdefs": {"model": "greyscale", "defaultZ": z}}


def image_label(scheme: Scheme) -> Node:
    """Return OME-Zarr 0.5 ``image-label``: colours and names of the codes."""
    colors = [
        {"label-value": x.code, "rgba": [*x.rgb, 255 if x.code else 0]} for x in scheme.labels
    ]
    properties = [{"label-value": x.code, "name": x.name, "title": x.title} for x in scheme.labels]
    return {"colors": colors, "properties": properties, "source": {"image": "../../"}}


def extents_as_lists(extents: Sequence[Extent]) -> list[list[list[int]]]:
    """Return annotated extents for JSON: ``[[start z,y,x], [stop z,y,x]]`` each."""
    return [[list(e.start), list(e.stop)] for e in extents]


def extents_from_lists(data: Sequence[Sequence[Sequence[int]]]) -> list[Extent]:
    """Return what ``extents_as_lists`` described."""
    return [Extent((a[0], a[1], a[2]), (b[0], b[1], b[2])) for a, b in data]


def consolidate(root: Node, nodes: dict[str, Node]) -> Node:
    """Return the root's metadata with that of every node below it."""
    below = {path: nodes[path] for path in sorted(nodes)}
    return root | {
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": below}
    }
