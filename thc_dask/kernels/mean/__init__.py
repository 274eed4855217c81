"""Halve a block of an image: the mean of the voxels that exist.

In machine code where ``compile_mean`` has been called before, on any day; else in numpy: a small
conversion must not wait for a compiler. There two voxels are taken as one word and their sum stays
in it, so nothing is ever read with a stride. The means are the same.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.native import address, load, ready

COMPILED = "thc_dask.kernels.mean.compiled"
WORD_BYTES = 8

# Of two neighbours along x: the word they make, the bits of one, the mask of one.
_WORDS: dict[np.dtype[Any], tuple[np.dtype[Any], int, int]] = {
    np.dtype(np.uint8): (np.dtype(np.uint16), 8, 0xFF),
    np.dtype(np.uint16): (np.dtype(np.uint32), 16, 0xFFFF),
}


class _Scratch(threading.local):
    """Buffers of each thread: fresh memory is slow."""

    def __init__(self) -> None:
        self.pairs: dict[np.dtype[Any], NDArray[Any]] = {}

    def pair(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], ...]:
        """Return two arrays with the content of before."""
        n = math.prod(shape)
        if dtype not in self.pairs or self.pairs[dtype].shape[1] < n:
            self.pairs[dtype] = np.empty((2, n), dtype)
        first, second = self.pairs[dtype]
        return first[:n].reshape(shape), second[:n].reshape(shape)


_scratch = _Scratch()


def mean(src: NDArray[Any], dst: NDArray[Any]) -> None:
    """Write the mean of every 2 x 2 x 2 voxels of ``src`` to ``dst``, halves rounded to even.

    Where the block ends on an odd voxel fewer than eight exist, and only those are averaged.

    Parameters
    ----------
    src
        (z, y, x) block, uint8 or uint16, that starts on even voxels; or (chunk, z, y, x), several
        blocks of an even number of voxels along each axis: one call costs less than many.
    dst
        (z, y, x) of the same type, shape ``ceil(n / 2)`` of the block's; with axis chunk in front
        where ``src`` has that.

    Examples
    --------
    >>> block = np.array([[[1, 2, 7]]], np.uint8)
    >>> half = np.empty((1, 1, 2), np.uint8)
    >>> mean(block, half)
    >>> half.tolist()
    [[[2, 7]]]
    """
    if src.ndim == 4:
        if _mean_compiled(src, dst):
            return
        if src.dtype in _WORDS and src.flags.c_contiguous and not any(n % 2 for n in src.shape[1:]):
            _mean_words(src.reshape(-1, *src.shape[2:]), dst)
        else:
            for block, half in zip(src, dst, strict=True):
                mean(block, half)
        return
    # Whole cubes of eight first, then what is left on each far side.
    z, y, x = (n // 2 * 2 for n in src.shape)
    if src.dtype in _WORDS and src.strides[2] == src.itemsize and z and y and x:
        _mean_words(src[:z, :y, :x], dst[: z // 2, : y // 2, : x // 2])
    else:
        x = 0
    if (z, y, x) != src.shape:
        _mean_any(src[:z, :y, x:], dst[: z // 2, : y // 2, x // 2 :])
        _mean_any(src[:z, y:], dst[: z // 2, y // 2 :])
        _mean_any(src[z:], dst[z // 2 :])


def compile_mean() -> None:
    """Have the machine code compiled, once a machine: a second or two that large volumes repay."""
    load(COMPILED)


def mean_code(dtype: np.dtype[Any]) -> int:
    """Return the address of the machine code for a type, 0 where there is none yet."""
    functions = ready(COMPILED) if dtype in _WORDS else None
    return 0 if functions is None else address(COMPILED, dtype.name)


def _mean_compiled(src: NDArray[Any], dst: NDArray[Any]) -> bool:
    """Halve (chunk, z, y, x) by machine code; False where there is none or it cannot."""
    functions = ready(COMPILED) if src.dtype in _WORDS else None
    if functions is None:
        return False
    n, n_z, n_y, n_x = src.shape
    width, rest = divmod(n_x * src.itemsize, WORD_BYTES)
    half = WORD_BYTES // 2
    at, to, steps = src.ctypes.data, dst.ctypes.data, dst.strides
    odd = n_z % 2 or n_y % 2 or at % WORD_BYTES or to % half or any(s % half for s in steps[:3])
    if (
        odd or rest
        or steps[3] != dst.itemsize or not src.flags.c_contiguous or dst.dtype != src.dtype
        or dst.shape != (n, n_z // 2, n_y // 2, n_x // 2)
    ):  # fmt: skip
        return False
    block, z, y = (s // half for s in steps[:3])
    functions[src.dtype.name](at, n, n_z, n_y, width, to, block, z, y)
    return True


def _mean_words(src: NDArray[Any], dst: NDArray[Any]) -> None:
    """Halve voxels of which there are two, four, six... along each axis.

    ``dst`` may have its planes in groups, as axes (chunk, z, y, x).
    """
    word, bits, mask = _WORDS[src.dtype]
    words = src.view(word)
    low, high = _scratch.pair(words.shape, word)
    # The sum of two neighbours along x needs one bit more than a voxel, that of eight three.
    np.right_shift(words, bits, out=high)
    np.bitwise_and(words, mask, out=low)
    np.add(low, high, out=low)
    planes = high[: len(low) // 2]
    np.add(low[::2], low[1::2], out=planes)
    total = low.reshape(-1)[: planes.size // 2].reshape(planes.shape[0], -1, planes.shape[2])
    np.add(planes[:, ::2], planes[:, 1::2], out=total)
    odd = high.reshape(-1)[: total.size].reshape(total.shape)
    # Adding 3 and the lowest bit that stays rounds halves to even.
    np.right_shift(total, 3, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    np.add(total, odd, out=total)
    np.add(total, 3, out=total)
    np.right_shift(total, 3, out=total)
    np.copyto(dst, total.reshape(dst.shape), casting="unsafe")


def _mean_any(src: NDArray[Any], dst: NDArray[Any]) -> None:
    """Halve a block of any shape, also one voxel thick."""
    if not src.size:
        return
    total: NDArray[Any] = src.astype(np.uint32)
    n = np.ones((1, 1, 1), np.uint32)
    for axis in range(3):
        edges = np.arange(0, src.shape[axis], 2)
        total = np.add.reduceat(total, edges, axis=axis)
        sizes = np.minimum(2, src.shape[axis] - edges).astype(np.uint32)
        n = n * sizes.reshape([-1 if i == axis else 1 for i in range(3)])
    quotient, rest = np.divmod(total, n)
    dst[...] = quotient + (2 * rest + (quotient & 1) > n)
