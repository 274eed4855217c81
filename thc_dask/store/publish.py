"""Begin and end a store: the claim first, the root's metadata last.

While a conversion runs the folder holds ``thc/plan.json`` and no ``zarr.json`` at its root, so
nothing takes it for a store. Publishing writes the small arrays and groups, then the root.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import google_crc32c

from thc_dask import __version__
from thc_dask.errors import ExistsError, WriteError
from thc_dask.grid import AXES, Extent
from thc_dask.schemes import Scheme
from thc_dask.store import metadata
from thc_dask.store.layout import Level
from thc_dask.store.location import LOCK, Location
from thc_dask.store.write import RECEIPTS, Receipt, Target

PLAN = "thc/plan.json"
ROOT = "zarr.json"
ROOT_COPY = "thc/root.json"  # the same bytes, should the root be damaged


def check_place(location: Location, overwrite: bool) -> None:
    """Raise ExistsError where a store may not be begun.

    Something is there and ``overwrite`` was not asked for, or it is no store and so not ours to
    remove.
    """
    root, plan = location.get(ROOT), location.get(PLAN)
    if root is None and plan is None:
        if any(key != LOCK for key in location.keys("")):
            raise ExistsError(
                f"{location.url} exists and is not a store, so --overwrite leaves it alone; choose "
                "another name, or remove it yourself"
            )
    elif not overwrite:
        hint = "choose another name or give --overwrite"
        if root is None:
            hint = "give --resume to go on with it, --overwrite to start anew"
            raise ExistsError(f"{location.url} holds an unfinished conversion; {hint}")
        raise ExistsError(f"{location.url} exists; {hint}")


def begin(location: Location, plan: dict[str, Any], overwrite: bool) -> None:
    """Claim the place for a store; ``plan`` says what is being made. What was there goes."""
    check_place(location, overwrite)
    if location.get(ROOT) is not None:
        # What breaks off from here on is unfinished, not a folder of somebody else.
        location.put(PLAN, metadata.dumps({}))
        location.delete(ROOT)
    for top in sorted({key.split("/")[0] for key in location.keys("")} - {LOCK.split("/")[0]}):
        location.delete(top)
    for key in location.keys(LOCK.split("/")[0]):
        if key not in (LOCK, PLAN):
            location.delete(key)
    location.put(PLAN, metadata.dumps(plan))


def sweep(location: Location) -> None:
    """Remove files that a killed process had not finished; only the holder of the lock may."""
    for key in location.keys(""):
        if key.endswith(".partial"):
            location.delete(key)


def interrupted(location: Location) -> dict[str, Any] | None:
    """Return the plan of the conversion that began here, finished or not; None if none did.

    Of a finished store it is what its root says of its making.
    """
    data = location.get(ROOT)
    if data is not None:
        try:
            made: dict[str, Any] = json.loads(data)["attributes"]["thc"]
        except (KeyError, TypeError, ValueError):
            raise ExistsError(f"{location.url} exists and is not a store of thc_dask") from None
        return made | {"finished": True}
    data = location.get(PLAN)
    plan: dict[str, Any] | None = None if data is None else json.loads(data)
    return plan


def digest(shards: Iterable[dict[str, Any]], meaning: Any = None) -> str:
    """Return what identifies the voxels of a pyramid: equal digests mean equal bytes.

    ``meaning``, ready for JSON, is what else the voxels cannot be counted without: of labels, where
    they are known and their scheme.
    """
    found = sorted((s["key"], s["n_bytes"], s["crc32c"]) for s in shards)
    what = [found] if meaning is None else [found, meaning]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _level_nodes(
    target: Target, levels: Sequence[Level], attributes: dict[str, Any]
) -> tuple[dict[str, metadata.Node], dict[str, bytes]]:
    """Return the nodes below a pyramid's group, and the chunks of the coordinate arrays."""
    nodes: dict[str, metadata.Node] = {}
    chunks: dict[str, bytes] = {}
    for level in levels:
        top = f"{target.prefix}{level.index}"
        nodes[top] = metadata.group()
        nodes[target.path(level)] = metadata.sharded_array(
            level, target.dtype, target.codec, attributes
        )
        for axis, name in enumerate(AXES):
            nodes[f"{top}/{name}"], chunks[f"{top}/{name}/c/0"] = metadata.coordinate_array(
                level.grid, axis
            )
    return nodes, chunks


