"""What a record comes as: `Output`, and the two parts of its key."""

from __future__ import annotations

import pytest

from repo_stream import Cid, Output
from repo_stream.testing import cid_of


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
    output = Output(key, Cid(cid_of(b"a record")), 1)
    assert (output.collection, output.rkey) == (collection, rkey)
    assert (*output,) == (key, Cid(cid_of(b"a record")), 1)
