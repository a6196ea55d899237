"""Whether the maintenance of an operation does what KVM's does.

KVM's trace is a list of runs ``[op, level, addr, size, n, stride]``; ours are events as the table's sink hears them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

__all__ = ["Event", "breaks_without_tlbi", "compare"]

NO_HINT: Final = 0x7FFFFFFF
_LOCKED: Final = 0x400
_RANGE: Final = -34
# Pages of one range invalidation at most; KVM asks for larger ones in pieces.
_MOST_PAGES: Final = 1 << 21


class Event(NamedTuple):
    """What a sink was told."""

    kind: str
    fields: Mapping[str, Any]

    @property
    def invalidates(self) -> bool:
        """Whether it invalidates translations of stage 2."""
        return self.kind in ("tlbi_ipa", "tlbi_range", "tlbi_vmid")

    @property
    def local(self) -> bool:
        """Whether other CPUs have no part in it."""
        return self.fields.get("scope") == "local"


@dataclass(frozen=True, slots=True)
class _Span:
    """What one of our invalidations takes out."""

    start: int
    end: int
    hint: int | None
    local: bool

    def covers(self, start: int, end: int, level: int | None, local: bool) -> bool:
        """Whether it takes out a leaf at `level` (None: anything) that a CPU may have for part of ``start..end``."""
        scope = local or not self.local
        return scope and self.hint in (None, level) and self.start <= start and end <= self.end


def compare(case_shift: int, kvm: Mapping[str, Any], ours: Iterable[Event], *, strict: bool) -> Iterator[str]:
    """Say in words what is wrong with our maintenance."""
    events = list(ours)
    tlbis = [event for event in events if event.invalidates]
    caches = [event for event in events if event.kind.startswith("cache_")]
    if strict:
        wanted, found = list(_kvm_tlbis(case_shift, kvm["tlbi"])), list(_our_tlbis(case_shift, tlbis))
        if wanted != found:
            yield f"TLBIs {_short(found)}, KVM's {_short(wanted)}"
        for kind, name in (("dc", "cache_data"), ("ic", "cache_instruction")):
            mine = [(event.fields["pa"], event.fields["size"]) for event in caches if event.kind == name]
            theirs = [(addr, size) for _, addr, size in _expand(kvm["cmo"], kind)]
            if mine != theirs:
                yield f"{kind} {_short(mine)}, KVM's {_short(theirs)}"
        return
    # A walk that was refused has broken nothing, though KVM's unmap invalidates behind it.
    yield from _tlbis(case_shift, kvm["tlbi"], tlbis, needed=kvm["r"] != _RANGE)
    yield from _caches(kvm["cmo"], caches)


def breaks_without_tlbi(events: Iterable[Event]) -> list[str]:
    """Entries that were made again with their old translation never invalidated since the break."""
    wrong = []
    broken: dict[int, bool] = {}
    for event in events:
        if event.invalidates and not event.local:
            broken = dict.fromkeys(broken, True)
        elif event.kind == "store":
            entry, old, new = (event.fields[name] for name in ("entry", "old", "new"))
            if new == _LOCKED and old & 1:
                broken[entry] = False
            elif old == _LOCKED and not broken.pop(entry, True):
                wrong.append(f"entry at {entry:#x} was made {new:#x} before its TLBI")
    return wrong


def _expand(runs: Iterable[list[Any]], *kinds: str) -> Iterator[tuple[int, int, int]]:
    """Level, address and size of each event of the given kinds."""
    for kind, level, addr, size, n, stride in runs:
        if kind in kinds:
            for i in range(n):
                yield level, addr + i * stride, size


def _pages(shift: int, addr: int, size: int) -> tuple[int, int]:
    """Find the bytes that a range invalidation of KVM's means: whole pages of the size, from the address's page."""
    start = addr >> shift << shift
    return start, start + (size >> shift << shift)


def _span(shift: int, event: Event) -> _Span:
    if event.kind == "tlbi_vmid":
        return _Span(0, 1 << 64, None, False)
    fields = event.fields
    start = fields["ipa"] >> shift << shift
    # By address: the entry that translates it, which is as large as the caller says where it compares.
    size = fields["pages"] << shift if event.kind == "tlbi_range" else 1 << shift
    return _Span(start, start + size, fields["level"], event.local)


def _tlbis(shift: int, kvm: list[list[Any]], ours: list[Event], *, needed: bool) -> Iterator[str]:
    spans = [_span(shift, event) for event in ours]
    # Single ones by the entry that they name, so that long runs are compared in one pass.
    singles = {(s.start, s.hint, s.local) for s, event in zip(spans, ours, strict=True) if event.kind == "tlbi_ipa"}
    wide = [s for s, event in zip(spans, ours, strict=True) if event.kind != "tlbi_ipa"]
    leaves = {(_base(shift, start, hint), hint, local) for start, hint, local in singles if hint is not None}
    unhinted = {(start, local) for start, hint, local in singles if hint is None}
    count = 0
    for kind, level, addr, size, n, stride in kvm:
        for i in range(n):
            count += 1
            where, local = addr + i * stride, kind == "ipa_nsh"
            if kind == "vmid":
                covered = any(s.hint is None and not s.local for s in wide)
            elif kind == "range":
                start, end = _pages(shift, where, size)
                covered = start == end or any(s.covers(start, end, None, False) for s in wide)
            else:
                hint = None if level == NO_HINT else level
                page = where >> shift << shift
                scopes = (False, True) if local else (False,)
                covered = any((page, scope) in unhinted for scope in scopes) or any(
                    s.covers(page, page + (1 << shift), hint, local) for s in wide
                )
                if not covered and hint is not None:
                    base = _base(shift, page, hint)
                    covered = any((base, hint, scope) in leaves for scope in scopes)
            if needed and not covered:
                what = f"{kind} {where:#x} size {size:#x} level {_level(level)}"
                yield f"no TLBI covers KVM's {what}; ours {_short(ours)}"
                return
    if len(ours) > count:
        yield f"{len(ours)} TLBIs {_short(ours)}, KVM needs {count}"


def _base(shift: int, addr: int, level: int) -> int:
    bits = (shift - 3) * (4 - level) + 3
    return addr >> bits << bits


def _level(level: int) -> str:
    return "-" if level == NO_HINT else str(level)


def _caches(kvm: list[list[Any]], ours: list[Event]) -> Iterator[str]:
    for kind, name in (("dc", "cache_data"), ("ic", "cache_instruction")):
        mine = [(event.fields["pa"], event.fields["pa"] + event.fields["size"]) for event in ours if event.kind == name]
        wanted = [(addr, addr + size) for _, addr, size in _expand(kvm, kind)]
        if len(mine) > len(wanted):
            yield f"{len(mine)} {kind} operations, KVM needs {len(wanted)}"
        merged = _merge(mine)
        for start, end in _merge(wanted):
            if start < end and not any(a <= start and end <= b for a, b in merged):
                yield f"no {kind} covers {start:#x}..{end:#x}"
                break


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _kvm_tlbis(shift: int, runs: list[list[Any]]) -> Iterator[tuple[Any, ...]]:
    for kind, level, addr, size, n, stride in runs:
        for i in range(n):
            where = addr + i * stride
            if kind == "vmid":
                yield ("vmid",)
            elif kind == "range":
                start, end = _pages(shift, where, size)
                yield ("range", start, end - start)
            else:
                yield kind, where >> shift << shift, _level(level)


def _our_tlbis(shift: int, events: Iterable[Event]) -> Iterator[tuple[Any, ...]]:
    for event in events:
        fields = event.fields
        if event.kind == "tlbi_vmid":
            yield ("vmid",)
        elif event.kind == "tlbi_range":
            most = _MOST_PAGES
            for done in range(0, fields["pages"], most):
                yield "range", fields["ipa"] + (done << shift), min(most, fields["pages"] - done) << shift
        else:
            level = fields["level"]
            kind = "ipa_nsh" if event.local else "ipa"
            yield kind, fields["ipa"] >> shift << shift, "-" if level is None else str(level)


def _short(things: Iterable[Any]) -> str:
    listed = list(things)
    shown = ", ".join(_show(thing) for thing in listed[:4])
    return f"[{shown}{', ...' if len(listed) > 4 else ''}]"


def _show(thing: Any) -> str:
    if isinstance(thing, Event):
        parts = [f"{name}={value:#x}" if name == "ipa" else f"{name}={value}" for name, value in thing.fields.items()]
        return " ".join([thing.kind, *parts])
    return " ".join(hex(part) if isinstance(part, int) else part for part in thing)
