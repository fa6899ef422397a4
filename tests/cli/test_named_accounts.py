"""The name of an account, or a URL, in the place of a CAR."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from repo_stream.cli.accounts import kind_of
from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault
from support.cli import LIKE, POST, RECORDS, Run, keys, lines, report

HANDLE = "alice.example.com"


@pytest.fixture
def alice(world: AtprotoNetwork) -> AtprotoAccount:
    return world.add_account(HANDLE, RECORDS)


# --- What a name is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("car", "kind"),
    [
        ("-", "file"),
        ("alice.example.com", "account"),
        ("@Alice.Example.com", "account"),
        ("did:plc:ewvi7nxzyoun6zhxrhs64oiz", "account"),
        ("did:web:example.com", "account"),
        ("at://alice.example.com/app.bsky.feed.post", "account"),
        ("at://repo.car", "account"),
        ("https://pds.example.com/repo.car", "url"),
        ("http://127.0.0.1:2583/xrpc/x", "url"),
        ("repo.car", "file"),
        ("REPO.CAR", "file"),
        ("repo.car.gz", "file"),
        ("repo.car.zst", "file"),
        ("./alice.example.com", "file"),
        ("kept/alice.example.com", "file"),
        ("alice", "file"),
    ],
)
def test_car_is_a_file_an_account_or_a_url(car: str, kind: str) -> None:
    assert kind_of(car) == kind


def test_file_of_the_name_comes_first(
    run: Run, alice: AtprotoAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert keys(run("ls", HANDLE, "--json")[1]) == sorted(RECORDS)
    Path(HANDLE).write_bytes(b"")
    code, _, err = run("ls", HANDLE)
    assert code == 1
    assert "empty" in err
    Path(HANDLE).unlink()
    code, _, err = run("ls", f"./{HANDLE}")
    assert code == 1
    assert "No such file" in err
    assert alice.did not in err


# --- Every command --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["handle", "DID", "URI", "URI with a DID", "URI as it is written"])
def test_account_is_read_by_any_of_its_names(run: Run, alice: AtprotoAccount, by: str) -> None:
    names = {
        "handle": HANDLE,
        "DID": alice.did,
        "URI": f"at://{HANDLE}",
        "URI with a DID": f"at://{alice.did}",
        "URI as it is written": f"at://@{HANDLE}/",
    }
    code, out, err = run("ls", names[by], "--json")
    assert (code, err) == (0, "")
    assert keys(out) == sorted(RECORDS)


def test_export_names_the_account(run: Run, alice: AtprotoAccount, tmp_path: Path) -> None:
    target = tmp_path / "alice.csv"
    code, out, err = run("export", HANDLE, "-o", target)
    assert (code, out) == (0, "")
    assert err == (
        f"wrote 4 records of {alice.did}, rev {alice.rev}, from {HANDLE} to {target} (csv)\n"
    )
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [row["uri"] for row in rows] == [f"at://{alice.did}/{key}" for key in sorted(RECORDS)]


def test_inspect_shows_the_account(run: Run, alice: AtprotoAccount) -> None:
    code, out, err = run("inspect", HANDLE)
    assert (code, err) == (0, "")
    facts, table = report(out)
    assert facts["DID"] == alice.did
    assert table["Total"][0] == 4


@pytest.mark.parametrize("command", ["ls", "inspect", "order", "export"])
def test_export_that_is_torn_is_completed(
    run: Run, alice: AtprotoAccount, tmp_path: Path, command: str
) -> None:
    def write() -> None:
        alice.write({key: {"text": f"new {key}"} for key in RECORDS})

    alice.inject("getRepo", Fault(times=1, during_at=400, during=write))
    more = [tmp_path / "out.car"] if command == "order" else []
    code, out, err = run(command, HANDLE, *more)
    assert code == 0, err
    assert "lost" not in out + err
    if command == "order":
        assert more[0].read_bytes() == alice.repo.to_car(order="stream")
    if command == "export":
        assert {line["value"]["text"][:4] for line in lines(out)} == {"new "}


def test_blobs_are_listed(run: Run, world: AtprotoNetwork) -> None:
    world.add_account("bob.example.com", {"a.b.c/1": {"cid": "x", "mimeType": "image/png"}})
    code, out, err = run("blobs", "bob.example.com")
    assert code == 0
    assert "blob" in out + err


@pytest.mark.parametrize("command", ["order", "join"])
def test_repo_of_an_account_is_written_in_order(
    run: Run, alice: AtprotoAccount, tmp_path: Path, command: str
) -> None:
    before = tmp_path / "before.car"
    before.write_bytes(alice.car())
    alice.write({f"{LIKE}/2": {"n": 2}, f"{LIKE}/1": None})
    target = tmp_path / "out.car"
    arguments = ["order", HANDLE, target] if command == "order" else []
    code, out, err = run(*(arguments or ["join", before, HANDLE, "-o", target]))
    assert (code, out) == (0, "")
    assert "blocks written" in err
    assert target.read_bytes() == alice.repo.to_car(order="stream")
    assert keys(run("ls", target, "--json")[1]) == sorted(alice.records)


def test_several_accounts_and_files_are_read_together(
    run: Run, world: AtprotoNetwork, alice: AtprotoAccount, car: Path
) -> None:
    bob = world.add_account("bob.example.com", {"a.b.c/1": {}})
    code, out, err = run("ls", HANDLE, car, "nobody.example.com", bob.did, "--json")
    assert code == 1
    assert [line["did"] for line in lines(out)] == [alice.did] * 4 + ["did:plc:someone"] * 4 + [
        bob.did
    ]
    assert err.startswith("repo-stream: nobody.example.com: there is no such file, and the handle")
    assert err.count("\n") == 1


# --- URIs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ls", "export"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_uri_of_a_collection_narrows_what_is_read(
    run: Run, alice: AtprotoAccount, command: str, slash: str
) -> None:
    json = ["--json"] if command == "ls" else []
    code, out, _ = run(command, f"at://{HANDLE}/{LIKE}{slash}", *json)
    assert code == 0
    assert keys(out) == [f"{LIKE}/1"]
    code, out, err = run("ls", f"at://{alice.did}/a.b.c")
    assert (code, out) == (0, "")
    assert "no record matches --collection a.b.c; collections in the repo:" in err


def test_folder_of_an_account_does_not_lose_what_a_uri_leaves_out(
    run: Run, alice: AtprotoAccount, tmp_path: Path
) -> None:
    target = tmp_path / "records"
    to_folder = ["-q", "--to-folder", target]
    assert run("export", HANDLE, *to_folder) == (0, "", "")
    for part in (LIKE, f"{LIKE}/", f"{LIKE}/1"):
        code, _, err = run("export", f"at://{HANDLE}/{part}", *to_folder)
        assert code == 1
        assert "records that are not selected now would be removed from it" in err
    assert len([*target.glob("*/*.json")]) == len(alice.records)


def test_folder_of_several_accounts_does_not_lose_what_a_uri_leaves_out(
    run: Run, world: AtprotoNetwork, alice: AtprotoAccount, tmp_path: Path
) -> None:
    """The URIs of a folder before may be those of the other accounts."""
    world.add_account("bob.example.com", {f"{LIKE}/1": {"n": 1}, f"{POST}/1": {"n": 2}})
    target = tmp_path / "tables"
    one, other = HANDLE, "bob.example.com"
    to_folder = ["-q", "--typed", "--to-folder", target]
    named = [f"at://{one}/{LIKE}", other]
    assert run("export", *named, *to_folder) == (0, "", "")
    assert run("export", *named, *to_folder) == (0, "", "")
    for others in ([one, f"at://{other}/{LIKE}"], [one, other, "--collection", LIKE]):
        code, _, err = run("export", *others, *to_folder)
        assert code == 1
        assert "records that are not selected now would be removed from it" in err
    assert run("export", one, other, *to_folder) == (0, "", "")


def test_uri_of_a_record_narrows_what_is_read_to_it(run: Run, alice: AtprotoAccount) -> None:
    code, out, err = run("ls", f"at://{alice.did}/{LIKE}/1", "--json")
    assert (code, err) == (0, "")
    assert keys(out) == [f"{LIKE}/1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", f"at://{HANDLE}/{LIKE}"], f"name the account alone: at://{HANDLE}"),
        (["verify", f"at://{HANDLE}/{LIKE}/1"], f"name the account alone: at://{HANDLE}"),
        (["join", "a.car", f"at://{HANDLE}/{LIKE}"], f"name the account alone: at://{HANDLE}"),
        (["fetch", f"at://{HANDLE}/{LIKE}", "-o", "x"], f"name the account alone: at://{HANDLE}"),
        (["fetch", f"at://{HANDLE}/{LIKE}/", "-o", "x"], f"name the account alone: at://{HANDLE}"),
        (["fetch", f"at://@{HANDLE}/{LIKE}", "-o", "x"], f"'@{HANDLE}' is neither a DID nor"),
        (["ls", f"at://{HANDLE}/{LIKE}//"], "it has a slash too many"),
        (["ls", f"at://{HANDLE}/{LIKE}", "--collection", POST], "leave out --collection"),
        (["get", f"at://{HANDLE}/{LIKE}"], "is not the URI of a record but of a collection"),
        (["get", f"at://{HANDLE}/{LIKE}/1", f"{LIKE}/1"], "leave out KEY"),
        (["get", f"at://{HANDLE}"], "arguments are required: KEY"),
        (["get", HANDLE], "arguments are required: KEY"),
        (["resolve", "https://pds.example.com"], "name the account, not a URL"),
    ],
)
def test_names_that_do_not_go_with_the_command_are_wrong_usage(
    run: Run, arguments: list[str], reason: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in err


# --- One record -----------------------------------------------------------------------------------


def test_get_fetches_one_record_with_its_proof(
    run: Run, world: AtprotoNetwork, alice: AtprotoAccount
) -> None:
    key = f"{LIKE}/1"
    for arguments in (
        [f"at://{HANDLE}/{key}"],
        [f"at://{alice.did}/{key}"],
        [HANDLE, key],
        [f"at://{HANDLE}", key],
        [alice.did, f"at://{alice.did}/{key}"],
        [HANDLE, f"at://{HANDLE}/{key}"],
    ):
        code, out, err = run("get", *arguments)
        assert (code, err) == (0, ""), arguments
        assert json.loads(out)["key"] == key
        assert json.loads(out)["value"] == {"n": 1}
    paths = {request.path.rpartition(".")[2] for request in world.requests}
    assert "getRecord" in paths
    assert "getRepo" not in paths


def test_get_says_if_there_is_no_such_record(run: Run, alice: AtprotoAccount) -> None:
    for arguments in ([f"at://{HANDLE}/{LIKE}/2"], [alice.did, f"{LIKE}/2"]):
        code, out, err = run("get", *arguments)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert f"{LIKE}/2" in err


def test_get_accepts_an_earlier_key_if_asked_for(run: Run, alice: AtprotoAccount) -> None:
    alice.rotate_key(write=False)
    uri = f"at://{HANDLE}/{LIKE}/1"
    code, out, err = run("get", uri)
    assert (code, out) == (1, "")
    assert "the signature of commit" in err
    code, out, err = run("get", uri, "--earlier-keys", "--json-form", "atproto")
    assert (code, err) == (0, "")
    assert json.loads(out)["uri"] == f"at://{alice.did}/{LIKE}/1"


def test_get_refuses_the_uri_of_another_account(run: Run, alice: AtprotoAccount) -> None:
    code, out, err = run("get", HANDLE, f"at://did:plc:other/{LIKE}/1")
    assert (code, out) == (2, "")
    assert f"names the account did:plc:other; this repo is of {alice.did}" in err


def test_get_reads_the_repo_for_a_key_that_no_server_can_be_asked_for(
    run: Run, world: AtprotoNetwork
) -> None:
    world.add_account("odd.example.com", {"odd": {"n": 7}})
    code, out, err = run("get", "odd.example.com", "odd", "--exact")
    assert (code, err) == (0, "")
    assert json.loads(out)["value"] == {"n": 7}


# --- Verify ---------------------------------------------------------------------------------------


def checks(out: str) -> dict[str, tuple[str, str]]:
    return {
        check["name"]: (check["status"], check["note"] or check["message"])
        for check in json.loads(out)["checks"]
    }


def test_verify_checks_the_signature_with_the_key_of_the_account(
    run: Run, alice: AtprotoAccount
) -> None:
    code, out, err = run("verify", HANDLE)
    assert (code, err) == (0, "")
    assert out.endswith("\nThe repo is valid.\n")
    assert f"{alice.key.did_key}," in out
    assert "canonical, of the account" in out
    assert max(map(len, out.splitlines())) <= 80
    found = checks(run("verify", HANDLE, "--json")[1])
    assert {status for status, _ in found.values()} == {"ok"}
    assert found["signature"][1] == f"{alice.key.did_key}, the key of {HANDLE}"


def test_verify_reports_the_repo_of_another_account(
    run: Run, world: AtprotoNetwork, alice: AtprotoAccount
) -> None:
    bob = world.add_account("bob.example.com", {"a.b.c/1": {}})
    alice.inject("getRepo", Fault(body=bob.car()))
    code, out, _ = run("verify", HANDLE, "--json")
    found = checks(out)
    assert code == 1
    assert found["commit"] == (
        "failed",
        f"this is the repo of {bob.did}, not of {alice.did}",
    )
    assert found["signature"][0] == "failed"
    assert found["tree"][0] == "ok"


def test_verify_looks_for_the_key_that_signed(run: Run, alice: AtprotoAccount) -> None:
    before = alice.key.did_key
    after = alice.rotate_key(write=False).did_key
    code, out, _ = run("verify", HANDLE, "--json")
    status, said = checks(out)["signature"]
    assert (code, status) == (1, "failed")
    assert after in said
    assert f"it is signed by {before}, a key that the account had before" in said
    assert said.endswith("--earlier-keys")
    code, out, _ = run("verify", HANDLE, "--earlier-keys", "--json")
    assert code == 0
    assert checks(out)["signature"] == ("ok", f"{before}, a key that {HANDLE} had before")


def test_verify_of_a_forged_signature_fails(run: Run, world: AtprotoNetwork) -> None:
    mallory = world.add_account("mallory.example.com", {"a.b.c/1": {}})
    other = world.add_account("other.example.com", {})
    mallory.signs_with = other.key
    mallory.write({"a.b.c/2": {}})
    code, out, _ = run("verify", "mallory.example.com", "--json")
    status, said = checks(out)["signature"]
    assert (code, status) == (1, "failed")
    assert "before" not in said


def test_verify_goes_by_what_it_is_told(run: Run, alice: AtprotoAccount) -> None:
    code, out, _ = run("verify", HANDLE, "--did", "did:plc:other", "--json")
    assert code == 1
    assert checks(out)["commit"][0] == "failed"
    key = alice.key.did_key
    assert checks(run("verify", HANDLE, "--key", key, "--json")[1])["signature"] == ("ok", key)


def test_verify_reports_damage_in_a_download(run: Run, alice: AtprotoAccount) -> None:
    car = alice.car()
    alice.inject("getRepo", Fault(body=car[:-1]))
    code, out, _ = run("verify", HANDLE, "--json")
    assert code == 1
    assert checks(out)["car"][0] == "failed"


def test_earlier_keys_are_accepted_if_asked_for(run: Run, alice: AtprotoAccount) -> None:
    alice.rotate_key(write=False)
    code, out, err = run("ls", HANDLE)
    assert (code, out) == (1, "")
    assert err.endswith(", an earlier key may have: --earlier-keys accepts it\n")
    code, out, err = run("ls", HANDLE, "--earlier-keys")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4


# --- URLs -----------------------------------------------------------------------------------------


def test_url_is_downloaded(run: Run, alice: AtprotoAccount, tmp_path: Path) -> None:
    url = f"https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={alice.did}"
    assert keys(run("ls", url, "--json")[1]) == sorted(RECORDS)
    target = tmp_path / "out.car"
    code, _, _ = run("order", url, target)
    assert code == 0
    assert target.read_bytes() == alice.repo.to_car(order="stream")


def test_error_of_a_url_is_told_by_its_name(run: Run, alice: AtprotoAccount) -> None:
    alice.status = "takendown"
    url = f"https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={alice.did}"
    code, out, err = run("ls", url)
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {url}: https://pds.example.com took down the account")


def test_verify_of_a_url_says_that_no_key_is_known(run: Run, alice: AtprotoAccount) -> None:
    url = f"https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={alice.did}"
    code, out, err = run("verify", url)
    assert (code, err) == (0, "")
    assert "a URL does not say whose key it has to be" in " ".join(out.split())
    assert "no signature was checked" in out
    assert checks(run("verify", url, "--key", alice.key.did_key, "--json")[1])["signature"] == (
        "ok",
        alice.key.did_key,
    )


def test_slice_since_a_rev_is_joined_by_its_url(
    run: Run, alice: AtprotoAccount, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.car"
    kept.write_bytes(alice.car())
    rev = alice.rev
    alice.write({f"{LIKE}/2": {"n": 2}})
    url = f"https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={alice.did}&since={rev}"
    target = tmp_path / "new.car"
    assert run("join", kept, url, "-o", target)[0] == 0
    assert target.read_bytes() == alice.repo.to_car(order="stream")
