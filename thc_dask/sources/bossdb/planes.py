"""Which planes of an annotation channel hold labels: found by reading, not by trust.

Coarser levels cannot tell: the server keeps every other plane, and a single plane may vanish.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from thc_dask.catalogue import contradictions, find_channel, plane_of
from thc_dask.errors import RequestError
from thc_dask.grid import Extent, Vox
from thc_dask.reader import Reader, read

N_THREADS = 8
TILE = 512


def annotated_planes(reader: Reader, candidates: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the z planes that hold labels other than 0, rising.

    As ``annotated_extents``, without saying where in the plane.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from thc_dask.sources.dataarray import open_dataarray
    >>> labels = np.zeros((5, 3, 3), np.uint64)
    >>> labels[1, 2, 2] = labels[4, 0, 0] = 7
    >>> reader = open_dataarray(xr.DataArray(labels, dims=("z", "y", "x")), (1.0, 1.0, 1.0))
    >>> annotated_planes(reader), annotated_planes(reader, [0, 1, 2])
    ((1, 4), (1,))
    """
    return tuple(sorted({e.start[0] for e in annotated_extents(reader, candidates)}))


def annotated_extents(
    reader: Reader, candidates: Sequence[int] | None = None, scheme: str | None = None
) -> list[Extent]:
    """Return the boxes, one plane each, that hold labels other than 0.

    A channel that the catalogue knows is read where its sources say that annotations lie: in four
    cubes for ``pixel_annotation``. A ``UserWarning`` says where what is found contradicts a
    source. Of any other channel whole planes are read.

    Parameters
    ----------
    reader
        Labels (z, y, x), whole numbers.
    candidates
        The z planes to look at; None looks at those the catalogue names and their neighbours, or
        at all.
    scheme
        Name of the scheme that the labels are to be read with, to be held against the catalogue.

    Returns
    -------
    list of Extent
        Half-open boxes (z, y, x) in voxels, by rising z; what lies outside is not known.

    Raises
    ------
    RequestError
        A candidate is outside the volume.
    """
    location = str(reader.provenance.get("location", ""))
    channel = find_channel(location)
    if channel is not None and not all(map(reader.grid.extent.contains, channel.windows)):
        channel = None  # another volume at the same address
    n_z = reader.grid.shape[0]
    if candidates is not None and not all(0 <= z < n_z for z in candidates):
        raise RequestError(f"planes {list(candidates)}: the source has planes 0 to {n_z - 1}")
    windows: tuple[Extent, ...] = (reader.grid.extent,)
    planes: Iterable[int] = range(n_z)
    if channel is not None:
        windows, planes = channel.windows, channel.look_at or planes
    search = _Search(reader, windows)
    found = search.run(sorted(set(planes if candidates is None else candidates)))
    for line in contradictions(location, found, scheme, candidates) if channel else ():
        warnings.warn(line, stacklevel=2)
    return found


@dataclass
class _Search:
    """A search for planes that are not empty; what is known to hold labels is not read on."""

    reader: Reader
    windows: Sequence[Extent]
    found: set[Extent] = field(default_factory=set)
    """Planes of windows."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, planes: Sequence[int]) -> list[Extent]:
        """Return the planes of windows that hold labels, by z, then in the order of windows."""
        tiles = [
            (window, tile)
            for window in self.windows
            for run in _runs(planes, self.reader.unit[0])
            for tile in _tiles(window, run, self.reader.unit)
        ]
        # The middle of every plane first: labels are rarely found at the edges.
        tiles.sort(key=lambda pair: _off_centre(*pair))
        with ThreadPoolExecutor(N_THREADS) as pool:
            try:
                for _ in pool.map(self._look, *zip(*tiles, strict=True)) if tiles else ():
                    pass
            finally:
                self.stop.set()
        order = {window: i for i, window in enumerate(self.windows)}
        everywhere = [plane_of(window, z) for z in planes for window in order]
        return [extent for extent in everywhere if extent in self.found]

    def _look(self, window: Extent, tile: Extent) -> None:
        todo = [
            z for z in range(tile.start[0], tile.stop[0]) if plane_of(window, z) not in self.found
        ]
        if self.stop.is_set() or not todo:
            return
        voxels = read(self.reader, tile)
        self.found.update(plane_of(window, z) for z in todo if voxels[z - tile.start[0]].any())


def _runs(planes: Sequence[int], unit: int) -> Iterator[tuple[int, int]]:
    """Yield half-open ranges of neighbours that lie in the same unit.

    >>> list(_runs([3, 4, 5, 9], 5))
    [(3, 5), (5, 6), (9, 10)]
    """
    for _, group in itertools.groupby(enumerate(planes), lambda p: (p[1] - p[0], p[1] // unit)):
        run = [z for _, z in group]
        yield run[0], run[-1] + 1


def _tiles(window: Extent, run: tuple[int, int], unit: Vox) -> Iterator[Extent]:
    """Yield the boxes of whole units of y and x that a window is read in."""
    (y0, x0), (y1, x1) = window.start[1:], window.stop[1:]
    step_y, step_x = (-(-TILE // u) * u for u in unit[1:])
    for y in range(y0 // step_y * step_y, y1, step_y):
        for x in range(x0 // step_x * step_x, x1, step_x):
            whole = Extent((run[0], y, x), (run[1], y + step_y, x + step_x))
            yield whole.intersect(Extent((run[0], y0, x0), (run[1], y1, x1)))


def _off_centre(window: Extent, tile: Extent) -> float:
    """Return how far the middle of a tile is from that of its window, as a part of its size."""
    return sum(
        abs((tile.start[i] + tile.stop[i]) - (window.start[i] + window.stop[i]))
        / (window.stop[i] - window.start[i])
        for i in (1, 2)
    )
