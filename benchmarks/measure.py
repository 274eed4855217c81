"""Run a contender as a whole process and say what it took; make its environment on demand.

Nothing heavy is imported here: on Linux a child's peak memory starts at its parent's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# Peers have their bytecode from pip; what runs from a checkout must be let to keep its own.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Run:
    """One run of one contender."""

    wall_s: float
    """From start of the process to its end, imports included."""
    cpu_s: float
    """User and system time of the process and its children."""
    peak_bytes: int
    """Largest resident size of the process or of any one of its children."""
    written_bytes: int
    """Size of everything in the output."""
    n_files: int
    """Files in the output."""
    other_cpu_s: float
    """CPU seconds that went to all else meanwhile: other processes, the disk's work, the host."""
    report: dict[str, Any] = field(default_factory=dict)
    """What the contender said of itself: seconds by stage, versions."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_process(command: list[str], output: Path, env: dict[str, str] | None = None) -> Run:
    """Return what one run of ``command`` took, which writes ``output``; ``env`` adds to its own."""
    # What earlier runs left for the disk must not be paid by this one.
    os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        others = busy_s()
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=ENVIRONMENT | (env or {}))
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        others = busy_s() - others
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [(f.seek(0), f.read().decode(errors="replace"))[1] for f in (out, err)]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{texts[1][-3000:]}")
    n_files, n_bytes = tree_size(output)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu = usage.ru_utime + usage.ru_stime
    return Run(wall, cpu, peak, n_bytes, n_files, max(0.0, others - cpu), last_json(texts[0]))


def busy_s() -> float:
    """Return the CPU seconds that this machine has spent, with what the host took; 0 if unknown."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def last_json(text: str) -> dict[str, Any]:
    """Return the last line of ``text`` that is a JSON object, or nothing."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
    return {}


def tree_size(path: Path) -> tuple[int, int]:
    """Return the number of files at or under ``path`` and their bytes."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return len(files), sum(p.stat().st_size for p in files)


def remove(path: Path) -> None:
    """Remove a file or a tree that may not exist."""
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def environment_python(name: str, cache: Path) -> str:
    """Return the interpreter of the environment ``name``, made on first use under ``cache``.

    The pins are ``environments/<name>.txt``; a first line ``# python 3.13`` asks for that Python.
    """
    pins = HERE / "environments" / f"{name}.txt"
    text = pins.read_text()
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    home = cache / f"{name}-{key}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([base_python(text), "-m", "venv", str(home)], check=True)
        # pip compiles the bytecode too, so that no contender pays for that at first import
        pip = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(pins)]
        subprocess.run(pip, check=True)
        (home / "complete").touch()
    return str(python)


def base_python(pins: str) -> str:
    """Return an interpreter of the version that the first line of the pins asks for."""
    first = pins.partition("\n")[0]
    if not first.startswith("# python "):
        return sys.executable
    wanted = first.split()[-1]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [sys.executable, shutil.which(f"python{wanted}")]
    found += sorted(map(str, pyenv.glob(f"{wanted}.*/bin/python")))
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in filter(None, found):
        answer = subprocess.run([python, "-c", show], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == wanted:
            return python
    raise RuntimeError(f"these pins need Python {wanted}; put python{wanted} on the PATH")


def machine() -> dict[str, Any]:
    """Return the cores, the model and the memory of this machine, and its Python."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "n_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "model": model,
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }
