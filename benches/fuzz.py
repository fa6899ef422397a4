"""Fuzz what reads strangers' bytes, guided by coverage.

    python benches/fuzz.py car  [options of libFuzzer] [corpus directories]
    python benches/fuzz.py node ...
    python benches/fuzz.py walk ...

It needs `atheris` (`pip install --group fuzz`; Linux on x86-64, Python 3.11 to 3.14). A bounded
run, as the tests have it, and a long one that keeps what it finds in a directory of its own:

    python benches/fuzz.py node -runs=20000
    mkdir found && python benches/fuzz.py walk -max_total_time=3600 found

The three targets:

- `car`: `CarDecoder`, whole and in pieces: the same blocks and the same error, and what was
  decoded is, written again, what was fed.
- `node`: both node decoders agree, in the error too, and a node that is taken is, encoded again,
  the block that it was.
- `walk`: a whole load and walk: keys in order, the same in memory and through the disk. CIDs are
  mostly not verified and have recognizable digests, so that a mutated tree still hangs together.

Whatever is not a `RepoStreamError` is a crash; libFuzzer writes the input to `crash-...`, and
`python benches/fuzz.py TARGET crash-...` runs it again. The tests import this file too, and run its
checks on the seeds and on mutants of their own, without `atheris`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    atheris = None

# What is imported here is instrumented: libFuzzer then sees which branches an input takes.
with atheris.instrument_imports(include=["repo_stream"]) if atheris else nullcontext():
    from repo_stream import (
        CarDecoder,
        DiskBuilder,
        DiskStore,
        Driver,
        DriverBuilder,
        Limits,
        RepoStreamError,
    )
    from repo_stream.mst.node import Node, decode_node, decode_node_plainly, looks_like_node

from repo_stream.testing import (
    Entry,
    build_repo,
    car_header,
    cid_of,
    encode,
    key_height,
    node,
    section,
    write_car,
)

Block = tuple[bytes, bytes]

# The first byte of every input chooses among these, and how the rest is cut into pieces.
LIMITS = (
    Limits(),
    Limits(node_entries=3, block_bytes=200),
    Limits(key_bytes=20, mst_depth=1),
    Limits(key_bytes=510, car_bytes=600, blocks=5, header_bytes=80),
)
PIECES = (1 << 30, 1, 7, 64)


# --- CAR ----------------------------------------------------------------------------------------


def check_car(data: bytes) -> None:
    choice, car = data[:1] or b"\0", data[1:]
    limits = LIMITS[choice[0] & 3]
    verify_cids = not choice[0] & 4
    blocks, error, decoder = _decoded(car, len(car) or 1, limits, verify_cids)
    for size in PIECES[1:]:
        others, other_error, _ = _decoded(car, size, limits, verify_cids)
        # Over the limit for the whole file, the offset is where the piece ended that broke it.
        if limits.car_bytes is None:
            assert (others, other_error) == (blocks, error), (size, error, other_error)
    if decoder.header is None:
        assert not blocks
        return
    written = car_header(decoder.header.roots)
    written += b"".join(section(cid, body) for cid, body in blocks)
    assert car[: decoder.offset] == written[: decoder.offset]
    assert decoder.offset == len(written) or error
    assert error or len(car) == len(written)
    for cid, body in blocks:
        assert not verify_cids or cid[:4] != cid_of(b"")[:4] or cid == cid_of(body)


def _decoded(
    car: bytes, size: int, limits: Limits, verify_cids: bool
) -> tuple[list[Block], str, CarDecoder]:
    decoder = CarDecoder(limits=limits, verify_cids=verify_cids)
    blocks: list[Block] = []
    try:
        for at in range(0, len(car), size):
            blocks += decoder.feed(car[at : at + size])
        decoder.finish()
    except RepoStreamError as error:
        return blocks, f"{type(error).__name__}: {error}", decoder
    return blocks, "", decoder


# --- Nodes --------------------------------------------------------------------------------------


def check_node(data: bytes) -> None:
    choice, block = data[:1] or b"\0", data[1:]
    limits = LIMITS[choice[0] & 3]
    fast = _node_or_error(decode_node, block, limits)
    plain = _node_or_error(decode_node_plainly, block, limits)
    assert fast == plain, (fast, plain)
    if isinstance(fast, str):
        return
    assert looks_like_node(block)
    left, keys, values, trees = fast
    before = b""
    entries: list[Entry] = []
    for at, (key, value) in enumerate(zip(keys, values, strict=True)):
        assert before < key
        shared = next(
            (at for at, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), len(before)
        )
        entries.append((shared, key[shared:], value, trees.get(at)))
        before = key
    assert node(left, entries) == block


def _node_or_error(
    decode: Callable[[bytes, bytes, Limits], Node], block: bytes, limits: Limits
) -> Node | str:
    try:
        return decode(block, cid_of(block), limits)
    except RepoStreamError as error:
        return f"{type(error).__name__}: {error}"


# --- Walks --------------------------------------------------------------------------------------


class Walks:
    """Loads and walks, on one event loop and in one store."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._store: DiskStore | None = None

    def check(self, data: bytes) -> None:
        self._loop.run_until_complete(self._check(data))

    def close(self) -> None:
        if self._store is not None:
            self._loop.run_until_complete(self._store.aclose())
        self._loop.close()

    async def _check(self, data: bytes) -> None:
        choice = data[0] if data else 0
        builder = DriverBuilder(
            limits=LIMITS[choice & 3], verify_cids=bool(choice & 4), block_processor=_process
        )
        in_memory = await self._outcome(builder, data[1:])
        # Through the disk takes ten times as long.
        if choice & 24 == 0:
            on_disk = await self._outcome(builder.with_mem_limit_mb(0), data[1:])
            assert on_disk == in_memory, (on_disk, in_memory)

    async def _outcome(
        self, builder: DriverBuilder[Any], car: bytes
    ) -> tuple[list[tuple[str, bytes, Any]], str]:
        got: list[tuple[str, bytes, Any]] = []
        error = ""
        try:
            match await builder.load_car(car):
                case Driver.Memory(_, driver):
                    while part := await driver.next_outputs(5):
                        got += part
                case Driver.Disk(paused):
                    if self._store is None:
                        self._store = await DiskBuilder().open()
                    _, on_disk = await paused.finish_loading(self._store)
                    while part := await on_disk.next_outputs(5):
                        got += part
        except RepoStreamError as raised:
            error = f"{type(raised).__name__}: {raised}"
        keys = [key.encode() for key, _, _ in got]
        assert keys == sorted(set(keys))
        return got, error


