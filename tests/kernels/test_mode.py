import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.kernels.mode import mode

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
TYPES = st.sampled_from([np.uint8, np.uint16])


def cells(block):
    """Yield each output index with the existing voxels under it."""
    for index in np.ndindex(*(-(-n // 2) for n in block.shape)):
        yield index, tuple(slice(2 * i, 2 * i + 2) for i in index)


@given(
    TYPES.flatmap(
        lambda dtype: hnp.arrays(
            np.dtype([("label", dtype), ("known", np.uint8)]),
            SHAPES,
            elements=st.tuples(st.integers(0, 3), st.integers(0, 1)),
        )
    ),
    st.booleans(),
)
def test_mode_equals_the_naive_mode_of_known_voxels(both, all_known):
    labels = np.ascontiguousarray(both["label"])
    known = np.ones(labels.shape, np.uint8) if all_known else np.ascontiguousarray(both["known"])
    half = np.empty([-(-n // 2) for n in labels.shape], labels.dtype)
    mode(labels, half, None if all_known else known)
    for index, where in cells(labels):
        votes = np.bincount(labels[where][known[where] == 1], minlength=1)
        assert half[index] == votes.argmax()  # argmax takes the first, so the smallest code
