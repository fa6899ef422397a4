"""What is known of an account, as a value."""

from __future__ import annotations

import pickle
from dataclasses import replace

from repo_stream import Account

ACCOUNT = Account(
    did="did:web:example.com",
    handle="alice.example.com",
    pds="https://pds.example.com",
    signing_key="did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc",
    document={"id": "did:web:example.com", "alsoKnownAs": ["at://alice.example.com"]},
)


def test_account_is_shown_without_its_document() -> None:
    assert repr(ACCOUNT) == (
        "Account(did='did:web:example.com', handle='alice.example.com', "
        "pds='https://pds.example.com', "
        "signing_key='did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc')"
    )


def test_accounts_are_values() -> None:
    same = pickle.loads(pickle.dumps(ACCOUNT))  # noqa: S301 - our own bytes
    assert same == ACCOUNT
    assert same == replace(ACCOUNT, claimed_handle="alice.example.com", handle_problem="none")
    assert len({same, ACCOUNT, replace(ACCOUNT, handle=None)}) == 2
