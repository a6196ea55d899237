"""Sizes, addresses and levels as callers give them: one grammar, one set of refusals."""

from __future__ import annotations

import re
from operator import index
from typing import SupportsIndex

from s2pt.errors import AddressError, LevelError, SizeError

__all__ = ["check_address", "check_level", "format_size", "parse_size"]

_SIZE = re.compile(r"\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s*(?:([KMGTP])(?:i?B)?|B)?\s*")
_UNITS = "KMGTP"


def parse_size(size: SupportsIndex | str) -> int:
    """Read a number of bytes.

    Parameters
    ----------
    size : int or str
        An integer, or a decimal or hex number with an optional unit: B, KiB, MiB, GiB, TiB, PiB. ``K``, ``KB`` and so
        on mean the same: every unit is a power of two.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    SizeError
        The text is no size, or one beyond 64 bits.
    AddressError
        The integer is negative or beyond 64 bits.
    TypeError
        `size` is a bool, a float or something else that is no integer.

    Examples
    --------
    >>> parse_size("2MiB") == parse_size("2M") == parse_size(2 << 20)
    True
    >>> parse_size("0x1000"), parse_size("64 KiB")
    (4096, 65536)
    >>> parse_size("1.5GiB")
    Traceback (most recent call last):
        ...
    s2pt.errors.SizeError: size '1.5GiB' is not a number of bytes such as 4096, '2MiB' or '1GiB'
    """
    if not isinstance(size, str):
        return check_address(size, "size")
    match = _SIZE.fullmatch(size)
    if match:
        number, unit = match.groups()
        base, digits = (16, number[2:]) if number[:2].lower() == "0x" else (10, number)
        digits = digits.lstrip("0") or "0"
        if len(digits) <= 20:  # Python itself refuses to read thousands of them
            value = int(digits, base)
            if unit:
                value <<= 10 * (_UNITS.index(unit) + 1)
            if value < 1 << 64:
                return value
    raise SizeError(f"size {_cut(size)!r} is not a number of bytes such as 4096, '2MiB' or '1GiB'")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def format_size(size: int) -> str:
    """Say a number of bytes in the largest unit that divides it.

    Examples
    --------
    >>> format_size(2 << 20), format_size(4096), format_size(513 << 12), format_size(100)
    ('2MiB', '4KiB', '2052KiB', '100B')
    """
    unit, shift = "B", 0
    for i, letter in enumerate(_UNITS, 1):
        if size and size % (1 << (10 * i)) == 0:
            unit, shift = f"{letter}iB", 10 * i
    return f"{size >> shift}{unit}"


def check_address(value: SupportsIndex, what: str = "IPA") -> int:
    """Take an address from the caller: anything with ``__index__`` that is no bool, from 0 to 2^64 - 1.

    Parameters
    ----------
    value : int
        The address, in bytes.
    what : str
        What the message calls it.

    Raises
    ------
    TypeError
        A bool, a float, or no integer at all.
    AddressError
        Negative, or beyond 64 bits.

    Examples
    --------
    >>> check_address(0x8000_0000) == 2 << 30
    True
    >>> check_address(-4096)
    Traceback (most recent call last):
        ...
    s2pt.errors.AddressError: IPA -0x1000 is negative
    >>> check_address(True)
    Traceback (most recent call last):
        ...
    TypeError: IPA must be an integer, not bool (True)
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an integer, not {type(value).__name__} ({value!r:.60})")
    number = index(value)
    if number < 0:
        raise AddressError(f"{what} {_cut(f'{number:#x}')} is negative")
    if number >= 1 << 64:
        raise AddressError(f"{what} {_cut(f'{number:#x}')} does not fit in 64 bits")
    return number


def check_level(level: SupportsIndex) -> int:
    """Take a level of the table from the caller: -1..3, as Arm counts.

    Examples
    --------
    >>> check_level(2)
    2
    >>> check_level(4)
    Traceback (most recent call last):
        ...
    s2pt.errors.LevelError: level 4 is not one of -1..3
    """
    if isinstance(level, bool) or not hasattr(level, "__index__"):
        raise TypeError(f"level must be an integer, not {type(level).__name__} ({level!r:.60})")
    number = index(level)
    if not -1 <= number <= 3:
        # Python itself refuses to write thousands of digits.
        shown = str(number) if -(1 << 64) < number < 1 << 64 else _cut(f"{number:#x}")
        raise LevelError(f"level {shown} is not one of -1..3")
    return number
