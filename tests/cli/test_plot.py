"""`inspect --plot`: a picture, complete or not at all, where what strangers wrote is only text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from xml.parsers.expat import ParserCreate

import pytest

from repo_stream.cli import inspection
from repo_stream.testing import build_car
from support.cli import DID, POST, REV, Run

#: Returns the lines of text that are drawn of a repo with these keys.
Drawn = Callable[..., list[str]]

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(run: Run, tmp_path: Path) -> Drawn:
    def drawn(*keys: str, did: str = DID) -> list[str]:
        path, picture = tmp_path / "repo.car", tmp_path / "repo.svg"
        path.write_bytes(build_car({key: {"n": 1} for key in keys}, did=did, rev=REV))
        code, _, err = run("inspect", path, "--plot", picture)
        shown = did if len(did) <= 60 else f"{did[:27]}...{did[-30:]}"
        assert (code, err) == (0, f"drew {shown}, rev {REV}, in {picture}\n")
        comments: list[str] = []
        parser = ParserCreate()
        # matplotlib draws texts as lines, and writes each as a comment.
        parser.CommentHandler = comments.append
        parser.ParseFile(BytesIO(picture.read_bytes()))
        return [comment.strip() for comment in comments]

    return drawn


def draws(monkeypatch: pytest.MonkeyPatch, result: object) -> None:
    """Leave out the drawing, which takes a second."""

    def draw(*_: object) -> object:
        return result

    monkeypatch.setattr(inspection, "draw", draw)


def test_picture_has_account_collections_times_and_sizes(drawn: Drawn) -> None:
    dated = ["3jzfcijpj2z2a", "3jzfcijpj2z2b", "3k22222222222"]
    texts = drawn(*(f"{POST}/{rkey}" for rkey in dated), "a.b.c/self")
    assert texts[:2] == [DID, f"rev {REV}, 2023-06-30 15:03 UTC  |  4 records  |  16 B"]
    assert {"Records by day, by the time in the rkey", "Size by collection"} <= {*texts}
    assert {"app.bsky.feed.post", "a.b.c", "Not shown: 1 without a time in its rkey"} <= {*texts}


def test_texts_of_strangers_are_no_formulas_and_no_markup(drawn: Drawn) -> None:
    odd = ["$\\frac{a}{b}$", "_under", "</g><script>", "-->", "\x1b[2J", "\u202eabc", "a" * 300]
    texts = drawn(*(f"{name}/3jzfcijpj2z2a" for name in odd[:6]), did=f"did:web:{'a' * 2000}")
    shown = " ".join(texts)
    assert r"$\\frac{a}{b}$" in texts
    assert shown.isprintable()
    assert max(map(len, texts)) <= 80


def test_hours_are_shown_with_their_day(drawn: Drawn) -> None:
    texts = drawn(f"{POST}/3ke3zibmys222")  # two hours before midnight
    assert "Records by hour, by the time in the rkey" in texts
    hours = [text for text in texts if re.fullmatch(r"\d\d:\d\d", text)]
    days = [text for text in texts if re.fullmatch(r"\d{4}-\d\d-\d\d", text)]
    midnight = hours.index("00:00")
    assert 0 < midnight < len(hours) - 1
    assert days[:midnight] == ["2023-11-13"] * midnight
    assert days[midnight:] == ["2023-11-14"] * (len(hours) - midnight)


def test_many_collections_are_folded(drawn: Drawn) -> None:
    texts = drawn(*(f"a.b.c{number}/3jzfcijpj2z2a" for number in range(260)))
    assert "254 others" in texts
    assert len([text for text in texts if text.startswith("a.b.c")]) == 2 * 6


@pytest.mark.parametrize("keys", [[], [f"{POST}/self"]], ids=["no records", "no times"])
def test_little_is_drawn_as_well(drawn: Drawn, keys: list[str]) -> None:
    said = "No record has a time in its rkey" if keys else "No records"
    assert said in drawn(*keys)


def test_same_repo_gives_the_same_file(run: Run, car: Path, tmp_path: Path) -> None:
    names = ["one.svg", "two.svg", "one.PNG"]
    for name in names:
        assert run("inspect", car, "--plot", tmp_path / name, "-q")[::2] == (0, "")
    one, two, raster = ((tmp_path / name).read_bytes() for name in names)
    assert one == two
    assert raster.startswith(b"\x89PNG")


def test_report_comes_with_the_picture(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws(monkeypatch, b"drawn")
    plain = run("inspect", car, "--json")[1]
    assert run("inspect", car, "--json", "--plot", tmp_path / "a.svg")[1] == plain
    assert json.loads(plain)["did"] == DID


def test_settings_of_the_user_and_of_the_process_stay(drawn: Drawn) -> None:
    mpl = import_module("matplotlib")
    with mpl.rc_context({"text.usetex": True, "svg.fonttype": "none"}):
        assert POST in drawn(f"{POST}/3jzfcijpj2z2a")
        assert mpl.rcParams["text.usetex"] is True
    assert "matplotlib.pyplot" not in sys.modules


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pdf", "a", "-", ""], ids=["pdf", "none", "stdout", "empty"])
def test_other_forms_are_refused(run: Run, car: Path, name: str) -> None:
    code, out, err = run("inspect", car, "--plot", name)
    assert (code, out) == (2, "")
    assert err.endswith(f"argument --plot: name a .png or .svg file, not {name!r}\n")


def test_several_cars_are_refused(run: Run, car: Path, tmp_path: Path) -> None:
    code, out, err = run("inspect", car, car, "--plot", tmp_path / "a.png")
    assert (code, out) == (2, "")
    assert err.endswith("error: --plot draws one CAR; draw each into a file of its own\n")


def test_car_itself_is_not_overwritten(run: Run, car: Path) -> None:
    picture = car.rename(car.with_suffix(".png"))
    before = picture.read_bytes()
    code, _, err = run("inspect", picture, "--plot", picture)
    assert (code, picture.read_bytes()) == (2, before)
    assert "--plot names the CAR itself, which would be overwritten" in err


def test_extra_is_missed_before_anything_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("inspect", tmp_path / "nowhere.car", "--plot", tmp_path / "a.png")
    assert (code, out) == (2, "")
    assert re.search(r"--plot needs the package 'matplotlib' of the extra \S+\[plot\]", err)


def test_picture_that_cannot_be_written_leaves_nothing(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws(monkeypatch, b"drawn")
    code, out, err = run("inspect", car, "--plot", tmp_path / "nowhere" / "a.png")
    assert (code, err) == (1, f"repo-stream: {tmp_path}/nowhere/a.png: No such file or directory\n")
    assert out.startswith("DID")
    draws(monkeypatch, "no bytes")
    with pytest.raises(TypeError):
        run("inspect", car, "--plot", tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == [car.name]
