"""The order in which recorded steps took place.

A step's number is drawn when the sink hears of it. For almost all of them that is the moment itself. A
compare-exchange is heard of just after it was done, a make or a thaw just before; between that and its number other
threads may have taken steps. So each step has an interval in which it happened: an exchange between its thread's
step before and its number, a make between its number and its thread's next step. Within the intervals the values
decide: the stores to one entry form a chain in which each finds what the one before left. If there is an order of
all steps that keeps the intervals and the chains, the recording is checked in that order; if there is none, it
cannot have happened.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from s2pt.events import Event
from s2pt.recording.setup import LOCKED, VALID, Setup, is_frozen

__all__ = ["Arranged", "arrange"]

NEVER = 1 << 63


class Arranged:
    """Steps in the order in which they happened."""

    def __init__(self, events: list[Event], moved: int, broken: list[tuple[int, int, str]], chains: int) -> None:
        self.events = events
        self.moved = moved
        self.broken = broken  # (sequence number, entry, what does not fit)
        self.chains = chains  # stores that were looked at


def is_told_before(event: Event) -> bool:
    """Tell whether a step is heard of before it is done: the holder of an entry makes or thaws it."""
    old = _number(event, "old")
    return event.kind == "store" and (old == LOCKED or is_frozen(old))


def arrange(events: Sequence[Event], setup: Setup, first_value: Callable[[int], int] | None = None) -> Arranged:
    """Put the steps of a recording in order.

    Parameters
    ----------
    events : sequence of Event
        By number.
    setup : Setup
        The table.
    first_value : callable, optional
        What an entry held when the recording began, for frames that were out already.
    """
    if len({event.thread for event in events}) <= 1:
        # There is no other order than the thread's own; whether each store finds what is there, the checker sees.
        return Arranged(list(events), 0, [], sum(event.kind == "store" for event in events))
    before, after = _neighbours(events)
    lives = _Lives(events, setup)
    chains: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        if event.kind == "store":
            entry = _number(event, "entry")
            life = lives.of(entry, place)
            if life is not None:
                chains[life, entry].append(place)
    earlier: dict[int, list[int]] = defaultdict(list)
    broken: list[tuple[int, int, str]] = []
    for (life, entry), places in chains.items():
        value = first_value(entry) if life < 0 and first_value is not None else lives.filled(life, entry)
        order = _chain(events, places, value, before)
        if order is None:
            broken.append((events[places[0]].sequence, entry, "the stores to it do not follow from one another"))
        elif order != places:
            for one, other in itertools.pairwise(order):
                earlier[other].append(one)
    # Who writes in a table came there by its link, though the exchange that linked it may be numbered later.
    for (life, _), places in chains.items():
        link = lives.link(life)
        if link is not None:
            for place in places:
                if place < link and events[place].thread != events[link].thread:
                    earlier[place].append(link)
    order, circle = _pull(len(events), before, earlier)
    arranged = [events[place] for place in order]
    if circle is not None:
        broken.append((events[circle].sequence, _number(events[circle], "entry"), "no order of the stores exists"))
    late = _late(events, order, before, after)
    if late is not None:
        broken.append((events[late].sequence, _number(events[late], "entry"), "it must have happened after its number"))
    moved, highest = 0, -1
    for place in order:
        moved += place < highest
        highest = max(highest, place)
    return Arranged(arranged, moved, broken, sum(map(len, chains.values())))


def _number(event: Event, name: str) -> int:
    value = event.fields.get(name)
    return value if isinstance(value, int) else -1


def _neighbours(events: Sequence[Event]) -> tuple[list[int], list[int]]:
    """Give for each step the places of the same thread's step before and after; -1 and the number of steps for none."""
    before, after = [-1] * len(events), [len(events)] * len(events)
    last: dict[int, int] = {}
    for place, event in enumerate(events):
        one = last.get(event.thread)
        if one is not None:
            before[place], after[one] = one, place
        last[event.thread] = place
    return before, after