def _put_all(location: Location, nodes: dict[str, metadata.Node], chunks: dict[str, bytes]) -> None:
    for key, data in chunks.items():
        location.put(key, data)
    # Deepest first: a group never names what is not there yet.
    for path in sorted(nodes, key=lambda p: -p.count("/")):
        location.put(f"{path}/zarr.json", metadata.dumps(nodes[path]))


def _keep_receipts(target: Target, receipts: Sequence[Receipt], meaning: Any = None) -> str:
    # How many shards of zeros were looked at depends on memory; what is stored does not.
    shards = [s for receipt in receipts for s in receipt["shards"] if s["n_bytes"]]
    lines = sorted(f"{json.dumps(shard)}\n" for shard in shards)
    top = f"{RECEIPTS}/{target.prefix}{target.name}"
    target.location.put(f"{top}.jsonl", "".join(lines).encode())
    return digest(shards, meaning)


def _clear_receipts(target: Target) -> None:
    """Remove the receipts that a resumed run would have asked for."""
    target.location.delete(f"{RECEIPTS}/{target.prefix}{target.name}")


def _put_root(location: Location, data: bytes) -> None:
    location.put(ROOT_COPY, data)
    location.put(ROOT, data)


def sealed(root: metadata.Node) -> bytes:
    """Return the root's bytes with their own checksum among them."""
    thc = root["attributes"]["thc"]
    blank = root | {"attributes": root["attributes"] | {"thc": thc | {"crc32c": 0}}}
    crc = int(google_crc32c.value(metadata.dumps(blank)))
    blank["attributes"]["thc"]["crc32c"] = crc
    return metadata.dumps(blank)


def is_sealed(data: bytes) -> bool:
    """Whether a root's bytes are those that ``sealed`` made."""
    try:
        root = json.loads(data)
        return data == sealed(root)
    except (ValueError, KeyError, TypeError):
        return False


def node_bytes(nodes: dict[str, metadata.Node], path: str) -> bytes:
    """Return the metadata file of a node, as it lies in the store.

    The group of a table names its own arrays too: over HTTP nobody can list them.
    """
    node = nodes[path]
    if path.startswith("counts/") and path.count("/") == 2:
        top = f"{path}/"
        node = metadata.consolidate(
            node, {k.removeprefix(top): n for k, n in nodes.items() if k.startswith(top)}
        )
    return metadata.dumps(node)


def small_files(root: metadata.Node, levels: Sequence[Level]) -> dict[str, bytes]:
    """Return every file below the root that follows from the root: metadata and coordinates."""
    nodes = root["consolidated_metadata"]["metadata"]
    found = {f"{path}/zarr.json": node_bytes(nodes, path) for path in nodes}
    sets = [p for p in nodes if p.startswith("labels/") and p.count("/") == 1]
    for prefix in ("", *(f"{path}/" for path in sets)):
        for level in levels:
            for axis, name in enumerate(AXES):
                _, chunk = metadata.coordinate_array(level.grid, axis)
                found[f"{prefix}{level.index}/{name}/c/0"] = chunk
    return found


