"""Compiled kernels without their compiler: machine code that numba made once, loaded by itself.

To import numba and to look a function up in its cache takes half a second, which a command that
counts for half a second cannot wait for. A module of kernels, compiled once, lies as machine code
in a file; to load that takes a millisecond. Anything that is not as it should be (another
processor, another version, a damaged file) and the module is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, overload

from numpy.typing import NDArray

from thc_dask.native.image import Image, OtherCodeError

Function = Callable[..., None]

SUFFIX = ".thc_o"
EXTERNAL = {"memset", "memcpy", "memmove"}  # of the C library, in every process

_lock = threading.Lock()
_engines: list[Any] = []  # own the memory that the code lies in
_ready: dict[str, dict[str, Function] | None] = {}  # None: it is yet to be compiled


def load(module: str) -> dict[str, Function]:
    """Return the functions that a module of kernels has in ``EXPORTED``, compiled, by name.

    Parameters
    ----------
    module
        Its full name. ``EXPORTED`` in it holds functions that ``numba.cfunc`` made, of pointers
        and whole numbers, which return nothing. It is imported only if it must be compiled.

    Returns
    -------
    dict
        Functions of addresses and whole numbers. They check nothing, and let other threads run.
    """
    functions = _ready.get(module)
    if functions is None:
        with _lock:  # of threads that all begin to count only one is to compile
            functions = _ready.get(module) or _load(module)
            _ready[module] = functions
    return functions


@cache
def address(module: str, name: str) -> int:
    """Return where the code of a function of ``load`` lies, for machine code that calls it."""
    return address_of(load(module)[name])


def address_of(function: Function) -> int:
    """Return where the code of a C function lies."""
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)  # type: ignore[arg-type]


def start_of(array: NDArray[Any]) -> int:
    """Return where the memory of an array begins, in a third of the time of ``ctypes.data``."""
    address: int = array.__array_interface__["data"][0]
    return address


def ready(module: str) -> dict[str, Function] | None:
    """Return what ``load`` does where that needs no compiler; None where it does, or at once.

    Nobody waits: while one thread loads the code, the others are told None.
    """
    if module not in _ready and _lock.acquire(blocking=False):
        try:
            if module not in _ready:
                _ready[module] = _load(module, compile=False)
        finally:
            _lock.release()
    return _ready.get(module)


@overload
def _load(module: str) -> dict[str, Function]: ...
@overload
def _load(module: str, compile: Literal[False]) -> dict[str, Function] | None: ...
def _load(module: str, compile: bool = True) -> dict[str, Function] | None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin)
    name = f"{source.stem}-{_key(source)}{SUFFIX}"
    for folder in _folders(source):
        with suppress(OSError, ValueError, KeyError):
            return _linked(_unsealed((folder / name).read_bytes()))
    if not compile:
        return None
    data = _compiled(module)
    for folder in _folders(source):
        with suppress(OSError):
            _write(folder / name, _sealed(data))
            break
    return _linked(data)


def _key(source: Path) -> str:
    """Return what the machine code depends on: source, this package, processor, compiler."""
    parts = [
        source.read_bytes(),
        _loader(),
        _compiler(),
        _processor(),
        *(f"{k}={v}".encode() for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_")),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


@cache
def _loader() -> bytes:
    """Return what machine code has in common, and what lays it out."""
    here = Path(__file__).parent
    return b"".join((here / name).read_bytes() for name in ("__init__.py", "image.py", "memory.py"))


@cache
def _compiler() -> bytes:
    """Return what tells one version of the compiler from another, without importing it."""
    found = b""
    for name in ("llvmlite", "numba"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found += (Path(spec.origin).parent / "_version.py").read_bytes()
    return found


@cache
def _processor() -> bytes:
    """Return what tells one kind of processor from another: its name and what it can do."""
    told = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        first = file.read(2**14).partition("\n\n")[0].splitlines()
        if lines := [line for line in first if line.startswith(told)]:
            return "\n".join(lines).encode()
    from llvmlite import binding

    names = binding.get_process_triple(), binding.get_host_cpu_name()
    return " ".join((*names, binding.get_host_cpu_features().flatten())).encode()


def _folders(source: Path) -> Iterator[Path]:
    """Yield where machine code may lie, as numba keeps its own: the first that can be written."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
    yield source.parent / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    yield Path(home).expanduser() / "thc_dask"


def _compiled(module: str) -> bytes:
    """Return the functions of a module as machine code, and what they are called."""
    functions: dict[str, dict[str, Any]] = {}
    objects = []
    for name, function in importlib.import_module(module).EXPORTED.items():
        library = function._library
        missing = {f.name for f in library._final_module.functions if f.is_declaration}
        missing = {n for n in missing if not n.startswith("llvm.")} - EXTERNAL
        assert not missing, f"{name} calls {missing}, which no other process has"
        objects.append(bytes(library._get_compiled_object()))
        kinds = ["pointer" if "*" in str(kind) else "whole" for kind in function._sig.args]
        functions[name] = {
            "symbol": function.native_name, "arguments": kinds, "n_bytes": len(objects[-1]),
        }  # fmt: skip
    image = Image()
    try:
        for data, about in zip(objects, functions.values(), strict=True):
            about["at"] = image.add(data, about["symbol"])
    except OtherCodeError:
        return json.dumps({"functions": functions}).encode() + b"\n" + b"".join(objects)
    places = {"inside": image.inside, "outside": image.outside}
    return json.dumps({"functions": functions, "image": places}).encode() + b"\n" + image.code


def _linked(data: bytes) -> dict[str, Function]:
    """Return the functions of machine code, ready to be called."""
    head, _, code = data.partition(b"\n")
    said = json.loads(head)
    functions = said["functions"]
    if "image" in said:
        base = Image(bytearray(code), **said["image"]).placed()
        addresses = {name: base + about["at"] for name, about in functions.items()}
    else:
        addresses = _addresses(functions, code)
    types = {"pointer": ctypes.c_void_p, "whole": ctypes.c_int64}
    return {
        name: ctypes.CFUNCTYPE(None, *(types[kind] for kind in about["arguments"]))(addresses[name])
        for name, about in functions.items()
    }


def _addresses(functions: dict[str, dict[str, Any]], objects: bytes) -> dict[str, int]:
    """Return where the functions of object code are, once llvmlite has linked it."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    at = 0
    for about in functions.values():
        part = objects[at : at + about["n_bytes"]]
        engine.add_object_file(binding.ObjectFileRef.from_data(part))
        at += about["n_bytes"]
    engine.finalize_object()
    _engines.append(engine)
    return {name: engine.get_function_address(f["symbol"]) for name, f in functions.items()}


def _sealed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() + data


def _unsealed(data: bytes) -> bytes:
    """Return what was sealed; ValueError where it is not what was written."""
    seal, rest = data[:32], data[32:]
    if hashlib.sha256(rest).digest() != seal:
        raise ValueError("damaged")
    return rest


def _write(path: Path, data: bytes) -> None:
    """Write a file that appears whole, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
