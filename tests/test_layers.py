"""A module imports only from lower layers, and only cheap packages at its top."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "thc_dask"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [  # bottom first; names are files or folders of the package
    {"errors", "units", "progress", "native"},
    {"grid", "schemes", "retry", "draws"},
    {"reader", "files", "catalogue", "remote", "merging", "dispatch"},
    {"schedule"},
    {"kernels"},
    {"views", "normalise"},
    {"sources", "store"},
    {"origin"},
    {"options", "placement", "pairs", "waves", "gaps"},
    {"plan", "clipping", "filling", "tallies", "renewal"},
    {"imagetable"},
    {"convert"},
    {"labels", "count", "index"},
    {"query", "interpolate"},
    {"verify", "cells", "results"},
    {"sampling"},
    {"analysis", "agreement", "maps"},
    {"output", "plot", "info", "cluster"},
    {"figures", "page", "reproduce", "patches"},
    {"report"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
FLAT = {"kernels", "sources", "analysis"}  # files (or folders of one format) stand alone
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# What starting a command may load; compiled kernels are left to those who need them.
CHEAP = {"numpy", "google_crc32c", "zstandard", "thc_dask", *sys.stdlib_module_names}


def named(node):
    """Return the modules and names that an import statement asks for."""
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: use absolute imports"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def own_imports(tree):
    """Yield the parts of each name of ours and its line, those inside functions too."""
    for node in ast.walk(tree):
        for name in named(node):
            if name.startswith("thc_dask."):
                yield name.split(".")[1:], node.lineno


def top_imports(path):
    """Return the names that importing the module itself asks for, and no function of it."""
    statements = list(ast.parse(path.read_text()).body)
    for node in statements:
        if isinstance(node, ast.Try | ast.If) and "TYPE_CHECKING" not in ast.unparse(node):
            statements += [*node.body, *node.orelse]
    return [name for node in statements for name in named(node)]


def why_not(where, name):
    """Return what is wrong with an import of ``name`` by the module at ``where``."""
    area, other = where[0].removesuffix(".py"), name[0]
    if area not in RANK:
        return f"give {area!r} a layer"
    if area != other:
        # What is no module is a name of the package itself, such as its version.
        return "" if RANK.get(other, -1) < RANK[area] else f"{area} is not above {other}"
    if area in FLAT and len(where) > 1 and where[1] != "__init__.py" and len(name) > 1:
        same = where[1].removesuffix(".py") == name[1]
        return "" if same else f"{area} are not to import one another"
    return ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    where = path.relative_to(PACKAGE).parts
    if where == ("__init__.py",):
        return
    found = [(name, line) for name, line in own_imports(ast.parse(path.read_text()))]
    wrong = [f"{path}:{line}: {why}" for name, line in found if (why := why_not(where, name))]
    assert not wrong, "\n".join(wrong)
    assert where[0].removesuffix(".py") in RANK, f"{path}: give it a layer"


@pytest.mark.parametrize(
    ("where", "name", "why"),
    [
        (("grid.py",), ["convert", "convert"], "grid is not above convert"),
        (("store", "read.py"), ["sources"], "store is not above sources"),
        (("kernels", "mean.py"), ["kernels", "mode", "mode"], "are not to import one another"),
        (("sources", "hdf5", "files.py"), ["sources", "slices"], "are not to import one another"),
        (("sources", "hdf5", "files.py"), ["sources", "hdf5", "names"], ""),
        (("sources", "__init__.py"), ["sources", "hdf5"], ""),
        (("plot", "charts.py"), ["plot", "canvas"], ""),
        (("cli", "commands.py"), ["cli", "progress"], ""),
        (("cli", "arguments.py"), ["__version__"], ""),
        (("helpers.py",), ["grid"], "give 'helpers' a layer"),
    ],
)
def test_the_rule_itself(where, name, why):
    assert why in why_not(where, name)
    assert bool(why) == bool(why_not(where, name))


def files_of(name):
    """Return the modules of ours that importing a name of ours runs, itself and its parents."""
    parts = name.split(".")
    tried = (PACKAGE.parent.joinpath(*parts[:n]) for n in range(1, len(parts) + 1))
    return [p for t in tried for p in (t / "__init__.py", t.with_suffix(".py")) if p.exists()]


def loaded_with(name):
    """Return the modules of ours that importing a name of ours loads at once."""
    found, waiting = set(), [name]
    while waiting:
        for path in set(files_of(waiting.pop())) - found:
            found.add(path)
            waiting += [n for n in top_imports(path) if n.split(".")[0] == "thc_dask"]
    return found


@pytest.mark.parametrize("name", ["convert", "labels", "sources.slices", "sources.phantom"])
def test_starting_is_cheap(name):
    """What costs a command its first second is imported by the functions that need it."""
    loaded = loaded_with(f"thc_dask.{name}")
    assert {PACKAGE / "__init__.py", PACKAGE / "reader.py", PACKAGE / "grid.py"} < loaded
    assert costly(loaded) == {}


@pytest.mark.parametrize("name", ["cli", "cli.arguments", "cli.commands"])
def test_the_command_line_itself_is_cheaper(name):
    """Help, wrong options and an early Ctrl-C do without numpy too."""
    loaded = loaded_with(f"thc_dask.{name}")
    assert {PACKAGE / "__init__.py", PACKAGE / "cli/interrupts.py"} < loaded
    assert {n for path in loaded for n in top_imports(path) if n.split(".")[0] == "numpy"} == set()
    assert costly(loaded) == {}


def test_what_is_costly_is_found():
    assert costly(loaded_with("thc_dask.kernels.mode")) == {
        "kernels/mode.py": {"numba.njit", "numba.types"}
    }


def costly(paths):
    found = {
        str(path.relative_to(PACKAGE)): {
            n for n in top_imports(path) if n.split(".")[0] not in CHEAP
        }
        for path in paths
    }
    return {path: names for path, names in found.items() if names}


SAID = {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}


def test_only_the_command_line_prints_and_exits():
    calls = [
        (path, node.lineno, ast.unparse(node.func))
        for path in MODULES
        if path.parent.name != "cli" and path.name != "__main__.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    assert [call for call in calls if call[2] in SAID] == []


def test_names_say_what_is_inside():
    names = {part for path in MODULES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "common", "misc", "core"}
