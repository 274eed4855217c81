"""Chunks decoded and counted in one call: the same as one by one, whatever happens."""

from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from tests.assertions import new_store, read_files
from tests.strategies import volumes
from thc_dask import tallies
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import DataError
from thc_dask.kernels.mean import compile_mean
from thc_dask.labels import write_labels
from thc_dask.store import column
from thc_dask.store.pipeline import Decoding, Encoding, can, compile_pipeline, compiled
from thc_dask.store.tableread import read_array

SHAPE = "70,100,130"


@pytest.fixture
def labelled(tmp_path):
    url = str(tmp_path / "volume.ome.zarr")
    write_store(f"phantom:{SHAPE}", url, chunk=(32, 32, 32), shard=(64, 64, 64))
    for name in ("roi", "microstructure"):
        write_labels(f"phantom:{SHAPE}?channel={name}", url, name, f"prasad2020-{name}")
    return url


def tables(url):
    store = write_counts(url)
    return {
        path: read_array(store, path) for path in sorted(store.nodes)
        if path.startswith("counts/") and path.endswith("/counts")
    }  # fmt: skip


def test_a_pipeline_counts_what_one_by_one_counts(labelled, monkeypatch, tmp_path):
    other = tmp_path / "other.ome.zarr"
    write_store(f"phantom:{SHAPE}", str(other), chunk=(32, 32, 32), shard=(64, 64, 64))
    for name in ("roi", "microstructure"):
        write_labels(f"phantom:{SHAPE}?channel={name}", str(other), name, f"prasad2020-{name}")
    runs = []
    run = Decoding.run
    monkeypatch.setattr(Decoding, "run", lambda self: (runs.append(self), run(self)))
    found = tables(labelled)
    assert bool(runs) == can()
    runs.clear()
    monkeypatch.setattr(tallies, "can", lambda: False)
    expected = tables(str(other))
    assert not runs
    assert len(found) == 6
    for path, counts in expected.items():
        np.testing.assert_array_equal(found[path], counts, err_msg=path)


def shards(url, path):
    return sorted(p for p in (Path(url) / path / "c").rglob("*") if p.is_file())


@pytest.mark.parametrize("how", ["flipped", "cut", "wrong frame"])
def test_a_damaged_chunk_is_named(labelled, how):
    shard = shards(labelled, "0/image")[0]
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data, "<u8", 16, len(data) - 132).reshape(8, 2).tolist()
    start, size = index[5]
    if how == "flipped":
        data[start + size // 2] ^= 4
    elif how == "cut":  # the index stays: it is read before
        moved = np.array(index, "<u8")
        moved[5, 1] = size + len(data)
        data[-132:-4] = moved.tobytes()
        data[-4:] = int(google_crc32c.value(bytes(data[-132:-4]))).to_bytes(4, "little")
    else:
        frame = zstandard.compress(b"short")
        crc = int(google_crc32c.value(frame)).to_bytes(4, "little")
        frame += crc
        moved = np.array(index, "<u8")
        moved[5, 1] = len(frame)
        data[start : start + len(frame)] = frame
        data[-132:-4] = moved.tobytes()
        data[-4:] = int(google_crc32c.value(bytes(data[-132:-4]))).to_bytes(4, "little")
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"0/image/c/0/0/0: chunk \(1, 0, 1\) (is damaged|cannot)"):
        write_counts(labelled)


@pytest.mark.skipif(not can(), reason="this system has no plain zstd binding")
def test_what_fails_once_is_read_again(labelled, monkeypatch):
    failed = []
    run = Decoding.run

    def fail_once(self):
        if not failed:
            failed.append(True)
            self._steps[0][0, 3] = 10**12  # behind the end
        run(self)

    monkeypatch.setattr(Decoding, "run", fail_once)
    found = tables(labelled)
    assert failed
    assert found["counts/roi/plane/counts"].sum() == 70 * 100 * 130
    assert found["counts/roi/chunk/counts"].sum() == 70 * 100 * 130


@njit
def _crc32c(address, n_bytes):
    return compiled.crc32c(address, n_bytes)


@njit
def _by_tables(crc, word):
    return compiled.word_by_tables(crc, word)


@njit
def _word(crc, word):
    return compiled._crc_word(crc, word)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 4096, 12288, 12289, 100_003, 262_144])
def test_checksums_are_those_of_the_library(n):
    data = np.random.default_rng(n).integers(0, 256, n + 1, np.uint8)
    for first in (0, 1):  # also where no word begins
        part = data[first : first + n]
        assert _crc32c(part.ctypes.data, n) == google_crc32c.value(part.tobytes())


def test_any_processor_takes_the_same_checksum():
    rng = np.random.default_rng(0)
    for word in rng.integers(0, 2**64, 200, np.uint64):
        crc = np.uint64(rng.integers(0, 2**32))
        assert _by_tables(crc, word) == _word(crc, word)
        expected = google_crc32c.extend(int(crc) ^ 0xFFFFFFFF, word.tobytes()) ^ 0xFFFFFFFF
        assert _by_tables(crc, word) == expected


@pytest.fixture(scope="module")
def _compiled():
    compile_mean()
    compile_pipeline()


def converted(source, chunks_made, **options):
    """Return the files of a conversion by machine code, and of one without."""
    found = []
    for allowed in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not allowed:
                patch.setattr(column, "can_encode", lambda: False)
            run = Encoding.run

            def noting(self, *args, run=run):
                made = run(self, *args)
                chunks_made.append(len(made))
                return made

            patch.setattr(Encoding, "run", noting)
            url = options.get("url", new_store)()
            write_store(source, url, **{k: v for k, v in options.items() if k != "url"})
        if not allowed:
            assert sum(chunks_made) == found[-1][1]
        found.append((read_files(url), sum(chunks_made)))
    return found[0][0], found[1][0]


@pytest.mark.skipif(not can(), reason="this system has no plain zstd binding")
@pytest.mark.usefixtures("_compiled")
@settings(max_examples=30)
@given(volumes([np.uint8, np.uint16]), st.sampled_from(["zstd", "zstd:3"]))
def test_machine_code_writes_the_same_bytes(volume, codec):
    made = []
    ours, plain = converted(volume.source, made, **volume.options, codec=codec)
    assert ours.keys() == plain.keys()
    differ = {key for key in ours if ours[key] != plain[key]}
    assert differ <= {"zarr.json", "thc/root.json"}  # which say which run wrote it


@pytest.mark.skipif(not can(), reason="this system has no plain zstd binding")
@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize(
    ("shape", "chunk", "shard"),
    [
        ((70, 100, 130), (32, 32, 32), (64, 64, 64)),
        ((70, 130, 333), (64, 64, 64), (128, 128, 128)),
        ((130, 129, 140), (128, 128, 128), (256, 256, 256)),  # larger than a buffer of a file
    ],
)
def test_machine_code_fills_files_with_the_same_bytes(tmp_path, shape, chunk, shard):
    image = np.random.default_rng(0).normal(100, 20, shape).clip(0, 255).astype(np.uint8)
    image[: shape[0] // 2, : shape[1] // 2] = 0  # chunks that are not stored
    np.save(tmp_path / "image.npy", image)
    made = []
    names = iter(("ours", "plain"))
    ours, plain = converted(
        tmp_path / "image.npy", made, spacing="1um", chunk=chunk, shard=shard, levels=3,
        count=True, url=lambda: str(tmp_path / f"{next(names)}.ome.zarr"),
    )  # fmt: skip
    assert sum(made) > 0
    assert ours == plain
