"""What a thread owes for the translations that it has changed: barriers and TLBIs, in order.

A region is what was cached from one entry, or from neighbours that lost a right alike. It goes through

    changed -> DSB -> TLBI of stage 2 that covers it -> DSB ISH -> TLBI of stage 1 -> DSB ISH -> done

all of them by the thread that changed it. VMALLS12E1IS is of both stages, and needs one DSB after it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from s2pt.events import Event
from s2pt.recording.tables import Table, maps_nothing

__all__ = ["Debtor", "Region"]

NO_HINT = None
EVERYTHING = (0, 1 << 64)


@dataclass(slots=True, eq=False)
class Region:
    """Addresses of which CPUs may hold an old translation.

    `level` is that of the leaves; a `table` is one that was unlinked, which is cached in leaves of any level and in
    walk caches. `local`: it is enough that the thread's own CPU forgets.
    """

    step: int
    entry: int
    start: int
    end: int
    level: int
    table: Table | None = None
    local: bool = False
    lax: bool = False
    """The caller issues the TLBI, by any later call."""
    ready_at: int | None = None
    stage2: bool = False
    stage1_at: int = 0
    done: bool = False


@dataclass(slots=True)
class _Issued:
    start: int
    end: int
    level: int | None
    broadcast: bool
    both_stages: bool


class Debtor:
    """The regions of one thread."""

    def __init__(self, granule: int, size_of: dict[int, int]) -> None:
        self._granule = granule
        self._size = size_of
        self.regions: list[Region] = []
        self._issued: list[_Issued] = []
        self._stage1 = [0, 0]  # how many of stage 1 there were: broadcast, any

    def add(self, region: Region) -> None:
        """Owe one more; joined with its neighbour if nothing was done for either."""
        last = self.regions[-1] if self.regions else None
        alike = (
            last is not None
            and region.table is None
            and last.table is None
            and not region.entry
            and not last.entry
            and last.ready_at is None
            and (last.level, last.local, last.lax, last.end) == (region.level, region.local, region.lax, region.start)
        )
        if last is not None and alike:
            last.end = region.end
        else:
            self.regions.append(region)

    def settle(self, region: Region) -> None:
        """Owe it no longer."""
        self.regions.remove(region)
        self._prune()

    def forget_done(self) -> None:
        """Drop what needs nothing more and is nobody's entry."""
        self.regions = [region for region in self.regions if region.entry or not region.done]
        self._prune()

    def _prune(self) -> None:
        if not any(region.ready_at is not None and not region.stage2 for region in self.regions):
            self._issued.clear()
            for region in self.regions:
                if region.ready_at is not None:
                    region.ready_at = 0

    # --- steps -------------------------------------------------------------------------------------------------------

    def tlbi(self, event: Event) -> None:
        """Take a TLBI into account."""
        fields = event.fields
        broadcast = fields.get("scope", "broadcast") == "broadcast"
        if event.kind == "tlbi_stage1":
            self._stage1[1] += 1
            self._stage1[0] += broadcast
            return
        if not self.regions:
            return
        (start, end), level = EVERYTHING, NO_HINT
        if event.kind != "tlbi_vmid":
            ipa, hint = fields.get("ipa"), fields.get("level")
            level = hint if isinstance(hint, int) else NO_HINT
            pages = fields.get("pages", 1)
            if not isinstance(ipa, int) or not isinstance(pages, int):
                return
            start = ipa & -self._granule
            end = start + pages * self._granule
        self._issued.append(_Issued(start, end, level, broadcast, event.kind == "tlbi_vmid"))

    def dsb(self, domain: str) -> None:
        """Take a barrier into account: it completes what was issued, and lets what is issued next see the stores."""
        if not self.regions:
            return
        outer, completes = domain in ("ish", "ishst"), domain in ("ish", "nsh")
        unions: dict[tuple[int, int | None, bool], list[tuple[int, int]]] = {}
        for region in self.regions:
            if region.done or not (outer or region.local):
                continue
            if region.ready_at is None:
                region.ready_at = len(self._issued)
            elif not completes:
                continue
            elif not region.stage2:
                region.stage2, region.done = self._covered(region, unions)
                region.stage1_at = self._stage1[region.local]
            elif self._stage1[region.local] > region.stage1_at:
                region.done = True
        if not any(region.entry or not region.done for region in self.regions):
            self.forget_done()

    def _covered(
        self, region: Region, unions: dict[tuple[int, int | None, bool], list[tuple[int, int]]]
    ) -> tuple[bool, bool]:
        """Tell whether the TLBIs since the barrier reach all of a region, and whether one was of both stages."""
        since = region.ready_at or 0
        hint = NO_HINT if region.table is not None else region.level
        key = (since, hint, region.local)
        union = unions.get(key)
        if union is None:
            # A TLBI of any address in a leaf drops the leaf; for a table each page counts by itself.
            grain = self._granule if region.table is not None else self._size[region.level]
            spans = [
                (each.start & -grain, -(-each.end // grain) * grain)
                for each in self._issued[since:]
                if (each.level is NO_HINT or each.level == hint) and (each.broadcast or region.local)
            ]
            union = unions[key] = _joined(spans)
        both = any(each.both_stages for each in self._issued[since:])
        place = bisect_right(union, (region.start, 1 << 65)) - 1
        whole = place >= 0 and union[place][1] >= region.end
        if not whole and region.table is not None and maps_nothing(region.table):
            # Nothing in it: only walk caches hold it, and one address of it, without a hint, is enough.
            whole = any(low < region.end and region.start < high for low, high in union)
        return whole, whole and both

    # --- what is wrong -----------------------------------------------------------------------------------------------

    def missing(self, region: Region) -> str:
        """Say what a region that is not done waits for."""
        what = "table" if region.table is not None else f"level {region.level} leaf"
        span = f"{what}, IPA {region.start:#x}..{region.end:#x}"
        if region.ready_at is None:
            return f"no DSB orders the store before a TLBI ({span})"
        if region.stage2:
            if self._stage1[region.local] == region.stage1_at:
                return f"no TLBI of stage 1 after that of stage 2 ({span})"
            return f"no DSB after the TLBI of stage 1 ({span})"
        issued = [each for each in self._issued[region.ready_at :] if each.broadcast or region.local]
        if not issued:
            return f"no TLBI between the DSB and here ({span})"
        near = [each for each in issued if each.start < region.end and region.start < each.end]
        if not near:
            return f"no TLBI reaches it ({span})"
        hints = {each.level for each in near}
        if hints and NO_HINT not in hints and (region.table is not None or region.level not in hints):
            return f"the TLBI's level hint {sorted(hints, key=str)} is not of what went ({span})"
        if not self._covered(region, {})[0]:
            return f"the TLBIs reach only a part of it ({span})"
        return f"no DSB ISH completes the TLBI ({span})"


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    union: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if union and low <= union[-1][1]:
            union[-1] = (union[-1][0], max(high, union[-1][1]))
        else:
            union.append((low, high))
    return union
