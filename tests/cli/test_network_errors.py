"""What goes wrong between a name and a repo, as a person is told of it in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault
from support.cli import LIKE, RECORDS, Run

HANDLE = "alice.example.com"
OTHER = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
SERVER = "https://pds.example.com"

Prepare = Callable[[AtprotoNetwork, AtprotoAccount], object]


def served(**fault: Any) -> Prepare:
    """The server of the account sends this instead of its repo."""
    return lambda _, alice: alice.inject("getRepo", Fault(**fault))


def document(**change: object) -> Prepare:
    """The account's document has something else in it."""

    def prepare(_: AtprotoNetwork, alice: AtprotoAccount) -> None:
        alice.document = {**alice.document, **change}

    return prepare


def other_repo(net: AtprotoNetwork, alice: AtprotoAccount) -> None:
    alice.inject("getRepo", Fault(body=net.add_account("bob.example.com", {}).car()))


def forged(net: AtprotoNetwork, alice: AtprotoAccount) -> None:
    alice.signs_with = net.add_account("mallory.example.com", {}).key
    alice.write({f"{LIKE}/2": {}})


def two_dids(net: AtprotoNetwork, alice: AtprotoAccount) -> None:
    names = [[f"did={did}".encode()] for did in (alice.did, OTHER)]
    net.resolver.records[f"_atproto.{HANDLE}"] = names


def always_written_to(_: AtprotoNetwork, alice: AtprotoAccount) -> None:
    alice.inject("getRepo", Fault(during_at=400, during=lambda: alice.write(_all_new(alice))))


def _all_new(alice: AtprotoAccount) -> Mapping[str, object]:
    return {key: {"text": f"{key} after {alice.rev}"} for key in alice.records}


def nothing(_: AtprotoNetwork, __: AtprotoAccount) -> None:
    """Everything is well."""


