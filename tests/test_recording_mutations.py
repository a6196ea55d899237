"""The checker can say no: each necessary step of a good recording, taken out, moved or weakened, is missed.

One thread and every operation, so that each step is there because something needs it. Of steps that are alike (the
store of one of 512 entries that are frozen in a row) a few stand for all. `pytest -s` prints the score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from recordings import SETUPS, every_operation, outputs, renumbered

from s2pt import RecordingError
from s2pt.events import Event
from s2pt.recording import Recording, Snapshot
from s2pt.recording.check import Outputs

# KVM's one TLBI for a whole call covers holes too, and comes after others of the same call: most of it is not needed.
QUICK = ("4K", "KVM")
"""The shapes of every run; the others are for campaigns."""

SHAPES = [name for name in SETUPS if name[:2] in ("4K", "KV") and "deferred" not in name]

# What a recording says without any rule needing it, and why a recording without it is as good.
NOT_NEEDED = {
    "isb": "the guest's next entry is a context synchronisation anyway; the checker reads past it",
    "cache_data": "cache maintenance is no matter of break-before-make",
    "cache_instruction": "the same",
    "free": "the recording may have ended before the grace period did",
    "return": "marks are optional: without one the debt is looked at at the next",
}


class Change(NamedTuple):
    """The steps from `first` to `last`, which is not one of them, become others."""

    first: int
    last: int
    steps: tuple[Event, ...]


Mutant = tuple[str, int, Change]
"""What was done, at which step, and how."""


def drops(trace: Recording) -> Iterator[Mutant]:
    """Each step but those of long runs, left out."""
    for place in some(trace.events):
        yield f"drop {trace.events[place].kind}", place, Change(place, place + 1, ())


def some(events: Sequence[Event]) -> Iterator[int]:
    """Give the places of all steps, but of long runs of stores or TLBIs the first two and the last."""
    run = 0
    for place, event in enumerate(events):
        before, after = events[max(place - 1, 0)].kind, events[min(place + 1, len(events) - 1)].kind
        run = run + 1 if event.kind in ("store", "tlbi_ipa") and before == event.kind == after else 0
        if run <= 1:
            yield place


def changed(trace: Recording, place: int, **fields: object) -> Change:
    event = trace.events[place]
    return Change(place, place + 1, (replace(event, fields={**event.fields, **fields}),))


def moved(trace: Recording, place: int, to: int) -> Change:
    first, last = min(place, to), max(place, to) + 1
    steps = list(trace.events[first:last])
    steps.insert(to - first, steps.pop(place - first))
    return Change(first, last, tuple(steps))


def weakened(trace: Recording) -> Iterator[Mutant]:
    """TLBIs of another level, range or scope, and barriers of another domain."""
    granule = trace.setup.geometry.granule
    for place in some(trace.events):
        event, fields = trace.events[place], trace.events[place].fields
        if event.kind in ("tlbi_ipa", "tlbi_range"):
            level, ipa = fields["level"], fields["ipa"]
            yield "level hint wrong", place, changed(trace, place, level=2 if level == 3 else 3)
            far = ipa ^ 1 << trace.setup.geometry.ipa_bits - 1
            yield "elsewhere", place, changed(trace, place, ipa=far)
            if event.kind == "tlbi_range":
                size = granule if level is None else trace.setup.geometry.size(level)
                pages = fields["pages"] - size // granule
                yield "range short at its end", place, changed(trace, place, pages=max(pages, 0))
                yield "range short at its start", place, changed(trace, place, ipa=ipa + size, pages=max(pages, 0))
        if fields.get("scope") == "broadcast":
            yield "broadcast made local", place, changed(trace, place, scope="local")
        if event.kind == "dsb":
            if fields["domain"] == "ish":
                yield "dsb ish made ishst", place, changed(trace, place, domain="ishst")
                yield "dsb ish made nsh", place, changed(trace, place, domain="nsh")
            elif fields["domain"] == "ishst":
                yield "dsb ishst made nshst", place, changed(trace, place, domain="nshst")
            elif fields["domain"] == "nsh":
                yield "dsb nsh made nshst", place, changed(trace, place, domain="nshst")
        if event.kind == "store" and fields["old"] & 1 and not fields["new"] & 1 and fields["new"] == 0x400:
            yield "emptied in place of locked", place, changed(trace, place, new=0)
        if event.kind == "store" and fields["old"] == 0x400 and fields["new"] & 1:
            yield "another output", place, changed(trace, place, new=fields["new"] ^ 1 << 46)
        if event.kind == "retire":
            yield "retired as of another level", place, changed(trace, place, level=fields["level"] - 1)
        if event.kind in ("free", "retire", "allocate"):
            yield f"{event.kind} twice", place, Change(place, place + 1, (event, event))


def reordered(trace: Recording) -> Iterator[Mutant]:
    """Put steps into another order: TLBI and make, DSB and TLBI, retire and make, free and what must come before."""
    events = trace.events
    for place, event in enumerate(events):
        if event.kind == "store" and event.fields["old"] == 0x400:
            back = place - 1
            while events[back].kind in ("isb", "cache_data", "cache_instruction") and back:
                back -= 1
            if events[back].kind == "dsb":
                yield "make before the last dsb", place, moved(trace, place, back)
                first = next(p for p in range(back, -1, -1) if events[p].kind == "store")
                yield "make before the tlbi", place, moved(trace, place, first + 1)
                if not events[first].fields["new"] & 1:
                    yield "break after the tlbi", place, moved(trace, first, place - 1)
        if event.kind == "retire":
            make = next(p for p in range(place, -1, -1) if events[p].kind == "store")
            yield "retire before the make", place, moved(trace, place, make)
        if event.kind == "free":
            same = [
                p
                for p in range(place)
                if events[p].kind in ("retire", "allocate") and events[p].fields["frame"] == event.fields["frame"]
            ]
            retire = same[-1] if same and events[same[-1]].kind == "retire" else None
            if retire is not None:
                yield "free before the retire", place, moved(trace, place, retire)
                tlbi = next(p for p in range(retire, -1, -1) if events[p].kind.startswith("tlbi"))
                yield "free before the tlbi", place, moved(trace, place, tlbi)
        if event.kind == "allocate" and place:
            frame, address = event.fields["frame"], trace.setup.address
            links = (
                p
                for p in range(place, len(events))
                if events[p].kind == "store"
                and events[p].fields["new"] & 3 == 3
                and address(events[p].fields["new"]) == frame
            )
            link = next(links, None)
            if link is not None:
                yield "taken after it was linked", place, moved(trace, place, link)
        if event.kind == "dsb" and events[place + 1].kind.startswith("tlbi"):
            yield "dsb after the tlbi", place, moved(trace, place, place + 1)
        if event.kind == "publish":
            yield "published before it is there", place, moved(trace, place, _before_make(events, place))


def _before_make(events: tuple[Event, ...], place: int) -> int:
    at = place
    while at and events[at].kind != "return":
        at -= 1
    return at + 1 if at else at


def is_equivalent(trace: Recording, name: str, place: int) -> str | None:
    """Why a mutant that was not refused is as good a recording as the first; None if it is not."""
    events, event = trace.events, trace.events[place]
    if name.startswith("drop ") and name[5:] in NOT_NEEDED:
        return NOT_NEEDED[name[5:]]
    if name == "drop fill":
        return "says what stands in a table, and nothing there was touched after"
    if name == "drop publish" and not _appeared(events, place):
        return "nothing became valid since the last barrier: the operation publishes at its end in any case"
    if name == "published before it is there" and not _appeared(events, place):
        return "the same"
    if name in ("drop publish", "published before it is there") and _barrier_follows(events, place):
        return "a DSB ISHST of the same call follows, which publishes too"
    if name.startswith(("drop dsb", "drop tlbi", "level hint", "elsewhere", "range short", "broadcast", "dsb ")):
        changes = _changes(trace, place)
        if not changes & {"broken", "lost", "gained"}:
            return "nothing was changed that must be invalidated: ageing, flush_tlb, what KVM issues in any case"
        part = event.kind == "tlbi_ipa" and "tlbi_ipa" in (events[place - 1].kind, events[place + 1].kind)
        part = part or (name == "dsb after the tlbi" and events[place + 2].kind == "tlbi_ipa")
        if (part or name.startswith("range short")) and _of_empty_table(trace, place):
            return "the table that goes is empty: only walk caches hold it, and one address reaches them"
        if part and event.kind == "tlbi_ipa" and not _of_page(trace, place):
            return "the page is one of a span, and did not change"
        if name == "broadcast made local" and event.kind == "tlbi_ipa" and _gained_alone(trace, place):
            return "this page gained rights alone, and this CPU is enough"
        here = name in ("broadcast made local", "dsb ish made nsh", "dsb ishst made nshst")
        if here and not changes & {"broken", "lost"}:
            return "rights were gained alone, and this CPU is enough"
        if name in ("drop dsb", "dsb ishst made nshst", "dsb after the tlbi") and events[place - 1].kind == "publish":
            return "the publish before it is a DSB ISHST too"
    return None


def _of_page(trace: Recording, place: int) -> list[Mapping[str, Any]]:
    """Give the call's stores to the entry of the page that a TLBI names, or to one at its place in another table."""
    events, entries = trace.events, trace.setup.entries
    index = events[place].fields["ipa"] // trace.setup.geometry.size(events[place].fields["level"] or 3) % entries
    stores = [event.fields for event in events[_call(events, place)[0] : place] if event.kind == "store"]
    return [fields for fields in stores if fields["entry"] // 8 % entries == index]


def _gained_alone(trace: Recording, place: int) -> bool:
    """Whether the call gave this page rights, and took nothing from it."""
    rights = trace.setup.rights
    return all(
        fields["new"] & 1 and rights(fields["old"]) <= rights(fields["new"]) for fields in _of_page(trace, place)
    )


def _of_empty_table(trace: Recording, place: int) -> bool:
    """Whether the TLBI is for a table of which nothing was valid when it was frozen."""
    while trace.events[place - 1].kind in ("tlbi_ipa", "dsb"):
        place -= 1
    before = [
        event.fields for event in trace.events[max(0, place - trace.setup.entries - 1) : place] if event.kind == "store"
    ]
    frozen = [fields["new"] for fields in before if fields["new"] >> 63]
    return len(frozen) >= trace.setup.entries and not any(new >> 62 & 1 for new in frozen)


def _call(events: tuple[Event, ...], place: int) -> tuple[int, int]:
    """Find the first and the last step of the call that a step belongs to."""
    first = place
    while first and events[first - 1].kind != "return":
        first -= 1
    last = place
    while last + 1 < len(events) and events[last].kind != "return":
        last += 1
    return first, last


class Judge:
    """Looks at mutants: first at the calls that a change lies in alone, which is quick, then at all from there on."""

    def __init__(self, trace: Recording, allowed: Outputs) -> None:
        self.trace, self.allowed = trace, allowed
        self.ends = [place + 1 for place, event in enumerate(trace.events) if event.kind == "return"]
        self.starts: dict[int, Snapshot | None] = {0: None}
        start = None
        for first, last in zip([0, *self.ends], self.ends, strict=False):
            part = renumbered(trace, trace.events[first:last])
            start = self.starts[last] = part.check(start=start, outputs=allowed).raise_if_bad().end

    def refuses(self, change: Change, whole: bool) -> bool:
        events = self.trace.events
        first = max(end for end in self.starts if end <= change.first)
        after = [end for end in self.ends if end >= change.last]
        lasts = [*after[:1], len(events)] if whole or not after else after[:1]
        for last in dict.fromkeys(lasts):
            mutant = [*events[first : change.first], *change.steps, *events[change.last : last]]
            try:
                report = renumbered(self.trace, mutant).check(start=self.starts[first], outputs=self.allowed)
            except RecordingError:
                return True
            if not report.ok:
                return True
        return False


def _appeared(events: tuple[Event, ...], place: int) -> bool:
    first, _ = _call(events, place)
    for event in reversed(events[first:place]):
        if (event.kind == "dsb" and event.fields["domain"] in ("ish", "ishst")) or event.kind == "publish":
            return False
        if event.kind == "store" and event.fields["new"] & 1 and not event.fields["old"] & 1:
            return not event.fields["old"] >> 63
    return False


def _barrier_follows(events: tuple[Event, ...], place: int) -> bool:
    _, last = _call(events, place)
    return any(
        event.kind == "publish" or (event.kind == "dsb" and event.fields["domain"] in ("ish", "ishst"))
        for event in events[place + 1 : last + 1]
    )


def _changes(trace: Recording, place: int) -> set[str]:
    """Say what the call changed before this step: entries broken, rights lost, rights gained."""
    first, _ = _call(trace.events, place)
    found = set()
    for event in trace.events[first:place]:
        old, new = event.fields.get("old", 0), event.fields.get("new", 0)
        if event.kind == "store" and old & 1:
            before, now = trace.setup.rights(old), trace.setup.rights(new)
            if not new & 1:
                found.add("broken")
            elif not before <= now:
                lax = trace.setup.semantics == "kvm" and before - now == {"w"}
                found.add("left to the caller" if lax else "lost")
            elif before < now:
                found.add("gained")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.campaign) for name in SHAPES]
)
@pytest.mark.parametrize("kind", [drops, weakened, reordered], ids=lambda kind: kind.__name__)
def test_every_mutant_is_refused(name, kind):
    trace = every_operation(**SETUPS[name])
    judge = Judge(trace, outputs(trace))
    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    excused: Counter[str] = Counter()
    survivors = []
    for what, place, change in kind(trace):
        made[what] += 1
        reason = is_equivalent(trace, what, place)
        if judge.refuses(change, whole=reason is None):
            refused[what] += 1
        elif reason is None:
            survivors.append((what, place, trace.events[place]))
        else:
            excused[f"{what}: {reason}"] += 1
    print(f"\n{name}: {refused.total()} of {made.total()} mutants refused, {excused.total()} as good as the original")
    for what in made:
        print(f"  {refused[what]:>4} of {made[what]:<4} {what}")
    for reason, count in excused.items():
        print(f"  {count:>4} {reason}")
    assert not survivors, survivors[:10]
    assert refused