def _process(block: bytes) -> bytes:
    if block[-1:] == b"!":
        raise ValueError("refused")
    return block[::-1]


def check_walk(data: bytes) -> None:
    walks = Walks()
    try:
        walks.check(data)
    finally:
        walks.close()


# --- Seeds --------------------------------------------------------------------------------------


def numbered(blocks: dict[bytes, bytes], root: bytes) -> bytes:
    """A CAR whose CIDs have digests that repeat one byte, so that mutants still hang together."""
    names = {cid: cid[:4] + bytes([number]) * 32 for number, cid in enumerate(blocks, start=1)}
    renamed: list[Block] = []
    for cid, data in blocks.items():
        body = data
        for old, new in names.items():
            body = body.replace(old, new)
        renamed.append((names[cid], body))
    return write_car([names[root]], renamed)


def repos() -> list[dict[str, object]]:
    keys = [f"a.b.c/{number:03}" for number in range(60)]
    high = [key for key in keys if key_height(key) > 0]
    return [
        {},
        {keys[0]: {"n": 1}},
        {key: {"n": number % 3} for number, key in enumerate(keys[:5])},
        {key: {"n": number} for number, key in enumerate(keys[:40])},
        {key: {"e": [], "l": None} for key in high[:3]} | {keys[2]: "refused!"},
    ]


