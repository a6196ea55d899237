"""Opening the files of a trace, packed or not, and saying where they are wrong."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any, NoReturn

from s2pt.errors import TraceError

__all__ = ["ADDRESSES", "WORDS", "beside", "fail", "read_bytes", "read_json", "read_lines", "within"]

_SHOWN = 100

ADDRESSES = 1 << 52
"""No physical address and no size of memory reaches this."""
WORDS = 1 << 64
"""No register does."""


def fail(where: str, line: int | None, message: str) -> NoReturn:
    """Raise a `TraceError` of one line that names file, line and what is wrong there."""
    place = where if line is None else f"{where}:{line}"
    raise TraceError(f"{place}: {message}")


def within(value: int, limit: int, low: int = 0) -> int:
    """Give `value` back if it is one of ``low..limit - 1``.

    Raises
    ------
    ValueError
        It is not.
    """
    if not low <= value < limit:
        raise ValueError(f"{shown(hex(value))} is not in {low:#x}..{limit - 1:#x}")
    return value


def shown(text: str) -> str:
    """Quote the text of a line for a message, cut where it is long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def beside(folder: Path, name: str) -> Path | None:
    """Find file `name` in `folder`, plain or with ``.xz``; None if there is neither."""
    for candidate in (folder / name, folder / f"{name}.xz"):
        try:
            if candidate.is_file():
                return candidate
        except OSError:  # a name that no file can have
            return None
    return None


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacking it if its name ends in ``.xz``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fail(path.name, None, f"cannot be read: {error.strerror or error}")
    if path.suffix != ".xz":
        return data
    try:
        return lzma.decompress(data)
    except (lzma.LZMAError, EOFError) as error:
        fail(path.name, None, f"is cut off or no xz file: {error}")


def read_lines(path: Path) -> list[str]:
    """Read a text file as lines without their ends."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        fail(path.name, data[: error.start].count(b"\n") + 1, f"expected text, found byte {data[error.start]:#04x}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file whose outermost value is an object."""
    text = "\n".join(read_lines(path))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(path.name, error.lineno, f"expected JSON: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        fail(path.name, None, f"expected JSON that can be read: {error}")
    if not isinstance(value, dict):
        fail(path.name, 1, f"expected a JSON object, found {type(value).__name__}")
    return value
