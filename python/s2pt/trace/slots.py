"""Memory slots over time, and host address ranges translated by them.

A notifier speaks of host addresses of the whole process. KVM intersects the range with every slot, rounds outward to
pages, and acts on what is left; few ranges touch a slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from s2pt.trace.events import SlotChange

__all__ = ["READ_ONLY", "Slot", "SlotEvent", "Slots"]

LOG_DIRTY = 1
"""KVM_MEM_LOG_DIRTY_PAGES."""
READ_ONLY = 2
"""KVM_MEM_READONLY."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of guest memory: `size` bytes from `ipa` lie at host address `hva`."""

    id: int
    ipa: int
    size: int
    hva: int
    flags: int

    @property
    def logging(self) -> bool:
        """Whether dirty pages are logged."""
        return bool(self.flags & LOG_DIRTY)

    @property
    def read_only(self) -> bool:
        """Whether a write exits to user space."""
        return bool(self.flags & READ_ONLY)

    def __contains__(self, ipa: int) -> bool:
        return self.ipa <= ipa < self.ipa + self.size


@dataclass(frozen=True, slots=True)
class SlotEvent:
    """A change of one slot; `slot` is the slot as it is afterwards (for a deletion, as it was)."""

    time_us: int
    change: SlotChange
    slot: Slot
    line: int = 0


class Slots:
    """The slots at one moment; `apply` moves it on."""

    def __init__(self) -> None:
        self._by_id: dict[int, Slot] = {}

    def apply(self, event: SlotEvent) -> None:
        """Carry out one change."""
        if event.change is SlotChange.DELETE:
            self._by_id.pop(event.slot.id, None)
        else:
            self._by_id[event.slot.id] = event.slot

    def get(self, slot_id: int) -> Slot | None:
        """Give the slot with this number, if there is one now."""
        return self._by_id.get(slot_id)

    def at(self, ipa: int) -> Slot | None:
        """Give the slot that holds `ipa`, if any."""
        for slot in self._by_id.values():
            if ipa in slot:
                return slot
        return None

    def translate(self, start: int, end: int, page: int) -> Iterator[tuple[Slot, int, int]]:
        """Translate host addresses ``[start, end)``: for each slot touched the slot, first IPA and bytes, in pages."""
        for slot in self._by_id.values():
            low, high = max(start, slot.hva), min(end, slot.hva + slot.size)
            if low < high:
                first = (low - slot.hva) // page * page
                last = -(-(high - slot.hva) // page) * page
                yield slot, slot.ipa + first, last - first
