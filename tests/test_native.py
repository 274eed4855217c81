"""Machine code that is loaded without its compiler is the same code, or is compiled again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thc_dask import native
from thc_dask.native.image import Image, OtherCodeError

ROOT = Path(__file__).parents[1]
MODULE = "thc_dask.kernels.histogram.compiled"
COUNT = """
import sys
import numpy as np
from thc_dask.kernels.histogram import joint_counts
table = np.zeros((2, 3, 256), np.uint32)
rows = np.arange(48, dtype=np.uint8).reshape(2, 3, 8) % 3
joint_counts(rows, rows + np.uint8(250), table)
assert table.sum() == 48
assert all(table[:, r, 250 + r].sum() == 16 for r in range(3))
print("numba" in sys.modules)
"""


def count(folder):
    """Count in a process of its own; return whether it loaded the compiler."""
    line = [sys.executable, "-c", COUNT]
    env = {"NUMBA_CACHE_DIR": str(folder), "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


def test_the_compiler_is_loaded_once(tmp_path):
    assert count(tmp_path)
    [kept] = tmp_path.glob("*.thc_o")
    assert not count(tmp_path)
    whole = kept.read_bytes()
    for damaged in (whole[:-1], b"", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        kept.write_bytes(damaged)
        assert count(tmp_path)
        assert kept.read_bytes() == whole  # and it is mended


def test_where_nothing_can_be_kept_it_still_counts(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(native, "_folders", lambda source: [blocked / "below"])
    functions = native._load(MODULE)
    assert set(functions) == {"count_bytes", "count_numbers"}


def test_code_that_needs_other_libraries_is_refused(tmp_path, monkeypatch):
    """What it calls would be missing in the process that loads it, which ends there and then."""
    (tmp_path / "raising.py").write_text(
        "from numba import cfunc, types\n"
        "@cfunc(types.void(types.int64))\n"
        "def f(n):\n"
        "    if n:\n"
        "        raise ValueError('no')\n"
        "EXPORTED = {'f': f}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(native, "_folders", lambda source: [tmp_path])
    with pytest.raises(AssertionError, match="f calls"):
        native._load("raising")
    assert not list(tmp_path.glob("*.thc_o"))


def test_code_of_other_processors_is_linked_by_the_library(tmp_path, monkeypatch):
    """As where object code is not that of x86-64: it is kept as it is."""

    def refuse(self, data, symbol):
        raise OtherCodeError("another processor")

    monkeypatch.setattr(native, "_folders", lambda source: [tmp_path])
    with monkeypatch.context() as patch:
        patch.setattr(Image, "add", refuse)
        first = native._load(MODULE)
    [kept] = tmp_path.glob("*.thc_o")
    assert b'"image"' not in kept.read_bytes()[:4096]
    again = native._load(MODULE, compile=False)
    assert set(first) == set(again) == {"count_bytes", "count_numbers"}
    rows, columns = np.array([0, 1, 1], np.uint16), np.array([2, 0, 0], np.uint16)
    for functions in (first, again):
        table, total = np.zeros((2, 3), np.uint32), np.zeros((2, 3), np.uint32)
        seen = np.zeros(2, np.uint8)
        functions["count_numbers"](
            rows.ctypes.data, 0, 0, columns.ctypes.data, 0, 0, 1, 1, 3, 2, 3,
            table.ctypes.data, total.ctypes.data, seen.ctypes.data,
        )  # fmt: skip
        assert table.tolist() == total.tolist() == [[0, 0, 1], [2, 0, 0]]


@pytest.mark.parametrize("data", [b"", b"MZ" + bytes(100), b"\x7fELF\x02\x01" + bytes(100)])
def test_what_is_no_object_code_is_refused(data):
    with pytest.raises(OtherCodeError):
        Image().add(data, "f")


def test_another_processor_has_code_of_its_own(monkeypatch):
    source = Path(native.__file__)
    here = native._key(source)
    monkeypatch.setattr(native, "_processor", lambda: b"flags: fpu")
    assert native._key(source) != here
