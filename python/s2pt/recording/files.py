"""Recordings in files: JSON, a value a line. The first tells of the table, each other is a step."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.setup import Setup

__all__ = ["is_recording", "parse", "read", "refusal", "save"]

FORMAT = "s2pt-recording"
VERSION = 1

NUMBERS = {
    "store": ("entry", "old", "new"),
    "tlbi_ipa": ("ipa",),
    "tlbi_range": ("ipa", "pages"),
    "tlbi_vmid": (),
    "tlbi_stage1": (),
    "dsb": (),
    "isb": (),
    "cache_data": ("pa", "size"),
    "cache_instruction": ("pa", "size"),
    "allocate": ("frame",),
    "fill": ("entry", "count", "first", "step"),
    "retire": ("frame",),
    "free": ("frame",),
    "publish": (),
    "return": (),
}
"""The numbers that a step of each kind has."""


def save(path: str | Path, setup: Setup, events: Sequence[Event], dropped: int) -> None:
    """Write a recording."""
    head = {FORMAT: VERSION, "events": len(events), "dropped": dropped, "setup": setup.to_json()}
    lines = [json.dumps(head)]
    lines += (
        json.dumps([event.sequence, event.thread, event.kind, dict(event.fields)], separators=(",", ":"))
        for event in events
    )
    data = ("\n".join(lines) + "\n").encode()
    path = Path(path)
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)


def read(path: str | Path) -> str:
    """Give the text of a file, plain or compressed."""
    data = Path(path).read_bytes()
    try:
        if data.startswith(b"\xfd7zXZ\x00"):
            data = lzma.decompress(data)
        return data.decode()
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise RecordingError(f"{Path(path).name} is no recording: {error}") from None


def is_recording(text: str) -> bool:
    """Tell whether a text says that it is a recording of this library."""
    return text.lstrip().startswith("{")


def parse(text: str) -> tuple[Setup, list[Event], int]:
    """Read what `save` wrote."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    head = _json(lines[0], 1)
    if not isinstance(head, dict) or head.get(FORMAT) != VERSION:
        raise RecordingError(f"this is no {FORMAT} of version {VERSION}", 1)
    dropped, count = head.get("dropped"), head.get("events")
    if not _is_number(dropped) or not _is_number(count):
        raise RecordingError("the numbers of events are missing", 1)
    if len(lines) - 1 != count:
        raise RecordingError(f"{count} steps were written, and there are {len(lines) - 1}")
    setup = Setup.from_json(head.get("setup"))
    return setup, [_event(_json(line, number), number) for number, line in enumerate(lines[1:], 2)], dropped


def _json(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise RecordingError("this is no JSON", number) from None


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _event(value: Any, number: int) -> Event:
    if not isinstance(value, list) or len(value) != 4:
        raise RecordingError("a step is [number, thread, kind, fields]", number)
    event = Event(*value)
    wrong = refusal(event)
    if wrong is not None:
        raise RecordingError(wrong, number)
    return event


def refusal(event: Event) -> str | None:
    """Say what is wrong with a step, if it is none that can have been taken."""
    kind, fields = event.kind, event.fields
    known = type(kind) is str and kind in NUMBERS and isinstance(fields, Mapping)
    if not known or not _is_number(event.sequence) or not _is_number(event.thread):
        return "a step is [number, thread, kind, fields]"
    for name in NUMBERS[kind]:
        if not _is_number(fields.get(name)):
            return f"{kind} has no number {name}"
    if kind == "dsb" and not isinstance(fields.get("domain"), str):
        return "dsb has no domain"
    level = fields.get("level")
    if level is not None and (not isinstance(level, int) or isinstance(level, bool) or not -1 <= level <= 3):
        return f"{level!r:.40} is no level"
    return None