def publish_image(
    target: Target, levels: Sequence[Level], receipts: Sequence[Receipt], record: dict[str, Any],
    window: tuple[float, float], limits: tuple[float, float],
) -> None:  # fmt: skip
    """Turn finished shards into a store; the last thing written is the root."""
    attributes = {"long_name": "X-ray attenuation, grey level"}
    nodes, chunks = _level_nodes(target, levels, attributes)
    _put_all(target.location, nodes, chunks)
    thc = {
        "format": metadata.FORMAT,
        **record,
        "codec": str(target.codec),
        "digest": _keep_receipts(target, receipts),
    }
    ome = {
        "version": metadata.OME,
        "multiscales": metadata.multiscales(target.name, levels, metadata.MEAN),
        "omero": metadata.omero(target.name, window, limits, levels[0].grid.shape[0] // 2),
    }
    root = metadata.group({"ome": ome, "thc": thc})
    _put_root(target.location, sealed(metadata.consolidate(root, nodes)))
    target.location.delete(PLAN)
    _clear_receipts(target)


def publish_labels(
    target: Target, levels: Sequence[Level], receipts: Sequence[Receipt], root: metadata.Node,
    scheme: Scheme, extents: Sequence[Extent], provenance: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Add a finished label set to the store whose root node is ``root``."""
    nodes, chunks = _level_nodes(target, levels, {"long_name": f"{scheme.kind} codes"})
    meaning = {
        "scheme": scheme.as_dict(),
        "extents": metadata.extents_as_lists(extents),
    }
    thc = {
        "format": metadata.FORMAT,
        "software": f"thc_dask {__version__}",
        **meaning,
        "provenance": provenance,
        "codec": str(target.codec),
        "digest": _keep_receipts(target, receipts, meaning),
    }
    ome = {
        "version": metadata.OME,
        "multiscales": metadata.multiscales(target.name, levels, metadata.MODE),
        "image-label": metadata.image_label(scheme),
    }
    nodes[target.prefix.rstrip("/")] = metadata.group({"ome": ome, "thc": thc})
    _put_all(target.location, nodes, chunks)
    add_nodes(target.location, root, nodes)
    _clear_receipts(target)


def add_nodes(location: Location, root: metadata.Node, nodes: dict[str, metadata.Node]) -> None:
    """Name new nodes in the store's root, with their parents and the list of label sets."""
    _replace_nodes(location, root, root["consolidated_metadata"]["metadata"] | nodes, set(nodes))


def remove_nodes(location: Location, root: metadata.Node, path: str) -> None:
    """Take a node and all below it out of the store's root; their bytes stay."""
    kept = without(root, path)["consolidated_metadata"]["metadata"]
    _replace_nodes(location, root, kept, set())


def without(root: metadata.Node, path: str) -> metadata.Node:
    """Return the store's root without a node, what is below it, and the list of label sets."""
    have = root["consolidated_metadata"]["metadata"]
    kept = {
        k: v for k, v in have.items() if k not in (path, "labels") and not k.startswith(f"{path}/")
    }
    return metadata.consolidate(root, kept)


def _replace_nodes(
    location: Location, root: metadata.Node, have: dict[str, metadata.Node], written: set[str]
) -> None:
    for path in list(have):
        parts = path.split("/")
        for n in range(1, len(parts)):
            have.setdefault("/".join(parts[:n]), metadata.group())
    names = sorted(p.split("/")[1] for p in have if p.startswith("labels/") and p.count("/") == 1)
    have.pop("labels", None)
    if names:  # an empty list is not valid
        have["labels"] = metadata.group({"ome": {"version": metadata.OME, "labels": names}})
    before = root["consolidated_metadata"]["metadata"]
    fresh = {path for path in have if have[path] != before.get(path)} - written
    data = sealed(metadata.consolidate(root, have))
    try:
        for path in sorted(fresh, key=lambda p: -p.count("/")):
            location.put(f"{path}/zarr.json", node_bytes(have, path))
        _put_root(location, data)
    except BaseException:
        current = location.get(ROOT)
        if current is not None and current != data:
            _restore(location, fresh, before)
            with suppress(WriteError):
                location.put(ROOT_COPY, current)
        raise
    if "labels" in before and not names:
        location.delete("labels/zarr.json")


def _restore(location: Location, paths: Iterable[str], before: dict[str, metadata.Node]) -> None:
    """Undo changes of nodes that the root never came to name, as far as the target lets us."""
    for path in paths:
        with suppress(WriteError):
            if path in before:
                location.put(f"{path}/zarr.json", node_bytes(before, path))
            else:
                location.delete(f"{path}/zarr.json")
