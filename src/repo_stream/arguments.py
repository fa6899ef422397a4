"""What callers pass, checked at once: a `TypeError` or `ValueError` says what to pass instead.

Otherwise a wrong type would only be noticed where the value is used, by an error that does not name
the mistake, or never: `{}` would be taken for no limits at all, and NaN for a limit that nothing
exceeds.
"""

from __future__ import annotations

from math import isnan
from typing import SupportsIndex

__all__ = ["check_flag", "check_kind", "check_number", "check_whole"]


def check_number(name: str, value: object, *, least: int = 0, unit: str = "") -> None:
    """Check that an argument is a number, of `least` at least.

    Args:
        name: the name of the argument.
        value: what was passed.
        least: the least number.
        unit: of what the number is, such as ` of MiB`.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is less, or NaN.
    """
    if type(value) is int and value >= least:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, SupportsIndex)):
        raise TypeError(f"{name} must be a number{unit}, not {_shown(value)}")
    if isinstance(value, float) and isnan(value):
        raise ValueError(f"{name} must be a number{unit}, not NaN")
    _check_least(name, value if isinstance(value, float) else value.__index__(), least)


def check_whole(name: str, value: object, *, least: int = 0) -> None:
    """Check that an argument is a whole number, of `least` at least.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is less.
    """
    if type(value) is int and value >= least:
        return
    # What can be an index, as the whole numbers of numpy can; but so can a `bool`.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be a whole number, not {_shown(value)}")
    _check_least(name, value.__index__(), least)


def check_flag(name: str, value: object, *, third: str | None = None) -> None:
    """Check that an argument is `True` or `False`.

    Args:
        name: the name of the argument.
        value: what was passed.
        third: a text that it may be as well.

    Raises:
        TypeError: if it is anything else, such as `"no"`, which counts as true.
    """
    if isinstance(value, bool) or (third is not None and value == third):
        return
    choices = "True or False" if third is None else f"True, False or {third!r}"
    raise TypeError(f"{name} must be {choices}, not {_shown(value)}")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], *, such_as: str) -> None:
    """Check that an argument is an instance of a class, or of one of several.

    Args:
        name: the name of the argument.
        value: what was passed.
        kind: the class, or the classes.
        such_as: how to make an instance.

    Raises:
        TypeError: if it is anything else.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {such_as}, not {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check_least(name: str, value: float, least: int) -> None:
    if value < least:
        what = "must not be negative" if least == 0 else f"must be at least {least}"
        raise ValueError(f"{name} {what}, not {value}")
