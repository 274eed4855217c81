"""Shape-based interpolation: the regions between two planes of labels.

Each code of a plane is a shape, and its signed distance to the shape's border says how far inside
(positive) or outside a pixel is. Between two planes the distances are mixed linearly, and a voxel
goes to the code whose distance is largest, of equals to the smallest code (Raya and Udupa 1990,
IEEE Trans. Med. Imaging 9:32, for one shape). "None of these" is a code like the others.

A code that only one of the planes has ends somewhere between them, nobody knows where: it takes
no part, and the pixels that have it are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

TILE, BLOCK = 16, 256  # pixels a side; see distances
HALF = 0.5  # of the way to the nearest pixel of another code lies the border

_I4, _I8, _F4 = types.int32, types.int64, types.float32
_ROWS = types.Array(_I8, 1, "C")
_RUNS = types.Array(_I4, 2, "C")
_COMPETE = [
    _RUNS(_ROWS, _ROWS, *[types.Array(_F4, n, "C") for n in (1, 2, 1, 2)], _I8, _I8, _I8, _I8)
]
_READ = types.Array(_I4, 2, "A", readonly=True)
_FILL = [
    types.void(types.Array(t, 3, "A"), _READ, _I8, _I8, _I8) for t in (types.uint8, types.uint16)
]


def distances(
    rows: NDArray[Any],
    pixels: NDArray[np.int64],
    partners: NDArray[Any],
    spacing: tuple[float, float],
    tile: int = TILE,
    block: int = BLOCK,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Return how far some pixels of a plane are from each code, and from the next other code.

    Parameters
    ----------
    rows
        The plane (y, x): 0 where it is not known, else a positive number for each code.
    pixels
        Places in the flattened plane, rising.
    partners
        (plane, pixel) their numbers on other planes; 0 where that does not matter.
    spacing
        Of pixels along y and x.
    tile, block
        Pixels a side that are taken together to tell what is near, and to measure.

    Returns
    -------
    present, outside, inside
        The numbers in the plane, rising; (number, pixel) the distance to the nearest pixel that
        has it; (pixel) the distance to the nearest known pixel of another number. Euclidean,
        between the centres of pixels, in units of ``spacing``. A number that is farther away than
        all partners is infinitely far: between the planes it is beaten by the partner.
    """
    counts = np.bincount(rows.ravel(), minlength=1)
    counts[0] = 0
    present = np.flatnonzero(counts).astype(np.int64)
    outside = np.full((len(present), len(pixels)), np.inf, np.float32)
    inside = np.full(len(pixels), np.inf, np.float32)
    if not len(pixels):
        return present, outside, inside
    y, x = np.divmod(pixels, rows.shape[1])
    own = rows.ravel()[pixels]
    near = [_tile_distances(rows == row, spacing, tile)[y // tile, x // tile] for row in present]
    # From pixel to pixel it is as far as from tile to tile, but for a diagonal of a tile.
    slack = float(np.hypot(tile * spacing[0], tile * spacing[1]))
    reach = np.zeros(len(pixels))
    for row, far in zip(present, near, strict=True):
        here = (partners == row).any(axis=0)
        reach[here] = np.maximum(reach[here], far[here] + slack)
    for i, (row, far) in enumerate(zip(present, near, strict=True)):
        other = own != row
        at = np.flatnonzero(other & (far - slack < reach))
        place = y[at] // block * (rows.shape[1] // block + 1) + x[at] // block
        order = np.argsort(place, kind="stable")
        for part in np.split(at[order], np.flatnonzero(np.diff(place[order])) + 1):
            if len(part):
                margin = float(far[part].max()) + slack
                outside[i, part] = _nearest(rows, row, y[part], x[part], margin, spacing)
        inside[other] = np.minimum(inside[other], outside[i, other])
    return present, outside, inside


def _tile_distances(
    shape: NDArray[np.bool_], spacing: tuple[float, float], tile: int
) -> NDArray[np.float64]:
    """Return for each tile how far its centre is from that of the next tile with a pixel of it."""
    from scipy.ndimage import distance_transform_edt

    rows = np.maximum.reduceat(shape, np.arange(0, shape.shape[0], tile), axis=0)
    tiles = np.maximum.reduceat(rows, np.arange(0, shape.shape[1], tile), axis=1)
    found: NDArray[np.float64] = distance_transform_edt(
        ~tiles, sampling=(tile * spacing[0], tile * spacing[1])
    )
    return found


def _nearest(
    rows: NDArray[Any], row: Any, y: NDArray[np.int64], x: NDArray[np.int64], margin: float,
    spacing: tuple[float, float],
) -> NDArray[np.float32]:  # fmt: skip
    """Return the distance of pixels to the nearest one that has a number, at most ``margin``."""
    from scipy.ndimage import distance_transform_edt

    low, high = [0, 0], [0, 0]
    for axis, at in enumerate((y, x)):
        n = int(margin / spacing[axis]) + 1
        low[axis] = max(0, int(at.min()) - n)
        high[axis] = min(rows.shape[axis], int(at.max()) + n + 1)
    part = rows[low[0] : high[0], low[1] : high[1]] != row
    # The nearest pixels alone, for all; the distances only where they are asked for.
    to_y, to_x = distance_transform_edt(
        part, sampling=None if spacing[0] == spacing[1] else spacing,
        return_distances=False, return_indices=True,
    )  # fmt: skip
    y, x = y - low[0], x - low[1]
    d_y = (to_y[y, x] - y) * spacing[0]
    d_x = (to_x[y, x] - x) * spacing[1]
    found: NDArray[np.float32] = np.sqrt(d_y * d_y + d_x * d_x).astype(np.float32)
    return found


def compete(
    rows: tuple[NDArray[Any], NDArray[Any]],
    present: tuple[NDArray[np.int64], NDArray[np.int64]],
    outside: tuple[NDArray[np.float32], NDArray[np.float32]],
    inside: tuple[NDArray[np.float32], NDArray[np.float32]],
    ends: tuple[int, int],
    planes: range,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return which codes some pixels have between two planes, and which of them nobody knows.

    Each argument but the last two is a pair: what ``distances`` gave of the plane below and of the
    plane above, at the same pixels, in units of the smaller spacing; ``rows`` are the codes they
    have there.

    Parameters
    ----------
    ends
        The two planes.
    planes
        Those between them that are asked for.

    Returns
    -------
    runs, unknown
        (run, 4) pixel, first plane, one past the last, and number, where that is not the number on
        the plane below; by rising pixel and plane. (pixel) whether one of the two numbers is
        missing from the other plane.

    Notes
    -----
    Distances are float32, and are mixed in float64 with whole weights: that rounds nothing, so
    equals are equal on every machine.
    """
    both = np.intersect1d(*present)
    at = [np.searchsorted(p, both) for p in present]
    row_of = np.full(max(int(present[0][-1]), int(present[1][-1])) + 1, -1, np.int64)
    row_of[both] = np.arange(len(both))
    below, above = (row_of[r] for r in rows)
    unknown = (below < 0) | (above < 0)
    runs = _compete(
        below, above, inside[0], np.ascontiguousarray(outside[0][at[0]]), inside[1],
        np.ascontiguousarray(outside[1][at[1]]), *ends, planes.start, planes.stop,
    )  # fmt: skip
    runs[:, 3] = both[runs[:, 3]]
    return runs, unknown


@njit(_COMPETE, nogil=True, cache=True)  # pragma: no cover - compiled
def _compete(
    below: Any, above: Any, inside0: Any, outside0: Any, inside1: Any, outside1: Any, z0: Any,
    z1: Any, start: Any, stop: Any,
) -> Any:  # fmt: skip
    n = outside0.shape[0]
    signed0, signed1 = np.empty(n, np.float64), np.empty(n, np.float64)
    runs = np.empty((max(16, len(below)), 4), np.int32)
    filled = 0
    for i in range(len(below)):
        a, b = below[i], above[i]
        if a < 0 or b < 0 or a == b:
            continue
        for k in range(n):
            signed0[k] = HALF - outside0[k, i]
            signed1[k] = HALF - outside1[k, i]
        signed0[a] = inside0[i] - HALF
        signed1[b] = inside1[i] - HALF
        last = a
        for z in range(start, stop):
            best, winner = -np.inf, 0
            for k in range(n):
                score = (z1 - z) * signed0[k] + (z - z0) * signed1[k]
                if score > best:
                    best, winner = score, k
            if winner == last and z > start:
                if winner != a:
                    runs[filled - 1, 2] = z + 1
                continue
            last = winner
            if winner == a:
                continue
            if filled == len(runs):
                more = np.empty((2 * len(runs), 4), np.int32)
                more[:filled] = runs
                runs = more
            runs[filled, 0] = i
            runs[filled, 1] = z
            runs[filled, 2] = z + 1
            runs[filled, 3] = winner
            filled += 1
    return runs[:filled].copy()


def fill(out: NDArray[Any], runs: NDArray[np.int32], start: Sequence[int]) -> None:
    """Write runs over a block (z, y, x) of uint8 or uint16 that begins at ``start``.

    ``runs`` are (run, 5): y, x, first plane, one past the last, code; parts outside are left out.
    """
    _fill(out, runs, *start)


@njit(_FILL, nogil=True, cache=True)  # pragma: no cover - compiled
def _fill(out: Any, runs: Any, z0: Any, y0: Any, x0: Any) -> None:
    for i in range(len(runs)):
        y, x = runs[i, 0] - y0, runs[i, 1] - x0
        if 0 <= y < out.shape[1] and 0 <= x < out.shape[2]:
            first, last = max(runs[i, 2] - z0, 0), min(runs[i, 3] - z0, out.shape[0])
            for z in range(first, last):
                out[z, y, x] = runs[i, 4]
