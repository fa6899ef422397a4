"""`atproto_json`: records as the API has them, which its specification and its SDK read back."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from repo_stream import Cid, InvalidDagCbor, NestedTooDeep
from repo_stream.ipld import dagcbor
from repo_stream.process import as_processor, atproto_json, dag_json, json_value

BLOB = Cid(b"\x01\x55\x12\x20" + bytes(range(32)))
RECORD = Cid.of(b"a record")

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8)
    | st.sampled_from(['"$link":', '{"$bytes":"', "$link"])
    | st.binary(max_size=5)
    | st.sampled_from([BLOB, RECORD]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["$link", "$bytes", "$type", "/"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
RECORDS = st.dictionaries(st.text(max_size=4), VALUES, max_size=5)


def from_json(parts: dict[str, Any]) -> object:
    """Read a map back as the specification says; one with other keys beside is not valid."""
    match parts:
        case {"$link": str(text)} if len(parts) == 1:
            return Cid.parse(text)
        case {"$bytes": str(text)} if len(parts) == 1:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        case _:
            return parts


def shape(value: Any) -> object:
    """A value with its types, for `Cid` and `bytes` are equal, and so are `True` and 1."""
    kind: type[object] = value.__class__
    if kind is dict:
        return {key: shape(item) for key, item in value.items()}
    if kind is list:
        return [shape(item) for item in value]
    return kind, value


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from cast("dict[str, object]", value)
        value = [*cast("dict[str, object]", value).values()]
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from keys(item)


def test_links_and_bytes_have_the_form_of_the_specification() -> None:
    block = dagcbor.encode({"bb": BLOB, "a": [b"\xfb\xff", 1, None, b""], "z": "ü\n\x01\u2028"})
    assert atproto_json(block) == (
        '{"a":[{"$bytes":"+/8"},1,null,{"$bytes":""}],'
        f'"bb":{{"$link":"{BLOB}"}},"z":"ü\\n\\u0001\u2028"}}'
    )


@given(RECORDS)
def test_it_is_read_back_as_the_same_record_or_refused(value: dict[str, object]) -> None:
    reserved = {"$link", "$bytes"}.intersection(keys(value))
    block = dagcbor.encode(value)
    if reserved:
        with pytest.raises(ValueError, match=r"would be (a link|bytes) in the JSON of the API"):
            atproto_json(block)
        return
    line = atproto_json(block)
    assert "\n" not in line
    assert shape(json.loads(line, object_hook=from_json)) == shape(value)


@pytest.mark.parametrize(
    "reserved",
    [
        pytest.param({"$link": str(BLOB)}, id="link"),
        pytest.param({"$link": 1}, id="link of a wrong type"),
        pytest.param({"$link": str(BLOB), "more": 1}, id="link and more"),
        pytest.param({"$bytes": "aGk"}, id="bytes"),
        pytest.param({"$bytes": b"hi"}, id="bytes of bytes"),
        pytest.param({"a": 1, "$bytes": "aGk"}, id="bytes and more"),
    ],
)
def test_maps_with_reserved_keys_are_refused_wherever_they_are(reserved: dict[str, Any]) -> None:
    """The specification calls a link or bytes with other fields, or of other types, not valid."""
    (name,) = (key for key in reserved if key.startswith("$"))
    for value in (reserved, {"in": reserved}, {"in": [[reserved]], "real": BLOB}):
        block = dagcbor.encode(value)
        with pytest.raises(ValueError, match=rf'a map with the key "\{name}" would be'):
            atproto_json(block)
        assert json.loads(dag_json(block))  # which reserves other keys


def test_what_dag_json_reserves_is_written() -> None:
    for value in ({"/": "x"}, {"in": [{"/": {"bytes": "x"}}]}):
        assert json.loads(atproto_json(dagcbor.encode(value))) == value


def test_what_is_no_record_is_refused() -> None:
    for block in (
        b"",
        b"\x01",
        b"\x80",
        b"\xa1\x61n\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00",
        b"\xa0\xa0",
    ):
        with pytest.raises(InvalidDagCbor):
            atproto_json(block)


def test_it_is_lazy() -> None:
    assert as_processor(atproto_json).lazy


# --- The SDK --------------------------------------------------------------------------------------

POST: dict[str, object] = {
    "$type": "app.bsky.feed.post",
    "text": "grüße 👋",
    "createdAt": "2024-01-01T00:00:00.000Z",
    "langs": ["de"],
    "facets": [
        {
            "index": {"byteStart": 0, "byteEnd": 7},
            "features": [{"$type": "app.bsky.richtext.facet#tag", "tag": "x"}],
        }
    ],
    "embed": {
        "$type": "app.bsky.embed.images",
        "images": [
            {
                "alt": "",
                "image": {"$type": "blob", "ref": BLOB, "mimeType": "image/png", "size": 3},
            }
        ],
    },
}
PROFILE: dict[str, object] = {
    "$type": "app.bsky.actor.profile",
    "displayName": "x",
    "avatar": {"$type": "blob", "ref": BLOB, "mimeType": "image/jpeg", "size": 5},
}
LIKE: dict[str, object] = {
    "$type": "app.bsky.feed.like",
    "subject": {"uri": "at://did:plc:someone/app.bsky.feed.post/3jzfcijpj2z2a", "cid": str(RECORD)},
    "createdAt": "2024-01-01T00:00:00.000Z",
}


@pytest.fixture(scope="module")
def sdk() -> Any:
    """The models of the `atproto` SDK, which take a second to import."""
    if sys.version_info >= (3, 14):
        pytest.importorskip("atproto", reason="the atproto SDK may not be there for this Python")
    return pytest.importorskip("atproto").models


def untyped(value: Any) -> Any:
    """A value without its `$type`s: the SDK writes those that a Lexicon implies as well."""
    match value:
        case dict():
            items = cast("dict[str, object]", value).items()
            return {key: untyped(item) for key, item in items if key != "$type"}
        case list():
            return [untyped(item) for item in cast("list[object]", value)]
        case _:
            return value


@pytest.mark.parametrize(
    ("model", "value"),
    [
        pytest.param("AppBskyFeedPost", POST, id="post"),
        pytest.param("AppBskyActorProfile", PROFILE, id="profile"),
        pytest.param("AppBskyFeedLike", LIKE, id="like"),
    ],
)
def test_models_of_the_sdk_accept_it_and_create_record_would_send_it(
    sdk: Any, model: str, value: dict[str, object]
) -> None:
    taken = json.loads(atproto_json(dagcbor.encode(value)))
    record = sdk.get_or_create(taken, getattr(sdk, model).Record, strict=True)
    assert untyped(sdk.get_model_as_dict(record)) == untyped(taken)
    data = sdk.ComAtprotoRepoCreateRecord.Data(
        repo="did:plc:someone", collection=str(value["$type"]), record=taken
    )
    assert untyped(sdk.get_model_as_dict(data)["record"]) == untyped(taken)


def test_models_of_the_sdk_do_not_take_dag_json(sdk: Any) -> None:
    """So the test above can fail."""
    taken = json.loads(dag_json(dagcbor.encode(PROFILE)))
    with pytest.raises(sdk.utils.ModelError, match=r"ref\.IpldLink"):
        sdk.get_or_create(taken, sdk.AppBskyActorProfile.Record, strict=True)


# --- As values ------------------------------------------------------------------------------------


@given(RECORDS)
def test_json_value_is_what_the_text_says(record: dict[str, Any]) -> None:
    before = shape(record)
    try:
        text = atproto_json(dagcbor.encode(record))
    except ValueError:
        with pytest.raises(ValueError, match=r"a map with the key .* would be"):
            json_value(record)
        return
    value = json_value(record)
    assert shape(value) == shape(json.loads(text))
    assert [*value] == [*record]
    assert shape(json_value(dagcbor.encode(record))) == shape(value)
    assert shape(record) == before


def test_json_value_is_lazy_and_takes_what_the_data_model_has() -> None:
    assert as_processor(json_value).lazy
    with pytest.raises(TypeError, match="the data model has no float"):
        json_value({"a": [{"b": 1.5}]})
    deep: dict[str, Any] = {}
    for _ in range(127):
        deep = {"a": deep}
    assert json_value(dagcbor.encode(deep)) == deep
    for _ in range(2):
        deep = {"a": [deep]}
    with pytest.raises(NestedTooDeep):
        json_value(deep)
