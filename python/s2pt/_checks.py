"""What a caller gave, looked at before it is used: of the right type, in its range.

The parts in Python calculate with what they are given; without a look, what is wrong would show as an AttributeError or
a KeyError deep inside, or as a run without end.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any, TypeVar

from s2pt.errors import OptionError

__all__ = [
    "check_each",
    "check_heeded",
    "check_integer",
    "check_kind",
    "check_pairs",
    "check_real",
    "check_type",
    "nanoseconds",
]

T = TypeVar("T")
U = TypeVar("U")


def check_type(value: object, kind: type[T], what: str) -> T:
    """Take a value of a class.

    Examples
    --------
    >>> check_type("page", str, "title")
    'page'
    >>> check_type(7, str, "title")
    Traceback (most recent call last):
        ...
    TypeError: title must be str, not int
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be {kind.__name__}, not {type(value).__name__}")
    return value


def check_kind(value: T, kind: Any, what: str) -> T:
    """Take a value of an abstract class: `check_type` for what is known by what it can do.

    Examples
    --------
    >>> check_kind((1, 2), Iterable, "vcpus")
    (1, 2)
    """
    check_type(value, kind, what)
    return value


def check_each(values: Any, kind: type[T], what: str) -> list[T]:
    """Take all of several values of a class.

    Examples
    --------
    >>> check_each((1, True), int, "seeds")
    [1, True]
    >>> check_each([1, "2"], int, "seeds")
    Traceback (most recent call last):
        ...
    TypeError: each of seeds must be int, not str
    """
    return [check_type(value, kind, f"each of {what}") for value in check_kind(values, Iterable, what)]


def check_pairs(values: Any, one: type[T], other: type[U], what: str) -> list[tuple[T, U]]:
    """Take pairs of values of two classes.

    Examples
    --------
    >>> check_pairs([("a", 1)], str, int, "options")
    [('a', 1)]
    >>> check_pairs([("a", 1, 2)], str, int, "options")
    Traceback (most recent call last):
        ...
    TypeError: each of options must be a pair of str and int
    """
    pairs: list[tuple[T, U]] = []
    for pair in check_kind(values, Iterable, what):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"each of {what} must be a pair of {one.__name__} and {other.__name__}")
        pairs.append((check_type(pair[0], one, f"first of each of {what}"),
                      check_type(pair[1], other, f"second of each of {what}")))  # fmt: skip
    return pairs


def check_integer(value: Any, what: str, least: int, most: int) -> int:
    """Take an integer: anything with ``__index__`` that is no bool.

    Examples
    --------
    >>> check_integer(7, "draws", 2, 1000)
    7
    >>> check_integer(1, "draws", 2, 1000)
    Traceback (most recent call last):
        ...
    s2pt.errors.OptionError: draws must be in 2..1000, not 1
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}")
    number = int(index(value))
    if not least <= number <= most:
        shown = str(number) if abs(number) < 1 << 64 else "what it is: its size is beyond 64 bits"
        raise OptionError(f"{what} must be in {least}..{most}, not {shown}")
    return number


def check_heeded(what: str, given: object, default: object, heeded: bool, why: str) -> None:
    """Refuse an option that was given, to mean something, where it means nothing.

    The rule for every option of every run and command: what is at its default is never refused.

    Examples
    --------
    >>> check_heeded("readers", 1, 1, False, "the kernel has all pages")
    >>> check_heeded("readers", 2, 1, False, "the kernel has all pages")
    Traceback (most recent call last):
        ...
    s2pt.errors.OptionError: readers does nothing here: the kernel has all pages
    """
    if not heeded and given != default:
        raise OptionError(f"{what} does nothing here: {why}")


def nanoseconds(value: Any, what: str) -> int:
    """Take seconds, and give them in whole nanoseconds.

    Examples
    --------
    >>> nanoseconds(0.25, "think_s")
    250000000
    """
    return round(check_real(value, what, 0, 9e9) * 1e9)


def check_real(value: Any, what: str, least: float, most: float) -> float:
    """Take a number that has a place on the line: no bool, no NaN.

    Examples
    --------
    >>> check_real(0.5, "seconds", 0, 10)
    0.5
    >>> check_real(float("nan"), "seconds", 0, 10)
    Traceback (most recent call last):
        ...
    s2pt.errors.OptionError: seconds must be in 0..10, not nan
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}")
    number = float(value)
    if not least <= number <= most:
        raise OptionError(f"{what} must be in {least:g}..{most:g}, not {number:g}")
    return value if type(value) in (int, float) else number
