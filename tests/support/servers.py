"""A server that keeps one repo: what it sends, also while the account writes, and since a rev."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from repo_stream.testing import BuiltRepo, RawRecord, build_repo, tid, write_car
from repo_stream.testing.repos import cid_text

Records = Mapping[str, object]

#: The account of a server's repo.
DID = "did:plc:testrepotestrepotestrepo"


def rev_of(number: int) -> str:
    """The rev of the commit with a number, from 0 on."""
    return tid((number + 1) << 40)


class Server:
    """Keeps the blocks of the newest repo, each with the rev of the commit that brought it.

    Blocks that a commit no longer needs are deleted at once. So much is how the reference server
    does it, and how it sends a repo: newest rev first, page by page.

    Attributes:
        repos: the repo after each commit.
    """

    def __init__(self, *states: Records, did: str = DID) -> None:
        self.repos: list[BuiltRepo] = []
        # After each commit, the rev of each block that there is.
        self._revs: list[dict[bytes, str]] = []
        self._did = did
        for state in states:
            self.write(state)

    def write(self, records: Records) -> None:
        """Commit these records, and delete all others."""
        rev = rev_of(len(self.repos))
        before = self._revs[-1] if self._revs else {}
        repo = build_repo(records, did=self._did, rev=rev)
        self.repos.append(repo)
        self._revs.append({cid: before.get(cid, rev) for cid in repo.blocks})

    @property
    def newest(self) -> BuiltRepo:
        return self.repos[-1]

    def cids(self, at: int = -1, *, since: int | None = None) -> list[bytes]:
        """What is sent after a commit, in order; with `since`, only what came after another one."""
        revs = self._revs[at]
        known = "" if since is None else rev_of(since)
        some = [cid for cid, rev in revs.items() if rev > known]
        return sorted(some, key=lambda cid: (revs[cid], cid_text(cid)), reverse=True)

    def torn(self, at: int, cuts: Sequence[int], *, since: int | None = None) -> list[bytes]:
        """What is sent if commits come meanwhile: one after so many blocks have been sent each.

        What a commit deletes is not sent any more, and what it brings is not sent at all, as it
        sorts before what has been sent.
        """
        cids = self.cids(at, since=since)
        for later, cut in enumerate(cuts, at + 1):
            left = self._revs[later]
            cids = cids[:cut] + [cid for cid in cids[cut:] if cid in left]
        return cids

    def car(self, cids: Sequence[bytes], at: int = -1) -> bytes:
        """A CAR with the commit at `at` as its root, and of blocks that there have ever been."""
        known = {cid: data for repo in self.repos for cid, data in repo.blocks.items()}
        return write_car([self.repos[at].commit_cid], [(cid, known[cid]) for cid in cids])

    def get_repo(self, at: int = -1, *, since: int | None = None) -> bytes:
        """What `com.atproto.sync.getRepo` sends after a commit."""
        return self.car(self.cids(at, since=since), at)


def changed(records: Records, dice: random.Random, at: int = 0) -> dict[str, object]:
    """Records after a commit that adds, deletes, updates, moves and shares a few of them.

    Some are, block by block, the same as a node of the tree or as another record.
    """
    after = dict(records)
    for n in range(dice.randrange(1, 7)):
        keys = sorted(after)
        some = dice.choice(keys) if keys else "com.example.a/0"
        fresh = f"com.example.{dice.choice('abc')}/{tid(dice.randrange(1 << 40) << 10)}"
        match dice.choice(["add", "add", "delete", "update", "move", "share", "node"]):
            case "add":
                after[fresh] = {"at": at, "n": n}
            case "delete":
                after.pop(some, None)
            case "update":
                after[some] = {"at": at, "updated": n}
            case "move":
                after[fresh] = after.pop(some, {"at": at, "n": n})
            case "share":
                after[fresh] = after.get(some, {"at": at, "n": n})
            case _:
                now = build_repo(records)
                after[fresh] = RawRecord(now.blocks[dice.choice(now.nodes)])
    return after


def random_server(seed: int, commits: int, *, records: int = 20) -> Server:
    """A server after so many commits, the first of which has so many records."""
    dice = random.Random(seed)
    state: dict[str, object] = {
        f"com.example.{n % 3}/{tid((n * n + 1) << 30)}": {"n": n} for n in range(records)
    }
    server = Server(state)
    for at in range(1, commits):
        state = changed(state, dice, at)
        server.write(state)
    return server
