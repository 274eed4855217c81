"""A source seen otherwise comes out as numpy would have it, and the store says how."""

import contextlib

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.assertions import new_store
from tests.strategies import Failing, source
from thc_dask import Box, convert
from thc_dask.clipping import clipped
from thc_dask.convert import write_store
from thc_dask.errors import RequestError
from thc_dask.grid import parse_extent
from thc_dask.kernels.intensity import Window
from thc_dask.sources.dataarray import open_dataarray
from thc_dask.store.layout import make_levels
from thc_dask.store.read import Store
from thc_dask.views import EightBit

SMALL = {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 2}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@settings(max_examples=25)
@given(
    st.permutations("zyx"),
    st.sets(st.sampled_from("zyx")),
    st.tuples(*[st.integers(1, 40)] * 3),
    st.sampled_from([2**20, 2**30]),
)
def test_order_and_flip(order, flip, shape, memory_bytes):
    array = noise(*shape)
    expected = array.transpose([order.index(axis) for axis in "zyx"])
    expected = np.flip(expected, [i for i, axis in enumerate("zyx") if axis in flip])
    volume = convert(
        source(array), new_store(), order="".join(order), flip="".join(flip),
        spacing="1um,2um,3um", memory_bytes=memory_bytes, **SMALL,
    )  # fmt: skip
    np.testing.assert_array_equal(volume["0/image"], expected)
    for axis, um in zip("zyx", (1, 2, 3), strict=True):
        np.testing.assert_array_equal(
            volume["0"][axis], um * np.arange(expected.shape["zyx".index(axis)])
        )


@settings(max_examples=25)
@given(st.data(), st.tuples(*[st.integers(1, 30)] * 3))
def test_crop(data, shape):
    array = noise(*shape)
    ends = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    box = Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))
    volume = convert(source(array), new_store(), crop=box, spacing="1um", **SMALL)
    np.testing.assert_array_equal(volume["0/image"], array[tuple(slice(*e) for e in ends)])
    for axis, (a, b) in zip("zyx", ends, strict=True):
        np.testing.assert_array_equal(volume["0"][axis], np.arange(a, b))


def by_the_rule(array, low, high):
    """Return an array in 8 bit by the rule that stores record, and what was clipped."""
    value = array.astype(np.float64)
    nan = np.isnan(value)
    inside = np.clip(np.where(nan, low, value), low, high)
    counts = [value < low, value > high, nan, value == -np.inf, value == np.inf]
    return np.rint(255 * (inside - low) / (high - low)), [int(c.sum()) for c in counts]


def in_eight_bit(array, low, high):
    """Return what a reader makes of an array through a window."""
    reader = EightBit(open_dataarray(source(array), (1.0, 1.0, 1.0)), Window(low, high))
    out = np.empty(array.shape, np.uint8)
    return out, reader.read_into(out, (0, 0, 0)).tolist()


WHOLE = [np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
REAL = [np.float16, np.float32, np.float64]


@given(st.data(), st.sampled_from(WHOLE + REAL))
def test_eight_bit_is_what_the_record_says_for_any_type(data, dtype):
    array = data.draw(hnp.arrays(dtype, st.tuples(*[st.integers(1, 5)] * 3)))
    finite = [float(v) for v in array.ravel() if np.isfinite(v) and abs(float(v)) < 1e300]
    # Ends that are voxels themselves, or lie between two.
    end = st.sampled_from(finite or [0.0]) | st.floats(-1e5, 1e5)
    low = data.draw(end)
    high = data.draw(end.filter(lambda v: v > low) | st.floats(1 / 8, 1e5).map(lambda w: low + w))
    assume(low < high)
    found, clipped = in_eight_bit(array, low, high)
    expected, counts = by_the_rule(array, low, high)
    np.testing.assert_array_equal(found, expected)
    assert clipped == counts


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.arange(-130, 130, dtype=np.int16), -100, 100),  # 0 is halfway between 127 and 128
        (np.arange(-128, 128).astype(np.int8), -100, 100),
        (np.arange(2**16).astype(np.uint16), 4, 514),  # every second one is halfway
        (np.arange(10**8 - 3, 10**8 + 10**6, dtype=np.int32), 10**8, 10**8 + 510),
        (np.arange(10**8 - 10**6, 10**8 + 10**6, 7, dtype=np.int32), 99500002.0, 100499998.0),
        (np.arange(16777000, 16941000, dtype=np.uint32), 16777216, 16940000),
        (np.arange(-300, 300, dtype=np.float16) / 2, -100, 100),
        (np.arange(-300, 300, dtype=np.float32) / 2, -100, 100),
        (np.arange(-300, 300, dtype=np.float64) / 2, -100, 100),
        (10**8 + np.arange(-300, 300, dtype=np.float64) / 2, 10**8 - 100, 10**8 + 100),
    ],
)
def test_halves_and_ends_of_a_window_in_eight_bit(values, low, high):
    array = values.reshape(1, 1, -1)
    found, clipped = in_eight_bit(array, float(low), float(high))
    expected, counts = by_the_rule(array, low, high)
    np.testing.assert_array_equal(found, expected)
    assert clipped == counts


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_counts_of_what_auto_clips_are_exact_far_from_zero(dtype):
    array = np.random.default_rng(7).integers(10**8 - 5 * 10**5, 10**8 + 5 * 10**5, (40, 50, 60))
    array = array.astype(dtype)
    store = new_store()
    volume = convert(source(array), store, window="auto", **SMALL)
    kept = Store(store).thc["normalisation"]
    expected, counts = by_the_rule(array, *kept["window"])
    np.testing.assert_array_equal(volume["0/image"], expected)
    assert [kept["n_below"], kept["n_above"]] == counts[:2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16])
