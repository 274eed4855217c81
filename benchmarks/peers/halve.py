"""The compiled 2 x 2 x 2 mean that the contenders without one of their own are given."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit("void(u1[:, :, ::1], u1[:, :, ::1])", nogil=True, cache=True)
def halve_into(block, out):
    """Write the mean of the voxels that exist of each cell, rounded half to even."""
    n_z, n_y, n_x = block.shape
    total = np.empty(n_x, np.uint16)
    for z in range(0, n_z, 2):
        for y in range(0, n_y, 2):
            log2 = 0
            total[:] = block[z, y]
            if y + 1 < n_y:
                log2 += 1
                for x in range(n_x):
                    total[x] += block[z, y + 1, x]
            if z + 1 < n_z:
                log2 += 1
                for x in range(n_x):
                    total[x] += block[z + 1, y, x]
            if z + 1 < n_z and y + 1 < n_y:
                for x in range(n_x):
                    total[x] += block[z + 1, y + 1, x]
            half = np.uint16((1 << log2) - 1)
            row = out[z // 2, y // 2]
            for x in range(n_x // 2):
                pair = np.uint16(total[2 * x] + total[2 * x + 1])
                odd = np.uint16((pair >> np.uint16(log2 + 1)) & 1)
                row[x] = np.uint16(pair + half + odd) >> np.uint16(log2 + 1)
            if n_x % 2:
                last = total[n_x - 1]
                half_last = np.uint16((1 << log2) // 2)
                if log2:
                    odd = np.uint16((last >> np.uint16(log2)) & 1)
                    last = np.uint16(last + half_last - 1 + odd) >> np.uint16(log2)
                row[n_x // 2] = last


def halve(block: np.ndarray) -> np.ndarray:
    """Return the block (z, y, x) uint8 at half the size, rounded up."""
    out = np.empty([-(-n // 2) for n in block.shape], np.uint8)
    halve_into(np.ascontiguousarray(block), out)
    return out
