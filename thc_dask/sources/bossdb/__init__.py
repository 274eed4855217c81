"""BossDB: a channel of a spatial database, read over the network through ``intern``.

Reads are cut along the server's cuboids, so that no voxel travels twice and no request is too
large for one answer, and a few of them are under way at once, so that nobody waits for the network.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.grid import Extent, Grid, Um, Vox
from thc_dask.retry import StoppedError
from thc_dask.sources.bossdb.address import Address, parse_address
from thc_dask.sources.bossdb.client import (
    Patience,
    Server,
    ask,
    connections,
    find_server,
    import_intern,
)
from thc_dask.sources.bossdb.metadata import describe
from thc_dask.sources.bossdb.planes import annotated_extents, annotated_planes

__all__ = ["BossVolume", "Patience", "annotated_extents", "annotated_planes", "open_bossdb"]

# What one request may bring. Above 30 million voxels intern starts processes of its own.
REQUEST_BYTES = 16 * 2**20
REQUEST_VOX = 30_000_000
# Metadata that cannot be had is reported sooner than voxels.
METADATA_TRIES = 3


@dataclass(frozen=True, eq=False)
class BossVolume:
    """Voxels of a bossDB channel as a ``Reader``: see ``open_bossdb``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel: uint8, uint16 or uint64."""
    unit: Vox
    """A cuboid, or the volume where that is smaller."""
    provenance: dict[str, Any]
    """kind, location, host, level, channel type, shape and dtype; never the token."""
    address: Address
    cuboid: Vox
    """Voxels that the server decodes at a time (z, y, x)."""
    first: Vox
    """Coordinates of voxel (0, 0, 0) in requests."""
    server: Server
    n_connections: int
    """Requests under way at once, of all readers of a process on that server."""
    patience: Patience

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x), of the channel's own dtype, with the voxels from ``start`` on.

        Safe to call from several threads at once.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the volume, or permission is missing.
        DataError
            The server sends something else than the voxels of that channel.
        FailureError
            The server cannot be reached, is out of order, or throttles for too long.
        """
        wanted = self._place(out, start)
        stop = threading.Event()
        shared = connections(self.server, self.n_connections, self.patience)

        def fill(box: Extent) -> None:
            if stop.is_set():
                return
            try:
                voxels = self._cutout(shared.client(), box, stop)
            except BaseException:
                stop.set()
                raise
            z, y, x = wanted.start
            out[box.shift((-z, -y, -x)).slices] = voxels

        futures = [
            shared.pool.submit(fill, box) for box in cutouts(wanted, self.cuboid, out.itemsize)
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Nobody may write into the caller's memory once this has returned.
            stop.set()
            for future in futures:
                future.cancel()
            wait(futures)
        errors = [f.exception() for f in futures if not f.cancelled()]
        # Those that only stopped because another failed come last.
        for error in sorted(filter(None, errors), key=lambda e: isinstance(e, StoppedError)):
            raise error

    def _place(self, out: NDArray[Any], start: Vox) -> Extent:
        """Return what is wanted in the server's coordinates, if it can be had."""
        stop = tuple(a + n for a, n in zip(start, out.shape, strict=False))
        wanted = Extent(start, stop)
        if (out.dtype, out.ndim) != (self.dtype, 3) or not self.grid.extent.contains(wanted):
            raise RequestError(
                f"source {self.address}: cannot give {out.shape} {out.dtype} voxels from {start} "
                f"on; there are {self.grid.shape} {self.dtype}"
            )
        return wanted.shift(self.first)

    def _cutout(self, client: Any, box: Extent, stop: threading.Event) -> NDArray[Any]:
        """Return the voxels of a box by one request; the array may be read-only."""
        z, y, x = ([a, b] for a, b in zip(box.start, box.stop, strict=True))
        channel = _channel(self.address, self.dtype.name)

        def get() -> NDArray[Any]:
            # Parallel, intern would start processes.
            voxels: NDArray[Any] = client.get_cutout(
                channel, self.address.level, x, y, z, parallel=False
            )
            return voxels

        return ask(get, f"source {self.address}: voxels {box}", self.server, self.patience, stop)


@lru_cache(maxsize=16)
def _channel(address: Address, dtype: str) -> Any:
    """Return what ``intern`` needs to know of a channel."""
    return import_intern("resource.boss").ChannelResource(
        address.channel, address.collection, address.experiment, datatype=dtype
    )


def cutouts(wanted: Extent, cuboid: Vox, itemsize: int) -> Iterator[Extent]:
    """Yield boxes that tile ``wanted``, cut along the cuboids, each small enough for one request.

    >>> [str(box) for box in cutouts(Extent((0, 0, 500), (20, 8, 520)), (16, 512, 512), 8)]
    ['0:16,0:8,500:512', '0:16,0:8,512:520', '16:20,0:8,500:512', '16:20,0:8,512:520']
    """
    n_vox = cuboid[0] * cuboid[1] * cuboid[2]
    deep = max(1, min(REQUEST_BYTES // (n_vox * itemsize), REQUEST_VOX // n_vox))
    steps = (cuboid[0] * deep, cuboid[1], cuboid[2])
    z_cuts, y_cuts, x_cuts = (
        [a, *range(a // step * step + step, b, step), b]
        for a, b, step in zip(wanted.start, wanted.stop, steps, strict=True)
    )
    if not wanted.n_vox:
        return
    for z0, z1 in itertools.pairwise(z_cuts):
        for y0, y1 in itertools.pairwise(y_cuts):
            for x0, x1 in itertools.pairwise(x_cuts):
                yield Extent((z0, y0, x0), (z1, y1, x1))


def open_bossdb(
    location: str,
    spacing_um: Um | None = None,
    *,
    level: int | None = None,
    n_connections: int = 8,
    patience: Patience | None = None,
) -> BossVolume:
    """Return a channel of bossDB as a reader; its voxels stay where they are.

    Host, protocol and token are those of ``intern``: ``~/.intern/intern.cfg``, or the environment
    variables ``INTERN_HOST``, ``INTERN_PROTOCOL`` and ``INTERN_TOKEN``; without any, the public
    server as the public user. The token travels with the reader, to workers too, and is in no
    provenance.

    Parameters
    ----------
    location
        ``bossdb://collection/experiment/channel``, perhaps with ``?level=2``.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers at that level; None takes the channel's
        coordinate frame.
    level
        0 is the finest; wins over the one in the location.
    n_connections
        Requests under way at once.
    patience
        Pauses, tries and time limits of a request.

    Returns
    -------
    BossVolume
        dims (z, y, x); uint8 or uint16 images, uint64 annotations.

    Raises
    ------
    MissingError
        There is no such channel or level.
    RequestError
        ``intern`` is missing, the location or its settings are wrong, or permission is missing.
    DataError
        The server does not answer as bossDB does.
    FailureError
        The server cannot be reached.

    Examples
    --------
    >>> open_bossdb("bossdb://prasad/prasad2020")
    Traceback (most recent call last):
    ...
    thc_dask.errors.RequestError: source bossdb://prasad/prasad2020: write it as \
bossdb://collection/experiment/channel, perhaps with ?level=2 for a coarser level, 0 to 9
    """
    address = parse_address(location, level)
    if n_connections < 1:
        raise RequestError(f"source {location}: {n_connections} connections; give 1 or more")
    patience = patience or Patience()
    server = find_server()
    hasty = replace(patience, n_tries=min(METADATA_TRIES, patience.n_tries))
    found = describe(address, server, hasty)
    grid = found.grid
    if spacing_um is not None:
        parts = zip(grid.origin_um, grid.spacing_um, spacing_um, strict=True)
        origin = tuple(t / old * new for t, old, new in parts)
        grid = Grid(grid.shape, spacing_um, origin)  # type: ignore[arg-type]
    z, y, x = (min(c, n) for c, n in zip(found.cuboid, grid.shape, strict=True))
    provenance = {
        "kind": "bossdb",
        "location": str(address),
        "host": server.host,
        "level": address.level,
        "channel_type": found.kind,
        "shape": list(grid.shape),
        "dtype": found.dtype.name,
    }
    return BossVolume(
        grid, found.dtype, (z, y, x), provenance, address, found.cuboid, found.first, server,
        n_connections, patience,
    )  # fmt: skip