def test_a_given_window_is_kept_with_what_it_clipped(dtype):
    array = np.random.default_rng(1).normal(100, 40, (30, 20, 10)).astype(dtype)
    if dtype == np.float32:
        array[0, 0, :3] = np.nan, np.inf, -np.inf
    store = new_store()
    volume = convert(source(array), store, window="50:150", **SMALL)
    value = array.astype(np.float64)
    np.testing.assert_array_equal(volume["0/image"], by_the_rule(array, 50, 150)[0])
    kept = Store(store).thc["normalisation"]
    assert kept["window"] == [50, 150]
    assert kept["chosen"] == "given"
    assert kept["source_dtype"] == np.dtype(dtype).name
    assert kept["n_below"] == (value < 50).sum()
    assert kept["n_above"] == (value > 150).sum()
    assert kept["n_nan"] == np.isnan(value).sum()
    assert kept["n_minus_inf"] == (value == -np.inf).sum() == (dtype == np.float32)
    assert kept["n_plus_inf"] == (value == np.inf).sum() == (dtype == np.float32)
    # The inverse gives every voxel inside back, to half a step.
    low, high = kept["window"]
    back = low + volume["0/image"].values * (high - low) / 255
    inside = (value >= low) & (value <= high)
    assert np.abs(back - value)[inside].max() <= (high - low) / 255 / 2 + 1e-9


@pytest.mark.parametrize(
    ("dtype", "centre", "width"),
    [
        (np.int32, 2e9, 100), (np.uint32, 3e9, 1e5), (np.int64, -4e15, 1000), (np.int32, 1e6, 100),
        (np.float32, 60000, 0.5), (np.float32, -1000, 0.1), (np.float64, 1e9, 1e-3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("window", ["auto", "p1:p99"])
def test_grey_levels_far_from_zero_are_told_apart(dtype, centre, width, window):
    """Bins of a 2048th of a value would be one grey level, or a few."""
    array = np.random.default_rng(2).normal(0, width, (40, 30, 20)) + centre
    array = (np.rint(array) if np.dtype(dtype).kind in "iu" else array).astype(dtype)
    store = new_store()
    volume = convert(source(array), store, window=window, **SMALL)
    kept = Store(store).thc["normalisation"]
    low, high = kept["window"]
    ends = (0.1, 99.9) if window == "auto" else (1, 99)
    exact = np.percentile(array.astype(np.float64), ends, method="inverted_cdf")
    step = np.ptp(exact) / 100
    assert np.abs(np.array([low, high]) - exact).max() <= step
    assert kept["n_below"] <= array.size * ends[0] / 100
    assert kept["n_above"] <= array.size * (1 - ends[1] / 100) + 1e-9
    found = volume["0/image"].values
    np.testing.assert_array_equal(found, by_the_rule(array, low, high)[0])
    assert len(np.unique(found)) > 200


def test_one_grey_level_far_from_zero_stays_one():
    array = np.full((4, 5, 6), 700.25, np.float32)
    volume = convert(source(array), new_store(), **SMALL)
    assert len(np.unique(volume["0/image"])) == 1


@pytest.mark.filterwarnings("ignore:memory")
@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2**17, 2**30]), st.integers(1, 60)), max_size=3),
    st.sampled_from([1, 2**17, 2**30]),
)
@example([(1, 20)], 2**30)
@example([(2**30, 5)], 1)
def test_what_was_clipped_is_exact_whatever_blocks_runs_had(runs, memory_bytes):
    array = np.random.default_rng(5).normal(100, 40, (40, 70, 90)).astype(np.float32)
    array[:, :30] = np.nan
    # A source with units makes the blocks as wide as memory allows.
    whole = open_dataarray(source(array, chunks=(8, 40, 50)))
    once, store = new_store(), new_store()
    write_store(whole, once, window="50:150", **SMALL)
    for given_bytes, n in runs:
        with contextlib.suppress(OSError):
            write_store(
                Failing(whole, n), store, window="50:150", memory_bytes=given_bytes, resume=True,
                **SMALL,
            )  # fmt: skip
    write_store(
        whole, store, window="50:150", memory_bytes=memory_bytes, resume=True, **SMALL
    )  # fmt: skip
    kept = Store(store).thc["normalisation"]
    assert kept == Store(once).thc["normalisation"]
    assert kept["n_below"] == (array < 50).sum()
    assert kept["n_above"] == (array > 150).sum()
    assert kept["n_nan"] == np.isnan(array).sum()


