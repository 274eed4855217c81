import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import schemes
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.schemes import SCHEMES, Label, Scheme, find_scheme

NONE = Label(0, "none")


@given(st.sampled_from(["region", "structure"]).flatmap(schemes), st.sampled_from("BH"))
def test_rows_of_codes_and_back(scheme, kind):
    dtype = np.dtype(kind)
    row_of = scheme.row_of_code(dtype)
    assert row_of.shape == (np.iinfo(dtype).max + 1,)
    for value in {*range(256), *scheme.codes.tolist()} & set(range(len(row_of))):
        known = value in scheme.codes
        expected = scheme.codes.tolist().index(value) if known else len(scheme.labels)
        assert row_of[value] == expected
    assert Scheme.from_dict(json.loads(json.dumps(scheme.as_dict()))) == scheme


def test_the_codings_in_the_wild_give_the_same_structures_other_codes():
    """Paper, analysis files and README contradict one another; names do not."""
    codes = {
        name: [SCHEMES[name][structure].code for structure in ("vessel", "cell", "axon")]
        for name in SCHEMES
        if SCHEMES[name].kind == "structure"
    }
    assert codes == {
        "prasad2020-microstructure": [1, 2, 3],
        "prasad2020-masks": [2, 3, 1],
        "prasad2020-readme": [2, 1, 3],
    }
    roi = find_scheme("prasad2020-roi")
    assert roi.names == ["none", "CTX", "STR", "TRN", "VP", "ZI", "IC", "HYP", "CC"]
    assert roi.codes.tolist() == list(range(9))
    for scheme in SCHEMES.values():
        assert len({label.color for label in scheme.labels}) == len(scheme.labels)


@pytest.mark.parametrize("key", ["VP", "vp ", "ventral posterior nucleus", "4", 4])
def test_a_label_is_found_by_name_title_or_code(key):
    found = find_scheme("prasad2020-roi")[key]
    assert (found.code, found.name, found.rgb) == (4, "VP", (0xF0, 0xE4, 0x42))


@pytest.mark.parametrize("key", ["", " ", "V", "99"])
def test_what_is_not_in_a_scheme_is_answered_with_what_is(key):
    with pytest.raises(MissingError, match=r"region .* 'prasad2020-roi'; known: none, CTX, STR"):
        find_scheme("prasad2020-roi")[key]
    untitled = Scheme("u", "region", (NONE, Label(1, "a")))
    with pytest.raises(MissingError, match="known: none, a"):
        untitled[key]


FILES = {
    "plain.csv": "code,name\n7,b\n3,a\n",
    "excel.csv": "\ufeffcode,name,title,color\r\n7,b,B of it,#AABBCC\r\n3,a,,\r\n",
    "codes.json": '{"codes": {"a": 3, "b": 7}}',
    "texts.json": '{"codes": {"a": "3", "b": 7.0}}',
    "labels.json": '{"kind": "structure", "labels": [{"code": 7, "name": "b"}, '
    '{"code": 3, "name": "a", "title": "A of it"}, {"code": 0, "name": "nothing"}]}',
}


@pytest.mark.parametrize("name", FILES)
def test_a_scheme_is_read_from_a_file(tmp_path, name):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8", newline="")
    found = find_scheme(str(tmp_path / name))
    assert found.codes.tolist() == [0, 3, 7]
    assert found.names[1:] == ["a", "b"]
    assert found.source == name
    assert found.name == name.partition(".")[0]
    if name == "excel.csv":
        assert found["B of it"] == Label(7, "b", "B of it", "#aabbcc")
    if name == "labels.json":
        assert (found.kind, found.names[0]) == ("structure", "nothing")
    else:
        assert (found.kind, found.names[0]) == ("region", "none")
    assert len({label.color for label in found.labels}) == 3


