"""Lines of ftrace text, as the kernel's `trace` file prints them.

A line is ``TASK-TID [CPU] FLAGS SECONDS.MICROS: EVENT: TEXT``. The task name may hold spaces, slashes, dashes and
brackets (``CPU 0/KVM-230``), so it is taken greedily up to the last ``-TID [CPU]``. The header says how many events the
buffers held and how many were written; when the two differ, or when fewer lines follow than announced, events are
missing, and every state computed from the rest would be wrong.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from s2pt.trace.files import ADDRESSES, WORDS, fail, read_lines, shown, within

__all__ = ["MARK_EVENTS", "Line", "hex_after", "key_values", "read_ftrace"]

MARK_EVENTS = frozenset({"tracing_mark_write", "print"})
"""What the kernel calls a line that user space wrote into the trace."""

_LINE = re.compile(
    r"\s*(?P<task>.+)-(?P<tid>\d{1,10})\s+(?:\(\s*[\d-]+\)\s+)?\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?"
    r"(?P<s>\d{1,12})\.(?P<us>\d{6}): (?P<event>\w+): ?(?P<text>.*)"
)
_HEADER = "'# entries-in-buffer/entries-written: N/N'"
_ENTRIES = re.compile(r"#\s*entries-in-buffer/entries-written:\s*(\d{1,18})/(\d{1,18})")
_LOST = re.compile(r"CPU:(\d+) \[LOST (\d+) EVENTS\]")


class Line(NamedTuple):
    """One event line: when, by whom, what; and where it stands, for messages."""

    time_us: int
    tid: int
    event: str
    text: str
    file: str
    number: int


def read_ftrace(path: Path, *, allow_lost: bool = False) -> tuple[list[Line], list[str]]:
    """Read the event lines of one ftrace text file.

    Parameters
    ----------
    path : Path
        The file, plain or ``.xz``.
    allow_lost : bool
        Accept a trace in which the kernel says that events were lost.

    Returns
    -------
    lines : list of Line
        In the order of the file, which is the order of time.
    notes : list of str
        Losses that were allowed.

    Raises
    ------
    TraceError
        No ftrace text, a line that is none, events lost, or fewer lines than the header announces.
    """
    name = path.name
    lines: list[Line] = []
    notes: list[str] = []
    announced: int | None = None
    previous = 0
    rows = read_lines(path)
    if rows.pop() != "":
        fail(name, len(rows) + 1, "expected a whole line, found the end of the file: it is cut off")
    for number, row in enumerate(rows, 1):
        if row.startswith("#"):
            match = _ENTRIES.match(row)
            if match:
                announced, written = int(match[1]), int(match[2])
                if announced != written:
                    _lost(name, number, f"{written - announced:,} of {written:,} events were lost", allow_lost, notes)
            continue
        if announced is None:
            fail(name, number, f"expected {_HEADER} first, found {shown(row)}")
        lost = _LOST.match(row)
        if lost:
            _lost(name, number, f"{lost[2]} events of CPU {lost[1]} were lost", allow_lost, notes)
            continue
        match = _LINE.fullmatch(row)
        if match is None:
            fail(name, number, f"expected 'TASK-TID [CPU] FLAGS TIME: EVENT: TEXT', found {shown(row)}")
        time_us = int(match["s"]) * 1_000_000 + int(match["us"])
        if time_us < previous:
            fail(name, number, f"expected a time from {_seconds(previous)} on, found {_seconds(time_us)}")
        previous = time_us
        lines.append(Line(time_us, int(match["tid"]), match["event"], match["text"], name, number))
    if announced is None:
        fail(name, len(rows) or 1, f"expected {_HEADER} first, found no such line")
    if len(lines) < announced:
        fail(name, len(rows), f"expected {announced:,} events, found {len(lines):,}: the file is cut off")
    if len(lines) > announced:
        fail(name, len(rows), f"expected {announced:,} events, found {len(lines):,}: more than one trace in the file")
    return lines, notes


def _lost(name: str, number: int, what: str, allowed: bool, notes: list[str]) -> None:
    if not allowed:
        fail(name, number, f"{what}, so the tables cannot be followed: expected a complete trace")
    notes.append(f"{name}: {what}")


def _seconds(time_us: int) -> str:
    return f"{time_us // 1_000_000}.{time_us % 1_000_000:06}"


HEX = "((?:0x)?[0-9a-f]{1,16})"
"""A number in a tracepoint's text, as a group of a pattern."""
_PAIR = re.compile(r"(?<!\S)([^\s=]*)=(\S*)")
# What the numbers of a kprobe are below; all others are words.
_LIMITS = {"addr": ADDRESSES, "size": ADDRESSES, "phys": ADDRESSES, "gfn_offset": ADDRESSES >> 12, "slot": 1 << 16}


def key_values(line: Line, *keys: str) -> list[int]:
    """Take the numbers named `keys` out of a kprobe's ``key=value`` text, decimal or with 0x."""
    found = dict(_PAIR.findall(line.text))
    values = []
    for key in keys:
        text = found.get(key)
        try:
            low, limit = (-(1 << 63), 1 << 63) if key == "ret" else (0, _LIMITS.get(key, WORDS))
            values.append(within(int(text or "", 0), limit, low))
        except ValueError:
            fail(line.file, line.number, f"expected {line.event} with {key}=NUMBER, found {shown(line.text)}")
    return values


def hex_after(line: Line, pattern: re.Pattern[str], expected: str) -> list[int]:
    """Take the groups of `pattern`, each of them `HEX`, out of a tracepoint's text."""
    match = pattern.fullmatch(line.text)
    if match is None:
        fail(line.file, line.number, f"expected {line.event} as '{expected}', found {shown(line.text)}")
    return [int(group, 16) for group in match.groups()]
