"""`repo-stream fetch`: a CAR that is kept, and kept up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault, build_car
from support.cli import LIKE, POST, RECORDS, Run, keys

HANDLE = "alice.example.com"


@pytest.fixture
def alice(world: AtprotoNetwork) -> AtprotoAccount:
    return world.add_account(HANDLE, RECORDS)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "alice.car"


@pytest.fixture(autouse=True)
def folder(target: Path) -> Path:
    target.parent.mkdir()
    return target.parent


def test_new_file_is_what_the_server_sends(run: Run, alice: AtprotoAccount, target: Path) -> None:
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (0, "")
    assert err == (
        f"wrote the repo of {HANDLE} ({alice.did}), rev {alice.rev}, 4 records, to {target}; "
        f"signed by {alice.key.did_key}\n"
    )
    assert target.read_bytes() == alice.car()
    assert run("verify", target, "--key", alice.key.did_key)[0] == 0


def test_kept_file_is_brought_up_to_date_by_a_slice(
    run: Run, world: AtprotoNetwork, alice: AtprotoAccount, target: Path
) -> None:
    assert run("fetch", alice.did, "-o", target, "-q") == (0, "", "")
    before = alice.rev
    for number in range(3):
        alice.write({f"{LIKE}/{number}": {"n": number}, f"{POST}/3jzfcijpj2z2a": None})
    world.requests.clear()
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (0, "")
    assert err == (
        f"brought {target} of {HANDLE} ({alice.did}) up to date, from rev {before} to "
        f"rev {alice.rev}; signed by {alice.key.did_key}\n"
    )
    assert [dict(request.query) for request in world.requests if "getRepo" in request.path] == [
        {"did": alice.did, "since": before}
    ]
    assert target.read_bytes() == alice.repo.to_car(order="stream")
    assert [*target.parent.iterdir()] == [target]


def test_file_that_is_up_to_date_stays(run: Run, alice: AtprotoAccount, target: Path) -> None:
    run("fetch", HANDLE, "-o", target)
    before = target.stat()
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (0, "")
    assert err == f"{target} is up to date, rev {alice.rev}\n"
    now = target.stat()  # but for the time of the last reading
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_slice_alone_is_kept_if_it_is_asked_for(
    run: Run, alice: AtprotoAccount, target: Path
) -> None:
    before = alice.rev
    alice.write({f"{LIKE}/2": {"n": 2}})
    code, _, err = run("fetch", HANDLE, "-o", target, "--since", before)
    assert code == 0
    assert err.startswith(f"wrote the slice since rev {before} of {HANDLE}")
    assert target.read_bytes() == alice.car(since=before)
    target.unlink()
    code, _, err = run("fetch", HANDLE, "-o", target, "--since", alice.rev)
    assert code == 0
    assert err == f"nothing has changed since rev {alice.rev}, so {target} was not written\n"
    assert not target.exists()


def test_torn_file_is_healed_by_the_slice_since_its_rev(
    run: Run, alice: AtprotoAccount, target: Path
) -> None:
    sections = [*alice.sections()]
    rev = alice.rev
    alice.write({key: {"text": f"new {key}"} for key in RECORDS})
    target.write_bytes(b"".join(sections[:-3]))  # the server has deleted the rest meanwhile
    assert run("ls", target)[0] == 1
    code, _, err = run("fetch", HANDLE, "-o", target)
    assert code == 0
    assert f"from rev {rev} to rev {alice.rev}" in err
    assert target.read_bytes() == alice.repo.to_car(order="stream")


def test_file_that_lacks_blocks_is_healed_by_an_older_slice(
    run: Run, alice: AtprotoAccount, target: Path
) -> None:
    first = alice.rev
    sections = [*alice.sections()]
    alice.write({f"{LIKE}/2": {"n": 2}})
    late = [*alice.sections()]
    target.write_bytes(b"".join([*late[:2], *sections[2:]]))  # not all of the new blocks
    assert run("ls", target)[0] == 1
    assert run("fetch", HANDLE, "-o", target, "--since", first)[0] == 0
    assert keys(run("ls", target, "--json")[1]) == sorted(alice.records)


# --- Refusals -------------------------------------------------------------------------------------


def test_file_of_another_account_is_refused(run: Run, alice: AtprotoAccount, target: Path) -> None:
    data = build_car(RECORDS, did="did:plc:other")
    target.write_bytes(data)
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (1, "")
    assert err == (
        f"repo-stream: {target}: this is the repo of did:plc:other, not of {alice.did}; "
        "name another file with -o\n"
    )
    assert target.read_bytes() == data


def test_file_that_is_no_car_is_refused(run: Run, alice: AtprotoAccount, target: Path) -> None:
    target.write_bytes(b"mine")
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {target}: ")
    assert err.count("\n") == 1
    assert target.read_bytes() == b"mine"
    assert alice.did not in err


@pytest.mark.parametrize("new", [False, True], ids=["nothing new", "new"])
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_damaged_file_is_never_up_to_date(
    run: Run, alice: AtprotoAccount, target: Path, harm: str, new: bool
) -> None:
    whole = alice.car()
    data = whole[:-50] if harm == "cut" else whole[:-1] + bytes([whole[-1] ^ 1])
    target.write_bytes(data)
    if new:
        alice.write({f"{LIKE}/2": {"n": 2}})
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {target}: ")
    assert err.endswith("; to fetch the whole repo, remove this file\n")
    assert err.count("\n") == 1
    assert target.read_bytes() == data


def test_file_that_somebody_else_signed_is_never_up_to_date(
    run: Run, alice: AtprotoAccount, target: Path, world: AtprotoNetwork
) -> None:
    own, alice.signs_with = alice.signs_with, world.add_account("mallory.example.com", {}).key
    alice.write({f"{LIKE}/2": {"n": 2}})
    forged = alice.car()
    target.write_bytes(forged)
    alice.signs_with = own
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (1, "")
    assert f"{target}: the signature of commit " in err
    assert target.read_bytes() == forged


def test_file_that_an_earlier_key_signed_is_up_to_date_if_that_is_accepted(
    run: Run, alice: AtprotoAccount, target: Path
) -> None:
    run("fetch", HANDLE, "-o", target)
    alice.rotate_key(write=False)
    code, _, err = run("fetch", HANDLE, "-o", target)
    assert code == 1
    assert f"{target}: the signature of commit " in err
    assert "--earlier-keys" in err
    code, _, err = run("fetch", HANDLE, "-o", target, "--earlier-keys")
    assert (code, err) == (0, f"{target} is up to date, rev {alice.rev}\n")


@pytest.mark.parametrize(
    ("fault", "since"),
    [
        pytest.param(Fault(error="RepoTakendown"), False, id="new, takendown"),
        pytest.param(Fault(stop_at=100), False, id="new, broken"),
        pytest.param(Fault(error="RepoTakendown"), True, id="kept, takendown"),
        pytest.param(Fault(stop_at=100), True, id="kept, broken"),
    ],
)
def test_file_is_complete_or_untouched(
    run: Run, alice: AtprotoAccount, target: Path, fault: Fault, since: bool
) -> None:
    if since:
        run("fetch", HANDLE, "-o", target)
        alice.write({f"{LIKE}/2": {"n": 2}})
    before = target.read_bytes() if since else None
    alice.inject("getRepo", fault)
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert [path.read_bytes() for path in target.parent.iterdir()] == ([before] if since else [])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([HANDLE], "required: -o/--output"),
        ([HANDLE, "-o", "-"], "name a file"),
        ([HANDLE, "-o", "x.car.gz"], "not compressed"),
        ([HANDLE, "-o", "x", "--since", "yesterday"], "not a rev"),
        (["https://pds.example.com/x", "-o", "x"], "name the account, not a URL"),
    ],
)
def test_wrong_usage_is_explained(run: Run, arguments: list[str], reason: str) -> None:
    code, out, err = run("fetch", *arguments)
    assert (code, out) == (2, "")
    assert reason in err


def test_a_server_that_is_behind_changes_nothing(
    run: Run, alice: AtprotoAccount, target: Path
) -> None:
    old = alice.car()
    alice.write({f"{LIKE}/2": {"n": 2}})
    run("fetch", HANDLE, "-o", target)
    alice.inject("getRepo", Fault(body=old))
    code, out, err = run("fetch", HANDLE, "-o", target)
    assert (code, out) == (0, "")
    assert f"{target} is newer, rev {alice.rev}, than what https://pds.example.com sends" in err
    assert keys(run("ls", target, "--json")[1]) == sorted(alice.records)
