"""`repo-stream resolve`: the account that a name leads to."""

from __future__ import annotations

import json

import pytest

from repo_stream.testing import AtprotoNetwork, Fault
from support.cli import Run

HANDLE = "alice.example.com"


def test_account_is_shown(run: Run, world: AtprotoNetwork) -> None:
    alice = world.add_account(HANDLE, {})
    for name in (HANDLE, alice.did, f"at://{HANDLE}/app.bsky.feed.post"):
        code, out, err = run("resolve", name)
        assert (code, err) == (0, "")
        assert out == (
            f"DID     {alice.did}\n"
            f"Handle  {HANDLE}\n"
            "Server  https://pds.example.com\n"
            f"Key     {alice.key.did_key}\n"
        )


def test_json_has_the_document(run: Run, world: AtprotoNetwork) -> None:
    alice = world.add_account(HANDLE, {})
    code, out, err = run("resolve", HANDLE, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "did": alice.did,
        "handle": HANDLE,
        "claimed_handle": HANDLE,
        "handle_problem": None,
        "pds": "https://pds.example.com",
        "signing_key": alice.key.did_key,
        "document": alice.document,
    }


@pytest.mark.parametrize("why", ["no handle", "leads nowhere", "no DNS", "leads to another"])
def test_account_without_a_handle_says_why(run: Run, world: AtprotoNetwork, why: str) -> None:
    claimed = None if why == "no handle" else HANDLE
    bob = world.add_account(HANDLE if why == "leads to another" else "bob.example.com", {})
    alice = world.add_account(claimed, {}, by=None, did="did:plc:ewvi7nxzyoun6zhxrhs64oiz")
    if why == "no DNS":
        world.inject("txt", Fault(error="SERVFAIL"))
    code, out, err = run("resolve", alice.did, "--json")
    account = json.loads(out)
    assert (code, err) == (0, "")
    assert (account["handle"], account["claimed_handle"]) == (None, claimed)
    assert run("resolve", alice.did)[1].splitlines()[1] == (
        f"Handle  none: {account['handle_problem']}"
    )
    match why:
        case "no handle":
            assert account["handle_problem"] == "the account claims no handle"
        case "leads nowhere":
            assert "leads to no account" in account["handle_problem"]
        case "no DNS":
            assert "could not be looked up" in account["handle_problem"]
        case _:
            assert account["handle_problem"] == (
                f"the handle {HANDLE} leads to another account, {bob.did}"
            )


def test_handle_that_is_not_claimed_is_an_error(run: Run, world: AtprotoNetwork) -> None:
    alice = world.add_account(HANDLE, {})
    alice.rename("other.example.com")
    code, out, err = run("resolve", HANDLE)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "has the handle other.example.com" in err
