"""What is known of an account: its names, its server, and the key that signs its repo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Account"]


@dataclass(frozen=True, slots=True)
class Account:
    """An account, as `Network.resolve` finds it.

    Attributes:
        did: its DID, the name that never changes.
        handle: its handle in lowercase, if the account claims it and the handle leads back to the
            account; else `None`.
        pds: the URL of its server, the PDS, without a path: `https://pds.example.com`.
        signing_key: the public key that signs its repo, as a `did:key`. See
            `Commit.verify_signature`.
        document: the DID document that this comes from, decoded from JSON. Treat it as read-only.
        claimed_handle: the handle that the account claims, whether or not it leads back; `None` if
            there is none. It does not count when accounts are compared, nor does the next.
        handle_problem: why the account has no handle; `None` if it has one.
    """

    did: str
    handle: str | None
    pds: str
    signing_key: str
    document: Mapping[str, object] = field(repr=False, hash=False)
    claimed_handle: str | None = field(default=None, repr=False, compare=False)
    handle_problem: str | None = field(default=None, repr=False, compare=False)
