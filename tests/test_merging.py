"""Regions put together: rules as users write them, and what they come to."""

import numpy as np
import pytest

from thc_dask.errors import MissingError, RequestError
from thc_dask.merging import merged, parse_merge
from thc_dask.schemes import Label, Scheme, find_scheme

ROI = find_scheme("prasad2020-roi")


@pytest.mark.parametrize(
    "rules",
    [
        ["VP=TRN,VP", "WM=IC,CC"], "prasad2020", ["prasad2020"],
        {"VP": ["TRN", "VP"], "WM": ("IC", "CC")}, ["VP = TRN , VP", "WM=IC,CC"],
        ["WM=internal capsule,corpus callosum", "VP=3,vp"],
    ],
)  # fmt: skip
def test_every_way_to_write_the_rules_of_the_paper(rules):
    found = merged(ROI, rules)
    assert found.names == ("CTX", "STR", "VP", "ZI", "WM", "HYP")
    assert found.members[2] == ("TRN", "VP")
    assert found.members[4] == ("IC", "CC")


def test_without_rules_every_region_stays_and_none_goes():
    assert merged(ROI).names == ("CTX", "STR", "TRN", "VP", "ZI", "IC", "HYP", "CC")
    assert parse_merge(None) == {}


def test_a_region_may_get_another_name():
    assert "cortex" in merged(ROI, "cortex=CTX").names


def test_numbers_of_codes():
    found = merged(ROI, "prasad2020")
    table = found.numbers(np.dtype(np.uint8), [found.index("wm"), found.index("VP")])
    assert table.dtype == np.uint8
    assert {int(c): int(table[c]) for c in np.flatnonzero(table)} == {6: 1, 8: 1, 3: 2, 4: 2}
    many = Scheme("many", "region", tuple(Label(i, f"r{i}") for i in range(400)))
    table = merged(many).numbers(np.dtype(np.uint16), range(399))
    assert (table.dtype, table[399], table.shape) == (np.uint16, 399, (65536,))


@pytest.mark.parametrize(
    ("rules", "error", "words"),
    [
        ("VP", RequestError, "VP=TRN,VP"),
        ("VP=", RequestError, "give names"),
        ("=TRN", RequestError, "give names"),
        ({"VP": []}, RequestError, "give names"),
        ("VP=TRN,,VP", RequestError, "give names"),
        ("A=TRN,Amygdala", MissingError, "known: none, CTX, STR"),
        (["A=TRN", "B=TRN"], RequestError, "TRN is put into A and again into B"),
        (["A=TRN", "A=VP"], RequestError, "each new name once"),
        ("A=TRN,TRN", RequestError, "again"),
        ("CTX=TRN,VP", RequestError, "there is a region of that name"),
        ("none=TRN", RequestError, "there is a region of that name"),
        ("A=none,CTX", RequestError, "none of these"),
    ],
)
def test_rules_that_make_no_sense(rules, error, words):
    with pytest.raises(error, match=words):
        merged(ROI, rules)


def test_an_unknown_region_names_the_known_ones():
    with pytest.raises(MissingError, match=r"'TRN'.*known: CTX, STR, VP, ZI, WM, HYP"):
        merged(ROI, "prasad2020").index("TRN")
