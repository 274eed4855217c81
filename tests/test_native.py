"""Machine code that is loaded without its compiler is the same code, or is compiled again."""

import subprocess
import sys
from pathlib import Path

import pytest

from thc_dask import native

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