def test_shards_of_another_rule_are_not_gone_on_with(tmp_path):
    reader, store = open_dataarray(source(noise(20, 20, 20).astype(np.int16))), tmp_path / "v.zarr"
    with pytest.raises(OSError, match="went away"):
        write_store(Failing(reader, 0), store, window="5:50", **SMALL)
    plan = store / "thc/plan.json"
    plan.write_text(plan.read_text().replace(" in float64", ""))
    with pytest.raises(RequestError, match="by another rule, that of an earlier version"):
        write_store(reader, store, window="5:50", resume=True, **SMALL)


def test_what_no_block_counted_as_a_whole_is_counted_anew(executor):
    array = np.random.default_rng(6).normal(100, 40, (32, 40, 90)).astype(np.float32)
    reader = EightBit(open_dataarray(source(array)), Window(50, 150))
    [level] = make_levels(reader.grid, 1, (8, 8, 8), (16, 16, 16))

    def receipt(place, box):
        counts = reader.clipped(parse_extent(box)).tolist()
        return {"place": place, "shards": [], "read": {"box": box, "counts": counts}}

    receipts = [
        receipt((0, 2, 2), "0:16,0:40,0:48"),  # read to its end, but the next holds a part of it
        receipt((0, 2, 5), "0:16,0:40,32:90"),
        receipt((1, 0, 0), "16:32,0:40,0:90"),  # who knows what came after that column
    ]
    told = []
    found = clipped(reader, level, receipts, lambda done, total: told.append((done, total)))
    assert found["n_below"] == (array < 50).sum()
    assert found["n_above"] == (array > 150).sum()
    assert found["clipped_above"] == (array > 150).mean()
    assert told[-1] == (16 * 40 * 32 + 16 * 40 * 90,) * 2


def test_percentiles_are_of_all_voxels(tmp_path, executor):
    array = np.random.default_rng(2).normal(0, 1, (40, 30, 50)).astype(np.float32)
    store = tmp_path / "v.ome.zarr"
    convert(source(array, chunks=(16, 16, 16)), store, window="p1:p99", **SMALL)
    kept = Store(store).thc["normalisation"]
    assert kept["chosen"] == "percentiles 1 and 99 of all finite voxels"
    assert kept["n_below"] == (array < kept["window"][0]).sum() <= array.size * 0.01
    assert kept["n_above"] == (array > kept["window"][1]).sum() <= array.size * 0.01
    # The ends lie within one bin, 1/2048 of the value, of numpy's percentiles.
    np.testing.assert_allclose(kept["window"], np.percentile(array, [1, 99]), rtol=2e-3)


def test_real_numbers_become_eight_bit_unasked_and_sixteen_bit_stays():
    array = np.random.default_rng(3).normal(0, 1, (20, 20, 20))
    store = new_store()
    assert convert(source(array), store, **SMALL)["0/image"].dtype == np.uint8
    assert Store(store).thc["normalisation"]["chosen"].startswith("percentiles 0.1 and 99.9")
    sixteen = (array * 1000 + 30000).astype(np.uint16)
    kept = convert(source(sixteen), new_store(), **SMALL)
    np.testing.assert_array_equal(kept["0/image"], sixteen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "xyy"}, "order 'xyy': name the source's axes"),
        ({"flip": "t"}, "flip 't': name axes"),
        ({"window": "1:2:3"}, "window '1:2:3': give LOW:HIGH"),
        ({"window": "5:5"}, "the first end must be below"),
        ({"window": "p5:p101"}, "percentiles go from 0 to 100"),
        ({"crop": Box((50, 0, 0), (60, 9, 9))}, "holds no voxel centre"),
    ],
)
def test_wrong_wishes(options, message):
    array = np.random.default_rng(4).normal(0, 1, (9, 9, 9))
    with pytest.raises(RequestError, match=message):
        convert(source(array), new_store(), **options, **SMALL)


def test_eight_bit_needs_no_window():
    with pytest.raises(RequestError, match="8 bit already"):
        convert(source(noise(4, 4, 4)), new_store(), window="auto", **SMALL)
