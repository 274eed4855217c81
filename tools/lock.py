"""Write constraints.txt: what pip resolves for every supported Python, in one file.

Usage: python tools/lock.py PYTHON3.11 PYTHON3.12 PYTHON3.13
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """\
# Versions that make and CI install: `python tools/lock.py python3.11 python3.12 python3.13`
# writes this file anew. A line without a marker holds for every supported Python.
"""


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """Return the Python version and what pip would install for it, by normalised name."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-U", "pip"], check=True)
        options = ["install", "--dry-run", "--ignore-installed", "--report", "-", f"{ROOT}[dev]"]
        out = subprocess.run([*pip, *options], check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    version = ".".join(report["environment"]["python_full_version"].split(".")[:2])
    found = {
        re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"]
        for item in report["install"]
    }
    found.pop("thc-dask")
    return version, found


def main() -> None:
    """Resolve for each Python named and write the file."""
    by_name: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    pythons = sys.argv[1:] or [sys.executable]
    for python in pythons:
        version, found = resolve(python)
        for name, pinned in found.items():
            by_name[name][pinned].append(version)
    lines = []
    for name, pins in sorted(by_name.items()):
        for pinned, versions in sorted(pins.items()):
            marker = " or ".join(f'python_version == "{v}"' for v in versions)
            everywhere = len(versions) == len(pythons)
            lines.append(f"{name}=={pinned}" + ("" if everywhere else f" ; {marker}"))
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