def seeds(target: str) -> list[bytes]:
    """Inputs to start from, each with its first byte."""
    found: list[bytes] = []
    for records in repos():
        repo = build_repo(records)
        if target == "node":
            found += [bytes([choice]) + repo.blocks[cid] for choice in (0, 3) for cid in repo.nodes]
        elif target == "car":
            found += [bytes([choice]) + repo.to_car() for choice in range(8)]
            found.append(b"\0" + repo.to_car(extra_roots=[b"\x12\x20" + bytes(32)]))
        else:
            found += [
                bytes([choice]) + numbered(repo.blocks, repo.commit_cid) for choice in (0, 1, 2, 8)
            ]
            found.append(b"\4" + repo.to_car(order="stream"))
    if target == "car":
        odd = [
            (b"\x12\x20" + bytes(32), b"CIDv0"),
            (b"\x01\x55\x00\x02hi", b"hi"),
            (b"\x01\x55\x1e\x20" + bytes(32), b"?"),
            (cid_of(b"raw", 0x55), b"raw"),
        ]
        found += [b"\0" + write_car([cid_of(b"")], odd), b"\0" + encode({"version": 2})]
    return found


def mutants(target: str, count: int, seed: int) -> Iterable[bytes]:
    """Inputs for runs without guidance: seeds with a few bytes changed."""
    chance = random.Random(seed)
    start = seeds(target)
    for _ in range(count):
        data = bytearray(chance.choice(start))
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    data[at:at] = chance.choice((b"\0", b"\x18", b"\xff", b"\x80", b"a"))
                case 2:
                    del data[at : at + chance.choice((1, 1, 2, 36))]
                case 3:
                    other = chance.choice(start)
                    cut = chance.randrange(len(other))
                    data[at : at + chance.choice((0, 8, 36))] = other[cut : cut + 36]
                case _:
                    data[at:at] = data[at : at + chance.choice((1, 9, 41, 95))]
        yield bytes(data)


# --- Running ------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[bytes], None]] = {
    "car": check_car,
    "node": check_node,
    "walk": check_walk,
}


def mutate_a_block(data: bytes, max_size: int, seed: int) -> bytes:
    """Change one block of a CAR and write the lengths anew, or else change any bytes."""
    chance = random.Random(seed)
    decoder = CarDecoder(verify_cids=False)
    try:
        blocks = decoder.feed(data[1:])
    except RepoStreamError:
        blocks = []
    if not blocks or decoder.header is None or chance.random() < 0.2:
        return bytes(atheris.Mutate(data, max_size))
    at = chance.randrange(len(blocks))
    cid, body = blocks[at]
    blocks[at] = (cid, bytes(atheris.Mutate(body, max(1, len(body) + 100))))
    return (data[:1] + write_car(decoder.header.roots, blocks))[:max_size]


def main(arguments: list[str]) -> None:
    target = arguments[1] if len(arguments) > 1 else ""
    if target not in CHECKS:
        sys.exit(f"usage: {arguments[0]} {'|'.join(CHECKS)} [options of libFuzzer] [directories]")
    if atheris is None:
        sys.exit('needs atheris, which is not installed: pip install "atheris>=3"')
    check = CHECKS[target]
    if target == "walk":
        check = Walks().check
    options = arguments[2:]
    with tempfile.TemporaryDirectory() as made:
        given = [option for option in options if not option.startswith("-")]
        if not any(Path(name).is_file() for name in given):
            for number, seed in enumerate(seeds(target)):
                (Path(made) / f"seed-{number}").write_bytes(seed)
            found = Path(made) / "found"
            found.mkdir()
            options += [] if given else [str(found)]
            options.append(made)
        custom = {"custom_mutator": mutate_a_block} if target == "walk" else {}
        atheris.Setup([arguments[0], *options], check, **custom)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
