"""The forms of an exported file, and how its name says which one it has.

A name ends in `.jsonl`, `.csv`, `.parquet`, `.arrow` or `.arrows`, in lower or upper case; `.gz`
after one of the first two asks for compression. A name of another compression or table is refused,
and names with any other ending have JSON lines.

Arrow has two forms. Tools expect that of files, which they can read from anywhere, under `.arrow`,
and the stream under `.arrows`. The stream is also what goes to standard output, and under any other
name if Arrow is asked for.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["FORMS", "Columnar", "Form", "Kind", "choose_form", "is_arrow_file"]

#: What is in a file.
Kind: TypeAlias = Literal["jsonl", "csv", "parquet", "arrow"]
#: What is in a file that is written column by column, from batches of Arrow.
Columnar: TypeAlias = Literal["parquet", "arrow"]

_GZIP: Final = ".gz"
_NOT_WRITTEN: Final = frozenset(
    {".bz2", ".car", ".feather", ".ods", ".tsv", ".xlsx", ".xz", ".zip", ".zst"}
)
_KINDS: Final[dict[str, Kind]] = {
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
}
_WHY_NOT_GZIPPED: Final = {
    "parquet": "Parquet is compressed already",
    "arrow": "Arrow is read without unpacking it",
}


class Form(NamedTuple):
    """The form of a file.

    Attributes:
        kind: what is in it.
        gzipped: whether it is compressed as a whole.
    """

    kind: Kind
    gzipped: bool = False

    @property
    def name(self) -> str:
        """Its name on the command line, which is also how names of such files end."""
        return f"{self.kind}{_GZIP}" if self.gzipped else self.kind

    @property
    def is_text(self) -> bool:
        """Whether it can be shown on a terminal."""
        return not (self.columnar or self.gzipped)

    @property
    def columnar(self) -> Columnar | None:
        """Its kind, if it is `Columnar`."""
        match self.kind:
            case "parquet" | "arrow":
                return self.kind
            case _:
                return None

    @property
    def title(self) -> str:
        """Its name in messages."""
        return "gzip" if self.gzipped else {"parquet": "Parquet", "arrow": "Arrow"}[self.kind]


#: The forms by their names. The last two are not compressed as a whole.
FORMS: Final = {
    form.name: form
    for form in (
        Form("jsonl"),
        Form("jsonl", gzipped=True),
        Form("csv"),
        Form("csv", gzipped=True),
        Form("parquet"),
        Form("arrow"),
    )
}


def choose_form(path: str | None, asked: str | None) -> Form:
    """Return the form to write.

    Args:
        path: the file to write; `None` for standard output.
        asked: the name of the form that was asked for, if any.

    Raises:
        ValueError: if the name of the file says something else, or cannot be meant.
    """
    ending = "" if path is None else PurePath(path).suffix.casefold()
    if ending in _NOT_WRITTEN:
        raise ValueError(
            f"-o: {ending} is not written; the name may end in .jsonl, .csv, .parquet or .arrow: "
            f"{path}"
        )
    ending, gzipped = ("", False) if path is None else _by_name(path)
    kind = _KINDS.get(ending)
    if gzipped and kind in _WHY_NOT_GZIPPED:
        raise ValueError(f"{path}: {_WHY_NOT_GZIPPED[kind]}; leave out {_GZIP}")
    if asked is None:
        return Form(kind or "jsonl", gzipped)
    form = FORMS[asked]
    agrees = form == (kind, gzipped) if kind else form.gzipped or not gzipped
    if not agrees:
        named = f"{ending}{_GZIP if gzipped else ''}"
        raise ValueError(
            f"-o names a {named} file, but --format is {asked}: {path}; "
            "leave out --format, or change one of the two"
        )
    return form


def is_arrow_file(path: str | None) -> bool:
    """Return whether Arrow has the form of files under that name, not that of streams."""
    return path is not None and _by_name(path) == (".arrow", False)


def _by_name(path: str) -> tuple[str, bool]:
    """Return the ending that names a kind, or none, and whether compression is asked for."""
    name = PurePath(path).name.casefold()
    inner = name.removesuffix(_GZIP)
    return next((ending for ending in _KINDS if inner.endswith(ending)), ""), inner != name
