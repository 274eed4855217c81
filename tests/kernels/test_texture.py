"""Features of patches, against scipy and against counting pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from thc_dask.kernels.texture import N_BINS, feature_names, features

RING = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]


def named(patches, low=0, high=255):
    return dict(zip(feature_names(), features(patches, low, high).T, strict=True))


def noise(n=5, shape=(24, 24), dtype=np.uint8, seed=3):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (n, *shape), dtype)


def test_moments_are_those_of_scipy():
    patches, found = noise(), named(noise())
    flat = patches.reshape(len(patches), -1).astype(float)
    for name, value in (
        ("mean", flat.mean(axis=1)), ("sd", flat.std(axis=1)),
        ("skewness", stats.skew(flat, axis=1)), ("kurtosis", stats.kurtosis(flat, axis=1)),
    ):  # fmt: skip
        np.testing.assert_allclose(found[name], value, rtol=1e-9)
    histogram = np.stack([found[f"histogram_{i}"] for i in range(N_BINS)], axis=1)
    np.testing.assert_allclose(found["entropy"], stats.entropy(histogram, base=2, axis=1))


def test_the_histogram_is_that_of_numpy():
    patches = noise(dtype=np.uint16)
    found = named(patches, 1000, 60_000)
    for i, patch in enumerate(patches):
        counts, _ = np.histogram(np.clip(patch, 1000, 60_000), N_BINS, (1000, 60_000))
        mine = [found[f"histogram_{b}"][i] for b in range(N_BINS)]
        np.testing.assert_allclose(mine, counts / patch.size)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_patterns_counted_one_by_one(scale):
    patches = noise(2, (27, 30))
    found = named(patches)
    for i, patch in enumerate(patches):
        h, w = (n // scale for n in patch.shape)
        small = patch[: h * scale, : w * scale].reshape(h, scale, w, scale).mean(axis=(1, 3))
        counts = np.zeros(10)
        for y in range(1, h - 1):
            for x in range(1, w - 1):
                ring = [small[y + a, x + b] >= small[y, x] for a, b in RING]
                changes = sum(p != q for p, q in zip(ring, ring[1:] + ring[:1], strict=True))
                counts[sum(ring) if changes <= 2 else 9] += 1
        mine = [found[f"pattern_{k}_at_{scale}"][i] for k in range(10)]
        np.testing.assert_allclose(mine, counts / counts.sum())


@given(st.integers(0, 99), st.integers(0, 3), st.booleans())
def test_turning_and_mirroring_change_nothing(seed, turns, mirrored):
    patches = noise(2, (16, 16), seed=seed)  # a multiple of every scale: nothing is cut off
    turned = np.rot90(patches, turns, (1, 2))
    turned = turned[:, ::-1] if mirrored else turned
    np.testing.assert_allclose(features(turned, 0, 255), features(patches, 0, 255), atol=1e-9)


def test_each_patch_is_by_itself():
    patches = noise(7)
    together = features(patches, 0, 255)
    alone = np.concatenate([features(patches[i : i + 1], 0, 255) for i in range(7)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (5, 5)])
def test_small_and_flat_patches_have_numbers_too(shape):
    for patches in (noise(3, shape), np.full((3, *shape), 7, np.uint8)):
        found = features(patches, 7, 7)
        assert found.shape == (3, len(feature_names()))
        assert np.isfinite(found).all()


def test_coherence_tells_stripes_from_noise():
    stripes = np.tile(np.uint8([0, 0, 0, 200, 200, 200]), (1, 24, 4))
    assert named(stripes)["coherence_at_1"][0] == pytest.approx(1)
    assert named(noise())["coherence_at_1"].max() < 0.3
