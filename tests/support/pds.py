"""A small client of a reference PDS and its directory: makes what the tests read.

The environment variable `REPO_STREAM_PDS_NET` names a file of JSON with URLs: `plc`, a directory;
`pds` and `pdsB`, two servers with accounts that it knows, the second one with rate limits; and
`control`, which answers `POST /rotate?did=` by giving an account of the first server a new key, and
`POST /move?did=&to=B` by having the directory name the second one. `admin` is the password of the
administrator.
"""

from __future__ import annotations

import json
import os
import time
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from repo_stream.testing import SigningKey, build_repo, cid_of, encode, tid, write_car

VARIABLE = "REPO_STREAM_PDS_NET"
#: How many writes a server takes in one request.
MOST_WRITES = 200

_PASSWORD = "made-for-tests"
_numbers = count()


def _answered(answer: httpx.Response) -> Any:
    if answer.is_error:
        raise AssertionError(f"{answer.url}: {answer.status_code} {answer.text}")
    return answer.json() if answer.content else None


class PdsNet:
    """The directory and the servers of the file that the environment names, or a skip."""

    def __init__(self) -> None:
        __tracebackhide__ = True  # the skip is told of the file that asks
        path = os.environ.get(VARIABLE)
        if path is None:
            pytest.skip(f"no reference PDS: {VARIABLE} does not name one", allow_module_level=True)
        found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        self.directory: str = found["plc"]
        self.first: str = found["pds"]
        self.second: str = found["pdsB"]
        self._control: str = found["control"]
        self._admin: str = found["admin"]
        # Handles are not used again, and have 18 characters at most before their domain.
        self._run = b32encode(int(time.time() * 10).to_bytes(5, "big")).decode().lower()[-7:]

    def add_account(self, name: str, server: str | None = None) -> PdsAccount:
        """A new account with a handle like `name-RUN.test`."""
        handle = f"{name}-{self._run}{next(_numbers)}.test"
        return PdsAccount(server or self.first, handle)

    def administer(self, method: str, **body: object) -> None:
        url = f"{self.first}/xrpc/com.atproto.admin.{method}"
        _answered(httpx.post(url, json=body, auth=("admin", self._admin), timeout=60))

    def take_down(self, did: str) -> None:
        subject = {"$type": "com.atproto.admin.defs#repoRef", "did": did}
        taken = {"applied": True, "ref": "for a test"}
        self.administer("updateSubjectStatus", subject=subject, takedown=taken)

    def rotate_key(self, did: str) -> None:
        _answered(httpx.post(f"{self._control}/rotate", params={"did": did}, timeout=60))

    def move(self, account: PdsAccount) -> PdsAccount:
        """Move an account of the first server to the second one, as its owner does."""
        host = _answered(httpx.get(f"{self.second}/xrpc/com.atproto.server.describeServer"))["did"]
        method = "com.atproto.server.createAccount"
        token = account.get("server.getServiceAuth", aud=host, lxm=method)["token"]
        car = httpx.get(
            f"{self.first}/xrpc/com.atproto.sync.getRepo", params={"did": account.did}, timeout=60
        ).content
        moved = PdsAccount(self.second, account.handle, token=token, did=account.did)
        moved.import_repo(car)
        _answered(
            httpx.post(f"{self._control}/move", params={"did": account.did, "to": "B"}, timeout=60)
        )
        moved.call("server.activateAccount")
        account.deactivate()
        return moved

    def records(self, did: str, server: str | None = None) -> dict[str, tuple[str, object]]:
        """The CID and the value of each record, by key, as a server lists them."""
        url = f"{server or self.first}/xrpc/com.atproto.repo."
        with httpx.Client(timeout=60) as client:
            described = _answered(client.get(f"{url}describeRepo", params={"repo": did}))
            listed: dict[str, tuple[str, object]] = {}
            for collection in described["collections"]:
                asked: dict[str, Any] = {"repo": did, "collection": collection, "limit": 100}
                while True:
                    page = _answered(client.get(f"{url}listRecords", params=asked))
                    for record in page["records"]:
                        key = record["uri"].removeprefix(f"at://{did}/")
                        listed[key] = record["cid"], record["value"]
                    if "cursor" not in page:
                        break
                    asked["cursor"] = page["cursor"]
        return dict(sorted(listed.items(), key=lambda item: item[0].encode()))

    def register(self, *operations: Mapping[str, object], key: SigningKey) -> str:
        """Have the directory register a DID by operations, all signed by a rotation key."""
        did, before = "", None
        for operation in operations:
            unsigned = {**operation, "prev": before}
            signature = urlsafe_b64encode(key.sign(encode(unsigned))).decode().rstrip("=")
            signed = {**unsigned, "sig": signature}
            block = encode(signed)
            before = "b" + b32encode(cid_of(block)).decode().lower().rstrip("=")
            did = did or f"did:plc:{b32encode(sha256(block).digest()).decode().lower()[:24]}"
            answer = httpx.post(f"{self.directory}/{did}", json=signed)
            if answer.is_error:
                raise AssertionError(answer.text)
        return did

    def operation(self, key: SigningKey, **changes: object) -> dict[str, object]:
        """An operation for `register`, by default one that is complete."""
        endpoint = {"type": "AtprotoPersonalDataServer", "endpoint": self.first}
        return {
            "type": "plc_operation",
            "rotationKeys": [key.did_key],
            "verificationMethods": {"atproto": key.did_key},
            "alsoKnownAs": [],
            "services": {"atproto_pds": endpoint},
            **changes,
        }


