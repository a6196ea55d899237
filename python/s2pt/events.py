"""What a recording table says about its maintenance: `Event`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Event"]


def describe(kind: str, fields: object) -> str:
    """Say in one line what happened: addresses and values in hex, levels and counts not."""
    if not isinstance(fields, Mapping):  # a handmade step may have anything
        return f"{kind} {fields!r}"
    parts = [f"{kind}"]
    for name, value in fields.items():
        number = isinstance(value, int) and not isinstance(value, bool) and name not in ("level", "pages")
        parts.append(f"{name}={value:#x}" if number else f"{name}={value}")
    return " ".join(parts)


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """One step that an operation took.

    Attributes
    ----------
    sequence : int
        Its place in the order of all steps of the table.
    thread : int
        Which thread took it; threads are numbered in the order in which they first did something.
    kind : str
        ``"store"``, ``"tlbi_ipa"``, ``"tlbi_range"``, ``"tlbi_vmid"``, ``"tlbi_stage1"``, ``"dsb"``, ``"isb"``,
        ``"cache_data"``, ``"cache_instruction"``, ``"allocate"``, ``"fill"``, ``"retire"``, ``"free"``,
        ``"publish"`` or ``"return"`` (the end of a call that did any of the others).
    fields : dict
        What belongs to a step of this kind: ``entry``, ``old``, ``new`` and ``release`` of a store; ``ipa``, ``pages``,
        ``level`` and ``scope`` of a TLBI; ``domain`` of a DSB; ``pa`` and ``size`` of a cache operation; ``frame`` and
        ``level`` of a table frame; ``entry``, ``count``, ``first`` and ``step`` of a fill, which says what stands in
        a table that nobody can reach yet: `count` entries from `entry` on, each by `step` more than the one before.

    Examples
    --------
    >>> Event(7, 0, "tlbi_ipa", {"ipa": 0x8000_0000, "level": 2, "scope": "broadcast"})
    Event(7, thread=0, tlbi_ipa ipa=0x80000000 level=2 scope=broadcast)
    """

    sequence: int
    thread: int
    kind: str
    fields: Mapping[str, int | str | bool | None]

    def __repr__(self) -> str:
        return f"Event({self.sequence}, thread={self.thread}, {describe(self.kind, self.fields)})"
