"""What a patch looks like, in numbers that do not change when it is turned or mirrored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BINS = 16
SCALES = (1, 2, 4, 8)  # voxels a side that are averaged first
MOMENTS = ("mean", "sd", "skewness", "kurtosis", "entropy")
N_PATTERNS = 10
# The eight neighbours of a pixel, one after the other around it.
RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


def feature_names() -> list[str]:
    """Return what each column of ``features`` is.

    >>> names = feature_names()
    >>> len(names), names[0], names[16], names[-1]
    (77, 'histogram_0', 'mean', 'pattern_9_at_8')
    """
    found = [f"histogram_{i}" for i in range(N_BINS)] + list(MOMENTS)
    for scale in SCALES:
        own = ["sd", "gradient_mean", "gradient_sd", "coherence"]
        own += [f"pattern_{i}" for i in range(N_PATTERNS)]
        found += [f"{name}_at_{scale}" for name in own]
    return found


def features(patches: NDArray[Any], low: float, high: float) -> Floats:
    """Return features of patches: their histogram, its moments, and texture at several scales.

    Texture is taken after averaging squares of 1, 2, 4 and 8 voxels: spread, size and spread of
    gradients, how far gradients run one way (coherence of the structure tensor, Bigun and Granlund
    1987, ICCV 433) and shares of uniform local binary patterns that do not change when turned
    (Ojala et al. 2002, IEEE TPAMI 24:971, eight neighbours). What a patch is too small for is 0.

    Parameters
    ----------
    patches
        Grey levels (patch, y, x), whole numbers.
    low, high
        Grey levels at the ends of the histogram; what lies beyond counts in the last bins.

    Returns
    -------
    ndarray
        float64 (patch, feature), as ``feature_names`` names them.

    Examples
    --------
    >>> stripes = np.tile(np.uint8([0, 0, 200, 200]), (1, 16, 4))
    >>> found = dict(zip(feature_names(), features(stripes, 0, 255)[0].tolist(), strict=True))
    >>> found["mean"], found["entropy"], found["coherence_at_1"]
    (100.0, 1.0, 1.0)
    """
    histogram = _histograms(patches, low, high)
    texture = [_texture(_sums(patches, scale), scale * scale) for scale in SCALES]
    return np.concatenate([histogram, _moments(patches, histogram), *texture], axis=1)


def _histograms(patches: NDArray[Any], low: float, high: float) -> Floats:
    """Return the share of pixels in each of ``N_BINS`` bins of one width."""
    scaled = (patches - np.float64(low)) * (N_BINS / max(high - low, 1.0))
    bins = np.clip(scaled, 0, N_BINS - 1).astype(np.int64).reshape(len(patches), -1)
    bins += N_BINS * np.arange(len(patches))[:, None]
    counts = np.bincount(bins.ravel(), minlength=N_BINS * len(patches))
    return counts.reshape(-1, N_BINS) / bins.shape[1]


def _moments(patches: NDArray[Any], histogram: Floats) -> Floats:
    """Return mean, sd, skewness, excess kurtosis, and the histogram's entropy in bits."""
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    mean = flat.mean(axis=1)
    apart = flat - mean[:, None]
    sd = np.sqrt((apart**2).mean(axis=1))
    unit = np.where(sd > 0, sd, 1.0)
    skewness = (apart**3).mean(axis=1) / unit**3
    kurtosis = np.where(sd > 0, (apart**4).mean(axis=1) / unit**4 - 3, 0.0)
    some = np.where(histogram > 0, histogram, 1.0)
    entropy = -(histogram * np.log2(some)).sum(axis=1)
    return np.stack([mean, sd, skewness, kurtosis, entropy], axis=1)


def _sums(patches: NDArray[Any], scale: int) -> NDArray[np.int64]:
    """Return sums over squares of ``scale`` voxels a side; what is over at the far edges goes."""
    n, (height, width) = len(patches), (s // scale for s in patches.shape[1:])
    whole = patches[:, : height * scale, : width * scale].astype(np.int64)
    found: NDArray[np.int64] = whole.reshape(n, height, scale, width, scale).sum(axis=(2, 4))
    return found


def _texture(sums: NDArray[np.int64], n: int) -> Floats:
    """Return spread, gradients, coherence and patterns of images of sums over ``n`` voxels."""
    if min(sums.shape[1:]) < 3:
        return np.zeros((len(sums), 4 + N_PATTERNS))
    mean = sums / n
    down = (mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1]) / 2
    across = (mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2]) / 2
    size = np.sqrt(down**2 + across**2)
    yy, xx, yx = (_average(p) for p in (down**2, across**2, down * across))
    total = yy + xx
    coherence = np.sqrt((yy - xx) ** 2 + 4 * yx**2) / np.where(total > 0, total, 1.0)
    own = [_spread(mean), _average(size), _spread(size), coherence]
    return np.concatenate([np.stack(own, axis=1), _patterns(sums)], axis=1)


def _patterns(sums: NDArray[np.int64]) -> Floats:
    """Return the share of pixels with each pattern of brighter neighbours.

    Patterns 0 to 8 have so many neighbours in a row that are no darker; 9 is all others.
    """
    n, height, width = len(sums), sums.shape[1] - 2, sums.shape[2] - 2
    centre = sums[:, 1:-1, 1:-1]
    bright = [sums[:, y : y + height, x : x + width] >= centre for y, x in RING]
    ones = np.sum(bright, axis=0, dtype=np.int64)
    changes = np.sum(
        [a != b for a, b in zip(bright, bright[1:] + bright[:1], strict=True)],
        axis=0, dtype=np.int64,
    )  # fmt: skip
    code = np.where(changes <= 2, ones, N_PATTERNS - 1).reshape(n, -1)
    code += N_PATTERNS * np.arange(n)[:, None]
    counts = np.bincount(code.ravel(), minlength=N_PATTERNS * n)
    return counts.reshape(n, N_PATTERNS) / code.shape[1]


def _average(images: Floats) -> Floats:
    found: Floats = images.reshape(len(images), -1).mean(axis=1)
    return found


def _spread(images: Floats) -> Floats:
    found: Floats = images.reshape(len(images), -1).std(axis=1)
    return found
