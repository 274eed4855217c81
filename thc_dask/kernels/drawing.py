"""Draw balls, tubes and smooth fields into a block, and expose it to grey levels with noise.

Positions are float32 voxels of the whole volume, compared with whole voxels, and noise is a hash
of the voxel, so a voxel gets the same value whatever the block is. Shadows join by the largest.
Smooth fields are given at every second voxel of the volume, from the last even voxel at or
before ``start`` on, and one beyond the block.

Examples
--------
A straight tube along x, of radius 0.8, drawn as structure 1 into a block of one plane:

>>> shadow, code = np.zeros((1, 3, 6), np.uint8), np.zeros((1, 3, 6), np.uint8)
>>> ends_and_radius = np.float32([[0, 1, 0, 0, 1, 2, 0, 1, 4, 0, 1, 9, 0.8]])
>>> draw_tubes(ends_and_radius, np.float32(200), 1, (0, 0, 0), shadow, code)
>>> code[0].tolist()
[[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]
>>> int(shadow[0, 1, 3])
180
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import f4, i8, njit, types, u1, u2, u4, void

F, U, INT = np.float32, np.uint32, np.int32
ZERO, HALF, ONE, TWO, THREE = F(0), F(0.5), F(1), F(2), F(3)
STEP, PIECES = 2, 10
# The standard deviation of the blurred noise is 12672 before scaling.
NOISE, FIBRE_GREY, RESIN_GREY, RIM_GREY = F(14 / 12672), F(45), F(4), F(28)

VOX, BLOCK, OUT = types.UniTuple(i8, 3), u1[:, :, ::1], u1[:, :, :]
ROWS, FIELD, FIELDS = f4[:, ::1], f4[:, :, ::1], f4[:, :, :, ::1]

compiled = functools.partial(njit, nogil=True, cache=True)
# Calls that are not inlined keep the loops around them from being vectorised.
inlined = functools.partial(compiled, forceinline=True)


@inlined(u4(u4))
def _mix(h: Any) -> Any:
    # Finaliser of MurmurHash3 (A. Appleby, public domain): every input bit reaches every bit.
    h = U((h ^ (h >> U(16))) * U(0x85EBCA6B))
    h = U((h ^ (h >> U(13))) * U(0xC2B2AE35))
    return h ^ (h >> U(16))


@inlined(f4(f4))
def _clamp(v: Any) -> Any:
    return min(max(v, ZERO), ONE)


@compiled(void(f4[::1], f4[::1], f4, VOX, BLOCK, i8[::1], i8[::1]))
def _bounds(p: Any, q: Any, reach: Any, start: Any, dark: Any, lo: Any, hi: Any) -> None:
    """Find the voxels of the block within ``reach`` of the box between ``p`` and ``q``."""
    for axis in range(3):
        low, high = min(p[axis], q[axis]) - reach, max(p[axis], q[axis]) + reach
        lo[axis] = max(start[axis], INT(np.ceil(low)))
        hi[axis] = min(start[axis] + dark.shape[axis], INT(np.floor(high)) + 1)


@compiled(void(ROWS, u1, VOX, BLOCK, BLOCK))
def draw_balls(balls: Any, value: int, start: Any, dark: Any, code: Any) -> None:
    """Draw ellipsoids with the look of a cell body: dark, a paler nucleus, a dark nucleolus.

    Parameters
    ----------
    balls
        float32 (ball, 7): centre z, y, x and radius in voxels, stretch along x, lean of y,
        shadow 0 to 255.
    value
        Code of the voxels inside.
    start
        First voxel (z, y, x) of the block.
    dark, code
        uint8 (z, y, x) block: shadow, which grows, and codes, which are replaced.
    """
    lo, hi = np.empty(3, np.int64), np.empty(3, np.int64)
    for b in range(balls.shape[0]):
        at = balls[b]
        radius, long, lean, shade = at[3], at[4], at[5], at[6]
        _bounds(at, at, F(1.5) * radius + THREE, start, dark, lo, hi)
        for i in range(lo[0], hi[0]):
            for j in range(lo[1], hi[1]):
                darks, codes = dark[i - start[0], j - start[1]], code[i - start[0], j - start[1]]
                for k in range(lo[2], hi[2]):
                    dz, dy, dx = F(i) - at[0], F(j) - at[1], F(k) - at[2]
                    dy, dx = dy + lean * (dx + dz), dx * (ONE - long)
                    d = np.sqrt(dz * dz + dy * dy + dx * dx)
                    grey = _clamp((radius - d) * F(0.45) + HALF)
                    grey -= F(0.3) * _clamp((F(0.62) * radius - d) * HALF + HALF)
                    grey += HALF * _clamp((F(0.24) * radius - d) * F(0.6) + HALF)
                    o = k - start[2]
                    darks[o] = max(darks[o], np.uint8(INT(shade * min(grey, ONE))))
                    codes[o] = value if d < radius else codes[o]


@compiled(void(f4[::1], f4[::1], f4, f4, u1, VOX, BLOCK, BLOCK))
def _draw_piece(
    p: Any, q: Any, radius: Any, shade: Any, value: int, start: Any, dark: Any, code: Any
) -> None:
    """Draw the voxels within ``radius`` of the line from ``p`` to ``q``."""
    lo, hi = np.empty(3, np.int64), np.empty(3, np.int64)
    _bounds(p, q, radius + TWO, start, dark, lo, hi)
    vz, vy, vx = q[0] - p[0], q[1] - p[1], q[2] - p[2]
    length = max(vz * vz + vy * vy + vx * vx, F(1e-6))
    for i in range(lo[0], hi[0]):
        for j in range(lo[1], hi[1]):
            darks, codes = dark[i - start[0], j - start[1]], code[i - start[0], j - start[1]]
            for k in range(lo[2], hi[2]):
                dz, dy, dx = F(i) - p[0], F(j) - p[1], F(k) - p[2]
                t = _clamp((dz * vz + dy * vy + dx * vx) / length)
                dz, dy, dx = dz - t * vz, dy - t * vy, dx - t * vx
                d = np.sqrt(dz * dz + dy * dy + dx * dx)
                o = k - start[2]
                grey = shade * _clamp((radius - d) * HALF + HALF)
                darks[o] = max(darks[o], np.uint8(INT(grey)))
                codes[o] = value if d < radius else codes[o]


@compiled(void(ROWS, f4, u1, VOX, BLOCK, BLOCK))
def draw_tubes(tubes: Any, shade: Any, value: int, start: Any, dark: Any, code: Any) -> None:
    """Draw tubes along cubic Bezier curves, as straight pieces with round ends.

    Parameters
    ----------
    tubes
        float32 (tube, 13): four control points z, y, x and the radius, in voxels.
    shade
        Shadow in the middle, 0 to 255.
    value
        Code of the voxels inside.
    start
        First voxel (z, y, x) of the block.
    dark, code
        uint8 (z, y, x) block: shadow, which grows, and codes, which are replaced.
    """
    here, there = np.empty(3, np.float32), np.empty(3, np.float32)
    for n in range(tubes.shape[0]):
        tube, radius, outside = tubes[n], tubes[n, 12], False
        for axis in range(3):
            a, b, c, d = tube[axis], tube[3 + axis], tube[6 + axis], tube[9 + axis]
            low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
            outside = outside or high + radius + THREE < F(start[axis])
            outside = outside or low - radius - THREE > F(start[axis] + dark.shape[axis])
        if outside:
            continue
        for i in range(PIECES + 1):
            t, s = F(i) / F(PIECES), F(PIECES - i) / F(PIECES)
            for axis in range(3):
                here[axis] = there[axis]
                ends = s * s * s * tube[axis] + t * t * t * tube[9 + axis]
                there[axis] = ends + THREE * s * t * (s * tube[3 + axis] + t * tube[6 + axis])
            if i > 0:
                _draw_piece(here, there, radius, shade, value, start, dark, code)


@compiled(void(FIELD, VOX, i8, i8, f4[::1], f4[::1]))
def _stretch(field: Any, start: Any, i: int, j: int, line: Any, out: Any) -> None:
    """Interpolate row ``i, j`` of the block that starts at ``start``."""
    z, y, odd = start[0] % STEP + i, start[1] % STEP + j, start[2] % STEP
    tz, ty = HALF * F(z % STEP), HALF * F(y % STEP)
    f0, f1 = field[z // STEP], field[z // STEP + 1]
    a, b = y // STEP, y // STEP + 1
    for k in range(line.size):
        low = f0[a, k] + ty * (f0[b, k] - f0[a, k])
        high = f1[a, k] + ty * (f1[b, k] - f1[a, k])
        line[k] = low + tz * (high - low)
    for k in range(out.size):
        node = (k + odd) // STEP
        out[k] = line[node] + HALF * F((k + odd) % STEP) * (line[node + 1] - line[node])


@compiled(void(u4, i8, i8, i8, u2[:, ::1], u2[::1], u2[:, ::1]))
def _grain(seed: Any, z: int, y0: int, x0: int, rows: Any, raw: Any, out: Any) -> None:
    """Fill a plane with white noise blurred by 1 4 6 4 1 along x and y: 0 to 65280."""
    n, m = out.shape
    for j in range(n + 4):
        line = _mix(U(_mix(U(seed + U(z) * U(0x9E3779B1))) + U(y0 + j - 2) * U(0x85EBCA77)))
        for k in range(m + 4):
            raw[k] = _mix(U(line + U(x0 + k - 2) * U(0xC2B2AE3D))) >> U(24)
        for k in range(m):
            rows[j, k] = raw[k] + 4 * raw[k + 1] + 6 * raw[k + 2] + 4 * raw[k + 3] + raw[k + 4]
    for j in range(n):
        for k in range(m):
            near = rows[j + 1, k] + rows[j + 3, k]
            out[j, k] = rows[j, k] + 4 * near + 6 * rows[j + 2, k] + rows[j + 4, k]


@compiled(void(u2[::1], u2[::1], u2[::1], u1[::1], ROWS, u1[::1]))
def _expose_row(before: Any, here: Any, after: Any, dark: Any, lines: Any, out: Any) -> None:
    """Turn noise of three planes, shadow, and depth, base grey and fibres into grey levels."""
    for k in range(out.size):
        noise = F(INT(before[k]) + 2 * INT(here[k]) + INT(after[k]) - 130560) * NOISE
        grey = lines[1, k] + FIBRE_GREY * _clamp(HALF + HALF * lines[2, k]) + noise
        grey = grey * (ONE - F(INT(dark[k])) * F(1 / 256))
        # Phase contrast: the outermost tissue is brighter.
        grey = grey + RIM_GREY * max(ZERO, ONE - abs(lines[0, k] - THREE) * F(1 / 3))
        resin = RESIN_GREY + F(0.3) * noise
        grey = resin + _clamp(HALF + HALF * lines[0, k]) * (grey - resin)
        out[k] = np.uint8(INT(min(max(grey + HALF, ZERO), F(255))))


@compiled(void(u4, FIELDS, BLOCK, VOX, OUT))
def expose(seed: Any, fields: Any, dark: Any, start: Any, out: Any) -> None:
    """Fill a block with grey levels, 0 to 255.

    Parameters
    ----------
    seed
        Which noise.
    fields
        float32 (field, z, y, x): depth in the tissue in voxels, base grey, fibre field.
    dark
        uint8 (z, y, x): shadow, 0 to 255.
    start
        First voxel (z, y, x) of the block.
    out
        uint8 (z, y, x), to be filled.
    """
    n, m, l = out.shape  # noqa: E741
    lines, line = np.empty((3, l), np.float32), np.empty(fields.shape[3], np.float32)
    grain, rows = np.empty((3, m, l), np.uint16), np.empty((m + 4, l), np.uint16)
    raw, grey = np.empty(l + 4, np.uint16), np.empty(l, np.uint8)
    for i in range(-2, n):
        z = start[0] + i + 1
        _grain(seed, z, start[1], start[2], rows, raw, grain[z % 3])
        if i < 0:
            continue
        before, here, after = grain[(z - 2) % 3], grain[(z - 1) % 3], grain[z % 3]
        for j in range(m):
            for f in range(3):
                _stretch(fields[f], start, i, j, line, lines[f])
            _expose_row(before[j], here[j], after[j], dark[i, j], lines, grey)
            for k in range(l):
                out[i, j, k] = grey[k]


@compiled(void(FIELD, u1, VOX, OUT))
def fill_above(field: Any, value: int, start: Any, out: Any) -> None:
    """Set the zeros of a block to ``value`` where ``field`` (z, y, x) is above 0."""
    line, here = np.empty(field.shape[2], np.float32), np.empty(out.shape[2], np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _stretch(field, start, i, j, line, here)
            for k in range(out.shape[2]):
                old = out[i, j, k]
                out[i, j, k] = value if old == 0 and here[k] > ZERO else old


@compiled(void(FIELD, VOX, OUT))
def clear_below(field: Any, start: Any, out: Any) -> None:
    """Set a block to 0 where ``field`` (z, y, x) is 0 or below."""
    line, here = np.empty(field.shape[2], np.float32), np.empty(out.shape[2], np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _stretch(field, start, i, j, line, here)
            for k in range(out.shape[2]):
                out[i, j, k] = out[i, j, k] if here[k] > ZERO else np.uint8(0)