class _Lives:
    """Which life of its frame an entry belongs to, and what the life began with."""

    def __init__(self, events: Sequence[Event], setup: Setup) -> None:
        self._setup = setup
        self._taken: dict[int, list[int]] = defaultdict(list)  # places, by frame
        self._fills: dict[int, list[Event]] = defaultdict(list)  # by life: the place of its Allocate
        self._links: dict[int, int] = {}
        private: dict[int, dict[int, int]] = defaultdict(dict)  # by thread: its unlinked frames and their lives
        for place, event in enumerate(events):
            if event.kind == "allocate":
                frame = _number(event, "frame")
                self._taken[frame].append(place)
                if frame != setup.root:
                    private[event.thread][frame] = place
            elif event.kind == "fill":
                life = self.of(_number(event, "entry"), place)
                if life is not None:
                    self._fills[life].append(event)
            elif event.kind == "store" and private[event.thread]:
                old, new = _number(event, "old"), _number(event, "new")
                linked = private[event.thread].get(setup.address(new)) if new & 3 == 3 and not old & VALID else None
                if linked is not None and old != LOCKED:
                    # All that the thread has built hangs below.
                    self._links.update(dict.fromkeys(private[event.thread].values(), place))
                if new != LOCKED:
                    private[event.thread].clear()
            elif event.kind == "free":
                private[event.thread].pop(_number(event, "frame"), None)

    def of(self, entry: int, place: int) -> int | None:
        """Give the life of a frame at some step: the place of its Allocate, or -1 for one that began before."""
        setup = self._setup
        granule = setup.geometry.granule
        frame = entry & -granule
        if 0 <= frame - setup.root < setup.geometry.root_frames * granule:
            frame = setup.root
        taken = self._taken.get(frame, [])
        index = bisect_right(taken, place)
        return taken[index - 1] if index else -1

    def filled(self, life: int, entry: int) -> int:
        """Give what an entry held when its table was linked."""
        value = 0
        for fill in self._fills.get(life, ()):
            index = (entry - _number(fill, "entry")) // 8
            if 0 <= index < _number(fill, "count"):
                value = (_number(fill, "first") + index * _number(fill, "step")) % (1 << 64)
        return value

    def link(self, life: int) -> int | None:
        """Give the exchange that linked the table, if it was one."""
        return self._links.get(life)


def _chain(events: Sequence[Event], places: list[int], value: int, before: list[int]) -> list[int] | None:
    """Order the stores to one entry so that each finds what the one before left; None if that cannot be."""
    now = value
    for place in places:
        if _number(events[place], "old") != now:
            break
        now = _number(events[place], "new")
    else:
        return places
    if len({events[place].thread for place in places}) == 1:
        return None
    # Depth first, the lowest number first. What may come next: a store that finds the present value, and began
    # before any other that is still to come was over. States are few, as only stores whose intervals overlap can
    # change places.
    over = [place if not is_told_before(events[place]) else NEVER for place in places]
    began = [place if is_told_before(events[place]) else before[place] for place in places]
    chosen: list[int] = []
    used = [False] * len(places)
    dead: set[tuple[int, tuple[int, ...]]] = set()

    def choices() -> list[int]:
        now = _number(events[places[chosen[-1]]], "new") if chosen else value
        found: list[int] = []
        earliest = NEVER
        for each in range(low, len(places)):
            if used[each]:
                continue
            if _number(events[places[each]], "old") == now and began[each] < earliest:
                found.append(each)
            earliest = min(earliest, over[each])
        return found

    low = 0
    stack = [iter(choices())]
    while True:
        state = (low, tuple(each for each in range(low, max(chosen, default=-1) + 1) if used[each]))
        step = None if state in dead else next(stack[-1], None)
        if step is None:
            dead.add(state)
            stack.pop()
            if not chosen:
                return None
            used[chosen.pop()] = False
            low = next((each for each, taken in enumerate(used) if not taken), len(places))
            continue
        chosen.append(step)
        used[step] = True
        while low < len(places) and used[low]:
            low += 1
        if len(chosen) == len(places):
            return [places[each] for each in chosen]
        stack.append(iter(choices()))


def _pull(count: int, before: list[int], earlier: dict[int, list[int]]) -> tuple[list[int], int | None]:
    """Go by number, but before a step take those that must come before it. Also gives a step of a circle."""
    order: list[int] = []
    done, open_ = bytearray(count), bytearray(count)
    circle = None
    for place in range(count):
        if done[place]:
            continue
        todo = [place]
        while todo:
            now = todo[-1]
            if done[now]:
                todo.pop()
                continue
            waiting = [each for each in _needs(now, before, earlier) if not done[each]] if not open_[now] else []
            open_[now] = 1
            if any(open_[each] for each in waiting):
                circle = now if circle is None else circle
                waiting = [each for each in waiting if not open_[each]]
            if waiting:
                todo.extend(waiting)
                continue
            done[now] = 1
            order.append(now)
            todo.pop()
    return order, circle


def _needs(place: int, before: list[int], earlier: dict[int, list[int]]) -> Iterable[int]:
    if before[place] >= 0:
        yield before[place]
    yield from earlier.get(place, ())


def _late(events: Sequence[Event], order: list[int], before: list[int], after: list[int]) -> int | None:
    """Give a step that this order puts behind the end of its interval."""
    time = -1
    for place in order:
        if events[place].kind != "store":
            time, end = max(time, place), place
        elif is_told_before(events[place]):
            time, end = max(time, place), after[place]
        else:
            time, end = max(time, before[place]), place
        if time > end:
            return place
    return None
