"""Fields of a recorded step."""

from __future__ import annotations

from s2pt.errors import RecordingError
from s2pt.events import Event

__all__ = ["number"]


def number(event: Event, name: str) -> int:
    """Give a field that must be a number."""
    value = event.fields.get(name)
    if not isinstance(value, int):
        raise RecordingError(f"step {event.sequence} ({event.kind}) has no {name}")
    return value
