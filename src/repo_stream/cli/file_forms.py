"""The forms of an exported file, and how its name says which one it has.

A name ends in `.jsonl`, `.csv` or `.parquet`, in lower or upper case; `.gz` after one of the first
two asks for compression. A name of another compression or table is refused, and names with any
other ending have JSON lines.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["FORMS", "Form", "choose_form"]

Kind: TypeAlias = Literal["jsonl", "csv", "parquet"]

_GZIP: Final = ".gz"
_NOT_WRITTEN: Final = frozenset({".bz2", ".car", ".ods", ".tsv", ".xlsx", ".xz", ".zip", ".zst"})
_KINDS: Final[tuple[Kind, ...]] = ("jsonl", "csv", "parquet")


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
        return self.kind != "parquet" and not self.gzipped


#: The forms by their names. Parquet has a compression of its own.
FORMS: Final = {
    form.name: form
    for form in (
        Form("jsonl"),
        Form("jsonl", gzipped=True),
        Form("csv"),
        Form("csv", gzipped=True),
        Form("parquet"),
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
            f"-o: {ending} is not written; the name may end in .jsonl, .csv or .parquet: {path}"
        )
    kind, gzipped = (None, False) if path is None else _by_name(path)
    if kind == "parquet" and gzipped:
        raise ValueError(f"{path}: Parquet is compressed already; leave out {_GZIP}")
    if asked is None:
        return Form(kind or "jsonl", gzipped)
    form = FORMS[asked]
    agrees = form == (kind, gzipped) if kind else form.gzipped or not gzipped
    if not agrees:
        ending = f".{Form(kind, gzipped).name}" if kind else _GZIP
        raise ValueError(
            f"-o names a {ending} file, but --format is {asked}: {path}; "
            "leave out --format, or change one of the two"
        )
    return form


def _by_name(path: str) -> tuple[Kind | None, bool]:
    name = PurePath(path).name.casefold()
    inner = name.removesuffix(_GZIP)
    kind: Kind | None = next((kind for kind in _KINDS if inner.endswith(f".{kind}")), None)
    return kind, inner != name
