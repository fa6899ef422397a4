"""Repos of invented records and of any size, made while they are read.

- `made_car` streams a CAR of any number of records, in little memory.
- `made_records` yields the records that a reader must find in it.

No record is kept: it is computed from a seed and its number whenever its bytes are needed. Only the
nodes of the tree and the order of the blocks are kept. The tree is built from the same functions as
in `repos`, and is tested against the plain one there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import random
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import get_args

import anyio
import anyio.lowlevel

from repo_stream.testing.repos import (
    BASE32,
    DID,
    TID_ALPHABET,
    Entry,
    Link,
    Order,
    car_header,
    cbor_head,
    cid_of,
    cid_text,
    commit,
    common_prefix,
    encode,
    key_height,
    node,
    section,
    tid,
)

__all__ = ["COLLECTIONS", "made_car", "made_records", "main"]


# --- Made records ----------------------------------------------------------------------------
#
# A record is a function of the seed and its number in time. What differs between records is cut
# from a hash of the number (the noise), and put into forms that `encode` has made once.

COLLECTIONS: Mapping[str, float] = {
    "app.bsky.feed.like": 60,
    "app.bsky.feed.post": 27,
    "app.bsky.graph.follow": 13,
}
"""The default collections of made records, each with its share."""

_PROFILE_KEY = "app.bsky.actor.profile/self"
_START = datetime(2023, 4, 1, tzinfo=UTC)
_START_US = int(_START.timestamp()) * 1_000_000
_STEP_US = 60_000_000
_ABOUT_POSTS = ("app.bsky.feed.like", "app.bsky.feed.repost")
_SLOTS = 1000
_PAUSE = 256
_SORTABLE = TID_ALPHABET.encode() * 8
_DIGEST_FIRST = b"abcdefgh" * 32
_DIGEST_LAST = b"aeimquy4" * 32

# Blanks in forms: as long as what replaces them, and of bytes that nothing else has.
_CID_BLANK = "\1" * 59
_DID_BLANK = "did:plc:" + "\2" * 24
_TID_BLANK = "\3" * 13
_TIME_BLANK = "\4" * 24
_DIGEST_BLANK = "\5" * 32
_POST_BLANKS = (_CID_BLANK, _DID_BLANK, _TID_BLANK)
_POST_BLANK = {"cid": _CID_BLANK, "uri": f"at://{_DID_BLANK}/app.bsky.feed.post/{_TID_BLANK}"}
_BLOB_BLANK = {
    "$type": "blob",
    "ref": Link(b"\x01\x55\x12\x20" + _DIGEST_BLANK.encode()),
    "mimeType": "image/jpeg",
    "size": 333_000,
}


def _form(value: object, *blanks: str) -> bytes:
    """Encode a value that has blanks as a format for `%`, with a `%b` for each blank in turn."""
    form = encode(value).replace(b"%", b"%%")
    for blank in blanks:
        form = form.replace(blank.encode(), b"%b", 1)
    return form


def _item(name: str, value: object) -> bytes:
    return encode(name) + encode(value)


_TIME_FIELD = encode("createdAt") + _form(_TIME_BLANK, _TIME_BLANK)
_TYPE_FIELD = _item("$type", "app.bsky.feed.post")
_LANGS_FIELDS = [
    _item("langs", langs)
    for langs in (["en"], ["en"], ["en"], ["en"], ["pt"], ["ja"], ["de", "en"], ["en-GB"])
]
_REPLY_FIELD = encode("reply") + _form(
    {"parent": _POST_BLANK, "root": _POST_BLANK}, *_POST_BLANKS, *_POST_BLANKS
)
_EMBED_FIELD = encode("embed") + _form(
    {
        "$type": "app.bsky.embed.images",
        "images": [
            {"alt": "", "image": _BLOB_BLANK, "aspectRatio": {"width": 1500, "height": 2000}}
        ],
    },
    _DIGEST_BLANK,
)
_PROFILE_FORM = _form(
    {
        "$type": "app.bsky.actor.profile",
        "avatar": _BLOB_BLANK,
        "createdAt": _TIME_BLANK,
        "description": "Nobody wrote any of this.",
        "displayName": "Made Up",
    },
    _DIGEST_BLANK,
    _TIME_BLANK,
)

_WORDS = (
    "a about after again all and are as at back be because been before but by came can cloud come "
    "could day did do down each even every find first for from garden get give go good great had "
    "has have he her here him his home how i if in into is it just know last like little long look "
    "made make many may me more morning most much must my never new no not now of off old on one "
    "only or other our out over people place rain read right river said same say see she should "
    "small so some still such take tea than that the their them then there these they thing think "
    "this those thought time to today too tree two under up us very walk was way we well went were "
    "what when where which while who why will with work would write year you your "
    "café naïve schön über ação você où ça 日本 東京 空 привет мир ✨ 🌱 🐦 😂 ❤️"
)


@functools.cache
def _corpus() -> str:
    """Return the text that posts are cut from: they start in its first 65,536 characters."""
    words = _WORDS.split()
    noise = hashlib.shake_128(b"corpus").digest(1 << 15)
    return " ".join(
        words[int.from_bytes(noise[at : at + 2], "big") % len(words)]
        for at in range(0, len(noise), 2)
    )


class _Made:
    """The made records of one seed, by their number in time, and in key order.

    Number 0 is the profile. The collection of any other number is that of one of a thousand slots,
    which are dealt to the collections by their shares.
    """

    def __init__(self, count: int, seed: int, collections: Mapping[str, float]) -> None:
        if count < 0:
            raise ValueError(f"the number of records must not be negative, not {count}")
        self.count = count
        self._seed = seed
        self._clock = seed & 1023
        self._slots = _deal(collections, seed)
        self._forms = {name: _subject_form(name) for name in collections}

    def in_key_order(self) -> Iterator[int]:
        """Yield the numbers of all records, sorted by their keys."""
        members: dict[str, list[int]] = {name + "/": [] for name in self._forms}
        for slot, name in enumerate(self._slots):
            members[name + "/"].append(slot)
        for prefix in sorted([*members, _PROFILE_KEY]):
            if prefix != _PROFILE_KEY:
                for base in range(0, self.count, _SLOTS):
                    for slot in members[prefix]:
                        if 0 < base + slot < self.count:
                            yield base + slot
            elif self.count:
                yield 0

    def key(self, number: int) -> str:
        """Return the key of a record."""
        if number == 0:
            return _PROFILE_KEY
        return f"{self._slots[number % _SLOTS]}/{self.tid(number)}"

    def tid(self, number: int) -> str:
        """Return the TID of a record, by the time at which it was made."""
        return tid((_START_US + self._moment(number)) << 10 | self._clock)

    def record(self, number: int) -> bytes:
        """Return the block of a record."""
        noise = hashlib.shake_128(b"%d/%d" % (self._seed, number)).digest(192)
        time = (_START + timedelta(microseconds=self._moment(number))).isoformat(
            timespec="milliseconds"
        )
        when = time[:23].encode() + b"Z"
        if number == 0:
            return _PROFILE_FORM % (noise[:32], when)
        name = self._slots[number % _SLOTS]
        if name == "app.bsky.feed.post":
            return _post(noise, when)
        if name in _ABOUT_POSTS:
            return self._forms[name] % (*_reference(noise), when)
        return self._forms[name] % (_did(noise), when)

    def _moment(self, number: int) -> int:
        """Return the time of a number, in microseconds: irregular, but always increasing."""
        return number * _STEP_US + (number * 0x9E3779B1 + self._seed) % _STEP_US


def _deal(collections: Mapping[str, float], seed: int) -> list[str]:
    """Deal a thousand slots to the collections by their shares, and shuffle them."""
    total = sum(collections.values())
    if not total > 0 or min(collections.values()) < 0:
        raise ValueError("the shares of the collections must be positive")
    slots: list[str] = []
    dealt = 0.0
    for name, share in collections.items():
        dealt += share
        slots += [name] * (round(dealt / total * _SLOTS) - len(slots))
    mixed = sorted(range(_SLOTS), key=lambda slot: hashlib.sha256(b"%d/%d" % (seed, slot)).digest())
    return [slots[slot] for slot in mixed]


def _subject_form(name: str) -> bytes:
    """Return the form of a record whose subject is a post, or else an account."""
    if name in _ABOUT_POSTS:
        record = {"$type": name, "subject": _POST_BLANK, "createdAt": _TIME_BLANK}
        return _form(record, *_POST_BLANKS, _TIME_BLANK)
    record = {"$type": name, "subject": _DID_BLANK, "createdAt": _TIME_BLANK}
    return _form(record, _DID_BLANK, _TIME_BLANK)


def _did(noise: bytes) -> bytes:
    """Return a DID, from 24 bytes of noise."""
    return b"did:plc:" + noise[:24].translate(BASE32)


def _reference(noise: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the CID, DID and rkey of a post, from 87 bytes of noise."""
    return (
        b"bafyrei"
        + noise[24:25].translate(_DIGEST_FIRST)
        + noise[25:75].translate(BASE32)
        + noise[75:76].translate(_DIGEST_LAST),
        _did(noise),
        b"3l" + noise[76:87].translate(_SORTABLE),
    )