class PdsAccount:
    """An account, as its owner sees it."""

    def __init__(
        self, server: str, handle: str, *, token: str | None = None, **options: object
    ) -> None:
        self.server = server
        self.handle = handle
        self._token = token
        made = self.call(
            "server.createAccount",
            handle=handle,
            email=f"{handle.replace('.', '-')}@example.com",
            password=_PASSWORD,
            **options,
        )
        self.did: str = made["did"]
        self._token = made["accessJwt"]

    def call(self, method: str, **body: object) -> Any:
        data = json.dumps(body).encode() if body else b""  # some methods demand that there is none
        return self._post(method, data, "application/json")

    def deactivate(self) -> None:
        self._post("server.deactivateAccount", b"{}", "application/json")

    def get(self, method: str, **params: str) -> Any:
        url = f"{self.server}/xrpc/com.atproto.{method}"
        return _answered(httpx.get(url, params=params, headers=self._headers(), timeout=60))

    def _post(self, method: str, data: bytes, kind: str) -> Any:
        url = f"{self.server}/xrpc/com.atproto.{method}"
        headers = {**self._headers(), **({"content-type": kind} if data else {})}
        return _answered(httpx.post(url, content=data, headers=headers, timeout=60))

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token}"}

    def upload(self, data: bytes) -> Any:
        """Upload a blob, and return what a record names it by."""
        return self._post("repo.uploadBlob", data, "text/plain")["blob"]

    def import_repo(self, car: bytes) -> None:
        self._post("repo.importRepo", car, "application/vnd.ipld.car")

    def import_records(self, records: Mapping[str, object], *, at_once: int) -> None:
        """Put records into an account that has none, so many in a commit, by imports of CARs.

        Nobody signs these commits, so write something afterwards.
        """
        known: set[bytes] = set()
        keys = list(records)
        for end in range(at_once, len(keys) + at_once, at_once):
            some = {key: records[key] for key in keys[:end]}
            repo = build_repo(some, did=self.did, rev=tid(time.time_ns() // 1000 << 10))
            new = [(cid, data) for cid, data in repo.blocks.items() if cid not in known]
            self.import_repo(write_car([repo.commit_cid], new))
            known |= repo.blocks.keys()

    def write(self, *writes: Mapping[str, object]) -> None:
        """Apply writes, in as many commits as it takes."""
        for start in range(0, len(writes), MOST_WRITES):
            some: Sequence[Mapping[str, object]] = writes[start : start + MOST_WRITES]
            self.call("repo.applyWrites", repo=self.did, writes=some, validate=False)


def created(key: str, **fields: object) -> dict[str, object]:
    return _written("create", key, fields)


def updated(key: str, **fields: object) -> dict[str, object]:
    return _written("update", key, fields)


def deleted(key: str) -> dict[str, object]:
    return _written("delete", key, None)


def _written(action: str, key: str, fields: Mapping[str, object] | None) -> dict[str, object]:
    collection, _, rkey = key.partition("/")
    value = {} if fields is None else {"value": {"$type": collection, **fields}}
    kind = f"com.atproto.repo.applyWrites#{action}"
    return {"$type": kind, "collection": collection, "rkey": rkey, **value}