BROKEN = [
    ("a.csv", "code\n1\n", DataError, r"a\.csv: KeyError\('name'\); needs CSV columns code,name"),
    (
        "a.csv",
        "code,name\none,a\n",
        DataError,
        "a.csv: a code is wrong: 'one' is not a whole number",
    ),
    ("a.csv", "code,name\n1_0,a\n", DataError, "'1_0' is not a whole number; write it like 1"),
    ("a.csv", "code,name\n1.0,a\n", DataError, "'1.0' is not a whole number"),
    ("a.csv", "code,name\n1,a\n1,b\n", RequestError, r"codes must be different .* got \[0, 1, 1\]"),
    ("a.csv", "code,name\n1,a\n2,A\n", RequestError, "names must differ"),
    ("a.csv", "code,name\n1\n", RequestError, "label 1 has no name"),
    ("a.csv", "code,name\n-1,a\n", RequestError, "codes must be different whole numbers from 0"),
    ("a.csv", "code,name\n70000,a\n", RequestError, "whole numbers from 0 to 65535"),
    ("a.csv", "code,name,color\n1,a,red\n", RequestError, "label 'a': colour 'red' is not #rrggbb"),
    ("a.csv", "", RequestError, "include 0"),
    ("a.json", "{", DataError, "needs CSV columns code,name or JSON with 'labels'"),
    ("a.json", "[1]", DataError, "needs CSV columns code,name or JSON with 'labels'"),
    ("a.json", "[" * 10**5, DataError, r"RecursionError\(.*; needs CSV columns code,name or JSON"),
    *[
        ("a.json", f'{{"codes": {{"a": {code}}}}}', DataError, rf"{said} is not a whole number")
        for code, said in [
            ("1.5", "1.5"),
            ("true", "True"),
            ('"1.5"', "'1.5'"),
            ('"a"', "'a'"),
            ("null", "None"),
            ("NaN", "nan"),
            ("Infinity", "inf"),
            ("[1]", r"\[1\]"),
        ]
    ],
    ("a.json", '{"labels": [{"code": 1.5, "name": "a"}]}', DataError, "1.5 is not a whole number"),
    ("a.json", '{"kind": "x", "labels": []}', RequestError, "must be 'region' or 'structure'"),
]


@pytest.mark.parametrize(
    ("name", "text", "error", "message"), BROKEN, ids=[text[:60] for _, text, *_ in BROKEN]
)
def test_a_broken_scheme_is_named(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        find_scheme(str(tmp_path / name))


ITKSNAP = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
    7   170  187  204        1  1  0    "b"
    3     1    2    3      0.5  0  1    "a (left)"
"""


@pytest.mark.parametrize("name", ["regions.txt", "regions.label", "regions"])
def test_label_descriptions_of_itksnap(tmp_path, name):
    (tmp_path / name).write_text(ITKSNAP.replace("\n", "\r\n"), newline="")
    found = find_scheme(str(tmp_path / name))
    assert found == Scheme(
        "regions",
        "region",
        (Label(0, "none", "", "#000000"), Label(3, "a (left)", "", "#010203"),
         Label(7, "b", "", "#aabbcc")),
        name,
    )  # fmt: skip


def test_label_descriptions_without_comments_and_of_structures(tmp_path):
    lines = [f'{code} 9 9 9 1 1 1 "{name}"' for code, name in ((2, "Vessel"), (1, "axon"))]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    found = find_scheme(str(tmp_path / "a.txt"))
    assert (found.kind, found.names) == ("structure", ["background", "axon", "Vessel"])
    lines.append('3 9 9 9 1 1 1 "cortex"')
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert find_scheme(str(tmp_path / "a.txt")).kind == "region"


ODD_LINES = [
    '8 256 0 0 1 1 1 "c"', '8 -1 0 0 1 1 1 "c"', '8 0 0 0 1 1 "c"', "8 0 0 0 1 1 1 c",
    'x 0 0 0 1 1 1 "c"', "8,c",
]  # fmt: skip


@pytest.mark.parametrize("line", ODD_LINES)
def test_a_broken_line_of_label_descriptions_is_named(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"{ITKSNAP}\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt: line 10 is not a label of ITK-SNAP; write it"):
        find_scheme(str(tmp_path / "a.txt"))


def test_label_descriptions_without_labels_twice_and_unnamed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(ITKSNAP.splitlines(True)[:6]))
    with pytest.raises(DataError, match=r"a\.txt: it has no label but that of code 0"):
        find_scheme(str(path))
    path.write_text(ITKSNAP + '7 0 0 0 1 1 1 "c"\n')
    with pytest.raises(RequestError, match=r"codes must be different .* got \[0, 3, 7, 7\]"):
        find_scheme(str(path))
    path.write_text(ITKSNAP + '8 0 0 0 1 1 1 " "\n')
    with pytest.raises(RequestError, match="label 8 has no name"):
        find_scheme(str(path))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"code,name\n1,\xff\n")
    with pytest.raises(DataError, match=r"a\.csv: UnicodeDecodeError"):
        find_scheme(str(tmp_path / "a.csv"))
    with pytest.raises(MissingError, match=r"scheme 'rio' is not known .* prasad2020-roi"):
        find_scheme("rio")
