"""The compiled joint count that the contenders without one of their own are given."""

from __future__ import annotations

from numba import njit


@njit("void(u1[:, :, ::1], u1[:, :, ::1], i8[:, ::1], i8[:, ::1])", nogil=True, cache=True)
def count_into(labels, image, even, odd):
    """Add how often each label meets each intensity; the table is ``even + odd``.

    Eight voxels at a time where the label does not change; two tables in turn, as equal
    neighbours would wait for each other's increment.
    """
    n_z, n_y, n_x = image.shape
    for z in range(n_z):
        for y in range(n_y):
            x = 0
            while x + 8 <= n_x:
                first = labels[z, y, x]
                same = True
                for i in range(1, 8):
                    same &= labels[z, y, x + i] == first
                if same:
                    for i in range(0, 8, 2):
                        even[first, image[z, y, x + i]] += 1
                        odd[first, image[z, y, x + i + 1]] += 1
                else:
                    for i in range(8):
                        even[labels[z, y, x + i], image[z, y, x + i]] += 1
                x += 8
            while x < n_x:
                even[labels[z, y, x], image[z, y, x]] += 1
                x += 1