def _post(noise: bytes, when: bytes) -> bytes:
    """Return the block of a post, from 192 bytes of noise.

    The text has about 100 characters and at most 300. One post in ten has a link, three in five are
    replies, and one in four has an image.
    """
    *dice, high, low = noise[-8:]
    corpus = _corpus()
    start = corpus.find(" ", high << 8 | low) + 1
    text = corpus[start : start + min(270, 8 + dice[0] * dice[1] // 144)].rpartition(" ")[0]
    facets = None
    if dice[2] < 26:
        text, facets = _with_link(text, noise[:11].translate(_SORTABLE).decode())

    fields = [_item("text", text), _TYPE_FIELD]
    if dice[3] < 64:
        fields.append(_EMBED_FIELD % noise[:32])
    fields.append(_LANGS_FIELDS[dice[4] & 7])
    if dice[5] < 154:
        root = _reference(noise)
        parent = root if dice[5] < 77 else _reference(noise[87:174])
        fields.append(_REPLY_FIELD % (*parent, *root))
    if facets:
        fields.append(_item("facets", facets))
    fields.append(_TIME_FIELD % when)
    return cbor_head(5, len(fields)) + b"".join(fields)


def _with_link(text: str, slug: str) -> tuple[str, list[object]]:
    """Add a link to a text; return the text, and the facets that mark the link."""
    uri = f"https://example.com/{slug}"
    start = len(text.encode()) + 1
    feature = {"$type": "app.bsky.richtext.facet#link", "uri": uri}
    index = {"byteStart": start, "byteEnd": start + len(uri)}
    return f"{text} {uri}", [{"index": index, "features": [feature]}]


def made_records(
    count: int, *, seed: int = 0, collections: Mapping[str, float] = COLLECTIONS
) -> Iterator[tuple[str, bytes]]:
    """Make invented records that look like those of an active account, in key order.

    One is a profile. The others have TIDs as rkeys, and are like posts, likes, reposts, follows and
    blocks of `app.bsky`, by their collection. Those in any other collection are about an account,
    like follows. All records differ. They are made one at a time and not kept.

    Args:
        count: how many records, including the profile.
        seed: the seed; the records depend on `count` and `collections`, too.
        collections: the share of each collection, rounded to a thousandth of the repo.

    Yields:
        The key (`collection/rkey`) and the block of each record.

    Raises:
        ValueError: if `count` is negative, or if the shares are not positive numbers.
    """
    made = _Made(count, seed, collections)
    for number in made.in_key_order():
        yield made.key(number), made.record(number)


# --- Made repos ------------------------------------------------------------------------------


@dataclass(slots=True)
class _OpenNode:
    """A node to which entries are still being added."""

    left: bytes | None = None
    entries: list[Entry] = field(default_factory=list[Entry])
    key: bytes = b""
    group: int = -1


class _Forest:
    """The tree of keys that come in order, as the bytes of its finished nodes.

    One node of each layer is open. A key closes the open nodes of the layers below its own, as no
    key can be added to them any more. Each node has a group, chosen from the groups of its keys:
    the blocks of a group are written together.
    """

    def __init__(self, groups: int, choose: Callable[[int, int], int]) -> None:
        self._choose = choose
        self._open = [_OpenNode()]
        self._data = bytearray()
        self._ends = array("Q", [0])
        # The nodes of a group form a linked list, the latest first. Nodes count from 1; 0 ends it.
        self._latest = array("I", [0]) * groups
        self._next = array("I", [0])

    def __len__(self) -> int:
        """Return how many nodes are finished."""
        return len(self._next) - 1

    def add(self, key: bytes, cid: bytes, group: int) -> None:
        """Add the next key."""
        height = key_height(key)
        while len(self._open) <= height:
            self._open.append(_OpenNode())
        for layer in range(height):
            self._close(layer)
        parent = self._open[height]
        prefix = common_prefix(parent.key, key)
        parent.entries.append((prefix, key[prefix:], cid, None))
        parent.key = key
        self._join(parent, group)

    def finish(self) -> bytes:
        """Finish the tree, and return the block of its root, which is in no group."""
        for layer in range(len(self._open) - 1):
            self._close(layer)
        root = self._open[-1]
        return node(root.left, root.entries)

    def block(self, number: int) -> bytes:
        """Return the block of a finished node, by its number from 1."""
        return bytes(self._data[self._ends[number - 1] : self._ends[number]])

    def group(self, group: int) -> Iterator[bytes]:
        """Yield the blocks of a group, the latest finished first: a node before those below it."""
        number = self._latest[group]
        while number:
            yield self.block(number)
            number = self._next[number]

    def _close(self, layer: int) -> None:
        closed = self._open[layer]
        if not closed.entries and closed.left is None:
            return
        data = node(closed.left, closed.entries)
        self._data += data
        self._ends.append(len(self._data))
        self._next.append(self._latest[closed.group])
        self._latest[closed.group] = len(self._next) - 1

        parent = self._open[layer + 1]
        if parent.entries:
            parent.entries[-1] = (*parent.entries[-1][:3], cid_of(data))
        else:
            parent.left = cid_of(data)
        self._join(parent, closed.group)
        self._open[layer] = _OpenNode()

    def _join(self, parent: _OpenNode, group: int) -> None:
        parent.group = group if parent.group < 0 else self._choose(parent.group, group)


async def made_car(
    count: int,
    *,
    did: str = DID,
    rev: str | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    order: Order = "shuffled",
    seed: int = 0,
    collections: Mapping[str, float] = COLLECTIONS,
    piece_size: int = 1 << 16,
) -> AsyncGenerator[bytes, None]:
    """Stream a CAR of `made_records`, of which there may be millions.

    It takes about 100 bytes of memory for each record, and lets other tasks run regularly. The
    first piece comes after all records have been made once. Close it if you stop early
    (`contextlib.aclosing`), as any async generator.

    Args:
        count: how many records, including the profile.
        did: the account.
        rev: the revision; by default the TID of the time after the last record.
        sign: returns the signature, 64 bytes, for the bytes of the commit without its signature.
            By default the signature is 64 zero bytes.
        order: the order of the blocks; see `Order`.
        seed: the seed of the records, and of the order if it is `"shuffled"`. The records are the
            same in any order.
        collections: the share of each collection, rounded to a thousandth of the repo.
        piece_size: the size of each piece, in bytes; the last one may be smaller.

    Yields:
        The pieces of the file.

    Raises:
        ValueError: if there is no such order, `count` is negative, `piece_size` is not positive,
            or the shares are not positive numbers.
    """
    if order not in get_args(Order):
        raise ValueError(f"no such order: {order!r}")
    if piece_size < 1:
        raise ValueError(f"piece_size must be at least 1, not {piece_size}")
    made = _Made(count, seed, collections)
    forest = _Forest(count, max if order == "export" else min)
    for index, number in enumerate(made.in_key_order()):
        group = number if order == "export" else index
        forest.add(made.key(number).encode(), cid_of(made.record(number)), group)
        if index % _PAUSE == 0:
            await anyio.lowlevel.checkpoint()

    root = forest.finish()
    head = commit(cid_of(root), did=did, rev=rev or made.tid(count), sign=sign)
    if order == "shuffled":
        blocks = _shuffled([head, root], made, forest, seed)
    elif order == "stream":
        blocks = _streamed([head, root], made, forest)
    else:
        blocks = _exported([head, root], made, forest)

    pieces = bytearray(car_header([cid_of(head)]))
    for index, data in enumerate(blocks):
        pieces += section(cid_of(data), data)
        while len(pieces) >= piece_size:
            yield bytes(pieces[:piece_size])
            del pieces[:piece_size]
        if index % _PAUSE == 0:
            await anyio.lowlevel.checkpoint()
    if pieces:
        yield bytes(pieces)


def _shuffled(top: list[bytes], made: _Made, forest: _Forest, seed: int) -> Iterator[bytes]:
    nodes = made.count + len(forest)
    shuffled = array("I", range(nodes + len(top)))
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - no secret
    for index in shuffled:
        if index < made.count:
            yield made.record(index)
        elif index < nodes:
            yield forest.block(index - made.count + 1)
        else:
            yield top[index - nodes]


def _streamed(top: list[bytes], made: _Made, forest: _Forest) -> Iterator[bytes]:
    """The group of a node is the index of its first record: it is written just before that."""
    yield from top
    for index, number in enumerate(made.in_key_order()):
        yield from forest.group(index)
        yield made.record(number)


def _exported(top: list[bytes], made: _Made, forest: _Forest) -> Iterator[bytes]:
    """The group of a node is the number of its newest record: they are written together."""
    batch = top
    for number in reversed(range(made.count)):
        batch = [*batch, *forest.group(number), made.record(number)]
        yield from sorted(batch, key=_cid_text, reverse=True)
        batch = []
    yield from sorted(batch, key=_cid_text, reverse=True)  # the top, if there are no records


def _cid_text(data: bytes) -> bytes:
    return cid_text(cid_of(data))


# --- Command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m repo_stream.testing`, which writes a CAR of made records to a file.

    Args:
        arguments: the arguments; `None` for those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m repo_stream.testing", description="Write a CAR file of invented records."
    )
    parser.add_argument("out", metavar="OUT.car", help="the file to write")
    parser.add_argument(
        "--records", type=int, default=1000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument(
        "--order",
        choices=get_args(Order),
        default="shuffled",
        help="the order of the blocks: at random, as a walk needs them, or as the reference server "
        "exports them (default: shuffled)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the records and of a random order (default: 0)"
    )
    parser.add_argument("--did", default=DID, help="the account (default: %(default)s)")
    options = parser.parse_args(arguments)
    pieces = made_car(options.records, did=options.did, order=options.order, seed=options.seed)
    try:
        anyio.run(_write, options.out, pieces)
    except (ValueError, OSError) as error:
        parser.error(str(error))


async def _write(path: str, pieces: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(pieces):
        first = await anext(pieces)  # it comes only if the arguments are right
        async with await anyio.open_file(path, "wb") as file:
            await file.write(first)
            async for piece in pieces:
                await file.write(piece)
