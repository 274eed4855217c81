"""Make the input of the benchmarks: TIFF slices of a volume and of its region labels.

    python benchmarks/make_input.py DIR [--shape 256,1420,2816] [--seed 0] [--texture SLICE.tif]

Writes ``DIR/input/z0000.tif ...`` (uint8, uncompressed), ``DIR/labels/z0000.tif ...`` (uint8,
deflate, codes 0 to 8, dense), ``DIR/truth.npy`` (how often each label meets each intensity) and
``DIR/input.json``, which says how well the voxels compress.
The same shape, seed and texture give the same voxels on every machine with the same numpy;
nothing here imports the package, and memory holds a few slices, whatever the depth.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.ndimage
import tifffile

SHAPE = (256, 1420, 2816)
# Noise in grey levels (sd) with which zstd 1 reaches 1.32 on 64^3 chunks, as it does on real
# data; the published slice has noise of its own, but only 19 grey levels.
NOISE_ON_SLICE, NOISE_ON_SYNTHETIC = 5.0, 13.5
N_REGIONS = 8
DRIFT_VOX = 0.5  # how far the texture moves along x from one slice to the next


def texture_of(path: Path | None, shape_yx: tuple[int, int], seed: int) -> np.ndarray:
    """Return the noiseless image (y, x), float32, 0 to 255; wide enough to drift in x."""
    if path is not None:
        return tifffile.imread(path).astype(np.float32)
    rng = np.random.default_rng([seed, 1])
    height, width = shape_yx[0], 2 * shape_yx[1]
    image = np.full((height, width), 128, np.float32)
    for size, contrast in ((256, 14.0), (64, 10.0), (16, 7.0)):
        coarse = rng.standard_normal((height // size + 3, width // size + 3)).astype(np.float32)
        fine = scipy.ndimage.zoom(coarse, size, order=3)[size:, size:]
        image += contrast * fine[:height, :width]
    return np.clip(image, 0, 255)


def window(texture: np.ndarray, z: int, shape_yx: tuple[int, int]) -> np.ndarray:
    """Return the part of the texture under slice ``z``, mirrored where it is too small."""
    height, width = texture.shape
    start = max(0, (width - shape_yx[1]) // 2) + int(z * DRIFT_VOX)
    y, x = np.arange(shape_yx[0]), start + np.arange(shape_yx[1])
    return texture[np.ix_(mirror(y, height), mirror(x, width))]


def mirror(index: np.ndarray, n: int) -> np.ndarray:
    """Return the index folded back and forth into ``0 .. n - 1``."""
    folded = index % (2 * n)
    return np.where(folded < n, folded, 2 * n - 1 - folded)


def image_slice(
    texture: np.ndarray, z: int, shape_yx: tuple[int, int], seed: int, noise: float
) -> np.ndarray:
    """Return slice ``z`` (y, x) uint8: texture plus white noise of its own."""
    rng = np.random.default_rng([seed, 2, z])
    image = rng.standard_normal(shape_yx, dtype=np.float32)
    image *= noise
    image += window(texture, z, shape_yx)
    np.rint(image, out=image)
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8)


def label_slice(z: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return slice ``z`` (y, x) uint8: curved regions one after another along x in an ellipse."""
    depth, height, width = shape
    v = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    u = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width
    w = (z + 0.5) / depth
    bend = 0.06 * np.sin(2 * np.pi * (v + 0.4 * w)) + 0.03 * np.sin(2 * np.pi * w)
    region = np.floor((u + bend - 0.06) / 0.88 * N_REGIONS) + 1
    inside = ((u - 0.5) / 0.48) ** 2 + ((v - 0.5) / 0.46) ** 2 < 1
    return np.where(inside, np.clip(region, 1, N_REGIONS), 0).astype(np.uint8)


def make(directory: Path, shape: tuple[int, int, int], seed: int, texture: Path | None) -> dict:
    """Write the two folders and return what ``input.json`` says."""
    image_dir, label_dir = directory / "input", directory / "labels"
    for folder in (image_dir, label_dir):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    base = texture_of(texture, shape[1:], seed)
    noise = NOISE_ON_SLICE if texture else NOISE_ON_SYNTHETIC

    def write(z: int) -> np.ndarray:
        image = image_slice(base, z, shape[1:], seed, noise)
        tifffile.imwrite(image_dir / f"z{z:04d}.tif", image)
        labels = label_slice(z, shape)
        tifffile.imwrite(label_dir / f"z{z:04d}.tif", labels, compression="zlib")
        key = labels.astype(np.uint16) * 256 + image
        return np.bincount(key.ravel(), minlength=(N_REGIONS + 1) * 256)

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        truth = sum(pool.map(write, range(shape[0])))
    np.save(directory / "truth.npy", np.reshape(truth, (N_REGIONS + 1, 256)))
    facts = {
        "shape": list(shape),
        "seed": seed,
        "texture": texture.name if texture else "synthetic",
        "seconds": round(time.perf_counter() - start, 1),
        "zstd1_ratio": {
            "image": round(zstd_ratio(image_dir, shape), 3),
            "labels": round(zstd_ratio(label_dir, shape), 1),
        },
    }
    (directory / "input.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def zstd_ratio(folder: Path, shape: tuple[int, int, int], edge: int = 64) -> float:
    """Return raw bytes by zstd level 1 bytes over every third chunk of a slab in the middle."""
    import zstandard

    z0 = shape[0] // 2 // edge * edge
    planes = range(z0, min(shape[0], z0 + edge))
    slab = np.stack([tifffile.imread(folder / f"z{z:04d}.tif") for z in planes])
    places = [(y, x) for y in range(0, shape[1], edge) for x in range(0, shape[2], edge)]
    raw = packed = 0
    for y, x in places[::3]:
        chunk = np.ascontiguousarray(slab[:, y : y + edge, x : x + edge])
        raw += chunk.nbytes
        packed += len(zstandard.ZstdCompressor(level=1).compress(chunk))
    return raw / packed


def parse_shape(text: str) -> tuple[int, int, int]:
    """Return the three sizes of ``z,y,x``."""
    z, y, x = (int(part) for part in text.split(","))
    return z, y, x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", type=parse_shape, default=SHAPE, help="z,y,x voxels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texture", type=Path, help="a real slice to put the noise on")
    args = parser.parse_args()
    print(json.dumps(make(args.directory, args.shape, args.seed, args.texture)))


if __name__ == "__main__":
    main()
