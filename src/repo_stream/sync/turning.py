"""Docstrings and annotations of the async face, turned into those of the sync one."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

__all__ = ["NAMES", "turned", "turned_annotation"]

#: Methods that have another name here.
NAMES: Final = {"aclose": "close"}

# What sentences and examples say, and what they say here. A space may also be the end of a line.
_WORDS: Final = (
    ("It belongs to the event loop that it is used in.", "Several threads can use it at once."),
    (
        "an async generator, such as `aiter_bytes` of httpx, ends if it is cancelled",
        "a generator ends if it is interrupted",
    ),
    (
        "To leave such a loop early, use `contextlib.aclosing`, as for every async generator.",
        "To leave such a loop early closes it as well, as soon as nothing refers to it.",
    ),
    ("An async generator", "A generator"),
    ("; a `DiskStore`, which is empty again at the end and stays open", ""),
    ("If a call is cancelled", "If Ctrl-C interrupts a call"),
    ("if another task is waiting", "if another thread is waiting"),
)

# What is left out everywhere, and names.
_CODE: Final = (
    (r"\basync (?=with|for|def|iter|generator)", ""),
    (r"\bawait ", ""),
    (r"anyio\.run\((\w+), ", r"\1("),
    (r"\bAsync(?=Iterator|Iterable|Generator)", ""),
    (r"\baclose\b", "close"),
)


def turned(text: str) -> str:
    """Return the docstring of the sync sibling.

    Example:
        >>> turned("`async with open_car(path) as repo`, `await repo.get(key)`")
        '`with open_car(path) as repo`, `repo.get(key)`'
    """
    for words, instead in _WORDS:
        text = re.sub(re.escape(words).replace(r"\ ", r"\s+"), partial(_wrapped, instead), text)
    for pattern, instead in _CODE:
        text = re.sub(pattern, instead, text)
    return text


def _wrapped(instead: str, found: re.Match[str]) -> str:
    """Return a text with its line broken about where that was broken which it replaces."""
    broken = re.search(r"\n\s*", found[0])
    space = -1 if broken is None else instead.rfind(" ", 0, broken.start() + 1)
    if broken is None or space < 0:
        return instead
    return f"{instead[:space]}{broken[0]}{instead[space + 1 :]}"


def turned_annotation(text: str) -> str:
    """Return the annotation of the sync sibling.

    Example:
        >>> turned_annotation("AbstractAsyncContextManager[Repo[T]]")
        'AbstractContextManager[Repo[T]]'
    """
    text = text.replace("AbstractAsyncContextManager", "AbstractContextManager")
    return re.sub(r"\bAsync(?=Iterator|Generator)", "", text)