#: What is wrong, what is read, and the beginning and the end of what is said.
CASES: Final[dict[str, tuple[Prepare, str, str, str]]] = {
    "RepoNotFound": (
        served(error="RepoNotFound"),
        HANDLE,
        f"{SERVER} has no repo for did:plc:",
        "the account may have been deleted, or have moved to another server just now",
    ),
    "RepoTakendown": (
        served(error="RepoTakendown"),
        HANDLE,
        f"{SERVER} took down the account did:plc:",
        "unless the operator of the server restores it",
    ),
    "RepoTakendown, with status 200": (
        served(error="RepoTakendown", status=200),
        HANDLE,
        f"{SERVER} took down the account did:plc:",
        "unless the operator of the server restores it",
    ),
    "RepoSuspended": (
        served(error="RepoSuspended"),
        HANDLE,
        f"{SERVER} suspended the account did:plc:",
        "try again in some days",
    ),
    "RepoDeactivated": (
        served(error="RepoDeactivated"),
        HANDLE,
        f"{SERVER} has deactivated the account did:plc:",
        "until its owner activates it again",
    ),
    "HandleNotFound": (
        nothing,
        "nobody.example.com",
        "there is no such file, and the handle nobody.example.com leads to no account: ",
        "check its spelling, or use the DID",
    ),
    "AmbiguousHandle": (
        two_dids,
        HANDLE,
        f"the handle {HANDLE} leads to 2 accounts, did:plc:",
        "until then, use the DID",
    ),
    "HandleNotClaimed": (
        document(alsoKnownAs=["at://bob.example.com"]),
        HANDLE,
        f"the handle {HANDLE} leads to did:plc:",
        "if it is the right account, use its DID",
    ),
    "DidNotFound": (nothing, OTHER, f"there is no account {OTHER}", "check its spelling"),
    "DidTombstoned": (
        lambda _, alice: alice.tombstone(),
        HANDLE,
        "the account did:plc:",
        "its repo cannot be downloaded any more",
    ),
    "NoServer": (
        document(service=[]),
        HANDLE,
        "the account did:plc:",
        "only its owner can change that",
    ),
    "NoSigningKey": (
        document(verificationMethod=[]),
        HANDLE,
        "the account did:plc:",
        "only its owner can change that",
    ),
    "BadDocument": (
        document(id=OTHER),
        HANDLE,
        "the document of https://plc.directory/did:plc:",
        "only who publishes it can correct it",
    ),
    "OtherAccountServed": (
        other_repo,
        HANDLE,
        f"{SERVER} sent the repo of did:plc:",
        "do not use it",
    ),
    "BadSignature": (
        forged,
        HANDLE,
        "the signature of commit bafyrei",
        "an earlier key may have: --earlier-keys accepts it",
    ),
    "RateLimited": (
        served(status=429, error="RateLimitExceeded", headers={"retry-after": "300"}),
        HANDLE,
        f"the rate limit of {SERVER} is reached",
        "try again in 300 seconds, or wait longer for it: --patience SECONDS",
    ),
    "ServerFailed": (
        served(status=502, body=b"<h1>Bad\x1b[2J Gateway"),
        HANDLE,
        f"{SERVER} answered with status 502 and '<h1>Bad",
        "try again later",
    ),
    "DownloadBroken": (
        served(stop_at=300),
        HANDLE,
        f"the download from {SERVER} broke off after 300 bytes: ",
        "try again later",
    ),
    "DownloadBroken, reset": (
        served(reset_at=300),
        HANDLE,
        f"the download from {SERVER} broke off after 300 bytes: [",  # Errno 104
        "; try again later",
    ),
    "TornExport": (
        always_written_to,
        HANDLE,
        "the server did not send the block ",
        "to get out what can be reached: --partial",
    ),
    "NotACar": (
        served(body=b"<html>"),
        HANDLE,
        "this is not a CAR file; it looks like an HTML page",
        "(at byte 0)",
    ),
    "ServerUnreachable": (
        nothing,
        "https://nowhere.example.com/repo.car",
        "no answer from https://nowhere.example.com/repo.car: ",
        "check the connection, and try again later",
    ),
    "AddressRefused": (
        nothing,
        "https://169.254.169.254/latest",
        "no connection is made to 169.254.169.254: ",
        "as on a network of your own, use --allow-private",
    ),
    "AddressRefused, no host": (
        nothing,
        "https:///repo.car",
        "no connection is made to ",
        "the URL has no host; check the URL",
    ),
    "TooManyRedirects": (
        lambda _, alice: alice.inject("document", Fault(location=f"{SERVER}/did.json")),
        HANDLE,
        "https://plc.directory/did:plc:",
        "none is followed here; ask its operator",
    ),
    "BadName": (
        nothing,
        "alice.localhost",
        "'alice.localhost' does not name an account: ",
        "pass a handle such as alice.example.com, a did:plc or did:web, or an at:// URI",
    ),
    "BadName, a test": (
        nothing,
        "alice.test",
        "'alice.test' does not name an account: handles below .test are for tests, with --allow-p",
        "or an at:// URI",
    ),
}


@pytest.mark.parametrize("error", CASES)
def test_error_is_one_line_that_says_what_happened_and_what_to_do(
    run: Run, world: AtprotoNetwork, error: str
) -> None:
    prepare, name, begin, end = CASES[error]
    prepare(world, world.add_account(HANDLE, RECORDS))
    code, out, err = run("ls", name, "--patience", "0")
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {name}: {begin}")
    assert err.endswith(f"{end}\n")
    assert err[:-1].isprintable()
    for ours in ("True", "patience`", "keep="):
        assert ours not in err


@pytest.mark.parametrize("error", ["RepoTakendown", "RateLimited", "DownloadBroken"])
@pytest.mark.parametrize("command", ["export", "inspect", "verify", "blobs", "order", "fetch"])
def test_every_command_tells_the_same(
    run: Run, world: AtprotoNetwork, tmp_path: Path, command: str, error: str
) -> None:
    prepare, name, begin, _ = CASES[error]
    prepare(world, world.add_account(HANDLE, RECORDS))
    more: dict[str, list[str | Path]] = {
        "order": [tmp_path / "x.car"],
        "fetch": ["-o", tmp_path / "x.car"],
    }
    code, out, err = run(command, name, *more.get(command, []), "--patience", "0")
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {name}: {begin}")
    assert err.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_get_tells_what_a_server_does_not_give_out(run: Run, world: AtprotoNetwork) -> None:
    alice = world.add_account(HANDLE, RECORDS)
    alice.inject("getRecord", Fault(error="RepoDeactivated"))
    code, out, err = run("get", f"at://{HANDLE}/{LIKE}/1")
    assert (code, out) == (1, "")
    assert f"{SERVER} has deactivated the account {alice.did}" in err
