"""`export --to-folder`: a file for each record, under names that every file system takes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, strategies as st

from repo_stream import Cid
from repo_stream.cli.folder import path_of
from repo_stream.testing import build_car, build_repo
from support import SAMPLE
from support.cli import BOTH_WAYS, DID, LIKE, POST, RECORDS, REV, Run, lines

#: Of a file or folder on any system: no capitals, nothing reserved, no dot at either end.
NAME = re.compile(r"[a-z0-9%_-](?:[a-z0-9%_.~-]*[a-z0-9%_~-])?")
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{name}{n}" for name in ("com", "lpt") for n in range(10)),
}
#: What the strictest file systems allow.
LONGEST = 140

ODD_PARTS = [
    *("", ".", "..", "...", ".x", "x.", "a.b", "_", "_x", "%", "%2e", "%2E", "~", "x~1", "-"),
    *("\0", "a\0b", "\n", "\\", "..\\x", "C:", "a:b", 'a"b', "a*b?", "<|>", " ", " x ", "x "),
    *(
        "A",
        "a",
        "ab",
        "aB",
        "AB",
        "É",
        "é",
        "e\u0301",
        "ß",
        "ss",
        "\u017f",
        "K",
        "\u212a",
        "ü👋",
        "\ufeff",
    ),
    *("con", "CON", "con.txt", "nul.tar.gz", "com1", "com10", "com¹", "lpt9.x", "conin$", "aux."),
    *("_empty", "_no-collection", "_repo", "_repo.json", "_part-1", "x.json", "y" * 140),
    *("z" * 134, "z" * 135, "z" * 136, "z" * 512, "Z" * 46, "Z" * 47, "Z" * 600, "ü" * 600),
    *("z" * 511 + "a", "z" * 511 + "A", "/", "a/b", "../../x", "//"),
]


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- Names ----------------------------------------------------------------------------------------


def check_path(key: str) -> str:
    """Check the path of a key's file, and return it."""
    path = path_of(key)
    collection, rkey, *more = path.split("/")
    assert not more
    assert rkey.endswith(".json")
    for name in (collection, rkey):
        assert NAME.fullmatch(name)
        assert len(name) <= LONGEST
        assert name.partition(".")[0] not in DEVICES
    assert collection not in {"_repo.json", "_part-1"}
    return path


def test_names_of_odd_keys_are_safe_and_differ() -> None:
    keys = {f"{one}/{two}" for one in ODD_PARTS for two in ODD_PARTS} | set(ODD_PARTS)
    assert len({check_path(key) for key in keys}) == len(keys)


PARTS = st.text(max_size=6) | st.text("aA.%_~/", max_size=4) | st.sampled_from(ODD_PARTS)
KEYS = PARTS | st.builds("{}/{}".format, PARTS, PARTS)


@given(st.lists(KEYS, min_size=2, max_size=6, unique=True))
def test_different_keys_have_different_names(keys: list[str]) -> None:
    assert len({check_path(key) for key in keys}) == len(keys)


@given(st.text(min_size=1, max_size=20))
def test_short_names_can_be_decoded(part: str) -> None:
    if len(path_of(f"a/{part}")) < LONGEST - 64:
        assert unquote(path_of(f"a/{part}").removeprefix("a/").removesuffix(".json")) == part


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,60}[a-z0-9]", fullmatch=True))
def test_ordinary_names_are_the_keys_themselves(part: str) -> None:
    if part.partition(".")[0] not in DEVICES:
        assert path_of(f"{POST}/{part}") == f"{POST}/{part}.json"


def test_names_are_cut_only_if_they_are_too_long() -> None:
    longest = "x" * (LONGEST - len(".json"))
    assert path_of(f"a/{longest}") == f"a/{longest}.json"
    cut = path_of(f"a/{longest}x").removeprefix("a/")
    assert len(cut) == LONGEST
    assert re.fullmatch(r"x+%~[0-9a-f]{64}\.json", cut)
    for length in range(60, 80):  # an escape is never cut
        begin = path_of("a/" + "x" * length + "É" * 40).partition("%~")[0]
        unquote(begin.removeprefix("a/"), errors="strict" if begin.endswith("%89") else "ignore")
        assert re.fullmatch(r"a/x+(%[0-9a-f]{2})*", begin)


# --- The folder -----------------------------------------------------------------------------------


