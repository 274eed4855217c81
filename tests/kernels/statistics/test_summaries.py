import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from thc_dask.errors import RequestError
from thc_dask.kernels import statistics
from thc_dask.kernels.statistics.summaries import summary_of

relaxed = settings(deadline=None, max_examples=60)  # a busy machine is no failure


def small(max_side, *dims):
    return arrays(np.int64, st.tuples(*dims), elements=st.integers(0, max_side))


@relaxed
@given(small(9, st.integers(1, 4), st.integers(1, 12)))
def test_summary_is_numpys_of_the_voxels(counts):
    found = statistics.summary(counts)
    for r, row in enumerate(counts):
        voxels = np.repeat(np.arange(len(row)), row)
        assert found["n"][r] == len(voxels)
        if not len(voxels):
            assert all(np.isnan(found[k][r]) for k in found if k != "n")
            continue
        assert found["mean"][r] == pytest.approx(voxels.mean())
        assert found["sd"][r] == pytest.approx(voxels.std(), abs=1e-12)
        assert found["entropy_bits"][r] == pytest.approx(stats.entropy(row, base=2), abs=1e-12)
        for q in statistics.PERCENTILES:
            want = np.percentile(voxels, q, method="inverted_cdf")
            assert found[f"p{q}"][r] == want


def test_percentiles_do_not_round_at_brain_size():
    half = 3 * 10**15 + 1
    found = statistics.summary([[half, half, 0], [half - 1, half, 0]])
    assert found["p50"].tolist() == [0.0, 1.0]


@relaxed
@given(small(50, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)))
def test_fractions_divide_sums(counts):
    found = statistics.fractions(counts)
    total = counts.sum(axis=0)
    for r in range(total.shape[0]):
        if total[r].sum():
            assert found[r].tolist() == (total[r] / total[r].sum()).tolist()
        else:
            assert np.isnan(found[r]).all()


@relaxed
@given(small(9, st.integers(1, 4), st.integers(1, 3), st.integers(1, 12)))
def test_many_tables_are_summarised_in_one_call(counts):
    found = summary_of(counts.astype(np.float64))  # as resampled counts come
    for i, table in enumerate(counts):
        want = statistics.summary(table)
        for name, values in found.items():
            np.testing.assert_allclose(values[i], want[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics.summary([[1.5, 2]]), "whole numbers"),
        (lambda: statistics.summary([[np.nan, 2]]), "whole numbers"),
        (lambda: statistics.summary([["a", "b"]]), "whole numbers"),
        (lambda: statistics.fractions([[1, 2]]), r"\(plane, region, structure\)"),
    ],
)
def test_wrong_input_is_named(call, says):
    with pytest.raises(RequestError, match=says):
        call()
