"""Overlapping tiles and where they lie, as one volume: put together block by block.

A manifest beside the tiles says where each begins, in voxels (z, y, x)::

    {
      "spacing": "1.17um",
      "tiles": [
        {"path": "tile0.tif", "offset": [0, 0, 0]},
        {"path": "tile1.tif", "offset": [0, 0, 1730]}
      ]
    }
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError, ThcError
from thc_dask.files import check_request, fingerprint, look_at
from thc_dask.grid import Extent, Grid, Um, Vox
from thc_dask.reader import Reader, read
from thc_dask.sources.mosaic.blend import Tile, average, cells, choose
from thc_dask.sources.mosaic.manifest import Entry, Manifest, claims, parse

__all__ = ["Mosaic", "claims", "open_mosaic"]

# What is read of each tile at a time.
STEP_BYTES = 32 * 2**20
MOST_EMPTY = 1000  # times the voxels of all tiles that their mosaic may have

Opener = Callable[[str, Um | None], Reader]


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Tiles as one ``Reader``: see ``open_mosaic``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel, the same in all tiles."""
    unit: Vox
    """The largest unit of a tile; where tiles begin elsewhere, two are decoded at each seam."""
    provenance: dict[str, Any]
    """kind, location, shape, dtype, number of tiles, feather and a fingerprint of the tiles."""
    tiles: tuple[Tile, ...] = field(repr=False)
    feather: int
    """From this distance on a weight grows no more, voxels; 0 where nothing is averaged."""

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x), of the tiles' own dtype, with the voxels from ``start`` on.

        Safe to call from several threads at once. Only tiles that reach into the block are read.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the mosaic.
        DataError
            A file of a tile is gone, was changed since it was opened, or is damaged.
        """
        check_request("mosaic", out, start, self.grid.shape, self.dtype)
        z, y, x = (a + n for a, n in zip(start, out.shape, strict=True))
        box = Extent(start, (z, y, x))
        tiles = [tile for tile in self.tiles if tile.extent.intersect(box).n_vox]
        if len(tiles) == 1 and tiles[0].extent.contains(box):
            _read_tile(tiles[0], box, out)
            return
        for slab in self._slabs(box):
            self._fill(out[slab.start[0] - start[0] : slab.stop[0] - start[0]], slab, tiles)

    def _slabs(self, box: Extent) -> list[Extent]:
        """Return runs of whole units of planes: what is held of each tile stays small."""
        planes, unit = box.shape[0], self.unit[0]
        plane_bytes = max(1, box.n_vox * self.dtype.itemsize // max(1, planes))
        step = max(1, STEP_BYTES // plane_bytes // unit) * unit
        cuts = [box.start[0], *range(box.start[0] // step * step + step, box.stop[0], step)]
        return [
            Extent((a, *box.start[1:]), (b, *box.stop[1:]))
            for a, b in itertools.pairwise([*cuts, box.stop[0]])
        ]

    def _fill(self, out: NDArray[Any], box: Extent, tiles: Sequence[Tile]) -> None:
        """Cut a box where tiles begin and end, so that the same tiles lie under all of a cell."""
        parts = [(tile, both) for tile in tiles if (both := tile.extent.intersect(box)).n_vox]
        voxels = [_read_tile(tile, both) for tile, both in parts]
        out[...] = 0
        for cell in cells(box, [both for _, both in parts]):
            under = [
                (tile, found[cell.shift(_negative(both.start)).slices])
                for (tile, both), found in zip(parts, voxels, strict=True)
                if both.contains(cell)
            ]
            target = out[cell.shift(_negative(box.start)).slices]
            if len(under) == 1:
                target[...] = under[0][1]
            elif under and self.feather:
                average(target, cell, under, self.feather)
            elif under:
                choose(target, cell, under)


def open_mosaic(
    location: str | os.PathLike[str], spacing_um: Um | None, open_reader: Opener
) -> Mosaic:
    """Return the tiles that a manifest names as one reader.

    The mosaic begins where the first of its tiles do along each axis, and voxels that no tile
    covers are 0. Where tiles overlap, each is weighed by the distances from its nearest face along
    z, y and x, multiplied: linear from tile to tile over an overlap of less than half of them. The
    mean of 8 and 16 bit integers is exact, rounded half to even; that of others is taken in
    float64. A voxel that is NaN or infinite in one tile has no weight there; where it is so in all
    tiles, it is NaN, or infinite if it is so in the same way in all.

    Parameters
    ----------
    location
        The manifest, JSON: ``{"spacing": "1.17um", "tiles": [{"path": "a.tif", "offset": [z, y,
        x]}, ...]}``. A path starts from the manifest's folder. Offsets are in voxels; those
        between voxels are rounded half to even. ``"feather": 20`` lets weights grow over 20 voxels
        and no further; with 0 nothing is averaged, a voxel comes from the tile it lies deepest in:
        the choice for labels.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers; None takes what the manifest says,
        without a word there what the tiles say.
    open_reader
        Opens a tile, given its location and its spacing.

    Returns
    -------
    Mosaic
        dims (z, y, x), of the tiles' own dtype. Its origin is its first voxel's offset.

    Raises
    ------
    MissingError
        No such manifest or tile.
    RequestError
        The manifest is malformed, no voxel size is known, tiles differ in it or in their type, lie
        impossibly far apart, or 64 bit integers would be averaged.
    DataError
        A tile is damaged.

    Warns
    -----
    UserWarning
        An offset was rounded, or a tile touches no other.

    Examples
    --------
    >>> import json
    >>> from tempfile import mkdtemp
    >>> from thc_dask.sources.npy import open_npy
    >>> folder = mkdtemp()
    >>> for i in (0, 1):
    ...     np.save(f"{folder}/{i}.npy", np.full((1, 1, 6), 40 * i + 10, np.uint8))
    >>> tiles = [{"path": f"{i}.npy", "offset": [0, 0, 3 * i]} for i in (0, 1)]
    >>> with open(f"{folder}/mosaic.json", "w") as file:
    ...     json.dump({"spacing": "1.17um", "tiles": tiles}, file)
    >>> mosaic = open_mosaic(f"{folder}/mosaic.json", None, open_npy)
    >>> out = np.empty(mosaic.grid.shape, np.uint8)
    >>> mosaic.read_into(out, (0, 0, 0))
    >>> out.tolist()
    [[[10, 10, 10, 20, 30, 40, 50, 50, 50]]]
    """
    manifest = parse(look_at(location, "mosaic"))
    path, entries = manifest.file.path, manifest.entries
    given = spacing_um or manifest.spacing_um
    readers = [_open_tile(path, entry, given, open_reader) for entry in entries]
    _check_types(path, entries, readers, manifest.feather)
    starts = np.array([_start(path, entry) for entry in entries])
    stops = starts + [reader.grid.shape for reader in readers]
    _warn_of_lonely(path, entries, starts, stops)
    first, shape = starts.min(axis=0), (stops.max(axis=0) - starts.min(axis=0)).tolist()
    held = sum(reader.grid.n_vox for reader in readers)
    if math.prod(shape) > MOST_EMPTY * held:
        raise RequestError(
            f"mosaic: {path}: its offsets spread tiles of {held} voxels over {shape} (z,y,x), more "
            f"than {MOST_EMPTY} times as many; check them: they are voxels, z,y,x"
        )
    tiles = tuple(
        Tile(reader, Extent(tuple((a - first).tolist()), tuple((b - first).tolist())))
        for reader, a, b in zip(readers, starts, stops, strict=True)
    )
    spacing = given or _spacing(path, entries, readers)
    z, y, x = (float(a * p) for a, p in zip(first, spacing, strict=True))
    grid = Grid(tuple(shape), spacing, (z, y, x))
    units = np.max([reader.unit for reader in readers], axis=0)
    provenance = {
        "kind": "mosaic",
        "location": str(location),
        "n_tiles": len(tiles),
        "feather": manifest.feather,
        "shape": shape,
        "dtype": readers[0].dtype.name,
        "fingerprint": _fingerprint(manifest, tiles),
    }
    return Mosaic(
        grid, readers[0].dtype, tuple(units.tolist()), provenance, tiles, manifest.feather
    )


def _open_tile(path: str, entry: Entry, spacing_um: Um | None, open_reader: Opener) -> Reader:
    anywhere = "://" in entry.path or entry.path.startswith("phantom:")
    name = entry.path if anywhere else os.path.join(os.path.dirname(path), entry.path)
    try:
        reader = open_reader(name, spacing_um)
    except ThcError as error:
        raise type(error)(f"mosaic: {path}: tile {entry.path}: {error}") from error
    axes = getattr(reader, "axes", "zyx")
    if axes != "zyx":
        raise RequestError(
            f"mosaic: {path}: tile {entry.path} is stored as {axes}; store it as zyx"
        )
    return reader


def _check_types(
    path: str, entries: Sequence[Entry], readers: Sequence[Reader], feather: int
) -> None:
    dtype = readers[0].dtype
    for entry, reader in zip(entries, readers, strict=True):
        if reader.dtype != dtype:
            raise RequestError(
                f"mosaic: {path}: tile {entry.path} is {reader.dtype}, {entries[0].path} is "
                f"{dtype}; all tiles need one type"
            )
    if dtype.kind in "ui" and dtype.itemsize == 8 and feather:
        raise RequestError(
            f'mosaic: {path}: {dtype} voxels cannot be averaged exactly; add "feather": 0 to take '
            "each from one tile"
        )


def _start(path: str, entry: Entry) -> list[int]:
    """Return the first voxel of a tile; say so where it lies between voxels."""
    start = [round(o) for o in entry.offset]
    if start != list(entry.offset):
        warnings.warn(
            f"mosaic: {path}: the offset {list(entry.offset)} of tile {entry.path} is rounded to "
            f"{start} voxels",
            stacklevel=3,
        )
    return start


def _warn_of_lonely(
    path: str, entries: Sequence[Entry], starts: NDArray[Any], stops: NDArray[Any]
) -> None:
    for entry, start, stop in zip(entries, starts, stops, strict=True):
        touched = ((start <= stops) & (stop >= starts)).all(axis=1).sum()
        if touched == 1 < len(entries):
            warnings.warn(
                f"mosaic: {path}: tile {entry.path} at {start.tolist()} touches no other; check "
                "its offset",
                stacklevel=3,
            )


def _spacing(path: str, entries: Sequence[Entry], readers: Sequence[Reader]) -> Um:
    spacing = readers[0].grid.spacing_um
    for entry, reader in zip(entries, readers, strict=True):
        if not np.allclose(reader.grid.spacing_um, spacing, rtol=1e-6, atol=0):
            raise RequestError(
                f"mosaic: {path}: tile {entry.path} has spacing {reader.grid.spacing_um} um (z, y, "
                f"x), {entries[0].path} {spacing}; give one as --spacing 1.17um"
            )
    return spacing


def _fingerprint(manifest: Manifest, tiles: Sequence[Tile]) -> str:
    """Return what differs where the voxels do, and not where all of it was moved elsewhere."""
    rows = [
        (
            entry.path,
            tile.extent.start,
            {
                k: v
                for k, v in tile.reader.provenance.items()
                if k not in ("location", "spacing_um")
            },
        )
        for entry, tile in zip(manifest.entries, tiles, strict=True)
    ]
    return fingerprint([manifest.feather, rows])


def _read_tile(tile: Tile, box: Extent, out: NDArray[Any] | None = None) -> NDArray[Any]:
    inside = box.shift(_negative(tile.extent.start))
    if out is None:
        return read(tile.reader, inside)
    tile.reader.read_into(out, inside.start)
    return out


def _negative(start: Vox) -> Vox:
    z, y, x = start
    return -z, -y, -x
