"""Frames of literals alone: what decodes them two blocks side by side does as the library does."""

import numpy as np
import pytest
import zstandard

from thc_dask.native import load
from thc_dask.store import zstd
from thc_dask.store.pipeline import HASHES
from thc_dask.store.pipeline import compiled as pipeline
from thc_dask.store.shards import Codec, encode_chunk
from thc_dask.store.zstd import compiled

PAIR = 2**18  # bytes of two blocks
GUARD = 4096
NOISE, OTHER = Codec().parameters_of_noise, Codec().parameters
DECOMPRESS = load(zstd.COMPILED)["decompress"]


def frame_of(parameters, data):
    return zstd.compress(parameters, memoryview(data).cast("B"))


def noise(kind, n, rng):
    voxels = {
        "image": lambda: rng.normal(120, 15, n),
        "narrow": lambda: rng.normal(3, 0.6, n),
        "all": lambda: rng.normal(128, 45, n),
        "two": lambda: rng.integers(0, 2, n),
        "rare": lambda: np.where(rng.random(n) < 0.001, rng.integers(0, 256, n), 3),
        "steep": lambda: rng.geometric(0.4, n),
        "changing": lambda: rng.normal(60, np.where(np.arange(n) < n // 2, 8, 30)),
    }[kind]()
    return np.clip(voxels, 0, 255).astype(np.uint8)


KINDS = ["image", "narrow", "all", "two", "rare", "steep", "changing"]


def decoded(frame, n):
    """Return what is decoded, None where it is left to the library, and that no more is written."""
    given = np.frombuffer(frame + b"\x05" * 8, np.uint8)  # a checksum stands behind each frame
    out = np.full(n + 2 * GUARD, 7, np.uint8)
    room = np.zeros(zstd.ROOM_BYTES // 8 + 8, np.int64)
    room[-8:] = 7
    into = out.ctypes.data + GUARD
    DECOMPRESS(into, n, given.ctypes.data, len(frame), room.ctypes.data)
    assert (out[:GUARD] == 7).all()
    assert (out[-GUARD:] == 7).all()
    assert (room[-8:] == 7).all()
    assert room[0] in {0, n}
    return bytes(out[GUARD:-GUARD]) if room[0] else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [PAIR, 2 * PAIR])
def test_noise_is_decoded(kind, n):
    voxels = noise(kind, n, np.random.default_rng(1))
    assert decoded(frame_of(NOISE, voxels), n) == voxels.tobytes()


def test_a_table_of_the_block_before_is_used_again():
    """The library writes none where that is shorter."""
    rng = np.random.default_rng(2)
    kinds = set()
    for sd in range(4, 40):
        voxels = np.clip(rng.normal(120, sd, 2 * PAIR), 0, 255).astype(np.uint8)
        frame = frame_of(NOISE, voxels)
        assert decoded(frame, voxels.size) == voxels.tobytes()
        at = 5 + 1 + 4  # of the first block: behind magic, descriptor, window and size
        while at < len(frame):
            kinds.add(frame[at + 3] & 3)
            at += 3 + (int.from_bytes(frame[at : at + 3], "little") >> 3)
    assert kinds == {compiled.COMPRESSED, compiled.TREELESS}


@pytest.mark.parametrize(
    ("frame", "n"),
    [
        (frame_of(OTHER, bytes(range(256)) * 1024), PAIR),
        (frame_of(OTHER, b"\1" * PAIR), PAIR),
        (frame_of(NOISE, np.random.default_rng(3).bytes(PAIR)), PAIR),
        (frame_of(NOISE, noise("image", PAIR // 2, np.random.default_rng(4))), PAIR // 2),
        (frame_of(NOISE, noise("image", PAIR + 64, np.random.default_rng(4))), PAIR + 64),
        (frame_of(NOISE, noise("image", PAIR, np.random.default_rng(4))), 2 * PAIR),
        (
            zstandard.ZstdCompressor(write_checksum=True).compress(
                noise("image", PAIR, np.random.default_rng(4)).data
            ),
            PAIR,
        ),
        (b"", PAIR),
        (b"\x28\xb5\x2f\xfd", PAIR),
    ],
    ids=["repeats", "one value", "raw", "one block", "three blocks", "size", "checksum", "", "cut"],
)
def test_other_frames_are_left_to_the_library(frame, n):
    assert decoded(frame, n) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_left_to_the_library_or_decoded_as_it_does(kind):
    rng = np.random.default_rng(5)
    n = PAIR
    frame = frame_of(NOISE, noise(kind, n, rng))
    library, n_decoded = zstandard.ZstdDecompressor(), 0
    for _ in range(300):
        damaged = bytearray(frame)
        for _ in range(rng.integers(1, 3)):
            at = rng.integers(0, 160 if rng.random() < 0.7 else len(frame))
            damaged[at] = rng.integers(0, 256)
        if rng.random() < 0.05:
            damaged = damaged[: rng.integers(0, len(frame))]
        found = decoded(bytes(damaged), n)
        if found is not None:
            n_decoded += 1
            assert found == library.decompress(bytes(damaged), max_output_size=n)
    assert n_decoded or kind == "rare"


def test_what_both_sides_of_machine_code_hold_is_the_same():
    assert compiled.N_BYTES <= zstd.ROOM_BYTES
    assert (pipeline.N_SAMPLES, pipeline.ONE_IN, pipeline.GOLDEN) == (
        zstd.N_SAMPLES, zstd.ONE_IN, zstd.GOLDEN,
    )  # fmt: skip
    assert pipeline.HASHES == HASHES


@pytest.mark.parametrize("at", [0, 100, 2**17])
def test_chunks_that_repeat_themselves_are_searched(at):
    """Noise around a masked part, and planes that are all the same."""
    rng = np.random.default_rng(6)
    chunk = noise("image", PAIR, rng).reshape(64, 64, 64)
    assert not zstd.repeats(chunk.data.cast("B"))
    assert encode_chunk(chunk, Codec()) == frame_of(NOISE, chunk)
    masked = chunk.copy()
    masked.reshape(-1)[at : at + PAIR // 16] = 9
    same = np.broadcast_to(chunk[:1], chunk.shape).copy()
    for repeating in (masked, same):
        assert zstd.repeats(repeating.data.cast("B"))
        frame = encode_chunk(repeating, Codec())
        assert len(frame) < len(frame_of(NOISE, repeating))
        assert zstandard.ZstdDecompressor().decompress(frame) == repeating.tobytes()


def test_of_very_few_bytes_nothing_is_said():
    assert not zstd.repeats(memoryview(b"1234567"))
    assert zstd.repeats(memoryview(b"12345678" * 3))


def test_a_parameter_that_the_library_does_not_know_is_named():
    with pytest.raises(ValueError, match="windowLog = 99"):
        frame_of((("windowLog", 99),), b"voxels")


def test_the_package_compresses_where_the_library_cannot_be_called(monkeypatch):
    chunk = noise("image", PAIR, np.random.default_rng(7)).reshape(64, 64, 64)
    by_address = frame_of(OTHER, chunk)
    monkeypatch.setattr(zstd, "_binding", lambda: None)
    assert encode_chunk(chunk, Codec()) == by_address
    level = encode_chunk(chunk, Codec(level=1))
    assert level == zstandard.ZstdCompressor(1).compress(chunk.tobytes())
