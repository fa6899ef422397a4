"""The shortest correct walk over decoded blocks, for libraries that have none of their own."""

from collections.abc import Callable
from typing import Any

from measure import Tally


def walk(get: Callable[[bytes], Any], link: bytes, visit: Callable[[bytes, Any], None]) -> None:
    """Visit every key and its decoded record in key order, from the node at a link."""
    node = get(link)
    if (left := node["l"]) is not None:
        walk(get, left, visit)
    key = b""
    for entry in node["e"]:
        key = key[: entry["p"]] + entry["k"]
        visit(key, get(entry["v"]))
        if (right := entry["t"]) is not None:
            walk(get, right, visit)


def count(get: Callable[[bytes], Any], root: bytes, tally: Tally) -> None:
    """Walk one repo from its root node."""
    records = key_bytes = 0

    def visit(key: bytes, _record: object) -> None:
        nonlocal records, key_bytes
        records += 1
        key_bytes += len(key)

    walk(get, root, visit)
    tally.add(records, key_bytes)
