"""The root of a store: the one object that says what is in it, and how it changes.

A change of the root is one PUT. Whoever changes it says which root was read: where that is no
longer there, another writer was at work, and to go on would lose what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress

import google_crc32c

from thc_dask.errors import WriteError
from thc_dask.store import metadata
from thc_dask.store.location import Location

ROOT = "zarr.json"
ROOT_COPY = "thc/root.json"  # the same bytes, should the root be damaged
SEAL = re.compile(rb'"crc32c": ([0-9]{1,10})')
UNSETTLED = "unsettled"  # names the group whose files are just being moved into place


def sealed(root: metadata.Node) -> bytes:
    """Return the root's bytes with their own checksum among them."""
    thc = root["attributes"]["thc"]
    blank = root | {"attributes": root["attributes"] | {"thc": thc | {"crc32c": 0}}}
    data = metadata.dumps(blank)
    crc = int(google_crc32c.value(data))
    if len(SEAL.findall(data)) == 1:  # to write a root takes longer than all else here
        return SEAL.sub(b'"crc32c": %d' % crc, data)
    blank["attributes"]["thc"]["crc32c"] = crc
    return metadata.dumps(blank)


def is_sealed(data: bytes) -> bool:
    """Whether a root's bytes are those that ``sealed`` made."""
    if len(SEAL.findall(data)) == 1:
        (crc,) = SEAL.findall(data)
        return bool(google_crc32c.value(SEAL.sub(b'"crc32c": 0', data)) == int(crc))
    try:
        return data == sealed(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return False


def nodes_of(root: bytes) -> dict[str, metadata.Node]:
    """Return the metadata of every node that a root names, by path."""
    found: dict[str, metadata.Node] = json.loads(root)["consolidated_metadata"]["metadata"]
    return found


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


def put_root(location: Location, data: bytes, before: bytes | None) -> None:
    """Write the root of a store; it is there with that, so all else must be there before.

    Raises
    ------
    WriteError
        The root is no longer ``before`` (None: there is one).
    """
    location.put(ROOT_COPY, data)
    if not location.exchange(ROOT, before, data):
        raise _overtaken(location)


def check_unchanged(location: Location, root: bytes) -> None:
    """Raise WriteError where the root is no longer the one that was read.

    That is found out here before much is done; ``put_root`` sees to it that nobody comes between.
    """
    if location.get(ROOT) != root:
        raise _overtaken(location)


def _overtaken(location: Location) -> WriteError:
    return WriteError(
        f"cannot write {location.url}: another process has changed the store meanwhile; "
        "its change stands, this one was not made: run it again"
    )


def add_nodes(location: Location, root: bytes, nodes: dict[str, metadata.Node]) -> bytes:
    """Name new nodes in the store's root, with their parents and the list of label sets.

    ``root`` is the root as it was read; returns it as it is now.

    Raises
    ------
    WriteError
        Another process has changed the root, or it cannot be written; it is as it was.
    """
    have = nodes_of(root) | nodes
    return _replace(location, root, have, None, set(nodes))


def remove_nodes(location: Location, root: bytes, path: str, unsettled: bool = False) -> bytes:
    """Take a node and all below it out of the store's root; their bytes stay.

    With ``unsettled`` the root says that the node is about to come back. Takes, returns and raises
    what ``add_nodes`` does.
    """
    kept = {k: v for k, v in nodes_of(root).items() if k != path and not k.startswith(f"{path}/")}
    return _replace(location, root, kept, path if unsettled else None, set())


def _replace(
    location: Location, root: bytes, have: dict[str, metadata.Node], unsettled: str | None,
    written: set[str],
) -> bytes:  # fmt: skip
    node, before = json.loads(root), nodes_of(root)
    for path in list(have):
        parts = path.split("/")
        for n in range(1, len(parts)):
            have.setdefault("/".join(parts[:n]), metadata.group())
    names = sorted(p.split("/")[1] for p in have if p.startswith("labels/") and p.count("/") == 1)
    have.pop("labels", None)
    if names:  # an empty list is not valid
        have["labels"] = metadata.group({"ome": {"version": metadata.OME, "labels": names}})
    fresh = {path for path in have if have[path] != before.get(path)} - written
    thc = node["attributes"]["thc"]
    thc.pop(UNSETTLED, None)
    if unsettled is not None:
        thc[UNSETTLED] = unsettled
    data = sealed(metadata.consolidate(node, have))
    check_unchanged(location, root)
    try:
        for path in sorted(fresh, key=lambda p: -p.count("/")):
            location.put(f"{path}/zarr.json", node_bytes(have, path))
        put_root(location, data, root)
    except BaseException:
        current = location.get(ROOT)
        if current is not None and current != data:
            _restore(location, fresh, current)
        raise
    if "labels" in before and not names:
        location.remove("labels/zarr.json")
    return data


def _restore(location: Location, paths: Iterable[str], root: bytes) -> None:
    """Make nodes what the root says of them, as far as the target lets us."""
    before = nodes_of(root)
    for path in paths:
        with suppress(WriteError):
            if path in before:
                location.put(f"{path}/zarr.json", node_bytes(before, path))
            else:
                location.remove(f"{path}/zarr.json")
    with suppress(WriteError):
        location.put(ROOT_COPY, root)
