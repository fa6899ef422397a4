"""How a record is written: as a line of JSON, or as the columns of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from repo_stream import Output

__all__ = ["JsonForm", "Line", "line_of", "uri_of", "values_of"]

#: How links and bytes are written: as DAG-JSON, or as the API of atproto has them.
JsonForm: TypeAlias = Literal["dag-json", "atproto"]
#: Makes the line of a record, without a line ending, from the account's DID and the record.
Line: TypeAlias = Callable[[str, Output[str]], str]

_VALUES: Final[dict[str, Callable[[str, Output[str]], str]]] = {
    "did": lambda did, _: did,
    "uri": lambda did, output: uri_of(did, output.key),
    "key": lambda _, output: output.key,
    "collection": lambda _, output: output.collection,
    "rkey": lambda _, output: output.rkey,
    "cid": lambda _, output: str(output.cid),
    "value": lambda _, output: output.value,
}


def uri_of(did: str, key: str) -> str:
    """Return the `at://` URI of a record; it is only valid if the key is."""
    return f"at://{did}/{key}"


def values_of(columns: Sequence[str]) -> Callable[[str, Output[str]], list[str]]:
    """Return a function that returns these columns of a record, all of them text."""
    values = [_VALUES[column] for column in columns]
    return lambda did, output: [value(did, output) for value in values]


def line_of(json_form: JsonForm, *, several: bool) -> Line:
    """Return the function that makes a line of JSON.

    Args:
        json_form: the form of its value. With that of the API come the names that the API uses.
        several: whether there are several CARs, so that it has to be said whose record it is.
    """
    if json_form == "atproto":
        return _api_line
    return _dag_line_of_account if several else _dag_line


def _dag_line(_: str, output: Output[str]) -> str:
    return f'{{"key":{_text(output.key)},"cid":"{output.cid}","value":{output.value}}}'


def _dag_line_of_account(did: str, output: Output[str]) -> str:
    return f'{{"did":{_text(did)},{_dag_line(did, output)[1:]}'


def _api_line(did: str, output: Output[str]) -> str:
    return (
        f'{{"uri":{_text(uri_of(did, output.key))},"collection":{_text(output.collection)},'
        f'"rkey":{_text(output.rkey)},"cid":"{output.cid}","value":{output.value}}}'
    )


_text: Final = json.JSONEncoder(ensure_ascii=False).encode
