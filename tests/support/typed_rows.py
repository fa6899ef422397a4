"""The way back from a row of typed columns to the record that it was made of.

It goes by the Arrow schema and its metadata alone, and shares no code with what made the row.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, cast

from repo_stream import Cid

FIXED = ("uri", "did", "rkey", "cid", "rev", "created_at")


def record_of(row: dict[str, Any], schema: Any) -> dict[str, Any]:
    """A record again, from a row as `to_pylist` returns it."""
    fields = [field for field in schema if field.name not in {*FIXED, "other"}]
    record = _map(fields, row)
    return record if row["other"] is None else _merged(record, read_json(row["other"]))


def _map(fields: Any, value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields:
        if value[field.name] is not None:
            found[_metadata(field, b"repo_stream.key", field.name)] = _value(
                field, value[field.name]
            )
    return found


def _metadata(field: Any, key: bytes, default: str) -> str:
    found: dict[bytes, bytes] = field.metadata or {}
    return found.get(key, default.encode()).decode()


def _value(field: Any, value: Any) -> Any:
    form = _metadata(field, b"repo_stream.form", "")
    if form == "json":
        return read_json(value)
    if value is None:
        return None
    if form == "link":
        return Cid.parse(value)
    if isinstance(value, dict):
        return _map(field.type, cast("dict[str, Any]", value))
    if isinstance(value, list):
        items = cast("list[Any]", value)  # type: ignore[redundant-cast] # not for pyright
        return [_value(field.type.value_field, item) for item in items]
    return value


def _merged(record: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    for key, value in rest.items():
        if key in record:
            _merged(record[key], value)
        else:
            record[key] = value
    return record


def read_json(text: str) -> Any:
    """A value of the data model, from its JSON in the form of the API with `$map`."""
    return json.loads(text, object_hook=_read_map)


def _read_map(found: dict[str, Any]) -> Any:
    match found:
        case {"$link": str(text)}:
            return Cid.parse(text)
        case {"$bytes": str(text)}:
            return b64decode(text + "=" * (-len(text) % 4))
        case {"$map": pairs} if isinstance(pairs, list):
            return dict(cast("list[tuple[str, Any]]", pairs))
        case _:
            return found