@BOTH_WAYS
def test_each_record_has_a_file(run: Run, car: Path, tmp_path: Path, limit: str) -> None:
    target = tmp_path / "records"
    code, out, err = run("export", car, "--to-folder", target, "--mem-limit-mb", limit)
    assert (code, out) == (0, "")
    assert err == f"wrote 4 records of {DID}, rev {REV}, from {car} to files in {target}\n"
    files = tree(target)
    about = json.loads(files.pop("_repo.json"))
    assert about == {
        "did": DID,
        "rev": REV,
        "collections": [LIKE, POST],
        "selection": [],
    }
    assert sorted(files) == [f"{key}.json" for key in sorted(RECORDS)]
    exported = run("export", car, "-q")[1].encode()
    assert b"".join(files.values()) == exported


def test_files_have_the_json_of_the_api_if_it_is_asked_for(
    run: Run, car: Path, tmp_path: Path
) -> None:
    target = tmp_path / "records"
    flags = ["-q", "--json-form", "atproto", "--collection", POST]
    assert run("export", car, "--to-folder", target, *flags) == (0, "", "")
    files = tree(target)
    del files["_repo.json"]
    assert b"".join(files.values()) == run("export", car, *flags)[1].encode()


def test_every_key_gets_a_file_with_the_exact_key(run: Run, tmp_path: Path) -> None:
    keys = {f"{one}/{two}" for one in ODD_PARTS[::3] for two in ODD_PARTS[::2]} | set(ODD_PARTS[1:])
    repo = build_repo({key: {"key": key} for key in keys})
    path, target = tmp_path / "odd.car", tmp_path / "inner" / "records"
    target.parent.mkdir()
    path.write_bytes(repo.to_car())
    limit = ["--limit", "key_bytes=4096"]
    assert run("export", path, "-q", "--to-folder", target, *limit) == (0, "", "")
    files = tree(target)
    del files["_repo.json"]
    found = {name: json.loads(content) for name, content in files.items()}
    assert {name: line["key"] for name, line in found.items()} == {
        path_of(key): key for key in keys
    }
    assert all(line["cid"] == str(Cid(repo.records[line["key"]])) for line in found.values())
    assert [item.name for item in target.parent.iterdir()] == ["records"]


