"""What lies behind guest memory on the host: which page, and how large the host maps it.

KVM asks the host's own page table; a trace does not show it. Three things tell most of it: the addresses that recorded
calls used, the pagemap of the next dump, and the notifier ranges (taking back a part of a huge page means that the host
had split it).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

__all__ = ["HostMemory", "Pagemap"]


class Pagemap:
    """Runs of guest pages with contiguous host addresses: ``(ipa, pa, size)`` in bytes."""

    def __init__(self, runs: list[tuple[int, int, int]], page: int) -> None:
        self.runs = sorted(runs)
        self.page = page
        self._starts = [run[0] for run in self.runs]
        # One host page behind several guest pages is the zero page (or a merged one): the host maps it read-only.
        starts = Counter(pa for _, pa, size in self.runs if size == page)
        self._shared = frozenset(pa for pa, count in starts.items() if count > 1)

    def pa(self, ipa: int) -> int | None:
        """Give the host address behind `ipa`, or None."""
        at = bisect_right(self._starts, ipa) - 1
        if at < 0:
            return None
        start, pa, size = self.runs[at]
        return pa + ipa - start if ipa < start + size else None

    def shared(self, pa: int) -> bool:
        """Whether the host page at `pa` lies behind more than one guest page."""
        return pa in self._shared

    def in_line(self, ipa: int, size: int) -> tuple[int, int]:
        """Count, of the `size` bytes around `ipa`, aligned to `size`, those present and those in line with `ipa`.

        A byte is in line if its host address is as far from that of `ipa` as the byte is from `ipa`.
        """
        base = ipa - ipa % size
        pa_at = self.pa(ipa)
        present = same = 0
        index = max(bisect_right(self._starts, base) - 1, 0)
        for start, pa, length in self.runs[index:]:
            if start >= base + size:
                break
            part = min(start + length, base + size) - max(start, base)
            if part > 0:
                present += part
                same += part if pa_at is not None and pa - start == pa_at - ipa else 0
        return present, same


class HostMemory:
    """Host memory as the events of a trace move it on, in the order of time.

    Parameters
    ----------
    page, block : int
        Bytes of a page and of the huge page that the host may use.
    huge : bool
        Whether the host uses huge pages by itself.
    """

    def __init__(self, page: int, block: int, huge: bool) -> None:
        self.page, self.block, self.huge = page, block, huge
        self._known: dict[int, int] = {}  # page IPA -> PA, from calls of one page
        self._blocks: dict[int, int] = {}  # block IPA -> PA, from calls of a block
        self._split: set[int] = set()  # blocks that the host maps by pages
        self._previous: dict[int, int] = {}  # block IPA -> PA before the whole block was taken back

    def mapped(self, ipa: int, size: int, pa: int) -> None:
        """Note that a recorded call mapped `size` bytes of host memory at `pa`."""
        if size < self.block:
            self._known[ipa] = pa
        else:
            for offset in range(0, size, self.block):
                self._blocks[ipa + offset] = pa + offset
                for page in range(0, self.block, self.page):
                    self._known.pop(ipa + offset + page, None)

    def taken_back(self, ipa: int, size: int) -> None:
        """Note that the host took `size` bytes back."""
        end = ipa + size
        whole = range(-(-ipa // self.block) * self.block, end // self.block * self.block, self.block)
        # Of a range as large as the space only what is known matters.
        known = self._blocks.keys() | self._split
        for base in whole if len(whole) <= len(known) else [base for base in known if base in whole]:
            old = self._blocks.pop(base, None)
            self._split.discard(base)
            if old is not None:
                self._previous[base] = old
        for base in {ipa - ipa % self.block, (end - 1) - (end - 1) % self.block} if size else ():
            if base not in whole:
                self._blocks.pop(base, None)
                self._split.add(base)
        if size < self.block:
            for page in range(ipa, end, self.page):
                self._known.pop(page, None)

    def look(self, ipa: int, recorded: int | None, later: Pagemap | None) -> tuple[int | None, int, bool]:
        """Say what lies behind the page at `ipa` now.

        Parameters
        ----------
        ipa : int
            The guest page.
        recorded : int or None
            Its host address where a recorded call tells it.
        later : Pagemap or None
            The pagemap of the next dump.

        Returns
        -------
        pa : int or None
            Its host address, None if nothing tells it.
        size : int
            Bytes that the host maps with one entry there.
        read_only : bool
            The host maps it read-only.
        """
        base = ipa - ipa % self.block
        dumped = later.pa(ipa) if later is not None else None
        pa = recorded
        if pa is None:
            pa = self._known.get(ipa)
        if pa is None and base in self._blocks:
            pa = self._blocks[base] + ipa - base
        if pa is None:
            pa = dumped
        read_only = pa is not None and later is not None and later.shared(pa)
        return pa, self._size(ipa, base, pa, dumped, later), read_only

    def _size(self, ipa: int, base: int, pa: int | None, dumped: int | None, later: Pagemap | None) -> int:
        if not self.huge or base in self._split:
            return self.page
        if pa is None:
            return self.block
        if (pa - ipa) % self.block:
            return self.page
        if self._previous.get(base) == pa - (ipa - base):
            # The whole block went away and the same memory is back: the host only split its mapping of it.
            self._split.add(base)
            return self.page
        if pa == dumped and later is not None:
            # A huge page may have got holes until the dump, but what is left of it is still in line.
            present, same = later.in_line(ipa, self.block)
            return self.block if 2 * same > present and same > self.page else self.page
        return self.block
