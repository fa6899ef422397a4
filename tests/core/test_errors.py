"""The tree of errors: every leaf says what happened, keeps its facts, and survives a pickle."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path

import pytest

import repo_stream
from repo_stream import (
    AddressRefused,
    AlreadyWalked,
    AmbiguousHandle,
    BadCarHeader,
    BadCommit,
    BadCompression,
    BadDocument,
    BadName,
    BadNodeLink,
    BadRoot,
    BadSectionCid,
    BadSignature,
    BadVarint,
    BareRoot,
    BlockReleased,
    CarChanged,
    CarError,
    CarTrailingData,
    ChildBelowLeaf,
    Cid,
    CidMismatch,
    CommitError,
    ConflictingCommits,
    DidNotFound,
    DidTombstoned,
    DiskError,
    DiskFull,
    DiskIOError,
    DownloadBroken,
    EmptyNode,
    EmptySection,
    ForeignFile,
    HandleNotClaimed,
    HandleNotFound,
    IncompleteJoin,
    IncompleteRange,
    InvalidCid,
    InvalidDagCbor,
    InvalidKey,
    KeyOutOfOrder,
    KeyOutOfRange,
    LimitExceeded,
    MalformedNode,
    MaxSizeExceeded,
    MemLimitExceeded,
    MissingBlock,
    MissingCommit,
    MissingExtra,
    MissingRoot,
    NestedTooDeep,
    NetworkError,
    NodeError,
    NodePrefixNotMinimal,
    NodePrefixTooLong,
    NoServer,
    NoSigningKey,
    NotACar,
    NothingNew,
    OtherAccount,
    OtherAccountServed,
    ProcessError,
    RateLimited,
    RecordNotFound,
    RepoDeactivated,
    RepoNotFound,
    RepoRefused,
    RepoStreamError,
    RepoSuspended,
    RepoTakendown,
    ServerFailed,
    ServerUnreachable,
    StoreClosed,
    StoreCorrupt,
    StoreGone,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
    TooManyRedirects,
    TooSlow,
    TornExport,
    TruncatedCar,
    UncheckableBlock,
    UnsupportedCarVersion,
    UnsupportedKey,
    WrongDepth,
    errors,
)
from repo_stream._face import public_names
from repo_stream.network import errors as network_errors

CID = Cid.of(b"a block")
PATH = Path("some/path.db")
URL = "https://pds.example.com"
DID = "did:plc:testrepotestrepotestrepo"
HANDLE = "alice.example.com"
DID_KEY = "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc"

# One of each leaf, or more where its facts take several shapes; and what its message must name.
EXAMPLES: list[tuple[RepoStreamError, list[object]]] = [
    (InvalidCid("no CID"), ["no CID"]),
    (InvalidDagCbor("no DAG-CBOR"), ["no DAG-CBOR"]),
    (NestedTooDeep(maximum=128), ["nested deeper than 128"]),
    (TruncatedCar(offset=96, have=7, need=240), ["a section", 96, 7, 240]),
    (TruncatedCar(offset=96, have=1, need=None), [96, "length of a section"]),
    (TruncatedCar(offset=0, have=1, need=None), ["length of its header"]),
    (TruncatedCar(offset=0, have=0, need=None), ["is empty"]),
    (UnsupportedCarVersion(version=2), ["CARv2", "CARv1"]),
    (BadCarHeader("it is not a map"), ["it is not a map"]),
    (
        NotACar(start=b"<html>", looks_like="an HTML page", advice="fetch it again"),
        ["is not a CAR file", "an HTML page", "fetch it again"],
    ),
    (MissingRoot(), ["root", "commit", "the CAR of a repo?"]),
    (BadRoot(cid=CID), [CID, "the CAR of a repo?"]),
    (BadVarint("a length prefix is not minimal", offset=96), [96, "not minimal"]),
    (EmptySection(offset=96), [96, "zero"]),
    (BadSectionCid("a section does not start with a CID", offset=96), [96, "CID"]),
    (CarTrailingData("bytes come after the end", offset=96), [96, "after the end"]),
    (
        BadCompression(compression="gzip", reason="it ends too soon", offset=96),
        ["gzip data", "it ends too soon", 96],
    ),
    (CidMismatch(cid=CID, offset=96), [CID, 96]),
    (MissingCommit(cid=CID), [CID, "incomplete"]),
    (NothingNew(cid=CID), [CID, "nothing has changed", "since", "fetch it again"]),
    (BadCommit(cid=CID, field="rev", reason="is no TID"), [CID, "'rev'", "is no TID"]),
    (BadCommit(cid=CID, field=None, reason="is not a map"), [CID, "it is not a map"]),
    (OtherAccount(did="did:plc:other", expected="did:web:a.b"), ["did:plc:other", "did:web:a.b"]),
    (
        ConflictingCommits(cid=CID, other=Cid.of(b"other"), rev="3jzfcijpj2z2a"),
        [CID, Cid.of(b"other"), "3jzfcijpj2z2a", "fetch the whole repo again"],
    ),
    (
        OtherAccountServed(did="did:plc:other", expected=DID, server=URL),
        ["did:plc:other", DID, URL, "do not use it"],
    ),
    (BadSignature(cid=CID, did_key=DID_KEY, reason="high S"), [CID, DID_KEY, "high S"]),
    (UnsupportedKey(did_key="did:key:z1", reason="too short"), ["did:key:z1", "too short"]),
    (MalformedNode(cid=CID, reason="no e", offset=5), [CID, "no e", 5]),
    (BadNodeLink(cid=CID, offset=5), [CID, 5]),
    (NodePrefixTooLong(cid=CID, prefix_len=9, previous=b"a/b"), [CID, 9, b"a/b", 3]),
    (
        NodePrefixNotMinimal(cid=CID, key=b"a/bc", prefix_len=2, expected=3),
        [CID, b"a/bc", 2, 3],
    ),
    (KeyOutOfOrder(cid=CID, key=b"a/b", previous=b"a/c"), [CID, b"a/b", b"a/c"]),
    (KeyOutOfRange(cid=CID, key=b"a/x", lower=b"a/b", upper=None), [CID, b"a/x", b"a/b"]),
    (KeyOutOfRange(cid=CID, key=b"a/x", lower=None, upper=b"a/c"), [CID, b"a/x", b"a/c"]),
    (InvalidKey(cid=CID, key=b"\xff", reason="is not UTF-8"), [CID, b"\xff", "is not UTF-8"]),
    (WrongDepth(cid=CID, key=b"a/b", depth=3, expected=8), [CID, b"a/b", 3, 8]),
    (ChildBelowLeaf(cid=CID), [CID, "depth 0"]),
    (EmptyNode(cid=CID, depth=7), [CID, 7]),
    (BareRoot(cid=CID), [CID, "root"]),
    (
        LimitExceeded(limit="block_bytes", maximum=10, actual=12, where="the section"),
        ["block_bytes=10", 12, "the section", "limits=Limits(block_bytes=...)"],
    ),
    (AlreadyWalked(can_seek=True), ["to its end", 'call `repo.seek("")`', "open it again"]),
    (AlreadyWalked(can_seek=False), ["read", "to its end", "open it again"]),
    (MissingBlock(cid=CID, kind="record", key="a/b"), [CID, "record", "'a/b'", "incomplete"]),
    (MissingBlock(cid=CID, kind="node", key=None), [CID, "node", "incomplete"]),
    (
        IncompleteRange(cid=CID, start="a/b", stop="a/b\0", after="a/a", before=None),
        [CID, "does not prove whether", "'a/b'", "whole repo"],
    ),
    (
        IncompleteRange(cid=CID, start="a/b", stop="a/c", after=None, before="a/d"),
        [CID, "'a/b'", "'a/c'", "whole repo"],
    ),
    (
        IncompleteRange(cid=CID, start="a/b", stop=None, after=None, before=None),
        [CID, "'a/b' on", "whole repo"],
    ),
    (
        IncompleteJoin(cid=CID, kind="record", key="a/b", since="3jzfcijpj2z2a"),
        [CID, "'a/b'", "since 3jzfcijpj2z2a", "whole repo"],
    ),
    (
        IncompleteJoin(cid=CID, kind="node", key=None, since=None),
        [CID, "an MST node", "fetch the whole repo"],
    ),
    (
        UncheckableBlock(cid=Cid(b"\x01\x71\x1e\x20" + bytes(32)), key="a/b"),
        ["'a/b'", "0x1e", "verify_cids=False"],
    ),
    (CarChanged(cid=CID, offset=5), [CID, 5, "was changed", "do not write to it"]),
    (CarChanged(cid=None, offset=5), ["what was read there", 5, "was changed"]),
    (BlockReleased(cid=CID, key="a/b"), [CID, "'a/b'", "was dropped", "mem_limit_mb", "spill"]),
    (BlockReleased(cid=CID, key=None), [CID, "MST node", "spill"]),
    (MemLimitExceeded(mem_limit_mb=16, early=4321), ["4321", "16 MiB", "spill"]),
    (ProcessError("KeyError: 'text'", key="a/b", cid=CID), [CID, "'a/b'", "KeyError: 'text'"]),
    (ProcessError("no CBOR", key=None, cid=CID), [CID, "no CBOR"]),
    (MaxSizeExceeded(path=PATH, max_stored_mb=5), [PATH, 5, "with_max_stored_mb"]),
    (MaxSizeExceeded(path=None, max_stored_mb=5), ["temporary", 5]),
    (ForeignFile("what happened", path=PATH), ["what happened", PATH]),
    (StoreLocked("what happened", path=PATH), ["what happened", PATH]),
    (StoreReadOnly("what happened", path=PATH), ["what happened", PATH]),
    (StoreUnavailable("what happened", path=PATH), ["what happened", PATH]),
    (StoreCorrupt("what happened", path=PATH), ["what happened", PATH]),
    (StoreCorrupt("what happened", path=None), ["what happened", "temporary"]),
    (StoreGone("what happened", path=PATH), ["what happened", PATH]),
    (DiskFull("what happened", path=PATH), ["what happened", PATH]),
    (DiskIOError("what happened", path=PATH), ["what happened", PATH]),
    (StoreClosed("what happened", path=PATH), ["what happened", PATH]),
    (
        BadName(name="alice", reason="it has no period"),
        ["'alice'", "it has no period", "alice.example.com", "did:plc", "at://"],
    ),
    (BadName(name="a\nb" * 100, reason="it has a line end"), ["'a ba b", "...'"]),
    (
        HandleNotFound(handle=HANDLE, reason="no TXT record"),
        [HANDLE, "leads to no account", "no TXT record", "its spelling", "the DID"],
    ),
    (
        HandleNotFound(handle=HANDLE, reason="no answer", temporary=True),
        [HANDLE, "could not be looked up", "no answer", "the connection", "the DID"],
    ),
    (
        AmbiguousHandle(handle=HANDLE, dids=["did:plc:a", "did:plc:b"]),
        [HANDLE, "2 accounts", "did:plc:a, did:plc:b", f"_atproto.{HANDLE}", "use the DID"],
    ),
    (
        HandleNotClaimed(handle=HANDLE, did=DID, claimed="bob.example.com"),
        [HANDLE, DID, "has the handle bob.example.com", "use its DID"],
    ),
    (HandleNotClaimed(handle=HANDLE, did=DID, claimed=None), [HANDLE, DID, "has no handle"]),
    (DidNotFound(did=DID), [DID, "check its spelling"]),
    (DidTombstoned(did=DID), [DID, "deleted for good"]),
    (BadDocument(url=URL, reason="it is not JSON"), [URL, "it is not JSON"]),
    (BadDocument(url=None, reason="it is not JSON"), ["the document cannot", "it is not JSON"]),
    (NoServer(did=DID, reason="no service"), [DID, "no service", "its owner"]),
    (NoSigningKey(did=DID, reason="no #atproto"), [DID, "no #atproto", "cannot be verified"]),
    (
        AddressRefused(host="a.b", address="10.0.0.1", reason="it is private"),
        ["a.b (10.0.0.1)", "it is private", "allow_private=True", "--allow-private"],
    ),
    (AddressRefused(host="10.0.0.1", address="10.0.0.1", reason="no"), ["to 10.0.0.1: no"]),
    (AddressRefused(host="a.b", address=None, reason="port 22"), ["to a.b: port 22"]),
    (
        TooManyRedirects(url=URL, location="http://a.b/", maximum=5),
        [URL, "http://a.b/", "no more than 5"],
    ),
    (TooManyRedirects(url=URL, location="http://a.b/", maximum=0), [URL, "none is followed"]),
    (ServerUnreachable(url=URL, reason="connection refused"), [URL, "connection refused", "later"]),
    (RateLimited(url=URL, retry_after=89.2), [URL, "in 90 seconds", "patience"]),
    (RateLimited(url=URL, retry_after=None), [URL, "try again later", "patience"]),
    (ServerFailed(url=URL, status=502, body="<html>\n"), [URL, 502, "<html>", "try again later"]),
    (ServerFailed(url=URL, status=404, body=""), [URL, "status 404; check the address"]),
    (ServerFailed(url=URL, status=501, body=""), [URL, "status 501; check the address"]),
    (RepoNotFound(did=DID, server=URL, said="who?\n"), [DID, URL, "no repo", "'who? '"]),
    (RepoTakendown(did=DID, server=URL), [DID, URL, "took down"]),
    (RepoSuspended(did=DID, server=URL), [DID, URL, "suspended", "try again"]),
    (RepoDeactivated(did=DID, server=URL), [DID, URL, "deactivated", "its owner"]),
    (RecordNotFound(uri=f"at://{DID}/a.b.c/1", server=URL), [f"at://{DID}/a.b.c/1", URL]),
    (
        TooSlow(url=URL, received=12345, seconds=30.0),
        [URL, "12,345 bytes in all", "last 30 seconds"],
    ),
    (TooSlow(url=URL, received=0, seconds=0.5), [URL, "0 bytes in all", "last 0.5 seconds"]),
    (
        DownloadBroken(url=URL, received=12345, records=67, reason="reset by peer"),
        [URL, 12345, "67 records", "reset by peer", "check_first=True"],
    ),
    (
        DownloadBroken(url=URL, received=12, records=0, reason="reset by peer"),
        [URL, "after 12 bytes: reset by peer", "try again later"],
    ),
    (
        TornExport(cid=CID, kind="record", key="a/b", did=DID, rev="3jzfcijpj2z2a", records=1),
        [CID, "record 'a/b'", DID, "written to", "check_first=True", "keep=PATH"],
    ),
    (
        TornExport(cid=CID, kind="node", key=None, did=DID, rev="3jzfcijpj2z2a", records=0),
        [CID, "an MST node", DID, "during the download; try again later"],
    ),
    (
        MissingExtra(extra="crypto", package="cryptography", feature="verify_signature"),
        ["pip install cryptography", "atproto-repo-stream[crypto]", "verify_signature"],
    ),
    (
        MissingExtra(extra="ray", package="ray[data]", feature="repo_stream.ray"),
        ['pip install "ray[data]"'],
    ),
]
ERRORS = [error for error, _ in EXAMPLES]


MODULES = {errors.__name__, network_errors.__name__, "repo_stream.ipld.errors"}


def tree(kind: type[RepoStreamError]) -> set[type[RepoStreamError]]:
    """The kind and all below it that the library defines."""
    below = [other for other in kind.__subclasses__() if other.__module__ in MODULES]
    return {kind}.union(*map(tree, below))


def leaves() -> set[type[RepoStreamError]]:
    kinds = tree(RepoStreamError)
    return {kind for kind in kinds if tree(kind) == {kind}}


def facts(error: BaseException) -> tuple[object, ...]:
    return type(error), str(error), repr(error), error.args, vars(error)


def types_of_facts(error: BaseException) -> dict[str, type]:
    return {name: type(value) for name, value in vars(error).items()}


def test_there_is_an_example_of_every_leaf() -> None:
    assert {type(error) for error, _ in EXAMPLES} == leaves() | {MissingBlock, OtherAccount}


def test_every_error_is_public() -> None:
    names = {*errors.__all__, *network_errors.__all__}
    assert {kind.__name__ for kind in tree(RepoStreamError)} == names
    assert names <= set(public_names("repo_stream"))
    for module in (errors, network_errors):
        for name in module.__all__:
            assert getattr(repo_stream, name) is getattr(module, name)


def test_public_names_are_unique_and_in_order() -> None:
    names = public_names("repo_stream")
    assert names == sorted(set(names))
    assert all(hasattr(repo_stream, name) for name in names)


def test_every_error_is_in_the_table() -> None:
    assert errors.__doc__
    words = set(errors.__doc__.split())
    assert {kind.__name__ for kind in tree(RepoStreamError)} - words == set()


def test_every_error_is_documented() -> None:
    for kind in tree(RepoStreamError):
        assert kind.__doc__
        assert kind.__doc__ not in {base.__doc__ for base in kind.__bases__}


BRANCHES: list[tuple[type[Exception], set[type[RepoStreamError]]]] = [
    (CarError, {TruncatedCar, CidMismatch, BadRoot, MissingRoot}),
    (CommitError, {MissingCommit, NothingNew, BadCommit, BadSignature}),
    (NodeError, {MalformedNode, WrongDepth, BareRoot}),
    (DiskError, {DiskFull, ForeignFile, MaxSizeExceeded}),
    (NetworkError, {BadName, DidNotFound, RepoTakendown, RateLimited, OtherAccountServed}),
    (RepoRefused, {RepoNotFound, RepoTakendown, RepoSuspended, RepoDeactivated}),
    (OtherAccount, {OtherAccountServed}),
    (MissingBlock, {IncompleteJoin, TornExport}),
    (NetworkError, {TornExport}),
    (ValueError, {InvalidCid, InvalidDagCbor, NestedTooDeep, BadName}),
    (ImportError, {MissingExtra}),
]


def test_errors_can_be_caught_by_their_branch() -> None:
    for branch, members in BRANCHES:
        assert {member for member in members if not issubclass(member, branch)} == set()


def test_messages_name_the_facts() -> None:
    unnamed = [
        f"{error!r}: {name}"
        for error, names in EXAMPLES
        for name in names
        if str(name) not in str(error)
    ]
    assert unnamed == []


def test_messages_have_one_line() -> None:
    assert [error for error in ERRORS if "\n" in str(error)] == []


def test_facts_are_attributes() -> None:
    """Whatever the constructor takes by keyword can be read, but for what only the message has."""
    in_the_message = {"package", "feature"}
    hidden: list[str] = []
    for error in ERRORS:
        parameters = inspect.signature(type(error).__init__).parameters.values()
        keywords = {item.name for item in parameters if item.kind is item.KEYWORD_ONLY}
        lost = keywords - in_the_message - vars(error).keys()
        hidden += [f"{type(error).__name__}.{name}" for name in lost]
    assert hidden == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_a_pickle(protocol: int) -> None:
    back: list[RepoStreamError] = [
        pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
        for error in ERRORS
    ]
    assert [*map(facts, back)] == [*map(facts, ERRORS)]
    assert [*map(types_of_facts, back)] == [*map(types_of_facts, ERRORS)]


def test_errors_can_be_copied() -> None:
    assert [facts(copy.copy(error)) for error in ERRORS] == [*map(facts, ERRORS)]
    assert [facts(copy.deepcopy(error)) for error in ERRORS] == [*map(facts, ERRORS)]


def test_notes_survive_a_pickle() -> None:
    for error in ERRORS:
        noted = copy.copy(error)
        noted.add_note("while reading repo.car")
        back = pickle.loads(pickle.dumps(noted))  # noqa: S301 - our own bytes
        assert back.__notes__ == ["while reading repo.car"], error
        assert not hasattr(error, "__notes__")


def test_an_error_that_a_caller_derives_survives_a_pickle() -> None:
    back = pickle.loads(pickle.dumps(OfACaller(offset=7, hint="ask")))  # noqa: S301 - our own bytes
    assert (type(back), back.offset, back.hint) == (OfACaller, 7, "ask")
    assert str(back) == str(OfACaller(offset=7, hint="ask"))


class OfACaller(CarError):
    """What somebody may derive, with a constructor of its own."""

    def __init__(self, *, offset: int, hint: str) -> None:
        super().__init__(f"hint: {hint}", offset=offset)
        self.hint = hint
