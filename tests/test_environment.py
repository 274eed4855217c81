"""The conda environment says what the package says."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# conda-forge splits these: the bare name there brings a desktop or a dashboard.
CONDA_NAMES = {"dask-core": "dask", "matplotlib-base": "matplotlib"}
PIP_ONLY = {"intern"}  # conda-forge has none; pip brings it with the package itself
TOOLS = {"python", "pip"}  # what an environment needs besides packages


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def conda_packages(environment):
    """Return the version range of each package by its name on PyPI."""
    found = {}
    for line in environment["dependencies"]:
        if isinstance(line, str):
            name, _, versions = line.partition(" ")
            name = CONDA_NAMES.get(name, name)
            assert name not in found, f"{name} is listed twice"
            found[name] = SpecifierSet(versions)
    return found


def needed(project, extra="all"):
    """Return the requirements of the package with an extra, those of its own extras unfolded."""
    lines, extras = list(project["project"]["dependencies"]), [extra]
    while extras:
        for line in project["project"]["optional-dependencies"][extras.pop()]:
            asked = Requirement(line)
            if asked.name == project["project"]["name"]:
                extras += asked.extras
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


def test_conda_installs_what_the_package_needs(project, environment):
    build = [Requirement(line) for line in project["build-system"]["requires"]]
    asked = [r for r in [*needed(project), *build] if r.name not in PIP_ONLY]
    wanted = {r.name: r.specifier for r in asked}
    have = {k: v for k, v in conda_packages(environment).items() if k not in TOOLS}
    assert have == wanted


def test_every_package_has_a_floor(project):
    floors = {r.name: [s.operator for s in r.specifier] for r in needed(project)}
    assert [name for name, operators in floors.items() if ">=" not in operators] == []


def test_pythons_agree(project, environment):
    wanted = SpecifierSet(project["project"]["requires-python"])
    assert conda_packages(environment)["python"] == wanted
    shown = [
        Version(line.rsplit(" ", 1)[1])
        for line in project["project"]["classifiers"]
        if re.search(r"Python :: 3\.\d+$", line)
    ]
    allowed = [Version(f"3.{n}") for n in range(8, 30) if f"3.{n}" in wanted]
    assert shown == allowed


def test_pip_adds_the_package_alone(project, environment):
    [pip] = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert pip == ["-e .[all]"]
    assert environment["name"] == project["project"]["name"]
    assert environment["channels"][0] == "conda-forge"
    assert environment["channels"][1:] in ([], ["nodefaults"])
