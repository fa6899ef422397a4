"""What a record comes as: `Output`, its account, and the two parts of its key."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from repo_stream import Cid, Output
from repo_stream.mst.results import Taken
from repo_stream.testing import cid_of

CID = Cid(cid_of(b"a record"))
OUTPUT = Output("a.b.c/1", CID, {"n": 1}, did="did:web:example.com")


@pytest.mark.parametrize(
    ("key", "collection", "rkey"),
    [
        pytest.param("app.bsky.feed.post/3k", "app.bsky.feed.post", "3k", id="usual"),
        pytest.param("a.b.c/d/e", "a.b.c", "d/e", id="two slashes"),
        pytest.param("/d", "", "d", id="slash first"),
        pytest.param("a.b.c/", "a.b.c", "", id="slash last"),
        pytest.param("odd", "", "odd", id="no slash"),
    ],
)
def test_collection_and_rkey_are_the_parts_of_a_key(key: str, collection: str, rkey: str) -> None:
    output = Output(key, CID, 1)
    assert (output.collection, output.rkey) == (collection, rkey)
    assert (*output,) == (key, CID, 1)


def test_output_is_a_tuple_of_three_that_knows_its_account() -> None:
    key, cid, value = OUTPUT
    assert (key, cid, value) == OUTPUT == ("a.b.c/1", CID, {"n": 1})
    assert len(OUTPUT) == 3
    match OUTPUT:
        case Output(_, _, found):
            assert found is value
    assert OUTPUT.did == "did:web:example.com"
    assert OUTPUT.uri == "at://did:web:example.com/a.b.c/1"
    assert OUTPUT.strong_ref == {"uri": OUTPUT.uri, "cid": str(CID)}


def test_output_of_an_unknown_account_has_no_uri() -> None:
    output = Output("a.b.c/1", CID, b"")
    assert output.did == ""
    for name in ("uri", "strong_ref"):
        with pytest.raises(ValueError, match=r"the account of 'a\.b\.c/1' is not known"):
            getattr(output, name)


def pickled(output: Output[Any], protocol: int) -> Output[Any]:
    copied: Output[Any] = pickle.loads(pickle.dumps(output, protocol))  # noqa: S301 - made here
    return copied


def test_output_keeps_its_account_when_it_is_copied() -> None:
    copies = [copy.copy(OUTPUT), copy.deepcopy(OUTPUT), OUTPUT._replace()]
    copies += [pickled(OUTPUT, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for each in copies:
        assert type(each) is Output
        assert (each, each.did) == (OUTPUT, OUTPUT.did)


def test_replaced_fields_are_those_of_the_copy_alone() -> None:
    other = OUTPUT._replace(key="a.b.c/2")
    assert (other.uri, other.value) == ("at://did:web:example.com/a.b.c/2", OUTPUT.value)
    assert OUTPUT.uri == "at://did:web:example.com/a.b.c/1"
    wrong: dict[str, Any] = {"kye": "a.b.c/2"}
    with pytest.raises(TypeError, match="kye"):
        OUTPUT._replace(**wrong)


def test_outputs_are_compared_without_their_account() -> None:
    assert Output(*OUTPUT) == OUTPUT
    assert Output(*OUTPUT).did == ""
    assert OUTPUT._replace(key="a.b.c/2") != OUTPUT


def test_output_has_no_public_names_but_what_it_tells() -> None:
    names = {name for name in dir(Output) if not name.startswith("_")} - {*dir(tuple)}
    assert names == {*Output._fields, "did", "uri", "strong_ref", "collection", "rkey"}


def test_output_cannot_be_changed() -> None:
    """What it has beside the tuple belongs to all outputs of its repo."""
    one, other = Taken(["a/1", "a/2"], [CID, CID], [1, 2]).outputs({"did": "did:web:example.com"})
    assert vars(one) is vars(other)
    for name in ("did", "key", "more"):
        with pytest.raises(AttributeError, match="does not change"):
            setattr(one, name, "")
        with pytest.raises(AttributeError, match="does not change"):
            delattr(one, name)
