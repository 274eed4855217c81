"""The front door: few names, documented, and cheap to open."""

import argparse
import inspect
import subprocess
import sys

import numpy as np
import pytest
import tifffile

import thc_dask
from thc_dask.cli.arguments import build_parser

VERBS = (
    "demo", "phantom", "convert", "labels", "interpolate", "count", "histogram", "fractions",
    "compare", "agreement", "patches", "figures", "report", "reproduce", "info",
)  # fmt: skip
HEAVY = {
    "dask", "distributed", "xarray", "pandas", "zarr", "numba", "matplotlib", "scipy", "tifffile",
    "imagecodecs", "h5py",
}  # fmt: skip


def imported(*command):
    """Return the top-level packages that a run of python imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.split("|")[-1].strip().split(".")[0] for line in lines}


def test_names_are_there_and_sorted():
    assert thc_dask.__all__ == sorted(thc_dask.__all__)
    assert len(set(thc_dask.__all__)) == len(thc_dask.__all__)
    assert [name for name in thc_dask.__all__ if not hasattr(thc_dask, name)] == []


@pytest.mark.parametrize("name", thc_dask.__all__)
def test_a_public_name_is_documented(name):
    thing = getattr(thc_dask, name)
    text = inspect.getdoc(thing) or ""
    assert callable(thing)
    assert text.splitlines()[0].endswith((".", "?"))
    if inspect.isfunction(thing):
        assert "Examples\n--------\n>>> " in text
        for parameter in inspect.signature(thing).parameters:
            assert parameter in text, f"{name}: {parameter} is not described"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_a_function_and_a_command(verb):
    assert verb in thc_dask.__all__
    assert inspect.isfunction(getattr(thc_dask, verb))
    assert verb in commands()


def commands():
    [group] = [
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return group.choices


def test_a_command_has_a_function():
    assert set(commands()) <= set(thc_dask.__all__)


def test_importing_the_package_is_cheap():
    found = imported("-c", "import thc_dask")
    assert "thc_dask" in found
    assert found & HEAVY == set()


@pytest.mark.parametrize("command", [[], ["convert"], ["report"]])
def test_help_is_cheap(command):
    assert imported("-m", "thc_dask", *command, "--help") & HEAVY == set()


def test_converting_loads_only_what_reads_the_files(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 256, (4, 30, 40), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    arguments = ["convert", str(tmp_path / "stack.tif"), str(tmp_path / "s"), "--spacing", "1um"]
    found = imported("-m", "thc_dask", *arguments)
    assert found & HEAVY == {"tifffile", "imagecodecs"}  # the one loads the other
    assert thc_dask.info(tmp_path / "s")["shape"] == [4, 30, 40]
