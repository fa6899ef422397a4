"""Whether the compiled forms of the hot modules run, and if not, why.

A hot module has a second form beside it, which Cython compiles: `ipld/_digest.pyx` beside
`ipld/digest.py`. It has the same functions under the same names, and its types are in a stub,
`ipld/_digest.pyi`. A form that has a stub alone is the source of its module as it is, compiled. At
its end the plain module imports the compiled functions, which replace its own:

    if COMPILED:
        from repo_stream.ipld._digest import agreeing, first_outside

So the plain module alone says what a function does, and everybody imports it from there. Constants
of both forms are in modules that both import. A wheel has all of the compiled forms or none
(`src/compile/hook.py`), and `REPO_STREAM_PURE=1` in the environment turns them off. The tests hold
both forms to the same properties, in one process.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final

__all__ = ["COMPILED", "how_it_runs", "why_not_compiled"]

_TURNED_OFF: Final = os.environ.get("REPO_STREAM_PURE", "") not in {"", "0"}

#: Whether the compiled forms are there and wanted.
COMPILED: Final = not _TURNED_OFF and find_spec("repo_stream.ipld._digest") is not None

# A wheel without compiled forms has this file: why it has none, and in a second line what to do
# about it, if anything can be done. The sources, and so an editable install, do not have it.
_REASON: Final = "_not_compiled.txt"


def how_it_runs() -> str:
    """Return whether it runs compiled, and if not, why, as `repo-stream --version` shows it."""
    if COMPILED:
        return "compiled"
    if _TURNED_OFF:
        return "plain Python: REPO_STREAM_PURE is set"
    return f"plain Python: {why_not_compiled()[0]}"


def why_not_compiled() -> tuple[str, str]:
    """Return why the package has no compiled forms, and what to do about it.

    The latter is empty if nothing has to be done. So are both if the package is compiled.
    """
    from importlib.resources import files  # noqa: PLC0415 - only for those who ask

    if find_spec("repo_stream.ipld._digest") is not None:
        return "", ""
    try:
        text = files("repo_stream").joinpath(_REASON).read_text("utf-8")
    except FileNotFoundError:
        return "an editable install", ""
    reason, _, remedy = text.strip().partition("\n")
    return reason, remedy
