"""One line of a log: an S-expression with a number, a thread, words and fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from s2pt.errors import RecordingError

__all__ = ["PAGE", "Line", "parse"]

PAGE: Final = 4096
"""The one granule that casemate knows."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log.

    Attributes
    ----------
    name : str
        What it is.
    id, tid : int
        Its number and its thread.
    words : tuple of str
        What stands without a name, as the operation of a TLBI.
    fields : dict of str to str
        What has one, as written; `number` reads it.
    number_of : int
        The line in the file, counted from 1.
    """

    name: str
    id: int
    tid: int
    words: tuple[str, ...]
    fields: dict[str, str]
    number_of: int = 0

    def number(self, name: str) -> int:
        """Read a field in hex."""
        text = self.fields.get(name)
        if text is None:
            raise RecordingError(f"{self.name} has no {name}", line=self.number_of)
        return _hex(text, self.number_of)

    def __str__(self) -> str:
        parts = [self.name, f"(id {self.id:x})", f"(tid {self.tid:x})", *self.words]
        parts += [f"({name} {value})" for name, value in self.fields.items()]
        return f"({' '.join(parts)})"


_HEX = re.compile(r"(0x)?[0-9a-fA-F]{1,16}")
_TOKEN = re.compile(r'\s*(?:([()])|("[^"]*")|([^\s()"]+))')


def _hex(text: str, line: int) -> int:
    if not _HEX.fullmatch(text):
        raise RecordingError(f"{text!r} is no number", line=line)
    return int(text, 16)


def parse(text: str) -> Iterator[Line]:
    """Read the lines of a log.

    Raises
    ------
    RecordingError
        A line is no S-expression of this form.

    Examples
    --------
    >>> [line] = parse('(tlbi (id 1f) (tid 0) ipas2e1is (value 0x80000) (src "a.c:1"))')
    >>> line.name, line.id, line.words, hex(line.number("value"))
    ('tlbi', 31, ('ipas2e1is',), '0x80000')
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _line(line, number)


def _line(text: str, number: int) -> Line:
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise RecordingError("an unfinished text", line=number)
        tokens.append(match[1] or match[2] or match[3])
        at = match.end()
    if len(tokens) < 3 or tokens[0] != "(" or tokens[-1] != ")" or tokens[1] in "()":
        raise RecordingError("a line is (name (field value)...)", line=number)
    name, words, fields = tokens[1], [], {}
    at = 2
    while at < len(tokens) - 1:
        if tokens[at] != "(":
            if tokens[at] == ")":
                raise RecordingError("a parenthesis too many", line=number)
            words.append(tokens[at])
            at += 1
            continue
        if at + 3 >= len(tokens) or tokens[at + 3] != ")" or tokens[at + 1] in "()" or tokens[at + 2] in "()":
            raise RecordingError("a field is (name value)", line=number)
        if tokens[at + 1] in fields:
            raise RecordingError(f"{tokens[at + 1]} is there twice", line=number)
        fields[tokens[at + 1]] = tokens[at + 2]
        at += 4
    for needed in ("id", "tid"):
        if needed not in fields:
            raise RecordingError(f"{name} has no {needed}", line=number)
    ids = _hex(fields.pop("id"), number), _hex(fields.pop("tid"), number)
    return Line(name, *ids, tuple(words), fields, number)
