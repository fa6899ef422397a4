"""The recipes of the README: each is short, and does what the line above it says."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import polars
import pytest

from repo_stream.testing import build_car
from support.readme import blocks, section

RECIPES = blocks(section("Recipes"), "python")
POSTS, FOLLOWS = "app.bsky.feed.post", "app.bsky.graph.follow"
ALICE, BOB = "did:web:alice.example.com", "did:plc:k2ed2d73opcgd6afistng4ee"
URI = f"at://{ALICE}/{POSTS}/3k1"


def recipe(title: str) -> str:
    """The program below a line that begins so."""
    found = re.search(
        rf"^{title}.*?\n\n```python\n(.*?)^```$", section("Recipes"), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[1]


def execute(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "README.md", "exec", dont_inherit=True), names)  # noqa: S102 - the point
    return names


def post(created_at: object, **fields: object) -> dict[str, object]:
    return {"$type": POSTS, "text": "hi", "createdAt": created_at} | fields


def follow(subject: str, created_at: str = "2023-04-01T12:00:00Z") -> dict[str, object]:
    return {"$type": FOLLOWS, "subject": subject, "createdAt": created_at}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that writes the CAR of some records to the directory that programs run in."""
    monkeypatch.chdir(tmp_path)

    def write(records: dict[str, object], name: str = "repo.car", did: str = ALICE) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(build_car(records, did=did))

    return write


Written = Callable[..., None]
Capture = pytest.CaptureFixture[str]


def test_each_recipe_is_short() -> None:
    assert len(RECIPES) == 7
    assert [each for each in RECIPES if len([*filter(None, each.splitlines())]) > 10] == []


def test_posts_are_counted_by_day(written: Written, capsys: Capture) -> None:
    times = ["2023-04-01T23:59:59Z", "2023-04-02T01:00:00+02:00", "2023-04-02T00:00:00Z", "soon"]
    records: dict[str, object] = {f"{POSTS}/{n}": post(time) for n, time in enumerate(times)}
    written(records | {f"{FOLLOWS}/1": follow(BOB)})
    execute(recipe("Posts per day"))
    rows = re.findall(r"│ *(\d{4}-\d\d-\d\d|NULL) *│ *(\d+) *│", capsys.readouterr().out)
    assert rows == [("2023-04-01", "2"), ("2023-04-02", "1"), ("NULL", "1")]


def test_followed_accounts_are_listed(written: Written, capsys: Capture) -> None:
    written(
        {
            f"{FOLLOWS}/3k1": follow(BOB),
            f"{FOLLOWS}/3k2": follow(ALICE, "not a time"),
            f"{POSTS}/3k1": post("2023-04-01T12:00:00Z"),
        }
    )
    execute(recipe("Who is followed"))
    assert capsys.readouterr().out.splitlines() == [
        f"{BOB} 2023-04-01 12:00:00+00:00",
        f"{ALICE} not a time",
    ]


def test_links_to_an_account_are_found(written: Written, capsys: Capture) -> None:
    mention = {"features": [{"$type": "app.bsky.richtext.facet#mention", "did": BOB}]}
    quote = {"record": {"uri": f"at://{BOB}/{POSTS}/3k1", "cid": "none"}}
    written(
        {
            f"{FOLLOWS}/3k1": follow(BOB),
            f"{FOLLOWS}/3k2": follow(ALICE),
            f"{POSTS}/3k1": post("", facets=[mention]),
            f"{POSTS}/3k2": post("", embed=quote),
            f"{POSTS}/3k3": post("", text=BOB + "!"),
        }
    )
    execute(recipe("What links to"))
    keys = [f"{POSTS}/3k1", f"{POSTS}/3k2", f"{FOLLOWS}/3k1"]
    assert capsys.readouterr().out.splitlines() == [f"at://{ALICE}/{key}" for key in keys]


def test_folder_of_cars_becomes_one_data_set(
    written: Written, tmp_path: Path, capsys: Capture
) -> None:
    written({f"{POSTS}/3k1": post(""), f"{FOLLOWS}/3k1": follow(BOB)}, "cars/alice.car")
    written({f"{POSTS}/3k2": post("")}, "cars/bob.car", did=BOB)
    whole = (tmp_path / "cars/bob.car").read_bytes()
    (tmp_path / "cars/cut.car").write_bytes(whole[:20])
    execute(recipe("A folder of CARs"))
    query = "from 'records/*/*.parquet' select collection, uri order by all"
    rows = duckdb.connect().execute(query).fetchall()
    alice = [(name, f"at://{ALICE}/{name}/3k1") for name in (POSTS, FOLLOWS)]
    assert rows == sorted([*alice, (POSTS, f"at://{BOB}/{POSTS}/3k2")])
    assert polars.read_parquet("records")["collection"].n_unique() == 2
    count, problem = capsys.readouterr().out.splitlines()
    assert count == "<1 problem>"
    assert "cut.car" in problem
    assert "TruncatedCar" in problem


def test_two_exports_are_compared(written: Written, capsys: Capture) -> None:
    old: dict[str, object] = {f"{POSTS}/3k{n}": post("", n=n) for n in range(5)}
    new = {**old, f"{POSTS}/3k1": post("edited"), f"{POSTS}/3k9": post("")}
    del new[f"{POSTS}/3k3"]
    written(old, "old.car")
    written(new, "new.car")
    execute(recipe("What has changed"))
    rows = re.findall(rf"│ *\S+/{POSTS}/(\w+) *│ *(\w+) *│ *(\w+) *│", capsys.readouterr().out)
    assert rows == [("3k1", "false", "false"), ("3k3", "false", "true"), ("3k9", "true", "false")]


async def test_upload_is_read_as_it_comes(written: Written, tmp_path: Path) -> None:
    profile = {"$type": "app.bsky.actor.profile", "displayName": "Alice", "key": b"hi"}
    written({"app.bsky.actor.profile/self": profile, f"{POSTS}/3k1": post("")})
    car = (tmp_path / "repo.car").read_bytes()

    async def upload(end: int | None = None) -> AsyncIterator[bytes]:
        for start in range(0, len(car[:end]), 100):
            yield car[:end][start : start + 100]

    transport = httpx.ASGITransport(execute(recipe("A FastAPI endpoint"))["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/profile", content=upload())
        cut = await client.post("/profile", content=upload(-1))
    assert answer.status_code == 200
    expected = profile | {"key": {"$bytes": "aGk"}}
    assert answer.json() == {"app.bsky.actor.profile/self": expected}
    assert cut.status_code == 422
    assert "the CAR ends" in cut.text


def test_cell_of_a_notebook_shows_a_table(written: Written) -> None:
    langs = [["en"], ["en", "pt"], ["pt"], ["en"]]
    written({f"{POSTS}/3k{n}": post("", langs=each) for n, each in enumerate(langs)})
    *before, last = ast.parse(recipe("A cell of a notebook")).body
    assert isinstance(last, ast.Expr)
    names = execute("\n".join(ast.unparse(each) for each in before))
    shown = eval(ast.unparse(last), names)  # noqa: S307 - as a notebook does
    assert shown.rows() == [("en", 3), ("pt", 2)]