def test_second_run_gives_the_same_tree(run: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for target in (one, two, one):
        assert run("export", SAMPLE, "-q", "--to-folder", target) == (0, "", "")
    assert len(tree(one)) == 501
    assert tree(one) == tree(two)


def test_folder_is_brought_up_to_date(run: Run, car: Path, tmp_path: Path) -> None:
    target, newer = tmp_path / "records", tmp_path / "newer.car"
    newer.write_bytes(
        build_car({f"{POST}/1": {"text": "new"}, "a.b.c/1": {}}, did=DID, rev="3jzfcijpj2z2b")
    )
    assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
    (target / ".git").mkdir()
    (target / ".git" / "config").write_text("mine")
    (target / "README").write_text("mine, too")
    assert run("export", newer, "-q", "--to-folder", target) == (0, "", "")
    files = tree(target)
    assert files.pop(".git/config") == b"mine"
    assert files.pop("README") == b"mine, too"
    fresh = tmp_path / "fresh"
    assert run("export", newer, "-q", "--to-folder", fresh) == (0, "", "")
    assert files == tree(fresh)
    assert sorted(files) == ["_repo.json", "a.b.c/1.json", f"{POST}/1.json"]


def test_selection_does_not_remove_what_was_exported_before(
    run: Run, car: Path, tmp_path: Path
) -> None:
    """A folder of some collections can be brought up to date, and can become one of all."""
    target = tmp_path / "out"
    posts, likes = ["--collection", POST], ["--collection", LIKE]
    assert run("export", car, "-q", "--to-folder", target, *posts, *posts)[0] == 0
    assert run("export", car, "-q", "--to-folder", target, *posts) == (0, "", "")
    for flags in (likes, [*posts, "--range", "a", "b"]):
        code, _, err = run("export", car, "-q", "--to-folder", target, *flags)
        assert code == 1
        assert "records that are not selected now would be removed from it" in err
        assert (target / POST).is_dir()
    assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
    assert (target / LIKE).is_dir()
    assert run("export", car, "-q", "--to-folder", target, *posts)[0] == 1
    assert (target / LIKE).is_dir()


def test_what_a_killed_export_has_left_is_not_in_the_way(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, the next process often has the same number."""
    target, file = tmp_path / "records", tmp_path / f"{'n' * 240}.jsonl"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for left in (1, 2):  # of the first export, and of the second
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            patch.setattr(Path, "replace", killed)
            patch.setattr(Path, "rename", killed)
            patch.setattr("shutil.rmtree", killed)
            for where in (["--to-folder", target], ["-o", file]):
                assert run("export", car, *where)[0] == 130
        assert len([*tmp_path.glob("*.part")]) == len([*target.glob("_part-*")]) == left
        assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
        assert run("export", car, "-q", "-o", file) == (0, "", "")


def test_empty_folder_and_empty_repo_are_fine(run: Run, tmp_path: Path) -> None:
    path, target = tmp_path / "empty.car", tmp_path / "records"
    path.write_bytes(build_car({}, did=DID))
    target.mkdir()
    for _ in ("empty", "there"):
        assert run("export", path, "-q", "--to-folder", target) == (0, "", "")
        assert list(tree(target)) == ["_repo.json"]
        assert [item.name for item in target.iterdir()] == ["_repo.json"]


def test_folder_behind_a_link_is_written(run: Run, car: Path, tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "records"
    target.mkdir()
    link.symlink_to(target)
    assert run("export", car, "-q", "--to-folder", link) == (0, "", "")
    assert link.is_symlink()
    assert len(tree(target)) == 5


# --- What is refused ------------------------------------------------------------------------------


def refused(run: Run, car: Path, target: Path, reason: str) -> None:
    """Export is refused, and everything stays as it was."""
    before = [(path, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in target.rglob("*")]
    code, out, err = run("export", car, "--to-folder", target)
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {target}: ")
    assert reason in err
    assert err.count("\n") == 1
    assert [
        (path, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in target.rglob("*")
    ] == before


def test_folder_with_other_files_is_refused(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "records"
    target.mkdir()
    (target / "mine").write_text("mine")
    refused(run, car, target, "it is not empty, and has no _repo.json of an export before; name")


@pytest.mark.parametrize(
    "about",
    [
        "",
        "[]",
        "{}",
        "\xff",
        '{"did": 1, "rev": "x", "collections": []}',
        '{"did": "did:plc:someone", "rev": "x", "collections": [".."]}',
        '{"did": "did:plc:someone", "rev": "x", "collections": ["a/../.."]}',
        '{"did": "did:plc:someone", "rev": "x", "collections": [1]}',
        '{"did": "did:plc:someone", "rev": "x", "collections": 1}',
        "[" * 100_000,
    ],
    ids=["empty", "list", "map", "latin", "did", "parent", "path", "number", "no list", "deep"],
)
def test_folder_with_something_else_as_its_description_is_refused(
    run: Run, car: Path, tmp_path: Path, about: str
) -> None:
    target = tmp_path / "records"
    target.mkdir()
    (target / "_repo.json").write_text(about, "latin-1")
    refused(run, car, target, "its _repo.json is not that of an export")


def test_folder_of_another_account_is_refused(run: Run, car: Path, tmp_path: Path) -> None:
    target, other = tmp_path / "records", tmp_path / "other.car"
    other.write_bytes(build_car(RECORDS, did="did:plc:other"))
    assert run("export", other, "-q", "--to-folder", target) == (0, "", "")
    refused(run, car, target, f"it has the records of did:plc:other, not of {DID}")


@pytest.mark.parametrize("where", ["its collection", "another collection"])
def test_collection_with_files_of_a_person_is_refused(
    run: Run, car: Path, tmp_path: Path, where: str
) -> None:
    target = tmp_path / "records"
    assert run("export", car, "-q", "--to-folder", target, "--collection", POST) == (0, "", "")
    within = target / (POST if where == "its collection" else LIKE)
    within.mkdir(exist_ok=True)
    (within / "Mine.txt").write_text("mine")
    reason = f"{POST}/Mine.txt in it is not of an export" if within.name == POST else "in the way"
    refused(run, car, target, reason)


def test_file_is_not_a_folder(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "records"
    target.write_text("mine")
    refused(run, car, target, "Not a directory")
    assert target.read_text() == "mine"
    refused(run, car, tmp_path / "no" / "where", "No such file or directory")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "x"], "not allowed with argument"),
        (["--format", "jsonl"], "--to-folder writes JSON; leave out --format"),
        (["other.car"], "--to-folder takes one CAR"),
    ],
    ids=["output", "format", "two CARs"],
)
def test_what_does_not_go_with_a_folder_is_wrong_usage(
    *, run: Run, car: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    target = tmp_path / "records"
    code, out, err = run("export", "--to-folder", target, car, *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert not target.exists()


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there"])
def test_bad_repo_changes_nothing(run: Run, car: Path, tmp_path: Path, *, is_there: bool) -> None:
    repo = build_repo(RECORDS, did=DID)
    bad, target = tmp_path / "bad.car", tmp_path / "records"
    bad.write_bytes(repo.to_car(omit=[repo.records[max(RECORDS)]]))
    if is_there:
        assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
    before = tree(target)
    code, out, err = run("export", bad, "--to-folder", target)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert target.exists() == is_there
    assert tree(target) == before
    assert not is_there or sorted(item.name for item in target.iterdir()) == sorted(
        ["_repo.json", LIKE, POST]
    )


@pytest.mark.parametrize("step", range(6))
def test_update_that_fails_at_any_step_changes_nothing(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    target, newer = tmp_path / "records", tmp_path / "newer.car"
    newer.write_bytes(build_car({f"{POST}/1": {"text": "new"}, "a.b.c/1": {}}, did=DID))
    assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
    before, steps = tree(target), iter(range(100))

    def failing(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def moved(source: Path, place: Path) -> Path:
            if next(steps) == step:
                raise OSError(5, "Input/output error")
            return move(source, place)

        return moved

    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    code, out, err = run("export", newer, "--to-folder", target)
    if step == 5:  # two collections leave, two come, and the description
        assert (code, out) == (0, "")
        return
    assert (code, out, err) == (1, "", f"repo-stream: {target}: Input/output error\n")
    assert tree(target) == before
    assert sorted(item.name for item in target.iterdir()) == ["_repo.json", LIKE, POST]


# --- Nothing outside ------------------------------------------------------------------------------


@pytest.fixture
def known_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a stranger guess the name of the folder in which records are written."""

    def token(size: int) -> str:
        return "5eed" * (size // 2)

    monkeypatch.setattr("secrets.token_hex", token)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize(
    "name",
    [LIKE, POST, "_repo.json", f"{POST}/3jzfcijpj2z2a.json", "_part-5eed5eed"],
    ids=["collection", "another", "repo", "record", "part"],
)
@pytest.mark.parametrize("leads_to", ["folder", "file", "nothing"])
@pytest.mark.usefixtures("known_part")
def test_links_in_the_folder_lead_nowhere(
    run: Run, car: Path, tmp_path: Path, name: str, leads_to: str
) -> None:
    target, outside = tmp_path / "records", tmp_path / "outside"
    assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
    outside.mkdir()
    (outside / "mine").write_text("mine")
    link = target / name
    if link.is_dir():
        for file in link.iterdir():
            file.unlink()
        link.rmdir()
    link.unlink(missing_ok=True)
    link.symlink_to(outside / {"folder": "", "file": "mine", "nothing": "new"}[leads_to])
    code, out, err = run("export", car, "--to-folder", target)
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {target}: ")
    assert link.is_symlink()
    assert tree(outside) == {"mine": b"mine"}


def test_keys_that_lead_out_of_the_folder_stay_in_it(run: Run, tmp_path: Path) -> None:
    keys = ["../x", "../../x", "..", "/etc/x", "a/../../x", "a/..", "./x", "\\..\\x", "//x"]
    path, target = tmp_path / "repo.car", tmp_path / "in" / "records"
    path.write_bytes(build_car({key: {} for key in keys}))
    target.parent.mkdir()
    assert run("export", path, "-q", "--to-folder", target) == (0, "", "")
    assert len(tree(target)) == len(keys) + 1
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(target)]
    assert sorted(path.name for path in outside) == ["in", "repo.car"]


def test_what_was_written_can_be_read_as_json_lines(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "records"
    assert run("export", car, "-q", "--to-folder", target) == (0, "", "")
    files = sorted(target.glob("*/*.json"))
    assert lines("".join(file.read_text("utf-8") for file in files)) == lines(
        run("export", car, "-q")[1]
    )
