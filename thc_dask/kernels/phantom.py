"""Say what is where in the synthetic volume: regions, tissue, fibres, cells, vessels.

Every voxel is a pure function of its position, the shape and the seed: counter-based hashes
instead of a generator, and arithmetic that IEEE 754 fixes to the last bit (no fast-math, no
transcendental function). So neither the block nor the machine can change it.

Three scales of work keep it fast. Boundaries depend on two of the three axes and are tabulated.
Depth in the tissue, base grey and fibres are smooth: computed at every second voxel along each
axis, interpolated by ``thc_dask.kernels.drawing``. Only noise and the mix touch every voxel.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import f4, from_dtype, i8, njit, types, u1, u4, void

F, U, INT = np.float32, np.uint32, np.int32
ZERO, HALF, ONE, TWO, THREE = F(0), F(0.5), F(1), F(2), F(3)
K1, K2, K3 = U(0x9E3779B1), U(0x85EBCA77), U(0xC2B2AE3D)
STEP = 2

# Rows of the table of boundaries: y as a function of x, then x as a function of y.
IC_END, TRN_END, VP_START, HYP_END, TRACT_END, TOP, BOTTOM = range(7)
STR_START, CC_START, CTX_START, RIGHT = range(4)
N_COLS, N_ROWS = 7, 4
# Columns of that table, before the knots.
SLIDE, FADE, DRIFT, WAVE, KNOTS = range(5)
W_REFERENCE, W_FADE = F(309.5 / 720), F(0.36)
FIRST_PLANE, LAST_PLANE = F(15 / 720), F(670 / 720)

CELL_UM = F(20)  # between sites of cells
TRACT = np.uint8(9)

LOOK = np.dtype(
    [
        ("base", "f4"),  # grey between the structures
        ("shade", "f4"),  # grey that the slow variation adds at most
        ("felt", "f4"),  # the same for the finest threads
        ("glow", "f4"),  # grey a unit of the fibre field, inside bundles
        ("level", "f4"),  # threshold of the fibre field: higher is rarer
        ("sharp", "f4"),  # steepness of a bundle's edge
        ("long_um", "f4"),  # length of a bundle
        ("wide_um", "f4"),  # its width in the plane
        ("deep_um", "f4"),  # its width across planes
        ("fine", "f4"),  # weight of the streaks inside bundles
        ("y", "f4"),  # centre of the ellipses that bundles follow, fraction of the shape
        ("x", "f4"),
        ("flat", "f4"),  # y axis of the ellipses over their x axis
        ("along_y", "f4"),  # direction of the bundles
        ("along_x", "f4"),
        ("cells", "f4"),  # cells a site of their lattice, 0 to 1
    ]
)  # fmt: skip

FRAME = types.UniTuple(f4, 4)  # voxels along z, y, x; micrometers a voxel
VOX = types.UniTuple(i8, 3)
CURVES, LOOKS = f4[:, ::1], from_dtype(LOOK)[::1]
SCENE = types.Tuple((u4, FRAME, CURVES, LOOKS))
ROWS, TABLE, FIELDS = f4[:, ::1], f4[:, :, ::1], f4[:, :, :, ::1]

compiled = functools.partial(njit, nogil=True, cache=True)
# Calls that are not inlined keep the loops around them from being vectorised.
inlined = functools.partial(compiled, forceinline=True)


@inlined(u4(u4))
def _mix(h: Any) -> Any:
    # Finaliser of MurmurHash3 (A. Appleby, public domain): every input bit reaches every bit.
    h = U((h ^ (h >> U(16))) * U(0x85EBCA6B))
    h = U((h ^ (h >> U(13))) * U(0xC2B2AE35))
    return h ^ (h >> U(16))


@inlined(u4(u4, i8, i8, i8))
def _hash(seed: Any, a: int, b: int, c: int) -> Any:
    return _mix(U(_mix(U(_mix(U(seed + U(a) * K1)) + U(b) * K2)) + U(c) * K3))


@inlined(f4(u4))
def _unit(h: Any) -> Any:
    return F(INT(h >> U(8))) * F(1 / 16777216)


@inlined(f4(u4))
def _signed(h: Any) -> Any:
    return F(INT(h)) * F(1 / 2147483648)


@inlined(f4(f4))
def _clamp(v: Any) -> Any:
    return min(max(v, ZERO), ONE)


@inlined(f4(u4, f4, f4, f4))
def _smooth(seed: Any, p: Any, q: Any, r: Any) -> Any:
    """Return smooth noise from -1 to 1 with one random value a unit of each coordinate."""
    fp, fq, fr = np.floor(p), np.floor(q), np.floor(r)
    a0, b0, c0 = U(U(INT(fp)) * K1), U(U(INT(fq)) * K2), U(U(INT(fr)) * K3 + seed)
    a1, b1, c1 = U(a0 + K1), U(b0 + K2), U(c0 + K3)
    p, q, r = p - fp, q - fq, r - fr
    p, q, r = p * p * (THREE - TWO * p), q * q * (THREE - TWO * q), r * r * (THREE - TWO * r)
    v00, w00 = _signed(_mix(a0 ^ b0 ^ c0)), _signed(_mix(a1 ^ b0 ^ c0))
    v01, w01 = _signed(_mix(a0 ^ b0 ^ c1)), _signed(_mix(a1 ^ b0 ^ c1))
    v10, w10 = _signed(_mix(a0 ^ b1 ^ c0)), _signed(_mix(a1 ^ b1 ^ c0))
    v11, w11 = _signed(_mix(a0 ^ b1 ^ c1)), _signed(_mix(a1 ^ b1 ^ c1))
    v00, v01 = v00 + p * (w00 - v00), v01 + p * (w01 - v01)
    v10, v11 = v10 + p * (w10 - v10), v11 + p * (w11 - v11)
    v00, v01 = v00 + q * (v10 - v00), v01 + q * (v11 - v01)
    return v00 + r * (v01 - v00)


@inlined(f4(u4, f4, f4, i8, CURVES))
def _curve(seed: Any, s: Any, w: Any, k: int, curves: Any) -> Any:
    """Return boundary ``k``, a fraction of its axis, at ``s`` on the other and ``w`` of z."""
    late = max(w - W_FADE, ZERO)
    at = _clamp(s + curves[k, SLIDE] * (w - W_REFERENCE) + curves[k, FADE] * late * late)
    n = curves.shape[1] - KNOTS - 1
    t = at * F(n)
    i = min(INT(t), INT(n - 1))
    low, high = curves[k, KNOTS + i], curves[k, KNOTS + i + 1]
    wave = curves[k, WAVE] * _smooth(seed, s * F(9), w * THREE, F(k) + HALF)
    return low + (t - F(i)) * (high - low) + curves[k, DRIFT] * (w - W_REFERENCE) + wave


@inlined(f4(u4, f4, f4))
def _rough(seed: Any, a_um: Any, b_um: Any) -> Any:
    """Return the unevenness of a cut face in micrometers."""
    wide = F(9) * _smooth(seed, a_um * F(1 / 240), b_um * F(1 / 240), HALF)
    return wide + F(4) * _smooth(seed, a_um * F(1 / 35), b_um * F(1 / 35), F(1.5))


@inlined(u1(f4, f4, f4, f4, f4, f4, f4, f4, f4, f4))
def _material(
    y: Any, x: Any, ic: Any, trn: Any, vp: Any, hyp: Any, tract: Any, st: Any, cc: Any, ctx: Any
) -> Any:
    """Return the code of the region, or ``TRACT``, at fractions y, x between boundaries."""
    m = np.uint8(4) if y >= vp else np.uint8(5)
    m = np.uint8(3) if y < trn else m
    m = np.uint8(6) if y < ic else m
    m = np.uint8(7) if y < hyp else m
    m = np.uint8(2) if x >= st else m
    m = np.uint8(8) if x >= cc else m
    m = np.uint8(1) if x >= ctx else m
    return TRACT if y < tract else m


@compiled(u1(SCENE, f4, f4, f4))
def _material_at(scene: Any, z: Any, y: Any, x: Any) -> Any:
    """Return the material at one position in voxels."""
    seed, frame, curves, _ = scene
    w, v, u = (z + HALF) / frame[0], (y + HALF) / frame[1], (x + HALF) / frame[2]
    c, r = np.empty(TOP, np.float32), np.empty(RIGHT, np.float32)
    for k in range(TOP):
        c[k] = _curve(seed, u, w, k, curves)
    for k in range(RIGHT):
        r[k] = _curve(seed, v, w, N_COLS + k, curves)
    return _material(v, u, c[0], c[1], c[2], c[3], c[4], r[0], r[1], r[2])


@compiled(void(SCENE, VOX, i8, TABLE, TABLE))
def _tabulate(scene: Any, start: Any, step: int, cols: Any, rows: Any) -> None:
    """Fill the boundaries along x (z, curve, x) and along y (z, curve, y) of a lattice."""
    seed, frame, curves, _ = scene
    um, per_um = frame[3], ONE / frame[3]
    for i in range(cols.shape[0]):
        z = F(start[0] + i * step)
        w = (z + HALF) / frame[0]
        for k in range(cols.shape[1]):
            for j in range(cols.shape[2]):
                x = F(start[2] + j * step)
                cols[i, k, j] = _curve(seed, (x + HALF) / frame[2], w, k, curves)
                if k >= TOP:
                    cols[i, k, j] += per_um * _rough(seed + U(k), x * um, z * um) / frame[1]
        for k in range(rows.shape[1]):
            for j in range(rows.shape[2]):
                y = F(start[1] + j * step)
                rows[i, k, j] = _curve(seed, (y + HALF) / frame[1], w, N_COLS + k, curves)
                if k >= RIGHT:
                    rows[i, k, j] += per_um * _rough(seed + U(3), y * um, z * um) / frame[2]


@compiled(void(SCENE, VOX, TABLE, TABLE, TABLE))
def _carve(scene: Any, start: Any, cols: Any, rows: Any, depth: Any) -> None:
    """Fill how many voxels deep in the tissue a lattice node is: -8 (outside) to 8."""
    seed, frame, _, _ = scene
    _, m, l = depth.shape  # noqa: E741
    um = frame[3]
    face, line = min(ONE, frame[0] * F(1 / 1100)) / um, np.empty(l, np.float32)
    for j in range(m):
        y = F(start[1] + j * STEP)
        v = (y + HALF) / frame[1]
        for k in range(l):
            line[k] = face * _rough(seed + U(4), y * um, F(start[2] + k * STEP) * um)
        for i in range(depth.shape[0]):
            z = F(start[0] + i * STEP) + HALF
            first, last = z - FIRST_PLANE * frame[0], LAST_PLANE * frame[0] - z
            for k in range(l):
                x = F(start[2] + k * STEP) + HALF
                sides = min((v - cols[i, TOP, k]) * frame[1], (cols[i, BOTTOM, k] - v) * frame[1])
                ends = min(rows[i, RIGHT, j] * frame[2] - x, min(first, last) + line[k])
                depth[i, j, k] = max(min(min(sides, ends), F(8)), F(-8))


@compiled(void(u4, f4[::1], f4[::1], f4[::1], f4, f4, f4, f4[::1]))
def _smooth_row(seed: Any, p: Any, q: Any, r: Any, pu: Any, qu: Any, ru: Any, out: Any) -> None:
    # One result a loop: with more arrays the compiler gives up proving that they are apart.
    for k in range(out.size):
        out[k] = _smooth(seed, p[k] * pu, q[k] * qu, r[k] * ru)


@compiled(void(SCENE, ROWS, u1[::1], ROWS, f4[::1], f4[::1]))
def _weave(scene: Any, at: Any, m: Any, scratch: Any, base: Any, field: Any) -> None:
    """Fill base grey and fibre field at positions z, y, x in micrometers, of materials ``m``.

    Fibres are smooth noise, stretched along the level lines of an ellipse: so bundles curve.
    """
    seed, frame, _, looks = scene
    bend, along, across, p, q, r = (
        scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], scratch[5]
    )  # fmt: skip
    slow, thread = F(1 / 170), F(1 / 5.5)
    _smooth_row(seed + U(11), at[0], at[1], at[2], slow, slow, slow, bend)
    for k in range(m.size):
        look = looks[m[k]]
        dy, dx = at[1, k] - look.y * frame[1] * frame[3], at[2, k] - look.x * frame[2] * frame[3]
        along[k] = look.along_y * dy + look.along_x * dx
        across[k] = np.sqrt(dy * dy + look.flat * dx * (look.flat * dx)) + F(14) * bend[k]
        p[k], q[k] = along[k] / look.long_um, across[k] / look.wide_um
        r[k] = (at[0, k] + F(0.1) * along[k]) / look.deep_um
    _smooth_row(seed + U(12), p, q, r, ONE, ONE, ONE, base)
    _smooth_row(seed + U(13), p, q, r, F(2.1), F(2.7), F(2.7), field)
    _smooth_row(seed + U(14), along, across, at[0], F(1 / 12), thread, thread, r)
    for k in range(m.size):
        look = looks[m[k]]
        fibre = base[k] - look.level + look.fine * field[k]
        base[k] = look.base + look.shade * bend[k] + look.felt * r[k] + look.glow * max(fibre, ZERO)
        field[k] = max(min(look.sharp * fibre, F(4)), F(-4))


@compiled(void(SCENE, VOX, TABLE, TABLE, FIELDS))
def _grow(scene: Any, start: Any, cols: Any, rows: Any, fields: Any) -> None:
    """Fill base grey (1) and fibre field (2) at lattice nodes; regions fray along x."""
    seed, frame, um = scene[0], scene[1], scene[1][3]
    l = fields.shape[3]  # noqa: E741
    at, scratch = np.empty((3, l), np.float32), np.empty((6, l), np.float32)
    m = np.empty(l, np.uint8)
    for i in range(fields.shape[1]):
        c = cols[i]
        for j in range(fields.shape[2]):
            for k in range(l):
                at[0, k] = F(start[0] + i * STEP) * um
                at[1, k] = F(start[1] + j * STEP) * um
                at[2, k] = F(start[2] + k * STEP) * um
            v = (F(start[1] + j * STEP) + HALF) / frame[1]
            st, cc, ctx = rows[i, STR_START, j], rows[i, CC_START, j], rows[i, CTX_START, j]
            fray = scratch[0]
            _smooth_row(seed + U(15), at[0], at[1], at[2], F(1 / 6), F(1 / 6), F(1 / 60), fray)
            for k in range(l):
                u = (F(start[2] + k * STEP) + HALF) / frame[2] + F(0.003) * fray[k]
                m[k] = _material(v, u, c[0, k], c[1, k], c[2, k], c[3, k], c[4, k], st, cc, ctx)
            _weave(scene, at, m, scratch, fields[1, i, j], fields[2, i, j])


@compiled(FIELDS(SCENE, VOX, VOX, i8))
def grow_fields(scene: Any, start: Any, size: Any, count: int) -> Any:
    """Return what is smooth, at every second voxel in and around a block.

    float32 (field, z, y, x): depth in the tissue in voxels (-8 to 8, outside negative) and, if
    ``count`` is 3, base grey and fibre field (-4 to 4, axon above 0). The first node is the last
    even voxel at or before ``start``.
    """
    first = (start[0] // STEP, start[1] // STEP, start[2] // STEP)
    n = (start[0] + size[0] - 1) // STEP - first[0] + 2
    m = (start[1] + size[1] - 1) // STEP - first[1] + 2
    l = (start[2] + size[2] - 1) // STEP - first[2] + 2  # noqa: E741
    fields = np.empty((count, n, m, l), np.float32)
    corner = (first[0] * STEP, first[1] * STEP, first[2] * STEP)
    cols, rows = np.empty((n, N_COLS, l), np.float32), np.empty((n, N_ROWS, m), np.float32)
    _tabulate(scene, corner, STEP, cols, rows)
    _carve(scene, corner, cols, rows, fields[0])
    if count > 1:
        _grow(scene, corner, cols, rows, fields)
    return fields


@compiled(void(VOX, VOX, f4, f4, i8[::1], i8[::1]))
def _sites(start: Any, size: Any, pitch: Any, halo: Any, lo: Any, hi: Any) -> None:
    """Find the sites of a lattice whose drawings may reach into a block."""
    for axis in range(3):
        lo[axis] = INT(np.floor((F(start[axis]) - halo) / pitch))
        hi[axis] = INT(np.floor((F(start[axis] + size[axis]) + halo) / pitch)) + 1


@inlined(void(u4, i8, i8, i8, f4, f4[::1]))
def _scatter(seed: Any, a: int, b: int, c: int, pitch: Any, out: Any) -> None:
    """Place site (a, b, c) of a jittered lattice, in voxels of the volume."""
    h = _hash(seed, a, b, c)
    out[0] = (F(a) + _unit(h)) * pitch
    out[1] = (F(b) + _unit(_mix(U(h + U(1))))) * pitch
    out[2] = (F(c) + _unit(_mix(U(h + U(2))))) * pitch


@compiled(f4[:, ::1](SCENE, VOX, VOX))
def place_cells(scene: Any, start: Any, size: Any) -> Any:
    """Return the cells that may reach into a block: more or fewer by region, few in bundles.

    float32, (cell, 7): centre z, y, x and radius in voxels, stretch, lean, shadow; the rows of
    ``thc_dask.kernels.drawing.draw_balls``.
    """
    seed, um = scene[0], scene[1][3]
    lo, hi = np.empty(3, np.int64), np.empty(3, np.int64)
    _sites(start, size, CELL_UM / um, F(12) / um + TWO, lo, hi)
    l = hi[2] - lo[2]  # noqa: E741
    cells, n = np.empty(((hi[0] - lo[0]) * (hi[1] - lo[1]) * l, 7), np.float32), 0
    at, sites = np.empty((3, l), np.float32), np.empty((l, 3), np.float32)
    scratch, m = np.empty((6, l), np.float32), np.empty(l, np.uint8)
    base, field = np.empty(l, np.float32), np.empty(l, np.float32)
    for a in range(lo[0], hi[0]):
        for b in range(lo[1], hi[1]):
            for c in range(l):
                _scatter(seed + U(21), a, b, lo[2] + c, CELL_UM / um, sites[c])
                m[c] = _material_at(scene, sites[c, 0], sites[c, 1], sites[c, 2])
                for axis in range(3):
                    at[axis, c] = sites[c, axis] * um
            _weave(scene, at, m, scratch, base, field)
            for c in range(l):
                h = _hash(seed + U(22), a, b, lo[2] + c)
                rare = F(0.25) if field[c] > ZERO else ONE
                if _unit(h) < rare * scene[3][m[c]].cells:
                    cells[n, 0], cells[n, 1], cells[n, 2] = sites[c, 0], sites[c, 1], sites[c, 2]
                    cells[n, 3] = (F(4.2) + TWO * _unit(_mix(U(h + U(1))))) / um
                    cells[n, 4] = F(0.18) * _signed(_mix(U(h + U(2))))
                    cells[n, 5] = F(0.3) * _signed(_mix(U(h + U(3))))
                    cells[n, 6] = F(130) + F(80) * _unit(_mix(U(h + U(4))))
                    n += 1
    return cells[:n]


@compiled(f4[:, ::1](u4, VOX, VOX, f4, f4, f4, f4))
def place_vessels(
    seed: Any, start: Any, size: Any, pitch: Any, share: Any, thin: Any, wide: Any
) -> Any:
    """Return the tubes that may reach into a block: between neighbouring sites of a lattice.

    A share of all neighbours is joined, so tubes branch at the sites. float32, (tube, 13): four
    control points z, y, x of a cubic curve and the radius, in voxels; the rows of
    ``thc_dask.kernels.drawing.draw_tubes``.
    """
    lo, hi = np.empty(3, np.int64), np.empty(3, np.int64)
    # A tube leaves the cells of its two ends by less than half a pitch.
    _sites(start, size, pitch, HALF * pitch + wide + THREE, lo, hi)
    count = (hi[0] - lo[0] + 1) * (hi[1] - lo[1] + 1) * (hi[2] - lo[2] + 1)
    tubes, n = np.empty((3 * count, 13), np.float32), 0
    p, q = np.empty(3, np.float32), np.empty(3, np.float32)
    for a in range(lo[0] - 1, hi[0]):
        for b in range(lo[1] - 1, hi[1]):
            for c in range(lo[2] - 1, hi[2]):
                for axis in range(3):
                    h = _hash(seed + U(1 + axis), a, b, c)
                    if _unit(h) >= share:
                        continue
                    _scatter(seed, a, b, c, pitch, p)
                    _scatter(seed, a + (axis == 0), b + (axis == 1), c + (axis == 2), pitch, q)
                    bulge = _unit(_mix(U(h + U(1))))
                    tubes[n, 12] = thin + (wide - thin) * bulge * bulge * bulge
                    for i in range(3):
                        third, swing = (q[i] - p[i]) * F(1 / 3), F(0.4) * pitch
                        tubes[n, i], tubes[n, 9 + i] = p[i], q[i]
                        tubes[n, 3 + i] = p[i] + third + swing * _signed(_mix(U(h + U(2 + i))))
                        tubes[n, 6 + i] = q[i] - third + swing * _signed(_mix(U(h + U(5 + i))))
                    n += 1
    return tubes[:n]


@compiled(void(SCENE, VOX, u1[:, :, :]))
def draw_regions(scene: Any, start: Any, out: Any) -> None:
    """Fill ``out`` (z, y, x), a block from voxel ``start`` on, with region codes.

    Outside the tissue too; white matter without a region gets 0.
    """
    n, m, l = out.shape  # noqa: E741
    frame = scene[1]
    cols, rows = np.empty((n, TOP, l), np.float32), np.empty((n, RIGHT, m), np.float32)
    _tabulate(scene, start, 1, cols, rows)
    for i in range(n):
        c = cols[i]
        for j in range(m):
            v = (F(start[1] + j) + HALF) / frame[1]
            st, cc, ctx = rows[i, STR_START, j], rows[i, CC_START, j], rows[i, CTX_START, j]
            for k in range(l):
                u = (F(start[2] + k) + HALF) / frame[2]
                r = _material(v, u, c[0, k], c[1, k], c[2, k], c[3, k], c[4, k], st, cc, ctx)
                out[i, j, k] = r if r < TRACT else np.uint8(0)
